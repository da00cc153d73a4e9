"""What a dataset is: two splits of images and labels, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from prunecli import own_code
from prunecli.errors import UsageError
from prunecli.randomness import Draw, key
from prunecli.registry import Choice
from prunecli.task import Task

READY_BYTES = 256 << 20
"""How large the images of a split may be to be kept normalized as well: once is cheaper than at each step."""
GPU_BLOCK, GPU_BLOCK_BYTES = 64, 256 << 20
"""Batches, and bytes of their images, that are put together at once on a GPU at most: starting an operation costs more
there than carrying it out."""


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset that is not on this machine, for `plan`; None is unknown."""

    task: Task | None = None
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Augment:
    """How a training batch is augmented: the recipe's list, and the key of (seed, epochs spent)."""

    choices: tuple[Choice, ...] = ()
    key: int = 0

    def batch(self, images: Tensor, index: Tensor) -> Tensor:
        """The images (B, C, H, W), augmented by the choices that work on batches; `index` keys the draws."""
        for position, choice in enumerate(self.choices):
            if not _per_image(choice):
                images = choice(images, self._draw(position, index))
        return images

    def _draw(self, position: int, index: Tensor) -> Draw:
        """Draws of their own for each place in the list, so that the same augmentation twice is not undone."""
        return Draw(key(self.key, position), index)

    @property
    def own_code(self) -> bool:
        """Whether functions of the user's are among the choices: what they do to an image may depend on the others."""
        return any(choice.name.startswith(own_code.PREFIX) for choice in self.choices)

    @property
    def per_image(self) -> bool:
        """Whether some choices work on one image at a time, which comes before those that work on batches."""
        return any(map(_per_image, self.choices))

    def image(self, image: Tensor, index: Tensor, size: tuple[int, ...]) -> Tensor:
        """One image (C, H, W) as the per-image choices make it, (C, *size); `index` (1,) keys the draws."""
        for position, choice in enumerate(self.choices):
            if not _per_image(choice):
                continue
            image = choice(image, self._draw(position, index))
            if image.shape[1:] != size:
                made, wanted = ("x".join(map(str, pair)) for pair in (image.shape[1:], size))
                raise UsageError(f"augmentation '{choice.name}' makes images {made}, the data's are {wanted}")
        return image


def _per_image(choice: Choice) -> bool:
    return bool(choice.entry.traits.get("per_image"))


class Images(Protocol):
    """The images of a split, handed out in batches."""

    def __len__(self) -> int: ...

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """For each tensor of positions, its images: normalized float32 (B, C, H, W) on the device."""
        ...

    def to(self, device: torch.device) -> Images:
        """The same images, kept on the device where they fit there."""
        ...


@dataclass(frozen=True)
class Normalization:
    """`(pixels / scale - mean) / std`, channel by channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = _scaled(self, pixels.device)
        return (pixels.to(torch.float32) - mean).div_(std)


@cache
def _scaled(of: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C, 1, 1) of the stored pixels."""
    mean, std = (
        torch.tensor(values, device=device).view(-1, 1, 1) * of.scale for values in (of.mean, of.std)
    )
    return mean, std


@dataclass(frozen=True)
class InMemory:
    """Images held as one tensor (N, C, H, W), uint8 or float32, wherever the device is."""

    pixels: Tensor
    normalize: Normalization

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`; augmentation works on the stored pixels, as PIL's does."""
        together = self._together(order) if self.pixels.is_cuda and not augment.own_code else 1
        for start in range(0, len(order), together):
            block = order[start : start + together]
            index = torch.cat(list(block)).to(self.pixels.device, non_blocking=True)
            yield from torch.split(self._made(index, augment).to(device), [len(batch) for batch in block])

    def _together(self, order: Sequence[Tensor]) -> int:
        """How many batches are put together at once."""
        of_a_batch = max(map(len, order), default=1) * self.pixels[0].numel() * torch.float32.itemsize
        return max(1, min(GPU_BLOCK, GPU_BLOCK_BYTES // of_a_batch))

    def _made(self, index: Tensor, augment: Augment) -> Tensor:
        if not augment.choices and self.pixels.numel() * torch.float32.itemsize <= READY_BYTES:
            return self._ready.index_select(0, index)
        images = self.pixels.index_select(0, index)
        if augment.per_image:
            pairs = zip(images, torch.split(index, 1), strict=True)
            size = tuple(images.shape[2:])
            images = torch.stack([augment.image(image, one, size) for image, one in pairs])
        return self.normalize(augment.batch(images, index))

    @cached_property
    def _ready(self) -> Tensor:
        """All images, normalized; nobody gets a view of them, who might change them."""
        return self.normalize(self.pixels)

    def to(self, device: torch.device) -> InMemory:
        """The images on the device."""
        return InMemory(self.pixels.to(device), self.normalize)


@dataclass(frozen=True)
class Split:
    """Images and their labels (N,): int64, or float32 where they are numbers."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Two splits of one source; `fingerprint` tells whether two datasets hold the same examples.

    Raises:
        ValueError: a split has no example, or labels that are not int64 (N,) from 0 to `task.classes` - 1; for a
            regression, that are not finite float32 (N,).
    """

    task: Task
    train: Split
    test: Split
    fingerprint: str = field(repr=False)
    said: str = field(default="", repr=False)
    """How it was split, where that is not the source's own split."""
    drawn: Callable[[int], Dataset] | None = field(default=None, repr=False)
    """Makes the dataset of a seed where each draws its own: of the same task, sizes and fingerprint; where there are
    classes, of the same labels. This one then stands for all of them until a seed is known.
    """
    problem: Any = field(default=None, repr=False)  # Any: what data was drawn from is its own
    """What the examples were drawn from, for criteria and observers that know of it."""

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            _check_split(f"the {name} split", split, self.task)

    def to(self, device: torch.device) -> Dataset:
        """The dataset with its images on the device, where they fit there."""
        train, test = (replace(part, images=part.images.to(device)) for part in (self.train, self.test))
        return replace(self, train=train, test=test)

    def of(self, seed: int, device: torch.device) -> Dataset:
        """The dataset of a seed, on the device.

        Raises:
            UsageError: what the seed draws does not fit what stands for all.
        """
        if self.drawn is None:
            return self
        found = self.drawn(seed)
        mine, others = (
            (one.task, one.fingerprint, len(one.train), len(one.test), *_labels_of(one))
            for one in (self, found)
        )
        if mine != others:
            raise UsageError(
                f"seed {seed} draws a dataset of another task, size, fingerprint or other labels"
            )
        return found.to(device)


def checked(name: str, found: object) -> Dataset:
    """What the function of this name made, once it is found to be a dataset.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(found, Dataset):
        kind = type(found).__qualname__
        raise UsageError(f"dataset '{name}' returned {kind}, not a prunecli.datasets.values.Dataset")
    return found


def _labels_of(dataset: Dataset) -> list[bytes]:
    """The labels of both splits, where there are classes."""
    if dataset.task.is_regression:
        return []
    return [split.labels.numpy().tobytes() for split in (dataset.train, dataset.test)]


def _check_split(where: str, split: Split, task: Task) -> None:
    labels, classes = split.labels, task.classes
    if task.is_regression:
        if labels.dtype != torch.float32 or labels.dim() != 1 or not bool(labels.isfinite().all()):
            raise ValueError(
                f"{where} has labels {labels.dtype} {tuple(labels.shape)}, not finite torch.float32 (N,)"
            )
        labels = torch.zeros_like(labels, dtype=torch.int64)
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise ValueError(f"{where} has labels {labels.dtype} {tuple(labels.shape)}, not torch.int64 (N,)")
    if len(labels) == 0 or len(split.images) != len(labels):
        raise ValueError(f"{where} has {len(split.images)} images and {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{where} has labels {low} to {high}, not within 0 to {classes - 1}")


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 over types, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
