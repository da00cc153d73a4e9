"""A run's folder: levels sealed as parts, a chain of records for each seed, and the merged store."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, NewerFormat, StorageError
from prunecli.store import codec
from prunecli.store.layout import PART_LIMIT
from prunecli.store.merging import covers, decoded, same
from prunecli.store.run_file import RUN_VERSION, check_folders, is_digest
from prunecli.store.sealing import (
    check_sealed,
    commit,
    holds,
    keep_entries,
    make_folder,
    read_file,
    read_record,
    record_of,
    record_path,
    remove,
    replace,
    set_aside,
    storage_error,
    sync_folder,
    vouches,
)
from prunecli.store.values import Header, Measured

_OURS = re.compile(r"level-\d{2,}\.h5(\.json)?|slot-[ab]\.safetensors(\.json)?|\.tmp-.*")
"""What lies beside a seed's levels and was made by us."""
_TRIES = 5
"""How often a store is read that is replaced meanwhile."""


@dataclass(frozen=True)
class Chain:
    """A seed's sealed levels: their parts in order, their records' SHA-256, and what ended the chain early."""

    parts: tuple[Path, ...] = ()
    tips: tuple[str, ...] = ()
    damage: str = ""

    @property
    def tip(self) -> str:
        """The last record's SHA-256; empty where no level is sealed."""
        return self.tips[-1] if self.tips else ""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and the digest of its recipe."""

    path: Path
    digest: str

    @property
    def store(self) -> Path:
        """The merged store."""
        return self.path / "store.h5"

    @property
    def quarantine(self) -> Path:
        """Where damaged and foreign files are moved to."""
        return self.path / "quarantine"

    def seed_folder(self, seed: int) -> Path:
        """Where a seed's parts and slots lie."""
        return self.path / "parts" / f"seed-{seed}"

    def part(self, seed: int, level: int) -> Path:
        """A sealed level."""
        return self.seed_folder(seed) / f"level-{level:02d}.h5"

    def chain(self, seed: int) -> Chain:
        """A seed's levels as far as their records and files are whole.

        Raises:
            NewerFormat: a newer prunecli made them.
        """
        chain = Chain()
        while True:
            path = self.part(seed, len(chain.parts))
            try:
                found = read_record(path)
                if found is None:
                    return chain
                record, sha = found
                expected = {"recipe_digest": self.digest, "previous": chain.tip, "seed": seed}
                if any(record.get(name) != value for name, value in expected.items()):
                    raise DamagedRun(f"{record_path(path)}: belongs to another run or another chain")
                check_sealed(path, record, 2 * PART_LIMIT)
            except NewerFormat:
                raise
            except DamagedRun as error:
                return Chain(chain.parts, chain.tips, str(error))
            chain = Chain((*chain.parts, path), (*chain.tips, sha))

    def dense_state(self, seed: int) -> str:
        """The name of the state that a seed's sealed dense training ended in; empty where no record tells it."""
        try:
            found = read_record(self.part(seed, 0))
        except NewerFormat:
            raise
        except DamagedRun:
            return ""
        name = found[0].get("state") if found else ""
        return str(name) if is_digest(name) else ""

    def seal_level(self, measured: Measured, header: Header, tip: str, state: str = "") -> str:
        """Seal a level behind the chain's tip; gives the new tip. What lies there without a record is set aside.

        `state` names the state at the level's end, where that is not the run's own.
        """
        path = self.part(measured.seed, measured.level)
        make_folder(path.parent)
        data = codec.encode_level(measured, header)
        if os.path.lexists(path) and not holds(path, data):
            set_aside(path, self.quarantine)
        facts = {
            "recipe_digest": self.digest,
            "seed": measured.seed,
            "level": measured.level,
            "previous": tip,
        } | ({"state": state} if state else {})
        return commit(path, data, facts)

    def set_level_aside(self, seed: int, level: int) -> list[str]:
        """Move a level's file and record to the quarantine; gives the names they have there."""
        path = self.part(seed, level)
        return [set_aside(one, self.quarantine) for one in (record_path(path), path) if os.path.lexists(one)]

    def set_store_aside(self) -> list[str]:
        """Move the merged store and its record to the quarantine; gives the names they have there."""
        both = (record_path(self.store), self.store)
        return [set_aside(one, self.quarantine) for one in both if os.path.lexists(one)]

    def store_content(self) -> tuple[dict[str, Any], bytes] | None:  # Any: what JSON holds
        """What the merged store's record says of it, and its bytes; None where there is no store yet.

        While the store is being replaced its record names the new content, and the old one under `replaces`.

        Raises:
            DamagedRun: the store is not what its record says.
        """
        for _ in range(_TRIES):
            found = read_record(self.store)
            if found is None:
                if os.path.lexists(self.store) and read_record(self.store) is None:
                    raise DamagedRun(
                        f"{self.store}: has no record beside it, so nothing vouches for its content"
                    )
                return None
            record, sha = found
            if record.get("recipe_digest") != self.digest:
                raise DamagedRun(f"{record_path(self.store)}: belongs to another run")
            if "replaces" in record and record["replaces"] is None and not os.path.lexists(self.store):
                return None
            data = read_file(self.store)
            for facts in (record, record.get("replaces")):
                if vouches(facts, data):
                    return _checked(dict(facts or {}), record_path(self.store)), data
            if (again := read_record(self.store)) and again[1] == sha:
                break  # Nobody replaced it meanwhile.
        raise DamagedRun(
            f"{self.store}: damaged: its content is not what {record_path(self.store).name} says"
        )

    def stored_seeds(self) -> frozenset[int]:
        """The seeds that the merged store has.

        Raises:
            DamagedRun: the store is not what its record says.
        """
        found = self.store_content()
        return frozenset(found[0]["seeds"]) if found else frozenset()

    def stored(self) -> list[Measured]:
        """The merged store's levels; none where there is no store yet.

        Raises:
            DamagedRun: the store is not what its record says.
        """
        found = self.store_content()
        return codec.decode_store(found[1], str(self.store)) if found else []

    def agrees(self, measured: Measured) -> bool:
        """Whether a level that was made again is the one that is sealed."""
        (found,) = decoded([self.part(measured.seed, measured.level)])
        return covers(found, measured)

    def merge(self, seeds: Sequence[int], header: Header, count: int) -> None:
        """Put the seeds' parts, `count` levels each, and what is stored already into one store, and verify it.

        Raises:
            StorageError: it cannot be written, or does not read back; the parts are kept.
            DamagedRun: a part or the store is not what its record says.
        """
        before = self.store_content()
        facts: dict[str, Any] = {"recipe_digest": self.digest, "seeds": [], "tips": {}}  # Any: JSON
        facts |= {name: before[0][name] for name in ("seeds", "tips")} if before else {}
        sources = [self.store] if before else []
        for seed in sorted(set(seeds) - set(facts["seeds"])):
            chain = self.chain(seed)
            if chain.damage or len(chain.parts) != count:
                whole = f"seed {seed} has {len(chain.parts)} of {count} levels that are whole"
                raise DamagedRun(
                    f"{chain.damage or self.path}: {whole}; the same command makes the others again"
                )
            sources += chain.parts
            facts["seeds"] = sorted({*facts["seeds"], seed})
            facts["tips"] = {**facts["tips"], str(seed): chain.tip}
        levels = decoded(sources)
        data = codec.encode_store(levels, header)
        if not same(codec.decode_store(data, str(self.store)), levels):
            raise StorageError(f"{self.store}: would not read back as it was made; its parts are kept")
        old = (
            None
            if before is None
            else {name: before[0][name] for name in ("size", "sha256", "seeds", "tips")}
        )
        # The record comes first and names both files, so that every moment in between is readable.
        replace(record_path(self.store), record_of(data, {**facts, "replaces": old}))
        replace(self.store, data)
        if read_file(self.store) != data:
            raise StorageError(f"{self.store}: does not read back as it was written; its parts are kept")
        replace(record_path(self.store), record_of(data, facts))

    def settle(self) -> None:
        """Have the store's record name it alone, where a process died before it could."""
        found = self.store_content()
        if found and "replaces" in found[0]:
            facts = {name: found[0][name] for name in ("recipe_digest", "seeds", "tips")}
            replace(record_path(self.store), record_of(found[1], facts))

    def leftovers(self, seeds: Sequence[int]) -> list[Path]:
        """What the work on these seeds, or a process that was killed, left behind."""
        found = self.store_content()
        behind = [
            *([record_path(self.store)] if found and "replaces" in found[0] else []),
            *self.path.glob(".tmp-*"),
            *(folder for seed in seeds if _is_folder(folder := self.seed_folder(seed))),
        ]
        parts = self.path / "parts"
        return behind + ([parts] if _is_folder(parts) and not any(parts.iterdir()) else [])

    def tidy(self, seeds: Sequence[int]) -> list[str]:
        """Delete parts and slots of seeds that the verified store has; what is not ours goes to the quarantine.

        Gives the names that went there.
        """
        moved = []
        # The store's name has to survive a power cut before what it was made from goes.
        keep_entries(self.path)
        for folder in filter(_is_folder, map(self.seed_folder, seeds)):
            # A record goes before its file, and the last level before the first: what is left is a chain.
            for path in sorted(folder.iterdir(), key=lambda path: path.name, reverse=True):
                if _OURS.fullmatch(path.name) and not path.is_dir():
                    remove(path)
                else:
                    moved.append(set_aside(path, self.quarantine))
            _remove_folder(folder)
        parts = self.path / "parts"
        if _is_folder(parts) and not any(parts.iterdir()):
            _remove_folder(parts)
        return moved

    def write_run(self, content: Mapping[str, Any]) -> None:  # Any: what JSON holds
        """Write `run.json`."""
        text = json.dumps(
            {"schema": "prunecli/run", "version": RUN_VERSION, **content}, indent=1, allow_nan=False
        )
        replace(self.path / "run.json", (text + "\n").encode())

    def refuse_links(self) -> None:
        """Make sure that what is written to the run stays in its folder.

        Raises:
            DamagedRun: it, or a folder in it, is a link to another place.
        """
        if self.path.is_symlink():
            raise DamagedRun(f"{self.path}: a symbolic link, through which no run is written; move it away")
        check_folders(self.path)

    def is_open_to_others(self) -> bool:
        """Whether everybody on the machine may write to the folder."""
        return bool(self.path.stat().st_mode & stat.S_IWOTH)

    def recover(self) -> None:
        """Make what an earlier process wrote survive a power cut, and remove what it left half-written.

        Raises:
            StorageError: the disk fails.
        """
        folders = [self.path, self.path / "parts", *sorted((self.path / "parts").glob("seed-*"))]
        try:
            for folder in (self.path.parent, *filter(Path.is_dir, folders)):
                sync_folder(folder)
            for folder in self.path.absolute().parent.parents:
                # A process may have died between making a folder and syncing the one above.
                with suppress(PermissionError):
                    sync_folder(folder)
        except OSError as error:
            raise storage_error(self.path, error) from error
        for folder in filter(Path.is_dir, folders):
            for path in folder.glob(".tmp-*"):
                remove(path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove_folder(folder: Path) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106  (see sealing)
        sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(folder, error) from error


def _checked(facts: dict[str, Any], where: Path) -> dict[str, Any]:  # Any: what JSON holds
    """The facts of a store's record, of the types that we write."""
    seeds, tips = facts.get("seeds"), facts.get("tips", {})
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
        raise DamagedRun(f"{where}: not the record of a store (its seeds are {str(seeds)[:80]!r})")
    if not isinstance(tips, dict):
        raise DamagedRun(f"{where}: not the record of a store")
    return {**facts, "tips": tips}
