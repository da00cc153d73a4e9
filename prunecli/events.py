"""Events of pruning: filters or single weights of some layers are dropped, or disturbed instead.

Bartoldson et al. (2020), section 3 and appendix A; temporary effects: section 4.3 and appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.evidence import generator
from prunecli.filters import Filters, check_droppable, units_kept
from prunecli.injection import Injection, Injections, disturb_
from prunecli.lab import Lab
from prunecli.layer_parts import (
    Batches,
    Course,
    Effect,
    Part,
    Parts,
    Said,
    Target,
    Which,
    left_of,
    matched,
    progress,
)
from prunecli.masks import Masks, Tensors, drop
from prunecli.outlook import Outlook
from prunecli.ranking import naming, scores_of
from prunecli.registry import Choice, CriterionChoice, stages
from prunecli.stages import MAGNITUDE
from prunecli.state import State


def takes_filters(criterion: Choice) -> bool:
    """Whether a criterion scores whole filters, not single weights."""
    return bool(criterion.entry.traits.get("filters"))


def _foresee_prune_layers(
    outlook: Outlook,
    *,
    layers: Said,
    criterion: Choice,
    target: str,
    schedule: Course,
    effect: str,
    batches: int,
    which: str,
) -> Outlook:
    del which
    if "activations" in criterion.entry.needs and target != "random" and outlook.spent == 0:
        raise UsageError(
            f"criterion '{criterion.name}' needs some training before the first event; start later"
        )
    said = layers if outlook.shapes is None else matched(layers, list(outlook.shapes))
    kind = "remove" if effect == "remove" else "inject"
    done = {(kind, name): _part(part) for name, part in said.items()}
    # Whatever is injected into other layers goes on.
    hit = [name for (kind, name), part in done.items() if part > outlook.parts.get((kind, name), 0.0)]
    for name in hit:
        if (until := outlook.busy_until.get(name, 0.0)) > outlook.spent + 1e-9:
            raise UsageError(
                f"at the event of '{name}' after {outlook.spent:g} epochs the one before is not over: it lasts until "
                f"{until:g}; give fewer 'batches', or events further apart"
            )
    outlook = replace(outlook, parts={**outlook.parts, **done})
    if effect == "remove":
        return _foreseen_units(outlook, layers, takes_filters(criterion), schedule)
    # How long batches last is known once the data is.
    lasting = batches / outlook.steps_per_epoch if outlook.steps_per_epoch else 0.0
    return replace(outlook, busy_until={**outlook.busy_until, **dict.fromkeys(hit, outlook.spent + lasting)})


def _part(part: Part) -> float:
    """What part of a layer is chosen once an event has been, but for rounding."""
    fraction, event, of = progress(part)
    return fraction * event / of


def _foreseen_units(outlook: Outlook, layers: Said, filters: bool, course: Course) -> Outlook:
    """The outlook with the units that are chosen, and its density where all that was dropped is whole layers' units."""
    if outlook.shapes is None:
        return replace(outlook, density=None, expected=None)
    chosen, dropped = dict(outlook.chosen), 0
    # What other stages have dropped, or this one in other units, may be in any of these.
    known = outlook.density is not None and outlook.kept == (outlook.total or 0) - outlook.dropped
    for name, part in matched(layers, list(outlook.shapes)).items():
        shape = outlook.shapes[name]
        units = shape[0] if filters else math.prod(shape)
        new = max(0, units - left_of(units, *progress(part), course) - chosen.get((filters, name), 0))
        chosen[filters, name] = chosen.get((filters, name), 0) + new
        dropped += new * (math.prod(shape) // units)
        known = known and not chosen.get((not filters, name))
    density = (outlook.kept - dropped) / (outlook.total or 1) if known else None
    outlook = replace(outlook, density=density, expected=None)
    return replace(outlook, chosen=chosen, dropped=outlook.dropped + dropped)


def _check_prune_layers(
    names: Sequence[str],
    filters: Mapping[str, Filters],
    *,
    layers: Said,
    criterion: Choice,
    target: str,
    effect: str,
    **_others: Any,  # Any: options that the model has no part in
) -> None:
    """Raises UsageError where the model has not what the stage asks for."""
    chosen = matched(layers, names)
    if not takes_filters(criterion):
        return
    for name in chosen:
        if name not in filters:
            raise UsageError(
                f"'{name}' is no weight of a linear or convolution layer, and has no filters to drop; name others, or "
                "choose a criterion of single weights, such as magnitude"
            )
        if effect == "remove":
            check_droppable(filters[name])
        if "norms" in criterion.entry.needs and target != "random" and not filters[name].batch_norm:
            raise UsageError(
                f"criterion '{criterion.name}' looks at the BatchNorm that follows a layer, and none directly follows "
                f"'{filters[name].layer}'; choose l1_norm, l2_norm or mean_activation"
            )


def _told(
    *, layers: Said, criterion: Choice, target: str, effect: str, batches: int, **_others: Any
) -> str:  # Any: options that are left out of a line
    """`remove largest l2_norm: conv7 2 of 3`: the layers that are under way, and how far."""
    under = {name: progress(part) for name, part in layers.items() if part.get("event", 1)}
    parts = [f"{name} {fraction:g}, {event} of {of}" for name, (fraction, event, of) in under.items()]
    how = effect if effect == "remove" else f"{effect} for {batches} batches"
    shown = parts if len(parts) <= 4 else [*parts[:3], f"{len(parts) - 3} layers more"]
    return f"{how} {target} {criterion.name}: {'; '.join(shown)}"


@stages(foresee=_foresee_prune_layers, fits=_check_prune_layers, told=_told, prunes=True, by_layer=True)
def prune_layers(
    state: State,
    lab: Lab,
    *,
    layers: Parts,
    criterion: CriterionChoice = MAGNITUDE,
    target: Target = "smallest",
    schedule: Course = "linear",
    effect: Effect = "remove",
    batches: Batches = 1,
    which: Which = "new",
) -> State:
    """Drop filters or single weights of some layers, as the criterion is one of filters or of weights.

    Of each layer `layer_parts.left_of` are left: at event 1 of 1 all but `fraction`. Targets are those of the smallest
    or largest score, or random ones. `effect: remove` drops them. For so many training `batches`, `zero` holds them at
    0, after which they regrow; `restore` does so with biases and norms too and then puts all back; `gaussian` adds
    noise of the standard deviation of the layer's first filter that was never chosen, drawn anew at each batch.
    `which: all` disturbs those of earlier events again.
    """
    filters = takes_filters(criterion)
    again = effect == "remove"
    free = Masks({name: _free(state, name, filters, again) for name in matched(layers, lab.names)})
    scores = _aimed(criterion, target, state, lab, free)
    chosen = {}
    for name, part in matched(layers, lab.names).items():
        units = free[name].numel()
        count = int(free[name].sum()) - left_of(units, *progress(part), schedule)
        with naming(criterion):
            chosen[name] = free[name] & ~drop(free, scores, [name], max(0, count))[name]
    state = _counted(state, sum(int(units.sum()) for units in chosen.values()))
    if effect == "remove":
        return state.with_masks(
            state.masks.updated(_without(state.masks, chosen, lab.filters if filters else {}))
        )
    new = {
        name: _injection(
            state, name, units, effect, batches, which, lab.filters.get(name) if filters else None
        )
        for name, units in chosen.items()
        if bool(units.any())
    }
    return _disturbed(state, new, lab)


def _free(state: State, name: str, filters: bool, again: bool) -> Tensor:
    """Which units of a layer are kept and were never chosen, or may be chosen `again`: filters (N,), or weights."""
    mask = state.masks[name]
    free = units_kept(mask) if filters else mask
    before = state.injections.get(name)
    return free if before is None or again else free & ~before.chosen


def _aimed(criterion: Choice, target: Target, state: State, lab: Lab, free: Masks) -> Tensors:
    """Scores of which the lowest are the targets'."""
    if target == "random":
        drawn = generator(state, lab)
        return {name: torch.rand(one.shape, generator=drawn).to(one.device) for name, one in free.items()}
    scores = scores_of(criterion, state, lab, {name: one.shape for name, one in free.items()})
    return {name: -one for name, one in scores.items()} if target == "largest" else scores


def _counted(state: State, count: int) -> State:
    """The state with so many units more chosen in this level."""
    before = state.observed.get("metrics/removed", torch.zeros((), dtype=torch.float64))
    return replace(state, observed={**state.observed, "metrics/removed": before + count})


def _without(masks: Masks, chosen: Tensors, filters: Mapping[str, Filters]) -> Tensors:
    """The masks that change where the chosen units are dropped, a filter's bias and norm with it."""
    changed = {}
    for name, units in chosen.items():
        changed[name] = masks[name] & ~_spread(units, masks[name])
        for beside in filters[name].beside if name in filters else ():
            changed[beside] = masks[beside] & ~units
    return changed


def _spread(units: Tensor, like: Tensor) -> Tensor:
    """Units as entries of a parameter: a filter's (N,) over its weights, or single weights as they are."""
    return units if units.shape == like.shape else units.view(-1, *(1,) * (like.dim() - 1)).expand_as(like)


def _injection(
    state: State, name: str, new: Tensor, effect: Effect, batches: int, which: Which, filters: Filters | None
) -> Injection:
    """What is injected from now on into a layer's units that are newly chosen, or into all that ever were."""
    assert effect != "remove"
    before, tensors = state.injections.get(name), {**state.weights, **state.buffers}
    if before is not None and before.targets:
        raise UsageError(f"what an earlier event injects into '{name}' is not over; give fewer 'batches'")
    chosen = new if before is None else new | before.chosen
    units = chosen if which == "all" else new
    # What pruning has dropped stays dropped.
    targets = {name: _spread(units, state.masks[name]) & state.masks[name]}
    saved: Tensors = {}
    if effect == "restore":
        targets |= dict.fromkeys(_beside(filters, tensors) if filters else (), units)
        saved = {place: torch.where(one, tensors[place], 0) for place, one in targets.items()}
    kept = state.masks[name] if filters is None else units_kept(state.masks[name])
    scale = _scale(state.weights[name], kept & ~chosen) if effect == "gaussian" else torch.zeros(())
    return Injection(effect, state.spent, state.spent + batches, chosen, targets, saved, scale)


def _beside(filters: Filters, tensors: Tensors) -> list[str]:
    """A filter's bias, its norm's scale, shift and running statistics."""
    running = [f"{filters.norm}.{name}" for name in ("running_mean", "running_var")]
    return [*filters.beside, *(name for name in running if name in tensors)]


def _scale(weight: Tensor, free: Tensor) -> Tensor:
    """The standard deviation of the first filter that is free, or of all such weights.

    Raises:
        UsageError: there are too few to have one.
    """
    rest = weight[free]
    first = rest[0] if free.dim() < weight.dim() and rest[:1].numel() > 1 else rest
    if first.numel() < 2:
        raise UsageError("a layer has too few weights that were never chosen to take noise's scale from")
    return first.std()


def _disturbed(state: State, new: Injections, lab: Lab) -> State:
    """The state once the event has done what comes before its first batch."""
    tensors = {name: one.clone() for name, one in {**state.weights, **state.buffers}.items()}
    for injection in new.values():
        disturb_(injection, tensors, lab.drawing, state.spent)
    weights, buffers = ({name: tensors[name] for name in part} for part in (state.weights, state.buffers))
    return replace(state, weights=weights, buffers=buffers, injections={**state.injections, **new})
