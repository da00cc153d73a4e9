"""Two resume slots of a seed, written in turn: the newest whole one is never touched while the next is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.state import Midway, State
from prunecli.store.sealing import (
    MOST_OF_A_STATE,
    keep_entries,
    make_folder,
    read_record,
    read_sealed,
    record_of,
    record_path,
    remove,
    replace,
    set_aside,
)
from prunecli.store.states import decode, encode


@dataclass(frozen=True)
class Slots:
    """The slots in a seed's folder, of a run with this digest."""

    folder: Path
    digest: str

    @property
    def paths(self) -> tuple[Path, Path]:
        """Both slots."""
        return self.folder / "slot-a.safetensors", self.folder / "slot-b.safetensors"

    def keep(self, midway: Midway, state: State, tip: str) -> None:
        """Write a state inside the level that follows the record `tip`, in place of the older slot.

        Raises:
            StorageError: it cannot be written; the newer slot is as it was.
        """
        numbers = {path: self._number(path) for path in self.paths}
        path = min(self.paths, key=lambda path: numbers[path])
        data = encode(state, midway)
        make_folder(self.folder)
        if numbers[path]:
            remove(record_path(path))
            keep_entries(self.folder)
        replace(path, data)
        facts = {"recipe_digest": self.digest, "previous": tip, "number": 1 + max(numbers.values())}
        replace(record_path(path), record_of(data, facts))

    def latest(self, tips: tuple[str, ...]) -> tuple[tuple[Midway, State] | None, list[str]]:
        """The newest state inside a level that follows one of the records `tips`, and what is damaged.

        What is damaged or foreign is moved to the quarantine beside the seeds' parts, and named.
        """
        found: list[tuple[int, Midway, State]] = []
        damage = []
        for path in self.paths:
            try:
                record = read_record(path)
                if record is None:
                    continue
                if record[0].get("recipe_digest") != self.digest:
                    raise DamagedRun(f"{record_path(path)}: belongs to another run")
                state, midway = decode(read_sealed(path, record[0], MOST_OF_A_STATE), str(path))
                if midway is None:
                    raise DamagedRun(f"{path}: not a resume slot")
            except NewerFormat:
                raise
            except DamagedRun as error:
                damage.append(f"{error}; moved to quarantine: {', '.join(self.set_aside([path]))}")
                continue
            before = ("", *tips)
            if midway.level < len(before) and record[0].get("previous") == before[midway.level]:
                found.append((self._number(path), midway, state))
        newest = max(found, key=lambda one: one[0], default=None)
        return (newest[1:] if newest else None), damage

    def set_aside(self, paths: Sequence[Path] = ()) -> list[str]:
        """Move slots, or all of them, to the run's quarantine; gives the names they have there."""
        quarantine = self.folder.parent.parent / "quarantine"
        there = [one for path in paths or self.paths for one in (record_path(path), path)]
        return [set_aside(one, quarantine) for one in there if os.path.lexists(one)]

    def _number(self, path: Path) -> int:
        """A slot's place in the row of all that were written; 0 where no record vouches for it."""
        try:
            record = read_record(path)
        except DamagedRun:
            return 0
        number = record[0].get("number") if record else 0
        return number if type(number) is int else 0
