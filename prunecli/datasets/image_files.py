"""Images in files: decoded as they are needed, or once where all of them fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunecli.cores import sharing
from prunecli.datasets.readers import Readers, Work
from prunecli.datasets.values import Augment, Normalization
from prunecli.memory import memory

SHARE = 4
"""A folder's images may take a quarter of the memory, decoded; in processes side by side each its part of that."""
_IMAGENET = Normalization(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Kept:
    """Decoded images, uint8 (N, C, H, W), as far as they have been decoded; memory is taken when the first one is."""

    def __init__(self, count: int, size: int) -> None:
        self._shape = (count, 3, size, size)
        self._there = torch.zeros(count, dtype=torch.bool)
        self._pixels: Tensor | None = None

    def take(self, index: Tensor, pixels: Tensor) -> None:
        """Keep these images."""
        if self._pixels is None:
            self._pixels = torch.empty(self._shape, dtype=torch.uint8)
        self._pixels[index] = pixels
        self._there[index] = True

    def of(self, order: Sequence[Tensor], *, pinned: bool) -> Iterator[Tensor] | None:
        """The images of each tensor of positions; None where one of them is not there yet."""
        pixels = self._pixels
        if pixels is None or not all(bool(self._there[index].all()) for index in order):
            return None
        return (pixels[index].pin_memory() if pinned else pixels[index] for index in order)


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, handed out in batches; who decodes them, and whether they are kept, changes no image."""

    paths: tuple[str, ...]
    readers: Readers
    kept: Kept | None = None
    normalize: Normalization = _IMAGENET

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`."""
        # What is augmented image by image is made of the whole file, anew each time.
        kept, pinned = None if augment.per_image else self.kept, device.type == "cuda"
        known = None if kept is None else kept.of(order, pinned=pinned)
        for index, pixels in zip(order, known or self._read(order, augment, pinned), strict=True):
            if kept is not None and known is None:
                kept.take(index, pixels)
            moved = pixels.to(device, non_blocking=True)
            yield self.normalize(augment.batch(moved, index.to(device)))

    def to(self, device: torch.device) -> ImageFiles:  # noqa: ARG002  (files stay where they are)
        """The same images."""
        return self

    def _read(self, order: Sequence[Tensor], augment: Augment, pinned: bool) -> Iterator[Tensor]:
        return self.readers.read(_work(self.paths, order, augment), pinned=pinned)


def _work(paths: Sequence[str], order: Sequence[Tensor], augment: Augment) -> Iterator[Work]:
    # Of the paths alone: workers that held the images that they work for would not end with them.
    return (Work(tuple((paths[one], one) for one in index.tolist()), augment) for index in order)


def keeping(counts: Sequence[int], size: int) -> list[Kept | None]:
    """What keeps the images of parts of so many, the smaller parts first; None for those that find no room."""
    room = memory() // SHARE // sharing()
    found: list[Kept | None] = [None] * len(counts)
    for part in sorted(range(len(counts)), key=counts.__getitem__):
        taken = counts[part] * 3 * size * size
        if 0 < taken <= room:
            found[part], room = Kept(counts[part], size), room - taken
    return found
