"""Every signal that a scheduler or a person sends stops a run in order, and the run ends as if it had not come."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from forks import alone, fork
from PIL import Image
from scale import SHORT, Figures, Scale
from small_run import carry_out, difference, environment, recipe, settings, undisturbed

from prunecli.engine import carry_out_all
from prunecli.progress import Event, LevelDone
from prunecli.stopping import SIGNALS, Aborted

NAME = "R11 signals"
STOPPED, INTERRUPTED = 75, 130

FOLDER_RECIPE = """
model: {mlp: {hidden: [16]}}
data: {image_folder: {path: images, size: 8, resize: 8, workers: 2}}
optimizer: {sgd: {momentum: 0.9}}
learning_rate: {constant: {value: 0.05}}
epochs: 10
batch_size: 8
seeds: [0, 1]
procedure: [train, {prune: {fraction: 0.5}}, rewind, train]
"""


def check(scale: Scale, folder: Path) -> Figures:
    """Signals at random moments, in one process, then to whole process groups; and Ctrl-C twice."""
    figures = dict(alone("test_r11_signals", "in_one_process", scale, folder))
    figures |= to_process_groups(scale, folder)
    interrupted_twice(folder / "twice")
    return {**figures, "a second Ctrl-C ends at once": "yes"}


def in_one_process(scale: Scale, folder: Path) -> Figures:
    """Each signal, so many times, at a moment of its own after the first level."""
    expected = undisturbed()
    draw = random.Random(scale.seed)
    latencies: list[float] = []
    came_too_late = 0
    for number in SIGNALS * scale.of(2, 40):
        runs = folder / f"{number.name}-{draw.random()}"

        def action(say, runs=runs):
            carry_out(runs, tell=lambda event: say(type(event).__name__), checkpoint=300.0)

        child = fork(action)
        child.listen(until="LevelDone")
        time.sleep(draw.uniform(0, 0.2))  # The moment, not a wait for something.
        begun = time.perf_counter()
        child.kill(number)
        code = child.wait()
        if code == 0:
            came_too_late += 1
        else:
            latencies.append(time.perf_counter() - begun)
            assert code == STOPPED, f"{number.name}: {code}, {child.error}"
            assert f"stopped by {number.name}" in child.error, child.error
        again = fork(
            lambda say, runs=runs: carry_out(runs, tell=lambda event: None, checkpoint=300.0) and None
        )
        assert again.wait() == 0, again.error
        assert not (found := difference(runs, expected)), f"{number.name}: {found}"
    return {
        "signals sent to one process": len(latencies) + came_too_late,
        "came when all was done": came_too_late,
        "stopped with 75, and bit-exact at the end": len(latencies),
        "median milliseconds to the end": round(1000 * statistics.median(latencies), 1),
        "longest": round(1000 * max(latencies), 1),
    }


def to_process_groups(scale: Scale, folder: Path) -> Figures:
    """A cluster's way: each process of a step gets the signal, those that decode images and carry seeds out too."""
    images(folder / "images")
    (folder / "folder.yaml").write_text(FOLDER_RECIPE)
    whole = commanded(folder, folder / "whole", None)
    kinds = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT][: scale.of(1, 3)] * scale.of(1, 4)
    for number, kind in enumerate(kinds):
        runs = folder / f"group-{number}"
        commanded(folder, runs, kind)
        assert commanded(folder, runs, None) == whole, f"{kind.name} to the group: other bytes at the end"
    return {"signals sent to process groups of 2 seeds with 2 image readers each": len(kinds)}


def commanded(folder: Path, runs: Path, number: signal.Signals | None) -> bytes:
    """The store that `prunecli prune` leaves; with a signal it is sent once an epoch is over, to all processes."""
    command = [sys.executable, "-m", "prunecli", "prune", str(folder / "folder.yaml"), "--runs", str(runs)]
    command += ["--workers", "2", "--data-root", str(folder), "--progress", "json", "--patience", "0"]
    process = subprocess.Popen(
        command,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if number is not None and line.startswith("{") and json.loads(line)["event"] == "EpochDone":
            os.killpg(process.pid, number)
            number, told = None, []
            break
    told += process.stderr.readlines()
    code = process.wait()
    stores = list(runs.glob("*/store.h5"))
    if stores:
        assert code == 0, "".join(told)
        return stores[0].read_bytes()
    assert code == STOPPED, f"{code}: {''.join(told)}"
    assert any("stopped by" in line for line in told), told
    return b""


def images(folder: Path) -> None:
    """Two classes of small images to train on and to test."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 32), ("val", 8)):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 128 if label == "a" else 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")


def interrupted_twice(runs: Path) -> None:
    """A second Ctrl-C does not wait for the end of a step."""

    def pressing(event: Event) -> None:
        if isinstance(event, LevelDone):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    try:
        carry_out_all(recipe(), settings(runs, checkpoint=300.0), pressing)
    except Aborted:
        return
    raise AssertionError("the second Ctrl-C was not obeyed")


def test_a_signal_stops_a_run_in_order_and_changes_nothing(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


def test_signals_that_were_ignored_stay_ignored_and_handlers_come_back() -> None:
    from prunecli.stopping import flagged

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with flagged() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.by == ""
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.by == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == mine
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
