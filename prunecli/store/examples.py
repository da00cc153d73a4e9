"""What a stored run made of each training example, read back for tables: without torch, for chosen levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import DamagedRun
from prunecli.store import decoding
from prunecli.store.decoding import Axes
from prunecli.store.folder import RunFolder
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.sealing import read_record, read_sealed

_PLACES = ("loss", "correct", "label", "split")


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


def read_examples(path: Path, levels: Sequence[int]) -> dict[int, SeedExamples]:
    """The training examples of a run's seeds at these levels; stored and sealed seeds alike.

    Raises:
        DamagedRun: it is no run, or damaged, or has no examples' losses.
    """
    content = read_run_json(path)
    check_folders(path)
    run = RunFolder(path, content["recipe_digest"])
    found = _stored(run, levels)
    for seed in part_seeds(path):
        if seed not in found and (parts := run.chain(seed).parts):
            found[seed] = _of_parts(parts, [level for level in levels if level < len(parts)])
    fingerprint = str(content.get("dataset_fingerprint", ""))
    return {seed: replace(one, fingerprint=fingerprint) for seed, one in found.items()}


def _stored(run: RunFolder, levels: Sequence[int]) -> dict[int, SeedExamples]:
    content = run.store_content()
    if content is None:
        return {}
    with decoding.opened(content[1], "store", str(run.store)) as file:
        axes = decoding.axes_of(file)
        loss, correct, label, split = (decoding.read(file, f"examples/{name}", axes) for name in _PLACES)
    there = [level for level in levels if level < len(axes.levels)]
    return {
        seed: SeedExamples(
            label[row].astype(np.int64),
            split[row],
            {level: loss[row, level] for level in there},
            {level: correct[row, level].astype(np.bool_) for level in there},
        )
        for row, seed in enumerate(axes.seeds)
    }


def _of_parts(parts: Sequence[Path], levels: Sequence[int]) -> SeedExamples:
    found = {}
    for level in levels or [0]:
        record = read_record(parts[level])
        if record is None:
            raise DamagedRun(f"{parts[level]}: its record is gone")
        with decoding.opened(read_sealed(parts[level], record[0]), "level", str(parts[level])) as file:
            found[level] = [decoding.read(file, f"examples/{name}", Axes()) for name in _PLACES]
    _, _, label, split = next(iter(found.values()))
    return SeedExamples(
        label.astype(np.int64),
        split,
        {level: arrays[0] for level, arrays in found.items() if level in levels},
        {level: arrays[1].astype(np.bool_) for level, arrays in found.items() if level in levels},
    )
