"""What a dataset is: two splits of images and labels, and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.randomness import Draw, key
from prunecli.registry import Choice, NoResult
from prunecli.task import Task

PathInRecipe = Annotated[str, Field(max_length=4096), NoResult()]
"""A path that a recipe names: where the data is changes no result."""


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset that is not on this machine, for `plan`; None is unknown."""

    task: Task | None = None
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Roots:
    """Where datasets are looked for, in this order, and whether they may be downloaded."""

    folders: tuple[Path, ...] = ()
    download: bool = False
    before_recipe: int = 0
    """How many of the folders go before the root that a recipe names."""
    recipe: Path | None = None
    """The folder that the recipe is in."""

    @property
    def allowed(self) -> tuple[Path, ...]:
        """The folders that a recipe's paths may lead into: the roots, the working directory, the recipe's own."""
        own = () if self.recipe is None else (self.recipe,)
        return tuple(dict.fromkeys((*self.folders, Path(), *own)))

    def search(self, root: str = "") -> tuple[Path, ...]:
        """The folders to look in, each once, with a recipe's root at its place.

        Raises:
            UsageError: the recipe's root leads out of the folders that are allowed.
        """
        first, rest = self.folders[: self.before_recipe], self.folders[self.before_recipe :]
        return tuple(dict.fromkeys((*first, *(self._inside(root, [Path(root)]) if root else []), *rest)))

    def paths(self, path: str) -> tuple[Path, ...]:
        """Where a recipe's own file or folder may be: under each root, in the working directory, by the recipe.

        Raises:
            UsageError: the path leads out of the folders that are allowed.
        """
        return self._inside(path, [folder / path for folder in self.allowed])

    def _inside(self, path: str, candidates: Sequence[Path]) -> tuple[Path, ...]:
        """Those candidates that are, links followed, inside an allowed folder: a recipe may be a stranger's."""
        allowed = [_resolved(folder) for folder in self.allowed]
        found = [
            candidate
            for candidate in dict.fromkeys(candidates)
            if any(_resolved(candidate).is_relative_to(folder) for folder in allowed)
        ]
        if not found:
            raise UsageError(
                f"the recipe's path '{path}' leads to {_resolved(candidates[0])}, which is outside "
                f"{', '.join(map(str, dict.fromkeys(allowed)))}; --data-root DIR allows another folder"
            )
        return tuple(found)


def roots(data_root: str | None, download: bool, environ: Mapping[str, str]) -> Roots:
    """`--data-root`, [a recipe's root,] $PRUNECLI_DATA, ~/.cache/prunecli/data."""
    chosen = [data_root] if data_root else []
    named = [*chosen, environ.get("PRUNECLI_DATA", ""), "~/.cache/prunecli/data"]
    return Roots(tuple(_expanded(name) for name in named if name), download, before_recipe=len(chosen))


def _resolved(path: Path) -> Path:
    # Path.resolve raises where links go in circles; os.path's stops there.
    return Path(os.path.realpath(path))


def _expanded(path: str) -> Path:
    # Where there is no home, Path.expanduser raises; os.path's leaves the name as it is.
    return Path(os.path.expanduser(path))  # noqa: PTH111


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
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1) * self.scale
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1) * self.scale
        return (pixels.to(torch.float32) - mean) / std


@dataclass(frozen=True)
class InMemory:
    """Images held as one tensor (N, C, H, W), uint8 or float32, wherever the device is."""

    pixels: Tensor
    normalize: Normalization

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`; augmentation works on the stored pixels, as PIL's does."""
        for index in order:
            index = index.to(self.pixels.device)
            images = self.pixels[index]
            if augment.per_image:
                pairs = zip(images, torch.split(index, 1), strict=True)
                size = tuple(images.shape[2:])
                images = torch.stack([augment.image(image, one, size) for image, one in pairs])
            yield self.normalize(augment.batch(images, index)).to(device)

    def to(self, device: torch.device) -> InMemory:
        """The images on the device."""
        return InMemory(self.pixels.to(device), self.normalize)


@dataclass(frozen=True)
class Split:
    """Images and their labels (N,) int64."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Two splits of one source; `fingerprint` tells whether two datasets hold the same examples.

    Raises:
        ValueError: a split has no example, or labels that are not int64 (N,) from 0 to `task.classes` - 1.
    """

    task: Task
    train: Split
    test: Split
    fingerprint: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            _check_split(f"the {name} split", split, self.task.classes)


def checked(name: str, found: object) -> Dataset:
    """What the function of this name made, once it is found to be a dataset.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(found, Dataset):
        kind = type(found).__qualname__
        raise UsageError(f"dataset '{name}' returned {kind}, not a prunecli.datasets.values.Dataset")
    return found


def _check_split(where: str, split: Split, classes: int) -> None:
    labels = split.labels
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
