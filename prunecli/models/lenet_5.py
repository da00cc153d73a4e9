"""LeNet-5, with the ReLU and max pooling that are usual today."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from prunecli.initializations import kaiming_normal_
from prunecli.models.parameters import fitting
from prunecli.models.width import Width, scaled
from prunecli.registry import models
from prunecli.task import Task

_FRAME = 32


@models
def lenet_5(task: Task, *, width: Width = 1.0) -> nn.Module:
    """LeNet-5: 5x5 convolutions of 6 and 16 channels, hidden layers of 120 and 84 (LeCun et al., 1998).

    Smaller images stand in the middle of a 32x32 frame of zeros, as MNIST's 28x28 did there: 8x8 works.
    """
    model = fitting("lenet_5", lambda: _LeNet5(task, *(scaled(size, width) for size in (6, 16, 120, 84))))
    kaiming_normal_(model)
    return model


class _LeNet5(nn.Module):
    def __init__(self, task: Task, first: int, second: int, third: int, fourth: int) -> None:
        super().__init__()
        channels, *size = task.shape
        self.conv_layers = nn.ModuleList([nn.Conv2d(channels, first, 5), nn.Conv2d(first, second, 5)])
        height, width = (_after_convolutions(max(side, _FRAME)) for side in size)
        self.fc_layers = nn.ModuleList([nn.Linear(second * height * width, third), nn.Linear(third, fourth)])
        self.fc = nn.Linear(fourth, task.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        values = _framed(images)
        for layer in self.conv_layers:
            values = functional.max_pool2d(functional.relu(layer(values)), 2)
        values = values.flatten(1)
        for layer in self.fc_layers:
            values = functional.relu(layer(values))
        logits: Tensor = self.fc(values)
        return logits


def _after_convolutions(side: int) -> int:
    return ((side - 4) // 2 - 4) // 2


def _framed(images: Tensor) -> Tensor:
    height, width = (max(0, _FRAME - side) for side in images.shape[-2:])
    return functional.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
