"""A user's own functions, `python:pkg.module:function`; nothing here runs without `--allow-code`."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunecli.errors import PrunecliError, UsageError, suggest

PREFIX = "python:"


def load(name: str) -> Callable[..., Any]:
    """The function that a name stands for; what it raises becomes an error that names it.

    Raises:
        UsageError: there is no such function.
    """
    found = _found(name)
    if not callable(found) or inspect.isclass(found):
        raise UsageError(f"{name} is {_kind(found)}, not a function")

    @functools.wraps(found)
    def guarded(*args: Any, **options: Any) -> Any:  # Any: whatever the user's function takes
        try:
            return found(*args, **options)
        except PrunecliError:
            raise
        except Exception as error:  # whatever the user's code raises is theirs to mend
            raise UsageError(f"{name} raised {type(error).__name__}: {error}") from error

    return guarded


def source_digest(name: str) -> str:
    """SHA-256 of the file that the function is in: other code gives other results."""
    file = inspect.getsourcefile(inspect.unwrap(load(name)))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _found(name: str) -> object:
    module_name, colon, attribute = name.removeprefix(PREFIX).partition(":")
    if not all((module_name, colon, attribute)) or module_name.startswith("."):
        raise UsageError(f"'{name}' does not name a function; write 'python:pkg.module:function'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises is theirs to mend
        raise UsageError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        found: object = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        known = [known for known in vars(module) if not known.startswith("_")]
        raise UsageError(f"module {module_name} has no '{attribute}'{suggest(attribute, known)}") from error
    return found


def _kind(value: object) -> str:
    return "a class" if inspect.isclass(value) else f"of type {type(value).__qualname__}"
