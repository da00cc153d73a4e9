"""Processes that come and go quickly: a fresh one that has loaded everything, and its forks."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from scale import Figures, Scale
from small_run import environment

from prunecli.errors import PrunecliError

T = TypeVar("T")
Say = Callable[[str], None]
DEFECT = 99
"""The exit status of a fork that ended by an exception that is not prunecli's own."""


def start_alone(
    module: str, function: str, scale: Scale, folder: Path, within: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start a function of a module, of scale and folder, in a process of its own, without threads: see `end_alone`.

    `within` is a command that starts it, such as `unshare`.
    """
    command = [
        *within,
        sys.executable,
        __file__,
        module,
        function,
        scale.name,
        str(scale.seed),
        str(folder.resolve()),
    ]
    return subprocess.Popen(
        command, env=environment(), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_alone(process: subprocess.Popen[str]) -> Figures:
    """What the function gave; its failure is raised here."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    figures: Figures = json.loads(out.splitlines()[-1])
    return figures


def alone(module: str, function: str, scale: Scale, folder: Path, within: Sequence[str] = ()) -> Figures:
    """What a function of a module gives in a process of its own, which it may fork."""
    return end_alone(start_alone(module, function, scale, folder, within))


@dataclass
class Child:
    """A fork and what it said so far, line by line."""

    pid: int
    pipe: int
    lines: list[str] = field(default_factory=list)
    _rest: bytes = b""

    def listen(self, seconds: float | None = None, until: str = "") -> bool:
        """Hear it until it has ended, has said a line that begins with `until`, or the time is over: has it ended?"""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self.pipe], [], [], left)[0]:
                return False
            data = os.read(self.pipe, 65536)
            if not data:
                return True
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]
            if until and any(line.startswith(until) for line in self.lines):
                return False

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Hear the rest; its exit status, or the number of the signal that ended it, negative."""
        self.listen()
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def error(self) -> str:
        """The last error that it told of."""
        errors = [line.removeprefix("error ") for line in self.lines if line.startswith("error ")]
        return errors[-1] if errors else ""


def fork(action: Callable[[Say], None]) -> Child:
    """Carry an action out in a fork; prunecli's errors end it with their exit status, and are said as `error …`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code = DEFECT
    try:
        os.close(reading)

        def say(line: str) -> None:
            os.write(writing, line.replace("\n", " ").encode() + b"\n")

        try:
            action(say)
            code = 0
        except PrunecliError as error:
            say(f"error {error}")
            code = error.status
        except BaseException:  # noqa: BLE001  (nothing may leave the fork)
            say(f"error {traceback.format_exc()}")
    finally:
        os._exit(code)


def in_fork(make: Callable[[], T], folder: Path) -> T:
    """What a function gives in a fork, so that this process starts no threads."""
    path = folder / f"given-{time.monotonic_ns()}"

    def action(_say: Say) -> None:
        path.write_bytes(pickle.dumps(make()))

    child = fork(action)
    code = child.wait()
    assert code == 0, f"the fork ended with {code}: {child.error}"
    made: T = pickle.loads(path.read_bytes())
    path.unlink()
    return made


def preload(work: Callable[[], object], folder: Path) -> None:
    """Import here what the work imports on its way, so that each fork need not."""

    def modules() -> list[str]:
        work()
        return sorted(name for name, module in sys.modules.items() if getattr(module, "__spec__", None))

    # Compiled modules may give themselves names by which nobody can import them.

    for name in in_fork(modules, folder):
        if name not in sys.modules and importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


if __name__ == "__main__":
    name, called, size, seed, place = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(name), called)(Scale(size, int(seed)), Path(place))))
