"""Schedules: functions of the epoch, for learning rates and densities alike.

Each holds its last value after its end, so training on after the last epoch fine-tunes at the final rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from prunecli.registry import ScheduleChoice, schedules

Schedule = Callable[[float], float]
LARGEST = 1e6
Value = Annotated[float, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]


def _rising(epochs: list[float]) -> list[float]:
    if sorted(set(epochs)) != epochs:
        raise ValueError("should rise")
    return epochs


@schedules
def constant(_epochs: float, *, value: Value) -> Schedule:
    """The same value throughout; a bare number in a recipe means this."""
    return lambda _epoch: value


@schedules
def steps(
    _epochs: float,
    *,
    start: Value,
    at: Annotated[list[Value], Field(max_length=1000), AfterValidator(_rising)],
    factor: Value = 0.1,
) -> Schedule:
    """`start`, times `factor` from each of the epochs `at` on (He et al., 2016)."""
    if start > 0 and factor > 1 and math.log(start) + len(at) * math.log(factor) > math.log(LARGEST):
        raise ValueError(f"'steps' rises from {start:g} beyond {LARGEST:g}: {len(at)} times by {factor:g}")
    return lambda epoch: start * factor ** sum(epoch >= drop for drop in at)


@schedules
def linear(epochs: float, *, start: Value, end: Value = 0.0) -> Schedule:
    """A straight line from `start` to `end` over the recipe's epochs."""
    return lambda epoch: start + (end - start) * _progress(epoch, epochs)


@schedules
def cosine(epochs: float, *, start: Value, end: Value = 0.0) -> Schedule:
    """Half a cosine from `start` to `end` over the recipe's epochs (Loshchilov and Hutter, 2017)."""
    return lambda epoch: end + (start - end) * (1 + math.cos(math.pi * _progress(epoch, epochs))) / 2


@schedules
def cubic(
    epochs: float, *, start: Value, end: Value, begin: Value = 0.0, until: Value | None = None
) -> Schedule:
    """`end + (start - end)(1 - t)^3`, t from epoch `begin` to `until`, by default the last (Zhu and Gupta, 2018)."""
    last = epochs if until is None else until
    return lambda epoch: end + (start - end) * (1 - _progress(epoch - begin, last - begin)) ** 3


@schedules
def exponential(epochs: float, *, start: Positive, end: Positive) -> Schedule:
    """`start (end / start)^t` over the recipe's epochs."""
    return lambda epoch: start * (end / start) ** _progress(epoch, epochs)


@schedules
def warmup(epochs: float, *, over: Positive, then: ScheduleChoice) -> Schedule:
    """`then`, scaled up linearly from 0 over the first epochs (Goyal et al., 2017)."""
    after: Schedule = then(epochs)
    return lambda epoch: after(epoch) * min(1.0, epoch / over)


@schedules
def cyclic(
    epochs: float,
    *,
    then: ScheduleChoice,
    to: Value = 0.0,
    period: Value | None = None,
) -> Schedule:
    """`then` replayed: once past `period`, by default the recipe's epochs, it goes on from epoch `to` again.

    On one clock this is what learning-rate rewinding does with two (Jin et al., 2022, section 5.1).
    """
    length = epochs if period is None else period
    once: Schedule = then(length)
    if length <= to:
        raise ValueError(f"'cyclic' replays from epoch {to:g}, which is not before its period of {length:g}")
    return lambda epoch: once(epoch if epoch < length else to + (epoch - length) % (length - to))


def _progress(epoch: float, epochs: float) -> float:
    return min(1.0, max(0.0, epoch / epochs)) if epochs > 0 else 1.0
