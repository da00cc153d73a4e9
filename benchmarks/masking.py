"""P4: what masks cost a training step, beside no masks and beside torch's own ways to prune."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torchs_prune

from benchmarks.bare import Bare, bare
from benchmarks.measure import Work, interleaved
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_least, compared
from benchmarks.workloads import DECAY, MOMENTUM, RATE, Bench, bench
from prunecli import masks

_TARGETS = {"lenet": at_least(1 / 1.05), "resnet": at_least(1 / 1.01)}
"""A masked step takes at most 1.05 times a dense one of LeNet, and 1.01 times one of a convolutional network."""


class _Product(nn.Module):
    """A parametrization: the weight times its mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, 0 where it is dropped."""
        return weight * self.mask


@benchmark("P4")
def masking(at: Circumstances) -> Iterator[Row]:
    """A masked step beside a dense one, torch.nn.utils.prune and a parametrization."""
    for name in ("lenet", "resnet"):
        made = bench(name, at)
        steps = min(made.steps, 100 if name == "lenet" else 4)
        dense = made.lab.initial()
        sides: dict[str, Work] = {
            "ours": partial(made.train, made.state, steps),
            "dense": partial(made.train, dense, steps),
            "torch.nn.utils.prune": partial(_hooked(made).train, made.first, steps),
            "parametrize": partial(_parametrized(made).train, made.first, steps),
        }
        taken = interleaved(sides, at.few(3) if name == "resnet" else at.rounds, at.device)
        for peer in list(sides)[1:]:
            against = "the same without masks" if peer == "dense" else f"bare loop with {peer}"
            what = f"{made.workload.title}: {steps} masked steps"
            target = _TARGETS[name] if peer == "dense" else None
            yield compared("P4", what, against, taken, "ours", peer, target=target)


def _hooked(made: Bench) -> Bare:
    loop = bare(made)
    for module, own, mask in _places(loop.model, made.state.masks):
        torchs_prune.custom_from_mask(module, own, mask)  # type: ignore[no-untyped-call]  # torch's
    return _unmasked(loop)


def _parametrized(made: Bench) -> Bare:
    loop = bare(made)
    for module, own, mask in _places(loop.model, made.state.masks):
        parametrize.register_parametrization(module, own, _Product(mask))
    return _unmasked(loop)


def _places(model: nn.Module, kept: masks.Masks) -> list[tuple[nn.Module, str, Tensor]]:
    found = []
    for name, mask in kept.items():
        module, _, own = name.rpartition(".")
        found.append((model.get_submodule(module), own, mask.float()))
    return found


def _unmasked(loop: Bare) -> Bare:
    loop.masked = []
    loop.optimizer = torch.optim.SGD(
        loop.model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True
    )
    return loop
