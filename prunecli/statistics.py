"""Numbers over seeds: mean and sd, differences of paired seeds, and the paper's verdict on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from scipy.special import stdtr, stdtrit

Verdict = Literal["lower", "higher", "match"]


@dataclass(frozen=True)
class Statistic:
    """A value for each seed, None where missing, and the mean and sd (ddof 1) of those `n` that are there."""

    values: tuple[float | None, ...]
    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Difference:
    """a - b over the `n` seeds that both have; `unpaired` seeds are in one alone. `std` has ddof 1.

    `effect` is mean / std (Cohen's d of paired samples), and `p` that of Student's two-sided t test of the same
    differences; None where the std is 0, for then no test says anything.
    """

    n: int
    mean: float | None
    std: float | None
    interval: tuple[float, float] | None
    verdict: Verdict | None
    unpaired: tuple[int, ...] = ()
    effect: float | None = None
    p: float | None = None


def statistic(values: Sequence[float]) -> Statistic:
    """Mean and sd over the finite values; both None with no value, the sd None with one, or beyond a float."""
    finite = [value for value in values if math.isfinite(value)]
    by_seed = tuple(float(value) if math.isfinite(value) else None for value in values)
    return Statistic(by_seed, len(finite), *_moments(finite))


def paired(a: Mapping[int, float], b: Mapping[int, float], *, confidence: float = 0.95) -> Difference:
    """The differences of the seeds that both have, with Student's t interval and the paper's verdict."""
    both = sorted(a.keys() & b.keys())
    mean, std = _moments([a[seed] - b[seed] for seed in both])
    if std and std < 1e-12 * max(abs(value) for values in (a, b) for value in values.values()):
        std = 0.0  # Differences that are equal on paper differ in their last bits.
    unpaired = tuple(sorted(a.keys() ^ b.keys()))
    if mean is None or std is None:
        return Difference(len(both), mean, std, None, None, unpaired)
    half = float(stdtrit(len(both) - 1, 0.5 + confidence / 2)) * std / math.sqrt(len(both))
    interval = (mean - half, mean + half) if math.isfinite(abs(mean) + half) else None
    effect = mean / std if std else None
    p = None if effect is None else float(2 * stdtr(len(both) - 1, -abs(effect) * math.sqrt(len(both))))
    return Difference(len(both), mean, std, interval, verdict(mean, std), unpaired, effect, p)


def verdict(mean: float, std: float) -> Verdict:
    """Two levels differ where |mean difference| is one sd or more (Jin et al., 2022, section 2)."""
    # A mean of one sd, such as that of 0, 1 and 2 examples, is a difference, whatever its last bits say.
    if mean == 0 or (abs(mean) < std and not math.isclose(abs(mean), std, rel_tol=1e-9)):
        return "match"
    return "lower" if mean < 0 else "higher"


def holm(p: Mapping[int, float]) -> dict[int, float]:
    """The p values of a family of tests, corrected so that one false finding in all is as rare as in a single test.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    corrected: dict[int, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: (p[name], name))):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = least
    return corrected


def area(densities: Sequence[float], values: Sequence[float]) -> float | None:
    """The mean height of a curve over the logarithm of the density, by the trapezoid rule; None of a single density.

    Dividing the area by the range of log density keeps the values' units. Points of one density count by their mean.
    """
    points: dict[float, list[float]] = {}
    for density, value in zip(densities, values, strict=True):
        if density > 0 and math.isfinite(value):
            points.setdefault(math.log(density), []).append(value)
    curve = [(place, math.fsum(found) / len(found)) for place, found in sorted(points.items())]
    if len(curve) < 2:
        return None
    under = math.fsum((b - a) * (left + right) / 2 for (a, left), (b, right) in pairwise(curve))
    return under / (curve[-1][0] - curve[0][0])


def false_positives(n: int) -> float:
    """How often `verdict` calls a difference of n seeds where there is none: P(|t| >= sqrt n), n - 1 d.f."""
    return float(2 * stdtr(n - 1, -math.sqrt(n)))


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values or not all(map(math.isfinite, values)):
        return None, None
    try:
        # Rounding can push the mean of equal numbers off them, and their sd off 0.
        mean = min(max(math.fsum(values) / len(values), min(values)), max(values))
        if len(values) == 1:
            return mean, None
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return mean, std if math.isfinite(std) else None
    except OverflowError:
        # Numbers that no loss or error comes to: their mean can be had, their squares cannot.
        return math.fsum(value / len(values) for value in values), None
