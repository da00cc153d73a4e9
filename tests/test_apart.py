"""A reader of its own process: what becomes of it is told, and the next path is read."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from prunecli.errors import DamagedRun, NewerFormat, PrunecliError, UsageError
from prunecli.store.apart import Limits, read_apart

QUICK = Limits(memory=256 * 2**20, seconds=0.2, patience=4)


def deed(path: Path) -> object:
    """Does what the path's name says."""
    match path.name:
        case "crash":
            return ctypes.string_at(0)
        case "abort":
            os.abort()
        case "end":
            os._exit(3)
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(60)
        case "eat":
            return len(bytearray(2**32))
        case "shout":
            os.write(1, b"out")
            os.write(2, b"err")
        case "newer":
            raise NewerFormat(f"{path}: made by a newer prunecli")
        case "missing":
            raise UsageError(f"{path}: no such run")
        case "defect":
            raise KeyError("a slip of ours")
    return (path.name, os.getpid())


def told(*names: str, limits: Limits = QUICK) -> list[object]:
    return list(read_apart([Path("runs") / name for name in names], deed, limits))


def test_one_process_reads_all_in_order() -> None:
    found = told(*"abcdef")
    assert [name for name, _ in found] == list("abcdef")
    assert len({process for _, process in found} | {os.getpid()}) == 2


def test_nothing_to_read_starts_nothing() -> None:
    assert told() == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crash", r"its reader died \(SIGSEGV\)"),
        ("abort", r"its reader died \(SIGABRT\)"),
        ("end", r"its reader died \(exit status 3\)"),
        ("spin", r"its reader died \(SIGXCPU\)"),
        ("sleep", r"its reader did not end within 1 s"),
        ("eat", "takes more memory"),
    ],
)
def test_what_ends_a_reader_is_damage_of_that_path_alone(name: str, said: str) -> None:
    # Where others use the processor too, a second of it takes long.
    limits = replace(QUICK, patience=300) if name == "spin" else QUICK
    first, second, third, fourth = told("a", name, name, "b", limits=limits)
    assert (first[0], fourth[0]) == ("a", "b")
    for one in (second, third):
        assert isinstance(one, DamagedRun)
        with pytest.raises(DamagedRun, match=rf"^runs/{name}: damaged: .*{said}"):
            raise one


def test_errors_come_back_as_they_are() -> None:
    newer, missing, after = told("newer", "missing", "a")
    assert (type(newer), type(missing), after[0]) == (NewerFormat, UsageError, "a")
    assert str(newer) == "runs/newer: made by a newer prunecli"


def test_a_defect_is_no_damage() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)while reading runs/defect: .*KeyError: 'a slip of ours'"):
        told("a", "defect", "b")


def test_what_a_reader_writes_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    told("shout")
    assert tuple(capfd.readouterr()) == ("", "")


def test_no_reader_is_left_behind() -> None:
    reading = read_apart([Path("a"), Path("sleep")], deed, Limits())
    _, process = next(reading)
    os.kill(process, 0)
    reading.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_several_readers_give_the_same_in_the_same_order() -> None:
    names = ["a", "b", "crash", "c", "newer", "d", "end", "e", "f", "g", "h", "i"]
    paths, done = [Path("runs") / name for name in names], []
    alone = list(read_apart(paths, deed, QUICK))
    several = list(read_apart(paths, deed, QUICK, readers=3, meanwhile=lambda: done.append("begun")))
    for one, other in zip(alone, several, strict=True):
        assert type(one) is type(other)
        assert str(one) == str(other) if isinstance(one, PrunecliError) else one[0] == other[0]
    assert done == ["begun"]
    assert len({found[1] for found in several if isinstance(found, tuple)}) > 2
    assert list(read_apart([], deed, readers=3)) == []


def test_none_of_several_readers_is_left_behind() -> None:
    reading = read_apart([Path(name) for name in ("a", "b", "sleep", "sleep")], deed, Limits(), readers=2)
    processes = [next(reading)[1], next(reading)[1]]
    assert len({*processes, os.getpid()}) == 3
    reading.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_memory_is_granted_by_the_files_size(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 * 2**20)

    def hold(path: Path) -> int:
        return len(bytearray(700 * 2**20))

    small = tmp_path / "small"
    small.touch()
    refused, held = read_apart([small, large], hold, QUICK)
    assert isinstance(refused, PrunecliError)
    assert held == 700 * 2**20


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_ends_both(tmp_path: Path, whole_group: bool) -> None:
    """At a terminal both get it; where only the parent does, it ends its reader."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from prunecli.store.apart import read_apart\n"
        "def read(path):\n"
        "    os.write(announce, str(os.getpid()).encode() + b'\\n')\n"
        "    time.sleep(60)\n"
        "announce = os.dup(1)\n"
        "list(read_apart([Path('a')], read))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    reader = int(process.stdout.readline())
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    # It is Python's own end of a program that nothing catches it in; the reader says nothing of its own.
    assert process.returncode == -signal.SIGINT
    assert messages.count("KeyboardInterrupt") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(reader, 0)
