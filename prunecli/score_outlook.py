"""What scoring would do: its scoring runs, those that are sealed already, and what the rest takes of time and room."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunecli.errors import DamagedRun, NewerFormat, StorageError
from prunecli.estimate import measure_cost
from prunecli.example_evidence import epochs_seen, over
from prunecli.runs import POINT_BYTES, STATE_BYTES
from prunecli.score_checks import is_complete
from prunecli.score_plan import Scoring, ScoringRun, runs_of
from prunecli.score_runs import workers_of
from prunecli.scores import RUNS
from prunecli.store.scores import size_of

PART_BYTES = 8192
"""What a part and its record take beside the arrays."""
SLOTS = 2


@dataclass(frozen=True)
class Outlook:
    """A scoring before it is carried out; `seconds` are for the scoring runs that are not sealed, one after another."""

    scoring: Scoring
    complete: bool
    standing: tuple[tuple[ScoringRun, bool], ...]
    """All scoring runs, each with whether it is sealed, or in the store already."""
    epochs: float
    """Epochs that they train for in all."""
    seconds: float
    bytes_of_parts: int
    bytes_of_store: int

    @property
    def missing(self) -> tuple[ScoringRun, ...]:
        """Those that are still to be carried out."""
        return tuple(run for run, sealed in self.standing if not sealed)


def foresee_scoring(scoring: Scoring) -> Outlook:
    """What carrying a scoring out would do; nothing is written, and a damaged part counts as one that is not there."""
    complete = is_complete(scoring)
    standing = tuple((run, complete or _is_sealed(scoring, run)) for run in scoring.runs)
    missing = [run for run, sealed in standing if not sealed]
    return Outlook(
        scoring,
        complete,
        standing,
        sum(map(scoring.last, missing)),
        _seconds(scoring, missing),
        sum(_part_bytes(scoring, run) for run in missing),
        0 if complete else _store_bytes(scoring),
    )


def check_room(scoring: Scoring, missing: Sequence[ScoringRun]) -> None:
    """Whether the disk has room for the parts of these scoring runs, what is kept midway, and the store.

    Raises:
        StorageError: it has not.
    """
    at_once = min(workers_of(scoring, missing).count, len(missing))
    parts = sum(_part_bytes(scoring, run) for run in missing) + at_once * SLOTS * _state_bytes(scoring)
    store, runs, folder = _store_bytes(scoring), scoring.settings.runs, scoring.output.absolute().parent
    there = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    together = there.stat().st_dev == folder.stat().st_dev
    _check_free(
        there, runs, parts + store * together, f"the scoring runs{' and the store' * together}", "--runs DIR"
    )
    if not together:
        _check_free(folder, folder, store, "the store", "--output FILE")


def as_json(outlook: Outlook) -> dict[str, Any]:  # Any: what JSON holds
    """What scoring would do, as JSON holds it."""
    scoring = outlook.scoring
    runs = [
        {
            "seed": run.seed,
            "name": run.name,
            "score": None if run.score is None else run.score.name,
            "epochs": scoring.last(run),
            "sealed": sealed,
        }
        for run, sealed in outlook.standing
    ]
    asked = [
        {"score": one.plain(), "epoch": scoring.epochs[one.name], "runs": runs_of(one, scoring.asked)}
        for one in scoring.asked.scores
    ]
    return {
        "schema": "prunecli/scoring",
        "version": 1,
        "label": scoring.label,
        "path": str(scoring.output),
        "complete": outlook.complete,
        "recipe_digest": scoring.recipe_digest,
        "parts": str(scoring.parts.path),
        "seeds": list(scoring.seeds),
        "mode": scoring.asked.mode,
        "average": scoring.asked.average,
        "scores": asked,
        "scoring_runs": runs,
        "epochs": outlook.epochs,
        "seconds": outlook.seconds,
        "part_bytes": outlook.bytes_of_parts,
        "store_bytes": outlook.bytes_of_store,
    }


def _is_sealed(scoring: Scoring, run: ScoringRun) -> bool:
    try:
        return scoring.parts.sealed(run.seed, run.name) is not None
    except NewerFormat:
        raise
    except DamagedRun:
        return False


def _seconds(scoring: Scoring, missing: Sequence[ScoringRun]) -> float:
    if not missing:
        return 0.0
    experiment, examples = scoring.experiment, len(scoring.dataset.train)
    cost = measure_cost(experiment, scoring.dataset.task, scoring.settings.device)
    # Runs of a kind take equally many steps.
    first = {run.score.name if run.score else "": run for run in reversed(missing)}
    steps = {kind: scoring.lab(run).steps(scoring.last(run)) for kind, run in first.items()}
    # The gradients of an example take what its share of a training step does.
    gradients = examples * cost.step / experiment.batch_size * _gradients(scoring)
    whole = len(_looks(scoring)) * examples * cost.evaluated_image + gradients
    seconds = 0.0
    for run in missing:
        looks = whole if run.score is None else examples * cost.evaluated_image
        seconds += steps[run.score.name if run.score else ""] * cost.step + looks
    return seconds


def _looks(scoring: Scoring) -> set[float]:
    """The epochs at which a run over all examples is looked at."""
    chosen = [score for score in scoring.asked.scores if over(score) != RUNS]
    return {epoch for score in chosen for epoch in epochs_seen(score, scoring.epochs[score.name])}


def _gradients(scoring: Scoring) -> int:
    return sum("gradients" in score.entry.needs for score in scoring.asked.scores)


def _part_bytes(scoring: Scoring, run: ScoringRun) -> int:
    examples = len(scoring.dataset.train)
    if run.score is not None:
        return PART_BYTES + 2 * examples
    return PART_BYTES + 8 * examples * sum(over(score) != RUNS for score in scoring.asked.scores)


def _store_bytes(scoring: Scoring) -> int:
    runs = {score.name: runs_of(score, scoring.asked) for score in scoring.asked.scores}
    return size_of(len(scoring.seeds), len(scoring.dataset.train), runs)


def _state_bytes(scoring: Scoring) -> int:
    weights = scoring.lab(scoring.runs[0]).initial().weights.values()
    return (STATE_BYTES + POINT_BYTES) * sum(tensor.numel() for tensor in weights)


def _check_free(there: Path, named: Path, needed: int, what: str, option: str) -> None:
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{named}: {free / 1e6:,.1f} MB are free, and {what} need {needed / 1e6:,.1f} MB; make room, or choose "
            f"another disk with {option}"
        )
