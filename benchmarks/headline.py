"""Time what the README promises: the main recipe, opening the help, and comparing the finished run.

    python benchmarks/headline.py [--runs 5] [--out benchmarks/results/headline.json]

Each command is timed as a whole process, interleaved round by round; medians are what to quote, and only on a quiet
machine. The recipe's run is made once a round in a new folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = {"imp_lrr": 120.0, "help": 0.5, "compare": 1.0}
"""Seconds on 2 CPU cores."""


def seconds(*arguments: str, cwd: Path) -> float:
    """The wall time of a prunecli command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "prunecli", *arguments], cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, list[float]]:
    """The wall times of each command, a round each."""
    times: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cwd = Path(folder)
            times["imp_lrr"].append(seconds("prune", "recipes/imp_lrr.yaml", cwd=cwd))
            (run,) = (str(path) for path in (cwd / "runs").glob("imp_lrr-*"))
            times["help"].append(seconds("--help", cwd=cwd))
            times["compare"].append(seconds("compare", run, cwd=cwd))
    return times


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    names = ("prunecli", "torch", "torchvision", "numpy", "h5py", "typer")
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    """Measure, print a table, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    before = machine()
    times = measure(options.runs)
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:<8} median {median:7.2f} s  min {min(taken):7.2f}  max {max(taken):7.2f}  target {TARGETS[name]:g}"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": before, "seconds": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
