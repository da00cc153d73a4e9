"""Time taken: wall and CPU seconds of pieces of work, interleaved round by round, and the spread of their ratios."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
Work = Callable[[], object]


@dataclass(frozen=True)
class Taken:
    """Seconds by the wall, and of all processors, those of ended child processes included."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Quartiles; a single value is all three."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def timed(work: Work, device: torch.device) -> Taken:
    """What a piece of work takes, a GPU's part of it included."""
    gc.collect()
    finished(device)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work()
    finished(device)
    return Taken(time.perf_counter() - wall, _cpu_seconds() - cpu)


def interleaved(
    sides: Mapping[str, Work], rounds: int, device: torch.device, *, warm: bool = True
) -> dict[str, list[Taken]]:
    """Each side's rounds, taken in turns and in the reversed order every second round; the warm-up is not timed."""
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    if warm:
        for work in sides.values():
            work()
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(timed(sides[name], device))
    return taken


def median_wall(taken: Sequence[Taken]) -> float:
    """The median of the wall seconds."""
    return statistics.median(one.wall for one in taken)


def command(*words: str, threads: int | None = None) -> str:
    """What a command of this Python gives on its standard output.

    Raises:
        CalledProcessError: it fails; its standard error is on ours.
    """
    own = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def observed(*words: str, threads: int | None = None) -> tuple[float, str]:
    """The most megabytes that `python -m` with these words has in use, and what it gives on its standard output."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peak"
        said = command("-m", "benchmarks.peak", str(out), *words, threads=threads)
        return float(out.read_text()), said


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def finished(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
