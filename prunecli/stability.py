"""What Bartoldson et al. (2020) measure of a run, of each seed: stability, generalization and flatness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunecli.compare import Compared, Summary
from prunecli.correlations import Correlation, Point, correlation
from prunecli.errors import UsageError, suggest
from prunecli.statistics import Statistic, statistic
from prunecli.store.values import Floats

BySeed = dict[int, float]
BEFORE, AFTER = "test_error_before_pruning", "test_error_after_pruning"
FLATNESS = (
    *("hessian_top", "hessian_trace", "hessian_sum"),
    *("gradient_covariance_trace", "noise_to_curvature", "epsilon_flatness"),
)
"""Metrics that are stored where a recipe observes them."""
STANDARD = "stability"
"""What stands for the paper's pairs."""
COLUMNS = (
    *("events", "mean_stability", "mean_accuracy_drop", "largest_accuracy_drop"),
    *("best_test_accuracy", "late_test_accuracy", "selected_test_accuracy", "generalization_gap"),
    *FLATNESS,
)
"""The quantities of `--table stability`."""
PERCENT = frozenset({"mean_stability", *(name for name in COLUMNS if "accuracy" in name)})
"""The derived quantities that are percentages."""


@dataclass(frozen=True)
class Quantified:
    """A run's quantities over its seeds, by name."""

    summary: Summary
    quantities: Mapping[str, Statistic]


def quantity(summary: Summary, name: str) -> BySeed:
    """A quantity of each seed that has it: a derived one, or `METRIC` or `METRIC:LEVEL`, else at the last level."""
    if name in DERIVED:
        return {seed: value for seed, value in DERIVED[name](summary).items() if math.isfinite(value)}
    metric, _, word = name.partition(":")
    level = summary.pick(word or "last")
    return summary.by_seed(level, metric) if level else {}


def quantified(compared: Compared) -> list[Quantified]:
    """The quantities of each run: the paper's, and those that are correlated."""
    asked = [name for found in compared.correlations for name in (found.x, found.y)]
    names = dict.fromkeys((*COLUMNS, *asked))
    return [
        Quantified(summary, {name: statistic_of(summary, quantity(summary, name)) for name in names})
        for summary in compared.summaries
    ]


def statistic_of(summary: Summary, values: Mapping[int, float]) -> Statistic:
    """Mean and sd over the run's seeds."""
    return statistic([values.get(seed, math.nan) for seed in summary.run.seeds])


def correlated(summaries: Sequence[Summary], x: str, y: str, confidence: float) -> Correlation:
    """The correlation of two quantities, a point each seed of each run."""
    points = [
        Point(summary.run.name, seed, across.get(seed, math.nan), up.get(seed, math.nan))
        for summary in summaries
        for across, up in [(quantity(summary, x), quantity(summary, y))]
        for seed in summary.run.seeds
    ]
    return correlation(x, y, points, confidence=confidence)


def pairs_of(texts: Sequence[str], summaries: Sequence[Summary]) -> list[tuple[str, str]]:
    """The pairs of quantities that `X,Y` and `stability` stand for, each once.

    Raises:
        UsageError: a text is no pair, or no run knows a quantity.
    """
    found: list[tuple[str, str]] = []
    for text in texts:
        if text == STANDARD:
            found += _standard(summaries)
            continue
        names = [name.strip() for name in text.split(",")]
        if len(names) != 2:
            raise UsageError(f"--correlate {text}: should be two quantities, such as X,Y, or '{STANDARD}'")
        for name in names:
            _check(text, name, summaries)
        found.append((names[0], names[1]))
    return list(dict.fromkeys(found))


def has_flatness(summaries: Sequence[Summary]) -> list[str]:
    """The flatness metrics that some run has at its last level."""
    return [name for name in FLATNESS if any(quantity(summary, name) for summary in summaries)]


def _standard(summaries: Sequence[Summary]) -> Iterator[tuple[str, str]]:
    """Stability with generalization and flatness, and flatness with generalization (Figures 2, 4 and 6)."""
    best = "best_test_accuracy"
    yield "mean_stability", best
    yield "mean_stability", "generalization_gap"
    for name in has_flatness(summaries):
        yield "mean_stability", name
    for name in has_flatness(summaries):
        yield name, best


def _check(text: str, name: str, summaries: Sequence[Summary]) -> None:
    known = dict.fromkeys((*DERIVED, *(metric for one in summaries for metric in one.run.metrics)))
    metric, colon, word = name.partition(":")
    if metric not in known or (colon and metric in DERIVED):
        has = "is derived from several levels" if metric in DERIVED else "is known to no run"
        raise UsageError(f"--correlate {text}: '{name}' {has}{suggest(metric, set(known) - {metric})}")
    if not any(summary.pick(word or "last") for summary in summaries):
        raise UsageError(
            f"--correlate {text}: no run has level '{word}'; a level is a number, dense, optimal or last"
        )


def event_levels(summary: Summary, row: int) -> list[int]:
    """The levels that began with pruning of a seed's trained weights.

    Pruning before any training is no event: the paper calls such runs, and those that never prune, wholly stable.
    """
    run = summary.run
    trained = [number for number in range(1, len(run.density)) if run.spent[number - 1] > 0]
    if "removed" in run.metrics:
        return [number for number in trained if run.metrics["removed"][row, number] > 0]
    return [number for number in trained if math.isfinite(_row(summary, "instability", row)[number])]


def _row(summary: Summary, metric: str, row: int) -> Floats:
    """A seed's metric at each level; NaN where there is no such metric."""
    values = summary.run.metrics.get(metric)
    return summary.run.density * math.nan if values is None else values[row]


def _seeds(summary: Summary, value: Callable[[int], float]) -> BySeed:
    """The value of each seed that has the run's last level, by the seed's row."""
    run = summary.run
    there = [
        any(math.isfinite(values[row, -1]) for values in run.metrics.values())
        for row in range(len(run.seeds))
    ]
    return {seed: value(row) for row, seed in enumerate(run.seeds) if there[row]}


def _at_events(summary: Summary, row: int, values: Floats) -> list[float]:
    found = [float(values[number]) for number in event_levels(summary, row)]
    return [value for value in found if math.isfinite(value)]


def _events(summary: Summary) -> BySeed:
    return _seeds(summary, lambda row: float(len(event_levels(summary, row))))


def _mean_stability(summary: Summary) -> BySeed:
    """The mean of 100 (1 - instability) over events, in percent; 100 without any."""

    def of(row: int) -> float:
        found = _at_events(summary, row, 100 * (1 - _row(summary, "instability", row)))
        return _mean(found) if event_levels(summary, row) else 100.0

    return _seeds(summary, of)


def _drops(summary: Summary, together: Callable[[Sequence[float]], float]) -> BySeed:
    """What the mean, or another function, of the points of accuracy lost at each event is; 0 without any."""

    def of(row: int) -> float:
        lost = _row(summary, AFTER, row) - _row(summary, BEFORE, row)
        found = _at_events(summary, row, lost)
        return 0.0 if not event_levels(summary, row) else together(found) if found else math.nan

    return _seeds(summary, of)


def _accuracy(summary: Summary, metric: str) -> BySeed:
    return {seed: 100 - error for seed, error in quantity(summary, metric).items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


DERIVED: Mapping[str, Callable[[Summary], BySeed]] = {
    "events": _events,
    "mean_stability": _mean_stability,
    "mean_accuracy_drop": lambda summary: _drops(summary, _mean),
    "largest_accuracy_drop": lambda summary: _drops(summary, max),
    "best_test_accuracy": lambda summary: _accuracy(summary, "best_test_error"),
    "late_test_accuracy": lambda summary: _accuracy(summary, "late_test_error"),
    "selected_test_accuracy": lambda summary: _accuracy(summary, "selected_test_error"),
}
"""Quantities made of a run's levels (Bartoldson et al., 2020, section 3): of each seed, NaN where there is none."""
