"""The lock of a run's folder: one process writes it at a time.

The lock saves work, it does not guard the content: seals are exclusive, so that two writers can waste time but
cannot mix what they write.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunecli.errors import Stopped, StorageError
from prunecli.store.sealing import storage_error

MOMENT, PATIENCE = 0.5, 15.0
"""Seconds to wait for a lock: a reader takes it for an instant to see whether it is free, and what a dead holder has
started may hold it a little longer."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def locked(folder: Path, tell: Callable[[str], None] = lambda _message: None) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Raises:
        Stopped: another process holds it.
        StorageError: it cannot be opened.
    """
    descriptor = _opened(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        _take(descriptor, folder, tell)
        holder = {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot()}
        # It only helps whoever finds the lock taken: where the disk is full, the lock holds all the same.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)
        yield
    finally:
        # Some file systems tell only now that the disk is full.
        with suppress(OSError):
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process is writing the run at this moment."""
    try:
        descriptor = _opened(folder / "lock", os.O_RDONLY)
    except (StorageError, FileNotFoundError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _opened(path: Path, flags: int) -> int:
    try:
        # Not through a link, and not waiting for a pipe's other end: a stranger may have put one here.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageError(f"{path}: not a regular file; move it away")
    return descriptor


def _take(descriptor: int, folder: Path, tell: Callable[[str], None]) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            holder = _holder(descriptor)
            dead = _is_dead(holder)
            if dead and not told:
                told = True
                tell(f"{folder}: {_named(holder)} has died; waiting for what it started to end")
            # One that has just taken the lock may not have written its name yet.
            patience = PATIENCE if dead else MOMENT if holder else 10 * MOMENT
            if time.monotonic() > begun + patience:
                raise Stopped(
                    f"{folder}: being written by {_named(holder)}; wait for it, or stop it first"
                ) from error
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise storage_error(folder / "lock", error) from error
            tell(f"{folder}: this file system has no locks; take care that no second process writes this run")
            return


def _holder(descriptor: int) -> dict[str, Any]:  # Any: what JSON holds
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(holder: dict[str, Any]) -> str:  # Any: what JSON holds
    process, host = holder.get("process"), str(holder.get("host", ""))[:64]
    return f"process {process} on {host}" if isinstance(process, int) else "another process"


def _is_dead(holder: dict[str, Any]) -> bool:  # Any: what JSON holds
    """Whether the holder ran on this machine, since it was started last, and runs no more."""
    process = holder.get("process")
    if (holder.get("host"), holder.get("boot")) != (socket.gethostname(), _boot()) or type(
        process
    ) is not int:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
