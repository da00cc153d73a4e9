"""The one way into an HDF5 file that a stranger may have made: named places, plain arrays, bounded sizes.

A file can name other files to read and to write (external storage, links, virtual datasets), code to load
(filters), and terabytes in a kilobyte; none of that is followed, loaded or unpacked. What libhdf5 itself
crashes on cannot be caught here: see `apart`.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import DamagedRun
from prunecli.store.values import is_name

# libhdf5 reads it once, when it is loaded: no plugin is loaded that unpacks.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py as h5py  # What writes imports it from here.
from h5py import h5a, h5d, h5l, h5o, h5pl, h5s, h5t, h5z

# That leaves plugins that open files, which are tried on all that is no HDF5 file: there is no folder of them.
for _ in range(h5pl.size()):
    h5pl.remove(0)

Array = NDArray[Any]  # Any: the types that the contract gives each place

DAMAGE = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    BufferError,
    SystemError,
)
"""What h5py and numpy raise on a damaged or hostile file: no less than this has been seen."""

MOST_RANK = 8
MOST_NAMES = 65_536
LONGEST_TEXT = 4096
DENSEST = 1100
"""Bytes that deflate, which reaches 1032, makes of one; filters stacked on each other make more."""
_LAYOUTS = (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED)
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)


@dataclass
class _Budget:
    """The bytes that may still be unpacked, and those of the file that no array has claimed."""

    unpacked: int
    stored: int


@dataclass(frozen=True)
class Guarded:
    """An opened file, read by place: `metrics/test_error`. All that goes wrong is a DamagedRun."""

    where: str
    _file: h5py.File
    _budget: _Budget = field(repr=False)
    _groups: dict[str, h5py.Group] = field(default_factory=dict, repr=False)
    """Those that were opened: nearly all that is read lies in a few."""
    _last: dict[str, h5py.Dataset] = field(default_factory=dict, repr=False)
    """The array that was opened last: its extents, content and attributes are asked for in turn."""

    def has(self, place: str) -> bool:
        """Whether there is something at the place; its groups have to be groups."""
        folder, _, name = place.rpartition("/")
        with self._reading(place):
            return name in self._group(folder)

    def names(self, group: str) -> list[str]:
        """The names in a group, in the order they were made in; none where there is no such group."""
        if not self.has(group):
            return []
        with self._reading(group):
            found = self._group(group)
            if len(found) > MOST_NAMES:
                raise self.damaged(group, f"{len(found):,} names; there can be {MOST_NAMES:,}")
            names = list(found)
        for name in names:
            # h5py gives the bytes of what is no text.
            if not isinstance(name, str) or not is_name(name):
                raise self.damaged(group, f"{name[:80]!r} is no name")
        return names

    def shape(self, place: str) -> tuple[int, ...]:
        """An array's extents; nothing is read yet."""
        with self._reading(place):
            return self._extents(self._dataset(place), place)

    def array(self, place: str, shape: Sequence[int], kinds: str = "iuf") -> Array:
        """An array of numbers of exactly this shape, in C order and of a type of these `kinds`."""
        with self._reading(place):
            dataset = self._dataset(place)
            self._claim_(dataset, place, tuple(shape))
            kind = dataset.id.get_type()
            if type(kind) not in (h5t.TypeIntegerID, h5t.TypeFloatID) or dataset.dtype.kind not in kinds:
                raise self.damaged(place, f"{type(kind).__name__} of {kind.get_size()} bytes, not numbers")
            return np.asarray(dataset[()])

    def texts(self, place: str, length: int) -> list[str]:
        """A row of names, of exactly this length."""
        with self._reading(place):
            dataset = self._dataset(place)
            if length > MOST_NAMES:
                raise self.damaged(place, f"{length:,} names; there can be {MOST_NAMES:,}")
            self._claim_(dataset, place, (length,))
            kind = dataset.id.get_type()
            if type(kind) is not h5t.TypeStringID or not kind.is_variable_str():
                raise self.damaged(place, "not text")
            # One by one: many may be the same long text, which is stored once.
            return [self._name(place, dataset[number]) for number in range(length)]

    def attribute(self, place: str, name: str) -> Any:  # Any: str, int, float, a tuple of them, or None
        """An attribute: text, a number, or a short row of numbers; None where there is none."""
        with self._reading(f"{place}@{name}"):
            owner = self._item(place)
            if not h5a.exists(owner.id, name.encode()):
                return None
            attribute = h5a.open(owner.id, name.encode())
            space, kind = attribute.get_space(), attribute.get_type()
            simple = space.get_simple_extent_type() in (h5s.SCALAR, h5s.SIMPLE)
            text = type(kind) is h5t.TypeStringID and attribute.shape == ()
            numbers = type(kind) in (h5t.TypeIntegerID, h5t.TypeFloatID) and len(attribute.shape) <= 1
            if not simple or not (text or numbers) or math.prod(attribute.shape) > MOST_RANK:
                raise self.damaged(place, f"its attribute {name} is neither text nor a number")
            if text and not kind.is_variable_str() and kind.get_size() > LONGEST_TEXT:
                raise self.damaged(place, f"its attribute {name} is too long")
            value = owner.attrs[name]
            return self._text(place, value) if text else _plain(value)

    def damaged(self, place: str, what: str) -> DamagedRun:
        """The error that says what is wrong at a place."""
        return DamagedRun(f"{self.where}: damaged: /{place}: {what}")

    @contextmanager
    def _reading(self, place: str) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            raise self.damaged(place, in_a_line(error)) from error

    def _item(self, place: str) -> h5py.HLObject:
        """What lies at a place: one step at a time, over hard links only."""
        if (known := self._groups.get(place) or self._last.get(place)) is not None:
            return known
        folder, _, name = place.rpartition("/")
        if not name:
            return self._item(folder) if folder else self._file
        above, address = self._item(folder), name.encode()
        if not isinstance(above, h5py.Group) or not above.id.links.exists(address):
            raise self.damaged(place, "missing")
        if above.id.links.get_info(address).type != h5l.TYPE_HARD:
            raise self.damaged(place, "a link, which is not followed")
        opened = h5o.open(above.id, address)
        # What h5py finds out on the way to this, such as the file's mode, takes longer than the rest.
        found = h5py.Dataset(opened, readonly=True) if isinstance(opened, h5d.DatasetID) else above[name]
        if isinstance(found, h5py.Group):
            self._groups[place] = found
        elif isinstance(found, h5py.Dataset):
            self._last.clear()
            self._last[place] = found
        return found

    def _group(self, place: str) -> h5py.Group:
        found = self._item(place)
        if not isinstance(found, h5py.Group):
            raise self.damaged(place, "not a group")
        return found

    def _dataset(self, place: str) -> h5py.Dataset:
        """A dataset that lies in this file and needs no code but libhdf5's own."""
        found = self._item(place)
        if not isinstance(found, h5py.Dataset):
            raise self.damaged(place, "not an array")
        made = found.id.get_create_plist()
        if made.get_external_count() or made.get_layout() not in _LAYOUTS:
            raise self.damaged(place, "its content lies in other files, which are not read")
        filters = Counter(made.get_filter(number)[0] for number in range(made.get_nfilters()))
        if any(code not in _FILTERS or times > 1 for code, times in filters.items()):
            raise self.damaged(place, f"packed by filters {sorted(filters)}, which are not run")
        return found

    def _extents(self, dataset: h5py.Dataset, place: str) -> tuple[int, ...]:
        shape: tuple[int, ...] | None = dataset.shape
        if shape is None or len(shape) > MOST_RANK or dataset.maxshape != shape:
            raise self.damaged(place, f"not an array of a fixed size with at most {MOST_RANK} axes")
        return shape

    def _claim_(self, dataset: h5py.Dataset, place: str, shape: tuple[int, ...]) -> None:
        """Take an array's bytes from the budget, before any of it is read."""
        found = self._extents(dataset, place)
        if found != shape:
            raise self.damaged(place, f"its shape is {found}; {shape} fits the rest")
        item = dataset.id.get_type().get_size()
        size, stored = math.prod(shape) * item, dataset.id.get_storage_size()
        chunk = math.prod(dataset.chunks) * item if dataset.chunks else 0
        chunks = math.prod(-(-n // c) for n, c in zip(shape, dataset.chunks, strict=True)) if chunk else 1
        # A stream that is longer than its chunk unpacks into more than the chunk has.
        if size > DENSEST * stored or chunk > size or stored > size + size // 32 + 256 * chunks:
            raise self.damaged(place, f"{size:,} bytes in {chunks:,} pieces, of {stored:,} that are stored")
        if size > self._budget.unpacked or stored > self._budget.stored:
            raise self.damaged(place, f"with its {size:,} bytes the file unpacks to more than it can have")
        self._budget.unpacked -= size
        self._budget.stored -= stored

    def _name(self, place: str, value: Any) -> str:  # Any: what h5py gives
        text = self._text(place, value)
        if not is_name(text):
            raise self.damaged(place, f"{text[:80]!r} is no name")
        return text

    def _text(self, place: str, value: Any) -> str:  # Any: what h5py gives
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        if len(text) > LONGEST_TEXT:
            raise self.damaged(place, f"a text of {len(text):,} characters")
        return text


@contextmanager
def guarded(data: bytes, where: str, limit: int) -> Iterator[Guarded]:
    """The file that these bytes are, of which `limit` bytes are unpacked at most.

    Raises:
        DamagedRun: they are no HDF5 file, or something in it is not what it has to be.
    """
    try:
        file = h5py.File(io.BytesIO(data), "r")
    except DAMAGE as error:
        raise DamagedRun(f"{where}: not an HDF5 file ({in_a_line(error)})") from error
    with file:
        yield Guarded(where, file, _Budget(limit, len(data)))


def in_a_line(error: BaseException) -> str:
    """An exception's words, short, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _plain(value: Any) -> Any:  # Any: a number of numpy, or an array of few
    return tuple(value.tolist()) if np.ndim(value) else value.item()
