"""Label stores: the labels that noise was drawn for, of several seeds, in a sealed HDF5 file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prunecli
from prunecli.errors import DamagedRun, NewerFormat, PrunecliError, UsageError
from prunecli.store.apart import read_apart
from prunecli.store.decoding import opened
from prunecli.store.guard import Guarded, h5py
from prunecli.store.layout import FORMAT_VERSION
from prunecli.store.run_file import is_digest
from prunecli.store.sealing import (
    commit,
    holds,
    make_folder,
    read_record,
    read_sealed,
    record_of,
    record_path,
    set_aside,
)
from prunecli.store.values import MOST_SEEDS

KIND = "labels"
FOLDER = ".labels"
"""Where label stores lie among runs."""
MOST = 2**28
"""Bytes that a label store's arrays come to at most."""
MOST_CLASSES = 1_000_000
_NUMBER_BYTES, _MARK_BYTES, _COMPRESSED_FROM, _CHUNK = 8, 1, 4096, 262_144

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LabelStore:
    """The labels that training uses, a row (N,) of `used` (S, N) for each seed, and the source's, `clean` (N,).

    They are from 0 to `classes` - 1; `fingerprint` is the dataset's, and `provenance` JSON of what they were
    drawn by. Seeds rise.
    """

    seeds: tuple[int, ...]
    clean: Labels
    used: Labels
    classes: int
    fingerprint: str
    title: str = ""
    provenance: str = ""

    @property
    def noisy(self) -> NDArray[np.bool_]:
        """Whether a label was changed (S, N)."""
        return np.asarray(self.used != self.clean)


def encode_labels(store: LabelStore) -> bytes:
    """The bytes of a label store; equal draws give equal bytes.

    Raises:
        UsageError: it has more seeds or examples than could be read again.
    """
    size = _size(len(store.seeds), len(store.clean))
    if size > MOST or len(store.seeds) > MOST_SEEDS:
        raise UsageError(
            f"labels of {len(store.seeds):,} seeds and {len(store.clean):,} examples take {size:,} bytes; a label "
            f"store has room for {MOST:,}, and {MOST_SEEDS:,} seeds: draw fewer seeds at once"
        )
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        file.attrs.update(_attributes(store))
        group = _group(file, "labels")
        scales = {
            "seed": np.array(store.seeds, dtype=np.int64),
            "example": np.arange(len(store.clean), dtype=np.int64),
        }
        for name, numbers in scales.items():
            _write(group, name, numbers).make_scale(name)
        arrays: dict[str, NDArray[Any]] = {
            "clean": store.clean,
            "used": store.used,
            "noisy": store.noisy.astype(np.uint8),
        }
        for name, array in arrays.items():
            dataset = _write(group, name, array)
            for number, axis in enumerate(("seed", "example")[-array.ndim :]):
                dataset.dims[number].attach_scale(group[axis])
        text = {"data": store.provenance, "dtype": h5py.string_dtype(), "track_times": False}
        _group(file, "provenance").create_dataset("recipe", **text)
    return buffer.getvalue()


def decode_labels(data: bytes, where: str) -> LabelStore:
    """A label store's content; see `encode_labels`.

    Raises:
        DamagedRun: these are not the bytes of a label store, or they contradict each other.
        NewerFormat: a newer prunecli made them.
    """
    with opened(data, KIND, where) as file:
        seeds, count = _extents(file)
        classes, fingerprint = file.attribute("", "classes"), file.attribute("", "dataset_fingerprint")
        if type(classes) is not int or not 0 < classes <= MOST_CLASSES:
            raise file.damaged("", f"its number of classes is {str(classes)[:80]!r}")
        if not is_digest(fingerprint):
            raise file.damaged("", f"its dataset fingerprint is {str(fingerprint)[:80]!r}")
        clean = _labels(file, "clean", (count,), classes)
        used = _labels(file, "used", (len(seeds), count), classes)
        found = LabelStore(seeds, clean, used, classes, str(fingerprint), str(file.attribute("", "title")))
        if not np.array_equal(file.array("labels/noisy", used.shape, "u"), found.noisy):
            raise file.damaged("labels/noisy", "does not mark the labels that differ from the source's")
        if not np.array_equal(file.array("labels/example", (count,), "iu"), np.arange(count)):
            raise file.damaged("labels/example", f"not the positions from 0 to {count - 1}")
    return found


def seal_labels(path: Path, data: bytes, store: LabelStore) -> None:
    """Write a label store and its record; a file of these very bytes that is there already is left as it is.

    Raises:
        UsageError: another file, or another record, is there.
        StorageError: the disk is full, read-only or failing.
    """
    facts = facts_of(store)
    for there, content in ((path, data), (record_path(path), record_of(data, facts))):
        if os.path.lexists(there) and not holds(there, content):
            raise UsageError(
                f"{there}: is there already with other content, and label stores are never overwritten; "
                "give another name with --output"
            )
    make_folder(path.parent)
    commit(path, data, facts)


def facts_of(store: LabelStore) -> dict[str, Any]:  # Any: what JSON holds
    """What the record of a label store says beside its size and SHA-256."""
    return {"kind": KIND, "dataset_fingerprint": store.fingerprint, "seeds": list(store.seeds)}


def copy_of(runs: Path, sha256: str) -> Path:
    """Where the copy of a label store is kept that runs were trained on: one for each content."""
    return runs / FOLDER / f"{sha256}.h5"


def keep_copy(path: Path, sha256: str, runs: Path) -> list[str]:
    """Seal a copy of a label store of this content beside the runs, unless it is there; gives what to say.

    A damaged copy is moved to the quarantine in its folder. Several processes may do so at once.

    Raises:
        DamagedRun: the store is not of this content any more, or the folder is a link to another place.
        StorageError: the copy cannot be written.
    """
    copy, found = copy_of(runs, sha256), read_record(path)
    if copy.parent.is_symlink():
        raise DamagedRun(f"{copy.parent}: a symbolic link, through which no labels are kept; move it away")
    data = read_sealed(path, found[0], _most_stored()) if found else b""
    if found is None or found[0].get("sha256") != sha256:
        raise DamagedRun(f"{path}: another label store than a moment ago; the same command reads it anew")
    facts = {name: found[0].get(name) for name in ("kind", "dataset_fingerprint", "seeds")}
    said = []
    for there, content in ((record_path(copy), record_of(data, facts)), (copy, data)):
        if os.path.lexists(there) and not holds(there, content):
            moved = set_aside(there, copy.parent / "quarantine")
            said.append(f"{there}: damaged; moved to quarantine: {moved}; it is made again")
    make_folder(copy.parent)
    commit(copy, data, facts)
    return said


def folder_problems(folder: Path) -> list[str]:
    """What is wrong with the label stores in a folder; an empty list where all are sound."""
    found = []
    for path in sorted(folder.glob("*.h5")):
        try:
            _, sha256 = read_labels_here(path)
        except NewerFormat:
            raise
        except DamagedRun as error:
            found.append(str(error))
            continue
        if is_digest(path.stem) and path.stem != sha256:
            found.append(f"{path}: is named for another content than it has ({sha256[:12]}…)")
    lost = [path for path in sorted(folder.glob("*.h5.json")) if not os.path.lexists(path.with_suffix(""))]
    return [*found, *(f"{path}: the record of a label store that is not there" for path in lost)]


def read_labels(path: Path) -> tuple[LabelStore, str]:
    """A label store and its SHA-256, checked against its record and read in a process of its own.

    Raises:
        DamagedRun: it has no record, is not what its record says, or is no label store.
        NewerFormat: a newer prunecli made it.
        StorageError: it cannot be read.
    """
    (found,) = read_apart([path], read_labels_here)
    if isinstance(found, PrunecliError):
        raise found
    return found


def is_label_store(record: object) -> bool:
    """Whether a record is one of a label store."""
    return isinstance(record, dict) and record.get("kind") == KIND


def read_labels_here(path: Path) -> tuple[LabelStore, str]:
    """As `read_labels`, in this process: for those who are in one of their own already."""
    found = read_record(path)
    if found is None:
        missing = "" if os.path.lexists(path) else ": no such file"
        raise DamagedRun(
            f"{path}{missing or ': has no record beside it, so nothing vouches for its content'}"
        )
    record, _ = found
    if not is_label_store(record):
        raise DamagedRun(f"{record_path(path)}: not the record of a label store; `prunecli noise` makes one")
    data = read_sealed(path, record, _most_stored())
    store = decode_labels(data, str(path))
    for name, value in facts_of(store).items():
        if record.get(name) != value:
            raise DamagedRun(
                f"{path}: damaged: its {name} is {str(value)[:80]}; its record says {str(record.get(name))[:80]}"
            )
    return store, str(record["sha256"])


def _most_stored() -> int:
    """Bytes that the file has at most: deflate makes nothing much longer than it was, and HDF5 adds a little."""
    return MOST + MOST // 8 + 2**20


def _size(seeds: int, examples: int) -> int:
    row = examples * _NUMBER_BYTES
    return seeds * (row + examples * _MARK_BYTES + _NUMBER_BYTES) + 2 * row


def _attributes(store: LabelStore) -> Iterator[tuple[str, Any]]:  # Any: text and numbers
    yield "prunecli_type", KIND
    yield "format_version", FORMAT_VERSION
    yield "prunecli_version", prunecli.__version__
    yield "Conventions", "CF-1.11 NeXus"
    yield "NX_class", "NXroot"
    yield "title", store.title
    yield "dataset_fingerprint", store.fingerprint
    yield "classes", store.classes


def _group(file: h5py.File, name: str) -> h5py.Group:
    made = file.create_group(name, track_order=True)
    made.attrs.update({"prunecli_type": name, "prunecli_version": prunecli.__version__})
    return made


def _write(group: h5py.Group, name: str, array: NDArray[Any]) -> h5py.Dataset:  # Any: whole numbers
    """Write an array; a long one compressed, a row a chunk."""
    options: dict[str, Any] = {"track_times": False}  # Any: h5py's keywords
    if array.nbytes > _COMPRESSED_FROM:
        options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        options["chunks"] = (1,) * (array.ndim - 1) + (min(array.shape[-1], _CHUNK),)
    dataset = group.create_dataset(name, data=array, **options)
    dataset.attrs["long_name"] = {"used": "labels used", "clean": "labels of the source"}.get(name, name)
    return dataset


def _extents(file: Guarded) -> tuple[tuple[int, ...], int]:
    """A label store's seeds, and how many examples it has."""
    shape = file.shape("labels/used")
    if len(shape) != 2 or not 0 < shape[0] <= MOST_SEEDS or not shape[1] or _size(*shape) > MOST:
        raise file.damaged(
            "labels/used", f"its shape is {shape}; it can be seeds by examples, {MOST:,} bytes"
        )
    seeds = tuple(file.array("labels/seed", shape[:1], "iu").tolist())
    if list(seeds) != sorted(set(seeds)) or not 0 <= seeds[0] <= seeds[-1] < 2**31:
        raise file.damaged("labels/seed", f"{str(seeds)[:80]} are not seeds that rise")
    return seeds, shape[1]


def _labels(file: Guarded, name: str, shape: tuple[int, ...], classes: int) -> Labels:
    found = file.array(f"labels/{name}", shape, "iu")
    wrong = np.argwhere((found < 0) | (found >= classes))
    if len(wrong):
        first = tuple(wrong[0].tolist())
        raise file.damaged(
            f"labels/{name}", f"labels are from 0 to {classes - 1}; found {found[first]} at {first}"
        )
    return np.asarray(found, dtype=np.int64)
