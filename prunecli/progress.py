"""What happens while runs are carried out, as values: whoever shows progress is told of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EpochSeen:
    """A training epoch, or what of it a stage takes: for progress, never for results.

    `spent` counts the epochs trained so far, `epochs` what of one this was; `loss` and `error` (percent) are
    means over augmented examples in training mode; `rate` is the last step's learning rate.
    """

    spent: float
    epochs: float
    loss: float
    error: float
    images: int
    rate: float

    @property
    def in_words(self) -> str:
        """The loss, and the error where there is one."""
        return f"loss {self.loss:.4f}" + ("" if math.isnan(self.error) else f", error {self.error:.2f}%")


@dataclass(frozen=True)
class Planned:
    """The work ahead: runs, and the epochs that are still to be trained in all."""

    runs: int
    epochs: float


@dataclass(frozen=True)
class RunStarted:
    """A run begins; `levels` of each seed, `done` (seed, level) pairs are sealed already."""

    run: str
    path: Path
    seeds: tuple[int, ...]
    levels: int
    done: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch of training of a level."""

    run: str
    seed: int
    level: int
    levels: int
    seen: EpochSeen


@dataclass(frozen=True)
class LevelDone:
    """A level is sealed; errors in percent, NaN where labels are numbers."""

    run: str
    seed: int
    level: int
    levels: int
    density: float
    test_error: float
    test_loss: float

    @property
    def tested(self) -> str:
        """How it does on the test split, in words."""
        if math.isnan(self.test_error):
            return f"test loss {self.test_loss:.4g}"
        return f"test error {self.test_error:.2f}%"


@dataclass(frozen=True)
class SeedFailed:
    """A seed stopped; the others go on."""

    run: str
    seed: int
    why: str


@dataclass(frozen=True)
class RunDone:
    """A run's work in this call is over; `status` as a stored run's."""

    run: str
    path: Path
    status: str


@dataclass(frozen=True)
class Said:
    """Something that a person should know: a damaged file was set aside, versions differ."""

    message: str
    informational: bool = False
    """Whether it is no warning: who asks for quiet is spared it."""


Event = Planned | RunStarted | EpochDone | LevelDone | SeedFailed | RunDone | Said
Listener = Callable[[Event], None]


def as_json(event: Event) -> dict[str, Any]:  # Any: what JSON holds
    """An event as JSON holds it, its kind under `event`."""
    return {"event": type(event).__name__, **_jsonable(asdict(event))}


def _jsonable(value: Any) -> Any:  # Any: what an event holds
    """Paths as text, and numbers that JSON has not as null."""
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
