"""Text made safe to show, and a recipe in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunecli.errors import shown

__all__ = ["choice_in_words", "describe", "differences", "shown"]


def differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:  # Any: a recipe's values
    """Where recipes differ: dotted paths, each with every recipe's value in words, `-` where it has none.

    Where other functions are chosen, or lists are of other stages, that is one difference: what lies inside is
    not listed beside it.
    """
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    pairs = [pair for key in keys for pair in _differ(key, [recipe.get(key) for recipe in recipes])]
    return dict(pairs)


def describe(recipe: Mapping[str, Any]) -> str:  # Any: a recipe's values
    """`lenet_300_100 on digits: train, 16 x (prune by magnitude, rewind, train)`."""
    parts = [" on ".join(choice_in_words(recipe[key]) for key in ("model", "data") if key in recipe)]
    if recipe.get("labels", "clean") != "clean":
        parts.append(f"labels {choice_in_words(recipe['labels'])}")
    if recipe.get("inputs", "clean") != "clean":
        parts.append(f"inputs {choice_in_words(recipe['inputs'])}")
    if recipe.get("examples", "all") != "all":
        parts.append(f"examples {choice_in_words(recipe['examples'])}")
    what = ", ".join(part for part in parts if part)
    return f"{what}: {_stages(recipe['procedure'])}" if recipe.get("procedure") else what


def choice_in_words(value: Any) -> str:  # Any: a recipe's value
    """`gaussian (std 1)`: a chosen function and its options."""
    name, options = _chosen(value)
    given = [f"{key} {_option(item)}" for key, item in dict(options or {}).items() if item is not None]
    return f"{name} ({', '.join(given)})" if given else name


def _differ(path: str, values: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:  # Any: a recipe's values
    if all(value == values[0] for value in values):
        return
    inside = _inside(values)
    if inside is None:
        yield path, [_in_words(path, value) for value in values]
        return
    for name in dict.fromkeys(name for one in inside for name in one):
        yield from _differ(f"{path}.{name}", [one.get(name) for one in inside])


def _inside(values: Sequence[Any]) -> list[dict[str, Any]] | None:  # Any: a recipe's values
    """What the values hold by name, where all are the same choice, or lists of the same choices; else None."""
    if all(isinstance(value, list) for value in values):
        names = {tuple(_chosen(item)[0] for item in value) for value in values}
        return (
            [{str(n): item for n, item in enumerate(value)} for value in values] if len(names) == 1 else None
        )
    chosen = [_chosen(value) for value in values]
    if len({name for name, _ in chosen}) == 1 and any(options is not None for _, options in chosen):
        return [dict(options or {}) for _, options in chosen]
    if all(isinstance(value, Mapping) and len(value) > 1 for value in values):
        return [dict(value) for value in values]
    return None


def _in_words(path: str, value: Any) -> str:  # Any: a recipe's value
    if value is None:
        return "-"
    if isinstance(value, list):
        return (
            _stages(value)
            if path == "procedure"
            else f"[{', '.join(choice_in_words(item) for item in value)}]"
        )
    return choice_in_words(value) if isinstance(value, (str, Mapping)) else json.dumps(value, default=str)


def _option(value: Any) -> str:  # Any: a recipe's value
    if isinstance(value, list):
        return f"[{', '.join(_option(item) for item in value)}]"
    # A digest tells two things apart with its beginning alone.
    return (
        choice_in_words(value)
        if isinstance(value, Mapping)
        else re.sub("^([0-9a-f]{8})[0-9a-f]{56}$", r"\1…", str(value))
    )


def _stages(stages: Sequence[Any]) -> str:  # Any: a recipe's values
    words = []
    for stage in stages:
        name, options = _chosen(stage)
        match options:
            case {"times": times, "stages": [*inner]}:
                words.append(f"{times} x ({_stages(inner)})")
            case {"criterion": criterion}:
                inverted = "inverted " if options.get("invert") is True else ""
                scope = _chosen(options.get("scope", "global"))[0]
                where = "" if scope == "global" else f" in scope {scope}"
                words.append(f"{name} by {inverted}{choice_in_words(criterion)}{where}")
            case _:
                words.append(name)
    return ", ".join(words)


def _chosen(value: Any) -> tuple[str, Any]:  # Any: a recipe's value, and a chosen function's options
    """The name in `name` or `{name: options}`, and the options; None where there are none."""
    if isinstance(value, Mapping) and len(value) == 1:
        [(name, options)] = value.items()
        return str(name), options
    return str(value), None
