"""Fully connected networks; parameters are named as OpenLTH names LeNet's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from prunecli.initializations import kaiming_normal_
from prunecli.models.parameters import fitting
from prunecli.models.width import Width, scaled
from prunecli.registry import models
from prunecli.task import Task

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}

Hidden = Annotated[list[Annotated[int, Field(ge=1, le=1_000_000)]], Field(max_length=1000)]


@models
def lenet_300_100(task: Task, *, width: Width = 1.0) -> nn.Module:
    """LeNet-300-100: two hidden layers with ReLU (LeCun et al., 1998)."""
    return mlp(task, hidden=[300, 100], width=width)


@models
def mlp(
    task: Task, *, hidden: Hidden, width: Width = 1.0, activation: Literal["relu", "tanh", "gelu"] = "relu"
) -> nn.Module:
    """A fully connected network with these hidden layers, each size times `width`; none is a linear model."""
    sizes = [math.prod(task.shape), *(scaled(size, width) for size in hidden)]
    model = fitting("mlp", lambda: _FullyConnected(sizes, task.classes, _ACTIVATIONS[activation]()))
    kaiming_normal_(model)
    return model


class _FullyConnected(nn.Module):
    def __init__(self, sizes: Sequence[int], classes: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc_layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.activation = activation
        self.fc = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        values = images.flatten(1)
        for layer in self.fc_layers:
            values = self.activation(layer(values))
        logits: Tensor = self.fc(values)
        return logits
