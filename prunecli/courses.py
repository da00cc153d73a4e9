"""What a run's test accuracy was after each epoch, and when it pruned."""

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


def course_of(run: str, rows: Mapping[int, Floats], events: Sequence[float]) -> Course:
    """The course of each seed's epochs and test errors, (2, E) each, over the epochs that any seed has."""
    epochs = np.unique(np.concatenate([row[0] for row in rows.values()]))
    accuracy = np.full((len(rows), len(epochs)), np.nan)
    for place, (_, row) in enumerate(sorted(rows.items())):
        accuracy[place, np.searchsorted(epochs, row[0])] = 100 - row[1]
    return Course(run, epochs, accuracy, tuple(events))
