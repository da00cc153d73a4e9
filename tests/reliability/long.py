"""The long version of the reliability suite: `python tests/reliability/long.py [R1 R2 …] [--seed N]`.

Each check runs in a process of its own; what it counted goes to `figures.json`, and `RELIABILITY.md` is written
from that.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIGURES, PAGE = HERE / "figures.json", ROOT / "RELIABILITY.md"

ABOUT = {
    "test_r01_crash_points": "Every file operation of a run is recorded; the disk is rebuilt as it would be after each of them, "
    "if the process is killed there, if the last write is torn, and if the power fails (what was not synced survives "
    "or not). Nothing acknowledged may be missing, and a sample goes on to the end.",
    "test_r02_kill_loop": "A run is killed at random times (85% SIGKILL, 15% SIGTERM) and started again until it is complete; "
    "the folder is then compared with that of an undisturbed run, byte for byte.",
    "test_r03_failing_calls": "Each kind of file operation of a run fails once with each error, and drawn cases beside: the "
    "message, the exit status, what was sealed before, and what the next start comes to.",
    "test_r04_full_disk": "A disk that is really full, and a limit on the size of files.",
    "test_r05_bit_exact": "A run is stopped at every moment at which it can be, and goes on to the same bytes; each piece of "
    "what it goes on from is left out or altered in turn, and each must show.",
    "test_r06_recipes": "Recipes made by a grammar and damaged at random are read: no traceback.",
    "test_r07_stores": "Stores and parts are damaged at random: caught by their record; and with a record made anew, so that "
    "libhdf5 reads them, in a process of its own.",
    "test_r08_hostile_recipes": "Recipes that try to read, write, connect or run something, under an audit hook.",
    "test_r08_hostile_stores": "Stores and folders that try to have other files read or written, under an audit hook and "
    "strace.",
    "test_r09_display": "Hostile text through every table, format and progress line.",
    "test_r10_numeric": "Each numeric fault brought about by real means, and what is said of it.",
    "test_r11_signals": "Each signal at random moments, to one process and to a whole group with data workers.",
    "test_r12_two_processes": "Writers started on one folder at once, and a reader beside a writer.",
    "test_r13_load": "Many runs, and a large part: time and memory.",
    "test_r14_upgrade": "Runs of earlier formats, kept as files.",
    "test_r15_mutants": "The code with one protection taken out at a time: the suite must fail for each.",
}
"""What each check does, for the page."""


def main() -> None:
    """Run the checks that are asked for, or all, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", help="such as R1 R7; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--page", action="store_true", help="write RELIABILITY.md from the stored figures, run nothing"
    )
    given = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell's background job; the checks send it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = [
        name for name in ABOUT if not given.checks or number_of(name) in {one.upper() for one in given.checks}
    ]
    failed = [] if given.page else [name for name in wanted if not run(name, given.seed)]
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"wrote {PAGE.name}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def number_of(name: str) -> str:
    """`R7` of `test_r07_stores`."""
    return f"R{int(name[6:8])}"


def stored() -> dict[str, Any]:
    """The figures of the last runs, by check."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def run(name: str, seed: int) -> bool:
    """Run a check's long version, and store what it counted; whether it passed."""
    print(f"{name} …", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", name, str(seed), folder]
        done = subprocess.run(
            command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True, check=False
        )
    seconds = round(time.monotonic() - begun)
    if done.returncode:
        # What an earlier run counted does not hold for the code as it is.
        store({one: found for one, found in stored().items() if one != name})
        print(f"{name}: failed after {seconds} s", flush=True)
        return False
    figures = json.loads(done.stdout.splitlines()[-1])
    about = {"when": datetime.now(UTC).date().isoformat(), "seed": seed, "seconds": seconds, "on": machine()}
    store({**stored(), name: {**about, "figures": figures}})
    print(f"{name}: {seconds} s, {figures}", flush=True)
    return True


def store(found: Mapping[str, Any]) -> None:
    """Keep the figures of the last runs."""
    FIGURES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def one(name: str, seed: str, folder: str) -> None:
    """In a check's own process."""
    from scale import Scale

    figures = importlib.import_module(name).check(Scale("long", int(seed)), Path(folder).resolve())
    print(json.dumps(dict(figures)))


def environment() -> dict[str, str]:
    """One thread for all arithmetic, and the suite's modules to be found."""
    paths = [str(HERE), str(HERE.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def machine() -> dict[str, str]:
    """What the figures hold for."""
    import h5py
    import torch

    import prunecli

    return {
        "prunecli": f"{prunecli.__version__} ({_commit()})",
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "h5py": f"{h5py.__version__} (HDF5 {h5py.version.hdf5_version})",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {os.cpu_count()} cores",
        "files": _file_system(Path(tempfile.gettempdir())),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # What this writes itself is not the code that is checked.
    own = [f":!{path.relative_to(ROOT)}" for path in (FIGURES, PAGE)]
    dirty = "-dirty" if git("status", "--porcelain", "--", ".", *own) else ""
    return f"{git('rev-parse', '--short=12', 'HEAD')}{dirty}" or "no commit"


def _file_system(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(above, key=lambda mount: len(mount[0]))[1] if above else "unknown"


def page(found: Mapping[str, Any]) -> str:
    """The page, from the figures."""
    lines = [HEAD]
    for name, about in ABOUT.items():
        lines.append(f"## {importlib.import_module(name).NAME}\n\n{about}\n")
        if name not in found:
            lines.append("The long version has not been run.\n")
            continue
        run = found[name]
        lines += ["| counted | |", "| --- | ---: |"]
        lines += [
            f"| {what} | {value:,} |" if isinstance(value, int) else f"| {what} | {value} |"
            for what, value in run["figures"].items()
        ]
        on = ", ".join(f"{what} {value}" for what, value in run["on"].items())
        lines.append(f"\n{run['when']}, seed {run['seed']}, {run['seconds']:,} s; {on}.\n")
    return "\n".join([*lines, TAIL])


HEAD = """# Reliability

This page is written by `python tests/reliability/long.py` from what its last run counted; nothing in it is typed by hand.
The short version of each check is part of the test suite.

What is promised: a level that was acknowledged survives any interruption; a run that was interrupted ends with the bytes
of one that was not, on the same type of machine with the same versions and number of threads; a recipe or a store from a
stranger is safe to open. [docs/store.md](docs/store.md) says how.
"""

TAIL = """## Not covered

- Real power cuts: a model of what a disk may keep stands in for them; it finds the known faults of writers that do not sync.
- NFS, Lustre and other network file systems; disks that lie about having synced.
- GPUs, torch.compile and several nodes: bit-exactness was tried on CPUs.
- States of more than 4 GiB and parts of more than 1 GiB: they are allowed, and none was written here.
- Links to images inside an image folder, which are followed: a data folder is its owner's.
- A real Slurm: its signals were sent by hand, and its commands stood in for.
- Someone who can write the whole folder: records protect against damage, not against their author.
- libhdf5's own faults: it is kept from what is unverified, and a crash of it is survived, not prevented.
"""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        sys.path[:0] = [str(HERE), str(HERE.parent)]
        main()
