"""What is done to the inputs themselves, in training and test alike: nothing, or Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunecli.datasets.values import READY_BYTES, Augment, Dataset, Images
from prunecli.gaussian import normals
from prunecli.randomness import key
from prunecli.registry import Choice, inputs

_MOST = 4
"""Below one part in so many of a split's examples, noise is drawn for them alone, and not kept."""


@inputs
def clean(images: Images, _draws: int, _shape: tuple[int, ...]) -> Images:
    """The inputs as they are."""
    return images


@inputs
def gaussian(
    images: Images, draws: int, shape: tuple[int, ...], *, std: Annotated[float, Field(ge=0, le=1e6)]
) -> Images:
    """Gaussian noise on every pixel, in training and test, in units of the normalized pixels (Yang et al., 2023).

    Drawn once for each seed and example: it stays the same from epoch to epoch, and is added after augmentation.
    """
    return NoisyImages(images, draws, shape, std) if std else images


def with_inputs(dataset: Dataset, choice: Choice, seed: int) -> Dataset:
    """The dataset of a seed with its inputs as the choice has them."""
    train, test = (
        replace(part, images=choice(part.images, key("inputs", seed, name), dataset.task.shape))
        for name, part in (("train", dataset.train), ("test", dataset.test))
    )
    return replace(dataset, train=train, test=test)


@dataclass(frozen=True)
class NoisyImages:
    """Images (C, H, W) of a `shape` with noise on them, which the `key` and an image's number say alone."""

    images: Images
    key: int
    shape: tuple[int, ...]
    std: float

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`."""
        kept = self._keeps(sum(map(len, order)), device)
        for batch, index in zip(self.images.batches(order, augment, device), order, strict=True):
            noise = self._kept(device).index_select(0, index.to(device)) if kept else self._of(index, device)
            # What is handed out may be a source's own: it is not changed in place.
            yield batch + noise.view(batch.shape)

    def to(self, device: torch.device) -> Images:
        """The same images, kept on the device where they fit there."""
        return replace(self, images=self.images.to(device))

    def _keeps(self, asked: int, device: torch.device) -> bool:
        fits = len(self) * math.prod(self.shape) * torch.float32.itemsize <= READY_BYTES
        return fits and (str(device) in self._drawn or _MOST * asked >= len(self))

    def _kept(self, device: torch.device) -> Tensor:
        """The noise of all images (N, C * H * W)."""
        if str(device) not in self._drawn:
            self._drawn[str(device)] = self._of(torch.arange(len(self)), device)
        return self._drawn[str(device)]

    def _of(self, index: Tensor, device: torch.device) -> Tensor:
        return normals(self.key, index.to(device), math.prod(self.shape)) * self.std

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        # What is drawn goes to no other process: it is drawn there.
        return {name: value for name, value in self.__dict__.items() if name != "_drawn"}
