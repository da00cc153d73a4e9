"""Criteria for whole filters: a score (N,) for each filter of a layer, see `prune_layers`.

Bartoldson et al. (2020), section 3 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from prunecli.masks import Tensors
from prunecli.registry import criteria

Norms = Mapping[str, tuple[Tensor, Tensor]]


@criteria(filters=True)
def l1_norm(weights: Tensors) -> Tensors:
    """The sum of |w| of a filter (Li et al., 2017)."""
    return {name: weight.flatten(1).abs().sum(1) for name, weight in weights.items()}


@criteria(filters=True)
def l2_norm(weights: Tensors) -> Tensors:
    """The Euclidean norm of a filter."""
    return {name: weight.flatten(1).norm(dim=1) for name, weight in weights.items()}


@criteria(filters=True)
def expected_activation(norms: Norms) -> Tensors:
    """E[BN]: a filter's mean after BatchNorm and ReLU if its normalized output is Gaussian (Bartoldson et al., 2020).

    With scale g and shift b it is `b Phi(b / |g|) + |g| phi(b / |g|)`, and `max(b, 0)` where g is 0.
    """
    return {name: _expected(scale.abs(), shift) for name, (scale, shift) in norms.items()}


@criteria(filters=True)
def signed_expected_activation(norms: Norms) -> Tensors:
    """E[BN] with g in place of |g|, as a variant of the paper's code has it; negative scales give another number."""
    return {name: _expected(scale, shift) for name, (scale, shift) in norms.items()}


@criteria(filters=True)
def mean_activation(activations: Tensors) -> Tensors:
    """The running mean over training batches of a filter's |activation| before the nonlinearity, see `Firing`."""
    return dict(activations)


def _expected(scale: Tensor, shift: Tensor) -> Tensor:
    """`b P + g p` with the normal distribution's P at b / |g| of the sign of g, and its density p."""
    scale, shift = scale.double(), shift.double()
    ratio = shift / torch.where(scale == 0, torch.ones_like(scale), scale)
    # 1 - Phi(-b / g), as in the paper's code, is Phi(b / g) for either sign of g.
    found = shift * torch.special.ndtr(ratio) + scale * _density(ratio)
    return torch.where(scale == 0, shift.clamp(min=0), found)


def _density(value: Tensor) -> Tensor:
    return torch.exp(-value.square() / 2) / math.sqrt(2 * math.pi)
