"""ResNet v1 for small images as Keras' example for CIFAR-10 has it, the network of Chang et al. (2021)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from prunecli.errors import UsageError
from prunecli.initializations import LINEAR_OR_CONVOLUTION, kaiming_normal_
from prunecli.models.parameters import fitting
from prunecli.models.width import Width, scaled
from prunecli.registry import models
from prunecli.task import Task

_POOL = 3


@models
def keras_resnet_20(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-20 v1 of Keras' example (Chang et al., 2021): three segments of 3 blocks, 16, 32 and 64 channels.

    Unlike `cifar_resnet_20` its convolutions have biases, which begin at 0, its projections no BatchNorm, and means
    over 3x3 (2x2 of them for 32x32 images) go into the last layer; BatchNorm has Keras' defaults. Images are 9x9 at
    least.
    """
    height, width_of_images = task.shape[1:]
    if min(map(_quarter, task.shape[1:])) < _POOL:
        raise UsageError(
            f"model 'keras_resnet_20' averages 3x3 places of what is a quarter of an image's side, and these are "
            f"{height}x{width_of_images}; give images of 9x9 at least, or take cifar_resnet_20"
        )
    model = fitting("keras_resnet_20", lambda: _KerasResNet(task, base=scaled(16, width)))
    kaiming_normal_(model, batch_norm="ones")
    for module in model.modules():
        if isinstance(module, LINEAR_OR_CONVOLUTION) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def _quarter(side: int) -> int:
    """An image's side after two strides of 2."""
    return math.ceil(math.ceil(side / 2) / 2)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """With Keras' defaults."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1)
        self.bn1 = _batch_norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.bn2 = _batch_norm(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if before != after else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, after, H / stride, W / stride) of features (B, before, H, W)."""
        values = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(values)) + self.shortcut(images))


class _KerasResNet(nn.Module):
    def __init__(self, task: Task, base: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(task.shape[0], base, 3, padding=1)
        self.bn = _batch_norm(base)
        segments = [(base, base, 1), (base, 2 * base, 2), (2 * base, 4 * base, 2)]
        self.blocks = nn.Sequential(
            *(
                _Block(before if first else after, after, stride if first else 1)
                for before, after, stride in segments
                for first in (True, False, False)
            )
        )
        height, width = (_quarter(side) // _POOL for side in task.shape[1:])
        self.fc = nn.Linear(4 * base * height * width, task.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        values = self.blocks(functional.relu(self.bn(self.conv(images))))
        logits: Tensor = self.fc(functional.avg_pool2d(values, _POOL).flatten(1))
        return logits
