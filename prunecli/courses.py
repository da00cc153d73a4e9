"""What a run came to epoch by epoch: its test accuracy, or what it learned of signal and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunecli.store.values import Floats


@dataclass(frozen=True)
class Course:
    """A run's test accuracy in percent at the end of each of E `epochs`, of S seeds; NaN where a seed has none.

    `events` are the epochs after which weights were pruned.
    """

    run: str
    epochs: Floats
    accuracy: Floats
    events: tuple[float, ...]


@dataclass(frozen=True)
class Learned:
    """What S seeds of a run learned of signal and noise (Yang et al., 2023) at E `epochs` of a level: (S, E), means
    over heads, NaN where a seed has none; `kept` (S, K) is how many neurons of each head keep its class's signal.
    """

    run: str
    level: int
    seeds: tuple[int, ...]
    epochs: Floats
    signal: Floats
    noise: Floats
    kept: Floats


def learned_of(run: str, level: int, rows: Mapping[int, tuple[Floats, Floats, Floats, Floats]]) -> Learned:
    """What was learned, from each seed's epochs (G,), signal and noise (G, K) and neurons kept (K,)."""
    seeds = sorted(rows)
    grid = rows[seeds[0]][0]
    signal, noise = (np.stack([rows[seed][part].mean(axis=1) for seed in seeds]) for part in (1, 2))
    there = np.isfinite(signal).any(axis=0)
    kept = np.stack([rows[seed][3] for seed in seeds])
    return Learned(run, level, tuple(seeds), grid[there], signal[:, there], noise[:, there], kept)


def course_of(run: str, rows: Mapping[int, Floats], events: Sequence[float]) -> Course:
    """The course of each seed's epochs and test errors, (2, E) each, over the epochs that any seed has."""
    epochs = np.unique(np.concatenate([row[0] for row in rows.values()]))
    accuracy = np.full((len(rows), len(epochs)), np.nan)
    for place, (_, row) in enumerate(sorted(rows.items())):
        accuracy[place, np.searchsorted(epochs, row[0])] = 100 - row[1]
    return Course(run, epochs, accuracy, tuple(events))
