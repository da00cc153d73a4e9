"""Files that are whole or not there: written beside their place, synced, and linked into it.

A sealed file is never written again; a record beside it holds its size and SHA-256, and a file without a
valid record does not exist. Files that must change are replaced as a whole. Every call that changes a disk
goes through `os`, so that a test can see, stop or fail each of them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, NewerFormat, StorageError

RECORD_VERSION = 1
MOST, MOST_OF_A_STATE = 4 * 2**30, 256 * 2**30
"""Bytes that a file of a run has at most; a state may have more, and a record has far fewer."""
MOST_OF_A_RECORD = 2**20
_BLOCK = 2**22
SAFE = "everything sealed before is safe, and the same command goes on from there"


def seal(path: Path, data: bytes) -> None:
    """Write a file that is never written again; when this returns it survives a power cut.

    A file of this content that is there already, left by a process that died before it wrote the record, is
    taken as it is.

    Raises:
        StorageError: the disk is full, read-only or failing, or the file is there with other content.
    """
    with _written_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            if read_file(path) != data:
                raise
            _sync(path, os.O_RDONLY)
        os.unlink(temporary)  # noqa: PTH108  (see the module)
        sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file, or put it in the old one's place at once.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    with _written_beside(path, data) as temporary:
        os.replace(temporary, path)  # noqa: PTH105
        sync_folder(path.parent)


def commit(path: Path, data: bytes, facts: Mapping[str, Any]) -> str:  # Any: what JSON holds
    """Seal a file, then its record with the facts, its size and SHA-256; gives the record's own SHA-256."""
    seal(path, data)
    text = record_of(data, facts)
    seal(record_path(path), text)
    return sha256(text)


def record_of(data: bytes, facts: Mapping[str, Any]) -> bytes:  # Any: what JSON holds
    """The record of a file's content."""
    content = {
        "schema": "prunecli/record",
        "version": RECORD_VERSION,
        "size": len(data),
        "sha256": sha256(data),
    }
    return (json.dumps({**content, **facts}, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def record_path(path: Path) -> Path:
    """Where a file's record lies: `level-00.h5` has `level-00.h5.json`, as `store.h5` has `store.h5.json`."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> tuple[dict[str, Any], str] | None:  # Any: what JSON holds
    """A file's record and the record's own SHA-256; None where there is none.

    Raises:
        DamagedRun: the record is no record.
        NewerFormat: it is of a newer version.
    """
    where = record_path(path)
    if not os.path.lexists(where):
        return None
    try:
        text = read_file(where, MOST_OF_A_RECORD)
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedRun(f"{where}: not a record ({str(error) or 'too deep'})") from error
    if not isinstance(record, dict) or record.get("schema") != "prunecli/record":
        raise DamagedRun(f"{where}: not a record")
    version = record.get("version")
    if type(version) is not int:
        raise DamagedRun(f"{where}: not a record (it has no version)")
    if version > RECORD_VERSION:
        raise NewerFormat(
            f"{where}: made by a newer prunecli (record version {version}; this reads {RECORD_VERSION})"
        )
    return record, sha256(text)


def read_sealed(path: Path, record: Mapping[str, Any], most: int = MOST) -> bytes:  # Any: what JSON holds
    """A file's bytes, checked against its record before anyone parses them.

    Raises:
        DamagedRun: the file is missing, or not what the record says.
    """
    data = read_file(path, most)
    if not vouches(record, data):
        raise _not_as_sealed(path)
    return data


def check_sealed(path: Path, record: Mapping[str, Any], most: int = MOST) -> None:  # Any: what JSON holds
    """Make sure that a file is what its record says, a block at a time.

    Raises:
        DamagedRun: the file is missing, or not what the record says.
    """
    with _reading(path, most) as (descriptor, size):
        hashed = hashlib.sha256()
        for block in _blocks(descriptor, size):
            hashed.update(block)
    if size != record.get("size") or hashed.hexdigest() != record.get("sha256"):
        raise _not_as_sealed(path)


def vouches(record: object, data: bytes) -> bool:
    """Whether a record is of these bytes."""
    if not isinstance(record, Mapping):
        return False
    return record.get("size") == len(data) and record.get("sha256") == sha256(data)


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_file(path: Path, most: int = MOST) -> bytes:
    """A regular file's bytes; no link is followed, no pipe waited for.

    Raises:
        DamagedRun: it is missing, something else than a file, or larger than `most` bytes.
        StorageError: it cannot be read.
    """
    with _reading(path, most) as (descriptor, size):
        return b"".join(_blocks(descriptor, size, at_once=size))


def holds(path: Path, data: bytes) -> bool:
    """Whether a file is of these bytes."""
    try:
        return read_file(path) == data
    except DamagedRun:
        return False


def make_folder(path: Path) -> None:
    """Make a folder and its parents, so that they survive a power cut.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(folder)  # noqa: PTH102
            sync_folder(folder.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder")
    except OSError as error:
        raise storage_error(path, error) from error


def remove(path: Path) -> None:
    """Delete a file that is ours, if it is there.

    Raises:
        StorageError: it cannot be deleted.
    """
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error


def set_aside(path: Path, folder: Path) -> str:
    """Move a file into the quarantine folder, under a name that is free there; gives that name.

    Raises:
        StorageError: it cannot be moved.
    """
    make_folder(folder)
    number = 0
    while os.path.lexists(folder / f"{path.name}.{number}"):
        number += 1
    try:
        os.rename(path, folder / f"{path.name}.{number}")  # noqa: PTH104
        sync_folder(folder)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    return f"{path.name}.{number}"


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed and deleted in a folder survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def keep_entries(folder: Path) -> None:
    """As `sync_folder`.

    Raises:
        StorageError: the disk fails.
    """
    try:
        sync_folder(folder)
    except OSError as error:
        raise storage_error(folder, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """What a failed write means to a user."""
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file is larger than this process may write (ulimit -f)",
        errno.EROFS: "the disk is read-only",
        errno.EEXIST: "is sealed already with other content; another process may be writing this run",
        errno.EACCES: "permission denied",
    }.get(error.errno or 0, (error.strerror or str(error)).lower())
    passing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    return StorageError(f"{path}: {what}; {SAFE}", passing=passing)


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield temporary
    except OSError as error:
        # What cannot be deleted now is swept at the next start.
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise storage_error(path, error) from error


@contextmanager
def _reading(path: Path, most: int) -> Iterator[tuple[int, int]]:
    """A regular file's descriptor and size; see `read_file`."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _reading_error(path, error) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise DamagedRun(f"{path}: not a regular file")
        if facts.st_size > most:
            raise DamagedRun(f"{path}: {facts.st_size:,} bytes, more than the {most:,} that it can have")
        yield descriptor, facts.st_size
    except OSError as error:
        raise _reading_error(path, error) from error
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, left: int, at_once: int = _BLOCK) -> Iterator[bytes]:
    """A file's bytes up to the size that was seen: one that grows under us is not read for ever."""
    while left and (block := os.read(descriptor, min(left, at_once))):
        left -= len(block)
        yield block


def _not_as_sealed(path: Path) -> DamagedRun:
    return DamagedRun(f"{path}: damaged: its content is not what {record_path(path).name} says")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reading_error(path: Path, error: OSError) -> DamagedRun | StorageError:
    missing = (errno.ENOENT, errno.ENOTDIR)
    if error.errno in missing:
        return DamagedRun(f"{path}: no such file")
    if error.errno == errno.ELOOP:
        return DamagedRun(f"{path}: a symbolic link, which is not followed")
    if error.errno == errno.ENXIO:
        return DamagedRun(f"{path}: not a regular file")
    return StorageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}")
