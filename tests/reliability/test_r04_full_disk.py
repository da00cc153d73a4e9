"""R4: a disk that is really full ends the command with a message, and the same command goes on once there is room."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import small_run
from checker import Undisturbed, faults
from forks import Child, Say, alone, fork, in_fork, preload
from scale import SHORT, Figures, Scale

from prunecli.errors import StorageError

NAME = "R4 full disk"
LIMITS = (0, 300, 5000, 60_000)
"""Bytes that a file may have: a lock, a record, a recipe, a state, a part and the store are larger by turns."""
WITHIN = ("unshare", "--map-root-user", "--mount")
"""Lets a process mount what no other sees, where the machine allows it."""


def check(scale: Scale, folder: Path) -> Figures:
    """Limit the size of files, and fill a small file system."""
    places = {name: folder / name for name in ("tried", "forks", "command")}
    for place in places.values():
        place.mkdir()
    if may_mount(places["tried"]):
        figures = alone("test_r04_full_disk", "both", scale, places["forks"], WITHIN)
    else:
        figures = alone("test_r04_full_disk", "limits", scale, places["forks"])
    command(places["command"])
    return {
        **figures,
        "the real command with a limit": "exit 74",
        "deaths by a signal": 0,
        "acknowledged levels lost": 0,
    }


def both(scale: Scale, folder: Path) -> Figures:
    """Limits, and full file systems that only this process sees."""
    expected = prepared(folder)
    disk = folder / "disk"
    disk.mkdir()
    return {**limited(scale, folder, expected), **full(scale, disk, expected)}


def limits(scale: Scale, folder: Path) -> Figures:
    """Limits alone, where nothing may be mounted."""
    figures = limited(scale, folder, prepared(folder))
    return {**figures, "file systems (tmpfs) with little room": "not covered: mounting is not allowed here"}


def prepared(folder: Path) -> Undisturbed:
    """The undisturbed run, and everything imported that forks need."""
    preload(small_run.undisturbed, folder)
    return in_fork(small_run.undisturbed, folder)


def limited(scale: Scale, folder: Path, expected: Undisturbed) -> Figures:
    """Runs whose files may have so many bytes (RLIMIT_FSIZE), then as many as they like."""
    rng = random.Random(scale.seed)
    drawn = rng.sample(range(1, 110_000), scale.of(0, 100))
    stopped = 0
    for limit in (*LIMITS, *drawn):
        runs = folder / f"limit-{limit}" / "runs"
        runs.parent.mkdir()
        stopped += refused(runs, expected, limit, f"files of at most {limit} bytes")
        checked(started(runs), runs, expected, f"after a limit of {limit} bytes", (0,))
        whole(runs, expected, f"after a limit of {limit} bytes")
    return {"limits on the size of a file": len(LIMITS) + len(drawn), "runs that a limit stopped": stopped}


def full(scale: Scale, disk: Path, expected: Undisturbed) -> Figures:
    """Runs on file systems (tmpfs) that have so much room, then more."""
    count, stopped = scale.of(3, 40), 0
    for number in range(count):
        size = 4096 * (2 + number * 96 // count)
        mount(disk, size)
        how = f"a file system of {size} bytes"
        stopped += refused(disk / "runs", expected, None, how)
        mount(disk, 64 * 2**20, "remount,")
        checked(started(disk / "runs"), disk / "runs", expected, f"after {how}", (0,))
        whole(disk / "runs", expected, f"after {how}")
        subprocess.run(["umount", str(disk)], check=True)
    return {"file systems (tmpfs) with little room": count, "runs that a full one stopped": stopped}


def refused(runs: Path, expected: Undisturbed, limit: int | None, how: str) -> bool:
    """Whether a run for which there is too little room was stopped."""
    return checked(started(runs, limit), runs, expected, how, (0, StorageError.status)) != 0


def started(runs: Path, limit: int | None = None) -> Child:
    """Carry the small run out in a fork, whose files may have so many bytes."""

    def action(say: Say) -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        small_run.carry_out(runs, tell=small_run.acknowledging(say), checkpoint=small_run.ALWAYS)

    return fork(action)


def checked(child: Child, runs: Path, expected: Undisturbed, how: str, codes: tuple[int, ...]) -> int:
    """The fork's exit status, which must be one of these; nothing that it acknowledged is lost."""
    code = child.wait()
    assert code in codes, f"{how}: exit {code}: {child.error}"
    if code == StorageError.status:
        assert str(runs) in child.error, f"{how}: names no place: {child.error}"
    acks = [line for line in child.lines if not line.startswith("error")]
    found = in_fork(partial(faults, runs, acks, expected), runs.parents[1])
    assert not found, f"{how}: {found}"
    return code


def whole(runs: Path, expected: Undisturbed, how: str) -> None:
    """The run is what it is undisturbed."""
    found = small_run.difference(runs, expected)
    assert not found, f"{how}: {found}"


def mount(disk: Path, size: int, more: str = "") -> None:
    """Mount a file system that has so much room; with `remount,` give one more."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{more}size={size}", "tmpfs", str(disk)], check=True)


def may_mount(folder: Path) -> bool:
    """Whether this machine lets us mount."""
    try:
        tried = subprocess.run(
            [*WITHIN, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


def command(folder: Path) -> None:
    """The real command under a limit: exit 74, one message, no traceback; and again without."""
    (folder / "small.yaml").write_text(small_run.TEXT)
    given = [sys.executable, "-m", "prunecli", "prune", "small.yaml", "--progress", "none"]
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *given],
        cwd=folder,
        env=small_run.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == StorageError.status, f"exit {ended.returncode}: {ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "the same command goes on from there" in ended.stderr, ended.stderr
    small_run.carry_out(folder / "runs")
    whole(folder / "runs", small_run.undisturbed(), "after the command with a limit")


def test_a_full_disk_stops_a_run_and_loses_nothing(tmp_path: Path) -> None:
    check(SHORT, tmp_path)
