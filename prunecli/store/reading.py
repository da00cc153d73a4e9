"""Stored runs, read back for tables: without torch, and only what a record vouches for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import DamagedRun, PrunecliError, UsageError
from prunecli.store import decoding
from prunecli.store.decoding import Axes
from prunecli.store.folder import Chain, RunFolder
from prunecli.store.guard import Guarded
from prunecli.store.lock import is_locked
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.sealing import read_record, read_sealed, record_path
from prunecli.store.values import Floats, Status, StoredRun

_NO_METRICS = frozenset({"seed", "level", "density", "spent", "seed_spent"})
_TRIES = 20
"""How often a run is read whose store is put together meanwhile."""


@dataclass(frozen=True)
class _Row:
    """A seed's levels: density and spent (L,), metrics (L,), the prunable tensors, and what each keeps (L, P)."""

    density: Floats
    spent: Floats
    metrics: Mapping[str, Floats]
    units: Mapping[str, str]
    sizes: tuple[int, ...]
    layers: tuple[str, ...]
    kept: NDArray[np.int64]


def read_run(path: Path) -> StoredRun:
    """A run, from its folder or its `store.h5`.

    Raises:
        UsageError: there is nothing at the path.
        DamagedRun: it is no run, or empty, damaged, or made by a newer prunecli.
    """
    folder = path.parent if path.name == "store.h5" else path
    if not os.path.lexists(folder):
        raise UsageError(f"{path}: no such run")
    if not folder.is_dir():
        raise DamagedRun(f"{path}: not a run's folder")
    for _ in range(_TRIES):
        before = _moment(folder)
        try:
            found: StoredRun | PrunecliError = _read_once(folder)
        except DamagedRun as error:
            found = error
        # Parts go when the store is sealed: what was read across that moment may lack seeds.
        after = _moment(folder)
        if before == after or (isinstance(found, StoredRun) and before[0] == after[0]):
            break
    if isinstance(found, PrunecliError):
        raise found
    return found


def _moment(folder: Path) -> tuple[object, object]:
    """What changes while a store is put together: its record, and the parts."""
    try:
        facts = record_path(folder / "store.h5").lstat()
        record = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
    except OSError:
        record = (0, 0, 0)
    return record, tuple(sorted(str(part) for part in (folder / "parts").glob("seed-*/level-*.h5.json")))


def _read_once(folder: Path) -> StoredRun:
    content = read_run_json(folder)
    check_folders(folder)
    run = RunFolder(folder, content["recipe_digest"])
    rows = _stored_rows(run)
    notes = [f"seed {seed} failed: {why}" for seed, why in sorted(content["failures"].items())]
    unfinished = False
    for seed in part_seeds(folder):
        if seed in rows:
            continue
        chain = run.chain(seed)
        if chain.damage:
            notes.append(chain.damage)
        if chain.parts:
            rows[seed] = _part_row(chain, seed)
            unfinished = True
    if not rows:
        raise DamagedRun(f"{folder}: empty: no level is sealed yet" + "".join(f"; {note}" for note in notes))
    status: Status = "running" if is_locked(folder) else "partial" if unfinished else "complete"
    return _together(run, status, content, rows, notes)


def _stored_rows(run: RunFolder) -> dict[int, _Row]:
    found = run.store_content()
    if found is None:
        return {}
    facts, data = found
    with decoding.opened(data, "store", str(run.store)) as file:
        axes = decoding.axes_of(file)
        if facts["seeds"] != list(axes.seeds):
            raise file.damaged("metrics/seed", f"{str(axes.seeds)[:80]}; its record says {facts['seeds']}")
        values, units = _metrics(file, axes)
        layers, sizes, kept = _layers(file, axes)
        clocks = decoding.seed_clocks(file, axes, kept, np.array([sum(sizes)], dtype=np.float64))
        density, spent = (np.asarray(clock, np.float64) for clock in clocks)
    return {
        seed: _Row(
            density[i],
            spent[i],
            {name: array[i] for name, array in values.items()},
            units,
            sizes,
            layers,
            kept[i],
        )
        for i, seed in enumerate(axes.seeds)
    }


def _part_row(chain: Chain, seed: int) -> _Row:
    levels = []
    for number, path in enumerate(chain.parts):
        record = read_record(path)
        if record is None or record[1] != chain.tips[number]:
            raise DamagedRun(f"{record_path(path)}: damaged: it is another one than a moment ago")
        with decoding.opened(read_sealed(path, record[0]), "level", str(path)) as file:
            if decoding.place_of(file) != (seed, number):
                raise file.damaged(
                    "", f"it is level {number} of seed {seed} by its name, and by itself another"
                )
            arrays, units = _metrics(file, Axes())
            values = {name: float(array) for name, array in arrays.items()}
            clocks = [float(clock) for clock in decoding.clocks(file, Axes())]
            levels.append((clocks, values, units, _layers(file, Axes())))
    if len({layers for _, _, _, (layers, _, _) in levels}) > 1:
        raise DamagedRun(f"{chain.parts[0].parent}: damaged: its levels are of different layers")
    names = sorted({name for _, values, _, _ in levels for name in values})
    density, spent = np.array([clocks for clocks, _, _, _ in levels]).T
    layers, sizes, _ = levels[-1][3]
    return _Row(
        density,
        spent,
        {name: np.array([values.get(name, np.nan) for _, values, _, _ in levels]) for name in names},
        {name: unit for _, _, units, _ in levels for name, unit in units.items()},
        sizes,
        layers,
        np.stack([kept for _, _, _, (_, _, kept) in levels]),
    )


def _metrics(file: Guarded, axes: Axes) -> tuple[dict[str, Floats], dict[str, str]]:
    """The metrics, and their units; each array is opened once."""
    values, units = {}, {}
    for name in sorted(set(file.names("metrics")) - _NO_METRICS):
        values[name] = decoding.read(file, f"metrics/{name}", axes).astype(np.float64)
        units[name] = str(file.attribute(f"metrics/{name}", "units") or "")
    return values, units


def _layers(file: Guarded, axes: Axes) -> tuple[tuple[str, ...], tuple[int, ...], NDArray[np.int64]]:
    """The prunable tensors, the numbers of their weights, and how many each keeps."""
    names, totals, kept = (decoding.read(file, f"layers/{what}", axes) for what in ("name", "total", "kept"))
    # Python's numbers: the sum of a stranger's may be more than 64 bits.
    total = sum(totals.tolist())
    if (
        not all(0 < one < 2**53 for one in (*totals.tolist(), max(total, 1)))
        or not ((kept >= 0) & (kept <= totals)).all()
    ):
        raise file.damaged("layers/kept", "not numbers of weights, of those that the layers have in all")
    return tuple(names.tolist()), tuple(totals.tolist()), kept.astype(np.int64)


def _together(
    run: RunFolder, status: Status, content: Mapping[str, Any], rows: Mapping[int, _Row], notes: Sequence[str]
) -> StoredRun:  # Any: what JSON holds
    longest = max(rows.values(), key=lambda row: len(row.density))
    count = len(longest.density)
    names = sorted({name for row in rows.values() for name in row.metrics})
    if len({row.layers for row in rows.values()}) > 1:
        raise DamagedRun(f"{run.path}: damaged: its seeds are of different layers")
    return StoredRun(
        name=run.path.resolve().name,
        path=run.path,
        digest=run.digest,
        status=status,
        recipe=content["recipe"],
        seeds=tuple(sorted(rows)),
        density=_clock([row.density for row in rows.values()], count),
        spent=_clock([row.spent for row in rows.values()], count),
        metrics={
            name: np.stack([_padded(rows[seed], name, count) for seed in sorted(rows)]) for name in names
        },
        units={name: unit for row in rows.values() for name, unit in row.units.items()},
        total=sum(longest.sizes),
        excluded=content["excluded"],
        tests=content["tests"],
        notes=tuple(notes),
        layers=longest.layers,
        sizes=longest.sizes,
        kept=np.stack([_filled(rows[seed].kept, count) for seed in sorted(rows)]),
    )


def _clock(rows: Sequence[Floats], count: int) -> Floats:
    """Density or epochs spent (L,): that of all seeds that have come so far, or their mean."""
    of_level = [np.array([row[level] for row in rows if level < len(row)]) for level in range(count)]
    # The mean of equal numbers may be another one in its last digit.
    return np.array([one[0] if (one == one[0]).all() else one.mean() for one in of_level])


def _padded(row: _Row, name: str, count: int) -> Floats:
    values = row.metrics.get(name, np.full(len(row.density), np.nan))
    return np.concatenate([values, np.full(count - len(values), np.nan)])


def _filled(kept: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    absent = np.full((count - len(kept), kept.shape[1]), -1, dtype=np.int64)
    return np.concatenate([kept, absent])
