"""Models from a user's own code; the command line asks for `--allow-code` before it comes here."""

from __future__ import annotations

import importlib
import operator

from torch import nn

from prunecli.errors import UsageError, suggest
from prunecli.registry import models
from prunecli.task import Task


@models(name="python:", code=True)
def python_model(path: str, task: Task) -> nn.Module:
    """What `function(task)` returns, for `python:pkg.module:function`."""
    function = _load(path)
    if not callable(function):
        raise UsageError(f"python:{path} is {_described(function)}, not a function of the task")
    try:
        model = function(task)
    except Exception as error:  # whatever the user's code raises is theirs to mend
        raise UsageError(f"python:{path} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"python:{path} returned {_described(model)}, not a torch.nn.Module")
    return model


def _load(path: str) -> object:
    module_name, colon, attribute = path.partition(":")
    if not all((module_name, colon, attribute)) or module_name.startswith("."):
        raise UsageError(f"'python:{path}' does not name a function; write 'python:pkg.module:function'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises is theirs to mend
        raise UsageError(f"python:{path} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        found: object = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        known = [name for name in vars(module) if not name.startswith("_")]
        raise UsageError(f"module {module_name} has no '{attribute}'{suggest(attribute, known)}") from error
    return found


def _described(value: object) -> str:
    return f"of type {type(value).__qualname__}"
