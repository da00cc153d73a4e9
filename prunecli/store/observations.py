"""What a stored run's observers wrote down, read back for figures: without torch, and guarded as the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunecli.errors import DamagedRun, NotComparable
from prunecli.store.examples import PlacesByLevel, read_places
from prunecli.store.values import Floats

_EPOCHS = ("observations/epochs/spent", "observations/epochs/test_error")
_LEARNED = tuple(f"observations/signal_noise/{name}" for name in ("epoch", "signal", "noise", "kept"))


def read_epochs(path: Path, levels: int) -> dict[int, Floats]:
    """The epochs spent and the test error at the end of each epoch of each seed's levels, (2, E), in their order.

    Raises:
        DamagedRun: it is no run, or damaged.
        NotComparable: its recipe has no epochs observed.
    """
    found, _ = read_places(path, _EPOCHS, range(levels))
    rows = {seed: _row(path, each) for seed, each in found.items()}
    if not any(row.size for row in rows.values()):
        raise NotComparable(f"{path}: has no /{_EPOCHS[1]}; a recipe with `observe: [epochs]` stores it")
    return rows


def read_learned(path: Path, level: int) -> dict[int, tuple[Floats, Floats, Floats, Floats]]:
    """What `signal_noise` stored of each seed at a level: epochs (G,), signal and noise (G, K), neurons kept (K,).

    Raises:
        DamagedRun: it is no run, or damaged.
        NotComparable: its recipe has no signal and noise observed.
    """
    found, _ = read_places(path, _LEARNED, [level])
    rows: dict[int, tuple[Floats, Floats, Floats, Floats]] = {}
    for seed, each in found.items():
        if level in each and all(place in each[level] for place in _LEARNED):
            epochs, signal, noise, kept = (np.asarray(each[level][place], np.float64) for place in _LEARNED)
            rows[seed] = (epochs, signal, noise, kept)
    shapes = {tuple(array.shape for array in row) for row in rows.values()}
    if len(shapes) > 1 or any(one != (one[0][:1], *2 * [(*one[0], *one[3])], one[3][:1]) for one in shapes):
        raise DamagedRun(f"{path}: damaged: observations/signal_noise: its arrays do not fit together")
    if not any(np.isfinite(row[3]).any() for row in rows.values()):
        raise NotComparable(
            f"{path}: has no /{_LEARNED[0]}; a recipe with `observe: [signal_noise]` stores it"
        )
    return rows


def _row(path: Path, levels: PlacesByLevel) -> Floats:
    """The epochs of a seed's levels one after the other, without what only fills a level up."""
    inside = [
        [np.asarray(level[place], np.float64) for place in _EPOCHS if place in level]
        for level in levels.values()
    ]
    if any(
        len({array.shape for array in arrays}) > 1 or arrays[:1][0].ndim != 1 for arrays in inside if arrays
    ):
        raise DamagedRun(f"{path}: damaged: observations/epochs: its arrays are not rows of one length")
    parts = [np.stack(arrays) for arrays in inside if len(arrays) == len(_EPOCHS)]
    row = np.concatenate([np.zeros((2, 0)), *parts], axis=1)
    return row[:, np.isfinite(row[0])]
