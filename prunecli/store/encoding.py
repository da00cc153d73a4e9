"""Levels to the bytes of parts and stores, as the contract lays them out.

Files are built in memory: libhdf5 crashes the interpreter when the disk fills under an open file, and loses
a file that is open when the process dies.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prunecli
from prunecli.errors import UsageError
from prunecli.store.guard import Array, h5py
from prunecli.store.layout import (
    COMMON,
    FORMAT_VERSION,
    KEPT,
    LAST_SCALE,
    PART_LIMIT,
    PER_SEED,
    REGRESSION,
    SEED_SPENT,
    is_place,
)
from prunecli.store.values import Header, Measured

_UNITS = {"error": "percent", "loss": "nat", "clean": "nat", "noisy": "nat"}


def encode_level(measured: Measured, header: Header) -> bytes:
    """One seed's level as the bytes of a part.

    Raises:
        UsageError: an observer gave what a part has no place for.
    """
    _check_room(measured)
    buffer = io.BytesIO()
    with _new(buffer, "level", header) as file:
        file.attrs["seed"], file.attrs["level"] = measured.seed, measured.level
        _write(file, "metrics/density", np.float64(measured.density))
        _write(file, "metrics/spent", np.float64(measured.spent))
        for place, array in sorted(measured.arrays.items()):
            _write(file, place, array)
        _mark_squared_errors(file)
        masks = _group(file, "masks")
        for name, mask in measured.masks.items():
            packed = masks.create_dataset(name, data=np.packbits(mask), track_times=False)
            counted = 0 if name in measured.beside else mask.size
            packed.attrs.update(
                {"encoding": "packbits", "shape": mask.shape, "total": mask.size, "counted": counted}
            )
    return buffer.getvalue()


def encode_store(levels: Sequence[Measured], header: Header) -> bytes:
    """All seeds' levels, every seed with the same ones, as the bytes of `store.h5`."""
    table = _table(levels)
    first = table[0]
    buffer = io.BytesIO()
    with _new(buffer, "store", header) as file:
        _write_summary(file, table)
        for place in sorted({place for row in table for one in row for place in one.arrays}):
            _write(file, place, _stacked(table, place))
        _mark_squared_errors(file)
        for name in ("density", "spent"):
            _write(file, f"metrics/{name}", _clock(table, name))
        if len({tuple(one.spent for one in row) for row in table}) > 1:
            _write(file, SEED_SPENT, np.array([[one.spent for one in row] for row in table]))
        seeds, numbers = [row[0].seed for row in table], [one.level for one in first]
        for group in _groups_of(file):
            _write_scales(group, seeds, numbers)
        masks = _group(file, "masks")
        for name in first[0].masks:
            _write_masks(masks, name, table, header.encoding)
        provenance = _group(file, "provenance")
        for name, text in sorted(header.provenance.items()):
            provenance.create_dataset(name, data=text, dtype=h5py.string_dtype(), track_times=False)
    return buffer.getvalue()


def _check_room(measured: Measured) -> None:
    """Refuse what could be written and not be read again."""
    for place in measured.arrays:
        if not is_place(place):
            raise UsageError(
                f"level {measured.level}: an observer gives {place!r}, where nothing is stored; it can give a "
                "name of its own, or one in metrics, examples, test or layers"
            )
    size = sum(array.nbytes for array in measured.arrays.values())
    size += sum(mask.size for mask in measured.masks.values()) // 8
    if size > PART_LIMIT:
        raise UsageError(
            f"level {measured.level}: {size:,} bytes are to be stored, and a level has room for {PART_LIMIT:,}; "
            "observe less"
        )


def _new(buffer: io.BytesIO, kind: str, header: Header) -> h5py.File:
    # Creation order is kept so that netCDF4 can edit the file.
    file = h5py.File(buffer, "w", track_order=True)
    file.attrs.update(
        {
            "prunecli_type": kind,
            "format_version": FORMAT_VERSION,
            "prunecli_version": prunecli.__version__,
            "recipe_digest": header.digest,
            "Conventions": "CF-1.11 NeXus",
            "NX_class": "NXroot",
            "title": header.title,
        }
    )
    if kind == "store":
        file.attrs["default"] = "summary"
    return file


def _group(file: h5py.File, path: str) -> h5py.Group:
    group = file
    for name in path.split("/"):
        if name not in group:
            made = group.create_group(name, track_order=True)
            made.attrs.update({"prunecli_type": name, "prunecli_version": prunecli.__version__})
        group = group[name]
    return group


def _write(file: h5py.File, place: str, array: Any) -> h5py.Dataset:  # Any: anything numpy takes
    """Write an array; long ones compressed, a row a chunk."""
    folder, _, name = place.rpartition("/")
    array = np.asarray(array)
    options: dict[str, Any] = {"track_times": False}  # Any: h5py's keywords
    if array.dtype == object:
        options["dtype"] = h5py.string_dtype()
    elif array.nbytes > 4096:
        options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        options["chunks"] = (1,) * (array.ndim - 1) + (min(array.shape[-1], 262_144),)
    dataset = _group(file, folder).create_dataset(name, data=array, **options)
    if unit := _unit(place):
        dataset.attrs["units"] = unit
    dataset.attrs["long_name"] = name.replace("_", " ")
    return dataset


def _unit(place: str) -> str:
    name = place.rpartition("/")[2]
    fixed = {
        "metrics/density": "1",
        "metrics/spent": "epoch",
        SEED_SPENT: "epoch",
        "metrics/instability": "1",
        "metrics/diverged": "1",
        "metrics/removed": "1",
        "metrics/best_epoch": "epoch",
        "metrics/selected_epoch": "epoch",
        "metrics/generalization_gap": "percent",
    }
    # An error before or after pruning is an error.
    measure = name.removesuffix("_before_pruning").removesuffix("_after_pruning")
    return fixed.get(place) or _UNITS.get(measure.rpartition("_")[2], "")


def _table(levels: Sequence[Measured]) -> list[list[Measured]]:
    """Rows of seeds, columns of levels, both rising."""
    seeds = sorted({one.seed for one in levels})
    table = [sorted((one for one in levels if one.seed == seed), key=lambda one: one.level) for seed in seeds]
    if len({tuple(one.level for one in row) for row in table}) != 1:
        raise ValueError("every seed needs the same levels")
    return table


def _clock(table: Sequence[Sequence[Measured]], name: str) -> NDArray[np.float64]:
    """Density or epochs spent (L,): that of all seeds, or their mean."""
    values = np.array([[getattr(one, name) for one in row] for row in table])
    # The mean of equal numbers may be another one in its last digit.
    return np.asarray(np.where((values == values[0]).all(axis=0), values[0], values.mean(axis=0)))


def _mark_squared_errors(file: h5py.File) -> None:
    """Losses of a regression are in no unit of information."""
    if REGRESSION in file:
        for group in (file[name] for name in ("metrics", "examples", "test", "summary") if name in file):
            for name, dataset in group.items():
                if "loss" in name:
                    dataset.attrs["units"] = "1"


def _stacked(table: Sequence[Sequence[Measured]], place: str) -> Array:
    """(S, L, …), (S, …) or (…) as the place has it; NaN where a level has none."""
    example = next(one.arrays[place] for row in table for one in row if place in one.arrays)
    if place in COMMON:
        return example
    if place in PER_SEED:
        return np.stack([row[0].arrays[place] for row in table])
    absent = np.full_like(example, np.nan) if example.dtype.kind == "f" else np.zeros_like(example)
    return np.stack([np.stack([one.arrays.get(place, absent) for one in row]) for row in table])


def _groups_of(file: h5py.File) -> Iterator[h5py.Group]:
    """The groups whose arrays have seeds and levels."""
    for name in ("metrics", "examples", "test", "layers"):
        if name in file:
            yield file[name]
    yield from (file["observations"].values() if "observations" in file else ())


def _write_scales(group: h5py.Group, seeds: Sequence[int], levels: Sequence[int]) -> None:
    """Dimension scales inside the group: none at the root, so that xarray can align the groups."""
    file, path = group.file, group.name.strip("/")
    arrays = {name: dataset for name, dataset in group.items() if isinstance(dataset, h5py.Dataset)}
    scales = {
        "seed": _write(file, f"{path}/seed", np.array(seeds, dtype=np.int64)),
        "level": _write(file, f"{path}/level", np.array(levels, dtype=np.int64)),
    }
    last = LAST_SCALE.get(path, "")
    if last and last not in group:
        (length,) = {array.shape[-1] for array in arrays.values() if array.ndim}
        scales[last] = _write(file, f"{path}/{last}", np.arange(length, dtype=np.int64))
    elif last:
        scales[last] = group[last]
    for name, scale in scales.items():
        scale.make_scale(name)
    for name, array in arrays.items():
        if name not in scales:
            dimensions = _dimensions(f"{path}/{name}", last)
            # netCDF labels all of an array's axes or none: an observer's own axes get scales of their own.
            for axis in range(len(dimensions), array.ndim):
                dimensions.append(f"{name}_axis_{axis - 2}")
                scale = _write(file, f"{path}/{dimensions[-1]}", np.arange(array.shape[axis], dtype=np.int64))
                scale.make_scale(dimensions[-1])
            for axis, dimension in enumerate(dimensions):
                array.dims[axis].attach_scale(group[dimension])


def _dimensions(place: str, last: str) -> list[str]:
    """The scales of an array's leading axes."""
    if place in ("metrics/density", "metrics/spent"):
        return ["level"]
    varying = [] if place in COMMON else ["seed"] if place in PER_SEED else ["seed", "level"]
    return [*varying, last] if last else varying


def _write_summary(file: h5py.File, table: Sequence[Sequence[Measured]]) -> None:
    """What viewers plot on opening: mean test error over seeds against density."""
    first = table[0]
    signal = "test_loss" if REGRESSION in first[0].arrays else "test_error"
    errors = np.stack([[one.arrays[f"metrics/{signal}"] for one in row] for row in table])
    spread = errors.std(axis=0, ddof=1) if len(errors) > 1 else np.full(len(first), np.nan)
    columns = {
        "density": _clock(table, "density"),
        "level": np.array([one.level for one in first], dtype=np.int64),
        "spent": _clock(table, "spent"),
        signal: errors.mean(axis=0),
        f"{signal}_errors": spread,
    }
    for name, values in columns.items():
        _write(file, f"summary/{name}", values)
    summary = file["summary"]
    summary["density"].make_scale("density")
    for name in columns:
        if name != "density":
            summary[name].dims[0].attach_scale(summary["density"])
    summary.attrs.update({"NX_class": "NXdata", "signal": signal, "axes": ["density"]})


def _write_masks(group: h5py.Group, name: str, table: Sequence[Sequence[Measured]], encoding: str) -> None:
    example = table[0][0].masks[name]
    options = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if example.size > 4096 else {}
    if encoding == "pruned_at":
        data = np.stack([_pruned_at([one.masks[name] for one in row]) for row in table])
    else:
        data = np.stack([np.stack([np.packbits(one.masks[name]) for one in row]) for row in table])
    chunks = (1, *data.shape[1:]) if options and example.size < 2**24 else None
    dataset = group.create_dataset(name, data=data, track_times=False, chunks=chunks, **options)
    dataset.attrs.update(
        {
            "encoding": encoding,
            "shape": example.shape,
            "total": example.size,
            "counted": 0 if name in table[0][0].beside else example.size,
        }
    )


def _pruned_at(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """The level that dropped each weight; 255 where it is kept to the end."""
    dropped = np.full(masks[0].shape, KEPT, dtype=np.uint8)
    for level in reversed(range(len(masks))):
        dropped[~masks[level]] = level
    return dropped
