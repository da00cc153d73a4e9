"""Folders of image files, one folder a class, as ImageNet comes; decoded as they are needed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.utils import data as torch_data

# A worker process that starts afresh looks augmentations up by name: it must have them registered.
import prunecli.augmentations  # noqa: F401
from prunecli.datasets.files import located, size_of
from prunecli.datasets.values import Augment, Dataset, Facts, Normalization, Split
from prunecli.errors import EnvironmentMissing, PrunecliError, UsageError
from prunecli.places import PathInRecipe, Roots
from prunecli.randomness import key
from prunecli.registry import Later, NoResult, data
from prunecli.task import Task

_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_SIGNALS = (*_IGNORED, signal.SIGTERM)
_IMAGENET = Normalization(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@data(facts=Facts())
def image_folder(
    roots: Roots,
    *,
    path: PathInRecipe,
    size: Annotated[int, Field(ge=1, le=4096)] = 224,
    resize: Annotated[int, Field(ge=1, le=4096)] = 256,
    test: Annotated[float | None, Field(gt=0, lt=1), Later()] = None,
    workers: Annotated[int, Field(ge=0, le=256), NoResult()] = 2,
) -> Dataset:
    """Image files `train/CLASS/*` and `val/CLASS/*` (or `test/`), as ImageNet; ImageNet's mean and std.

    Images are resized to `resize` on their shorter side and cropped to the central `size`, or else made by
    the augmentations that work on single images. `workers` processes decode them. Where the folder has no test
    part, `test` holds out this fraction of each class of `train/`, never all of one: those whose names have the
    lowest keyed hash. The path is looked for under each data root, in the working directory, and beside the
    recipe. The fingerprint covers names and sizes of the files and the split, not the files' content.
    """
    if resize < size:
        raise UsageError(f"image_folder: resize {resize} is smaller than size {size}")
    folder = located(roots, path, "train")
    parts = _two_parts(folder) if test is None else _split(folder, test)
    train, tested = (
        Split(ImageFiles(part.paths, size, resize, workers), torch.tensor(part.labels)) for part in parts
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
class ImageFiles:
    """Images in files, decoded batch by batch in worker processes; their number changes no image."""

    paths: tuple[str, ...]
    size: int
    resize: int
    workers: int
    normalize: Normalization = _IMAGENET

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`."""
        loader = self._loader(order, augment, device)
        with _signals_held_back():
            decoded = iter(loader)
        try:
            for index, pixels in zip(order, decoded, strict=True):
                if isinstance(pixels, PrunecliError):
                    raise pixels
                moved = pixels.to(device, non_blocking=True)
                yield self.normalize(augment.batch(moved, index.to(device)))
        finally:
            # An error's traceback keeps this frame; the workers are to end now, not when that is cleared.
            del decoded

    def to(self, device: torch.device) -> ImageFiles:  # noqa: ARG002  (files stay where they are)
        """The same images."""
        return self

    def _loader(
        self, order: Sequence[Tensor], augment: Augment, device: torch.device
    ) -> torch_data.DataLoader[Tensor | PrunecliError]:
        workers = min(self.workers, len(order))
        return torch_data.DataLoader(
            _Decoder(self.size, self.resize, augment),
            batch_size=None,
            sampler=([(self.paths[one], one) for one in index.tolist()] for index in order),
            num_workers=workers,
            # In a process that was spawned itself the default would load torch anew for each epoch.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=functools.partial(_leave_signals, _ending(os.getpid())) if workers else None,
            pin_memory=device.type == "cuda",
            # The loader draws a seed that nothing here uses; torch's own generator is not to notice.
            generator=torch.Generator(),
        )


@dataclass(frozen=True)
class _Decoder(torch_data.Dataset[Tensor | PrunecliError]):
    """Makes a batch, uint8 (B, C, H, W), of paths and positions; what goes wrong is returned, to be raised.

    Raised here, an error would reach the main process wrapped in the worker's traceback.
    """

    size: int
    resize: int
    augment: Augment

    def __getitem__(self, batch: list[tuple[str, int]]) -> Tensor | PrunecliError:
        try:
            return torch.stack([self._image(path, position) for path, position in batch])
        except PrunecliError as error:
            return error

    def _image(self, path: str, position: int) -> Tensor:
        from torchvision.transforms.v2.functional import center_crop, resize

        image = _decoded(path)
        if self.augment.per_image:
            return self.augment.image(image, torch.tensor([position]), (self.size, self.size))
        cropped: Tensor = center_crop(resize(image, [self.resize], antialias=True), [self.size, self.size])
        return cropped


def _decoded(path: str) -> Tensor:
    """The image, uint8 (3, H, W)."""
    from PIL.Image import DecompressionBombError
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        pixels: Tensor = pil_to_tensor(pil_loader(path))
    except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise EnvironmentMissing(f"{path}: cannot be decoded: {error}") from error
    return pixels


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


@functools.cache
def _ending(_process: int) -> Event:
    """Set once this process ends; each process has its own."""
    event = multiprocessing.Event()
    # Before multiprocessing ends its workers by SIGTERM and waits for them, in child processes too.
    Finalize(None, event.set, exitpriority=100)
    return event


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Workers that start here can be sent no signal before they have said what to do with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals(ending: Event, _worker: int) -> None:
    """In a worker: leaves an interrupt or a cluster's SIGTERM to the main process, and ends with that."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ending.is_set() else None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
