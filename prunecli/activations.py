"""Running means of how much filters fire, taken while a model trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunecli.filters import Filters, watched
from prunecli.masks import Tensors
from prunecli.training import Batch, Manner, forward, seed_, seed_python_, undisturbed

EVERY, DECAY = 10, 0.9
"""Training batches between two looks, and what is left of the mean at each (Bartoldson et al., 2020, their code)."""


@dataclass
class Firing:
    """The running means (N,) of the sums over batch and space of |activation|, for each layer's filters.

    An activation is what the filter's output has become before the nonlinearity: after its norm, and after the shortcut
    is added.
    """

    model: nn.Module
    filters: Mapping[str, Filters]
    manner: Manner
    means: Tensors

    def following(self, batches: Iterator[Batch], spent: int) -> Iterator[Batch]:
        """The batches, some looked at before they are handed out; `spent` steps come before the first."""
        for number, batch in enumerate(batches, spent):
            if number % EVERY == 0:
                self._look(batch)
            yield batch

    @torch.no_grad()
    def _look(self, batch: Batch) -> None:
        modules = dict(self.model.named_modules())
        layers = {name: modules[one.layer] for name, one in self.filters.items()}
        found: dict[str, Tensor] = {}

        def seen(layer: str, made: Tensor) -> None:
            found[layer] = _fired(made, last=self.filters[layer].last)

        with undisturbed(self.model), watched(self.model, layers, seen):
            # What the step of this batch draws, so that nothing depends on what was drawn before.
            seed_(batch.images.device, batch.key)
            if self.manner.own_code:
                seed_python_(batch.key)
            forward(self.model.train(), batch.images, self.manner)
        self.means = {
            name: DECAY * self.means[name] + (1 - DECAY) * now if name in self.means else now
            for name, now in found.items()
        }


def _fired(made: Tensor, *, last: bool) -> Tensor:
    """The sum of |x| of each channel (N,)."""
    channels = made.dim() - 1 if last else 1
    return made.abs().float().sum([axis for axis in range(made.dim()) if axis != channels])
