"""Scores carried out: scoring runs of a recipe's dense model, sealed one by one, and their means in a score store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr

from prunecli.building import make_targets
from prunecli.determinism import prepare_workspace
from prunecli.errors import DamagedRun, NewerFormat, StorageError
from prunecli.example_evidence import over, over_runs
from prunecli.experiment import digest
from prunecli.memory import keep_freed
from prunecli.patience import patiently
from prunecli.progress import Said
from prunecli.randomness import key, permutation
from prunecli.registry import Choice
from prunecli.runs import conditions_of, versions
from prunecli.score_checks import check_output, is_complete
from prunecli.score_outlook import check_room
from prunecli.score_plan import Scoring, ScoringRun, runs_of
from prunecli.score_runs import Listener, RunScored, carry_out_runs
from prunecli.scores import RUNS
from prunecli.stopping import Stop, flagged
from prunecli.store.lock import locked_while_held
from prunecli.store.scores import (
    Provenance,
    Score,
    ScoreStore,
    decode_scores,
    encode_scores,
    read_scores,
    same,
)
from prunecli.store.sealing import commit
from prunecli.store.values import Floats
from prunecli.training import denormals_flushed

SPLITS = 10
"""Ways to halve the runs, whose rank correlations are averaged."""


def carry_out_scoring(scoring: Scoring, tell: Listener) -> ScoreStore:
    """Carry out the scoring runs that are not sealed yet, write their store, and give it.

    Raises:
        Stopped: a signal asked for it, or another process writes the same store or carries out the same scoring runs.
        Diverged: a scoring run's loss is NaN or infinite; the message names it.
        StorageError: there is no room, or something cannot be stored; what was sealed is safe.
        UsageError: another process has meanwhile written something else to the output.
    """
    prepare_workspace()
    keep_freed()
    with ExitStack() as until_the_end:
        # Parts that are there may be another command's, of more runs or another average: they stay.
        if _is_complete(scoring, tell):
            return read_scores(scoring.output)
        until_the_end.enter_context(denormals_flushed())
        stop = until_the_end.enter_context(flagged())
        _lock(scoring, tell, until_the_end)
        check_output(scoring)
        if _is_complete(scoring, tell):
            return read_scores(scoring.output)
        scoring.parts.recover()
        work = _Work(scoring, tell, stop)
        work.carry_out()
        work.write()
        scoring.parts.tidy(_names(scoring))
    return read_scores(scoring.output)


def _lock(scoring: Scoring, tell: Listener, locks: ExitStack) -> None:
    """Keep other processes from the output and from the scoring runs; when it is over, no empty folder is left."""

    def say(message: str) -> None:
        tell(Said(message))

    scoring.parts.refuse_links()
    output, parts = scoring.output, scoring.parts.path
    otherwise = "wait for it, or stop it first; or give another --output FILE"
    locks.enter_context(
        locked_while_held(output.with_name(f".{output.name}.lock"), output, say, otherwise=otherwise)
    )
    locks.callback(scoring.parts.leave)
    otherwise = "it carries out the same scoring runs: wait for it, or stop it and go on from what it sealed"
    locks.enter_context(locked_while_held(parts / "lock", parts, say, otherwise=otherwise))


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
        scoring, runs = self.scoring, self.scoring.runs
        missing = [run for run in runs if not self._sealed(run)]
        done = len(runs) - len(missing)
        went_on = f", {done} sealed already" if done else ""
        seeds = scoring.seeds
        rows = f"{len(seeds)} seeds" if len(seeds) > 1 else row_in_words(scoring)
        many = "s" * (len(runs) > 1)
        self._say(f"{scoring.label}: {len(runs)} scoring run{many}, {rows}{went_on}")
        check_room(scoring, missing)
        for number, run in enumerate(carry_out_runs(scoring, missing, self.tell, self.stop), done + 1):
            self.tell(RunScored(run, number, len(runs)))

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
        json.dumps(experiment.plain().get("inputs", "clean"), sort_keys=True),
        scoring.dataset.drawn is not None or experiment.inputs.name != "clean",
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


def _is_complete(scoring: Scoring, tell: Listener) -> bool:
    """Whether the output is there with its record, which was checked to be of these scores; it is then told."""
    complete = is_complete(scoring)
    if complete:
        tell(Said(f"{scoring.output}: complete; nothing to do"))
    return complete


def row_in_words(scoring: Scoring) -> str:
    """Whom the one row of a scoring serves."""
    seed = scoring.seeds[0]
    noisy = bool(make_targets(scoring.experiment, seed, scoring.dataset).noisy.any())
    return f"seed {seed}" if noisy else "one row for all seeds, since labels are clean"


def _names(scoring: Scoring) -> list[tuple[int, str]]:
    return [(run.seed, run.name) for run in scoring.runs]
