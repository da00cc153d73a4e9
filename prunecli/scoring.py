"""Scores carried out: scoring runs of a recipe's dense model, sealed one by one, and their means in a score store."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr

from prunecli.building import TRAINING, make_targets
from prunecli.determinism import held, prepare_workspace
from prunecli.errors import DamagedRun, Diverged, NewerFormat, Stopped, StorageError
from prunecli.example_evidence import over, over_runs, run_on_subset, scored_run
from prunecli.experiment import digest
from prunecli.lab import Watch
from prunecli.patience import patiently
from prunecli.progress import EpochSeen, Said
from prunecli.randomness import key, permutation
from prunecli.registry import Choice
from prunecli.runs import conditions_of, versions
from prunecli.score_plan import Scoring, ScoringRun, runs_of
from prunecli.scores import RUNS
from prunecli.stopping import Stop, flagged
from prunecli.store.guard import Array
from prunecli.store.lock import locked
from prunecli.store.scores import (
    Provenance,
    Score,
    ScoreStore,
    decode_scores,
    encode_scores,
    read_scores,
    same,
)
from prunecli.store.sealing import commit, make_folder, read_record
from prunecli.store.values import Floats
from prunecli.training import denormals_flushed

SPLITS = 10
"""Ways to halve the runs, whose rank correlations are averaged."""


@dataclass(frozen=True)
class RunScored:
    """A scoring run is sealed: the `done`-th of all that are asked for."""

    run: ScoringRun
    done: int
    total: int


@dataclass(frozen=True)
class EpochTrained:
    """A scoring run's epoch, for progress."""

    run: ScoringRun
    seen: EpochSeen


Event = RunScored | EpochTrained | Said
Listener = Callable[[Event], None]


def carry_out_scoring(scoring: Scoring, tell: Listener) -> ScoreStore:
    """Carry out the scoring runs that are not sealed yet, write their store, and give it.

    Raises:
        Stopped: a signal asked for it, or another process does the same; the same call goes on from there.
        Diverged: a scoring run's loss is NaN or infinite; the message names it.
        StorageError: something cannot be stored; what was sealed is safe.
    """
    prepare_workspace()
    with ExitStack() as until_the_end:
        if _is_complete(scoring):
            # Parts that are there may be another command's, of more runs or another average: they stay.
            tell(Said(f"{scoring.output}: complete; nothing to do"))
            return read_scores(scoring.output)
        until_the_end.enter_context(denormals_flushed())
        until_the_end.enter_context(held(scoring.experiment.determinism))
        stop = until_the_end.enter_context(flagged())
        scoring.parts.refuse_links()
        make_folder(scoring.parts.path)
        until_the_end.enter_context(locked(scoring.parts.path, lambda message: tell(Said(message))))
        scoring.parts.recover()
        torch.set_num_threads(scoring.experiment.threads)
        work = _Work(scoring, tell, stop)
        work.carry_out()
        work.write()
        scoring.parts.tidy(_names(scoring))
    return read_scores(scoring.output)


def stability(average: Callable[[Sequence[int]], Floats], runs: int) -> float:
    """The Spearman correlation between the scores of two halves of the runs, the mean over some ways to halve them.

    `average` gives the scores (N,) of these runs. NaN where there is one run, or where scores do not vary.
    """
    half = runs // 2
    if not half:
        return math.nan
    found = []
    for number in range(SPLITS):
        order = permutation(key("halves", number), runs).tolist()
        first, second = average(sorted(order[:half])), average(sorted(order[half : 2 * half]))
        both = np.isfinite(first) & np.isfinite(second)
        varies = both.any() and np.ptp(first[both]) > 0 and np.ptp(second[both]) > 0
        if varies:
            found.append(float(spearmanr(first[both], second[both]).statistic))
    return float(np.mean(found)) if found else math.nan


@dataclass(frozen=True)
class _Work:
    """Scoring runs being carried out, and whom to tell and to ask."""

    scoring: Scoring
    tell: Listener
    stop: Stop

    def carry_out(self) -> None:
        """Go on from what is sealed."""
        runs = self.scoring.runs
        missing = [run for run in runs if not self._sealed(run)]
        done = len(runs) - len(missing)
        went_on = f", {done} sealed already" if done else ""
        seeds = self.scoring.seeds
        rows = f"{len(seeds)} seeds" if len(seeds) > 1 else _row_in_words(self.scoring)
        many = "s" * (len(runs) > 1)
        self._say(f"{self.scoring.label}: {len(runs)} scoring run{many}, {rows}{went_on}")
        for number, run in enumerate(missing, done + 1):
            self._check_stop(run, number - 1)
            self._carry_out_one(run, number - 1)
            self.tell(RunScored(run, number, len(runs)))

    def _carry_out_one(self, run: ScoringRun, done: int) -> None:
        scoring, mode = self.scoring, self.scoring.asked.mode
        lab = replace(
            scoring.lab(run, self._watch(run)),
            pause=lambda _now, _steps: self._check_stop(run, done),
            say=self._say,
        )
        try:
            if run.score is None:
                timed = [(one, scoring.epochs[one.name]) for one in scoring.asked.scores if over(one) != RUNS]
                found = scored_run(lab, timed, scoring.rate_at(lab), mode)
                arrays: dict[str, Array] = {name: values.numpy() for name, values in found.items()}
            else:
                correct = run_on_subset(lab, scoring.epochs[run.score.name], scoring.rate_at(lab), mode)
                trained = lab.targets.split == TRAINING
                arrays = {
                    "correct": correct.numpy().astype(np.uint8),
                    "trained": trained.numpy().astype(np.uint8),
                }
        except Diverged as error:
            raise Diverged(f"seed {run.seed}, {run.told}: {error}; {_safe(done)}") from error
        facts = {"conditions": conditions_of(scoring.experiment, scoring.settings)}
        seal = partial(scoring.parts.seal, run.seed, run.name, arrays, facts)
        patiently(seal, scoring.settings.patience, self.stop, self._say)

    def _sealed(self, run: ScoringRun) -> bool:
        """Whether a scoring run is done; a damaged one is moved to the quarantine, and named."""
        parts = self.scoring.parts
        try:
            record = parts.sealed(run.seed, run.name)
        except NewerFormat:
            raise
        except DamagedRun as error:
            moved = ", ".join(parts.set_aside(run.seed, run.name))
            self._say(f"{error}; moved to quarantine: {moved}; it is carried out again")
            return False
        if record and record.get("conditions") != conditions_of(
            self.scoring.experiment, self.scoring.settings
        ):
            self._say(
                f"{parts.part(run.seed, run.name)}: was made by other versions, or on another device or instruction "
                "set: the scores may differ in their last digits from those of an undisturbed command"
            )
        return record is not None

    def _check_stop(self, run: ScoringRun, done: int) -> None:
        if self.stop.by:
            raise Stopped(
                f"stopped by {self.stop.by}: seed {run.seed}, {run.told} begins anew; {_safe(done)}; the same "
                "command goes on from there"
            )

    def _watch(self, run: ScoringRun) -> Watch:
        return lambda seen: self.tell(EpochTrained(run, seen))

    def _say(self, message: str) -> None:
        self.tell(Said(message))

    def write(self) -> None:
        """Put the sealed scoring runs into the score store, and verify it."""
        scoring = self.scoring
        store, runs = _assembled(scoring)
        texts = {
            "recipe": json.dumps(scoring.trained, sort_keys=True, indent=1),
            "scoring": json.dumps(scoring.whole, sort_keys=True, indent=1),
            "versions": json.dumps(versions(), sort_keys=True),
            "dataset_fingerprint": scoring.dataset.fingerprint,
        }
        options = {score.name: json.dumps(score.plain(), sort_keys=True) for score in scoring.asked.scores}
        data = encode_scores(store, runs, Provenance(texts, options))
        if not same(decode_scores(data, str(scoring.output)), store):
            raise StorageError(
                f"{scoring.output}: would not read back as it was made; the scoring runs are kept"
            )
        facts = {
            "recipe_digest": store.recipe_digest,
            "scoring_digest": store.scoring_digest,
            "seeds": list(store.seeds),
            "asked": scoring.whole,
        }
        patiently(
            partial(commit, scoring.output, data, facts), scoring.settings.patience, self.stop, self._say
        )
        if not same(read_scores(scoring.output), store):
            raise StorageError(
                f"{scoring.output}: does not read back as it was written; the scoring runs are kept"
            )


def _assembled(scoring: Scoring) -> tuple[ScoreStore, dict[str, Floats]]:
    """The score store, and each score of every run (S, R, N)."""
    targets = [make_targets(scoring.experiment, seed, scoring.dataset) for seed in scoring.seeds]
    scores, runs = {}, {}
    for score in scoring.asked.scores:
        rows = [_of_seed(scoring, seed, score) for seed in scoring.seeds]
        runs[score.name] = np.stack([row for row, _, _ in rows])
        scores[score.name] = Score(
            np.stack([values for _, values, _ in rows]),
            np.array([stable for _, _, stable in rows]),
            runs_of(score, scoring.asked),
            scoring.epochs[score.name],
            scoring.asked.average,
        )
    experiment = scoring.experiment
    store = ScoreStore(
        scoring.seeds,
        np.stack([one.used.numpy() for one in targets]),
        targets[0].clean.numpy(),
        np.stack([one.split.numpy() for one in targets]),
        scores,
        scoring.recipe_digest,
        digest(scoring.whole),
        scoring.dataset.fingerprint,
        f"{experiment.model.name} on {experiment.data.name}",
    )
    return store, runs


def _of_seed(scoring: Scoring, seed: int, score: Choice) -> tuple[Floats, Floats, float]:
    """A score of each run (R, N), its average (N,), and its stability."""
    examples, parts = len(scoring.dataset.train), scoring.parts
    if over(score) == RUNS:
        names = [run.name for run in scoring.runs if run.seed == seed and run.score == score]
        read = parts.read(seed, names, ("correct", "trained"), examples)
        correct, trained = (torch.from_numpy(np.stack([one[n] for one in read])).bool() for n in read[0])

        def average(chosen: Sequence[int]) -> Floats:
            return np.asarray(over_runs(score, correct[chosen], trained[chosen]).numpy().mean(axis=0))

        rows: Floats = over_runs(score, correct, trained).numpy()
    else:
        names = [run.name for run in scoring.runs if run.seed == seed and run.score is None]
        rows = np.stack([one[score.name] for one in parts.read(seed, names, (score.name,), examples)])
        middle = np.median if scoring.asked.average == "median" else np.mean

        def average(chosen: Sequence[int]) -> Floats:
            return np.asarray(middle(rows[chosen], axis=0))

    return rows, average(range(len(rows))), stability(average, len(rows))


def _is_complete(scoring: Scoring) -> bool:
    """Whether the output is there with its record, which was checked to be of these scores."""
    return os.path.lexists(scoring.output) and read_record(scoring.output) is not None


def _row_in_words(scoring: Scoring) -> str:
    seed = scoring.seeds[0]
    noisy = bool(make_targets(scoring.experiment, seed, scoring.dataset).noisy.any())
    return f"seed {seed}" if noisy else "one row for all seeds, since labels are clean"


def _names(scoring: Scoring) -> list[tuple[int, str]]:
    return [(run.seed, run.name) for run in scoring.runs]


def _safe(done: int) -> str:
    """How many scoring runs need not be carried out again."""
    return f"{done} sealed before {'is' if done == 1 else 'are'} safe" if done else "none is sealed yet"
