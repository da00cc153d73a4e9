"""Noise in place of removal: what is done to weights for so many training batches, and then no more.

Bartoldson et al. (2020), section 4.3 and appendix D, zero or disturb the filters that pruning would have removed, to
tell the noise that pruning is from the smaller network that it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from prunecli.masks import Tensors
from prunecli.randomness import key

Temporary = Literal["zero", "restore", "gaussian"]
T = TypeVar("T")


@dataclass(frozen=True)
class Injection:
    """What is injected into a layer from `start` spent steps until `until` are, and which units were ever chosen.

    The event has done by itself what comes before its first batch. `chosen` are the layer's units, True where one was
    chosen at this event or an earlier one. `targets` are the entries of parameters that are held, `saved` the values
    that are put back at the end, `scale` () the standard deviation of the noise.
    """

    effect: Temporary
    start: int
    until: int
    chosen: Tensor
    targets: Tensors = field(default_factory=dict)
    saved: Tensors = field(default_factory=dict)
    scale: Tensor = field(default_factory=lambda: torch.zeros(()))

    def to(self, device: torch.device) -> Injection:
        """The injection with its tensors on the device."""
        targets, saved = (
            {name: t.to(device) for name, t in part.items()} for part in (self.targets, self.saved)
        )
        chosen, scale = self.chosen.to(device), self.scale.to(device)
        return replace(self, chosen=chosen, targets=targets, saved=saved, scale=scale)

    @property
    def over(self) -> Injection:
        """What is left once it has ended: which units were chosen."""
        return replace(self, targets={}, saved={})


Injections = Mapping[str, Injection]
"""By the weights that layers have; each goes on for as long as it does, whatever is injected into another."""


@torch.no_grad()
def apply_(injection: Injection, tensors: Mapping[str, Tensor], seed: int, spent: int) -> None:
    """Do to the tensors what is done before the training batch that `spent` steps come before.

    Weights to zero are zeroed anew; Gaussian noise is drawn anew and added to what is there. From the step `until` on
    nothing is done, but that what was saved is put back then.
    """
    if injection.start < spent < injection.until:
        disturb_(injection, tensors, seed, spent)
    elif spent == injection.until:
        put_back_(injection, tensors)


@torch.no_grad()
def disturb_(injection: Injection, tensors: Mapping[str, Tensor], seed: int, spent: int) -> None:
    """Zero the targets, or add noise to them."""
    for name, target in injection.targets.items():
        if injection.effect == "gaussian":
            tensors[name].add_(_noise(injection, name, target, seed, spent))
        else:
            tensors[name].masked_fill_(target, 0.0)


@torch.no_grad()
def put_back_(injection: Injection, tensors: Mapping[str, Tensor]) -> None:
    """Put the saved values back where they were."""
    for name, value in injection.saved.items():
        target = injection.targets[name]
        tensors[name].copy_(torch.where(target, value.to(tensors[name].dtype), tensors[name]))


def injected(
    batches: Iterator[T], injections: Injections, tensors: Mapping[str, Tensor], seed: int, spent: int
) -> Iterator[T]:
    """The batches, each handed out once the tensors are as injections say; `spent` steps come before the first."""
    for number, batch in enumerate(batches, spent):
        for injection in injections.values():
            apply_(injection, tensors, seed, number)
        yield batch


def _noise(injection: Injection, name: str, target: Tensor, seed: int, spent: int) -> Tensor:
    """N(0, scale^2) where the target is, else 0: the same for equal seeds, steps and names."""
    generator = torch.Generator().manual_seed(key("injection", seed, spent, name))
    # Drawn on the CPU, so that every device adds the same; and no more than are needed.
    drawn = torch.randn(int(target.sum()), generator=generator).to(target.device)
    return torch.zeros(target.shape, device=target.device).masked_scatter_(target, drawn * injection.scale)
