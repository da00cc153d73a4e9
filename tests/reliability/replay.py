"""What a disk may hold when recorded writing ends at some moment: the model of crashes.

Three ways to end after any number of operations:

- kill: the process dies, the machine lives. Every operation so far is visible.
- torn: as kill, and the last write took only some of its bytes.
- power: the machine dies. A file's data counts once the file was fsynced; each 4 KiB piece of every later write
  survives by itself with p = 0.5, whatever its order; one that does not leaves what was there before, or zeros
  where the file had grown. A folder's entries count once the folder was fsynced; of its creations, links, renames
  and removals since then a prefix survives, each folder's by itself, so that a rename between folders can happen
  in one of them only. Fsyncing a file does not save its name, and a new folder's name needs its parent's fsync.
  Two extreme draws come first: nothing unsynced survived, and all names but no data did.

What is synced is never lost: no model of a disk that lies, nor of bits that change at rest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recorder import Op

Tree = Mapping[str, bytes | None]
"""Paths with the content of files; None for a folder."""

BLOCK = 4096

_DRAWN_AFTER = ("open", "write", "truncate", "link", "rename", "unlink", "mkdir", "rmdir", "note")
"""What gives a power cut new things to lose; after anything else it leaves what it could have left before."""
_Entries = Callable[[int], dict[str, int]]
_Content = Callable[[int], bytes]


@dataclass
class _File:
    content: bytes = b""
    durable: bytes = b""
    pending: list[Op] = field(default_factory=list)

    def apply(self, op: Op) -> None:
        self.content = _changed(self.content, op)
        self.pending.append(op)

    def survived(self, rng: random.Random | None) -> bytes:
        content = self.durable
        for op in self.pending if rng is not None else ():
            assert rng is not None
            for piece in _pieces(op):
                if rng.random() < 0.5:
                    content = _changed(content, piece)
                elif rng.random() < 0.5:
                    content = content.ljust(piece.offset + len(piece.data), b"\0")
        return content


@dataclass
class _Folder:
    entries: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[dict[str, int | None]] = field(default_factory=list)

    def change(self, changes: dict[str, int | None]) -> None:
        _enter(self.entries, changes)
        self.pending.append(changes)

    def survived(self, count: int) -> dict[str, int]:
        entries = dict(self.durable)
        for changes in self.pending[:count]:
            _enter(entries, changes)
        return entries


class Disk:
    """Files and folders as their readers see them, and what of them is safe."""

    def __init__(self) -> None:
        self._nodes: list[_File | _Folder] = [_Folder()]
        self._handles: dict[int, int] = {}

    def apply(self, op: Op) -> None:
        """Carry a recorded operation out."""
        match op.kind:
            case "open" | "read" | "open folder":
                self._open(op)
            case "write" | "truncate":
                self._file(self._handles[op.handle]).apply(op)
            case "fsync":
                self._sync(self._nodes[self._handles[op.handle]])
            case "link":
                folder, name = self._parent(op.other)
                folder.change({name: self._find(op.path)})
            case "rename":
                self._rename(op)
            case "unlink" | "rmdir":
                folder, name = self._parent(op.path)
                folder.change({name: None})
            case "mkdir":
                folder, name = self._parent(op.path)
                folder.change({name: self._new(_Folder())})
            case "close" | "note":
                pass
            case other:
                raise ValueError(f"no such operation: {other}")

    def killed(self) -> Tree:
        """What is visible."""
        return self._tree(
            lambda number: self._folder(number).entries, lambda number: self._file(number).content
        )

    def torn(self, op: Op, length: int) -> Tree:
        """What would be visible if this write, which is next, took `length` bytes."""
        torn = self._handles[op.handle]
        cut = Op("write", op.path, "", op.handle, op.flags, op.offset, op.data[:length])
        return self._tree(
            lambda number: self._folder(number).entries,
            lambda number: (
                _changed(self._file(number).content, cut) if number == torn else self._file(number).content
            ),
        )

    def without_power(self, rng: random.Random | None, *, names: bool = False) -> Tree:
        """What may be left after a power cut: drawn; or without `rng` no unsynced data, and all `names` or none."""
        counts = {
            number: rng.randint(0, len(node.pending)) if rng else len(node.pending) * names
            for number, node in enumerate(self._nodes)
            if isinstance(node, _Folder)
        }
        return self._tree(
            lambda number: self._folder(number).survived(counts[number]),
            lambda number: self._file(number).survived(rng),
        )

    def _tree(self, entries: _Entries, content: _Content) -> Tree:
        found: dict[str, bytes | None] = {}
        waiting = [("", 0)]
        while waiting:
            place, number = waiting.pop()
            for name, inner in sorted(entries(number).items()):
                path = f"{place}/{name}" if place else name
                if isinstance(self._nodes[inner], _Folder):
                    found[path] = None
                    waiting.append((path, inner))
                else:
                    found[path] = content(inner)
        return found

    def _open(self, op: Op) -> None:
        if op.path:
            folder, name = self._parent(op.path)
            if name not in folder.entries:
                assert op.flags & os.O_CREAT, f"{op} of nothing"
                folder.change({name: self._new(_File())})
        self._handles[op.handle] = self._find(op.path)
        if op.kind == "open" and op.flags & os.O_TRUNC:
            self._file(self._find(op.path)).apply(Op("truncate", op.path, handle=op.handle))

    def _rename(self, op: Op) -> None:
        number = self._find(op.path)
        (before, old), (after, new) = self._parent(op.path), self._parent(op.other)
        if before is after:
            before.change({old: None, new: number})
        else:
            after.change({new: number})
            before.change({old: None})

    def _sync(self, node: _File | _Folder) -> None:
        if isinstance(node, _File):
            node.durable = node.content
        else:
            node.durable = dict(node.entries)
        node.pending.clear()

    def _new(self, node: _File | _Folder) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _find(self, path: str) -> int:
        number = 0
        for name in path.split("/") if path else ():
            number = self._folder(number).entries[name]
        return number

    def _parent(self, path: str) -> tuple[_Folder, str]:
        place, _, name = path.rpartition("/")
        return self._folder(self._find(place)), name

    def _file(self, number: int) -> _File:
        node = self._nodes[number]
        assert isinstance(node, _File)
        return node

    def _folder(self, number: int) -> _Folder:
        node = self._nodes[number]
        assert isinstance(node, _Folder)
        return node


@dataclass(frozen=True)
class Crash:
    """What a disk holds after `index` operations and a crash, and what had been said by then."""

    model: str
    index: int
    tree: Tree
    said: tuple[str, ...]


def crashes(
    ops: Sequence[Op], seed: int, draws: int, cuts: int = 2, among: Container[int] | None = None
) -> Iterator[Crash]:
    """Every crash, those that leave the same tree and had said the same only once.

    `draws` power cuts are drawn after each operation that gives them something new to lose, beside the two extreme ones; `cuts` lengths are tried of
    each torn write, beside its first byte alone and all but its last. With `among`, only crashes after these
    operations.
    """
    disk = Disk()
    said: tuple[str, ...] = ()
    seen: set[int] = set()
    for index, op in enumerate(ops, 1):
        if op.kind == "note":
            said = (*said, op.path)
        if among is not None and index not in among:
            disk.apply(op)
            continue
        trees: list[tuple[str, Tree]] = []
        if op.kind == "write" and op.data:
            trees += [("torn", disk.torn(op, length)) for length in _lengths(len(op.data), cuts)]
        disk.apply(op)
        trees.append(("kill", disk.killed()))
        trees += [("power", disk.without_power(None, names=names)) for names in (False, True)]
        for draw in range(draws if op.kind in _DRAWN_AFTER else 0):
            trees.append(("power", disk.without_power(random.Random(f"{seed} {index} {draw}"))))
        for model, tree in trees:
            mark = hash((frozenset(tree.items()), said))
            if mark not in seen:
                seen.add(mark)
                yield Crash(model, index, tree, said)


class Place:
    """A folder that is made to hold one tree after another; only what differs is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holds: dict[str, bytes | None] = {}
        folder.mkdir(parents=True)

    def hold(self, tree: Tree) -> Path:
        """Make the folder hold the tree; gives the folder."""
        for path in sorted(set(self._holds) - set(tree), reverse=True):
            gone = self.folder / path
            gone.rmdir() if self._holds[path] is None else gone.unlink()
        for path in sorted(tree):
            content = tree[path]
            if path in self._holds and self._holds[path] == content:
                continue
            if content is None:
                (self.folder / path).mkdir()
            else:
                (self.folder / path).write_bytes(content)
        self._holds = dict(tree)
        return self.folder


def _lengths(size: int, cuts: int) -> list[int]:
    inner = {size * part // (cuts + 1) for part in range(1, cuts + 1)}
    return sorted({1, size - 1, *inner} - {0, size})


def _changed(content: bytes, op: Op) -> bytes:
    if op.kind == "truncate":
        return content[: op.offset].ljust(op.offset, b"\0")
    head = content[: op.offset].ljust(op.offset, b"\0")
    return head + op.data + content[op.offset + len(op.data) :]


def _pieces(op: Op) -> Iterator[Op]:
    """A write in the pieces that survive by themselves."""
    if op.kind == "truncate":
        yield op
        return
    begin, end = op.offset, op.offset + len(op.data)
    while begin < end:
        stop = min(end, (begin // BLOCK + 1) * BLOCK)
        data = op.data[begin - op.offset : stop - op.offset]
        yield Op("write", op.path, "", op.handle, op.flags, begin, data)
        begin = stop


def _enter(entries: dict[str, int], changes: Mapping[str, int | None]) -> None:
    for name, number in changes.items():
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number
