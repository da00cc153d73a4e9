"""Scoring runs, each sealed as a part with a record when it is done, and what is kept of one that is not."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, PrunecliError
from prunecli.store.apart import read_apart
from prunecli.store.decoding import opened
from prunecli.store.guard import Array, h5py
from prunecli.store.layout import FORMAT_VERSION
from prunecli.store.sealing import (
    check_sealed,
    commit,
    holds,
    make_folder,
    read_record,
    read_sealed,
    record_path,
    remove,
    set_aside,
)

_KEPT = re.compile(r"(look-\d+\.h5|slot-[ab]\.safetensors)(\.json)?|\.tmp-.*")
"""What is kept of a scoring run that is not done."""


@dataclass(frozen=True)
class ScoreParts:
    """The folder of the scoring runs that are asked for, and the digest of what each is."""

    path: Path
    digest: str

    def part(self, seed: int, name: str) -> Path:
        """A seed's scoring run of this name."""
        return self.path / f"seed-{seed}" / f"{name}.h5"

    def folder(self, seed: int, name: str) -> Path:
        """Where a scoring run that is not done keeps its resume slots, and what it made of the examples so far."""
        return self.path / f"seed-{seed}" / name

    def count(self, runs: Sequence[tuple[int, str]]) -> int:
        """How many of these (seed, name) are sealed; their content is not looked at."""
        return sum(os.path.lexists(record_path(self.part(seed, name))) for seed, name in runs)

    def sealed(self, seed: int, name: str) -> Mapping[str, Any] | None:  # Any: what JSON holds
        """A scoring run's record, once it is sure that its part is whole; None where it is not done.

        Raises:
            DamagedRun: the part is not what its record says.
            NewerFormat: a newer prunecli made it.
        """
        path = self.part(seed, name)
        found = read_record(path)
        if found is None:
            return None
        expected = {"recipe_digest": self.digest, "seed": seed, "run": name}
        if any(found[0].get(key) != value for key, value in expected.items()):
            raise DamagedRun(f"{record_path(path)}: belongs to other scores")
        check_sealed(path, found[0])
        return found[0]

    def seal(
        self, seed: int, name: str, arrays: Mapping[str, Array], facts: Mapping[str, Any]
    ) -> None:  # Any: JSON
        """Seal a scoring run's arrays (N,). What lies there without a record is set aside.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.part(seed, name)
        make_folder(path.parent)
        data = _encoded(arrays)
        if os.path.lexists(path) and not holds(path, data):
            set_aside(path, self.path / "quarantine")
        commit(path, data, {"recipe_digest": self.digest, "seed": seed, "run": name, **facts})

    def set_aside(self, seed: int, name: str) -> list[str]:
        """Move a scoring run's part and record to the quarantine; gives the names they have there."""
        path = self.part(seed, name)
        both = (record_path(path), path)
        return [set_aside(one, self.path / "quarantine") for one in both if os.path.lexists(one)]

    def read(
        self, seed: int, runs: Sequence[str], names: Sequence[str], examples: int
    ) -> list[dict[str, Array]]:
        """The arrays of these names, (N,) each, of a seed's scoring runs.

        Raises:
            DamagedRun: a part is damaged.
        """
        paths = [self.part(seed, run) for run in runs]
        arrays = []
        for found in read_apart(paths, lambda path: _decoded(path, names, examples)):
            if isinstance(found, PrunecliError):
                raise found
            arrays.append(found)
        return arrays

    def refuse_links(self) -> None:
        """Make sure that what is written stays in the folder.

        Raises:
            DamagedRun: it, or a folder in it, is a link to another place.
        """
        kept = [one for one in self.path.glob("seed-*/*") if not one.suffix]
        inside = [*sorted(self.path.glob("*")), *sorted(kept)] if self.path.is_dir() else []
        for folder in (self.path.parent, self.path, *inside):
            if folder.is_symlink():
                raise DamagedRun(
                    f"{folder}: a symbolic link, through which no scores are written; move it away"
                )

    def recover(self) -> None:
        """Remove what a process that died left half-written."""
        for path in (*self.path.glob("seed-*/.tmp-*"), *self.path.glob("seed-*/*/.tmp-*")):
            remove(path)

    def tidy(self, runs: Sequence[tuple[int, str]]) -> None:
        """Delete the parts of these (seed, name), which the score store has; where there are others, all stay.

        Others are of a command that asked for more runs, and goes on from all of them.
        """
        ours = {path for seed, name in runs for path in (self.part(seed, name), self.folder(seed, name))}
        if any(path not in ours and path.suffix != ".json" for path in self.path.glob("seed-*/[!.]*")):
            return
        for seed, name in runs:
            self.forget(seed, name)
            path = self.part(seed, name)
            # A record goes before its file: what is left has no record without what it vouches for.
            remove(record_path(path))
            remove(path)
        for folder in {self.part(seed, name).parent for seed, name in runs}:
            with suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106  (see sealing)

    def forget(self, seed: int, name: str, after: int = -1) -> None:
        """Delete what is kept of a scoring run that is not done; or, of its looks, those that came `after` a step."""
        folder = self.folder(seed, name)
        # A record goes before its file.
        for path in sorted(folder.glob("*"), key=lambda path: path.name, reverse=True):
            step = re.fullmatch(r"look-(\d+)\.h5(\.json)?", path.name)
            if _KEPT.fullmatch(path.name) and (after < 0 or (step and int(step[1]) > after)):
                remove(path)
        with suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106

    def leave(self) -> None:
        """Remove the folder where nothing is in it."""
        with suppress(OSError):
            os.rmdir(self.path)  # noqa: PTH106


def look(name: str, step: int) -> str:
    """What a scoring run's look at the examples is called, after so many steps."""
    return f"{name}/look-{step:08d}"


def _encoded(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        file.attrs.update({"prunecli_type": "scoring run", "format_version": FORMAT_VERSION})
        group = file.create_group("scores", track_order=True)
        for name, array in arrays.items():
            group.create_dataset(name, data=array, track_times=False)
    return buffer.getvalue()


def _decoded(path: Path, names: Sequence[str], examples: int) -> dict[str, Array]:
    found = read_record(path)
    if found is None:
        raise DamagedRun(f"{path}: has no record beside it, so nothing vouches for its content")
    with opened(read_sealed(path, found[0]), "scoring run", str(path)) as file:
        return {name: file.array(f"scores/{name}", (examples,)) for name in names}
