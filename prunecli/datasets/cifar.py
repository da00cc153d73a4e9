"""CIFAR-10 and CIFAR-100, in their python batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from prunecli.datasets.files import Examples, Published
from prunecli.datasets.values import Dataset, Facts, Normalization
from prunecli.places import PathInRecipe, Roots
from prunecli.registry import data
from prunecli.task import Task

_CIFAR10, _CIFAR100 = Task((3, 32, 32), 10), Task((3, 32, 32), 100)


@data(facts=Facts(_CIFAR10, train=50_000, test=10_000))
def cifar10(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Small photographs of 10 classes (Krizhevsky, 2009); ImageNet's mean and std, as in OpenLTH."""
    normalize = Normalization(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return _published("cifar10", "CIFAR10", _CIFAR10, normalize).load(roots, root)


@data(facts=Facts(_CIFAR100, train=50_000, test=10_000))
def cifar100(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Small photographs of 100 classes (Krizhevsky, 2009); the training pixels' mean and std, as in GraSP."""
    normalize = Normalization(255, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    return _published("cifar100", "CIFAR100", _CIFAR100, normalize).load(roots, root)


def _published(name: str, reader_name: str, task: Task, normalize: Normalization) -> Published:
    import torchvision

    reader = getattr(torchvision.datasets, reader_name)
    files = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    return Published(
        name,
        task,
        normalize,
        folder=reader.base_folder,
        md5=dict(files),
        read=partial(_read, reader),
        download=partial(_download, reader),
    )


def _read(reader: Any, root: Path, train: bool) -> Examples:  # Any: torchvision publishes no types
    read = reader(root, train=train)
    return torch.from_numpy(read.data).permute(0, 3, 1, 2), torch.tensor(read.targets)


def _download(reader: Any, root: Path) -> None:  # Any: torchvision publishes no types
    reader(root, download=True)
