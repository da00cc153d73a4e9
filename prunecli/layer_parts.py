"""Which layers are pruned when, and how much of each: windows, events, and how many filters are left after them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from prunecli.errors import UsageError, suggest

MOST_EVENTS = 10_000
Target = Literal["smallest", "largest", "random"]
Effect = Literal["remove", "zero", "restore", "gaussian"]
Course = Literal["linear", "cubic"]
Batches = Annotated[int, Field(ge=1, le=1_000_000_000)]
Which = Literal["new", "all"]
Part = Mapping[Any, float]  # Any: pydantic allows some strings, which to a type checker are no strings
Said = Mapping[str, Part]
"""What a recipe says of layers, by pattern."""


def _checked(parts: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    if not parts:
        raise ValueError("should name a layer at least, such as {'*': {fraction: 0.3}}")
    for pattern, part in parts.items():
        fraction, event, of = (part.get(name, 1) for name in ("fraction", "event", "events"))
        if "fraction" not in part:
            raise ValueError(f"'{pattern}' needs a 'fraction'")
        if not 0 < fraction < 1:
            raise ValueError(
                f"the fraction of '{pattern}' should be between 0 and 1, so that something is dropped and something "
                f"is left; it is {fraction:g}"
            )
        if event != int(event) or of != int(of) or not event <= of or of < 1:
            raise ValueError(f"'{pattern}' is at event {event:g} of {of:g}; they should be such as 1 of 2")
    return parts


Number = Annotated[float, Field(ge=0, le=1_000_000)]
Parts = Annotated[
    dict[str, dict[Literal["fraction", "event", "events"], Number]],
    AfterValidator(_checked),
    Field(max_length=1000),
]
Windows = Annotated[
    dict[str, dict[Literal["fraction", "start", "end"], Number]],
    AfterValidator(_checked),
    Field(max_length=1000),
]
"""For each pattern of parameter names what is dropped of a layer; the first pattern that a name matches holds.

After event 0 nothing is dropped yet, after event n of n all of the fraction.
"""


def left_of(units: int, fraction: float, event: int, of: int, course: Course = "linear") -> int:
    """How many of a layer's filters or weights are left after an event.

    With F = ceil((1 - fraction) units) left at last, it is `ceil(F + (units - F) (1 - event / events))`, cubed in the
    bracket under `cubic` (Zhu and Gupta, 2018). The fraction counts as it is written: 0.7 of 10 leaves 3.
    """
    last = math.ceil((1 - Fraction(str(fraction))) * units)
    power = 1 if course == "linear" else 3
    return last + math.ceil((units - last) * Fraction(of - event, of) ** power)


def matched(parts: Said, names: Sequence[str]) -> dict[str, Part]:
    """What the parts say of each parameter that one of their patterns matches, in the model's order.

    Raises:
        UsageError: a pattern matches nothing, or nothing that one before it does not.
    """
    for pattern in parts:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"the pattern '{pattern}' matches no prunable parameter{suggest(pattern, names)}"
            )
    found = {name: next((p for p in parts if fnmatchcase(name, p)), None) for name in names}
    for pattern in parts:
        if pattern not in found.values():
            raise UsageError(
                f"'{pattern}' matches only what patterns before it match, and the first one holds; put it before them"
            )
    return {name: parts[pattern] for name, pattern in found.items() if pattern is not None}


def progress(part: Part) -> tuple[float, int, int]:
    """A part's fraction, and which of its events it is at."""
    return part["fraction"], int(part.get("event", 1)), int(part.get("events", 1))


def event_epochs(start: float, end: float, every: float) -> Iterator[float]:
    """The epochs of a layer's events: from `start` on every so many, up to `end` included."""
    return (round(start + number * every, 9) for number in range(events(start, end, every)))


def events(start: float, end: float, every: float) -> int:
    """How many events a window has."""
    return math.floor((end - start) / every + 1e-9) + 1


def windows(
    layers: Said, start: float | None, end: float | None, every: float
) -> dict[str, tuple[float, float]]:
    """Each pattern's first and last epoch.

    Raises:
        UsageError: one is missing, or they are the wrong way round, or there are too many events.
    """
    found = {}
    for pattern, part in layers.items():
        first, last = part.get("start", start), part.get("end", end)
        if first is None or last is None:
            missing = "start" if first is None else "end"
            raise UsageError(
                f"'{pattern}' has no '{missing}': give it there, or once beside 'layers' for all"
            )
        if last < first:
            raise UsageError(
                f"the window of '{pattern}' ends at epoch {last:g}, before its start at {first:g}"
            )
        if events(first, last, every) > MOST_EVENTS:
            raise UsageError(
                f"'{pattern}' has {events(first, last, every):,} events; at most {MOST_EVENTS:,}"
            )
        found[pattern] = (first, last)
    return found


def events_by(epoch: float, first: float, last: float, every: float) -> int:
    """How many of a window's events there have been by an epoch, one at it included."""
    return min(max(0, math.floor((epoch - first) / every + 1e-9) + 1), events(first, last, every))
