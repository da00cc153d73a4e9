"""The masks that a stored run has at a level; without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunecli.store.folder import RunFolder
from prunecli.store.merging import decoded
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.values import Measured

StoredMasks = Mapping[str, NDArray[np.bool_]]
"""By parameter which weights are kept."""


def read_masks(path: Path, level: int) -> dict[int, StoredMasks]:
    """By seed the masks at a level, by parameter; without the seeds that have no such level.

    Raises:
        DamagedRun: it is no run, or damaged.
    """
    return {one.seed: dict(one.masks) for one in _levels(path, level) if one.level == level}


def _levels(path: Path, level: int) -> Iterator[Measured]:
    run = RunFolder(path, read_run_json(path)["recipe_digest"])
    check_folders(path)
    stored = run.stored()
    yield from stored
    for seed in set(part_seeds(path)) - {one.seed for one in stored}:
        yield from decoded(run.chain(seed).parts[level : level + 1])
