"""Criteria: scores for weights; pruning drops the lowest. Positional parameters name the evidence needed."""

from __future__ import annotations

import torch

from prunecli.masks import Tensors
from prunecli.registry import criteria


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


@criteria(name="random")
def random_(weights: Tensors, generator: torch.Generator) -> Tensors:
    """Uniform random numbers, drawn afresh at every pruning."""
    return {
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in weights.items()
    }
