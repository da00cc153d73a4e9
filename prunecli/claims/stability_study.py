"""Stored runs as the study of Bartoldson et al. (2020): pruning during training, by target, rate and effect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunecli.claims.study import family_of
from prunecli.compare import Compared, Summary
from prunecli.methods import benchmark_of, equal_key, is_retraining, name_of, options_of, training

MACRO, STAGE = "prune_during_training", "prune_layers"
_BESIDE = frozenset({"train", "observe"})
"""Stages that say nothing of how a run prunes."""
_MOST_EVENTS = 1e6


@dataclass(frozen=True)
class Scheme:
    """How a run prunes: whom, every so many epochs, to what effect; `events` of the layer that loses most.

    `rate` is the fraction of that layer that is chosen at each of them; `design` is equal where the same fractions of
    the same layers are chosen by the same criterion, whenever and whoever they are.
    """

    design: str
    criterion: str
    target: str
    effect: str
    batches: float
    which: str
    every: float
    rate: float
    events: int
    from_scratch: bool


@dataclass(frozen=True)
class Pruned:
    """A run that prunes, and how."""

    summary: Summary
    scheme: Scheme


@dataclass(frozen=True)
class Setting:
    """A model, data and training, and the runs on them that prune, or disturb, the same fractions by one criterion."""

    name: str
    unpruned: Summary | None
    scratch: Summary | None
    removing: tuple[Pruned, ...]
    disturbing: tuple[Pruned, ...]

    @property
    def recipe(self) -> Mapping[str, Any]:  # Any: a recipe's values
        """A recipe of the setting."""
        runs = [*(one.summary for one in (*self.removing, *self.disturbing)), self.scratch, self.unpruned]
        return next((one.run.recipe for one in runs if one), {})

    def ladders(self) -> dict[str, list[Pruned]]:
        """The disturbing runs that differ in batches alone, fewest first, by what they have in common."""
        found: dict[str, list[Pruned]] = {}
        for one in sorted(self.disturbing, key=lambda one: one.scheme.batches):
            scheme = one.scheme
            which = "" if scheme.which == "new" else f" of {scheme.which}"
            found.setdefault(
                f"{scheme.effect}{which}, {scheme.target} every {scheme.every:g} epochs", []
            ).append(one)
        return found


@dataclass(frozen=True)
class StabilityStudy:
    """Settings, and the runs that are none of the paper's kinds."""

    settings: tuple[Setting, ...]
    left_out: tuple[str, ...]
    confidence: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answers should know."""
        names = ", ".join(self.left_out)
        return (
            "accuracy: the best at an epoch's end of the last level; chosen by the test set itself, it is optimistic",
            "correlations: a point is a seed of a run; seeds of one run are not independent, so p values are too small",
            *([f"left out, for they prune in another way: {names}"] if names else []),
        )

    def subjects(self, scope: str) -> Iterator[tuple[str, Any]]:  # Any: a setting, or one with a ladder
        """`setting` is each of them, `noise` each with its runs of one effect, fewest batches first."""
        for one in self.settings:
            if scope == "setting":
                yield one.name, one
            else:
                yield from ((f"{one.name}: {name}", (one, ladder)) for name, ladder in one.ladders().items())


def stability_study(compared: Compared) -> StabilityStudy:
    """The runs, sorted by model, data, training and what is pruned; of several of one kind the first is taken."""
    trained: dict[str, list[Summary]] = {}
    left_out = []
    for summary in compared.summaries:
        if summary.run.members or is_retraining(summary) or not (is_unpruned(summary) or scheme_of(summary)):
            left_out.append(summary.run.name)
        else:
            key = equal_key([benchmark_of(summary), training(summary.run.recipe)])
            trained.setdefault(key, []).append(summary)
    settings = [setting for group in trained.values() for setting in _settings(group)]
    names = [setting.name for setting in settings]
    return StabilityStudy(
        tuple(_numbered(one, number, names) for number, one in enumerate(settings)),
        tuple(left_out),
        compared.confidence,
    )


def is_unpruned(summary: Summary) -> bool:
    """Whether a run trains and does nothing else."""
    stages = _stages(summary)
    return bool(stages) and all(name in _BESIDE for name, _ in stages)


def scheme_of(summary: Summary) -> Scheme | None:
    """How a run prunes during one training; None where it does not, or does in another way."""
    stages = _stages(summary)
    rest = [(name, options) for name, options in stages if name not in _BESIDE]
    if len(rest) != 1 or rest[0][0] not in (MACRO, STAGE):
        return None
    name, options = rest[0]
    if name == STAGE and [name for name, _ in stages].index(STAGE) > 0:
        return None  # A single event in the middle of a training is none of the paper's schedules.
    layers = options.get("layers")
    windows = [_window(options, one) for one in layers.values()] if isinstance(layers, Mapping) else []
    known = [window for window in windows if window]
    if not known or len(known) < len(windows):
        return None
    fraction, events, _ = max(known)
    return Scheme(
        equal_key([options.get("criterion"), options.get("schedule"), _fractions(layers)]),
        name_of(options.get("criterion", "magnitude")),
        str(options.get("target", "smallest")),
        str(options.get("effect", "remove")),
        _number(options.get("batches", 1)) or 0.0,
        str(options.get("which", "new")),
        _number(options.get("every", 1)) or 0.0,
        fraction / events,
        events,
        all(end == 0 for _, _, end in known),
    )


def _settings(group: Sequence[Summary]) -> Iterator[Setting]:
    """A setting for each design among runs of one training."""
    unpruned = next(filter(is_unpruned, group), None)
    designs: dict[str, list[Pruned]] = {}
    for summary in group:
        if scheme := scheme_of(summary):
            designs.setdefault(scheme.design, []).append(Pruned(summary, scheme))
    for pruned in designs.values():
        during = [one for one in pruned if not one.scheme.from_scratch]
        removing = [one for one in during if one.scheme.effect == "remove"]
        scratch = next((one.summary for one in pruned if one.scheme.from_scratch), None)
        name = f"{family_of(benchmark_of(group[0]))}, {pruned[0].scheme.criterion}"
        disturbing = [one for one in during if one not in removing]
        yield Setting(name, unpruned, scratch, tuple(_first(removing)), tuple(_first(disturbing)))


def _first(pruned: Sequence[Pruned]) -> list[Pruned]:
    """The first run of each scheme."""
    return list({equal_key(vars(one.scheme)): one for one in reversed(pruned)}.values())[::-1]


def _numbered(setting: Setting, number: int, names: Sequence[str]) -> Setting:
    """The setting under a name of its own."""
    if names.count(setting.name) == 1:
        return setting
    count = names[: number + 1].count(setting.name)
    return Setting(f"{setting.name} ({count})", *list(vars(setting).values())[1:])


def _stages(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:  # Any: a recipe's values
    procedure = summary.run.recipe.get("procedure")
    stages = procedure if isinstance(procedure, list) else []
    return [(name_of(stage), options_of(stage)) for stage in stages]


def _window(
    options: Mapping[str, Any], layer: Any
) -> tuple[float, int, float] | None:  # Any: a recipe's values
    """A layer's fraction, events and last epoch."""
    own = layer if isinstance(layer, Mapping) else {"fraction": layer}
    given = {**options, **{key: value for key, value in own.items() if value is not None}}
    fraction, every = _number(given.get("fraction")), _number(given.get("every", 1))
    # A stage that prunes once has no window: it is where it stands.
    start, end = (_number(given.get(key, None if "every" in options else 0)) for key in ("start", "end"))
    if fraction is None or not 0 < fraction <= 1 or not every or start is None or end is None or end < start:
        return None
    events = (end - start) / every
    return (fraction, math.floor(events + 1e-9) + 1, end) if events < _MOST_EVENTS else None


def _fractions(layers: Any) -> dict[str, Any]:  # Any: a recipe's values
    return {
        str(name): one.get("fraction") if isinstance(one, Mapping) else one for name, one in layers.items()
    }


def _number(value: Any) -> float | None:  # Any: a recipe's value
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if known else None
