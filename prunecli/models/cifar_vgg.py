"""VGGs for small images (Simonyan and Zisserman, 2015), with OpenLTH's names, BatchNorm and linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional

from prunecli.initializations import kaiming_normal_
from prunecli.models.parameters import fitting
from prunecli.models.width import Width, scaled
from prunecli.registry import Later, models
from prunecli.task import Task

Pooling = Annotated[Literal["average", "max"], Later()]
"""The last pooling: global averaging, of 2x2 for 32x32 images, as OpenLTH has it; or max pooling, as torchvision."""


@models
def cifar_vgg_11(task: Task, *, width: Width = 1.0, pooling: Pooling = "average") -> nn.Module:
    """VGG-11: 8 convolutions of 64 to 512 channels, with BatchNorm and one linear layer."""
    return _cifar_vgg(task, (1, 1, 2, 2, 2), width, pooling)


@models
def cifar_vgg_13(task: Task, *, width: Width = 1.0, pooling: Pooling = "average") -> nn.Module:
    """VGG-13: 10 convolutions of 64 to 512 channels, with BatchNorm and one linear layer."""
    return _cifar_vgg(task, (2, 2, 2, 2, 2), width, pooling)


@models
def cifar_vgg_16(task: Task, *, width: Width = 1.0, pooling: Pooling = "average") -> nn.Module:
    """VGG-16: 13 convolutions of 64 to 512 channels, with BatchNorm and one linear layer."""
    return _cifar_vgg(task, (2, 2, 3, 3, 3), width, pooling)


@models
def cifar_vgg_19(task: Task, *, width: Width = 1.0, pooling: Pooling = "average") -> nn.Module:
    """VGG-19: 16 convolutions of 64 to 512 channels, with BatchNorm and one linear layer."""
    return _cifar_vgg(task, (2, 2, 4, 4, 4), width, pooling)


def _cifar_vgg(task: Task, convolutions: Sequence[int], width: float, pooling: str) -> nn.Module:
    layers, base = sum(convolutions) + 3, scaled(64, width)
    model = fitting(f"cifar_vgg_{layers}", lambda: _VGG(task, convolutions, base, pooling))
    kaiming_normal_(model)
    return model


class _Layer(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, after, H, W) of features (B, before, H, W)."""
        return functional.relu(self.bn(self.conv(images)))


class _VGG(nn.Module):
    def __init__(self, task: Task, convolutions: Sequence[int], base: int, pooling: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = task.shape[0]
        for factor, count in zip((1, 2, 4, 8, 8), convolutions, strict=True):
            for _ in range(count):
                layers.append(_Layer(channels, factor * base))
                channels = factor * base
            # Rounding up keeps one pixel of an 8x8 image; 32x32 divides evenly.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.layers = nn.Sequential(*(layers if pooling == "max" else layers[:-1]))
        self.fc = nn.Linear(channels, task.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor = self.fc(self.layers(images).mean((2, 3)))
        return logits
