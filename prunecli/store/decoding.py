"""The bytes of parts and stores back to levels: what a place has to be follows from the file's own scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.store.guard import Array, Guarded, guarded
from prunecli.store.layout import (
    COMMON,
    FORMAT_VERSION,
    GROUPS,
    KEPT,
    LAST_SCALE,
    MAX_PRUNED_AT,
    PART_LIMIT,
    PER_SEED,
    SEED_SPENT,
    group_of,
    store_limit,
)
from prunecli.store.values import MOST_LEVELS, MOST_SEEDS, Measured

_LENGTHS = {
    "examples": ("examples/clean_label", "examples/target"),
    "test": ("test/label", "test/target"),
    "layers": ("layers/name",),
}
"""The array that says how long the last axis of a group's arrays is: the first of these that is there."""
_WHOLE = ("layers/total", "layers/kept")


@dataclass(frozen=True)
class Axes:
    """The seeds and levels of a store; a part has none, being of one."""

    seeds: tuple[int, ...] = ()
    levels: tuple[int, ...] = ()

    def lead(self, place: str) -> tuple[int, ...]:
        """The leading extents of the array at a place."""
        if not self.seeds or place in COMMON:
            return ()
        if place in ("metrics/density", "metrics/spent"):
            return (len(self.levels),)
        return (len(self.seeds),) if place in PER_SEED else (len(self.seeds), len(self.levels))

    def one(self, place: str, array: Array, seed: int, level: int) -> Array:
        """The array of one seed and level, by their positions."""
        if place in COMMON:
            return array
        return np.asarray(array[seed] if place in PER_SEED else array[seed, level])


@dataclass(frozen=True)
class _Packed:
    """A parameter's masks as they are stored: the level that dropped each weight, or bits."""

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    pruned_at: bool
    counted: bool = True

    def mask(self, seed: int, level: int) -> NDArray[np.bool_]:
        if self.pruned_at:
            return np.asarray(self.data[seed] > level)
        bits = np.unpackbits(self.data[seed, level], count=math.prod(self.shape))
        return bits.astype(np.bool_).reshape(self.shape)


@dataclass(frozen=True)
class _Masks(Mapping[str, NDArray[np.bool_]]):
    """The masks of one seed and level, unpacked when they are looked at: all of a store's would fill the memory."""

    packed: Mapping[str, _Packed]
    seed: int = 0
    level: int = 0

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        return self.packed[name].mask(self.seed, self.level)

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)


def decode_level(data: bytes, where: str) -> Measured:
    """A part's level; see `encode_level`.

    Raises:
        DamagedRun: these are not the bytes of a part.
    """
    axes = Axes()
    with opened(data, "level", where) as file:
        arrays = {place: read(file, place, axes) for place in places(file, axes)}
        packed = _packed(file, axes, arrays)
        seed, level = place_of(file)
        density, spent = clocks(file, axes)
    return Measured(seed, level, float(density), float(spent), arrays, _Masks(packed), _beside(packed))


def decode_store(data: bytes, where: str) -> list[Measured]:
    """The levels of a store, seed by seed; `encode_store` of them gives the same bytes.

    Raises:
        DamagedRun: these are not the bytes of a store.
    """
    with opened(data, "store", where) as file:
        axes = axes_of(file)
        stacked = {place: read(file, place, axes) for place in places(file, axes)}
        packed = _packed(file, axes, stacked)
        density, spent = seed_clocks(file, axes, stacked["layers/kept"], stacked["layers/total"])
    return [
        Measured(
            seed,
            level,
            float(density[i, j]),
            float(spent[i, j]),
            {place: axes.one(place, array, i, j) for place, array in stacked.items()},
            _Masks(packed, i, j),
            _beside(packed),
        )
        for i, seed in enumerate(axes.seeds)
        for j, level in enumerate(axes.levels)
    ]


@contextmanager
def opened(data: bytes, kind: str, where: str) -> Iterator[Guarded]:
    """An HDF5 file in memory, of our kind and of a format that this prunecli reads.

    Raises:
        DamagedRun: it is not.
        NewerFormat: a newer prunecli made it.
    """
    with guarded(data, where, PART_LIMIT if kind == "level" else store_limit(len(data))) as file:
        found, version = file.attribute("", "prunecli_type"), file.attribute("", "format_version")
        if found != kind:
            raise DamagedRun(f"{where}: not a prunecli {kind}; its prunecli_type is {str(found)[:80]!r}")
        if type(version) is not int or version < 1:
            raise DamagedRun(f"{where}: not a prunecli {kind}; its format is {str(version)[:80]!r}")
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{where}: made by a newer prunecli (format {version}; this reads up to {FORMAT_VERSION}); "
                "upgrade prunecli"
            )
        yield file


def place_of(file: Guarded) -> tuple[int, int]:
    """A part's seed and level."""
    seed, level = file.attribute("", "seed"), file.attribute("", "level")
    if (
        type(seed) is not int
        or type(level) is not int
        or not (0 <= seed < 2**31 and 0 <= level < MOST_LEVELS)
    ):
        raise file.damaged("", f"its seed and level are {str((seed, level))[:80]}")
    return seed, level


def axes_of(file: Guarded) -> Axes:
    """A store's seeds and levels."""
    found = {}
    for name, most in (("seed", MOST_SEEDS), ("level", MOST_LEVELS)):
        shape = file.shape(f"metrics/{name}")
        if len(shape) != 1 or not 0 < shape[0] <= most:
            raise file.damaged(f"metrics/{name}", f"its shape is {shape}; it can be a row of 1 to {most:,}")
        found[name] = tuple(file.array(f"metrics/{name}", shape, "iu").tolist())
    seeds, levels = found["seed"], found["level"]
    if list(seeds) != sorted(set(seeds)) or not 0 <= seeds[0] <= seeds[-1] < 2**31:
        raise file.damaged("metrics/seed", f"{str(seeds)[:80]} are not seeds that rise")
    if levels != tuple(range(len(levels))):
        raise file.damaged("metrics/level", f"{str(levels)[:80]} are not the levels from 0 on")
    return Axes(seeds, levels)


def places(file: Guarded, axes: Axes) -> list[str]:
    """What varies by seed or level, and what all share; not the scales, and not what lies elsewhere."""
    found = []
    for group in GROUPS:
        # The layers' names label an axis, and are content too.
        last = LAST_SCALE.get(group, "") if group != "layers" else ""
        scales = {"seed", "level", last} if axes.seeds else set()
        clocks = {"density", "spent", "seed_spent"} if group == "metrics" else set()
        found += [f"{group}/{name}" for name in file.names(group) if name not in scales | clocks]
    for observer in file.names("observations"):
        group = f"observations/{observer}"
        inside = [f"{group}/{name}" for name in file.names(group)]
        found += [p for p in inside if not axes.seeds or file.attribute(p, "CLASS") != "DIMENSION_SCALE"]
    return sorted(found)


def read(file: Guarded, place: str, axes: Axes) -> Array:
    """The array at a place, which has to have the extents and the type that are right there."""
    group, lead = group_of(place), axes.lead(place)
    if place == "layers/name":
        return np.array(file.texts(place, _length(file, group)), dtype=object)
    if group in _LENGTHS:
        kinds = "iu" if place in _WHOLE else "iuf"
        return file.array(place, (*lead, _length(file, group)), kinds)
    if group == "metrics":
        return file.array(place, lead)
    shape = file.shape(place)
    if shape[: len(lead)] != lead:
        raise file.damaged(place, f"its shape is {shape}; it has to begin with {lead}")
    return file.array(place, shape)


def clocks(file: Guarded, axes: Axes) -> tuple[Array, Array]:
    """Density and epochs spent, by level."""
    density, spent = (
        file.array(place, axes.lead(place), "f") for place in ("metrics/density", "metrics/spent")
    )
    if not ((density >= 0) & (density <= 1)).all():
        raise file.damaged("metrics/density", "not between 0 and 1")
    if not ((spent >= 0) & np.isfinite(spent)).all():
        raise file.damaged("metrics/spent", "not numbers of epochs")
    return density, spent


def seed_clocks(file: Guarded, axes: Axes, kept: Array, total: Array) -> tuple[Array, Array]:
    """Density and epochs spent of each seed of a store (S, L), by the weights that layers keep (S, L, P), of (P,)."""
    shape = (len(axes.seeds), len(axes.levels))
    means = clocks(file, axes)
    density, spent = (np.broadcast_to(clock, shape) for clock in means)
    counts, weights = kept.sum(axis=2, dtype=np.float64), max(1, sum(total.tolist()))
    if len(differ := (counts != counts[0]).any(axis=0).nonzero()[0]):
        density = density.copy()
        density[:, differ] = counts[:, differ] / weights
    if file.has(SEED_SPENT):
        spent = file.array(SEED_SPENT, shape, "f")
        if not ((spent >= 0) & np.isfinite(spent)).all():
            raise file.damaged(SEED_SPENT, "not numbers of epochs")
    for name, mean, values in zip(("density", "spent"), means, (density, spent), strict=True):
        if not np.allclose(values.mean(axis=0), mean, rtol=1e-9, atol=0):
            raise file.damaged(f"metrics/{name}", "not the mean of its seeds")
    return density, spent


def _length(file: Guarded, group: str) -> int:
    place = next((place for place in _LENGTHS[group] if file.has(place)), _LENGTHS[group][0])
    shape = file.shape(place)
    if not shape or len(shape) > 2:
        raise file.damaged(place, f"its shape is {shape}; it can be a row, or a row a seed")
    return shape[-1]


def _packed(file: Guarded, axes: Axes, arrays: Mapping[str, Array]) -> dict[str, _Packed]:
    """The masks: as many and as large as the layers say."""
    for place in ("layers/name", "layers/total", "layers/kept"):
        if place not in arrays:
            raise file.damaged(place, "missing")
    totals = dict(zip(arrays["layers/name"], arrays["layers/total"].tolist(), strict=True))
    if len(totals) != len(arrays["layers/name"]):
        raise file.damaged("layers/name", "two layers have one name")
    found = {}
    for name in file.names("masks"):
        place = f"masks/{name}"
        shape, total = file.attribute(place, "shape"), file.attribute(place, "total")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise file.damaged(place, f"{str(shape)[:80]} is no shape")
        expected = totals.get(name, total)
        if not total == expected == math.prod(shape):
            raise file.damaged(place, f"has {total} weights, its shape {shape}, and its layer {expected}")
        counted = file.attribute(place, "counted") != 0
        found[name] = replace(_stored_mask(file, place, shape, axes), counted=counted)
    if missing := sorted(set(totals) - set(found)):
        raise file.damaged(f"masks/{missing[0]}", "missing")
    return found


def _beside(packed: Mapping[str, _Packed]) -> frozenset[str]:
    return frozenset(name for name, one in packed.items() if not one.counted)


def _stored_mask(file: Guarded, place: str, shape: tuple[int, ...], axes: Axes) -> _Packed:
    encoding, levels = file.attribute(place, "encoding"), len(axes.levels)
    if encoding == "packbits":
        width = -(-math.prod(shape) // 8)
        data = file.array(place, (*axes.lead(place), width), "u")
        return _Packed(data.reshape(data.shape if axes.seeds else (1, 1, width)), shape, pruned_at=False)
    if encoding != "pruned_at" or not 0 < levels <= MAX_PRUNED_AT:
        raise file.damaged(place, f"its encoding is {str(encoding)[:80]!r}, with {levels} levels")
    data = file.array(place, (len(axes.seeds), *shape), "u")
    if ((data >= levels) & (data != KEPT)).any():
        raise file.damaged(place, f"a weight is dropped at a level after the last, which is {levels - 1}")
    return _Packed(data, shape, pruned_at=True)
