"""Criteria: scores for weights; pruning drops the lowest. Positional parameters name the evidence needed."""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
from pydantic import Field

from prunecli.masks import Tensors
from prunecli.registry import criteria

PerClass = Annotated[int, Field(ge=1, le=1_000_000)]
Rounds = Annotated[int, Field(ge=1, le=10_000)]
Temperature = Annotated[float, Field(gt=0)]


class Slopes(Protocol):
    """Derivatives of the mean training loss where the weights are, in training mode.

    In each of so many rounds so many training examples of each class are drawn, without augmentation and with their
    labels as used; a regression draws so many in all. Each seed draws its own, the same at every pruning.
    """

    def gradient(self, per_class: int, rounds: int) -> Tensors:
        """dL/dw of the prunable weights."""
        ...

    def hessian_gradient(self, per_class: int, rounds: int, temperature: float) -> Tensors:
        """The Hessian of L with regard to the prunable weights, times their gradient; logits divided as said."""
        ...


@criteria
def magnitude(weights: Tensors) -> Tensors:
    """|w| (Han et al., 2015)."""
    return {name: weight.abs() for name, weight in weights.items()}


@criteria
def synflow(weights: Tensors, flow: Tensors) -> Tensors:
    """|w dR/dw|, R being what flows through |w| from an input of ones (Tanaka et al., 2020, section 6).

    It looks at no data. Asked for once it empties layers: prune in many small steps, as `recipes/synflow.yaml` does.
    """
    return {name: (weight.to(flow[name].dtype) * flow[name]).abs() for name, weight in weights.items()}


@criteria
def snip(weights: Tensors, slopes: Slopes, *, per_class: PerClass = 10, rounds: Rounds = 1) -> Tensors:
    """|w dL/dw|: how much the loss changes, to first order, as the weight is dropped (Lee et al., 2019, section 4).

    L is over `per_class` training examples of each class, in the mean over so many `rounds` of drawing them.
    """
    gradient = slopes.gradient(per_class, rounds)
    return {name: (weight * gradient[name]).abs() for name, weight in weights.items()}


@criteria
def grasp(
    weights: Tensors,
    slopes: Slopes,
    *,
    per_class: PerClass = 10,
    rounds: Rounds = 1,
    temperature: Temperature = 200.0,
) -> Tensors:
    """w Hg: half of what the squared norm of the gradient g loses as the weight is dropped (Wang et al., 2020).

    The paper scores -w Hg and drops the highest. Examples as for `snip`; logits are divided by the `temperature`.
    """
    product = slopes.hessian_gradient(per_class, rounds, temperature)
    return {name: weight * product[name] for name, weight in weights.items()}


@criteria(name="random")
def random_(weights: Tensors, generator: torch.Generator) -> Tensors:
    """Uniform random numbers, drawn afresh at every pruning."""
    return {
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in weights.items()
    }
