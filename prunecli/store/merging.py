"""Levels read back from parts and stores that a stranger may have made, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prunecli.errors import PrunecliError
from prunecli.store import codec
from prunecli.store.apart import read_apart
from prunecli.store.layout import COMMON, PER_SEED
from prunecli.store.sealing import read_file
from prunecli.store.values import Measured


def decoded(sources: Sequence[Path]) -> list[Measured]:
    """The levels of stores and parts, read in a process of its own: a stranger may have made them."""
    levels: list[Measured] = []
    for found in read_apart(sources, _levels_in):
        if isinstance(found, PrunecliError):
            raise found
        levels += found
    return levels


def _levels_in(path: Path) -> list[Measured]:
    data = read_file(path)
    if path.name == "store.h5":
        return codec.decode_store(data, str(path))
    return [codec.decode_level(data, str(path))]


def as_made(levels: Sequence[Measured]) -> list[Measured]:
    """A seed's levels in a store without what fills places up that only others of its levels have."""
    filled = [{place for place, array in one.arrays.items() if _is_filling(place, array)} for one in levels]
    # What no level has is not there at all: it was made so.
    made = set.intersection(*filled) if filled else set()
    return [
        replace(
            one, arrays={place: array for place, array in one.arrays.items() if place not in there - made}
        )
        for one, there in zip(levels, filled, strict=True)
    ]


def unclear(stored: Sequence[Measured], levels: Sequence[Measured]) -> list[str]:
    """Places in which these levels of a store have only what fills up, and others do not: were they made at all?"""

    def told(among: Sequence[Measured]) -> set[str]:
        return {
            place
            for one in among
            for place, array in one.arrays.items()
            if place not in COMMON | PER_SEED and not _is_absent(array)
        }

    return sorted((told(stored) - told(levels)).intersection(*(one.arrays for one in levels)))


def _is_filling(place: str, array: Any) -> bool:  # Any: the types that the contract gives each place
    return (array.dtype.kind == "f" or place.startswith("observations/")) and _is_absent(array)


def _is_absent(array: Any) -> bool:  # Any: the types that the contract gives each place
    """Whether these are the numbers that a store has where a level has none."""
    if array.dtype.kind == "f":
        return bool(array.tobytes() == np.full_like(array, np.nan).tobytes())
    return not array.any()


def same(found: Sequence[Measured], levels: Sequence[Measured]) -> bool:
    """Whether the levels found hold all that these hold; a store fills up what only other levels have."""
    by_place = {(one.seed, one.level): one for one in found}
    return len(found) == len(levels) and all(
        (one.seed, one.level) in by_place and covers(by_place[one.seed, one.level], one) for one in levels
    )


def covers(found: Measured, level: Measured) -> bool:
    """Whether the level found holds all that the other holds; what it has beside that does not count."""
    numbers = (found.density, found.spent) == (level.density, level.spent)
    masks = found.masks.keys() == level.masks.keys() and all(
        np.array_equal(found.masks[name], mask) for name, mask in level.masks.items()
    )
    return (
        numbers
        and masks
        and all(_equal(found.arrays.get(place), array) for place, array in level.arrays.items())
    )


def _equal(found: Any, array: Any) -> bool:  # Any: the types that the contract gives each place
    if found is None or found.shape != array.shape:
        return False
    return bool(np.array_equal(found, array, equal_nan=array.dtype.kind == "f"))
