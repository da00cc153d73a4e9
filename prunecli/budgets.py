"""Pruning a wide model to what a narrower one has: the same number of weights, or the same part of the width.

Chang et al. (2021), section 5: networks of many widths at one budget.
"""

from __future__ import annotations

from typing import Literal

from prunecli import masks
from prunecli.errors import UsageError
from prunecli.lab import Lab
from prunecli.models.width import Width
from prunecli.outlook import Outlook
from prunecli.ranking import ranked
from prunecli.registry import Choice, CriterionChoice, stages
from prunecli.stages import MAGNITUDE
from prunecli.state import State
from prunecli.widths import Widths

Budget = Literal["parameters", "width_ratio"]


def _left(widths: Widths, total: int, width: float, budget: Budget) -> int:
    """The weights that are left of `total`.

    Raises:
        UsageError: the model has no width, or is the narrower one.
    """
    if width > widths.own:
        raise UsageError(
            f"this is to leave what the model has at width {width:g}, and it is narrower itself: its width is "
            f"{widths.own:g}; sweep over widths from {width:g} on"
        )
    return widths.prunable(width) if budget == "parameters" else round(width / widths.own * total)


def _foresee_prune_to_width(outlook: Outlook, *, width: float, budget: Budget, criterion: Choice) -> Outlook:
    del criterion
    if outlook.widths is None or not outlook.total:
        return outlook.at_most(None)
    return outlook.at_most(_left(outlook.widths, outlook.total, width, budget) / outlook.total)


@stages(foresee=_foresee_prune_to_width, prunes=True)
def prune_to_width(
    state: State,
    lab: Lab,
    *,
    width: Width,
    budget: Budget = "parameters",
    criterion: CriterionChoice = MAGNITUDE,
) -> State:
    """Leave as many weights, over all layers, as the same model of this `width` has that can be pruned.

    `budget: width_ratio` leaves round(width / own width * total) instead, as the code of Chang et al. (2021) does:
    more, since a network's weights grow with the square of its width.
    """
    total = state.masks.total
    left = _left(Widths(lab.experiment, lab.dataset.task), total, width, budget)
    return state.with_masks(ranked(masks.prune_to, criterion, state, lab, [(lab.names, left / total)]))
