"""The model of crashes is honest: it finds what is wrong with writers that are known to be wrong, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder import Op, Recorder, Stop
from replay import BLOCK, Disk, Place, crashes

OLD, NEW = b"old" * BLOCK, b"new" * BLOCK
Write = Callable[[Path, bytes], None]


def put(path: Path, data: bytes, *, sync: bool = True, flags: int = os.O_CREAT | os.O_EXCL) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def beside(path: Path) -> Path:
    return path.with_name(".tmp")


def careful(path: Path, data: bytes) -> None:
    put(beside(path), data)
    beside(path).replace(path)
    sync_folder(path.parent)


def without_syncing_the_file(path: Path, data: bytes) -> None:
    put(beside(path), data, sync=False)
    beside(path).replace(path)
    sync_folder(path.parent)


def without_syncing_the_folder(path: Path, data: bytes) -> None:
    put(beside(path), data)
    beside(path).replace(path)


def renaming_before_syncing(path: Path, data: bytes) -> None:
    put(beside(path), data, sync=False)
    beside(path).replace(path)
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    sync_folder(path.parent)


def in_place(path: Path, data: bytes) -> None:
    put(path, data, flags=os.O_CREAT | os.O_TRUNC)
    sync_folder(path.parent)


def over_the_old(path: Path, data: bytes) -> None:
    put(path, data, flags=os.O_CREAT)
    sync_folder(path.parent)


def removing_first(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    careful(path, data)


def found(folder: Path, write: Write) -> set[str]:
    """The models in which the writer loses what it had said to be written."""
    root = folder / "root"
    root.mkdir()
    with Recorder(root) as recorder:
        for number, data in enumerate((OLD, NEW)):
            write(root / "file", data)
            recorder.note(str(number))
    place = Place(folder / "place")
    faults = set()
    for crash in crashes(recorder.ops, seed=0, draws=20):
        path = place.hold(crash.tree) / "file"
        now = path.read_bytes() if path.exists() else None
        allowed = {(): (None, OLD), ("0",): (OLD, NEW), ("0", "1"): (NEW,)}[crash.said]
        if now not in allowed:
            faults.add(crash.model)
    assert place.hold(crash.tree).joinpath("file").exists()
    return faults


@pytest.mark.parametrize(
    ("write", "models"),
    [
        (careful, set()),
        (without_syncing_the_file, {"power"}),
        (without_syncing_the_folder, {"power"}),
        (renaming_before_syncing, {"power"}),
        (in_place, {"kill", "torn", "power"}),
        (over_the_old, {"kill", "torn", "power"}),
        (removing_first, {"kill", "torn", "power"}),
    ],
)
def test_a_writer_loses_data_in_just_the_models_that_it_is_wrong_in(
    tmp_path: Path, write: Write, models: set[str]
) -> None:
    # With the old file gone or cut first, tearing what comes next is as bad; a torn temporary file never is.
    assert found(tmp_path, write) == models


def test_a_new_folder_needs_its_parent_synced(tmp_path: Path) -> None:
    def write(path: Path, data: bytes) -> None:
        if not path.parent.exists():
            path.parent.mkdir()
        careful(path, data)

    for synced in (False, True):
        root = tmp_path / str(synced)
        root.mkdir()
        with Recorder(root) as recorder:
            write(root / "folder" / "file", NEW)
            if synced:
                sync_folder(root)
            recorder.note("done")
        last = [crash for crash in crashes(recorder.ops, seed=0, draws=20) if crash.said]
        lost = [crash for crash in last if "folder/file" not in crash.tree]
        assert bool(lost) != synced
        assert {crash.model for crash in lost} <= {"power"}


def test_a_link_is_not_a_copy(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        put(tmp_path / "a", OLD, sync=False)
        os.link(tmp_path / "a", tmp_path / "b")
        descriptor = os.open(tmp_path / "b", os.O_WRONLY)
        os.pwrite(descriptor, b"NEW", 5)
        os.ftruncate(descriptor, 8)
        os.fsync(descriptor)
        os.close(descriptor)
        (tmp_path / "a").unlink()
        sync_folder(tmp_path)
    disk = Disk()
    for op in recorder.ops:
        disk.apply(op)
    assert disk.killed() == disk.without_power(None) == {"b": b"oldolNEW"}


def test_what_is_recorded_replays_to_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with Recorder(root) as recorder:
        (root / "a" / "b").mkdir(parents=True)
        careful(root / "a" / "b" / "file", OLD)
        careful(root / "a" / "file", NEW)
        (root / "a" / "file").rename(root / "a" / "b" / "other")
        put(root / "log", b"one", flags=os.O_CREAT | os.O_APPEND)
        put(root / "log", b"two", flags=os.O_APPEND)
    last = [crash for crash in crashes(recorder.ops, seed=0, draws=0) if crash.model == "kill"][-1]
    there = {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")
    }
    assert last.tree == there


def test_a_block_can_be_stopped_at_any_operation_and_any_can_be_made_to_fail(tmp_path: Path) -> None:
    def stop(op: Op) -> None:
        if op.kind == "rename":
            raise Stop

    with pytest.raises(Stop), Recorder(tmp_path, stop):
        careful(tmp_path / "file", NEW)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp"]
    beside(tmp_path / "file").unlink()

    def half(op: Op) -> int | None:
        return len(op.data) // 2 if op.kind == "write" and len(op.data) > 1 else None

    with Recorder(tmp_path, half) as recorder:
        careful(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    assert sum(op.kind == "write" for op in recorder.ops) > 5
