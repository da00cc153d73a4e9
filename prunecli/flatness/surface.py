"""A loss as a function of the kept weights: its value beside them, its curvature, its gradients example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunecli.masks import Tensors

Losses = Callable[[Tensors, Tensor, Tensor], Tensor]
"""The losses (B,) of parameters on inputs (B, ...) and targets (B, ...)."""
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Inputs and targets in chunks, the same ones at each call: as much memory is taken as a chunk's derivatives need."""


@dataclass(frozen=True)
class Surface:
    """The mean loss over all examples around parameters, of which only what `masks` keep counts as coordinates.

    Vectors have the kept weights in the parameters' order, (N,) of one type and device: nothing here leaves the kept
    weights, so the Hessian is the block of theirs.
    """

    losses: Losses
    parameters: Tensors
    batches: Batches
    masks: Tensors = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """How many weights are kept."""
        return int(self._kept.sum())

    @cached_property
    def here(self) -> Tensor:
        """The kept weights (N,), whose type and device all vectors have."""
        return self.vector(self.parameters)

    def vector(self, tensors: Tensors) -> Tensor:
        """What tensors, named and shaped as the parameters, have where weights are kept (N,)."""
        return torch.cat([tensors[name].flatten() for name in self.parameters])[self._kept]

    def tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """The vector as tensors named and shaped as the parameters, 0 where weights are dropped."""
        whole = vector.new_zeros(len(self._kept))
        whole[self._kept] = vector
        parts = torch.split(whole, [one.numel() for one in self.parameters.values()])
        return {
            name: part.view_as(one) for (name, one), part in zip(self.parameters.items(), parts, strict=True)
        }

    @torch.no_grad()
    def loss(self, step: Tensor | None = None) -> float:
        """The mean loss, where a step (N,) away from the parameters if one is given."""
        there = self.parameters
        if step is not None:
            moved = self.tensors(step)
            there = {name: one + moved[name] for name, one in there.items()}
        total, examples = 0.0, 0
        for inputs, targets in self.batches():
            total += float(self.losses(there, inputs, targets).double().sum())
            examples += len(targets)
        return total / examples

    def product(self, direction: Tensor) -> Tensor:
        """The Hessian of the mean loss times a direction (N,) (Pearlmutter, 1994), by differentiating twice."""
        along, total, examples = self.tensors(direction), torch.zeros_like(direction), 0
        for inputs, targets in self.batches():
            at, gradients = self._gradients(inputs, targets, twice=True)
            slope = torch.stack([(gradients[name] * along[name]).sum() for name in at]).sum()
            examples += len(targets)
            if slope.requires_grad:  # the slope of a loss that is linear is the same everywhere
                again = torch.autograd.grad(
                    slope, list(at.values()), allow_unused=True, materialize_grads=True
                )
                total += self.vector(dict(zip(at, again, strict=True)))
        return total / examples

    def gradient_square(self) -> float:
        """The mean over examples of the squared norm of an example's gradient: the trace of their uncentred covariance.

        One example after another: it takes as little memory as there can be, and works for any model.
        """
        total, examples = 0.0, 0
        for inputs, targets in self.batches():
            for one in torch.split(torch.arange(len(targets), device=targets.device), 1):
                _, gradients = self._gradients(inputs[one], targets[one])
                total += float(self.vector(gradients).double().square().sum())
            examples += len(targets)
        return total / examples

    def _gradients(
        self, inputs: Tensor, targets: Tensor, *, twice: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The parameters, and the gradients of the summed loss with respect to them."""
        at = {name: one.detach().requires_grad_() for name, one in self.parameters.items()}
        with differentiable_twice():
            loss = self.losses(at, inputs, targets).sum()
            found = torch.autograd.grad(
                loss, list(at.values()), create_graph=twice, allow_unused=True, materialize_grads=True
            )
        return at, dict(zip(at, found, strict=True))

    @cached_property
    def _kept(self) -> Tensor:
        """Whether each weight is kept, all parameters in a row."""
        parts = [
            self.masks[name].flatten() if name in self.masks else one.new_ones(one.numel(), dtype=torch.bool)
            for name, one in self.parameters.items()
        ]
        return torch.cat(parts)


def rise_distance(
    loss: Callable[[Tensor], float], directions: Tensor, rise: float, *, farthest: float, step: float
) -> float:
    """The least multiple of `step`, up to `farthest`, that raises the loss by `rise` along a direction or against it.

    `directions` are unit vectors (K, N). NaN where none of them does. A loss that is NaN there has risen.
    """
    if not len(directions):
        return math.nan
    start = loss(torch.zeros_like(directions[0]))
    for number in range(1, round(farthest / step) + 1):
        for direction in directions:
            for size in (number * step, -number * step):
                # The comparison is turned round for a loss that is NaN.
                if not loss(size * direction) - start < rise:
                    return number * step
    return math.nan


@contextmanager
def full_precision() -> Iterator[None]:
    """Have a GPU multiply in float32 proper until the block ends: the last digits decide where eigenvalues settle."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    try:
        cuda.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Have attention written out in products and sums: its quicker forms have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
