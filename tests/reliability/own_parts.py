"""A user's own model, with all that a step can leave behind: BatchNorm's statistics and dropout's draws."""

from __future__ import annotations

import random

import numpy as np
from torch import Tensor, nn

from prunecli.task import Task


class Drawing(nn.Module):
    """Multiplies by numbers from Python's and NumPy's global generators while it trains, as careless code does."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return images
        return images * (1 + 0.01 * random.random() + 0.01 * float(np.random.random()))


def careless(task: Task) -> nn.Module:
    """A small convolutional network with BatchNorm and dropout."""
    channels, height, width = task.shape
    return nn.Sequential(
        Drawing(),
        nn.Conv2d(channels, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * height * width, task.classes),
    )
