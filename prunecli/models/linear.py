"""Linear models of the first features, the important ones: how many they see is their width."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from prunecli.errors import UsageError
from prunecli.models.parameters import fitting
from prunecli.registry import models
from prunecli.task import Task

Features = Annotated[int, Field(ge=1, le=10_000_000)]


@models
def linear(task: Task, *, features: Features | None = None) -> nn.Module:
    """One weight for each of the first `features` inputs and each output, no bias; by default it sees all inputs.

    Weights begin at 0, from where gradient descent finds the interpolator of minimum norm; `initialization` draws them.
    """
    inputs = math.prod(task.shape)
    if features is not None and features > inputs:
        raise UsageError(
            f"model 'linear': 'features' is {features:,}, and the data have {inputs:,}; give at most those"
        )
    return fitting("linear", lambda: LinearModel(features or inputs, task.classes))


class LinearModel(nn.Module):
    """x[:p] @ weight.T, without a bias."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.fc = nn.Linear(features, outputs, bias=False)
        nn.init.zeros_(self.fc.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (B, outputs) of inputs (B, C, H, W)."""
        outputs: Tensor = self.fc(inputs.flatten(1)[:, : self.features])
        return outputs
