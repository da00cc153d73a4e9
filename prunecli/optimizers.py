"""Optimizers: torch's, with weight decay on every parameter or on weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from prunecli.registry import optimizers

Parameters = Mapping[str, nn.Parameter]
Decay = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Decayed = Literal["all", "weights"]
"""`all` decays every parameter, as OpenLTH does; `weights` leaves out biases and norms (one axis or none)."""


@optimizers
def sgd(
    parameters: Parameters,
    *,
    momentum: Share = 0.0,
    nesterov: bool = False,
    weight_decay: Decay = 0.0,
    decayed: Decayed = "all",
) -> Optimizer:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum."""
    groups = _groups(parameters, weight_decay, decayed)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=True)


@optimizers
def adam(
    parameters: Parameters,
    *,
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.9, 0.999],  # noqa: B006  (never changed)
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.0,
    decayed: Decayed = "all",
) -> Optimizer:
    """Adam, its decay a part of the gradient (Kingma and Ba, 2015)."""
    groups = _groups(parameters, weight_decay, decayed)
    return torch.optim.Adam(groups, lr=0.0, betas=(betas[0], betas[1]), eps=epsilon, fused=True)


@optimizers
def adamw(
    parameters: Parameters,
    *,
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.9, 0.999],  # noqa: B006  (never changed)
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.01,
    decayed: Decayed = "all",
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    groups = _groups(parameters, weight_decay, decayed)
    return torch.optim.AdamW(groups, lr=0.0, betas=(betas[0], betas[1]), eps=epsilon, fused=True)


@optimizers
def rmsprop(
    parameters: Parameters,
    *,
    alpha: Share = 0.99,
    momentum: Share = 0.0,
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.0,
    decayed: Decayed = "all",
) -> Optimizer:
    """RMSprop (Tieleman and Hinton, 2012)."""
    groups = _groups(parameters, weight_decay, decayed)
    return torch.optim.RMSprop(groups, lr=0.0, alpha=alpha, momentum=momentum, eps=epsilon)


def _groups(
    parameters: Parameters, weight_decay: float, decayed: Decayed
) -> list[dict[str, Any]]:  # Any: torch's
    """Parameter groups: those that decay, and those that do not."""
    decays = [p for p in parameters.values() if decayed == "all" or p.dim() > 1]
    stays = [p for p in parameters.values() if not (decayed == "all" or p.dim() > 1)]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
