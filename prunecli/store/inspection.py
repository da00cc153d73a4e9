"""How a run stands, and whether what is stored is sound; without torch."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from prunecli.errors import DamagedRun, NewerFormat, UsageError
from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.guard import Guarded
from prunecli.store.labels import FOLDER, folder_problems, is_label_store, read_labels_here
from prunecli.store.lock import is_locked
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.score_problems import score_problems
from prunecli.store.scores import is_score_store
from prunecli.store.sealing import read_file, read_record, record_path, remove, vouches
from prunecli.store.values import Measured
from prunecli.store.weight_files import weight_problems

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
    if not os.path.lexists(path):
        raise UsageError(f"{path}: no such run")
    if path.name == FOLDER:
        raise UsageError(f"{path}: holds label stores, not a run; `prunecli check {path}` checks them")
    content = read_run_json(path)
    check_folders(path)
    run, levels, failures = RunFolder(path, content["recipe_digest"]), content["levels"], content["failures"]
    seeds: list[SeedStanding] = []
    damage: list[str] = []
    stored: frozenset[int] = frozenset()
    try:
        stored = run.stored_seeds()
    except NewerFormat:
        raise
    except DamagedRun as error:
        damage.append(str(error))
    for seed in sorted({*content["recipe"].get("seeds", []), *stored}):
        chain = run.chain(seed)
        damage += [chain.damage] if chain.damage and seed not in stored else []
        sealed = levels if seed in stored else len(chain.parts)
        seeds.append(SeedStanding(seed, sealed, failures.get(str(seed), "")))
    complete = all(one.sealed >= levels for one in seeds) and bool(stored)
    status = "running" if is_locked(path) else "complete" if complete else "partial"
    left = None if complete else _seconds_left(run, content["spent"], seeds)
    return Standing(path.resolve().name, path, status, levels, tuple(seeds), left, tuple(damage))


def problems(path: Path) -> list[str]:
    """What is wrong with a run's stored files, or with the label stores in their folder; empty where all is sound.

    Raises:
        UsageError, DamagedRun: see `standing`.
    """
    if path.name == FOLDER:
        return folder_problems(path)
    found = list(standing(path).damage)
    content = read_run_json(path)
    run = RunFolder(path, content["recipe_digest"])
    stored: list[int] = []
    try:
        if content_of_store := run.store_content():
            facts, data = content_of_store
            stored = facts["seeds"]
            found += _store_problems(data, run.store, facts, content["levels"])
    except DamagedRun as error:
        return list(dict.fromkeys([*found, str(error)]))
    for seed in part_seeds(path):
        if seed not in stored:
            found += _part_problems(run, seed)
    return [*found, *weight_problems(run, stored)]


def check_file(path: Path) -> list[str]:
    """What is wrong with a single `store.h5`, label store or score store.

    Raises:
        DamagedRun: it is not what its record says, or no store.
    """
    found = read_record(path)
    if found is None:
        raise DamagedRun(f"{path}: has no record beside it, so nothing vouches for its content")
    if is_score_store(found[0]):
        return score_problems(path)
    if is_label_store(found[0]):
        read_labels_here(path)
        return []
    data = read_file(path)
    for facts in (found[0], found[0].get("replaces")):
        if isinstance(facts, dict) and vouches(facts, data):
            digest = {"recipe_digest": found[0].get("recipe_digest")}
            return list(_store_problems(data, path, {**facts, **digest}, 0))
    raise DamagedRun(f"{path}: damaged: its content is not what {record_path(path).name} says")


def stored_states(folder: Path) -> list[StoredState]:
    """The states that are kept in `runs/.states`."""
    return [
        StoredState(path, path.parent.name, int(match[1]), path.lstat().st_size)
        for path in sorted(folder.glob("*/seed-*.safetensors"))
        if (match := _STORED_STATE.fullmatch(path.name)) and _is_ours(path)
    ]


def drop_states(states: Sequence[StoredState]) -> None:
    """Delete states. What they would have saved is trained again when it is needed.

    Raises:
        StorageError: one cannot be deleted.
    """
    for state in states:
        if state.path.parent.parent.is_symlink():
            raise DamagedRun(f"{state.path.parent.parent}: a symbolic link, through which nothing is deleted")
        drop_state(state.path)


def drop_state(path: Path) -> None:
    """Delete a state, its record first: no record is left without its file; and its folder, if that is empty."""
    remove(record_path(path))
    remove(path)
    # Another seed's state may lie there still, or come just now.
    with suppress(OSError):
        os.rmdir(path.parent)  # noqa: PTH106  (see sealing)


def _is_ours(path: Path) -> bool:
    """Whether a file is one, in a folder that is one: what links lead to is not ours to delete."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and not path.parent.is_symlink()
    except OSError:
        return False


def _store_problems(data: bytes, where: Path, facts: Mapping[str, Any], levels: int) -> Iterator[str]:
    """What is wrong with a store; `levels` are those that its run should have, 0 where nobody says."""
    with codec.opened(data, "store", str(where)) as file:
        yield from _header_problems(file, facts)
        yield from _summary_problems(file)
        encodings = {file.attribute(f"masks/{name}", "encoding") for name in file.names("masks")}
    found = codec.decode_store(data, str(where))
    seeds = sorted({one.seed for one in found})
    if facts.get("seeds") != seeds:
        yield f"{where}: has the seeds {seeds}; its record says {str(facts.get('seeds'))[:80]}"
    if levels and len(found) != levels * len(seeds):
        yield f"{where}: has {len(found) // len(seeds)} levels; its run has {levels}"
    for one in found:
        yield from (f"{where}: seed {one.seed}, level {one.level}: {what}" for what in _unsound(one))
    for before, after in pairwise(found):
        come_back = (after.arrays["layers/kept"] > before.arrays["layers/kept"]).any()
        if before.seed == after.seed and come_back and "pruned_at" in encodings:
            yield f"{where}: seed {after.seed}, level {after.level}: has weights that were dropped before"


def _part_problems(run: RunFolder, seed: int) -> Iterator[str]:
    for number, part in enumerate(run.chain(seed).parts):
        data = read_file(part)
        try:
            with codec.opened(data, "level", str(part)) as file:
                yield from _header_problems(file, {"recipe_digest": run.digest})
            one = codec.decode_level(data, str(part))
        except DamagedRun as error:
            yield str(error)
            continue
        if (one.seed, one.level) != (seed, number):
            yield f"{part}: is level {one.level} of seed {one.seed} by its own words"
        yield from (f"{part}: {what}" for what in _unsound(one))


def _header_problems(file: Guarded, facts: Mapping[str, Any]) -> Iterator[str]:
    digest = file.attribute("", "recipe_digest")
    if digest != facts.get("recipe_digest"):
        yield f"{file.where}: is of the recipe {str(digest)[:8]}; its record says {str(facts.get('recipe_digest'))[:8]}"
    for name in file.names("metrics"):
        file.attribute(f"metrics/{name}", "units")  # Which is told beside the numbers, and has to be text.


def _summary_problems(file: Guarded) -> Iterator[str]:
    """The means that viewers show are those of what is stored."""
    shape = file.shape("metrics/density")
    for name in ("density", "spent"):
        if not np.array_equal(file.array(f"summary/{name}", shape), file.array(f"metrics/{name}", shape)):
            yield f"{file.where}: /summary/{name} and /metrics/{name} disagree"
    signal = "test_loss" if "target" in file.names("examples") else "test_error"
    errors = file.array(f"metrics/{signal}", file.shape(f"metrics/{signal}"))
    if not np.allclose(file.array(f"summary/{signal}", shape), errors.mean(axis=0), equal_nan=True):
        yield f"{file.where}: /summary/{signal} is not the mean of /metrics/{signal}"


def _unsound(one: Measured) -> Iterator[str]:
    """The store's own laws that a level breaks."""
    stored = dict(zip(one.arrays["layers/name"], one.arrays["layers/kept"].tolist(), strict=True))
    kept = {name: int(one.masks[name].sum()) for name in stored}
    if kept != stored:
        yield "the masks and /layers/kept disagree"
    total = sum(one.arrays["layers/total"].tolist())
    if total and abs(sum(kept.values()) / total - one.density) > 1e-12:
        yield "the masks and the density disagree"
    for place in ("examples/loss", "test/loss"):
        if place in one.arrays and not np.isfinite(one.arrays[place]).all():
            yield f"/{place} holds numbers that are not finite"
    if not np.isfinite(one.arrays.get("metrics/test_error", 0.0)):
        yield "the test error is not a number"


def _seconds_left(run: RunFolder, spent: Sequence[float], seeds: Sequence[SeedStanding]) -> float | None:
    """The epochs left at the pace between the first and the last part sealed by the latest process."""
    ends = [0.0, *spent]
    if len(ends) <= max((one.sealed for one in seeds), default=0):
        return None
    chains = {one.seed: run.chain(one.seed).parts for one in seeds}
    try:
        times = sorted(
            (part.lstat().st_mtime, ends[n + 1] - ends[n])
            for parts in chains.values()
            for n, part in enumerate(parts)
        )
    except FileNotFoundError:
        return None  # They were just put together.
    if len(times) < 2:
        return None
    epochs = sum(epochs for _, epochs in times[1:])
    pace = (times[-1][0] - times[0][0]) / epochs if epochs else 0.0
    return pace * sum(ends[-1] - ends[min(one.sealed, len(ends) - 1)] for one in seeds)
