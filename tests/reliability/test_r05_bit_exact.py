"""A run that was stopped anywhere ends with the bytes of one that was not, and every piece of its state is needed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scale import SHORT, Figures, Scale

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.engine import carry_out_all
from prunecli.errors import Stopped
from prunecli.recipe.load import Recipe, load_text
from prunecli.runs import Settings, prepare
from prunecli.seeds import Seed
from prunecli.state import Midway, State
from prunecli.stopping import Stop
from prunecli.store.sealing import make_folder, record_path
from prunecli.store.slots import Slots

NAME = "R5 bit-exact resume"

TEXT = """
model: python:own_parts:careless
data: digits
examples: {first: {count: 330}}
validation: 30
augmentation: [flip, {crop: {padding: 1}}]
optimizer: {sgd: {momentum: 0.9, weight_decay: 1e-3}}
learning_rate: {linear: {start: 0.1, end: 0.01}}
epochs: 2
batch_size: 100
seeds: [0]
procedure:
  - train: {until: 0.67}
  - save: {point: early}
  - train
  - prune: {fraction: 0.5}
  - prune: {fraction: 0.2}
  - rewind: {what: weights, to: early, momentum: keep}
  - train: {epochs: 1.34}
  - rewind: {what: weights, to: early}
  - train: {until: 1.34}
"""
"""Three levels; a level that begins with two prunings, trains half an epoch more and rewinds to a saved point."""

Change = Callable[[Midway, State], tuple[Midway, State]]


class Counted(Stop):
    """Asks to stop when it is looked at for the n-th time; `looks` counts on."""

    def __init__(self, at: int) -> None:
        self.at, self.looks = at, 0
        super().__init__()

    @property
    def by(self) -> str:
        """As `Stop.by`."""
        self.looks += 1
        return "SIGTERM" if self.looks >= self.at else ""

    @by.setter
    def by(self, _value: str) -> None: ...


def check(scale: Scale, folder: Path) -> Figures:
    """Stop at sampled moments, all of them in the long version; then leave out each piece of state in turn."""
    torch.set_num_threads(1)
    expected = finished(folder / "whole")
    moments = looks(folder / "counted")
    drawn = sorted(random.Random(scale.seed).sample(range(1, moments + 1), scale.of(20, moments)))
    for moment in drawn:
        runs = folder / f"stopped-{moment}"
        stopped(runs, moment)
        assert finished(runs) == expected, f"stopped at moment {moment} of {moments}: other bytes"
        shutil.rmtree(runs)
    twice = scale.of(3, 40)
    for number in range(twice):
        runs = folder / f"twice-{number}"
        draw = random.Random(f"{scale.seed} {number}")
        for _ in range(4):
            stopped(runs, draw.randint(1, moments // 3))
        assert finished(runs) == expected, f"stopped four times, number {number}: other bytes"
        shutil.rmtree(runs)
    inside = in_the_second_level(folder, moments)
    assert altered(folder / "unaltered", inside, lambda *kept: kept) == expected
    for name, change in CHANGES.items():
        assert altered(folder / name, inside, change) != expected, (
            f"without its {name} a run ends in the same bytes"
        )
    return {
        "moments at which the run can be stopped": moments,
        "stopped there, and bit-exact at the end": len(drawn),
        "stopped four times, and bit-exact at the end": twice,
        "pieces of state left out": len(CHANGES),
        "caught by other bytes at the end": len(CHANGES),
    }


def recipe() -> Recipe:
    return load_text(TEXT, "exact.yaml", stem="exact", allow_code=True)


def finished(runs: Path) -> bytes:
    """The store of the run, carried out to its end."""
    (run,) = carry_out_all(recipe(), Settings(runs=runs), lambda _event: None)
    assert run.complete
    assert not (run.folder.path / "quarantine").exists()
    return run.folder.store.read_bytes()


def looks(runs: Path) -> int:
    """At how many moments the run looks whether it is to stop."""
    counted = Counted(10**9)
    carried_out(runs, counted)
    return counted.looks


def stopped(runs: Path, moment: int) -> Path:
    """Stop the run at a moment of its own; gives its folder."""
    with pytest.raises(Stopped, match=r"is kept up to epoch [0-9.]+; .* the same command goes on from there"):
        carried_out(runs, Counted(moment))
    (path,) = runs.glob("exact-*")
    return path


def carried_out(runs: Path, stop: Stop) -> None:
    (run,) = prepare(recipe(), Settings(runs=runs))
    make_folder(run.folder.path)
    Seed(run, 0, Settings(runs=runs), lambda _event: None, stop).carry_out()


def in_the_second_level(folder: Path, moments: int) -> int:
    """A moment at which the run trains in its second level, inside an epoch."""
    for moment in range(moments // 4, moments):
        runs = folder / f"looked-{moment}"
        if at_the_altered_place(stopped(runs, moment)) is not None:
            return moment
        shutil.rmtree(runs)
    raise AssertionError("the run is never stopped in its second level's training")


def altered(runs: Path, moment: int, change: Change) -> bytes:
    """The end of a run that was stopped at the moment and went on from an altered state."""
    found = at_the_altered_place(stopped(runs, moment))
    assert found is not None
    slots, tip, midway, state = found
    for slot in slots.paths:
        slot.unlink(missing_ok=True)
        record_path(slot).unlink(missing_ok=True)
    slots.keep(*change(midway, state), tip)
    return finished(runs)


def at_the_altered_place(path: Path) -> tuple[Slots, str, Midway, State] | None:
    """The slots, the chain's tip, the spot and the state, where that is inside an epoch of level 1's training."""
    (run,) = prepare(recipe(), Settings(runs=path.parent))
    slots = Slots(path / "parts" / "seed-0", run.folder.digest)
    tips = run.folder.chain(0).tips
    found, damage = slots.latest(tips)
    assert not damage
    if found is None or found[0].level != 1 or found[0].steps != 2:
        return None
    return slots, tips[-1], *found


def _drawn_anew(state: State) -> State:
    return replace(state, buffers={name: torch.ones_like(tensor) for name, tensor in state.buffers.items()})


def _regrown(state: State) -> State:
    full = {name: torch.ones_like(mask) for name, mask in state.masks.items()}
    return replace(state, masks=type(state.masks)(full))


def _moved_point(state: State) -> State:
    points = {
        name: replace(point, weights=state.weights, buffers=state.buffers)
        for name, point in state.points.items()
    }
    return replace(state, points=points)


CHANGES: dict[str, Change] = {
    "weights": lambda midway, state: (
        midway,
        replace(state, weights={name: tensor * 1.001 for name, tensor in state.weights.items()}),
    ),
    "buffers": lambda midway, state: (midway, _drawn_anew(state)),
    "masks": lambda midway, state: (midway, _regrown(state)),
    "momentum": lambda midway, state: (midway, state.without_momentum()),
    "place on the schedule": lambda midway, state: (midway, replace(state, step=state.step + 1)),
    "epochs spent": lambda midway, state: (midway, replace(state, spent=state.spent + 1)),
    "steps taken": lambda midway, state: (replace(midway, steps=midway.steps - 1), state),
    "stage": lambda midway, state: (
        replace(midway, stage=len(["prune", "prune", "rewind", "train"]), steps=0),
        state,
    ),
    "saved points": lambda midway, state: (midway, _moved_point(state)),
    "outcomes before pruning": lambda midway, state: (
        replace(midway, around={**midway.around, "before": midway.around["after"]}),
        state,
    ),
    "outcomes after pruning": lambda midway, state: (
        replace(midway, around={**midway.around, "after": midway.around["before"]}),
        state,
    ),
}
"""What a slot may lack, and must not."""


def test_a_run_stopped_anywhere_ends_in_the_same_bytes(tmp_path: Path) -> None:
    check(SHORT, tmp_path)
