"""MNIST and the datasets that took its form, in its idx files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from prunecli.datasets.files import Examples, Published
from prunecli.datasets.values import Dataset, Facts, Normalization
from prunecli.errors import EnvironmentMissing
from prunecli.places import PathInRecipe, Roots
from prunecli.registry import data
from prunecli.task import Task

_TASK = Task((1, 28, 28), 10)
_FACTS = Facts(_TASK, train=60_000, test=10_000)
_FILES = {True: "train", False: "t10k"}


@data(facts=_FACTS)
def mnist(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Handwritten digits (LeCun et al., 1998); the training pixels' mean and std, as in OpenLTH."""
    return _published("mnist", "MNIST", mean=0.1307, std=0.3081).load(roots, root)


@data(facts=_FACTS)
def fashion_mnist(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Articles of clothing (Xiao et al., 2017); the training pixels' mean and std."""
    return _published("fashion_mnist", "FashionMNIST", mean=0.2860, std=0.3530).load(roots, root)


@data(facts=_FACTS)
def kmnist(roots: Roots, *, root: PathInRecipe = "") -> Dataset:
    """Cursive Japanese characters, Kuzushiji (Clanuwat et al., 2018); the training pixels' mean and std."""
    return _published("kmnist", "KMNIST", mean=0.1918, std=0.3483).load(roots, root)


def _published(name: str, reader: str, *, mean: float, std: float) -> Published:
    files = [f"{split}-{kind}-ubyte" for split in _FILES.values() for kind in ("images-idx3", "labels-idx1")]
    return Published(
        name,
        _TASK,
        Normalization(255, (mean,), (std,)),
        folder=f"{reader}/raw",
        md5=dict.fromkeys(files),
        read=partial(_read, reader),
        download=partial(_download, reader),
    )


def _read(reader: str, root: Path, train: bool) -> Examples:
    stem = root / reader / "raw" / _FILES[train]
    images = _idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"))
    return images.unsqueeze(1), _idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"))


def _idx(path: Path) -> Tensor:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        tensor: Tensor = (read_image_file if "images" in path.name else read_label_file)(str(path))
    except (OSError, ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
        # The publishers' checksums are of the packed files; an unpacked one shows its damage when it is read.
        raise EnvironmentMissing(
            f"{path}: damaged: not an idx file of unsigned bytes ({error}); delete it and get it again,"
            f" for instance with --download"
        ) from error
    return tensor


def _download(reader: str, root: Path) -> None:
    import torchvision

    getattr(torchvision.datasets, reader)(root, download=True)
