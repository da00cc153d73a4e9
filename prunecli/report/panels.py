"""What a figure is made of, as numbers: panels of curves, bars or points."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST = 1e100
"""The size of a number that axes can hold; what is beyond is left out."""


@dataclass(frozen=True)
class Curve:
    """A metric at a run's levels: means `y` over seeds and their `sd`, NaN where there is none.

    `dense` is the dense level's mean, `optimal` the place of the optimal level; curves of one `label` look alike.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    sd: tuple[float, ...]
    dense: float | None = None
    optimal: tuple[float, float] | None = None
    events: tuple[float, ...] = ()
    """Places on the x axis that are marked at its foot."""
    dots: bool = True
    """Whether each of its points has a marker."""


@dataclass(frozen=True)
class Cloud:
    """Points of one kind; with `low` and `high`, each has a bar between the two."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A line across a panel at a place of its x axis, or where it is not `upright` of its y axis, with its word."""

    label: str
    at: float
    upright: bool = True


@dataclass(frozen=True)
class Bar:
    """A mean over seeds and its sd, from percentile `low` to `high`; NaN where there is none."""

    low: float
    high: float
    height: float
    sd: float


@dataclass(frozen=True)
class Panel:
    """Curves, bars or points under a title; `x` and `y` name its own axes, and `line` is a slope and an intercept.

    Numbers on logarithmic axes are above 0.
    """

    title: str
    subtitle: str = ""
    curves: tuple[Curve, ...] = ()
    bars: tuple[Bar, ...] = ()
    clouds: tuple[Cloud, ...] = ()
    line: tuple[float, float] | None = None
    x: str = ""
    y: str = ""
    rules: tuple[Rule, ...] = ()
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Drawing:
    """Everything that a figure shows; `messages` tell what it leaves out."""

    name: str
    title: str
    x: str
    y: str
    panels: tuple[Panel, ...]
    messages: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """What the legend lists, in the order in which it is first met."""
        drawn = [
            [one.label for one in panel.curves] + [one.label for one in panel.clouds] for panel in self.panels
        ]
        return list(dict.fromkeys(label for labels in drawn for label in labels))


def drawable(value: float | None) -> float:
    """The number; NaN where there is none, or axes cannot hold it."""
    return value if value is not None and abs(value) < LARGEST else math.nan
