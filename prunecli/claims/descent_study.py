"""Stored runs as the claims of Chang et al. (2021) look at them: sweeps over widths, and over correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prunecli.claims.answers import BySeed
from prunecli.claims.chang2021_networks import Networks, networks_of
from prunecli.compare import Compared
from prunecli.double_descent import Point, Sweep, sweeps
from prunecli.errors import NotComparable
from prunecli.methods import name_of, options_of
from prunecli.statistics import Difference, paired
from prunecli.swept import FEATURES

CORRELATION = ("data", "correlation")
RANDOM_FEATURES = "random_features"


@dataclass(frozen=True)
class Treated:
    """A sweep with one pruner of it."""

    sweep: Sweep
    pruner: str

    def points(self, *, retrained: bool = False) -> tuple[Point, ...]:
        """The pruned models over widths, in ascending order; none is an error."""
        lines = self.sweep.treated(self.pruner, retrained=retrained)
        how = "retrained" if retrained else "without retraining"
        if not lines:
            raise NotComparable(f"no runs pruned by {self.pruner} {how}")
        if len(lines) > 1:
            ways = "; ".join(line.more or "otherwise" for line in lines)
            raise NotComparable(
                f"runs pruned by {self.pruner} {how} in several ways ({ways}); name those of one"
            )
        return lines[0].points


@dataclass(frozen=True)
class DescentStudy:
    """Sweeps of linear problems by what is swept."""

    sweeps: tuple[Sweep, ...]
    confidence: float
    networks: tuple[Networks, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answers should know."""
        return (
            "risks are exact population risks; differences are of their logarithms, paired by seeds: +0.1 is 10% more",
            "beyond what they say of p = n, rules leave out widths within 10% of it",
        )

    def subjects(self, scope: str) -> Iterator[tuple[str, Any]]:  # Any: a sweep, or one with a pruner
        """A `spectrum` or a `network`, or with each pruner a `curve` over widths, a `correlation`, `random_features` or
        `random`.
        """
        if scope == "network":
            yield from ((one.tested.title, one) for one in self.networks)
        for sweep in self.sweeps:
            kind = _kind(sweep)
            if scope == kind:
                yield sweep.title, sweep
            for pruner in dict.fromkeys(line.pruner for line in sweep.lines if line.pruner):
                if (scope, kind) in (("curve", "spectrum"), ("correlated", "correlation")):
                    yield f"{sweep.title}, {pruner}", Treated(sweep, pruner)
                if kind == RANDOM_FEATURES and scope == (
                    "random" if pruner == "random" else "pruned_features"
                ):
                    yield f"{sweep.title}, {pruner}", Treated(sweep, pruner)

    def apart(self, a: Point, b: Point) -> Difference:
        """log a - log b over the seeds that both have."""
        return paired(_logs(a.values), _logs(b.values), confidence=self.confidence)


def descent_study(compared: Compared) -> DescentStudy:
    """The study of what was compared."""
    runs = [one.run for one in compared.summaries]
    return DescentStudy(sweeps(runs, "risk"), compared.confidence, networks_of(runs, compared.confidence))


def nearest(points: Sequence[Point], n: int | None) -> Point:
    """The point within 10% of the interpolation peak; none is an error."""
    inside = [point for point in points if n is not None and abs(point.x - n) <= 0.1 * n]
    if not inside or n is None:
        raise NotComparable("no width within 10% of the number of examples")
    return min(inside, key=lambda point: abs(point.x - n))


def first_minimum(points: Sequence[Point], n: int | None) -> Point:
    """The point of lowest median among widths below the peak; fewer than two are an error."""
    below = [point for point in points if n is not None and point.x < 0.9 * n]
    if len(below) < 2:
        raise NotComparable("fewer than two widths below the number of examples")
    return min(below, key=lambda point: point.median)


def widest(points: Sequence[Point], n: int | None) -> Point:
    """The widest model, which has to be beyond the peak."""
    last = points[-1]
    if n is None or last.x <= 1.1 * n:
        raise NotComparable("no width beyond the number of examples")
    return last


def _kind(sweep: Sweep) -> str:
    data = sweep.recipe.get("data")
    if sweep.path == CORRELATION:
        return "correlation"
    if sweep.path != FEATURES or options_of(data).get("correlation"):
        return "other"
    return RANDOM_FEATURES if name_of(data) == RANDOM_FEATURES else "spectrum"


def _logs(values: BySeed) -> dict[int, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0}
