"""The two-layer network of Yang et al. (2023): the same neurons look at each patch, and their outputs are added up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from prunecli.errors import UsageError
from prunecli.models.parameters import fitting
from prunecli.registry import models
from prunecli.task import Task


@models
def two_layer(
    task: Task,
    *,
    neurons: Annotated[int, Field(ge=1, le=1_000_000)] = 50,
    power: Annotated[float, Field(ge=1, le=10)] = 2.0,
    std: Annotated[float, Field(ge=0, le=100)] = 0.01,
) -> nn.Module:
    """f_j(x) = sum over r and patches p of max(<w_jr, x_p>, 0)^power, `neurons` for each class j (Yang et al., 2023).

    For data of patches, images (1, P, d). The second layer is fixed to ones; W is N(0, `std`^2). `power: 1` is ReLU.
    """
    if task.shape[0] != 1:
        raise UsageError(
            f"model 'two_layer' takes images (1, patches, dimension), such as those of two_patches; the data's have "
            f"{task.shape[0]} channels"
        )
    return fitting("two_layer", lambda: TwoLayer(task, neurons, power, std))


class TwoLayer(nn.Module):
    """See `two_layer`; row j * neurons + r of `first.weight` is w_jr."""

    def __init__(self, task: Task, neurons: int, power: float, std: float) -> None:
        super().__init__()
        self.classes, self.neurons, self.power = task.classes, neurons, power
        self.first = nn.Linear(task.shape[2], task.classes * neurons, bias=False)
        nn.init.normal_(self.first.weight, std=std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, P, d)."""
        seen = self.first(images.flatten(1, 2)).relu()
        # A general power takes ten times as long.
        active = seen if self.power == 1 else seen.square() if self.power == 2 else seen.pow(self.power)
        logits: Tensor = active.sum(1).view(-1, self.classes, self.neurons).sum(2)
        return logits
