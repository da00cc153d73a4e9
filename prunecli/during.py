"""What happens during a training: events of pruning by a schedule, and observing at a moment of one's choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.experiment import Epochs
from prunecli.lab import Lab
from prunecli.layer_parts import (
    Batches,
    Course,
    Effect,
    Said,
    Target,
    Which,
    Windows,
    event_epochs,
    events,
    events_by,
    windows,
)
from prunecli.observers import observe
from prunecli.outlook import Outlook
from prunecli.registry import Choice, CriterionChoice, ObserverChoice, stages
from prunecli.stages import MAGNITUDE
from prunecli.state import State


def _count_during(
    *,
    layers: Said,
    every: float,
    start: float | None = None,
    end: float | None = None,
    **_others: Any,  # Any: options that change no number of stages
) -> int:
    spans = windows(layers, start, end, every).values()
    return 2 * len({epoch for first, last in spans for epoch in event_epochs(first, last, every)})


def _check_during(
    epochs: float,
    *,
    layers: Said,
    every: float,
    start: float | None = None,
    end: float | None = None,
    **_others: Any,  # Any: options that windows have no part in
) -> None:
    """Raises UsageError where a window is not inside training."""
    for pattern, (_, last) in windows(layers, start, end, every).items():
        if last > epochs:
            raise UsageError(
                f"the window of '{pattern}' ends at epoch {last:g}, outside training, which ends at epoch {epochs:g}"
            )


@stages(macro=True, count=_count_during, check=_check_during)
def prune_during_training(
    *,
    layers: Windows,
    every: Annotated[float, Field(gt=0, le=1_000_000)],
    start: Epochs | None = None,
    end: Epochs | None = None,
    criterion: CriterionChoice = MAGNITUDE,
    target: Target = "smallest",
    schedule: Course = "linear",
    effect: Effect = "remove",
    batches: Batches = 1,
    which: Which = "new",
) -> Iterator[Choice]:
    """Train to the last event, pruning each layer from epoch `start` to `end` in equal steps (Bartoldson et al., 2020).

    A layer has an event at `start` and `every` so many epochs after it up to `end`; all layers that have one at the
    same epoch are pruned in one event, see `prune_layers`. Epochs are those trained so far: `start: 0` prunes before
    training. `effect` says whether targets are removed for good or disturbed for so many training `batches`.
    """
    spans = windows(layers, start, end, every)
    options = {
        "criterion": criterion,
        "target": target,
        "schedule": schedule,
        "effect": effect,
        "batches": batches,
        "which": which,
    }
    for epoch in sorted({e for first, last in spans.values() for e in event_epochs(first, last, every)}):
        if epoch > 0:
            yield Choice("stages", "train", {"epochs": None, "until": epoch, "learning_rate": None})
        parts = {
            pattern: {
                "fraction": layers[pattern]["fraction"],
                "event": events_by(epoch, *window, every),
                "events": events(*window, every),
            }
            for pattern, window in spans.items()
        }
        yield Choice("stages", "prune_layers", {"layers": parts, **options})


def _foresee_observe(outlook: Outlook, *, observers: Sequence[Choice]) -> Outlook:
    for choice in observers:
        if missing := [name for name in choice.entry.needs if name not in ("state", "lab")]:
            raise UsageError(
                f"observer '{choice.name}' looks at '{missing[0]}', which there is at a level's end alone; put it into "
                "the recipe's own 'observe'"
            )
    return outlook


@stages(foresee=_foresee_observe, name="observe")
def observe_now(
    state: State, lab: Lab, *, observers: Annotated[list[ObserverChoice], Field(min_length=1)]
) -> State:
    """Carry observers out at this moment; what they find is stored with the level that it lies in."""
    found: dict[str, Tensor] = {}
    for choice in observers:
        arrays = observe(choice, {"state": state, "lab": lab})
        found |= {
            place: torch.from_numpy(np.asarray(one, np.float64).copy()) for place, one in arrays.items()
        }
    return replace(state, observed={**state.observed, **found})
