"""How a run stands, and whether what is stored is sound; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunecli.errors import DamagedRun, PrunecliError, UsageError
from prunecli.store import codec
from prunecli.store.folder import RunFolder, is_locked, read_run_json
from prunecli.store.sealing import read_record, read_sealed, record_path
from prunecli.store.values import Measured

_STORED_STATE = re.compile(r"seed-(\d+)\.safetensors")


@dataclass(frozen=True)
class SeedStanding:
    """A seed's sealed levels of those that its procedure has, and why it failed, if it did."""

    seed: int
    sealed: int
    failure: str = ""


@dataclass(frozen=True)
class Standing:
    """A run's standing: `complete`, `running` or `partial`; `seconds` left, as far as its pace tells."""

    name: str
    path: Path
    status: str
    levels: int
    seeds: tuple[SeedStanding, ...]
    seconds: float | None
    damage: tuple[str, ...]


@dataclass(frozen=True)
class StoredState:
    """A state that is kept to go on from, and the bytes it takes."""

    path: Path
    prefix: str
    seed: int
    size: int


def standing(path: Path) -> Standing:
    """How a run stands.

    Raises:
        UsageError: there is nothing at the path.
        DamagedRun: it is no run, or made by a newer prunecli.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run")
    content = read_run_json(path)
    run = RunFolder(path, str(content.get("recipe_digest", "")))
    levels = int(content.get("levels", 0))
    failures = content.get("failures", {})
    seeds: list[SeedStanding] = []
    damage: list[str] = []
    stored: frozenset[int] = frozenset()
    try:
        stored = run.stored_seeds()
    except DamagedRun as error:
        damage.append(str(error))
    for seed in sorted({*content.get("recipe", {}).get("seeds", []), *stored}):
        chain = run.chain(seed)
        damage += [chain.damage] if chain.damage else []
        sealed = levels if seed in stored else len(chain.parts)
        seeds.append(SeedStanding(seed, sealed, str(failures.get(str(seed), ""))))
    complete = all(one.sealed >= levels for one in seeds) and bool(stored)
    status = "running" if is_locked(path) else "complete" if complete else "partial"
    left = None if complete else _seconds_left(run, content, seeds)
    return Standing(path.resolve().name, path, status, levels, tuple(seeds), left, tuple(damage))


def problems(path: Path) -> list[str]:
    """What is wrong with a run's stored files; an empty list where all is sound.

    Raises:
        UsageError, DamagedRun: see `standing`.
    """
    found = list(standing(path).damage)
    run = RunFolder(path, str(read_run_json(path)["recipe_digest"]))
    try:
        levels = run.stored()
    except PrunecliError as error:
        return [*found, str(error)]
    for folder in sorted((path / "parts").glob("seed-*")):
        chain = run.chain(int(folder.name.removeprefix("seed-")))
        levels += [codec.decode_level(part.read_bytes(), str(part)) for part in chain.parts]
    for one in levels:
        found += [f"{path}: seed {one.seed}, level {one.level}: {what}" for what in _unsound(one)]
    return found


def stored_states(folder: Path) -> list[StoredState]:
    """The states that are kept in `runs/.states`."""
    return [
        StoredState(path, path.parent.name, int(match[1]), path.stat().st_size)
        for path in sorted(folder.glob("*/seed-*.safetensors"))
        if (match := _STORED_STATE.fullmatch(path.name))
    ]


def drop_states(states: Sequence[StoredState]) -> None:
    """Delete states: their records first. What they would have saved is trained again when it is needed."""
    for state in states:
        record_path(state.path).unlink(missing_ok=True)
        state.path.unlink(missing_ok=True)
        if not any(state.path.parent.iterdir()):
            state.path.parent.rmdir()


def check_file(path: Path) -> list[str]:
    """What is wrong with a single `store.h5`.

    Raises:
        DamagedRun: it is not what its record says, or no store.
    """
    record = read_record(path)
    if record is None:
        raise DamagedRun(f"{path}: has no record beside it, so nothing vouches for its content")
    levels = codec.decode_store(read_sealed(path, record[0]), str(path))
    return [f"{path}: seed {one.seed}, level {one.level}: {what}" for one in levels for what in _unsound(one)]


def _unsound(one: Measured) -> Iterator[str]:
    """The store's own laws that a level breaks."""
    kept = {name: int(mask.sum()) for name, mask in one.masks.items()}
    stored = dict(zip(one.arrays["layers/name"], one.arrays["layers/kept"].tolist(), strict=True))
    if kept != stored:
        yield "the masks and /layers/kept disagree"
    total = sum(mask.size for mask in one.masks.values())
    if total and abs(sum(kept.values()) / total - one.density) > 1e-12:
        yield "the masks and the density disagree"
    for place in ("examples/loss", "test/loss"):
        if place in one.arrays and not np.isfinite(one.arrays[place]).all():
            yield f"/{place} holds numbers that are not finite"
    if not np.isfinite(one.arrays["metrics/test_error"]):
        yield "the test error is not a number"


def _seconds_left(run: RunFolder, content: dict[str, Any], seeds: Sequence[SeedStanding]) -> float | None:
    """The epochs left at the pace between the first and the last part sealed by the latest process."""
    ends: list[float] = [0.0, *content.get("spent", [])]
    if len(ends) <= max((one.sealed for one in seeds), default=0):
        return None
    chains = {one.seed: run.chain(one.seed).parts for one in seeds}
    times = sorted(
        (part.stat().st_mtime, ends[n + 1] - ends[n])
        for parts in chains.values()
        for n, part in enumerate(parts)
    )
    if len(times) < 2:
        return None
    epochs = sum(epochs for _, epochs in times[1:])
    pace = (times[-1][0] - times[0][0]) / epochs if epochs else 0.0
    return pace * sum(ends[-1] - ends[min(one.sealed, len(ends) - 1)] for one in seeds)
