"""Scores, once they are sure to be what a criterion has to give, and the pruning that ranks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from prunecli.errors import Diverged, UsageError
from prunecli.evidence import gather
from prunecli.lab import Lab
from prunecli.masks import Group, Masks, Tensors
from prunecli.registry import Choice
from prunecli.state import State
from prunecli.training import copied

Ranking = Callable[[Masks, Tensors, list[Group]], Masks]


def ranked(
    drop: Ranking, criterion: Choice, state: State, lab: Lab, groups: list[Group], *, invert: bool = False
) -> Masks:
    """The masks once the weights that the criterion scores lowest, or highest under `invert`, are dropped.

    Raises:
        Diverged: scores are NaN; names the criterion, the layers and how many.
    """
    shapes = {name: state.weights[name].shape for name in lab.names}
    with naming(criterion):
        scores = scores_of(criterion, state, lab, shapes)
        return drop(state.masks, {name: -one for name, one in scores.items()} if invert else scores, groups)


@contextmanager
def naming(criterion: Choice) -> Iterator[None]:
    """Have what goes wrong with scores say whose they are."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"criterion '{criterion.name}': {error}") from error


def scores_of(criterion: Choice, state: State, lab: Lab, shapes: Mapping[str, torch.Size]) -> Tensors:
    """A score of the shape that is given for each of these parameters, beside its mask."""
    # A criterion gets copies: what it does to them in place is to change no weight.
    shown = replace(state, weights=copied(state.weights))
    scores: Tensors = criterion(*gather(criterion.entry.needs, shown, lab))
    if not isinstance(scores, Mapping):
        found = type(scores).__qualname__
        raise UsageError(f"criterion '{criterion.name}' returned {found}, not a mapping from names to scores")
    for name, shape in shapes.items():
        _check_scores(criterion.name, name, scores.get(name), shape)
    return {name: scores[name].detach().to(state.masks[name].device) for name in shapes}


def _check_scores(criterion: str, name: str, found: object, shape: torch.Size) -> None:
    if not isinstance(found, Tensor) or found.shape != shape:
        what = (
            f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__qualname__}"
        )
        given = "no scores" if found is None else f"scores of {what}"
        raise UsageError(f"criterion '{criterion}' gives {given} for '{name}'; it should have {tuple(shape)}")
    if not found.is_floating_point():
        # Bools would be a mask, and integers of several layers tie once they are ranked beside floats.
        raise UsageError(
            f"criterion '{criterion}' gives scores of type {found.dtype} for '{name}'; "
            f"scores are floating-point numbers, such as those of weight.abs()"
        )
