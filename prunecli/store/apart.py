"""Reading in a process of its own: libhdf5 crashes on some files, and a crash there is an error here.

A forked child reads one path after the other, or several children every so manieth. Where one dies, or takes more
memory or time than such a file can ask for, that path is damaged, and a new child goes on with its next.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from prunecli.errors import DamagedRun, PrunecliError

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_HEADER = 8


@dataclass(frozen=True)
class Limits:
    """What reading a path may take: `memory` bytes and 4 more for each of its bytes, `seconds` of the processor
    and one more for each 16 MiB, and `patience` times that in all.
    """

    memory: int = 2 * 2**30
    seconds: float = 20.0
    patience: float = 4.0

    def memory_for(self, size: int) -> int:
        """Bytes of address space, beyond what the child begins with."""
        return self.memory + 4 * size

    def seconds_for(self, size: int) -> float:
        """Seconds of the processor."""
        return self.seconds + size / 2**24


@dataclass(frozen=True)
class _Task:
    path: Path
    size: int


@dataclass(frozen=True)
class _Defect:
    """An error that no file can cause, as text: it is raised again where it can be told."""

    text: str


def read_apart(
    paths: Sequence[Path],
    read: Callable[[Path], T],
    limits: Limits = Limits(),
    *,
    readers: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[T | PrunecliError]:
    """What `read` gives for each path, or the error that it raises, in order.

    `readers` children read side by side; `meanwhile` is called once they have begun, for what else there is to do.
    """
    tasks = [_Task(path, _size(path)) for path in paths]
    count = min(readers, len(tasks))
    working: list[_Reader] = []
    try:
        for first in range(count):
            working.append(_Reader(tasks[first::count], read, limits, working))
        meanwhile()
        for number, task in enumerate(tasks):
            if not working[number % count].alive:
                working[number % count].close()
                working[number % count] = _Reader(tasks[number::count], read, limits, working)
            yield working[number % count].next(task)
    finally:
        for reader in working:
            reader.close()


class _Reader:
    """A child that reads tasks in order; it ends when it is closed, whatever it is doing then.

    The child keeps no hold of what other readers give.
    """

    def __init__(
        self,
        tasks: Sequence[_Task],
        read: Callable[[Path], Any],
        limits: Limits,
        others: Sequence[_Reader] = (),
    ) -> None:
        self.alive, self._open = True, True
        self._limits = limits
        self._results, writing = os.pipe()
        # A signal that came between the fork and the child's own handlers would run the parent's twice.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with warnings.catch_warnings():
                # Python warns of forks beside threads; the child calls nothing that other threads may have locked.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._child = os.fork()
            if self._child == 0:
                for reader in (self, *others):
                    reader._let_go()
                _serve(tasks, read, limits, writing)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(writing)

    def close(self) -> None:
        """End the child, and let go of what it gave."""
        self._let_go()
        if self.alive:
            self._end()

    def _let_go(self) -> None:
        if self._open:
            os.close(self._results)
        self._open = False

    def next(self, task: _Task) -> Any:  # Any: what `read` gives, or a PrunecliError
        """The next task's result."""
        patience = self._limits.patience * self._limits.seconds_for(task.size)
        end = time.monotonic() + patience
        try:
            length = int.from_bytes(self._bytes(_HEADER, end), "little")
            found = pickle.loads(self._bytes(length, end))
        except TimeoutError:
            self._end()
            return DamagedRun(f"{task.path}: damaged: its reader did not end within {patience:.0f} s")
        except EOFError:
            return DamagedRun(f"{task.path}: damaged: its reader died ({_cause(self._end())})")
        match found:
            case _Defect(text):
                raise RuntimeError(f"while reading {task.path}: {text}")
        return found

    def _bytes(self, count: int, end: float) -> bytes:
        blocks: list[bytes] = []
        while count:
            if not select.select([self._results], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError
            block = os.read(self._results, min(count, 2**20))
            if not block:
                raise EOFError
            blocks.append(block)
            count -= len(block)
        return b"".join(blocks)

    def _end(self) -> int:
        """Make sure that the child has ended; gives how it did."""
        self.alive = False
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        return os.waitpid(self._child, 0)[1]


def _serve(tasks: Sequence[_Task], read: Callable[[Path], Any], limits: Limits, results: int) -> NoReturn:
    """The child: it never returns, and what it writes goes nowhere but to its parent."""
    status = 1
    try:
        for number in _SIGNALS:
            # It holds nothing that would have to be put in order.
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        gc.freeze()  # What its parent has is no garbage here: to look through it would copy its memory.
        faulthandler.disable()  # Its parent tells of a crash, in a line.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        space = _address_space()
        for task in tasks:
            _limit(task, limits, space)
            data = pickle.dumps(_attempt(task, read))
            _write(results, len(data).to_bytes(_HEADER, "little") + data)
        status = 0
    finally:
        os._exit(status)


def _attempt(task: _Task, read: Callable[[Path], Any]) -> Any:  # Any: what `read` gives, or a PrunecliError
    try:
        return read(task.path)
    except PrunecliError as error:
        return error.with_traceback(None)
    except MemoryError:
        return DamagedRun(f"{task.path}: damaged: takes more memory than such a run can")
    except Exception:  # noqa: BLE001  (the parent raises it)
        return _Defect(traceback.format_exc())


def _limit(task: _Task, limits: Limits, space: int | None) -> None:
    """What the next path may take; soft limits, which rise from one to the next."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime + limits.seconds_for(task.size)
    _soften(resource.RLIMIT_CPU, int(seconds) + 1)
    if space is not None:
        _soften(resource.RLIMIT_AS, space + limits.memory_for(task.size))


def _soften(which: int, limit: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _address_space() -> int | None:
    """The bytes of address space that this process has; None where the system does not tell, as on macOS."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _size(path: Path) -> int:
    """The bytes of a file, or of a run's store and parts; of what cannot be looked at, none."""
    if not path.is_dir():
        return _bytes_of(path)
    parts = path / "parts"
    inside = (
        [] if parts.is_symlink() else [file for file in parts.glob("*/*") if not file.parent.is_symlink()]
    )
    return sum(map(_bytes_of, (path / "store.h5", *inside)))


def _bytes_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
