"""R8: stores and run folders from strangers are safe to open: nothing outside is read, written, run or shown."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostile_readers import BEGIN, facts_of
from hostile_stores import CANARY, EMPTY, HARMLESS, make_cases, make_outside
from scale import SHORT, Figures, Scale
from store_makers import make_complete

from prunecli.store.reading import read_run

NAME = "R8 hostile stores"
_HERE = Path(__file__).parent
_SYSTEM = ("/dev/null", "/proc/self/", "/proc/sys/kernel/random/boot_id", "/proc/meminfo", "/sys/")
_PYTHON = (sys.prefix, sys.base_prefix, str(_HERE), str(_HERE.parent.parent / "prunecli"))


def check(scale: Scale, folder: Path) -> Figures:
    """Every case through every reader, under Python's audit hook, and under strace where that is here."""
    del scale  # The corpus is the same at every scale.
    folder = folder.resolve()
    make_outside(folder / "outside")
    make_complete(folder / "honest")
    before = state_of(folder / "outside")
    cases = {path.name: name for name, path in make_cases(folder)}
    found = _read(folder)
    _check_results(cases, found, facts_of(read_run(folder / "honest")))
    opened = list(_opened_by_python(folder))
    _check_touched(folder, opened)
    traced: list[str] = []
    if shutil.which("strace"):
        trace = folder / "trace"
        watched = ["strace", "-f", "-s", "4096", "-e", "trace=%file,connect,execve", "-o", str(trace)]
        _read(folder, watched, ["read_run", "problems"])
        traced = list(_opened_by_anything(trace))
        _check_touched(folder, traced)
    assert state_of(folder / "outside") == before, "a file outside was changed"
    told = [one for reader in ("read_run", "problems") for one in found[reader].values()]
    return {
        "cases": len(cases),
        "readers": len(found),
        "of two readers, refusals": sum("error" in one or bool(one["gave"]) for one in told),
        "files outside that were opened": 0,
        "files outside that were changed": 0,
        "readers that died": sum("its reader died" in one.get("error", "") for one in told),
        "paths seen by the audit hook": len(opened),
        "paths seen by strace": len(traced) if traced else "no strace here",
    }


def test_strangers_runs_are_safe_to_open(tmp_path: Path) -> None:
    figures = check(SHORT, tmp_path)
    assert int(figures["cases"]) > 250
    if not shutil.which("strace"):
        pytest.skip("what libhdf5 itself opens was not seen: there is no strace here")


def state_of(folder: Path) -> dict[str, str]:
    """All files below a folder, with their content and when they were changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = f"{facts.st_mode} {facts.st_size} {facts.st_mtime_ns} {content}"
    return found


def _read(folder: Path, before: Sequence[str] = (), readers: Sequence[str] = ()) -> dict[str, Any]:
    results = folder / "results.json"
    results.with_suffix(".touched").unlink(missing_ok=True)
    command = [
        *before,
        sys.executable,
        str(_HERE / "hostile_readers.py"),
        str(folder),
        str(results),
        *readers,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(results.read_text()))


def _check_results(cases: Mapping[str, str], found: Mapping[str, Any], honest: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} ({place}), {reader}: {what}: {str(found[reader][place])[:300]}"
        for reader in ("read_run", "standing", "problems")
        for place, name in cases.items()
        for what in _amiss(reader, place, name, found[reader][place], honest)
    ]
    assert not wrong, "\n".join(wrong)
    for command in ("compare", "status", "check"):
        done = found[command]
        # What is read well is told, whatever the others are.
        assert (done["status"], bool(done["output"])) == (3, True), f"{command}: {str(done)[:2000]}"
        assert CANARY.decode() not in json.dumps(done)
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\ud800-\udfff]", done["output"] + done["messages"]
        ), command
    assert CANARY.decode() not in json.dumps(found)


def _amiss(
    reader: str, place: str, name: str, found: Mapping[str, Any], honest: Mapping[str, Any]
) -> Iterator[str]:
    if "error" in found:
        if found["kind"] not in ("DamagedRun", "NewerFormat", "StorageError"):
            yield "another error than what a damaged run gives"
        if f"/{place}" not in found["error"]:
            yield "does not say where"
    elif reader == "read_run":
        # A metric may be missing; what is given is what honest runs give.
        metrics = {key: honest["metrics"].get(key) for key in found["gave"]["metrics"]}
        if found["gave"] != {**honest, "metrics": metrics, "units": found["gave"]["units"]}:
            yield "gives other numbers"
    if reader == "problems":
        sound = "error" not in found and not found["gave"]
        if sound != (name.partition(": ")[2] in HARMLESS | EMPTY):
            yield "sound" if sound else "not sound"


def _opened_by_python(folder: Path) -> Iterator[str]:
    """The paths that the audit hook saw; anything else that it saw is refused at once."""
    for line in (folder / "results.touched").read_text().splitlines():
        event, *arguments = json.loads(line)
        assert event == "open", f"the readers did more than to open files: {line}"
        path, mode, flags = (*arguments, "", "")[:3]
        reading = flags.isdigit() and not int(flags) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        assert reading or path in (os.devnull, str(folder / "results.json")), f"written: {line}"
        assert mode in ("r", "rb", "None") or path == str(folder / "results.json"), line
        yield path


def _opened_by_anything(trace: Path) -> Iterator[str]:
    """The paths of all system calls after the reading began, but for those that only ask whether there is something."""
    _, _, reading = trace.read_text(errors="backslashreplace").partition(BEGIN)
    assert reading, "the trace does not show where the reading begins"
    for line in reading.splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if not call or call[1].startswith(
            ("stat", "newfstatat", "lstat", "access", "faccessat", "readlink", "getcwd")
        ):
            continue
        assert call[1] in ("open", "openat"), f"the readers did more than to open files: {line}"
        path = re.search(r'"((?:[^"\\]|\\.)*)"', call[2])
        assert path, line
        assert (
            "ENOENT" in line
            or "O_RDONLY" in line
            or path[1] == "/dev/null"
            or path[1].endswith("results.json")
        ), line
        yield path[1]


def _check_touched(folder: Path, paths: list[str]) -> None:
    """Nothing but the runs' own files, Python's, and what a system tells about a process."""
    own = re.compile(re.escape(str(folder)) + r"/(case-\d+(/|$)|honest/|results)")
    assert any(own.match(path) for path in paths)
    for path in paths:
        # `..` and links could lead anywhere: O_NOFOLLOW and the absence of both keep a path below its folder.
        ours = own.match(path) and ".." not in path
        assert ours or path.isdigit() or path.startswith((*_SYSTEM, *_PYTHON)), f"opened: {path}"
