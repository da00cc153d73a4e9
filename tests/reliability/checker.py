"""Tells what a folder of runs has lost: nothing that was acknowledged may be missing or other than undisturbed.

It reads as prunecli's own readers do, without torch, and can be run as a program of its own.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunecli.errors import DamagedRun, PrunecliError
from prunecli.store.folder import RunFolder
from prunecli.store.inspection import standing
from prunecli.store.reading import read_run
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import record_path

Ack = str
"""`level SEED LEVEL` or `store`: what the engine has said is safe."""
Rows = Mapping[int, Mapping[str, tuple[float, ...]]]
"""Each seed's metrics, level by level."""


@dataclass(frozen=True)
class Undisturbed:
    """What the run comes to when nothing disturbs it.

    `parts` are each (seed, level)'s file and record, `stores` the merged store after each start, `rows` the
    metrics of all seeds, and `outcome` the SHA-256 of what is left at the end.
    """

    name: str
    parts: Mapping[tuple[int, int], tuple[bytes, bytes]]
    stores: tuple[bytes, ...]
    rows: Rows
    outcome: Mapping[str, str]


def hashed(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def stored_rows(run: Path) -> dict[int, dict[str, tuple[float, ...]]]:
    """The metrics that a reader finds, without those of levels that are not there."""
    found = read_run(run)
    counts = {
        seed: int(np.isfinite(found.metrics["test_error"][i]).sum()) for i, seed in enumerate(found.seeds)
    }
    return {
        seed: {name: tuple(values[i][: counts[seed]].tolist()) for name, values in found.metrics.items()}
        for i, seed in enumerate(found.seeds)
    }


def faults(
    runs: Path, acknowledged: Iterable[Ack], expected: Undisturbed, *, readers: bool = True
) -> list[str]:
    """What is wrong with a folder in which writing ended at any moment; without `readers`, by its files alone."""
    path = runs / expected.name
    acks = frozenset(acknowledged)
    if not (path / "run.json").exists():
        return [f"{one}: there is no run" for one in sorted(acks)]
    try:
        run = RunFolder(path, str(read_run_json(path)["recipe_digest"]))
    except PrunecliError as error:
        return [str(error)] if acks else []
    read = _wrongly_read(path, acks, expected) if readers else ()
    return [*_wrongly_stored(run, acks, expected), *read]


def _wrongly_stored(run: RunFolder, acks: frozenset[Ack], expected: Undisturbed) -> Iterator[str]:
    stored: frozenset[int] = frozenset()
    try:
        stored = run.stored_seeds()
    except DamagedRun as error:
        yield f"the store cannot be read: {error}"
    if stored and run.store.read_bytes() not in expected.stores:
        yield "the store is none of the undisturbed run's"
    if "store" in acks and not stored:
        yield "the acknowledged store is not there"
    for seed in {seed for seed, _ in expected.parts} - stored:
        chain = run.chain(seed)
        if chain.damage:
            yield f"seed {seed} is damaged: {chain.damage}"
        for level, part in enumerate(chain.parts):
            if (part.read_bytes(), record_path(part).read_bytes()) != expected.parts.get((seed, level)):
                yield f"seed {seed}, level {level} is not the undisturbed run's"
        levels = {level for (one, level) in expected.parts if one == seed}
        for level in sorted(levels):
            if f"level {seed} {level}" in acks and level >= len(chain.parts):
                yield f"the acknowledged level {level} of seed {seed} is lost"


def _wrongly_read(path: Path, acks: frozenset[Ack], expected: Undisturbed) -> Iterator[str]:
    """Whatever a reader shows is whole; a reader that can show nothing says so in a way that a user can read."""
    try:
        for seed, metrics in stored_rows(path).items():
            for name, values in metrics.items():
                right = expected.rows[seed].get(name, ())
                if not np.array_equal(values, right[: len(values)], equal_nan=True):
                    yield f"seed {seed}: {name} reads {values}, not {right}"
    except PrunecliError as error:
        if acks:
            yield f"read_run: {error}"
    try:
        now = standing(path)
        yield from (f"standing tells of damage: {damage}" for damage in now.damage)
        for one in now.seeds:
            count = sum(ack.startswith(f"level {one.seed} ") for ack in acks)
            if one.sealed < count:
                yield f"standing tells of {one.sealed} levels of seed {one.seed}; {count} are acknowledged"
    except PrunecliError as error:
        if acks:
            yield f"standing: {error}"


if __name__ == "__main__":
    # RUNS, the file of what is expected, and what was acknowledged: prints the faults as JSON.
    expected_run: Undisturbed = pickle.loads(Path(sys.argv[2]).read_bytes())
    print(json.dumps(faults(Path(sys.argv[1]), sys.argv[3:], expected_run)))
