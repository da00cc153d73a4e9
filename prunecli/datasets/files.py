"""Published datasets: where their files are looked for, how they are got and checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from prunecli.datasets.values import Dataset, InMemory, Normalization, Split, fingerprint
from prunecli.errors import EnvironmentMissing
from prunecli.places import Roots
from prunecli.task import Task

Examples = tuple[Tensor, Tensor]
"""Pixels (N, C, H, W) and labels (N,)."""


@dataclass(frozen=True)
class Published:
    """A dataset that torchvision reads: its files under `root/folder`, with their MD5 where one is known."""

    name: str
    task: Task
    normalize: Normalization
    folder: str
    md5: Mapping[str, str | None]
    read: Callable[[Path, bool], Examples]
    """From a root, the training examples or else the test examples."""
    download: Callable[[Path], None]

    def load(self, roots: Roots, root: str) -> Dataset:
        """The dataset, from the first root that holds all its files."""
        home = self._home(roots, root)
        for name, md5 in self.md5.items():
            _check_md5(home / self.folder / name, md5)
        where = home / self.folder
        return in_memory(where, self.task, self.normalize, self.read(home, True), self.read(home, False))

    def _home(self, roots: Roots, root: str) -> Path:
        folders = roots.search(root)
        found = next((folder for folder in folders if not self._lacking(folder)), None)
        if found is None and roots.download and folders:
            found = self._downloaded(folders[0])
        if found is None:
            raise EnvironmentMissing(self._not_found(folders))
        return found

    def _downloaded(self, root: Path) -> Path:
        try:
            self.download(root)
        except (OSError, RuntimeError, EOFError, HTTPException) as error:
            raise EnvironmentMissing(f"'{self.name}' cannot be downloaded to {root}: {error}") from error
        return root

    def _lacking(self, root: Path) -> list[str]:
        return [name for name in self.md5 if not (root / self.folder / name).is_file()]

    def _not_found(self, folders: tuple[Path, ...]) -> str:
        looked = [f"\n  looked in {folder / self.folder}: {self._lack(folder)}" for folder in folders]
        return (
            f"dataset '{self.name}' is not on this machine{''.join(looked)}"
            f"\n  put its files there, name another folder with --data-root DIR or PRUNECLI_DATA,"
            f" or get them with --download (compute nodes often have no internet: do it on a login node)"
        )

    def _lack(self, root: Path) -> str:
        folder, lacking = root / self.folder, self._lacking(root)
        return f"no {', '.join(lacking)}" if folder.is_dir() else "no such folder"


def in_memory(where: Path, task: Task, normalize: Normalization, train: Examples, test: Examples) -> Dataset:
    """A dataset of tensors, once they are found to be examples of the task; `where` is for the errors."""
    _check(f"{where}: the training split", task, *train)
    _check(f"{where}: the test split", task, *test)
    (x_train, y_train), (x_test, y_test) = ((x.contiguous(), y.to(torch.int64)) for x, y in (train, test))
    return Dataset(
        task,
        Split(InMemory(x_train, normalize), y_train),
        Split(InMemory(x_test, normalize), y_test),
        fingerprint(x_train, y_train, x_test, y_test),
    )


def located(roots: Roots, path: str, part: str = "") -> Path:
    """A recipe's own file or folder, the first found that has the part."""
    candidates = roots.paths(path)
    # os.path's answers no where a name is too long; Path.exists raises.
    found = next((one for one in candidates if os.path.exists(one / part)), None)  # noqa: PTH110
    if found is None:
        looked = "".join(f"\n  looked for {candidate / part}" for candidate in candidates)
        way = "give its path, or the folder it is in with --data-root DIR or PRUNECLI_DATA"
        literal = "; ~ and $ in a recipe are not expanded" if path.startswith("~") or "$" in path else ""
        raise EnvironmentMissing(f"data '{path}' is not on this machine{looked}\n  {way}{literal}")
    return found


def size_of(path: Path) -> int:
    """The bytes of a regular file.

    Raises:
        EnvironmentMissing: it is none: reading a pipe or a device may never end.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise EnvironmentMissing(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise EnvironmentMissing(f"{path}: is no regular file")
    return found.st_size


def _check(where: str, task: Task, pixels: Tensor, labels: Tensor) -> None:
    """Raises, naming `where`, unless these are examples of the task, at least one."""
    if len(pixels) == 0 or len(pixels) != len(labels):
        raise EnvironmentMissing(f"{where} has {len(pixels)} images and {len(labels)} labels")
    if tuple(pixels.shape[1:]) != task.shape:
        raise EnvironmentMissing(f"{where} has images {tuple(pixels.shape[1:])}, not {task.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= task.classes:
        raise EnvironmentMissing(f"{where} has labels {low} to {high}, not within 0 to {task.classes - 1}")
    if pixels.is_floating_point() and not pixels.isfinite().all():
        raise EnvironmentMissing(f"{where} has pixels that are NaN or infinite")


def _check_md5(path: Path, md5: str | None) -> None:
    from torchvision.datasets.utils import check_integrity

    try:
        intact = check_integrity(path, md5)
    except OSError as error:
        raise EnvironmentMissing(f"{path}: cannot be read: {error.strerror}") from error
    if not intact:
        raise EnvironmentMissing(
            f"{path}: damaged: its MD5 is not {md5}; delete it and get it again, for instance with --download"
        )
