"""Stages: what a procedure is made of. Each takes a state and gives one; each foresees what it will do.

Foresight works on an `Outlook`, which knows the clocks and the saved points but no weights: it is how
`plan` finds a rewind to a point that is never saved before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from itertools import repeat as repeated
from typing import Annotated, Literal

from pydantic import Field

from prunecli import masks
from prunecli.eligible import density_of_eligible, fraction_of_eligible
from prunecli.errors import UsageError, suggest
from prunecli.experiment import Epochs, Fraction
from prunecli.lab import Lab
from prunecli.masks import Group
from prunecli.models.parameters import excluded_weights
from prunecli.ranking import ranked
from prunecli.recipe.load import unrolled
from prunecli.registry import (
    Choice,
    CriterionChoice,
    Later,
    ScheduleChoice,
    ScopeChoice,
    StageChoice,
    stages,
)
from prunecli.state import SavedPoint, State

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
MAGNITUDE, GLOBAL = Choice("criteria", "magnitude"), Choice("scopes", "global")


@dataclass(frozen=True)
class Outlook:
    """What is known of a state before anything runs; clocks in epochs, `epochs` the recipe's.

    `density` is None once it depends on which layers the weights are in.
    """

    epochs: float
    steps_per_epoch: int | None = None
    """Known once the dataset is: clocks are then whole steps, as training's are."""
    total: int | None = None
    """Prunable weights, once the model is known: counts are then whole, as pruning's are."""
    excluded: int = 0
    """Weights of linear and convolution layers that the recipe excludes from pruning, once the model is known."""
    level: int = 0
    step: float = 0.0
    spent: float = 0.0
    density: float | None = 1.0
    points: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] | None = None
    """Those of prunable weights, once the model is known."""
    chosen: Mapping[tuple[bool, str], int] = field(default_factory=dict)
    """Filters (True) or weights that `prune_layers` has dropped in a layer, once the model is known."""
    dropped: int = 0
    """Weights that it has dropped in all."""
    parts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """What part of a layer, or of those of a pattern, it has come to: to `remove`, and to `inject` into."""
    busy_until: Mapping[str, float] = field(default_factory=dict)
    """For such a layer or pattern, the epochs to be spent before what is injected is over."""

    def whole(self, epochs: float) -> float:
        """The epochs that so many come to in whole steps."""
        per = self.steps_per_epoch
        return epochs if per is None else round(epochs * per) / per

    def pruned(self, fraction: float) -> float:
        """The density once a fraction of what is kept is dropped."""
        density = self.density or 0.0
        if not self.total:
            return density * (1 - fraction)
        return (self.kept - round(fraction * self.kept)) / self.total

    @property
    def kept(self) -> int:
        """Prunable weights that are kept, where their number is known."""
        return round((self.density or 0.0) * (self.total or 0))

    @property
    def density_of_all(self) -> float | None:
        """The density of prunable and excluded weights together; None where their number is not known."""
        if self.density is None or not self.total:
            return None
        return (self.kept + self.excluded) / (self.total + self.excluded)


Of = Annotated[Literal["eligible", "all"], Later()]

Foresight = Callable[..., Outlook]
"""Takes an outlook and the stage's options; raises UsageError where the stage could not be carried out."""


def _foresee_train(
    outlook: Outlook, *, epochs: float | None, until: float | None, learning_rate: Choice | None
) -> Outlook:
    if epochs is not None and until is not None:
        raise UsageError("'train' takes 'epochs' or 'until', not both")
    if epochs is not None:
        end = outlook.step + outlook.whole(epochs)
    else:
        end = outlook.whole(outlook.epochs if until is None else until)
    if end <= outlook.step:
        per = f" of {outlook.steps_per_epoch} steps" if outlook.steps_per_epoch else ""
        raise UsageError(
            f"'train' has nothing to do: the schedule stands at epoch {outlook.step:g}{per} and this trains to "
            f"{end:g}; put a rewind before it, or give 'epochs' that come to a step"
        )
    if learning_rate is not None:
        learning_rate(outlook.epochs)
    return replace(outlook, step=end, spent=outlook.spent + end - outlook.step)


@stages(foresee=_foresee_train, trains=True, one_training=True)
def train(
    state: State,
    lab: Lab,
    *,
    epochs: Epochs | None = None,
    until: Epochs | None = None,
    learning_rate: ScheduleChoice | None = None,
) -> State:
    """Train to the schedule's end, for so many `epochs`, or `until` an epoch of the schedule.

    `learning_rate` replaces the recipe's schedule for this stage. Past its end a schedule holds its last
    value, so `train: {epochs: 40}` after the end is fine-tuning (Renda et al., 2020).
    """
    if epochs is not None:
        end = state.step + lab.steps(epochs)
    else:
        end = lab.steps(lab.experiment.epochs if until is None else until)
    return lab.train(state, end - state.step, lab.rate_at(learning_rate))


def _foresee_prune(
    outlook: Outlook, *, criterion: Choice, fraction: float, scope: Choice, of: str
) -> Outlook:
    del criterion
    if of == "all":
        kept = _kept_for_all(outlook, scope)
        if kept is None:
            return replace(outlook, density=None)
        fraction = fraction_of_eligible(fraction, kept, outlook.excluded, f"level {outlook.level}: ")
    # A fraction of each layer is that fraction of all; a policy's amounts are the layers' own.
    known = outlook.density is not None and scope.name in ("global", "layer")
    return replace(outlook, density=outlook.pruned(fraction) if known else None)


@stages(foresee=_foresee_prune, prunes=True)
def prune(
    state: State,
    lab: Lab,
    *,
    criterion: CriterionChoice = MAGNITUDE,
    fraction: Fraction,
    scope: ScopeChoice = GLOBAL,
    of: Of = "eligible",
) -> State:
    """Drop `round(fraction * kept)` weights, those of the lowest scores; ties go by position.

    `of: all` counts the weights that `prunable` excludes among those kept, as OpenLTH does, and still drops none.
    """
    if of == "all":
        excluded = excluded_weights(lab.model, lab.names)
        fraction = fraction_of_eligible(fraction, state.masks.kept, excluded)
    groups: list[Group] = scope(lab.names, fraction)
    return state.with_masks(ranked(masks.prune, criterion, state, lab, groups))


def _foresee_prune_to(
    outlook: Outlook, *, density: Choice, criterion: Choice, scope: Choice, of: str
) -> Outlook:
    del criterion
    target = density(outlook.epochs)(outlook.step)
    if not 0 <= target <= 1:
        raise UsageError(f"the density should be from 0 to 1; it is {target:g} at epoch {outlook.step:g}")
    if of == "all":
        if _kept_for_all(outlook, scope) is None:
            return replace(outlook, density=None)
        target = density_of_eligible(target, outlook.total or 0, outlook.excluded, f"level {outlook.level}: ")
    known = outlook.density is not None and scope.name == "global"
    return replace(outlook, density=min(outlook.density or 0, target) if known else None)


@stages(foresee=_foresee_prune_to, prunes=True)
def prune_to(
    state: State,
    lab: Lab,
    *,
    density: ScheduleChoice,
    criterion: CriterionChoice = MAGNITUDE,
    scope: ScopeChoice = GLOBAL,
    of: Of = "eligible",
) -> State:
    """Leave `round(density * total)` weights, those of the highest scores; `density` may follow a schedule.

    `of: all` counts the weights that `prunable` excludes in `total` and among those that are left.
    """
    target = density(lab.experiment.epochs)(lab.epoch(state.step))
    if of == "all":
        target = density_of_eligible(target, state.masks.total, excluded_weights(lab.model, lab.names))
    groups: list[Group] = scope(lab.names, target)
    return state.with_masks(ranked(masks.prune_to, criterion, state, lab, groups))


def _foresee_rewind(outlook: Outlook, *, what: str, to: float | str, momentum: str) -> Outlook:
    del momentum
    if isinstance(to, str) and to not in outlook.points:
        known = f"{suggest(to, outlook.points)}" if outlook.points else ""
        raise UsageError(
            f"the point '{to}' is never saved before this{known}; put `save: {{point: {to}}}` before it"
        )
    if what == "weights" and not isinstance(to, str):
        raise UsageError(
            "rewinding weights needs the name of a saved point, such as {what: weights, to: early} after "
            "`save: {point: early}`"
        )
    step = outlook.points[to] if isinstance(to, str) else outlook.whole(to)
    if step > outlook.step:
        raise UsageError(
            f"'rewind' goes back; epoch {step:g} is past epoch {outlook.step:g}, where this stands"
        )
    return replace(outlook, step=step)


@stages(foresee=_foresee_rewind, rewinds=True)
def rewind(
    state: State,
    lab: Lab,
    *,
    what: Literal["learning_rate", "weights"] = "learning_rate",
    to: Epochs | Name = 0.0,
    momentum: Literal["reset", "keep"] = "reset",
) -> State:
    """Go back to an epoch of the schedule, or to a saved point.

    `learning_rate` rewinds the schedule alone: weights and BatchNorm statistics stay (Renda et al., 2020).
    `weights` restores all parameters and buffers of the point as well, the masks applied (Frankle et al.,
    2020). `momentum: keep` leaves the optimizer's slots, as Renda et al.'s code does.
    """
    if isinstance(to, str):
        point = state.points[to]
        if what == "weights":
            state = state.with_weights(point.weights, point.buffers)
        step = point.step
    else:
        step = lab.steps(to)
    state = replace(state, step=step)
    return state.without_momentum() if momentum == "reset" else state


def _foresee_save(outlook: Outlook, *, point: str) -> Outlook:
    return replace(outlook, points={**outlook.points, point: outlook.step})


@stages(foresee=_foresee_save)
def save(state: State, _lab: Lab, *, point: Name) -> State:
    """Remember weights, buffers and the place on the schedule under a name, for `rewind`."""
    saved = SavedPoint(state.weights, state.buffers, state.step)
    return replace(state, points={**state.points, point: saved})


def _foresee_reinitialize(outlook: Outlook) -> Outlook:
    return outlook


@stages(foresee=_foresee_reinitialize, redraws=True)
def reinitialize(state: State, lab: Lab) -> State:
    """Draw all weights and buffers afresh, under the same masks (Frankle and Carbin, 2019); momentum is reset."""
    weights, buffers = lab.initialized(1 + state.spent)
    return state.with_weights(weights, buffers).without_momentum()


def _count_repeat(*, times: int, stages: list[Choice]) -> int:
    return times * sum(map(unrolled, stages))


@stages(macro=True, count=_count_repeat)
def repeat(
    *,
    times: Annotated[int, Field(ge=1, le=100_000)],
    stages: Annotated[list[StageChoice], Field(min_length=1)],
) -> Iterator[Choice]:
    """The stages, so many times over."""
    return chain.from_iterable(repeated(stages, times))


def _kept_for_all(outlook: Outlook, scope: Choice) -> int | None:
    """The eligible weights that are kept before a pruning of all; None before the model is known."""
    if scope.name != "global":
        raise UsageError(
            f"'of: all' is a count over all layers and goes with 'scope: global'; this has '{scope.name}'"
        )
    if outlook.total is None:
        return None
    if outlook.density is None:
        raise UsageError(
            f"level {outlook.level}: 'of: all' has to know how many weights are kept, and a pruning by layers before "
            "it leaves that open; prune with 'scope: global' throughout, or leave 'of' out"
        )
    return outlook.kept
