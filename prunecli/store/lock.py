"""Locks: one process at a time writes a run's folder, carries a scoring out, or writes a score store.

A lock saves work, it does not guard the content: seals are exclusive, so that two writers can waste time but
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
from prunecli.store.sealing import make_folder, storage_error

OTHERWISE = "wait for it, or stop it first"
"""What can be done while another process holds a lock."""
MOMENT, PATIENCE = 0.5, 15.0
"""Seconds to wait for a lock: a reader takes it for an instant to see whether it is free, and what a dead holder has
started may hold it a little longer."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()
"""The descriptors of the locks that this process holds."""


def _leave_to_the_parent() -> None:
    """In a forked process, such as one that decodes images: it is not to hold what its parent lets go of."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


@contextmanager
def locked(folder: Path, tell: Callable[[str], None] = lambda _message: None) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Raises:
        Stopped: another process holds it.
        StorageError: it cannot be opened.
    """
    descriptor = _opened(folder / "lock", os.O_RDWR | os.O_CREAT)
    _held.add(descriptor)
    try:
        _take(descriptor, folder, tell)
        _write_name(descriptor)
        yield
    finally:
        _close(descriptor)


@contextmanager
def locked_while_held(
    path: Path,
    whose: Path,
    tell: Callable[[str], None] = lambda _message: None,
    *,
    otherwise: str = OTHERWISE,
) -> Iterator[None]:
    """Hold a lock of its own name, whose file is there only as long as it is held; its folder is made where it is not.

    `whose` is what it is the lock of, and `otherwise` what can be done while another process holds it.

    Raises:
        Stopped: another process holds it.
        StorageError: it cannot be opened.
    """
    descriptor = _taken(path, whose, tell, otherwise)
    _held.add(descriptor)
    try:
        _write_name(descriptor)
        yield
    finally:
        # The name goes while the lock is held: who comes after finds either this file, locked, or none.
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108  (see sealing)
        _close(descriptor)


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


def _close(descriptor: int) -> None:
    if descriptor in _held:
        _held.discard(descriptor)
        # Some file systems tell only now that the disk is full.
        with suppress(OSError):
            os.close(descriptor)


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


def _taken(path: Path, whose: Path, tell: Callable[[str], None], otherwise: str) -> int:
    """The descriptor of a lock that is taken, and still has its name."""
    while True:
        make_folder(path.parent)
        try:
            descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue  # Whoever held it has just removed the folder with it.
        try:
            _take(descriptor, whose, tell, otherwise)
        except BaseException:
            os.close(descriptor)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        # It was let go of, and its name with it, between its opening and its taking.
        os.close(descriptor)


def _write_name(descriptor: int) -> None:
    """Write who holds a lock."""
    holder = {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot()}
    # It only helps whoever finds the lock taken: where the disk is full, the lock holds all the same.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _take(
    descriptor: int,
    folder: Path,
    tell: Callable[[str], None],
    otherwise: str = OTHERWISE,
) -> None:
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
                raise Stopped(f"{folder}: being written by {_named(holder)}; {otherwise}") from error
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise storage_error(folder, error) from error
            tell(f"{folder}: this file system has no locks; take care that no second process writes there")
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
