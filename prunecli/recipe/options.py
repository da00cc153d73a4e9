"""A signature is a schema: pydantic models made from keyword-only parameters."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, create_model

from prunecli.registry import Among, options_of

_STRICT = ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
)


@dataclass(frozen=True)
class Schema:
    """A callable's keyword-only parameters, and the strict pydantic model with a field for each."""

    parameters: Mapping[str, inspect.Parameter]
    model: type[BaseModel]


@cache
def schema_of(function: Callable[..., Any]) -> Schema:
    """The schema of a registered function's options, or of a dataclass's fields."""
    parameters = options_of(function)
    definitions: dict[str, Any] = {  # Any: pydantic's field definitions
        p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters.values()
    }
    return Schema(parameters, create_model(function.__name__, __config__=_STRICT, **definitions))


def among(annotation: Any) -> Among | None:  # Any: a type
    """The mark of an option that is one choice, `Choice | None` included; None for any other option."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return next((mark for mark in annotation.__metadata__ if isinstance(mark, Among)), None)
    if origin in (typing.Union, types.UnionType):
        return next(filter(None, map(among, get_args(annotation))), None)
    return None


def among_items(annotation: Any) -> Among | None:  # Any: a type
    """The mark of an option that is a list of choices; None for any other option."""
    if get_origin(annotation) is Annotated:
        return among_items(get_args(annotation)[0])
    return among(get_args(annotation)[0]) if get_origin(annotation) is list else None


def optional(annotation: Any) -> bool:  # Any: a type
    """Whether None is a value of the option."""
    return type(None) in get_args(annotation)
