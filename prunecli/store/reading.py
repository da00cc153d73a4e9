"""Stored runs, read back for tables: without torch, and only what a record vouches for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunecli.errors import DamagedRun, UsageError
from prunecli.store import codec
from prunecli.store.folder import Chain, RunFolder, is_locked, read_run_json
from prunecli.store.sealing import read_record, read_sealed
from prunecli.store.values import Floats, Status, StoredRun

_NO_METRICS = frozenset({"seed", "level", "density", "spent"})


@dataclass(frozen=True)
class _Row:
    """A seed's levels: density and spent (L,), metrics (L,), and the number of prunable weights."""

    density: Floats
    spent: Floats
    metrics: Mapping[str, Floats]
    units: Mapping[str, str]
    total: int


def read_run(path: Path) -> StoredRun:
    """A run, from its folder or its `store.h5`.

    Raises:
        UsageError: there is nothing at the path.
        DamagedRun: it is no run, or empty, damaged, or made by a newer prunecli.
    """
    folder = path.parent if path.name == "store.h5" else path
    if not folder.exists():
        raise UsageError(f"{path}: no such run")
    if not folder.is_dir():
        raise DamagedRun(f"{path}: not a run's folder")
    content = read_run_json(folder)
    run = RunFolder(folder, str(content.get("recipe_digest", "")))
    rows = _stored_rows(run)
    notes = [f"seed {seed} failed: {why}" for seed, why in sorted(content.get("failures", {}).items())]
    unfinished = False
    for seed in _part_seeds(run):
        chain = run.chain(seed)
        if chain.damage:
            notes.append(chain.damage)
        if seed not in rows and chain.parts:
            rows[seed] = _part_row(chain)
            unfinished = True
    if not rows:
        raise DamagedRun(f"{folder}: empty: no level is sealed yet" + "".join(f"; {note}" for note in notes))
    running = is_locked(folder)
    status: Status = "running" if running else "partial" if unfinished else "complete"
    return _together(run, status, content, rows, notes)


def _stored_rows(run: RunFolder) -> dict[int, _Row]:
    found = read_record(run.store)
    if found is None:
        if run.store.exists():
            raise DamagedRun(f"{run.store}: has no record beside it, so nothing vouches for its content")
        return {}
    data = read_sealed(run.store, found[0])
    with codec.opened(data, "store", str(run.store)) as file:
        metrics, seeds = file["metrics"], file["metrics/seed"][()]
        names = [name for name in metrics if name not in _NO_METRICS]
        values = {name: np.asarray(metrics[name][()], dtype=np.float64) for name in names}
        units = {name: str(metrics[name].attrs.get("units", "")) for name in names}
        density, spent = metrics["density"][()], metrics["spent"][()]
        total = int(file["layers/total"][()].sum())
    return {
        int(seed): _Row(density, spent, {name: values[name][i] for name in names}, units, total)
        for i, seed in enumerate(seeds)
    }


def _part_seeds(run: RunFolder) -> list[int]:
    names = [path.name.removeprefix("seed-") for path in (run.path / "parts").glob("seed-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _part_row(chain: Chain) -> _Row:
    levels = []
    units: dict[str, str] = {}
    total = 0
    for path in chain.parts:
        with codec.opened(path.read_bytes(), "level", str(path)) as file:
            metrics = file["metrics"]
            levels.append({name: float(metrics[name][()]) for name in metrics})
            units |= {name: str(metrics[name].attrs.get("units", "")) for name in metrics}
            total = int(file["layers/total"][()].sum())
    names = {name for level in levels for name in level} - _NO_METRICS
    columns = {name: np.array([level.get(name, np.nan) for level in levels]) for name in names}
    density, spent = (np.array([level[name] for level in levels]) for name in ("density", "spent"))
    return _Row(density, spent, columns, units, total)


def _together(
    run: RunFolder, status: Status, content: Mapping[str, Any], rows: Mapping[int, _Row], notes: Sequence[str]
) -> StoredRun:  # Any: what JSON holds
    longest = max(rows.values(), key=lambda row: len(row.density))
    count = len(longest.density)
    names = sorted({name for row in rows.values() for name in row.metrics})
    recipe = content.get("recipe")
    return StoredRun(
        name=run.path.resolve().name,
        path=run.path,
        digest=run.digest,
        status=status,
        recipe=recipe if isinstance(recipe, dict) else {},
        seeds=tuple(sorted(rows)),
        density=longest.density,
        spent=longest.spent,
        metrics={
            name: np.stack([_padded(rows[seed], name, count) for seed in sorted(rows)]) for name in names
        },
        units={name: unit for row in rows.values() for name, unit in row.units.items()},
        total=longest.total,
        notes=tuple(notes),
    )


def _padded(row: _Row, name: str, count: int) -> Floats:
    values = row.metrics.get(name, np.full(len(row.density), np.nan))
    return np.concatenate([values, np.full(count - len(values), np.nan)])
