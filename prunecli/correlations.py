"""How two quantities go together over the seeds of runs: Pearson's r and Kendall's tau-b, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunecli.store.values import Floats

RESAMPLES = 10_000
FEWEST_POINTS = 4
FEWEST_RUNS = 3
"""Configurations that a bootstrap over them is told of."""
MANY_RUNS = 10
"""Configurations from which on such an interval is about as wide as it should be."""
MOST_POINTS = 2_000
"""Beyond that, resampling takes minutes."""
DEFINED = 0.95
"""The share of resamples that need a correlation for there to be an interval."""
CONSTANT = 1e-12
"""Of its size, what a quantity varies by where it is one and the same number but for rounding."""
_SEED = 190603728
"""Equal points give equal intervals."""
_AT_ONCE = 2**21
"""Numbers of a table of resamples that are in memory together."""


Resampled = Callable[[Floats, Floats, Floats], Floats]
"""A correlation of each resample of x and y: a row of how often each point is drawn; NaN where it has none."""


@dataclass(frozen=True)
class Point:
    """One seed of one run."""

    run: str
    seed: int
    x: float
    y: float


@dataclass(frozen=True)
class Coefficient:
    """A correlation and the p value of its test, as if points were independent; None where there is none.

    `interval` is from a bootstrap over points, `interval_by_run` from one over runs, with all seeds of each.
    """

    value: float | None = None
    p: float | None = None
    interval: tuple[float, float] | None = None
    interval_by_run: tuple[float, float] | None = None


@dataclass(frozen=True)
class Correlation:
    """Two quantities over the seeds of runs; `dropped` seeds lack one of them.

    `line` is slope and intercept of the least-squares line; `notes` say why something is None.
    """

    x: str
    y: str
    points: tuple[Point, ...]
    dropped: int
    pearson: Coefficient
    kendall: Coefficient
    line: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[str]:
        """The runs that have a point, in order."""
        return list(dict.fromkeys(point.run for point in self.points))


def correlation(
    x: str, y: str, candidates: Sequence[Point], *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Correlation:
    """The correlation over the points that have both numbers.

    Intervals are percentiles of a bootstrap (Efron and Tibshirani, 1993, chapter 13), of seeded draws.
    """
    points = tuple(point for point in candidates if math.isfinite(point.x) and math.isfinite(point.y))
    dropped = len(candidates) - len(points)
    why_not = "; ".join(_hindrances(x, y, points))
    if why_not:
        none = Coefficient()
        return Correlation(x, y, points, dropped, none, none, None, (f"no correlation: {why_not}",))
    from scipy.stats import kendalltau, linregress, pearsonr

    across, up = _scaled([point.x for point in points]), _scaled([point.y for point in points])
    by_point, by_run = _resamples(points, resamples)
    pearson, kendall = (
        Coefficient(
            float(found.statistic),
            float(found.pvalue),
            *(_interval(resampled, across, up, counts, confidence) for counts in (by_point, by_run)),
        )
        for found, resampled in (
            (pearsonr(across, up), pearson_of_resamples),
            (kendalltau(across, up), kendall_of_resamples),
        )
    )
    line = linregress(across, up)
    return Correlation(
        x,
        y,
        points,
        dropped,
        pearson,
        kendall,
        _unscaled(points, float(line.slope), float(line.intercept)),
        tuple(_notes(points, pearson, kendall)),
    )


def pearson_of_resamples(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Pearson's r of each resample."""
    share = counts / counts.sum(axis=1, keepdims=True)
    a, b = (values[None, :] - (share @ values)[:, None] for values in (x, y))
    above = (share * a * b).sum(axis=1)
    below = np.sqrt((share * a * a).sum(axis=1) * (share * b * b).sum(axis=1))
    varies = np.minimum(*(_differing(values, counts) for values in (x, y))) > 0
    return np.where(varies, above / np.where(varies, below, 1.0), np.nan)


def kendall_of_resamples(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Kendall's tau-b of each resample: sum of sign(x_i - x_j) sign(y_i - y_j) over pairs, by those not tied."""
    signs = [np.sign(values[:, None] - values[None, :]) for values in (x, y)]
    above = ((counts @ (signs[0] * signs[1])) * counts).sum(axis=1)
    below = np.sqrt(_differing(x, counts) * _differing(y, counts))
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _differing(values: Floats, counts: Floats) -> Floats:
    """How many ordered pairs of each resample differ: a whole number, and exact."""
    unequal = (values[:, None] != values[None, :]).astype(np.float64)
    return np.asarray(((counts @ unequal) * counts).sum(axis=1))


def _hindrances(x: str, y: str, points: Sequence[Point]) -> Iterator[str]:
    if len(points) < FEWEST_POINTS:
        yield f"{len(points)} points; it takes {FEWEST_POINTS}"
        return
    for name, values in ((x, [point.x for point in points]), (y, [point.y for point in points])):
        if not any(_scaled(values)):
            yield f"{name} is the same in all {len(points)} points"


def _scaled(values: Sequence[float]) -> Floats:
    """The values from their first on, at most 1 in size: no square overflows; all 0 where they differ by rounding."""
    numbers = np.array(values, dtype=np.float64)
    largest = np.abs(numbers).max()
    numbers = numbers / largest if largest else numbers
    numbers = numbers - numbers[0]
    spread = np.abs(numbers).max()
    # Numbers that are equal on paper differ in their last bits: those are ties.
    return np.zeros_like(numbers) if spread <= CONSTANT else np.round(numbers / spread, 12)


def _unscaled(points: Sequence[Point], slope: float, intercept: float) -> tuple[float, float] | None:
    """The line through scaled values as one through the points."""
    first = points[0]
    across, up = max(abs(one.x - first.x) for one in points), max(abs(one.y - first.y) for one in points)
    steep = slope * up / across
    line = (steep, first.y + intercept * up - steep * first.x)
    return line if all(map(math.isfinite, line)) else None


def _resamples(
    points: Sequence[Point], count: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """How often each point is drawn: when points are drawn, and when runs are, each with all of its points."""
    runs = list(dict.fromkeys(point.run for point in points))
    member = [runs.index(point.run) for point in points]
    drawn = [
        np.random.default_rng(_SEED).multinomial(size, [1 / size] * size, count)
        for size in (len(points), len(runs))
    ]
    few = len(points) <= MOST_POINTS
    return drawn[0] if few else None, drawn[1][:, member] if few and len(runs) >= FEWEST_RUNS else None


def _interval(
    resampled: Resampled, x: Floats, y: Floats, counts: NDArray[np.int64] | None, confidence: float
) -> tuple[float, float] | None:
    if counts is None:
        return None
    step = max(1, _AT_ONCE // len(x))
    # Of scipy.stats.bootstrap one resample without a correlation makes the whole interval NaN, and tau-b takes minutes.
    parts = [
        resampled(x, y, counts[first : first + step].astype(np.float64))
        for first in range(0, len(counts), step)
    ]
    values = np.concatenate(parts)
    known = values[np.isfinite(values)]
    if len(known) < DEFINED * len(values):
        return None
    low, high = np.quantile(np.clip(known, -1.0, 1.0), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _notes(points: Sequence[Point], pearson: Coefficient, kendall: Coefficient) -> Iterator[str]:
    runs = len({point.run for point in points})
    if len(points) > MOST_POINTS:
        yield f"no intervals: {len(points):,} points are more than {MOST_POINTS:,}"
        return
    if None in (pearson.interval, kendall.interval):
        yield "no interval over points: too many resamples have one and the same number throughout"
    if runs < FEWEST_RUNS:
        yield f"no interval over runs: {runs} of them; it takes {FEWEST_RUNS}"
    elif None in (pearson.interval_by_run, kendall.interval_by_run):
        yield f"no interval over runs: too many resamples of {runs} runs have one and the same number throughout"
    elif runs < MANY_RUNS:
        yield f"{runs} runs are few to draw from: their interval is too narrow, or too coarse, to lean on"
