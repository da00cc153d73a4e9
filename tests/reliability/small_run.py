"""A run so small that it can be carried out thousands of times, and what it comes to when nothing disturbs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from checker import Ack, Undisturbed, hashed, stored_rows

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.engine import carry_out_all
from prunecli.progress import Event, LevelDone, RunDone
from prunecli.recipe.load import Recipe, load_text
from prunecli.runs import Settings
from prunecli.store.sealing import record_path

TEXT = """
model: {mlp: {hidden: [4]}}
data: digits
examples: {first: {count: 120}}
optimizer: {sgd: {momentum: 0.9, weight_decay: 1e-3}}
learning_rate: {steps: {start: 0.1, at: [0.5], factor: 0.1}}
epochs: 1
batch_size: 60
seeds: [0, 1]
procedure:
  - train: {until: 0.5}
  - save: {point: early}
  - train
  - repeat: {times: 2, stages: [{prune: {fraction: 0.5}}, {rewind: {what: weights, to: early, momentum: keep}}, train]}
"""
ALWAYS, SELDOM = 0.0, 1e9
"""Seconds between the slots inside a level: one at every place that the work can be interrupted at, or none."""
Tell = Callable[[Event], None]


def recipe(seeds: Sequence[int] = (0, 1)) -> Recipe:
    """The small recipe with these seeds."""
    return load_text(TEXT, "small.yaml", [f"seeds={list(seeds)}"], stem="small")


def settings(runs: Path, **wanted: Any) -> Settings:  # Any: whatever the settings hold
    """Settings without patience, and with no slots inside a level unless they are wanted."""
    return Settings(runs=runs, **{"checkpoint": SELDOM, "patience": (), **wanted})


def quiet(_event: Event) -> None:
    """Listens to nothing."""


def acknowledging(said: Callable[[Ack], None]) -> Tell:
    """A listener that passes on what the engine says is safe."""

    def tell(event: Event) -> None:
        if isinstance(event, LevelDone):
            said(f"level {event.seed} {event.level}")
        elif isinstance(event, RunDone) and event.status == "complete":
            said("store")

    return tell


def carry_out(runs: Path, seeds: Sequence[int] = (0, 1), tell: Tell = quiet, **wanted: Any) -> Path:
    """Carry the small recipe out; gives the run's folder."""
    torch.set_num_threads(1)
    (finished,) = carry_out_all(recipe(seeds), settings(runs, **wanted), tell)
    return finished.folder.path


def undisturbed(groups: Sequence[Sequence[int]] = ((0, 1),), **wanted: Any) -> Undisturbed:
    """What the run comes to when it is carried out with these seeds, one group after the other."""
    parts: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    stores: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder).resolve() / "runs"

        def tell(event: Event) -> None:
            if isinstance(event, LevelDone):
                path = runs / event.run / "parts" / f"seed-{event.seed}" / f"level-{event.level:02d}.h5"
                parts[event.seed, event.level] = (path.read_bytes(), record_path(path).read_bytes())

        for seeds in groups:
            run = carry_out(runs, seeds, tell, **wanted)
            stores.append((run / "store.h5").read_bytes())
        return Undisturbed(run.name, parts, tuple(stores), stored_rows(run), outcome(runs))


def outcome(runs: Path) -> Mapping[str, str]:
    """The SHA-256 of every file that must not depend on how a run was come by, by its path."""
    skipped = {"run.json", "log.jsonl", "lock"}
    found = {}
    for path in sorted(runs.rglob("*")):
        inside = path.relative_to(runs)
        if path.is_file() and path.name not in skipped:
            found[str(inside)] = hashed(path.read_bytes())
    return found


def difference(runs: Path, expected: Undisturbed) -> str:
    """Where finished runs differ from the undisturbed ones: other bytes, missing files, leftovers; else empty.

    States are kept to save work: one may be missing, or have been left, but none may be other than it should.
    """
    now, right = outcome(runs), expected.outcome
    wrong = []
    for name in sorted(set(now) | set(right)):
        is_state = name.startswith(".states/") and "/.tmp-" not in name
        if now.get(name) != right.get(name) and not (is_state and (name not in now or name not in right)):
            wrong.append(
                f"{name} is {'left' if name not in right else 'missing' if name not in now else 'other'}"
            )
    folders = {str(path.relative_to(runs)) for path in runs.glob("*/*") if path.is_dir()}
    wrong += [f"{name} is left" for name in sorted(folders) if not name.startswith(".states/")]
    return ", ".join(wrong)


def environment() -> dict[str, str]:
    """The environment of a process that finds this folder's modules and computes as this one does."""
    here = str(Path(__file__).parent)
    found = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
