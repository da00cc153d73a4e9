"""A run's folder: levels sealed as parts, a chain of records for each seed, and the merged store."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, Stopped, StorageError
from prunecli.store import codec
from prunecli.store.sealing import (
    commit,
    make_folder,
    read_record,
    read_sealed,
    record_of,
    record_path,
    replace,
)
from prunecli.store.values import Header, Measured

RUN_VERSION = 1


@dataclass(frozen=True)
class Chain:
    """A seed's sealed levels: their parts in order, the last record's SHA-256, and what ended the chain early."""

    parts: tuple[Path, ...]
    tip: str = ""
    damage: str = ""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and the digest of its recipe."""

    path: Path
    digest: str

    @property
    def store(self) -> Path:
        """The merged store."""
        return self.path / "store.h5"

    def part(self, seed: int, level: int) -> Path:
        """A sealed level."""
        return self.path / "parts" / f"seed-{seed}" / f"level-{level:02d}.h5"

    def chain(self, seed: int) -> Chain:
        """A seed's levels as far as their records and files are whole."""
        parts: list[Path] = []
        tip = ""
        while True:
            path = self.part(seed, len(parts))
            try:
                found = read_record(path)
                if found is None:
                    return Chain(tuple(parts), tip)
                record, sha = found
                if record.get("recipe_digest") != self.digest or record.get("previous") != tip:
                    raise DamagedRun(f"{record_path(path)}: belongs to another run or another chain")
                read_sealed(path, record)
            except DamagedRun as error:
                return Chain(tuple(parts), tip, str(error))
            parts.append(path)
            tip = sha

    def seal_level(self, measured: Measured, header: Header, tip: str) -> str:
        """Seal a level behind the chain's tip; gives the new tip."""
        path = self.part(measured.seed, measured.level)
        make_folder(path.parent)
        facts = {
            "recipe_digest": self.digest,
            "seed": measured.seed,
            "level": measured.level,
            "previous": tip,
        }
        return commit(path, codec.encode_level(measured, header), facts)

    def set_aside(self, seed: int, level: int) -> list[str]:
        """Move what lies at a level and after it out of the way; gives the names. Nothing is deleted."""
        moved = []
        folder = self.part(seed, level).parent
        for path in sorted(folder.glob("level-*.h5*")) if folder.is_dir() else []:
            if int(path.name.removeprefix("level-").split(".")[0]) >= level:
                moved.append(path.name)
                _quarantine(self.path, path, f"seed-{seed}-{path.name}")
        return moved

    def stored_seeds(self) -> frozenset[int]:
        """The seeds that the merged store has.

        Raises:
            DamagedRun: the store is not what its record says.
        """
        found = read_record(self.store)
        if found is None:
            if self.store.exists():
                raise DamagedRun(f"{self.store}: has no record beside it, so nothing vouches for its content")
            return frozenset()
        read_sealed(self.store, found[0])
        return frozenset(found[0]["seeds"])

    def stored(self) -> list[Measured]:
        """The merged store's levels; none where there is no store yet.

        Raises:
            DamagedRun: the store is not what its record says.
        """
        found = read_record(self.store)
        if found is None:
            return []
        return codec.decode_store(read_sealed(self.store, found[0]), str(self.store))

    def merge(self, seeds: Sequence[int], header: Header) -> None:
        """Put the seeds' parts and what is stored already into one store, verify it, then drop the parts."""
        kept = self.stored()
        have = {one.seed for one in kept}
        for seed in seeds:
            if seed not in have:
                kept += [codec.decode_level(part.read_bytes(), str(part)) for part in self.chain(seed).parts]
        data = codec.encode_store(kept, header)
        if codec.encode_store(codec.decode_store(data, str(self.store)), header) != data:
            raise StorageError(f"{self.store}: would not read back as it was made; its parts are kept")
        before = read_record(self.store)
        previous = {name: before[0][name] for name in ("size", "sha256")} if before else None
        facts = {"recipe_digest": self.digest, "seeds": sorted({one.seed for one in kept})}
        # The record comes first and names both files, so that every moment in between is readable.
        replace(record_path(self.store), record_of(data, {**facts, "previous_file": previous}))
        replace(self.store, data)
        if self.store.read_bytes() != data:
            raise StorageError(f"{self.store}: does not read back as it was written; its parts are kept")
        replace(record_path(self.store), record_of(data, facts))
        for seed in seeds:
            shutil.rmtree(self.part(seed, 0).parent, ignore_errors=True)
        if not any((self.path / "parts").glob("*")):
            shutil.rmtree(self.path / "parts", ignore_errors=True)

    def write_run(self, content: Mapping[str, Any]) -> None:  # Any: what JSON holds
        """Write `run.json`."""
        text = json.dumps(
            {"schema": "prunecli/run", "version": RUN_VERSION, **content}, indent=1, allow_nan=False
        )
        replace(self.path / "run.json", (text + "\n").encode())

    def _sweep(self) -> None:
        """Remove what a process that was killed left half-written: only names that we give."""
        for path in self.path.rglob(".tmp-*"):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock.

        Raises:
            Stopped: another process holds it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                raise Stopped(
                    f"{self.path}: being written by {holder}; wait for it, or stop it first"
                ) from error
            os.ftruncate(descriptor, 0)
            self._sweep()
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def read_run_json(path: Path) -> dict[str, Any]:  # Any: what JSON holds
    """A run folder's `run.json`.

    Raises:
        DamagedRun: it is missing, no JSON, or of a newer version.
    """
    try:
        content = json.loads((path / "run.json").read_bytes())
    except FileNotFoundError as error:
        raise DamagedRun(f"{path}: not a run: it has no run.json") from error
    except (ValueError, OSError) as error:
        raise DamagedRun(f"{path / 'run.json'}: cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != "prunecli/run":
        raise DamagedRun(f"{path / 'run.json'}: not a prunecli run")
    if not isinstance(content.get("version"), int) or content["version"] > RUN_VERSION:
        raise DamagedRun(
            f"{path / 'run.json'}: made by a newer prunecli (version {content.get('version')}; this reads up to "
            f"{RUN_VERSION}); upgrade prunecli"
        )
    return content


def is_locked(path: Path) -> bool:
    """Whether a process is writing the run at this moment."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
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


def _quarantine(run: Path, path: Path, name: str) -> None:
    folder = run / "quarantine"
    make_folder(folder)
    number = 0
    while (target := folder / f"{name}.{number}").exists():
        number += 1
    path.rename(target)
