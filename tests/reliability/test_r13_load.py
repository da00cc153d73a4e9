"""R13: many runs are compared in one go, and a large part is read, within memory that their sizes explain."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scale import SHORT, Figures, Scale
from store_makers import (
    HEADER,
    RunFolder,
    edit_json,
    make_run,
    measured,
    put_first_part,
    put_store,
    run_json,
    table,
)

from prunecli.store import codec
from prunecli.store.sealing import record_of, record_path

NAME = "R13 load"
LEVELS = 20
_COMPARE = "import sys; from prunecli.cli import main; sys.argv[1:] = ['compare', '--runs', sys.argv[1], '--brief']; main()"
_MEASURED = """
import atexit, re, resource, sys
from pathlib import Path

def largest():
    # A process's own ru_maxrss begins with that of the one that started it.
    own = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024

atexit.register(lambda: print(largest(), file=sys.stderr))
"""
_READ = "import sys; from pathlib import Path; from prunecli.store.reading import read_run; read_run(Path(sys.argv[1]))"


def check(scale: Scale, folder: Path) -> Figures:
    """One `prunecli compare` over all runs of a folder, and one large part, each in a process of its own."""
    count = scale.of(200, 5_000)
    _make_runs(folder / "runs", count)
    seconds, memory, output = _carried_out(_COMPARE, folder / "runs")
    assert output.count("lenet_300_100 on digits") == count, output[-2000:]
    # Tables of small runs: what is more than a process with numpy and h5py has, grows with their number alone.
    assert memory < 400 * 2**20 + count * 2**18, f"comparing {count} runs took {memory:,} bytes"
    size = scale.of(64 * 2**20, 2**30 - 2**20)
    stored = _make_large(folder / "large", size)
    large_seconds, large_memory, _ = _carried_out(_READ, folder / "large")
    assert large_memory < 400 * 2**20 + 3 * stored, f"a part of {stored:,} bytes took {large_memory:,} bytes"
    return {
        "runs": count,
        "levels a run": LEVELS,
        "seconds to compare": round(seconds, 1),
        "MiB to compare": memory // 2**20,
        "MiB of a large part": stored // 2**20,
        "seconds to read it": round(large_seconds, 1),
        "MiB to read it": large_memory // 2**20,
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_many_runs_and_a_large_part_are_read_in_little_memory(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


def _make_runs(folder: Path, count: int) -> None:
    """One small store under many names, each with a digest of its own."""
    first = make_run(folder / "run-0")
    data = codec.encode_store(table(levels=LEVELS), HEADER)
    put_store(first, data)
    edit_json(first.path / "run.json", **run_json(LEVELS))
    for number in range(1, count):
        digest = f"{number:064x}"
        run = RunFolder(folder / f"run-{number}", digest)
        run.path.mkdir()
        os.link(first.store, run.store)
        facts = {"recipe_digest": digest, "seeds": [0, 1], "tips": {}}
        record_path(run.store).write_bytes(record_of(data, facts))
        text = (first.path / "run.json").read_text()
        (run.path / "run.json").write_text(text.replace(HEADER.digest, digest))


def _make_large(folder: Path, size: int) -> int:
    """A part of about so many bytes, all of them losses that do not pack; gives the file's size."""
    one = measured(0, 0)
    noise = np.random.default_rng(0).random(size // 8)
    level = replace(one, arrays={**one.arrays, "observations/noise/values": noise})
    run = make_run(folder)
    put_first_part(run, codec.encode_level(level, HEADER))
    return run.part(0, 0).stat().st_size


def _carried_out(code: str, folder: Path) -> tuple[float, int, str]:
    """The seconds that a process and what it starts take, the memory of the largest of them, and what they say."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{_MEASURED}\n{code}", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start, int(done.stderr.split()[-1]), done.stdout
