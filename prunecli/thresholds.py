"""Runs over densities as one sweep, with the thresholds of mild and excessive pruning (Yang et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunecli.claims.answers import of_zero
from prunecli.compare import Compared, Level, Summary
from prunecli.methods import equal_key, name_of, options_of

ACCURACY = "test_accuracy"
PATCHES = "two_patches"
_SAID = frozenset({"about", "seeds", "keep_weights", "observe", "procedure", "learning_rate"})
"""What does not tell sweeps apart; a rate may go with the density."""
_AMOUNTS = frozenset({"density", "fraction", "count"})
"""The options of a stage that prunes which say how much: a sweep is over them."""
_MOST_CLASSES = 10_000
SPARSEST = 1e-12
"""What a logarithmic axis of densities can hold; what is beyond is left out."""


@dataclass(frozen=True)
class Spot:
    """A level of a run, at its density."""

    summary: Summary
    level: Level

    def by_seed(self, name: str) -> dict[int, float]:
        """A metric of each seed that has it; `test_accuracy` is in percent."""
        if name == ACCURACY:
            return {seed: 100 - error for seed, error in self.by_seed("test_error").items()}
        return self.summary.by_seed(self.level, name)

    def mean(self, name: str) -> float:
        """The metric's mean over seeds; NaN of none."""
        values = list(self.by_seed(name).values())
        return math.fsum(values) / len(values) if values else math.nan

    def half(self, name: str, confidence: float) -> float:
        """Half the width of Student's interval of the mean; NaN where one seed has it."""
        interval = of_zero(self.by_seed(name), confidence).interval
        return (interval[1] - interval[0]) / 2 if interval else math.nan


@dataclass(frozen=True)
class DensitySweep:
    """Levels of runs that differ in how much they prune, and perhaps in the learning rate that goes with it.

    The densest comes first.
    """

    spots: tuple[Spot, ...]

    @property
    def recipe(self) -> Mapping[str, Any]:  # Any: a recipe's values
        """A recipe of the sweep."""
        return self.spots[0].summary.run.recipe

    @property
    def mild(self) -> float | None:
        """ln d / m: from this density on pruning is mild; None where the data is another."""
        return self._positive("p_mild")

    @property
    def excessive(self) -> float | None:
        """1 / (K m ln d): about this density pruning is excessive; None where the data is another."""
        return self._positive("p_excessive")

    @property
    def classes(self) -> int | None:
        """K, where the data is of two patches."""
        found = options_of(self.recipe.get("data")).get("classes")
        if name_of(self.recipe.get("data")) != PATCHES or not isinstance(found, int):
            return None
        return found if 2 <= found <= _MOST_CLASSES else None

    def has(self, name: str) -> bool:
        """Whether any level has the metric."""
        return any(spot.by_seed(name) for spot in self.spots)

    def _positive(self, name: str) -> float | None:
        found = self.spots[0].level.value(name)
        return found if found is not None and SPARSEST <= found <= 1 / SPARSEST else None


def density_sweeps(compared: Compared) -> list[DensitySweep]:
    """The runs, sorted into sweeps in the order in which they are first met; levels without weights are left out."""
    groups: dict[str, list[Summary]] = {}
    for summary in compared.summaries:
        groups.setdefault(_key(summary), []).append(summary)
    parts = [part for group in groups.values() for part in _apart(group)]
    spots = [[spot for summary in part for spot in _spots(summary)] for part in parts]
    return [
        DensitySweep(tuple(sorted(found, key=lambda spot: -spot.level.density))) for found in spots if found
    ]


def _spots(summary: Summary) -> Iterator[Spot]:
    for level in summary.levels:
        if SPARSEST <= level.density <= 1:
            yield Spot(summary, level)


def _key(summary: Summary) -> str:
    recipe = summary.run.recipe
    rest = {key: value for key, value in recipe.items() if key not in _SAID}
    return equal_key([rest, _without_amounts(recipe.get("procedure", []))])


def _apart(group: Sequence[Summary]) -> list[list[Summary]]:
    """The runs of a sweep; those that prune as another of it does go apart, by learning rate.

    A run alone at its rate leaves the sweep alone; several that clash are a sweep of their own, with all of that rate.
    """
    rates = {one.run.path: equal_key(one.run.recipe.get("learning_rate")) for one in group}
    ranks = list(dict.fromkeys(rates.values()))
    kept, clashing = dict[str, Summary](), list[Summary]()
    for one in sorted(group, key=lambda one: ranks.index(rates[one.run.path])):
        if kept.setdefault(equal_key(one.run.recipe.get("procedure", [])), one) is not one:
            clashing.append(one)
    lost = [rates[one.run.path] for one in clashing]
    whole = {rate for rate in lost if lost.count(rate) > 1}
    parts: dict[str, list[Summary]] = {"": []}
    for one in group:
        rate = rates[one.run.path]
        apart = rate in whole or any(one is other for other in clashing)
        parts.setdefault(rate if apart else "", []).append(one)
    return [part for part in parts.values() if part]


def _without_amounts(stages: Any) -> Any:  # Any: a recipe's value
    """A procedure without how much its stages prune."""
    if isinstance(stages, list):
        return [_without_amounts(stage) for stage in stages]
    if not isinstance(stages, Mapping) or not options_of(stages):
        return stages
    options = dict(options_of(stages))
    if "stages" in options:
        options["stages"] = _without_amounts(options["stages"])
    if name_of(stages).startswith("prune"):
        options = {key: value for key, value in options.items() if key not in _AMOUNTS}
    return {name_of(stages): options}
