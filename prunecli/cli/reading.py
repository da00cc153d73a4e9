"""Stored runs, read by several processes side by side while this one imports what compares them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.cores import cores
from prunecli.errors import PrunecliError

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.store.values import StoredRun

Read = Callable[[Path], "StoredRun"]
MOST_READERS = 4
"""A few are as fast as the disk, and each has a whole store in memory."""


@contextmanager
def collecting_(errors: list[PrunecliError]) -> Iterator[None]:
    """Keeps an error for later, so that one run does not stop the others."""
    try:
        yield
    except PrunecliError as error:
        errors.append(error)


def read_runs(
    paths: Sequence[Path], seeds: Sequence[int], read: Read, errors: list[PrunecliError]
) -> Iterator[StoredRun]:
    """The runs that can be read, and have the seeds asked for; what is wrong with the others goes to `errors`."""
    from prunecli.store.apart import read_apart

    # Anybody may have written them: what crashes on one is a process of its own.
    for run in read_apart(paths, read, readers=min(cores(), MOST_READERS), meanwhile=_load):
        if isinstance(run, PrunecliError):
            errors.append(run)
            continue
        with collecting_(errors):
            yield _with_seeds(run, seeds) if seeds else run


def metric_of(runs: Sequence[StoredRun]) -> str:
    """What runs are compared by where nobody says: their test error, or the loss where none has errors."""
    without = runs and not any("test_error" in run.metrics for run in runs)
    return "test_loss" if without and any("test_loss" in run.metrics for run in runs) else "test_error"


def _with_seeds(run: StoredRun, seeds: Sequence[int]) -> StoredRun:
    from prunecli.compare import with_seeds

    return with_seeds(run, seeds)


def _load() -> None:
    """Import what compares and tabulates, which takes as long as a few runs to read."""
    importlib.import_module("prunecli.series")
    importlib.import_module("prunecli.report")
