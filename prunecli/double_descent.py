"""Risk over a swept width: dense, pruned and retrained models of stored runs, theory beside (Chang et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from prunecli.methods import name_of, options_of
from prunecli.store.values import StoredRun
from prunecli.swept import (
    FEATURES,
    LINEAR,
    Path,
    Recipe,
    Way,
    families,
    is_count,
    key_without,
    problem_of,
    pruning_of,
    swept_by,
    title_of,
    value_of,
)
from prunecli.theory import LinearProblem, near_peak

RISK = "risk"
_MOST = 80
"""Characters of what tells lines apart."""
_ROUNDING = 1e-6
"""What the same training may differ by from machine to machine."""


@dataclass(frozen=True)
class Point:
    """What models of one width came to: a value of each seed, and theory's; NaN where it is silent.

    `total` is the number of weights that can be pruned, `kept` those that are left.
    """

    x: float
    total: int
    kept: int
    values: Mapping[int, float]
    theory: float = math.nan

    @property
    def median(self) -> float:
        """The median over seeds."""
        return median(self.values.values())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Where the middle half of the seeds lies."""
        low, high = np.quantile(list(self.values.values()), [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True)
class Line:
    """Models of one treatment over widths: pruned by a criterion, "" for dense ones, and perhaps trained again.

    `way` says how they were made; `more` is what of it tells lines of one treatment apart, "" where there is one.
    """

    pruner: str
    retrained: bool
    points: tuple[Point, ...]
    more: str = ""
    way: Way = field(default_factory=Way)

    @property
    def name(self) -> str:
        """`dense`, `magnitude`, `hessian, retrained`."""
        words = [self.pruner or "dense", self.more, "retrained" if self.retrained else ""]
        return ", ".join(filter(None, words))

    def at(self, x: float) -> Point | None:
        """The point of a width."""
        return next((point for point in self.points if point.x == x), None)

    @property
    def kept(self) -> int | None:
        """How many weights pruning leaves, where it leaves the same number at every width that has more."""
        counts = {point.kept for point in self.points if point.kept < point.total}
        named = any(word.startswith("count ") for word in self.way.options)
        if len(counts) != 1 or not (named or sum(point.kept < point.total for point in self.points) > 1):
            return None
        (count,) = counts
        return count if all(point.kept == min(count, point.total) for point in self.points) else None

    def is_like(self, other: Line) -> bool:
        """Whether as many weights are left at each width that both have, of which there is one at least."""
        pairs = [(point, beside) for point in self.points if (beside := other.at(point.x)) is not None]
        return bool(pairs) and all(one.kept == two.kept for one, two in pairs)


@dataclass(frozen=True)
class Sweep:
    """Runs that differ by an option `path` of model or data, and by their pruning; `x` is the option's value."""

    path: Path
    metric: str
    recipe: Recipe
    lines: tuple[Line, ...]
    runs: tuple[str, ...]
    null: float = math.nan
    """The risk of predicting 0, where runs know it."""
    notes: tuple[str, ...] = ()
    """What was left out."""

    def line(self, pruner: str = "", *, retrained: bool = False) -> Line | None:
        """The first line of a treatment."""
        return next(iter(self.treated(pruner, retrained=retrained)), None)

    def treated(self, pruner: str = "", *, retrained: bool = False) -> tuple[Line, ...]:
        """The lines of a treatment: several where models were made in several ways."""
        return tuple(line for line in self.lines if (line.pruner, line.retrained) == (pruner, retrained))

    @property
    def title(self) -> str:
        """`linear on linear_gaussian (examples 300, setting spiked)`."""
        return title_of(self.recipe, self.path)

    @property
    def examples(self) -> int | None:
        """How many examples models were solved for on, where the recipe says so: p = n means nothing otherwise."""
        data = self.recipe.get("data")
        count = options_of(data).get("examples")
        whole = not self.recipe.get("validation") and self.recipe.get("examples", "all") == "all"
        known = (
            name_of(data) in LINEAR
            and is_count(count)
            and whole
            and self.recipe.get("inputs", "clean") == "clean"
        )
        return (
            count
            if known and self.metric == RISK and all(line.way.is_solved for line in self.lines)
            else None
        )

    def is_near_peak(self, x: float) -> bool:
        """Whether a width is within 10% of the examples, where few seeds are far worse than all others."""
        count = self.examples
        return self.path == FEATURES and count is not None and near_peak(round(x), count)

    @property
    def kept(self) -> int | None:
        """How many weights pruning leaves, where all lines leave that number at every width that has more."""
        pruned = [line for line in self.lines if any(point.kept < point.total for point in line.points)]
        counts = {line.kept for line in pruned}
        return counts.pop() if len(counts) == 1 else None

    @property
    def problem(self) -> LinearProblem | None:
        """The problem of independent features that the recipe describes; None where it describes another."""
        return problem_of(self.recipe)


@dataclass(frozen=True)
class _Found:
    """What a metric of a run's level is of."""

    run: StoredRun
    level: int
    metric: str
    pruner: str = ""
    retrained: bool = False
    way: Way = field(default_factory=Way)


def sweeps(runs: Sequence[StoredRun], metric: str = "") -> tuple[Sweep, ...]:
    """The runs grouped by what they share beside their pruning and one option; `metric` is by default `metric_of` them.

    Runs that prune more than once have no place here.
    """
    every = [member for run in runs for member in (run.members or (run,)) if pruning_of(member.recipe)]
    groups = [found for family in families(every) for found in _groups(family)]
    found = [_sweep(group, path, metric or metric_of(group)) for path, group in groups]
    return tuple(one for one in found if one.lines)


def metric_of(runs: Sequence[StoredRun]) -> str:
    """The metric that runs are looked at by: the risk where one has it, else test error, else test loss."""
    known = {name for run in runs for name in run.metrics}
    return next((name for name in (RISK, "test_error") if name in known), "test_loss")


def _groups(family: Sequence[StoredRun]) -> Iterator[tuple[Path, list[StoredRun]]]:
    """Runs that differ by one option, with its path; those that differ by none come last."""
    left = list(family)
    while left:
        path = swept_by(left)
        groups: dict[str, list[StoredRun]] = {}
        for run in left:
            if value_of(run.recipe, path) is not None:
                groups.setdefault(key_without(run.recipe, path), []).append(run)
        several = [
            group for group in groups.values() if len({value_of(one.recipe, path) for one in group}) > 1
        ]
        taken = several or list(groups.values())
        yield from ((path, group) for group in taken)
        names = {id(run) for group in taken for run in group}
        left = [run for run in left if id(run) not in names] if several else []


def _sweep(runs: Sequence[StoredRun], path: Path, metric: str) -> Sweep:
    groups: dict[tuple[str, bool, Way], list[_Found]] = {}
    for run in runs:
        for one in _models_of(run, metric):
            groups.setdefault((one.pruner, one.retrained, one.way), []).append(one)
    lines = _told_apart([line for found in groups.values() if (line := _line(found, path)).points])
    order = sorted(lines, key=lambda line: (line.pruner != "", line.pruner, line.more, line.retrained))
    null = [float(value) for run in runs for value in run.metrics.get("null_risk", np.zeros(0)).flat]
    finite = [value for value in null if math.isfinite(value)]
    names = tuple(dict.fromkeys(run.name for run in runs))
    notes = tuple(dict.fromkeys(note for found in groups.values() for note in _differing(found, path)))
    middle = median(finite) if finite else math.nan
    return Sweep(path, metric, runs[0].recipe, tuple(order), names, middle, notes)


def _told_apart(lines: Sequence[Line]) -> Iterator[Line]:
    """Lines of one treatment, those that differ by counts alone joined where each width is in one of them."""
    treatments: dict[tuple[str, bool], list[Line]] = {}
    for line in lines:
        treatments.setdefault((line.pruner, line.retrained), []).append(line)
    for group in treatments.values():
        trained: dict[tuple[tuple[str, ...], ...], list[Line]] = {}
        for line in group:
            trained.setdefault((line.way.before, line.way.after), []).append(line)
        yield from _named([line for alike in trained.values() for line in _joined(alike)])


def _joined(lines: Sequence[Line]) -> Sequence[Line]:
    """One line, where each width is in one of them alone."""
    points = sorted((point for line in lines for point in line.points), key=lambda point: point.x)
    if len({point.x for point in points}) < len(points):
        return lines
    shared = tuple(word for word in lines[0].way.options if all(word in line.way.options for line in lines))
    # What differs from width to width is in the weights that are kept.
    return [replace(lines[0], points=tuple(points), way=replace(lines[0].way, options=shared))]


def _named(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines with what tells them apart, no two of them alike."""
    shared = [
        {word for word in part if all(word in line.way.parts[number] for line in lines)}
        for number, part in enumerate(lines[0].way.parts)
    ]
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        apart = zip(line.way.parts, shared, strict=True)
        text = ", ".join(dict.fromkeys(word for part, same in apart for word in part if word not in same))
        text = text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"
        more = text if text not in seen else f"{text} ({number})".strip()
        seen.add(more)
        yield replace(line, more=more)


def _line(found: Sequence[_Found], path: Path) -> Line:
    first = found[0]
    points = [_point(x, group) for x, group in sorted(_by_x(found, path).items())]
    return Line(
        first.pruner, first.retrained, tuple(point for point in points if point.values), way=first.way
    )


def _by_x(found: Sequence[_Found], path: Path) -> dict[float, list[_Found]]:
    by_x: dict[float, list[_Found]] = {}
    for one in found:
        if (x := value_of(one.run.recipe, path)) is not None:
            by_x.setdefault(x, []).append(one)
    return by_x


def _point(x: float, group: Sequence[_Found]) -> Point:
    """What runs of one width came to; a seed that several of them have counts once, with what the first has of it."""
    values: dict[int, float] = {}
    theory: list[float] = []
    for one in group:
        values = {**_column(one.run, one.metric, one.level), **values}
        theory += _column(one.run, f"{one.metric}_theory", one.level).values()
    run, level = group[0].run, group[0].level
    kept = round(float(run.density[level]) * run.total)
    predicted = median(theory) if theory else math.nan
    return Point(x, run.total, kept, dict(sorted(values.items())), predicted)


def _differing(found: Sequence[_Found], path: Path) -> Iterator[str]:
    """Where runs that are made alike have other values of a seed, which of them counts."""
    for x, group in _by_x(found, path).items():
        first: dict[int, tuple[float, str]] = {}
        for one in group:
            for seed, value in _column(one.run, one.metric, one.level).items():
                known, name = first.setdefault(seed, (value, one.run.name))
                if not math.isclose(known, value, rel_tol=_ROUNDING):
                    yield (
                        f"{one.metric} of seed {seed} at {x:g} is {value:.6g} in {one.run.name} and {known:.6g} in "
                        f"{name}, which is made alike and counts here"
                    )


def _column(run: StoredRun, metric: str, level: int) -> dict[int, float]:
    """The finite values of a level's metric by seed."""
    values = run.metrics.get(metric)
    if values is None or level >= values.shape[1]:
        return {}
    column = zip(run.seeds, values[:, level].tolist(), strict=True)
    return {seed: value for seed, value in column if math.isfinite(value)}


def _models_of(run: StoredRun, metric: str) -> Iterator[_Found]:
    """The dense, pruned and retrained models of a run, as far as it has such levels."""
    pruning = pruning_of(run.recipe)
    if pruning is None or not len(run.density):
        return
    if pruning.before:
        yield _Found(run, 0, metric, way=pruning.dense)
    level = int(pruning.before)
    if not pruning.pruner or level >= len(run.density):
        return
    as_pruned = f"{metric}_after_pruning" if pruning.after else metric
    yield _Found(run, level, as_pruned, pruning.pruner, False, pruning.pruned)
    if pruning.after:
        yield _Found(run, level, metric, pruning.pruner, True, pruning.again)
