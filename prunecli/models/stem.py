"""Changes to the first layers of a library's model, for inputs that it was not designed for."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prunecli.errors import UsageError

Stem = Literal["own", "cifar"]


def with_stem_(model: nn.Module, stem: Stem, name: str) -> nn.Module:
    """The model, for `cifar` with a 3x3 first convolution of stride 1 and no pooling after it (ResNets)."""
    if stem == "own":
        return model
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise UsageError(
            f"'stem: cifar' does not fit {name}, whose first layers are {_children(model)}; "
            "it replaces conv1 and maxpool, as in timm:resnet18 or torchvision:resnet18"
        )
    model.conv1 = fresh(nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False))
    model.maxpool = nn.Identity()
    return model


def with_channels_(model: nn.Module, channels: int) -> nn.Module:
    """The model with a first convolution for this many input channels, drawn anew where they differ."""
    name, first = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    if first.in_channels != channels:
        model.set_submodule(name, fresh(_like(first, channels)))
    return model


def fresh(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights from N(0, 2 / fan out), as timm and torchvision draw those of ResNets."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _like(first: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        first.out_channels,
        kernel_size=first.kernel_size,  # type: ignore[arg-type]  # declared as tuple[int, ...]
        stride=first.stride,  # type: ignore[arg-type]  # the same
        padding=first.padding,  # type: ignore[arg-type]  # the same
        bias=first.bias is not None,
    )


def _children(model: nn.Module) -> str:
    return ", ".join(list(dict(model.named_children()))[:3])
