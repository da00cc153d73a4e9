"""Files that are whole or not there: written beside their place, synced, and linked into it.

A sealed file is never written again; a record beside it holds its size and SHA-256, and a file without a
valid record does not exist. Files that must change are replaced as a whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, StorageError

RECORD_VERSION = 1


def seal(path: Path, data: bytes) -> None:
    """Write a file that must not be there yet; when this returns it survives a power cut.

    Raises:
        StorageError: the disk is full, read-only or failing, or the file is there already.
    """
    with _written_beside(path, data) as temporary:
        os.link(temporary, path)
        temporary.unlink()
        _sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Write a file, or put it in the old one's place at once.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    with _written_beside(path, data) as temporary:
        temporary.replace(path)
        _sync_folder(path.parent)


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
        DamagedRun: the record is no record, or of a newer version.
    """
    try:
        text = record_path(path).read_bytes()
        record = json.loads(text)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise DamagedRun(f"{record_path(path)}: not a record ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != "prunecli/record":
        raise DamagedRun(f"{record_path(path)}: not a record")
    if not isinstance(record.get("version"), int) or record["version"] > RECORD_VERSION:
        raise DamagedRun(
            f"{record_path(path)}: made by a newer prunecli (record version {record.get('version')}; "
            f"this reads {RECORD_VERSION})"
        )
    return record, sha256(text)


def read_sealed(path: Path, record: Mapping[str, Any]) -> bytes:  # Any: what JSON holds
    """A file's bytes, checked against its record before anyone parses them.

    Raises:
        DamagedRun: the file is missing, or not what the record says.
    """
    accepted = [record, *([record["previous_file"]] if record.get("previous_file") else [])]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedRun(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    if not any(len(data) == known.get("size") and sha256(data) == known.get("sha256") for known in accepted):
        raise DamagedRun(f"{path}: damaged: its content is not what {record_path(path).name} says")
    return data


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error


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
        raise _storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _storage_error(path: Path, error: OSError) -> StorageError:
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.EEXIST: "is sealed already; another process may be writing this run",
        errno.EACCES: "permission denied",
    }.get(error.errno or 0, (error.strerror or str(error)).lower())
    return StorageError(
        f"{path}: {what}; everything sealed before is safe, and the same command goes on from there"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
