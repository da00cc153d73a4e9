"""Methods side by side on one benchmark: pruning, extended dense training and width (Jin et al., 2022, section 5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prunecli.compare import Compared, Level, Summary
from prunecli.errors import NotComparable
from prunecli.statistics import Difference, Statistic, paired

Method = Literal["pruning", "extended training", "width", "dense"]
OTHERS: tuple[Method, ...] = ("dense", "extended training", "width")
"""What pruning is set against."""
_PRUNES = frozenset({"prune", "prune_to"})
_TOLD = frozenset({"about", "seeds", "model", "data", "labels", "examples", "procedure", "observe"})
"""What tells the runs of one benchmark apart, or is shown beside them."""


@dataclass(frozen=True)
class Spot:
    """A run at a level, and its metric there over seeds."""

    summary: Summary
    level: Level
    metric: str

    @property
    def statistic(self) -> Statistic:
        """The metric over the run's seeds."""
        return self.level.statistic(self.metric)

    @property
    def by_seed(self) -> dict[int, float]:
        """The metric of each seed that has it."""
        return self.summary.by_seed(self.level, self.metric)


@dataclass(frozen=True)
class Row:
    """A benchmark and, where there is one, a run that prunes on it.

    `benchmark` is a recipe's model, data and labels. `spots` are the optimum of each method, and the `dense` level;
    `differences` the pruning optimum minus each of the others, over the seeds that both have.
    """

    benchmark: Mapping[str, Any]  # Any: a recipe's values
    spots: Mapping[Method, Spot]
    differences: Mapping[Method, Difference]

    @property
    def noisy(self) -> bool:
        """Whether labels were changed."""
        return bool(self.benchmark["labels"] != "clean")

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """The runs that stand in the row, each once."""
        spots = [self.spots[name] for name in ("pruning", *OTHERS) if name in self.spots]
        return tuple({spot.summary.run.path: spot.summary for spot in spots}.values())


@dataclass(frozen=True)
class Methods:
    """The rows, and the runs that stand in none: another of their method came first, or they are retrainings."""

    rows: tuple[Row, ...]
    left_out: tuple[Summary, ...]
    retrainings: tuple[Summary, ...] = ()

    def counts(self, other: Method, *, noisy: bool) -> dict[str, int]:
        """In how many rows of clean or of noisy labels pruning has which verdict against another method."""
        found = [
            row.differences[other].verdict
            for row in self.rows
            if row.noisy == noisy and other in row.differences
        ]
        return {word: found.count(word) for word in ("lower", "match", "higher")}


def method(summary: Summary) -> Method:
    """How a run goes on from dense training, told from its resolved recipe.

    Models of several widths are a series; a stage that prunes, or a level with weights dropped, is pruning; rewinding
    alone is extended training.
    """
    if summary.run.members:
        return "width"
    stages = set(_stages(summary.run.recipe.get("procedure")))
    if stages & _PRUNES or any(level.density < 1 for level in summary.levels):
        return "pruning"
    return "extended training" if "rewind" in stages else "dense"


def is_retraining(summary: Summary) -> bool:
    """Whether a run repeats another, or leaves out what another says: no method of its benchmark."""
    recipe = summary.run.recipe
    return bool(recipe.get("replicate")) or name_of(recipe.get("examples", "all")).startswith("without_")


def methods(compared: Compared) -> Methods:
    """A row a benchmark and pruning run; models and data in the order in which they come, clean labels first.

    Raises:
        NotComparable: all of the runs are retrainings.
    """
    retrainings = tuple(filter(is_retraining, compared.summaries))
    summaries = [summary for summary in compared.summaries if not is_retraining(summary)]
    if not summaries:
        raise NotComparable(
            "there are no methods to tabulate: every run has a 'replicate' or leaves 'examples' out; name runs that "
            "train on all examples"
        )
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(equal_key(benchmark_of(summary)), []).append(summary)
    order: dict[str, int] = {}
    for summary in summaries:
        order.setdefault(_place(benchmark_of(summary)), len(order))
    ranked = sorted(
        groups.values(),
        key=lambda group: (
            order[_place(benchmark_of(group[0]))],
            fraction_of(benchmark_of(group[0])["labels"]),
        ),
    )
    rows = tuple(row for group in ranked for row in _rows(group, compared))
    shown = {summary.run.path for row in rows for summary in row.summaries}
    return Methods(rows, tuple(one for one in summaries if one.run.path not in shown), retrainings)


def training(recipe: Mapping[str, Any]) -> dict[str, Any]:  # Any: a recipe's values
    """The part of a recipe that the runs of a benchmark should have in common."""
    return {key: value for key, value in recipe.items() if key not in _TOLD}


def _rows(group: Sequence[Summary], compared: Compared) -> Iterator[Row]:
    """A row for each run that prunes; one without pruning where none does."""
    found: dict[Method, list[Summary]] = {}
    for summary in group:
        found.setdefault(method(summary), []).append(summary)
    others: dict[Method, Spot] = {}
    for name in ("extended training", "width"):
        for summary in found.get(name, [])[:1]:
            others |= _spot(name, summary, "optimal", compared.metric)
    fallbacks = [*found.get("dense", []), *found.get("extended training", []), *found.get("width", [])]
    for pruned in [[one] for one in found.get("pruning", [])] or [[]]:
        spots = dict(others)
        # A run's own dense level shares its training: differences of paired seeds are pruning's alone.
        for summary in [*fallbacks[::-1], *pruned]:
            spots |= _spot("dense", summary, "dense", compared.metric)
        for summary in pruned:
            spots |= _spot("pruning", summary, "optimal", compared.metric)
        yield Row(benchmark_of(group[0]), spots, dict(_differences(spots, compared.confidence)))


def _spot(name: Method, summary: Summary, word: str, metric: str) -> dict[Method, Spot]:
    """The method's level of that word; nothing where there is none, or no metric there."""
    level = summary.pick(word)
    return {name: Spot(summary, level, metric)} if level and level.statistic(metric).n else {}


def _differences(spots: Mapping[Method, Spot], confidence: float) -> Iterator[tuple[Method, Difference]]:
    pruning = spots.get("pruning")
    for name in OTHERS:
        if pruning and name in spots:
            yield name, paired(pruning.by_seed, spots[name].by_seed, confidence=confidence)


def benchmark_of(summary: Summary) -> dict[str, Any]:  # Any: a recipe's values
    """Model, data and labels; a width series is of the model that it begins with."""
    recipe = summary.run.recipe
    model, options = recipe.get("model"), dict(options_of(recipe.get("model")))
    if isinstance(options.get("width"), list) and isinstance(model, Mapping):
        options["width"] = next(iter(options["width"]), None)
        model = {next(iter(model)): options}
    labels = recipe.get("labels", "clean")
    if options_of(labels).get("fraction") == 0:
        labels = "clean"
    return {"model": model, "data": recipe.get("data"), "labels": labels}


def _place(benchmark: Mapping[str, Any]) -> str:  # Any: a recipe's values
    return equal_key({"model": benchmark["model"], "data": benchmark["data"]})


def equal_key(value: Any) -> str:  # Any: a recipe's value
    """Equal for equal values, whatever the order of their keys, and for 1 and 1.0."""
    return json.dumps(_floats(value), sort_keys=True, default=str)


def _floats(value: Any) -> Any:  # Any: a recipe's value
    if isinstance(value, Mapping):
        return {str(key): _floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_floats(inner) for inner in value]
    # Whole floats become integers: a stranger's integer may be no float.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fraction_of(labels: Any) -> float:  # Any: a recipe's value
    """How much of the labels is changed, for sorting; noise of another kind comes last."""
    found = options_of(labels).get("fraction")
    if labels == "clean":
        return 0.0
    return float(found) if isinstance(found, (int, float)) and 0 <= found <= 1 else 2.0


def name_of(choice: Any) -> str:  # Any: a recipe's value
    """The name in `name` or `{name: options}`."""
    return str(next(iter(choice), "")) if isinstance(choice, Mapping) else str(choice)


def options_of(choice: Any) -> Mapping[str, Any]:  # Any: a recipe's value
    """The options in `{name: options}`; none of a bare name."""
    if isinstance(choice, Mapping) and len(choice) == 1:
        (found,) = choice.values()
        return found if isinstance(found, Mapping) else {}
    return {}


def _stages(procedure: Any) -> Iterator[str]:  # Any: a recipe's value
    """The names of the stages, inside repetitions too."""
    for stage in procedure if isinstance(procedure, list) else ():
        yield str(next(iter(stage), "")) if isinstance(stage, Mapping) else str(stage)
        yield from _stages(options_of(stage).get("stages"))
