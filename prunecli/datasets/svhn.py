"""SVHN, in its MATLAB files."""

from __future__ import annotations

from pathlib import Path

import torch

from prunecli.datasets.files import Examples, Published
from prunecli.datasets.values import Dataset, Facts, Normalization
from prunecli.places import PathInRecipe, Roots
from prunecli.registry import data
from prunecli.task import Task

_TASK = Task((3, 32, 32), 10)
_SPLITS = {True: "train", False: "test"}


@data(facts=Facts(_TASK, train=73_257, test=26_032))
def svhn(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Cropped house numbers (Netzer et al., 2011), without `extra`; the training pixels' mean and std."""
    from torchvision.datasets import SVHN

    normalize = Normalization(255, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    md5 = dict(SVHN.split_list[split][1:] for split in _SPLITS.values())
    return Published("svhn", _TASK, normalize, folder="", md5=md5, read=_read, download=_download).load(
        roots, root
    )


def _read(root: Path, train: bool) -> Examples:
    from torchvision.datasets import SVHN

    read = SVHN(root, split=_SPLITS[train])
    return torch.from_numpy(read.data), torch.from_numpy(read.labels).reshape(-1)


def _download(root: Path) -> None:
    from torchvision.datasets import SVHN

    for split in _SPLITS.values():
        SVHN(root, split=split, download=True)
