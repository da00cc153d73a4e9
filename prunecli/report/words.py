"""Text made safe to show, and a recipe in words."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# Unicode's categories: control, format, surrogate, line separator, paragraph separator.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def shown(text: str) -> str:
    """Foreign text with its control, bidi, zero-width and lone surrogate characters escaped."""
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSHOWN else c for c in text)


def flatten(recipe: Mapping[str, Any]) -> dict[str, str]:  # Any: a recipe's values
    """A resolved recipe's dotted paths and values; as in overrides, a path skips the chosen name."""
    return {path: value for name, item in recipe.items() for path, value in _flat(name, item)}


def describe(recipe: Mapping[str, Any]) -> str:  # Any: a recipe's values
    """`lenet_300_100 on digits: train, 16 x (prune by magnitude, rewind, train)`."""
    parts = [" on ".join(_choice(recipe[key]) for key in ("model", "data") if key in recipe)]
    if recipe.get("labels", "clean") != "clean":
        parts.append(f"labels {_choice(recipe['labels'])}")
    what = ", ".join(part for part in parts if part)
    return f"{what}: {_stages(recipe['procedure'])}" if recipe.get("procedure") else what


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:  # Any: a recipe's value
    inside: Iterable[tuple[str, Any]] = ()  # Any: a recipe's values
    match value:
        case Mapping():
            inside = value.items()
            name, options = _chosen(value)
            if isinstance(options, Mapping):
                yield path, name
                inside = options.items()
        case [*items]:
            inside = ((str(place), item) for place, item in enumerate(items))
        case _:
            yield path, value if isinstance(value, str) else json.dumps(value, default=str)
    for name, item in inside:
        yield from _flat(f"{path}.{name}", item)


def _choice(value: Any) -> str:  # Any: a recipe's value
    name, options = _chosen(value)
    plain = {key: item for key, item in dict(options or {}).items() if isinstance(item, (str, int, float))}
    return f"{name} ({', '.join(f'{key} {item}' for key, item in plain.items())})" if plain else name


def _stages(stages: Sequence[Any]) -> str:  # Any: a recipe's values
    words = []
    for stage in stages:
        name, options = _chosen(stage)
        match options:
            case {"times": times, "stages": [*inner]}:
                words.append(f"{times} x ({_stages(inner)})")
            case {"criterion": criterion}:
                words.append(f"{name} by {_choice(criterion)}")
            case _:
                words.append(name)
    return ", ".join(words)


def _chosen(value: Any) -> tuple[str, Any]:  # Any: a recipe's value, and a chosen function's options
    """The name in `name` or `{name: options}`, and the options; None where there are none."""
    if isinstance(value, Mapping) and len(value) == 1:
        [(name, options)] = value.items()
        return str(name), options
    return str(value), None
