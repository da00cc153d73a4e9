"""The state that stages hand on: what training and pruning have made so far, and spots to go on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunecli.injection import Injections
from prunecli.masks import Masks, Tensors, zeroed


def error_percent(correct: NDArray[np.bool_]) -> float:
    """100 times the share that is wrong, from the whole number of wrong ones; NaN of none."""
    wrong = int(correct.size - np.count_nonzero(correct))
    return 100 * wrong / correct.size if correct.size else math.nan


@dataclass(frozen=True)
class Outcomes:
    """Each example's loss (N,) float32, and whether it is classified as its label says (N,) bool; that is empty (0,)
    where labels are numbers.
    """

    loss: Tensor
    correct: Tensor

    @property
    def error(self) -> float:
        """The share that is wrong, in percent."""
        return error_percent(self.correct.numpy())


@dataclass(frozen=True)
class Midway:
    """A spot inside a level, to go on from: its stages before `stage` are done, and `steps` of that stage's training.

    `around` has the test outcomes `before` and `after` the level's pruning, as far as they were taken.
    """

    level: int
    stage: int = 0
    steps: int = 0
    around: Mapping[str, Outcomes] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedPoint:
    """Weights and buffers as `save` found them, and the place on the schedules, in steps."""

    weights: Tensors
    buffers: Tensors
    step: int


def _on(tensors: Tensors, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class State:
    """Everything that training goes on from.

    `step` is the place on the schedules, and rewinds; `spent` counts the steps ever taken, only grows, and
    keys data order and augmentation. `optimizer` maps `slot/parameter` to the optimizer's tensors.
    The weights are exactly 0 wherever `masks` drops them: only `with_masks` changes masks.
    `observed` is what was observed inside the level so far, by its place in the store (see `observers`); `activations`
    are running means that some criteria ask for; `injections` are what is done to layers in place of dropping filters.
    """

    weights: Tensors
    buffers: Tensors
    masks: Masks
    optimizer: Tensors = field(default_factory=dict)
    step: int = 0
    spent: int = 0
    points: Mapping[str, SavedPoint] = field(default_factory=dict)
    observed: Tensors = field(default_factory=dict)
    activations: Tensors = field(default_factory=dict)
    injections: Injections = field(default_factory=dict)

    def with_masks(self, masks: Masks) -> State:
        """The state under other masks: dropped weights and their optimizer slots become exactly 0."""
        optimizer = {}
        for place, tensor in self.optimizer.items():
            mask = masks.get(place.partition("/")[2])
            masked = mask is not None and mask.shape == tensor.shape
            optimizer[place] = zeroed(tensor, mask) if masked and mask is not None else tensor
        return replace(self, weights=masks.apply(self.weights), masks=masks, optimizer=optimizer)

    def with_weights(self, weights: Tensors, buffers: Tensors) -> State:
        """The state with other weights and buffers, the masks applied."""
        return replace(self, weights=self.masks.apply(weights), buffers=buffers)

    def without_momentum(self) -> State:
        """The state with an optimizer that has seen nothing yet."""
        return replace(self, optimizer={})

    def to(self, device: torch.device) -> State:
        """The state with its tensors on the device."""
        points = {
            name: replace(point, weights=_on(point.weights, device), buffers=_on(point.buffers, device))
            for name, point in self.points.items()
        }
        return replace(
            self,
            weights=_on(self.weights, device),
            buffers=_on(self.buffers, device),
            masks=Masks(_on(self.masks, device), self.masks.beside),
            optimizer=_on(self.optimizer, device),
            points=points,
            activations=_on(self.activations, device),
            injections={layer: one.to(device) for layer, one in self.injections.items()},
        )
