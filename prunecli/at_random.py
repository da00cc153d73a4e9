"""Stages that change masks by chance: each weight by itself, or the places of a layer's weights among each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field

from prunecli.errors import UsageError, suggest
from prunecli.lab import Lab
from prunecli.masks import Tensors
from prunecli.outlook import Outlook
from prunecli.randomness import Draw, key, permutation
from prunecli.registry import stages
from prunecli.stages import Name
from prunecli.state import State

Probability = Annotated[float, Field(gt=0, le=1)]


def _foresee_bernoulli(outlook: Outlook, *, density: float) -> Outlook:
    if density == 1:
        return outlook
    before = outlook.expected if outlook.density is None else outlook.density
    return replace(outlook, density=None, expected=None if before is None else before * density)


@stages(foresee=_foresee_bernoulli, prunes=True)
def prune_bernoulli(state: State, lab: Lab, *, density: Probability) -> State:
    """Keep each kept weight with probability `density`, independently of all others (Yang et al., 2023, section 3).

    How many are left is a matter of chance. What a lower density keeps, a higher one keeps too under the same seed.
    """
    draw = key("bernoulli", lab.drawing, state.spent, state.masks.kept)
    kept = {}
    for name in lab.names:
        mask = state.masks[name]
        drawn = Draw(draw, torch.arange(mask.numel())).uniform(name).view(mask.shape)
        kept[name] = mask & (drawn < density).to(mask.device)
    return state.with_masks(state.masks.updated(kept))


def _foresee_shuffle(outlook: Outlook, *, point: str) -> Outlook:
    if point not in outlook.points:
        known = suggest(point, outlook.points) if outlook.points else ""
        raise UsageError(
            f"the point '{point}' is never saved before this{known}; put `save: {{point: {point}}}` before the pruning"
        )
    return outlook


def _check_shuffle(
    _names: Sequence[str],
    filters: Mapping[str, object],
    **_others: Any,  # Any: options that the model has no part in
) -> None:
    """Raises UsageError where whole filters are dropped."""
    if filters:
        raise UsageError(
            "'shuffle' exchanges single weights, and this recipe drops whole filters; leave one out"
        )


@stages(foresee=_foresee_shuffle, fits=_check_shuffle, prunes=True, restores=True)
def shuffle(state: State, lab: Lab, *, point: Name) -> State:
    """Put each layer's kept weights at random places of the layer (Frankle et al., 2021, section 5); momentum is reset.

    Every layer keeps as many as before. A weight that is kept anew is that of the saved `point`; the others stay as
    they are, so save the point right before the pruning.
    """
    order = key("shuffle", lab.drawing, state.spent)
    moved: Tensors = {
        name: state.masks[name].flatten()[_places(order, name, state.masks[name])].view_as(state.masks[name])
        for name in lab.names
    }
    weights = {
        name: torch.where(moved[name] & ~state.masks[name], state.points[point].weights[name], weight)
        if name in moved
        else weight
        for name, weight in state.weights.items()
    }
    return replace(state, weights=weights).with_masks(state.masks.updated(moved)).without_momentum()


def _places(order: int, name: str, mask: torch.Tensor) -> torch.Tensor:
    return permutation(key("layer", order, name), mask.numel()).to(mask.device)
