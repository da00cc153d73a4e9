"""A user's own arrays, in an .npz or HDF5 file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from prunecli.datasets.files import Examples, in_memory, located, size_of
from prunecli.datasets.values import Dataset, Facts, Normalization
from prunecli.errors import EnvironmentMissing
from prunecli.memory import check_fits, in_words
from prunecli.places import PathInRecipe, Roots
from prunecli.registry import data
from prunecli.store.guard import h5py  # There it loads without plugins.
from prunecli.task import Task

_Array = NDArray[np.generic]
_NAMES = ("x_train", "y_train", "x_test", "y_test")
_CHANNELS = (1, 3)
_MOST = 1_000_000
_LARGE, _MOST_PACKED = 256 * 2**20, 200
"""Arrays over so many bytes are refused where they are packed to less than one part in so many."""
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@data(facts=Facts())
def arrays(
    roots: Roots,
    *,
    path: PathInRecipe,
    classes: Annotated[int, Field(ge=1, le=_MOST)] | None = None,
) -> Dataset:
    """`x_train`, `y_train`, `x_test` and `y_test` of an .npz or HDF5 file; the training pixels' mean and std.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floating point; labels are integers from 0,
    and `classes` is by default one more than the largest. The path is looked for under each data root, in the
    working directory, and beside the recipe.
    """
    file = located(roots, path)
    size_of(file)
    read = read_arrays(file, partial(_required, file))
    train, test = (_examples(file, read, split) for split in ("train", "test"))
    _, channels, height, width = train[0].shape
    known = classes or 1 + max((int(y.max()) for _, y in (train, test) if len(y)), default=0)
    task = Task((channels, height, width), min(max(known, 1), _MOST))
    return in_memory(file, task, _normalization(train[0]), train, test)


Wanted = Callable[[list[str]], Sequence[str]]
"""Of the names of a file's arrays, those to be read; may raise EnvironmentMissing."""


def read_arrays(file: Path, wanted: Wanted) -> dict[str, _Array]:
    """Arrays of an .npz or HDF5 file that may be a stranger's: no code, no other files, no more than memory holds.

    Raises:
        EnvironmentMissing: it is damaged, no such file, or its arrays are not what they have to be.
    """
    try:
        if h5py.is_hdf5(file):
            return _read_hdf5(file, wanted)
        if zipfile.is_zipfile(file):
            return _read_npz(file, wanted)
    except _DAMAGED as error:
        raise EnvironmentMissing(f"{file}: cannot be read: {error}") from error
    raise EnvironmentMissing(f"{file}: neither an .npz nor an HDF5 file")


def _read_npz(file: Path, wanted: Wanted) -> dict[str, _Array]:
    # Objects in an .npz are pickles, and a pickle runs code.
    read = np.load(file, allow_pickle=False)
    if not isinstance(read, NpzFile):
        raise EnvironmentMissing(f"{file}: a single array, and no .npz of named ones")
    with read, zipfile.ZipFile(file) as packed:
        names = wanted(list(read))
        for name in names:
            _check_member(file, name, packed)
        return {name: read[name] for name in names}


def _check_member(file: Path, name: str, packed: zipfile.ZipFile) -> None:
    member = packed.getinfo(name if name in packed.namelist() else f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EnvironmentMissing(f"{file}: {name} is packed in another way than numpy packs")
    _check_size(f"{file}: {name}", member.file_size, member.compress_size)


def _check_size(where: str, unpacked: int, packed: int) -> None:
    """Raises for what would not fit into memory, and for a small file that unpacks to a huge array."""
    check_fits(where, unpacked)
    if unpacked > _LARGE and unpacked > _MOST_PACKED * packed:
        sizes = f"{in_words(packed)} unpack to {in_words(unpacked)}"
        raise EnvironmentMissing(
            f"{where} is no honest array: {sizes}, more than {_MOST_PACKED} times as much"
        )


def _read_hdf5(file: Path, wanted: Wanted) -> dict[str, _Array]:
    with h5py.File(file, "r") as read:
        return {name: _plain(file, read, name) for name in wanted(list(read))}


def _plain(file: Path, read: h5py.File, name: str) -> _Array:
    # A link, an external or a virtual dataset would read other files than the one that was named.
    plain = isinstance(read.get(name, getlink=True), h5py.HardLink) and isinstance(read[name], h5py.Dataset)
    if not plain or read[name].external is not None or read[name].is_virtual:
        raise EnvironmentMissing(f"{file}: {name} is not a plain dataset of this file")
    dataset = read[name]
    if dataset.dtype.kind not in "iuf":
        raise EnvironmentMissing(f"{file}: {name} is {dataset.dtype}, not numbers")
    # A chunk is unpacked whole, whatever part of it the shape has.
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    _check_size(f"{file}: {name}", max(dataset.nbytes, chunk), dataset.id.get_storage_size())
    array: _Array = np.asarray(dataset[()])
    return array


def _required(file: Path, names: list[str]) -> Sequence[str]:
    lacking = [name for name in _NAMES if name not in names]
    if lacking:
        found = ", ".join(sorted(names)[:20]) or "nothing"
        raise EnvironmentMissing(f"{file}: no {', '.join(lacking)}; it holds {found}")
    return _NAMES


def _examples(file: Path, read: Mapping[str, _Array], split: str) -> Examples:
    x, y = read[f"x_{split}"], read[f"y_{split}"]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise EnvironmentMissing(f"{file}: y_{split} is {y.dtype} {y.shape}, not integers (N,)")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise EnvironmentMissing(f"{file}: x_{split} is {x.dtype}, not uint8 or floating point")
    kind = np.uint8 if x.dtype == np.uint8 else np.float32
    # Beyond float32's range a number becomes infinite, which is refused as such.
    with np.errstate(over="ignore"):
        pixels = torch.from_numpy(np.array(x, dtype=kind, order="C"))
    return _channels_first(f"{file}: x_{split}", pixels), torch.from_numpy(y.astype(np.int64))


def _channels_first(where: str, pixels: Tensor) -> Tensor:
    if 0 in pixels.shape[1:]:
        raise EnvironmentMissing(f"{where} has shape {tuple(pixels.shape)}: images without pixels")
    if pixels.ndim == 3:
        return pixels.unsqueeze(1)
    if pixels.ndim == 4 and pixels.shape[3] not in _CHANNELS:
        return pixels
    if pixels.ndim == 4 and pixels.shape[1] not in _CHANNELS:
        return pixels.permute(0, 3, 1, 2)
    raise EnvironmentMissing(
        f"{where} has shape {tuple(pixels.shape)}, and should be (N, H, W), (N, C, H, W) or (N, H, W, C)"
        + (": which one cannot be told" if pixels.ndim == 4 else "")
    )


def _normalization(pixels: Tensor) -> Normalization:
    """The mean and standard deviation of each channel; a constant channel is only shifted."""
    scale = 1.0 if pixels.is_floating_point() else 255.0
    count = max(pixels[:, 0].numel(), 1)
    parts = [part for part in torch.split(pixels, 1024) if len(part)]
    none = torch.zeros(pixels.shape[1], dtype=torch.float64)
    mean = sum((part.double().sum((0, 2, 3)) for part in parts), none) / count
    squares = sum(((part.double() - mean.view(-1, 1, 1)).square().sum((0, 2, 3)) for part in parts), none)
    std = (squares / count).sqrt()
    std = torch.where(std > 0, std, scale)
    return Normalization(scale, tuple((mean / scale).tolist()), tuple((std / scale).tolist()))
