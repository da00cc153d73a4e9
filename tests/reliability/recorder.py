"""Every file operation below a folder as it happens: recorded with its data, stopped, or made to fail.

The store's writers call the functions of `os`, so replacing those for a while sees the real code at work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Op:
    """A file operation; paths are relative to the recorded folder.

    `kind`: `open` (to write), `read` (opens to read), `open folder`, `write`, `truncate`, `fsync`, `close`, `link`,
    `rename`, `unlink`, `mkdir`, `rmdir`; or `note`, whose `path` is what someone said at that moment.
    `handle` numbers the openings; `offset` is where a write begins, or the length that a truncation leaves.
    """

    kind: str
    path: str = ""
    other: str = ""
    handle: int = -1
    flags: int = 0
    offset: int = 0
    data: bytes = b""

    @property
    def changes(self) -> bool:
        """Whether it is part of writing: a reader's operations and notes are not."""
        return self.kind not in ("read", "note") and not (self.kind == "close" and not self.flags)

    def __str__(self) -> str:
        there = f" -> {self.other}" if self.other else ""
        size = f" {len(self.data)} bytes at {self.offset}" if self.kind == "write" else ""
        return f"{self.kind} {self.path}{there}{size}"


class Stop(BaseException):
    """Ends the recorded code at an operation; nothing catches it, and what it does while it unwinds has no effect."""


Meddler = Callable[[Op], int | None]
"""Asked before each operation: raises what the operation is to raise, or gives the bytes a write may take."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Recorder:
    """Records what goes on below `root` while it is entered."""

    def __init__(self, root: Path, meddle: Meddler | None = None) -> None:
        self.root = os.path.realpath(root)
        self.ops: list[Op] = []
        self._meddle = meddle
        self._opened: dict[int, Op] = {}
        self._real: dict[str, Any] = {}  # Any: functions of `os`
        self._handles = 0
        self._stopped = False

    def go_on(self) -> None:
        """Let code work again after a Stop, as a new process would."""
        self._stopped = False

    def note(self, text: str) -> None:
        """Put a word between the operations."""
        self.ops.append(Op("note", text))

    def __enter__(self) -> Recorder:
        for name in ("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "close", "link"):
            self._replace(name, getattr(self, f"_{name}"))
        for name in ("rename", "replace"):
            self._replace(name, self._move(name))
        for name in ("unlink", "remove", "mkdir", "rmdir"):
            self._replace(name, self._simple(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        self._real[name] = getattr(os, name)
        setattr(os, name, function)

    def _relative(self, path: Any, folder: int | None) -> str | None:  # Any: what `os` takes for a path
        name = os.fsdecode(path)
        if folder is not None:
            if folder not in self._opened:
                return None
            name = os.path.join(self.root, self._opened[folder].path, name)  # noqa: PTH118  (`os` speaks strings)
        full = os.path.abspath(name)  # noqa: PTH100
        if full == self.root:
            return ""
        return full[len(self.root) + 1 :] if full.startswith(self.root + os.sep) else None

    def _done(self, op: Op, act: Callable[[], Any]) -> Any:
        """Carry an operation out and record it; one that fails leaves no trace."""
        self._ask(op)
        result = act()
        self.ops.append(op)
        return result

    def _ask(self, op: Op) -> int | None:
        if self._stopped and op.changes:
            raise Stop
        try:
            return self._meddle(op) if self._meddle is not None else None
        except Stop:
            self._stopped = True
            raise

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def act() -> int:
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))

        found = self._relative(path, dir_fd)
        if found is None:
            descriptor = act()
            self._opened.pop(descriptor, None)
            return descriptor
        writing = bool(flags & _WRITING)
        full = os.path.join(self.root, found)  # noqa: PTH118
        kind = "open" if writing else "open folder" if os.path.isdir(full) else "read"  # noqa: PTH112
        self._handles += 1
        op = Op(kind, found, handle=self._handles, flags=flags)
        descriptor = int(self._done(op, act))
        self._opened[descriptor] = op
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        opened = self._opened.get(descriptor)
        if opened is None:
            return int(self._real["write"](descriptor, data))
        append = opened.flags & os.O_APPEND
        offset = os.fstat(descriptor).st_size if append else os.lseek(descriptor, 0, os.SEEK_CUR)
        return self._written(opened, data, offset, lambda some: self._real["write"](descriptor, some))

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        opened = self._opened.get(descriptor)
        if opened is None:
            return int(self._real["pwrite"](descriptor, data, offset))
        return self._written(
            opened, data, offset, lambda some: self._real["pwrite"](descriptor, some, offset)
        )

    def _written(self, opened: Op, data: Any, offset: int, act: Callable[[bytes], int]) -> int:
        op = Op("write", opened.path, "", opened.handle, opened.flags, offset, bytes(data))
        allowed = self._ask(op)
        took = act(op.data if allowed is None else op.data[:allowed])
        self.ops.append(Op("write", op.path, "", op.handle, op.flags, offset, op.data[:took]))
        return took

    def _on(self, descriptor: int, kind: str, act: Callable[[], Any], offset: int = 0) -> Any:
        opened = self._opened.get(descriptor)
        if opened is None:
            return act()
        flags = opened.flags if opened.kind == "open" else opened.flags & os.O_DIRECTORY
        return self._done(Op(kind, opened.path, "", opened.handle, flags, offset), act)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        self._on(descriptor, "truncate", lambda: self._real["ftruncate"](descriptor, length), length)

    def _fsync(self, descriptor: int) -> None:
        self._on(descriptor, "fsync", lambda: self._real["fsync"](descriptor))

    def _fdatasync(self, descriptor: int) -> None:
        self._on(descriptor, "fsync", lambda: self._real["fdatasync"](descriptor))

    def _close(self, descriptor: int) -> None:
        try:
            if not self._stopped:
                self._on(descriptor, "close", lambda: None)
        finally:
            # A close that fails has closed all the same.
            self._opened.pop(descriptor, None)
            self._real["close"](descriptor)

    def _link(self, source: Any, target: Any, **more: Any) -> None:
        self._two("link", "link", source, target, more)

    def _move(self, name: str) -> Callable[..., None]:
        def move(source: Any, target: Any, **more: Any) -> None:
            self._two("rename", name, source, target, more)

        return move

    def _two(self, kind: str, name: str, source: Any, target: Any, more: dict[str, Any]) -> None:
        first = self._relative(source, more.get("src_dir_fd"))
        second = self._relative(target, more.get("dst_dir_fd"))
        if first is None and second is None:
            self._real[name](source, target, **more)
            return
        assert first is not None, f"{kind} of {source} into the recorded folder"
        assert second is not None, f"{kind} to {target} out of the recorded folder"
        self._done(Op(kind, first, second), lambda: self._real[name](source, target, **more))

    def _simple(self, name: str) -> Callable[..., None]:
        def act(path: Any, *more: Any, dir_fd: int | None = None) -> None:
            found = self._relative(path, dir_fd)
            if found is None:
                self._real[name](path, *more, dir_fd=dir_fd)
                return
            op = Op("unlink" if name == "remove" else name, found)
            self._done(op, lambda: self._real[name](path, *more, dir_fd=dir_fd))

        return act
