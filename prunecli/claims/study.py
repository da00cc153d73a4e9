"""Stored runs as the study of a paper: benchmarks, and what was tried on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunecli.compare import GENERALIZATION, Compared, Level, Summary
from prunecli.methods import (
    benchmark_of,
    equal_key,
    fraction_of,
    is_retraining,
    method,
    name_of,
    options_of,
    training,
)
from prunecli.subgroups import Subgroups

MARGIN = 1.0
"""Percentage points of test error within which two models match."""
Grouper = Callable[[Summary, int, Summary, int, int], Subgroups]
"""The groups of one run's level against another's, in so many bins.

Raises:
    NotComparable: there are no scores of their labels, or the two cannot be compared.
"""


@dataclass(frozen=True)
class Retraining:
    """A dense run on a part of the examples: how they were chosen, and the run; `like` is what a control stands for."""

    name: str
    options: Mapping[str, Any]  # Any: a recipe's values
    summary: Summary

    @property
    def like(self) -> str:
        """Equal for a choice and its control."""
        choice = self.options.get("like") if self.name == "without_random" else {self.name: self.options}
        return equal_key([choice, self.rest])

    @property
    def rest(self) -> str:
        """All of the recipe but which examples are left out."""
        said = ("about", "seeds", "examples")
        return equal_key({key: value for key, value in self.summary.run.recipe.items() if key not in said})


@dataclass(frozen=True)
class Benchmark:
    """A model, data and labels, and the runs on them; `fraction` of the labels are noisy."""

    family: str
    fraction: float
    kind: str = "uniform"
    """What draws the labels."""
    pruning: Summary | None = None
    extended: Summary | None = None
    width: Summary | None = None
    algorithms: tuple[Summary, ...] = ()
    """Pruning by other algorithms than IMP with learning-rate rewinding."""
    retrained: tuple[Retraining, ...] = ()

    @property
    def noisy(self) -> bool:
        """Whether labels were changed."""
        return self.kind != "clean"

    @property
    def uniform(self) -> bool:
        """Whether the labels are those of the paper: clean, or uniformly drawn among the others."""
        return self.kind in ("clean", "uniform")

    @property
    def name(self) -> str:
        """For people."""
        if not self.noisy:
            return self.family
        share = f"{100 * self.fraction:g}% " if self.fraction <= 1 else ""
        return f"{self.family}, {share}{'' if self.kind == 'uniform' else f'{self.kind} '}noise"

    def again(self, name: str) -> Iterator[Retraining]:
        """The retrainings with this choice of examples."""
        return (one for one in self.retrained if one.name == name)


@dataclass(frozen=True)
class Study:
    """Benchmarks, clean ones first within a family."""

    benchmarks: tuple[Benchmark, ...]
    metric: str
    confidence: float
    grouper: Grouper = field(repr=False)

    @property
    def clean(self) -> list[Benchmark]:
        """Those with the source's labels."""
        return [one for one in self.benchmarks if not one.noisy]

    @property
    def noisy(self) -> list[Benchmark]:
        """Those with noisy labels."""
        return [one for one in self.benchmarks if one.noisy]

    @property
    def families(self) -> dict[str, list[Benchmark]]:
        """The benchmarks of each model and data."""
        found: dict[str, list[Benchmark]] = {}
        for one in self.benchmarks:
            found.setdefault(one.family, []).append(one)
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answers should know."""
        runs = [one for each in self.benchmarks for one in (each.pruning, each.extended, each.width) if one]
        optimistic = any(one.optimal and one.optimal.selected_by in GENERALIZATION for one in runs)
        chosen = "; chosen by the test set itself, so its value is optimistic" if optimistic else ""
        return (
            f"optimum: the level of the least mean error, by validation where there is a split{chosen}",
            f"a match lies within {MARGIN:g} point",
        )

    def subjects(self, scope: str) -> Iterator[tuple[str, Sequence[Benchmark]]]:
        """`clean` or `noisy` is each such benchmark, `all` of them together, `family` each model and data."""
        kinds = {"clean": self.clean, "noisy": self.noisy}
        if scope in kinds:
            yield from ((one.name, [one]) for one in kinds[scope])
        elif scope == "family":
            yield from self.families.items()
        else:
            together = kinds[scope.removeprefix("all ")]
            yield f"{scope}: {len(together)}", together

    def at(self, summary: Summary, level: Level, metric: str = "") -> dict[int, float]:
        """The metric of each seed at a level."""
        return summary.by_seed(level, metric or self.metric)

    def best(self, summary: Summary) -> dict[int, float]:
        """The metric of each seed at the run's optimal level; empty where there is none."""
        level = summary.pick("optimal")
        return self.at(summary, level) if level else {}

    def dense(self, summary: Summary) -> dict[int, float]:
        """The metric of each seed at the run's dense level; empty where there is none."""
        level = summary.pick("dense")
        return self.at(summary, level) if level else {}


def study_of(compared: Compared, grouper: Grouper) -> Study:
    """The runs, sorted by what they are of; where several are of one kind, the first is taken."""
    groups: dict[str, list[Summary]] = {}
    for summary in compared.summaries:
        groups.setdefault(equal_key([benchmark_of(summary), _training(summary)]), []).append(summary)
    made = [_benchmark(group) for group in groups.values()]
    order = list(dict.fromkeys(one.family for one in made))
    ranked = sorted(made, key=lambda one: (order.index(one.family), one.fraction))
    return Study(tuple(ranked), compared.metric, compared.confidence, grouper)


def is_imp(summary: Summary) -> bool:
    """Whether a run is IMP with learning-rate rewinding: magnitude, all layers together, a fraction a level."""
    procedure = summary.run.recipe.get("procedure")
    if not isinstance(procedure, list) or [name_of(stage) for stage in procedure] != ["train", "repeat"]:
        return False
    stages = options_of(procedure[1]).get("stages")
    if not isinstance(stages, list) or [name_of(stage) for stage in stages] != ["prune", "rewind", "train"]:
        return False
    prune, rewind = options_of(stages[0]), options_of(stages[1])
    by = [prune.get("criterion", "magnitude"), prune.get("scope", "global"), prune.get("invert", False)]
    return [*by, rewind.get("what", "learning_rate")] == ["magnitude", "global", False, "learning_rate"]


def _benchmark(group: Sequence[Summary]) -> Benchmark:
    found = benchmark_of(group[0])
    again = [one for one in group if is_retraining(one)]
    runs = [one for one in group if one not in again]
    pruned = [one for one in runs if method(one) == "pruning"]
    imp = [one for one in pruned if is_imp(one)]
    return Benchmark(
        family_of(found),
        fraction_of(found["labels"]),
        name_of(found["labels"]),
        next(iter(imp), None),
        next((one for one in runs if method(one) == "extended training"), None),
        next((one for one in runs if method(one) == "width"), None),
        tuple(one for one in pruned if one not in imp),
        tuple(_retraining(one) for one in again),
    )


def _retraining(summary: Summary) -> Retraining:
    choice = summary.run.recipe.get("examples", "all")
    return Retraining(name_of(choice), options_of(choice), summary)


def _training(summary: Summary) -> dict[str, Any]:  # Any: a recipe's values
    """What the runs of a benchmark have in common beside model, data and labels."""
    own = ("examples", "replicate", "equal_steps") if is_retraining(summary) else ("replicate",)
    beside = training(summary.run.recipe)
    return {"examples": "all", "equal_steps": False, **{key: beside[key] for key in beside if key not in own}}


def family_of(found: Mapping[str, Any]) -> str:  # Any: a recipe's values
    """The model and the data of a benchmark, in words."""
    model, data = name_of(found["model"]), name_of(found["data"])
    width, path = options_of(found["model"]).get("width", 1), options_of(found["data"]).get("path")
    where = f" ({path})" if path else ""
    return f"{model}{'' if width == 1 else f' of width {width}'} on {data}{where}"
