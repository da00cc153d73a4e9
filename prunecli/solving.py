"""Closed-form training, and pruning to a number of weights: the stages of linear problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecli import masks
from prunecli.errors import UsageError
from prunecli.lab import Lab
from prunecli.linear_models import check_linear, design, examples
from prunecli.masks import Group, Masks
from prunecli.outlook import Outlook
from prunecli.ranking import ranked
from prunecli.registry import Choice, CriterionChoice, stages
from prunecli.stages import MAGNITUDE
from prunecli.state import State
from prunecli.task import Task
from prunecli.theory import near_peak

Count = Annotated[int, Field(ge=1, le=10_000_000_000)]


def _foresee_solve(outlook: Outlook) -> Outlook:
    return outlook


def _check_solve(model: nn.Module, task: Task) -> None:
    check_linear("stage 'solve'", model, task)


def _caution_solve(weights: int, examples: int) -> Iterator[str]:
    if examples and near_peak(weights, examples):
        yield (
            f"{weights:,} weights solved for on {examples:,} examples are within 10% of the interpolation peak: a few "
            "seeds are far worse than all others; look at medians, as `compare --table theory` has them"
        )


@stages(foresee=_foresee_solve, trains=True, model_fits=_check_solve, cautions=_caution_solve)
def solve(state: State, lab: Lab) -> State:
    """Weights of least squares over those that are kept, of minimum norm where the examples leave a choice.

    For a regression whose model is linear in its parameters. It spends no epochs, looks at no optimizer, decay or
    augmentation, and computes in float64; momentum is reset.
    """
    inputs, targets = examples(lab)
    columns = design(lab, state, inputs)
    kept = {name: _kept(state.masks, name, weight) for name, weight in state.weights.items()}
    matrix = torch.cat([columns[name].flatten(1)[:, kept[name].flatten()] for name in kept], 1)
    chosen = torch.cat([one.flatten() for one in kept.values()]).nonzero().squeeze(1).cpu()
    size = sum(one.numel() for one in kept.values())
    flat = torch.zeros(size, dtype=torch.float64)
    flat[chosen] = _least_squares(matrix.cpu(), targets.cpu())
    parts = torch.split(flat, [one.numel() for one in kept.values()])
    weights = {
        name: part.view_as(weight).to(weight)
        for part, (name, weight) in zip(parts, state.weights.items(), strict=True)
    }
    return replace(state, weights=weights).without_momentum()


def _least_squares(matrix: Tensor, targets: Tensor) -> Tensor:
    """The solution (p,) of minimum norm, from a QR decomposition with pivots: it squares no condition number."""
    if not matrix.shape[1]:
        return torch.zeros(0, dtype=torch.float64)
    solution: Tensor = torch.linalg.lstsq(matrix, targets.unsqueeze(1), driver="gelsy").solution
    return solution.squeeze(1)


def _kept(of: Masks, name: str, weight: Tensor) -> Tensor:
    return of[name] if name in of else torch.ones_like(weight, dtype=torch.bool)


def _foresee_prune_to_count(outlook: Outlook, *, count: int, criterion: Choice) -> Outlook:
    del criterion
    if outlook.total is None:
        return outlook.at_most(None)
    if count > outlook.total:
        raise UsageError(
            f"'prune_to_count' is to leave {count:,} weights, and the model has {outlook.total:,} that can be pruned; "
            "give a lower 'count', or a larger model"
        )
    return outlook.at_most(count / outlook.total)


@stages(foresee=_foresee_prune_to_count, prunes=True)
def prune_to_count(state: State, lab: Lab, *, count: Count, criterion: CriterionChoice = MAGNITUDE) -> State:
    """Leave `count` weights, over all layers those of the highest scores; all that are kept where those are fewer."""
    if not lab.names:
        return state
    groups: list[Group] = [(lab.names, count / state.masks.total)]
    return state.with_masks(ranked(masks.prune_to, criterion, state, lab, groups))
