"""What needs no work because it is stored: a run's own levels, other runs' of equal beginnings, and kept states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, StorageError
from prunecli.kept import Kept, last_state, own_state
from prunecli.procedure import saved_after
from prunecli.runs import Prepared, Settings, conditions_of
from prunecli.state import State
from prunecli.store.folder import RunFolder
from prunecli.store.merging import as_made, decoded, unclear
from prunecli.store.run_file import read_run_json
from prunecli.store.values import Measured


@dataclass(frozen=True)
class Reused:
    """Levels `first` to `last` of a seed that need no work, where they come from, and the epochs that this saves."""

    seed: int
    first: int
    last: int
    source: str
    epochs: float

    @property
    def levels(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Source:
    """Another run whose first `levels` levels are a run's own, and the name of the state at their end.

    The name is empty where nothing comes after them.
    """

    folder: RunFolder
    levels: int
    state: str


def common(run: Prepared, other: Prepared) -> int:
    """How many of a run's first levels another makes, with the state to go on from if there is more to come."""
    mine, theirs = run.prefixes[: run.limit], other.prefixes[: other.limit]
    equal = _equal(mine, theirs)
    return equal if equal in (len(mine), len(other.prefixes)) else 0


def source(run: Prepared, seed: int, settings: Settings, sealed: int) -> Source | None:
    """The run with the longest row of sealed levels that are this run's too, more than `sealed` and the dense one."""
    conditions = conditions_of(run.experiment, settings)
    best: Source | None = None
    for folder, names in _runs_like(run, settings, conditions):
        least, equal = max(sealed, 1, best.levels if best else 0), _equal(run.prefixes[: run.limit], names)
        if equal <= least:
            continue
        try:
            most = min(equal, sealed_levels(folder, seed, len(names)))
            best = _longest(run, seed, settings, folder, range(most, least, -1)) or best
        except (DamagedRun, StorageError, OSError):
            # Another's files that cannot be read are no reason to end this run.
            continue
    return best


def _longest(
    run: Prepared, seed: int, settings: Settings, folder: RunFolder, levels: Iterable[int]
) -> Source | None:
    """The first of these numbers of levels after which a run's state is kept, or is not needed."""
    states = ((n, _state_after(run, seed, settings, folder, n)) for n in levels)
    return next((Source(folder, n, state) for n, state in states if state is not None), None)


def taken(run: Prepared, seed: int, found: Source) -> list[Measured]:
    """A source's levels, read as a stranger's.

    Raises:
        DamagedRun: they are not whole, or not this run's by what they hold, or not to be told from what fills up.
        StorageError: they cannot be read.
    """
    try:
        levels = _read(found, seed)
    except DamagedRun:
        # Its levels may just have been put together into its store, and their parts deleted.
        levels = _read(found, seed)
    ours = (len(run.dataset.train), len(run.dataset.test))
    for number, one in enumerate(levels):
        sizes = tuple(
            max(len(one.arrays.get(f"{group}/{name}", ())) for name in ("label", "target"))
            for group in ("examples", "test")
        )
        outlook = run.foreseen[number].outlook
        late = one.spent - outlook.spent if outlook.early else abs(one.spent - outlook.spent)
        if (one.seed, one.level, sizes) != (seed, number, ours) or late > 1e-9:
            raise DamagedRun(
                f"{found.folder.path}: its level {number} of seed {seed} is not what its run says"
            )
    return levels


def agree(levels: Sequence[Measured], state: State) -> bool:
    """Whether a state has the masks of the last of the levels."""
    masks = levels[-1].masks
    return set(masks) == set(state.masks) and all(
        mask.shape == state.masks[name].shape and bool((mask == state.masks[name].cpu().numpy()).all())
        for name, mask in masks.items()
    )


def reused(run: Prepared, seed: int, settings: Settings) -> list[Reused]:
    """What a seed of a run need not do, from its first level on."""
    ends = [0.0, *(foreseen.outlook.spent for foreseen in run.foreseen)]
    sealed = sealed_levels(run.folder, seed, len(run.foreseen))
    found = [Reused(seed, 0, sealed - 1, "sealed already", ends[sealed])] if sealed else []
    if sealed >= run.limit:
        return found
    if other := source(run, seed, settings, sealed):
        saved = ends[other.levels] - ends[sealed]
        found.append(Reused(seed, sealed, other.levels - 1, f"run {other.folder.path.name}", saved))
    elif not sealed and (saved := _dense_epochs(run, seed, settings)):
        name = Kept(run, seed, settings, _silent).name(0)
        found.append(Reused(seed, 0, 0, f"state {name[:8]}", saved))
    return found


def _dense_epochs(run: Prepared, seed: int, settings: Settings) -> float:
    """Epochs of level 0 that a kept state saves: all but those that lead to a point which is not kept."""
    kept = Kept(run, seed, settings, _silent)
    if kept.states.size(kept.name(0), seed) is None:
        return 0.0
    level, outlook = run.foreseen[0].level, run.foreseen[0].outlook
    missing = [p for p, name in kept.points().items() if kept.states.size(name, seed) is None]
    last = max((saved_after(level)[point] for point in missing), default=0)
    points = [outlook.points[point] for point in missing if saved_after(level)[point] == last]
    return outlook.spent - max(points, default=0.0)


def _equal(mine: Sequence[str], theirs: Sequence[str]) -> int:
    """How many names are the same from the first on."""
    return next(
        (n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(mine), len(theirs)),
    )


def _runs_like(
    run: Prepared, settings: Settings, conditions: dict[str, Any]
) -> Iterator[tuple[RunFolder, list[str]]]:
    """Other runs, made under equal conditions throughout, and what their levels are named by."""
    for path in sorted(settings.runs.glob("*/run.json")):
        try:
            facts = path.lstat()
            content = _run_json(path.parent, facts.st_mtime_ns, facts.st_size)
        except (DamagedRun, StorageError, OSError):
            # It is no run that can be read: what it has is worked out instead.
            continue
        same = all(content.get(name) == value for name, value in conditions.items())
        whole = all(isinstance(one, dict) and not one.get("differs") for one in content["resumes"])
        if same and whole and content["recipe_digest"] != run.folder.digest:
            yield RunFolder(path.parent, content["recipe_digest"]), content["prefixes"]


@lru_cache(maxsize=10_000)
def _run_json(path: Path, _changed: int, _size: int) -> dict[str, Any]:  # Any: what JSON holds
    return read_run_json(path)


def sealed_levels(folder: RunFolder, seed: int, levels: int) -> int:
    """How many levels of a seed are sealed; none where their records are damaged."""
    try:
        return levels if seed in folder.stored_seeds() else len(folder.chain(seed).parts)
    except DamagedRun:
        return 0


def _state_after(run: Prepared, seed: int, settings: Settings, folder: RunFolder, levels: int) -> str | None:
    """The name of the state kept after so many levels; empty where none is needed, None where none is kept."""
    if levels == len(run.foreseen):
        return ""
    states = Kept(run, seed, settings, _silent).states
    names = (last_state(run, levels - 1, settings), own_state(run, levels - 1, folder.digest))
    return next((name for name in names if states.size(name, seed) is not None), None)


def _silent(_message: str) -> None:
    """Says nothing: whoever goes on is told of damage."""


def _read(found: Source, seed: int) -> list[Measured]:
    folder, levels = found.folder, found.levels
    if seed in folder.stored_seeds():
        stored = decoded([folder.store])
        own = [one for one in stored if one.seed == seed]
        if places := unclear(stored, own[:levels]):
            raise DamagedRun(
                f"{folder.path}: its store does not tell whether its first levels have {places[0]}"
            )
        return as_made(own)[:levels]
    parts = folder.chain(seed).parts[:levels]
    if len(parts) < levels:
        raise DamagedRun(f"{folder.path}: seed {seed} has {len(parts)} of {levels} levels that are whole")
    return decoded(parts)
