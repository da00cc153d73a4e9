"""Stages: what a procedure is made of. Each takes a state and gives one; each foresees what it will do.

Foresight works on an `Outlook`, which knows the clocks and the saved points but no weights: it is how
`plan` finds a rewind to a point that is never saved before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from itertools import repeat as repeated
from typing import Annotated, Literal

from pydantic import Field

from prunecli import masks
from prunecli.eligible import density_of_eligible, fraction_of_eligible
from prunecli.errors import UsageError, suggest
from prunecli.experiment import Epochs, Fraction
from prunecli.lab import Lab
from prunecli.masks import Masks
from prunecli.models.parameters import excluded_weights
from prunecli.outlook import Outlook
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
from prunecli.scopes import groups_of
from prunecli.state import SavedPoint, State

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
NAMED_LAYERS = 10
MAGNITUDE, GLOBAL = Choice("criteria", "magnitude"), Choice("scopes", "global")


Of = Annotated[Literal["eligible", "all"], Later()]
Invert = Annotated[bool, Later()]


def _foresee_train(
    outlook: Outlook,
    *,
    epochs: float | None,
    until: float | None,
    learning_rate: Choice | None,
    until_loss: float | None = None,
    augment: bool = True,
) -> Outlook:
    del augment
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
    early = outlook.early or until_loss is not None
    return replace(outlook, step=end, spent=outlook.spent + end - outlook.step, early=early)


@stages(foresee=_foresee_train, trains=True, one_training=True)
def train(
    state: State,
    lab: Lab,
    *,
    epochs: Epochs | None = None,
    until: Epochs | None = None,
    learning_rate: ScheduleChoice | None = None,
    until_loss: Annotated[Annotated[float, Field(gt=0)] | None, Later()] = None,
    augment: Annotated[bool, Later()] = True,
) -> State:
    """Train to the schedule's end, for so many `epochs`, or `until` an epoch of the schedule.

    `learning_rate` replaces the recipe's schedule for this stage. Past its end a schedule holds its last
    value, so `train: {epochs: 40}` after the end is fine-tuning (Renda et al., 2020). With `until_loss` the training
    ends sooner: after the first whole epoch whose mean loss, as its steps saw it, is at most this. `augment: false`
    leaves the recipe's augmentation out of this training.
    """
    if not augment:
        lab = replace(lab, experiment=replace(lab.experiment, augmentation=[]))
    if epochs is not None:
        end = state.step + lab.steps(epochs)
    else:
        end = lab.steps(lab.experiment.epochs if until is None else until)
    return lab.train(state, end - state.step, lab.rate_at(learning_rate), until_loss)


def _foresee_prune(
    outlook: Outlook, *, criterion: Choice, fraction: float, scope: Choice, of: str, invert: bool = False
) -> Outlook:
    del criterion, invert
    if scope.entry.traits.get("densities"):
        raise UsageError(
            f"scope '{scope.name}' says how dense layers are to be, and goes with 'prune_to: {{density: …}}'; 'prune' "
            "drops a fraction of what is kept"
        )
    if of == "all":
        kept = _kept_for_all(outlook, scope)
        if kept is None:
            return replace(outlook, density=None)
        fraction = fraction_of_eligible(fraction, kept, outlook.excluded, f"level {outlook.level}: ")
    # A fraction of each layer is that fraction of all; a policy's amounts are the layers' own.
    even = scope.name in ("global", "layer")
    known = outlook.density is not None and even
    expected = outlook.expected * (1 - fraction) if outlook.expected is not None and even else None
    return replace(outlook, density=outlook.pruned(fraction) if known else None, expected=expected)


@stages(foresee=_foresee_prune, prunes=True)
def prune(
    state: State,
    lab: Lab,
    *,
    criterion: CriterionChoice = MAGNITUDE,
    fraction: Fraction,
    scope: ScopeChoice = GLOBAL,
    of: Of = "eligible",
    invert: Invert = False,
) -> State:
    """Drop `round(fraction * kept)` weights, those of the lowest scores; ties go by position.

    `of: all` counts the weights that `prunable` excludes among those kept, as OpenLTH does, and still drops none.
    `invert: true` drops those of the highest scores (Frankle et al., 2021, section 5).
    """
    if of == "all":
        excluded = excluded_weights(lab.model, lab.names)
        fraction = fraction_of_eligible(fraction, state.masks.kept, excluded)
    groups = groups_of(scope, _shapes(state, lab), fraction)
    return state.with_masks(ranked(masks.prune, criterion, state, lab, groups, invert=invert))


def _foresee_prune_to(
    outlook: Outlook, *, density: Choice, criterion: Choice, scope: Choice, of: str, invert: bool = False
) -> Outlook:
    del criterion, invert
    target = density(outlook.epochs)(outlook.step)
    if not 0 <= target <= 1:
        raise UsageError(f"the density should be from 0 to 1; it is {target:g} at epoch {outlook.step:g}")
    if of == "all":
        if _kept_for_all(outlook, scope) is None:
            return replace(outlook, density=None)
        target = density_of_eligible(target, outlook.total or 0, outlook.excluded, f"level {outlook.level}: ")
    # Layers that are sparser already stay so: then a scope of densities leaves fewer than it says.
    known = scope.name == "global" or (bool(scope.entry.traits.get("densities")) and outlook.density == 1)
    return outlook.at_most(target if known else None)


@stages(foresee=_foresee_prune_to, prunes=True)
def prune_to(
    state: State,
    lab: Lab,
    *,
    density: ScheduleChoice,
    criterion: CriterionChoice = MAGNITUDE,
    scope: ScopeChoice = GLOBAL,
    of: Of = "eligible",
    invert: Invert = False,
) -> State:
    """Leave `round(density * total)` weights, those of the highest scores; `density` may follow a schedule.

    `of: all` counts the weights that `prunable` excludes in `total` and among those that are left. `invert: true`
    leaves those of the lowest scores (Frankle et al., 2021, section 5).
    """
    target = density(lab.experiment.epochs)(lab.epoch(state.step))
    if of == "all":
        target = density_of_eligible(target, state.masks.total, excluded_weights(lab.model, lab.names))
    groups = groups_of(scope, _shapes(state, lab), target)
    return state.with_masks(ranked(masks.prune_to, criterion, state, lab, groups, invert=invert))


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
    if outlook.early and not isinstance(to, str) and step:
        raise UsageError(
            f"a training before this may end sooner (until_loss), perhaps before epoch {step:g}, and 'rewind' goes "
            "back; rewind to 0 or to a saved point"
        )
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
    if step > state.step:
        raise UsageError(
            f"'rewind' goes back, and epoch {lab.epoch(step):g} is past epoch {lab.epoch(state.step):g}, where a "
            "training ended at its loss; rewind to a point that is saved before it"
        )
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


def tell_emptied(where: str, before: Masks, after: Masks, say: Callable[[str], None]) -> None:
    """Say which layers had weights and have none any more: nothing of the input comes through such a layer."""
    # A layer without a bias, where biases can be pruned, is whole.
    layers = {name: mask for name, mask in after.counted.items() if not name.endswith("bias")}
    emptied = [name for name, mask in layers.items() if before[name].any() and not mask.any()]
    if emptied:
        more = f" and {len(emptied) - NAMED_LAYERS} layers more" if len(emptied) > NAMED_LAYERS else ""
        say(f"{where}: no weight is left in {', '.join(emptied[:NAMED_LAYERS])}{more}")


def _shapes(state: State, lab: Lab) -> dict[str, tuple[int, ...]]:
    return {name: tuple(state.weights[name].shape) for name in lab.names}


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
            f"level {outlook.level}: 'of: all' has to know how many weights are kept, and a pruning by layers or by "
            "chance before it leaves that open; prune with 'scope: global' throughout, or leave 'of' out"
        )
    return outlook.kept
