"""What a stored run made of each example, read back for tables: without torch, for chosen levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import DamagedRun, NotComparable
from prunecli.store import decoding
from prunecli.store.decoding import Axes
from prunecli.store.folder import RunFolder
from prunecli.store.guard import Array, Guarded
from prunecli.store.layout import GROUPS, group_of
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.sealing import read_record, read_sealed

_EXAMPLES = ("examples/loss", "examples/correct", "examples/label", "examples/split")
_TESTS = ("test/correct", "test/label")
_OBSERVED = frozenset({"examples/loss", "examples/correct", "test/correct"})
"""What is there only where the recipe observes it."""

T = TypeVar("T")
PlacesByLevel = Mapping[int, Mapping[str, Array]]
"""Arrays by their place, of each level that was asked for and is there."""


@dataclass(frozen=True)
class SeedExamples:
    """A seed's N training examples: `label` used, `split` 0 training, 1 validation, 2 left out; `loss` and `correct` of
    each level that was asked for and is there.
    """

    label: NDArray[np.int64]
    split: NDArray[np.uint8]
    loss: Mapping[int, NDArray[np.float32]]
    correct: Mapping[int, NDArray[np.bool_]]
    fingerprint: str = ""
    """The dataset's."""

    def numbered(self, numbers: Mapping[int, int]) -> SeedExamples:
        """The same under other numbers of levels."""
        return replace(self, loss=_numbered(self.loss, numbers), correct=_numbered(self.correct, numbers))

    def beside(self, other: SeedExamples) -> SeedExamples:
        """The levels of both."""
        loss, correct = {**self.loss, **other.loss}, {**self.correct, **other.correct}
        return replace(self, loss=loss, correct=correct)


@dataclass(frozen=True)
class SeedTests:
    """A seed's T test examples: `label`, and `correct` of each level that was asked for and is there."""

    label: NDArray[np.int64]
    correct: Mapping[int, NDArray[np.bool_]]
    fingerprint: str = ""
    """The dataset's."""

    def numbered(self, numbers: Mapping[int, int]) -> SeedTests:
        """The same under other numbers of levels."""
        return replace(self, correct=_numbered(self.correct, numbers))

    def beside(self, other: SeedTests) -> SeedTests:
        """The levels of both."""
        return replace(self, correct={**self.correct, **other.correct})


def read_examples(path: Path, levels: Sequence[int]) -> dict[int, SeedExamples]:
    """The training examples of a run's seeds at these levels; stored and sealed seeds alike.

    Raises:
        DamagedRun: it is no run, or damaged.
        NotComparable: its recipe has no examples' losses observed.
    """
    found, fingerprint = read_places(path, _EXAMPLES, levels)
    return {
        seed: SeedExamples(
            _any(each)["examples/label"].astype(np.int64),
            _any(each)["examples/split"],
            {level: each[level]["examples/loss"] for level in levels if level in each},
            {level: each[level]["examples/correct"].astype(np.bool_) for level in levels if level in each},
            fingerprint,
        )
        for seed, each in found.items()
    }


def read_tests(path: Path, levels: Sequence[int]) -> dict[int, SeedTests]:
    """The test examples of a run's seeds at these levels; stored and sealed seeds alike.

    Raises:
        DamagedRun: it is no run, or damaged.
        NotComparable: its recipe has no examples' losses observed.
    """
    found, fingerprint = read_places(path, _TESTS, levels)
    return {
        seed: SeedTests(
            _any(each)["test/label"].astype(np.int64),
            {level: each[level]["test/correct"].astype(np.bool_) for level in levels if level in each},
            fingerprint,
        )
        for seed, each in found.items()
    }


def read_places(
    path: Path, places: Sequence[str], levels: Sequence[int]
) -> tuple[dict[int, PlacesByLevel], str]:
    """The places of each seed at these levels, at level 0 where it has none of them; and the dataset's fingerprint.

    Raises:
        DamagedRun: it is no run, or damaged.
        NotComparable: its recipe has no examples' losses observed.
    """
    content = read_run_json(path)
    check_folders(path)
    run = RunFolder(path, content["recipe_digest"])
    found = _stored(run, places, levels)
    for seed in part_seeds(path):
        if seed not in found and (parts := run.chain(seed).parts):
            found[seed] = _of_parts(parts, places, levels)
    return found, str(content.get("dataset_fingerprint", ""))


def _numbered(levels: Mapping[int, T], numbers: Mapping[int, int]) -> dict[int, T]:
    return {numbers[level]: value for level, value in levels.items()}


def _any(levels: PlacesByLevel) -> Mapping[str, Array]:
    """What does not vary by level."""
    return next(iter(levels.values()))


def _stored(run: RunFolder, places: Sequence[str], levels: Sequence[int]) -> dict[int, PlacesByLevel]:
    content = run.store_content()
    if content is None:
        return {}
    with decoding.opened(content[1], "store", str(run.store)) as file:
        axes = decoding.axes_of(file)
        arrays = _arrays(file, places, axes)
    there = [level for level in levels if level < len(axes.levels)] or [0]
    return {
        seed: {
            level: {place: axes.one(place, array, row, level) for place, array in arrays.items()}
            for level in there
        }
        for row, seed in enumerate(axes.seeds)
    }


def _of_parts(parts: Sequence[Path], places: Sequence[str], levels: Sequence[int]) -> PlacesByLevel:
    found = {}
    for level in [level for level in levels if level < len(parts)] or [0]:
        record = read_record(parts[level])
        if record is None:
            raise DamagedRun(f"{parts[level]}: its record is gone")
        with decoding.opened(read_sealed(parts[level], record[0]), "level", str(parts[level])) as file:
            found[level] = _arrays(file, places, Axes())
    return found


def _arrays(file: Guarded, places: Sequence[str], axes: Axes) -> dict[str, Array]:
    if lacking := [place for place in places if place in _OBSERVED and not file.has(place)]:
        raise NotComparable(
            f"{file.where}: has no /{lacking[0]}; a recipe with `observe: [example_losses]` stores it"
        )
    there = [place for place in places if group_of(place) in GROUPS or file.has(place)]
    return {place: decoding.read(file, place, axes) for place in there}
