"""R12: of several processes that write one run one works; readers see whole levels, and never fewer than before."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import socket
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import small_run
from checker import Undisturbed, faults
from forks import DEFECT, Child, Say, alone, fork, in_fork, preload
from recorder import Recorder
from scale import SHORT, Figures, Scale

from prunecli.errors import DamagedRun, Stopped, UsageError
from prunecli.store.reading import read_run

NAME = "R12 two processes"


def check(scale: Scale, folder: Path) -> Figures:
    """Several writers at once, with the lock and without, and readers beside a writer."""
    return alone("test_r12_two_processes", "rounds", scale, folder)


def rounds(scale: Scale, folder: Path) -> Figures:
    """Rounds of each kind in forks of this process."""
    preload(small_run.undisturbed, folder)
    expected = in_fork(small_run.undisturbed, folder)
    rng = random.Random(scale.seed)
    counts: Counter[str] = Counter()
    for number in range(scale.of(3, 60)):
        for kind in (locked_out, lock_broken, read_meanwhile):
            place = folder / f"{kind.__name__}-{number}"
            place.mkdir()
            kind(
                place,
                expected,
                rng.randint(2, 4),
                counts,
                f"{kind.__name__}, seed {scale.seed}, round {number}",
            )
            shutil.rmtree(place)
    return {
        "writers at once, with the lock": counts["writers"],
        "of these, turned away by it, with the holder's name": counts["turned away"],
        "writers at once, the lock made useless": counts["unlocked"],
        "of these, stopped by another's seal": counts["collided"],
        "double commits": 0,
        "reads beside a writer": counts["reads"],
        "reads before the first level": counts["empty"],
        "other errors of readers": 0,
    }


def locked_out(folder: Path, expected: Undisturbed, writers: int, counts: Counter[str], how: str) -> None:
    """Exactly one carries the run out; the others say who holds it, or come when all is done."""
    children = at_once(folder / "runs", writers, broken=False)
    codes = [child.wait() for child in children]
    workers = [child for child in children if any(line.startswith("level") for line in child.lines)]
    assert len(workers) == 1, f"{how}: {len(workers)} worked; exits {codes}"
    # Usually the one that works; at the end it may be one that came late and clears what that has left.
    holders = [f"process {child.pid} on {socket.gethostname()}" for child in children]
    for child, code in zip(children, codes, strict=True):
        assert code in (0, Stopped.status), f"{how}: exit {code}: {child.error}"
        named = any(holder in child.error for holder in holders)
        assert code == 0 or named, f"{how}: names none of {holders}: {child.error}"
        counts["turned away"] += code == Stopped.status
    assert codes[children.index(workers[0])] == 0, f"{how}: the one that worked ended with {codes}"
    counts["writers"] += writers
    ended(folder / "runs", children, expected, how)


def lock_broken(folder: Path, expected: Undisturbed, writers: int, counts: Counter[str], how: str) -> None:
    """Where the lock does nothing, seals are still exclusive, and nothing is lost or mixed."""
    children = at_once(folder / "runs", writers, broken=True)
    codes = [child.wait() for child in children]
    assert DEFECT not in codes, f"{how}: {[child.error for child in children]}"
    assert min(codes) >= 0, f"{how}: died by a signal: {codes}"
    sealed = Counter(line for child in children for line in child.lines if line.startswith("sealed"))
    # Once the store is merged its parts are gone, and a late writer may seal one again in vain.
    merged = any("store" in child.lines for child in children)
    twice = [line for line, count in sealed.items() if count > 1]
    assert merged or not twice, f"{how}: sealed twice: {twice}"
    counts["unlocked"] += writers
    counts["collided"] += sum(code != 0 for code in codes)
    ended(folder / "runs", children, expected, how)


def ended(runs: Path, children: list[Child], expected: Undisturbed, how: str) -> None:
    """Nothing that any of them acknowledged is lost, and one more start gives the undisturbed run."""
    acks = {line for child in children for line in child.lines if line.startswith(("level", "store"))}
    found = in_fork(partial(faults, runs, acks, expected), runs.parent)
    assert not found, f"{how}: {found}: {[child.error for child in children]}"
    last = fork(lambda _say: void(small_run.carry_out(runs)))
    assert last.wait() == 0, f"{how}: the last start: {last.error}"
    forget_slots(runs)
    different = small_run.difference(runs, expected)
    assert not different, f"{how}: {different}"


def forget_slots(runs: Path) -> None:
    """Delete slots that were set aside: two writers without a lock can mix these, and their records tell."""
    for folder in runs.glob("*/quarantine"):
        for path in folder.glob("slot-*"):
            path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def void(_given: object) -> None:
    """Nothing."""


def at_once(runs: Path, writers: int, *, broken: bool) -> list[Child]:
    """Forks that carry the run out, let go at the same moment; they say what they sealed and what is safe."""
    waiting, gate = os.pipe()

    def action(say: Say) -> None:
        os.close(gate)
        os.read(waiting, 1)
        if broken:
            fcntl.flock = lambda *_given: None
        with Recorder(runs.parent) as recorder:
            try:
                small_run.carry_out(runs.resolve(), tell=small_run.acknowledging(say), checkpoint=0.02)
            finally:
                for op in recorder.ops:
                    if op.kind == "link" and "/parts/" in op.other:
                        say(f"sealed {op.other}")

    children = [fork(action) for _ in range(writers)]
    os.close(waiting)
    os.close(gate)
    return children


def read_meanwhile(folder: Path, expected: Undisturbed, writers: int, counts: Counter[str], how: str) -> None:
    """A reader beside a writer finds whole levels, as many as before or more, and no error but that there are none."""
    runs = folder / "runs"
    path = runs / expected.name

    def read(say: Say) -> None:
        most = 0
        seen: Counter[str] = Counter()
        while most < len(expected.parts):
            levels = levels_in(path)
            assert levels >= most, f"{levels} levels after {most}"
            most = levels
            seen["reads" if levels else "empty"] += 1
        # A reader that said each of them would wait for someone to listen.
        say(json.dumps(seen))

    children = [fork(read) for _ in range(writers - 1)]
    writer = fork(lambda _say: void(small_run.carry_out(runs, checkpoint=small_run.ALWAYS)))
    assert writer.wait() == 0, f"{how}: {writer.error}"
    for child in children:
        assert child.wait() == 0, f"{how}: {child.error}"
        counts.update(json.loads(child.lines[-1]))


def levels_in(path: Path) -> int:
    """The levels that a reader finds."""
    try:
        run = read_run(path)
    except (UsageError, DamagedRun) as error:
        # The folder, its description and the first level come one after the other.
        if any(words in str(error) for words in ("no such run", "no run.json", "no level is sealed yet")):
            return 0
        raise
    return int(np.isfinite(run.metrics["test_error"]).sum())


def test_of_several_writers_one_works_and_readers_see_whole_levels(tmp_path: Path) -> None:
    check(SHORT, tmp_path)
