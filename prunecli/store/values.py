"""What a stored run is to its readers; nothing here imports torch or h5py."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Status = Literal["complete", "running", "partial"]

MOST_SEEDS = 10_000
MOST_LEVELS = 100_001
LONGEST_NAME = 255
# Unicode's categories: control, format (bidi and zero-width too), surrogate, line and paragraph separator.
_NEVER_IN_NAMES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class StoredRun:
    """A run read back from its folder: S seeds by L levels; NaN where a seed has no such level yet.

    `status`: `complete` has a sealed store; `running` is locked by a process at this moment; `partial` is
    neither. `recipe` is the resolved recipe, `total` the number of prunable weights, `excluded` that of the
    linear and convolution weights that the recipe excludes, `notes` what a reader of a table should know, such as a
    seed that failed. `layers` are the P prunable tensors, `kept` (S, L, P)
    how many weights each has left; -1 where a seed has no such level yet.
    """

    name: str
    path: Path
    digest: str
    status: Status
    recipe: Mapping[str, Any]  # Any: a recipe's values
    seeds: tuple[int, ...]
    density: Floats
    spent: Floats
    metrics: Mapping[str, Floats]
    units: Mapping[str, str]
    total: int
    excluded: int = 0
    tests: int = 0
    """Test examples; 0 where that is not known."""
    notes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    """How many weights each layer has, kept or not."""
    kept: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.int64))
    members: tuple[StoredRun, ...] = ()
    """The runs that a series is made of, one a level."""

    def source(self, level: int) -> tuple[Path, int]:
        """The folder that has the level, and its number there."""
        return (self.members[level].path, 0) if self.members else (self.path, level)


@dataclass(frozen=True)
class Measured:
    """A seed's level as it is stored: arrays by their place in the store, masks by parameter.

    `density` is kept / prunable weights, `spent` the epochs trained in all.
    """

    seed: int
    level: int
    density: float
    spent: float
    arrays: Mapping[str, NDArray[Any]]  # Any: the types that the contract gives each place
    masks: Mapping[str, NDArray[np.bool_]]
    beside: frozenset[str] = frozenset()
    """The masks of biases and norms, which do not count in the density."""


@dataclass(frozen=True)
class Header:
    """What a store says of itself: the recipe's digest, a title, how masks are kept, and its provenance."""

    digest: str
    title: str
    encoding: Literal["pruned_at", "packbits"]
    provenance: Mapping[str, str]


def is_name(text: str) -> bool:
    """Whether a store may hold this name: short, visible, one component, as parameters and metrics have them."""
    return (
        0 < len(text) <= LONGEST_NAME
        and "/" not in text
        and all(text.split("."))
        and not any(unicodedata.category(character) in _NEVER_IN_NAMES for character in text)
    )
