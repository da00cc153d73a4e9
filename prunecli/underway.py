"""What a training carries along beside weights and clocks: an epoch's tally, the curve, running means, noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
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
ALONG = "within/along/"
"""Where a state has what observers saw along a training, a row a look: `within/along/<observer>/<name>`."""


@dataclass
class Underway:
    """What one training carries along; `tensors` are the model's own parameters and buffers.

    `seen` is kept from one piece of an epoch to the next, of a level, where something asks for whole epochs.
    """

    tensors: Mapping[str, Tensor]
    seed: int
    injections: Injections
    firing: Firing | None
    curve: Tensor | None
    seen: Tally
    rows: dict[str, Tensor]
    """What observers saw along the level, by its place."""
    until_loss: float | None = None
    whole: bool = False
    """Whether epochs have to be known whole, for observers or for trainings that end at a loss."""

    @classmethod
    def of(
        cls,
        state: State,
        tensors: Mapping[str, Tensor],
        seed: int,
        firing: Firing | None,
        until_loss: float | None = None,
        *,
        curved: bool,
        whole: bool,
    ) -> Underway:
        """What a state's training carries along."""
        empty = torch.zeros(0, len(COLUMNS), dtype=torch.float64)
        curve = state.observed.get(CURVE, empty) if curved else None
        rows = {place: one for place, one in state.observed.items() if place.startswith(ALONG)}
        seen = _tally(state.observed)
        return cls(tensors, seed, state.injections, firing, curve, seen, rows, until_loss, whole)

    @property
    def keeps(self) -> bool:
        """Whether what was seen of an epoch is kept until it ends."""
        return self.curve is not None or self.until_loss is not None or self.whole

    def note(self, observer: str, found: Mapping[str, NDArray[np.float64]] | None) -> None:
        """What an observer sees now, a row more of each of its arrays; None where it does not look."""
        for name, array in (found or {}).items():
            place, row = (
                f"{ALONG}{observer}/{name}",
                torch.from_numpy(np.array(array, dtype=np.float64)[None]),
            )
            self.rows[place] = torch.cat([self.rows[place], row]) if place in self.rows else row

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
        """An epoch has ended: its row."""
        assert self.curve is not None
        last = torch.tensor([[row[name] for name in COLUMNS]], dtype=torch.float64)
        self.curve = torch.cat([self.curve, last])

    def into(self, state: State) -> State:
        """The state with what is carried along."""
        means: Tensors = {} if self.firing is None else dict(self.firing.means)
        observed = {place: one for place, one in state.observed.items() if not place.startswith("within/")}
        observed |= self.rows | (_tallied(self.seen) if self.keeps else {})
        if self.curve is not None:
            observed[CURVE] = self.curve
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
