"""R2: a run that is killed again and again loses no acknowledged level and ends in the undisturbed run's bytes."""

from __future__ import annotations

import json
import os
import pickle
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import small_run
from checker import Ack, Undisturbed, faults
from forks import Child, Say, end_alone, fork, in_fork, preload, start_alone
from scale import SHORT, Figures, Scale

from prunecli.errors import Stopped
from prunecli.progress import RunStarted

NAME = "R2 kill loop"
LOOPS = {"short": 1, "long": 2}
"""Side by side, each a process that forks."""
CHECKPOINTS = (small_run.ALWAYS, *[0.01, 0.05, small_run.SELDOM] * 3)
"""Seconds between slots, drawn for each start."""
KILLED = 0.85
"""Of the interruptions; the others are SIGTERM."""


def check(scale: Scale, folder: Path) -> Figures:
    """Kill and stop a run at random times, in forks and through the real command, until it is complete."""
    loops = []
    for number in range(LOOPS[scale.name]):
        place = folder / f"loop-{number}"
        place.mkdir()
        loops.append(
            start_alone("test_r02_kill_loop", "loop", replace(scale, seed=10 * scale.seed + number), place)
        )
    commands = by_command(scale, folder / "command")
    found = [end_alone(loop) for loop in loops]
    delays = sorted(float(delay) for one in found for delay in str(one["delays"]).split())
    whole = {name: sum(int(one[name]) for one in found) for name in found[0] if name != "delays"}
    return {
        **whole,
        "acknowledged levels lost": 0,
        "SIGTERM to exit, median ms": round(1000 * delays[len(delays) // 2], 1) if delays else "none stopped",
        "SIGTERM to exit, 99th percentile ms": round(1000 * delays[len(delays) * 99 // 100], 1)
        if delays
        else "-",
        **commands,
    }


@dataclass
class Interrupted:
    """A run's folder that is interrupted until it is complete, and what it acknowledged so far."""

    runs: Path
    expected: Undisturbed
    acknowledged: set[Ack] = field(default_factory=set)

    def check(self, complete: bool, how: str, *, readers: bool = True) -> None:
        """Nothing that was acknowledged is lost; a complete run is the undisturbed one."""
        found = faults(self.runs, self.acknowledged, self.expected, readers=readers)
        assert not found, f"{how}: {'; '.join(found)}"
        if complete:
            assert "store" in self.acknowledged, f"{how}: complete, but nothing said so"
            different = small_run.difference(self.runs, self.expected)
            assert not different, f"{how}: {different}"


def loop(scale: Scale, folder: Path) -> Figures:
    """Interrupt runs in forks of this process."""
    rng = random.Random(scale.seed)
    preload(small_run.undisturbed, folder)
    expected = in_fork(small_run.undisturbed, folder)
    duration = [lasted(folder / f"calibration-{number}") for number in range(3)][-1]
    wanted = scale.of(60, 5000)
    kills = terms = aside = runs = 0
    delays: list[float] = []
    while kills + terms < wanted:
        run = Interrupted(folder / f"run-{runs}" / "runs", expected)
        run.runs.parent.mkdir()
        code, attempts = -1, 0
        while code != 0:
            begun = time.monotonic()
            child, attempts = started(run.runs, rng.choice(CHECKPOINTS)), attempts + 1
            kind = signal.SIGKILL if rng.random() < KILLED else signal.SIGTERM
            ended = child.listen(None if kills + terms >= wanted else rng.uniform(0, 0.6 * duration))
            at = time.monotonic()
            if not ended:
                child.kill(kind)
            code = child.wait()
            if ended and attempts == 1:
                # The machine is not always as busy as it was at first.
                duration = (duration + time.monotonic() - begun) / 2
            how = f"seed {scale.seed}, run {runs}, interruption {kills + terms} by {kind.name}, exit {code}"
            judge(child, code, (0,) if ended else (0, -kind, Stopped.status), how)
            run.acknowledged |= {line for line in child.lines if not line.startswith(("begun", "error"))}
            kills += code == -signal.SIGKILL
            terms += code in (-signal.SIGTERM, Stopped.status)
            aside += code == -signal.SIGTERM
            if code == Stopped.status:
                delays.append(time.monotonic() - at)
            # The files tell whether anything is lost; tables are read of some, because that takes longest.
            check_run = partial(run.check, code == 0, how, readers=(kills + terms) % 4 == 0)
            in_fork(check_run, folder)
        runs += 1
        shutil.rmtree(run.runs.parent)
    return {
        "kills": kills,
        "SIGTERMs": terms,
        "of these, before the run had begun or when it was over": aside,
        "runs": runs,
        "runs bit-exact": runs,
        "delays": " ".join(map(str, delays)),
    }


def judge(child: Child, code: int, allowed: tuple[int, ...], how: str) -> None:
    """A fork ends as it was told to; a SIGTERM ends it by itself only before its run has begun, or when it is over."""
    assert code in allowed, f"{how}: {child.error}"
    under_way = "begun" in child.lines and "store" not in child.lines
    assert code != -signal.SIGTERM or not under_way, f"{how}: the signal ended a run that had begun"


def started(runs: Path, checkpoint: float = small_run.SELDOM) -> Child:
    """Carry the small run out in a fork, which says what is safe."""

    def action(say: Say) -> None:
        acknowledge = small_run.acknowledging(say)

        def tell(event: object) -> None:
            if isinstance(event, RunStarted):
                say("begun")
            acknowledge(event)  # type: ignore[arg-type]  # whatever the engine tells

        small_run.carry_out(runs, tell=tell, checkpoint=checkpoint)

    return fork(action)


def lasted(folder: Path) -> float:
    """Seconds that an undisturbed run takes; the first of a machine is cold."""
    begun = time.monotonic()
    child = started(folder)
    assert child.wait() == 0, child.error
    return time.monotonic() - begun


def by_command(scale: Scale, folder: Path) -> Mapping[str, int]:
    """Interrupt `prunecli prune` itself, and check what is left in yet another process."""
    folder.mkdir()
    (folder / "small.yaml").write_text(small_run.TEXT)
    expected = small_run.undisturbed()
    (folder / "expected").write_bytes(pickle.dumps(expected))
    rng = random.Random(scale.seed)
    interruptions, wanted, runs = 0, scale.of(2, 100), 0
    acknowledged: set[Ack] = set()
    while interruptions < wanted or acknowledged:
        kind = signal.SIGKILL if rng.random() < KILLED else signal.SIGTERM
        code, events = commanded(folder, None if interruptions >= wanted else rng.uniform(0, 0.5), kind)
        acknowledged |= {ack for event in events if (ack := acknowledgement(event))}
        how = (
            f"command, seed {scale.seed}, run {runs}, interruption {interruptions}, {kind.name}, exit {code}"
        )
        assert code in (0, -signal.SIGKILL, Stopped.status), how
        interruptions += code != 0
        given = [str(folder / "runs"), str(folder / "expected"), *acknowledged]
        command = [sys.executable, str(Path(__file__).with_name("checker.py")), *given]
        found = subprocess.run(
            command, env=small_run.environment(), capture_output=True, text=True, check=True
        )
        assert json.loads(found.stdout) == [], f"{how}: {found.stdout}"
        if code == 0:
            Interrupted(folder / "runs", expected, acknowledged).check(True, how)
            shutil.rmtree(folder / "runs")
            acknowledged, runs = set(), runs + 1
    return {"interruptions of the real command": interruptions, "its runs, all bit-exact": runs}


def commanded(folder: Path, delay: float | None, kind: signal.Signals) -> tuple[int, list[dict[str, object]]]:
    """Give the command, and a signal so long after it began its run; its exit status and what it told."""
    command = [sys.executable, "-m", "prunecli", "prune", "small.yaml", "--progress", "json"]
    with subprocess.Popen(
        command, cwd=folder, env=small_run.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        child = Child(process.pid, os.dup(process.stderr.fileno()))
        ended = child.listen(until='{"event": "RunStarted"')
        if not ended and delay is not None and not child.listen(delay):
            process.send_signal(kind)
        child.listen()
        os.close(child.pipe)
        code = process.wait()
    return code, [json.loads(line) for line in child.lines if line.startswith("{")]


def acknowledgement(event: Mapping[str, object]) -> Ack:
    """What an event of the command says is safe; empty where it says nothing of the kind."""
    if event["event"] == "LevelDone":
        return f"level {event['seed']} {event['level']}"
    return "store" if event["event"] == "RunDone" and event["status"] == "complete" else ""


def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


def test_a_fork_that_is_killed_is_told_from_one_that_ends(tmp_path: Path) -> None:
    def action(say: Say) -> None:
        say("begun")
        select.select([], [], [])

    child = fork(action)
    assert not child.listen(until="begun")
    child.kill(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert child.lines == ["begun"]
