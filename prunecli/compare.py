"""Stored runs become levels with statistics, comparisons between levels, and gates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from prunecli.claims.answers import Tested
from prunecli.classes import Classes
from prunecli.correlations import Correlation
from prunecli.courses import Course, Learned
from prunecli.errors import GateFailed, NotComparable, PrunecliError, suggest
from prunecli.expression import Expression
from prunecli.statistics import Difference, Statistic, area, holm, paired, statistic
from prunecli.store.values import StoredRun
from prunecli.subgroups import Subgroups
from prunecli.tabulated import Tabulated

# Regression stores no errors, so its losses stand in.
SELECTORS = ("validation_error", "test_error", "validation_loss", "test_loss")
GENERALIZATION = ("test_error", "test_loss")
SIGNIFICANCE = 0.05
"""How often a family of tests may find something where there is nothing."""
DIVERGED = "diverged"
"""The metric that is 1 where a seed diverged: levels carry it as a mark."""
_NONE = statistic(())


@dataclass(frozen=True)
class Level:
    """One level of a run; `spent` in epochs, in all."""

    level: int
    density: float
    spent: float
    metrics: Mapping[str, Statistic]
    collapsed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The layers that have no weight left, each with the seeds that this is so for."""
    diverged: tuple[int, ...] = ()
    """The seeds whose training loss is worse than a uniform guess's."""

    def statistic(self, metric: str) -> Statistic:
        """The metric over the run's seeds; of no values where there is no such metric."""
        return self.metrics.get(metric, _NONE)

    def value(self, name: str) -> float | None:
        """A metric's mean over seeds, or `density` or `spent`; None where there is none."""
        if name in ("density", "spent"):
            number = self.density if name == "density" else self.spent
            return number if math.isfinite(number) else None
        return self.statistic(name).mean


@dataclass(frozen=True)
class Optimal:
    """The level with the lowest mean of the metric `selected_by`."""

    level: int
    selected_by: str


@dataclass(frozen=True)
class Summary:
    """A run's levels, and the numbers of those that Jin et al. (2022) name; None where there is none."""

    run: StoredRun
    levels: tuple[Level, ...]
    dense: int | None
    optimal: Optimal | None
    sparsest_better: int | None
    sparsest_better_corrected: int | None = None
    """The sparsest level with a lower test error than dense by Student's t test, corrected over the levels (Holm)."""

    def pick(self, word: str) -> Level | None:
        """The level called `dense`, `optimal`, `sparsest_better` (or that `_corrected`), `last`, `level_12` or `12`."""
        named = {
            "dense": self.dense,
            "optimal": self.optimal.level if self.optimal else None,
            "sparsest_better": self.sparsest_better,
            "sparsest_better_corrected": self.sparsest_better_corrected,
            "last": len(self.levels) - 1 if self.levels else None,
        }
        digits = re.fullmatch(r"(?:level_)?([0-9]{1,6})", word)
        number = int(digits[1]) if digits else named.get(word)
        return self.levels[number] if number is not None and number < len(self.levels) else None

    def by_seed(self, level: Level, metric: str) -> dict[int, float]:
        """The metric of each seed that has one."""
        # A metric that the level lacks has no values at all.
        values = zip(self.run.seeds, level.statistic(metric).values, strict=False)
        return {seed: value for seed, value in values if value is not None}

    def area(self, metric: str) -> Statistic:
        """The mean of the metric over the logarithm of the density, of each seed that has every level."""
        densities = [level.density for level in self.levels]
        rows = self.run.metrics.get(metric, np.full((0, len(self.levels)), np.nan))
        whole = [area(densities, row) if all(map(math.isfinite, row)) else None for row in rows.tolist()]
        return statistic([math.nan if value is None else value for value in whole])

    def has(self, metric: str) -> bool:
        """Whether any level has this metric for any seed."""
        return any(level.statistic(metric).n for level in self.levels)


@dataclass(frozen=True)
class Reference:
    """What levels are compared with: a level of a run, or under `same` its level of the same number."""

    summary: Summary
    word: str

    def level(self, number: int) -> Level | None:
        """The level to compare level `number` with."""
        return self.summary.pick(str(number) if self.word == "same" else self.word)


@dataclass(frozen=True)
class Comparison:
    """One level of run `a` against one level of run `b`; `selected_by` where the optimum was compared."""

    a: str
    level_a: int
    b: str
    level_b: int
    selected_by: str | None
    metric: str
    difference: Difference


@dataclass(frozen=True)
class Compared:
    """Runs, and what their levels are compared with: `reference`, or each run's own dense level."""

    summaries: tuple[Summary, ...]
    metric: str = "test_error"
    reference: Reference | None = None
    confidence: float = 0.95
    subgroups: tuple[Subgroups, ...] = ()
    classes: tuple[Classes, ...] = ()
    claims: tuple[Tested, ...] = ()
    claim_notes: tuple[str, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    courses: tuple[Course, ...] = ()
    learned: tuple[Learned, ...] = ()
    table: Tabulated = "levels"
    """What is tabulated."""
    at: tuple[str, ...] = ()
    """The levels whose layers are tabulated; none for those that are marked."""
    _found: dict[tuple[int, int, str], tuple[Summary, Comparison | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Comparisons made before, with the summaries that they are of: a table asks for each several times."""

    def reference_of(self, summary: Summary) -> Reference:
        """What this run's levels are compared with."""
        return self.reference or Reference(summary, "dense")

    def comparisons(self, metric: str) -> Iterator[Comparison]:
        """Every level of every run against its reference, except a level against itself."""
        for summary in self.summaries:
            yield from self.comparisons_of(summary, metric)

    def comparisons_of(self, summary: Summary, metric: str) -> Iterator[Comparison]:
        """Every level of a run against its reference, except a level against itself."""
        for level in summary.levels:
            comparison = self.comparison(summary, level, metric)
            if comparison:
                yield comparison

    def comparison(self, summary: Summary, level: Level, metric: str) -> Comparison | None:
        """This level against its reference; None where there is nothing to compare."""
        place = (id(summary), level.level, metric)
        if place not in self._found:
            self._found[place] = summary, self._compare(summary, level, metric)
        return self._found[place][1]

    def _compare(self, summary: Summary, level: Level, metric: str) -> Comparison | None:
        reference = self.reference_of(summary)
        other = reference.level(level.level)
        if other is None or metric not in level.metrics or metric not in other.metrics:
            return None
        a, b = summary.run, reference.summary.run
        if (a.path, level.level) == (b.path, other.level):
            return None
        difference = paired(
            summary.by_seed(level, metric),
            reference.summary.by_seed(other, metric),
            confidence=self.confidence,
        )
        selected_by = _selected_by(summary, level) or (
            _selected_by(reference.summary, other) if reference.word == "optimal" else None
        )
        return Comparison(a.name, level.level, b.name, other.level, selected_by, metric, difference)

    def corrected(self, summary: Summary, metric: str) -> dict[int, float]:
        """The p value of each of the run's levels against its reference, corrected over its levels (Holm)."""
        found = {level.level: self.difference(summary, level, metric) for level in summary.levels}
        # A level whose differences are all equal has no test, and is one of those that were looked at all the same.
        family = {
            number: 1.0 if one.p is None else one.p for number, one in found.items() if one.std is not None
        }
        return {number: p for number, p in holm(family).items() if found[number].p is not None}

    def difference(self, summary: Summary, level: Level, metric: str) -> Difference:
        """This level's difference to its reference; of no seeds where there is nothing to compare."""
        comparison = self.comparison(summary, level, metric)
        return comparison.difference if comparison else paired({}, {})


def summarize(run: StoredRun) -> Summary:
    """A run's statistics over its seeds, and which levels are dense, optimal and sparsest better."""
    levels = tuple(_level(run, number) for number in range(len(run.density)))
    dense = 0 if levels and levels[0].density == 1 else None
    summary = Summary(run, levels, dense, None, None)
    better, corrected = _sparsest_better(summary)
    return replace(
        summary, optimal=_optimal(summary), sparsest_better=better, sparsest_better_corrected=corrected
    )


def with_seeds(run: StoredRun, seeds: Sequence[int]) -> StoredRun:
    """The run with only those of its seeds."""
    rows = [row for row, seed in enumerate(run.seeds) if seed in set(seeds)]
    if not rows:
        raise NotComparable(f"{run.name}: has no seed of --seeds; it has {', '.join(map(str, run.seeds))}")
    metrics = {name: values[rows] for name, values in run.metrics.items()}
    kept = run.kept[rows] if run.kept.size else run.kept
    return replace(run, seeds=tuple(run.seeds[row] for row in rows), metrics=metrics, kept=kept)


def problems(compared: Compared, *, require_n: int = 0) -> list[PrunecliError]:
    """Why runs cannot be compared by the metric: they lack it, or have too few seeds; one error a run."""
    candidates = [_problem(compared, summary, require_n) for summary in compared.summaries]
    return [NotComparable(found) for found in candidates if found]


def check_gate(gate: Expression, compared: Compared, summary: Summary) -> None:
    """Raise GateFailed where the gate is true of the run, NotComparable where a value of it is missing."""
    where = f"{summary.run.name}: --fail-if '{gate.text}'"
    try:
        found = {name: _gate_value(name, compared, summary) for name in gate.names}
        numbers = ", ".join(f"{name} = {value:.6g} (level {level})" for name, (level, value) in found.items())
        fails = gate.holds({name: value for name, (_, value) in found.items()})
    except LookupError as missing:
        raise NotComparable(f"{where}: {missing.args[0]}") from None
    except ArithmeticError as error:
        raise NotComparable(f"{where}: {error}; {numbers}") from None
    if fails:
        raise GateFailed(f"{where} is true: {numbers}")


def _level(run: StoredRun, number: int) -> Level:
    metrics = {name: statistic(values[:, number].tolist()) for name, values in run.metrics.items()}
    # A run whose layers are not known has none that is known to have collapsed, nor has a layer without a bias.
    layers = [one for one in enumerate(run.layers if run.kept.size else ()) if not one[1].endswith("bias")]
    gone = {name: _seeds(run, run.kept[:, number, place] == 0) for place, name in layers}
    return Level(
        number,
        float(run.density[number]),
        float(run.spent[number]),
        metrics,
        {name: seeds for name, seeds in gone.items() if seeds},
        _seeds(run, run.metrics[DIVERGED][:, number] == 1) if DIVERGED in run.metrics else (),
    )


def _seeds(run: StoredRun, which: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(seed for seed, chosen in zip(run.seeds, which.tolist(), strict=True) if chosen)


def _gate_value(name: str, compared: Compared, summary: Summary) -> tuple[int, float]:
    word, _, metric = name.partition(".")
    against = compared.reference
    level = summary.pick(word) if word != "against" else against.level(-1) if against else None
    if level is None:
        raise LookupError(f"{name} is missing: there is no level '{word}'")
    value = level.value(metric)
    if value is None:
        hint = "" if metric in level.metrics else suggest(metric, level.metrics)
        raise LookupError(f"{name} is missing or NaN (level {level.level}){hint}")
    return level.level, value


def _optimal(summary: Summary) -> Optimal | None:
    for metric in SELECTORS:
        means = {level.level: level.value(metric) for level in summary.levels}
        counts = {level.level: level.statistic(metric).n for level in summary.levels}
        fullest = max((counts[number] for number, mean in means.items() if mean is not None), default=0)
        # A mean over fewer seeds wins by luck: levels that not all of the seeds have are no candidates.
        known = {n: mean for n, mean in means.items() if mean is not None and counts[n] == fullest}
        if known:
            # Means over seeds that are equal on paper differ in their last bits: those are ties.
            return Optimal(min(known, key=lambda number: (round(known[number], 9), number)), metric)
    return None


def _sparsest_better(summary: Summary) -> tuple[int | None, int | None]:
    """The sparsest level better than dense: by the paper's rule, and by a test corrected over the levels."""
    metric = next((name for name in GENERALIZATION if summary.has(name)), None)
    own = Compared((summary,))
    if metric is None:
        return None, None
    pruned = [level for level in summary.levels if level.density < 1]
    found = {level.level: own.difference(summary, level, metric) for level in pruned}
    lower = [level for level in pruned if (found[level.level].mean or 0) < 0]
    corrected = own.corrected(summary, metric)
    return (
        _sparsest([level for level in lower if found[level.level].verdict == "lower"]),
        _sparsest([level for level in lower if corrected.get(level.level, 1.0) <= SIGNIFICANCE]),
    )


def _sparsest(levels: Sequence[Level]) -> int | None:
    return min(levels, key=lambda level: (level.density, -level.level)).level if levels else None


def _selected_by(summary: Summary, level: Level) -> str | None:
    return summary.optimal.selected_by if summary.optimal and summary.optimal.level == level.level else None


def _problem(compared: Compared, summary: Summary, require_n: int) -> str | None:
    metric, name = compared.metric, summary.run.name
    if metric not in summary.run.metrics:
        return f"{name}: has no metric '{metric}'{suggest(metric, summary.run.metrics)}"
    if not summary.has(metric):
        return f"{name}: {metric} is NaN at every level and seed"
    reference = compared.reference_of(summary)
    if not reference.summary.has(metric):
        return f"{name}: {reference.summary.run.name}, which it is compared with, has no {metric}"
    other = reference.level(-1)
    if other and other.value(metric) is None:
        where = f"{reference.summary.run.name} level {other.level}"
        return f"{name}: {metric} is missing at {where}, which it is compared with"
    return _too_few(compared, summary, require_n)


def _too_few(compared: Compared, summary: Summary, require_n: int) -> str | None:
    for level in summary.levels:
        found = compared.comparison(summary, level, compared.metric)
        n = found.difference.n if found else level.statistic(compared.metric).n
        if n < require_n:
            found_at = f"{summary.run.name}: level {level.level} has {compared.metric} of {n} seeds"
            return f"{found_at}; --require-n asks for {require_n}"
    return None
