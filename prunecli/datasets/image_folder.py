"""Folders of image files, one folder a class, as ImageNet comes; decoded as they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from prunecli.datasets.files import located, size_of
from prunecli.datasets.image_files import ImageFiles, keeping
from prunecli.datasets.readers import Decoder, Readers
from prunecli.datasets.values import Dataset, Facts, Split
from prunecli.errors import EnvironmentMissing, UsageError
from prunecli.places import PathInRecipe, Roots
from prunecli.randomness import key
from prunecli.registry import Later, NoResult, data
from prunecli.task import Task


@data(facts=Facts())
def image_folder(
    roots: Roots,
    *,
    path: PathInRecipe,
    size: Annotated[int, Field(ge=1, le=4096)] = 224,
    resize: Annotated[int, Field(ge=1, le=4096)] = 256,
    test: Annotated[float | None, Field(gt=0, lt=1), Later()] = None,
    workers: Annotated[int | None, Field(ge=0, le=256), NoResult()] = None,
    prefetch: Annotated[int, Field(ge=1, le=64), NoResult()] = 2,
    keep: Annotated[Literal["auto", "never"], NoResult()] = "auto",
) -> Dataset:
    """Image files `train/CLASS/*` and `val/CLASS/*` (or `test/`), as ImageNet; ImageNet's mean and std.

    Images are resized to `resize` on their shorter side and cropped to the central `size`, or else made by
    the augmentations that work on single images. `workers` processes decode them, `prefetch` batches ahead each; by
    default as many as there are cores but one, those of seeds side by side together, and 32 at most. Under
    `keep: auto` images that no augmentation makes anew from their files are decoded once and kept, where a part's
    take no more than a quarter of the memory. Where the folder has no test part, `test` holds out this fraction of
    each class of `train/`, never all of one: those whose names have the lowest keyed hash. The path is looked for
    under each data root, in the working directory, and beside the recipe. The fingerprint covers names and sizes of
    the files and the split, not the files' content.
    """
    if resize < size:
        raise UsageError(f"image_folder: resize {resize} is smaller than size {size}")
    folder = located(roots, path, "train")
    parts = _two_parts(folder) if test is None else _split(folder, test)
    readers = Readers(Decoder(size, resize), workers, prefetch)
    kept = keeping([len(part.paths) if keep == "auto" else 0 for part in parts], size)
    train, tested = (
        Split(ImageFiles(part.paths, readers, own), torch.tensor(part.labels))
        for part, own in zip(parts, kept, strict=True)
    )
    sizes = f"{len(train):,} left, {len(tested):,} held out"
    return Dataset(
        Task((3, size, size), len(parts[0].classes)),
        train,
        tested,
        _fingerprint(folder, parts[0].paths, parts[1].paths, split=test is not None),
        "" if test is None else f"test: {test:g} of each class of train/: {sizes}",
    )


@dataclass(frozen=True)
class _Listing:
    """The images under a folder, in the order of their names."""

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        from torchvision.datasets import ImageFolder

        try:
            listed = ImageFolder(str(folder))
        except OSError as error:
            raise EnvironmentMissing(f"{folder}: no folder of images, one folder a class: {error}") from error
        paths, labels = zip(*listed.samples, strict=True)
        return cls(folder, tuple(listed.classes), paths, labels)

    def part(self, chosen: Sequence[int]) -> _Listing:
        """The images at these positions."""
        paths, labels = tuple(self.paths[p] for p in chosen), tuple(self.labels[p] for p in chosen)
        return replace(self, paths=paths, labels=labels)


def _two_parts(folder: Path) -> tuple[_Listing, _Listing]:
    """The training images and those of `val/` or `test/`."""
    found = _evaluation(folder)
    if found is None:
        raise EnvironmentMissing(
            f"{folder / 'test'}: no folder of images, and there is no {folder / 'val'}; the option "
            "'test: 0.2' holds out a fifth of train/ in its place"
        )
    train, test = _Listing.of(folder / "train"), _Listing.of(found)
    if train.classes != test.classes:
        raise EnvironmentMissing(f"{folder}: {_difference(train, test)}")
    return train, test


def _split(folder: Path, fraction: float) -> tuple[_Listing, _Listing]:
    """The training images without `round(fraction * images)` of each class, and these."""
    if (found := _evaluation(folder)) is not None:
        raise UsageError(f"image_folder: {found} holds test images; leave 'test: {fraction:g}' out")
    listed = _Listing.of(folder / "train")
    # By its name alone: other files change which of a class are held out no more than their number does.
    draws = [key("image_folder", "test", os.fsencode(_name(folder, path)).hex()) for path in listed.paths]
    held: set[int] = set()
    # The listing has one class after the other.
    for _, group in groupby(range(len(draws)), key=listed.labels.__getitem__):
        members = sorted(group, key=draws.__getitem__)
        held |= set(members[: min(round(fraction * len(members)), len(members) - 1)])
    if not held:
        raise UsageError(
            f"image_folder: 'test: {fraction:g}' of {len(listed.paths):,} images in {len(listed.classes):,} classes "
            "holds none of a class out; give a larger fraction"
        )
    left = [position for position in range(len(draws)) if position not in held]
    return listed.part(left), listed.part(sorted(held))


def _difference(train: _Listing, test: _Listing) -> str:
    odd = min(set(train.classes) ^ set(test.classes))
    one, other = (train, test) if odd in train.classes else (test, train)
    return f"{one.folder.name}/ has a class '{odd}' that {other.folder.name}/ has not"


def _evaluation(folder: Path) -> Path | None:
    return next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)


def _name(folder: Path, path: str) -> str:
    return Path(path).relative_to(folder).as_posix()


def _fingerprint(folder: Path, train: Sequence[str], test: Sequence[str], *, split: bool) -> str:
    digest = hashlib.sha256()
    for number, path in enumerate((*train, *test)):
        if split and number == len(train):
            digest.update(b"held out\n")
        line = f"{_name(folder, path)}\0{size_of(Path(path))}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
