"""What a model is built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Loss = Literal["cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Task:
    """Inputs of `shape` (channels, height, width), to be told apart as one of `classes`.

    With a `squared_error` there is one output, which is to be near a label that is a number.
    """

    shape: tuple[int, int, int]
    classes: int
    loss: Loss = "cross_entropy"

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers, so that there is nothing to be right or wrong about."""
        return self.loss == "squared_error"
