"""What a training carries along beside weights and clocks: an epoch's tally, the curve, running means, noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunecli.activations import Firing
from prunecli.injection import Injections, injected, put_back_
from prunecli.masks import Tensors
from prunecli.state import State
from prunecli.training import Batch, Tally

CURVE = "within/curve"
"""Where a state has the curve of its level so far: a row an epoch, of `COLUMNS`."""
COLUMNS = ("spent", "train_error", "train_loss", "test_error", "validation_error")
LOSSES, SIZES, WRONG = "within/losses", "within/sizes", "within/wrong"
"""Where a state has what it saw of an epoch that is under way."""


@dataclass
class Underway:
    """What one training carries along; `tensors` are the model's own parameters and buffers.

    `seen` is kept from one piece of an epoch to the next, of a level, where a `curve` is asked for.
    """

    tensors: Mapping[str, Tensor]
    seed: int
    injections: Injections
    firing: Firing | None
    curve: Tensor | None
    seen: Tally

    @classmethod
    def of(
        cls, state: State, tensors: Mapping[str, Tensor], seed: int, firing: Firing | None, *, curved: bool
    ) -> Underway:
        """What a state's training carries along."""
        empty = torch.zeros(0, len(COLUMNS), dtype=torch.float64)
        curve = state.observed.get(CURVE, empty) if curved else None
        return cls(tensors, seed, state.injections, firing, curve, _tally(state.observed))

    def around(self, batches: Iterator[Batch], spent: int) -> Iterator[Batch]:
        """The batches as training gets them; `spent` steps come before the first."""
        if going := {layer: one for layer, one in self.injections.items() if one.targets}:
            batches = injected(batches, going, self.tensors, self.seed, spent)
        return batches if self.firing is None else self.firing.following(batches, spent)

    def end(self, spent: int) -> None:
        """So many steps are spent: what is over by then is put right."""
        for injection in self.injections.values():
            if spent == injection.until:
                put_back_(injection, self.tensors)
        self.injections = {
            layer: one.over if spent >= one.until else one for layer, one in self.injections.items()
        }

    def add(self, row: Mapping[str, float]) -> None:
        """An epoch has ended: its row, and a new tally."""
        assert self.curve is not None
        last = torch.tensor([[row[name] for name in COLUMNS]], dtype=torch.float64)
        self.curve, self.seen = torch.cat([self.curve, last]), Tally()

    def into(self, state: State) -> State:
        """The state with what is carried along."""
        means: Tensors = {} if self.firing is None else dict(self.firing.means)
        observed = {place: one for place, one in state.observed.items() if not place.startswith("within/")}
        if self.curve is not None:
            observed |= {CURVE: self.curve, **_tallied(self.seen)}
        return replace(state, activations=means, injections=self.injections, observed=observed)


def _tallied(seen: Tally) -> dict[str, Tensor]:
    """A tally as tensors; nothing of an empty one."""
    if not seen.sizes:
        return {}
    return {
        LOSSES: torch.stack([loss.cpu() for loss in seen.losses]),
        SIZES: torch.tensor(seen.sizes),
        WRONG: torch.tensor(seen.wrong()),
    }


def _tally(observed: Tensors) -> Tally:
    if LOSSES not in observed:
        return Tally()
    sizes = [int(size) for size in observed[SIZES]]
    return Tally(list(observed[LOSSES].unbind()), sizes, [], [observed[WRONG]])
