"""How a model's weights begin: functions that set them in place, drawing from torch's global generator."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from prunecli.registry import initializations

LINEAR_OR_CONVOLUTION = (nn.Linear, _ConvNd)
"""The layers whose weights are initialized here and can be pruned; their subclasses too."""


@initializations
def own(model: nn.Module) -> None:
    """Leaves the weights as the model's definition, or its library, drew them."""


@initializations
def kaiming_normal_(model: nn.Module, *, batch_norm: Literal["uniform", "ones"] = "uniform") -> None:
    """N(0, 2 / fan in) for linear and convolution weights, U(0, 1) for BatchNorm's (OpenLTH's defaults).

    BatchNorm biases become 0; other biases and layers stay as they are.
    """
    draw_ = nn.init.uniform_ if batch_norm == "uniform" else nn.init.ones_
    for module in model.modules():
        if isinstance(module, LINEAR_OR_CONVOLUTION):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, _BatchNorm) and module.affine:
            draw_(module.weight)
            nn.init.zeros_(module.bias)


@initializations
def pytorch_(model: nn.Module) -> None:
    """PyTorch's defaults: `reset_parameters` of every module that has one, inner modules first."""
    model.apply(_reset_)


@initializations
def vgg_(model: nn.Module) -> None:
    """torchvision's VGGs: N(0, 2 / fan out) for convolutions, N(0, 0.01^2) for linear weights, 1 for BatchNorm's.

    All their biases become 0; other layers stay as they are.
    """
    for module in model.modules():
        if isinstance(module, _ConvNd):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        elif isinstance(module, _BatchNorm) and module.affine:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _reset_(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
