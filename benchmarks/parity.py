"""Whether what is compared does the same work: the first losses of each side, and the weights that they end in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from benchmarks.bare import Bare, bare, prunecli_draws
from benchmarks.openlth_style import style
from benchmarks.workloads import SUITE, Bench, Workload, made

STEPS = 50
CLOSE = 1e-3
"""How far a loss of the OpenLTH-style loop may be from ours, relative to it: it has other kernels."""
FED = 3
"""Steps of it that are compared: rounding grows from step to step."""
_CHECKED = {"vgg": "cifar_vgg_16: {width: 0.5}"}
_NARROW = {"resnet": "cifar_resnet_20: {width: 0.25}", "vgg": "cifar_vgg_16: {width: 0.125}"}


@dataclass(frozen=True)
class Parity:
    """Of so many losses how many are equal to the bit, the largest relative difference, and what the weights say."""

    steps: int
    equal: int
    farthest: float
    same_weights: bool

    @property
    def bitwise(self) -> bool:
        """Whether all losses and weights are equal to the bit."""
        return self.equal == self.steps and self.same_weights


def short(name: str, **more: object) -> Workload:
    """The workload with so few images, and such small batches of them, that its first steps take seconds.

    Half a batch ends an epoch: a mean over a power of two is exact, so that a step's loss can be told from an epoch's.
    """
    batch = {"lenet": 128, "resnet": 32, "vgg": 8}[name]
    return replace(SUITE[name], train=9 * batch + batch // 2, test=128, batch=batch, steps=None, **more)  # type: ignore[arg-type]  # a workload's fields


def our_losses(bench: Bench, steps: int) -> list[float]:
    """The losses of prunecli's first steps: it tells of each training, here one step long."""
    state = bench.state
    bench.seen.clear()
    for _ in range(steps):
        state = bench.train(state, 1)
    return [seen.loss for seen in bench.seen]


def against_bare(bench: Bench, loop: Bare | None = None, steps: int = STEPS) -> Parity:
    """prunecli's first steps beside the bare loop's with the same draws; weights after one training of all."""
    loop = loop or bare(bench, prunecli_draws(bench))
    ours = our_losses(bench, steps)
    ended = bench.train(steps=steps)
    theirs: list[float] = []
    while len(theirs) < steps:
        theirs += loop.train(0, min(bench.lab.steps_per_epoch, steps - len(theirs))).tolist()
    weights = dict(loop.model.named_parameters())
    same = all(torch.equal(weights[name], weight) for name, weight in ended.weights.items())
    return _parity(ours, theirs, same)


def against_openlth_style(bench: Bench, steps: int = FED) -> Parity:
    """prunecli's first steps beside the OpenLTH-style loop's, which is fed the same draws."""
    draws = prunecli_draws(bench)(0)
    loop = style(bench, fed=draws, workers=0)
    order = draws.order[: steps * bench.workload.batch].tolist()
    theirs = loop.train(order)
    return _parity(our_losses(bench, len(theirs)), theirs, False)


def parity_bench(name: str, device: torch.device, quick: bool = False) -> Bench:
    """The bench that parity is checked on; VGG is half as wide, which keeps its mixed memory formats."""
    models = _NARROW if quick else _CHECKED
    return made(short(name, **({"model": models[name]} if name in models else {})), device)


def _parity(ours: list[float], theirs: list[float], same_weights: bool) -> Parity:
    pairs = list(zip(ours, theirs, strict=True))
    equal = sum(our == their for our, their in pairs)
    farthest = max(abs(our - their) / max(abs(our), 1e-12) for our, their in pairs)
    return Parity(len(pairs), equal, farthest, same_weights)
