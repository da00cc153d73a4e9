"""A scoring run carried out and sealed, from where it was stopped; in this process, or side by side in others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch

from prunecli.building import TRAINING
from prunecli.determinism import held
from prunecli.errors import DamagedRun, Diverged, NewerFormat, Stopped, StorageError
from prunecli.example_evidence import Look, Reached, moments_of, over, run_on_subset, scored_run
from prunecli.experiment import digest
from prunecli.lab import Lab
from prunecli.patience import patiently
from prunecli.placing import in_processes
from prunecli.progress import EpochSeen, Said
from prunecli.registry import Choice
from prunecli.runs import conditions_of, load_dataset
from prunecli.score_plan import Scoring, ScoringRun
from prunecli.scores import RUNS
from prunecli.state import Midway, State
from prunecli.stopping import Stop
from prunecli.store.guard import Array
from prunecli.store.score_parts import look
from prunecli.store.slots import Slots
from prunecli.workers import Chosen, Load, bytes_of, choose, footprint, machine_of, seconds_of


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


def carry_out_runs(
    scoring: Scoring, runs: Sequence[ScoringRun], tell: Listener, stop: Stop
) -> Iterator[ScoringRun]:
    """Carry scoring runs out, `workers` of them side by side; gives each when it is sealed.

    Raises:
        Stopped: a signal asked for it; the runs that were worked on are kept.
        Diverged: a loss is NaN or infinite.
        StorageError: something cannot be stored.
    """
    found = workers_of(scoring, runs)
    if scoring.settings.workers is None and len(runs) > 1:
        said = f"{found.count} of {len(runs)} scoring runs side by side: {found.why} (--workers N chooses)"
        tell(Said(said, informational=True))
    if found.count > 1 and len(runs) > 1:
        facts = {one.name: getattr(scoring, one.name) for one in fields(scoring) if one.name != "dataset"}
        pieces = [_Piece(scoring.parts.digest, facts, run) for run in runs]
        for piece, _ in in_processes(pieces, found.count, _carry_out, tell, stop):
            yield piece.run
        return
    for run in runs:
        if stop.by:
            raise Stopped(f"stopped by {stop.by}: {safe(scoring)}; the same command goes on from there")
        carry_out_run(scoring, run, tell, stop)
        yield run


def workers_of(scoring: Scoring, runs: Sequence[ScoringRun]) -> Chosen:
    """How many of these scoring runs are carried out side by side."""
    settings, experiment, dataset = scoring.settings, scoring.experiment, scoring.dataset
    if settings.workers is not None:
        return Chosen(settings.workers, "as asked")
    if len(runs) < 2:
        return Chosen(1, "there is one")
    one = footprint(experiment, dataset)
    steps = sum(scoring.last(run) for run in runs) * scoring.lab(runs[0]).steps_per_epoch
    seconds = seconds_of(experiment, one, steps, len(runs) * len(dataset.train), settings.device)
    each = bytes_of(experiment, one, dataset, settings.device)
    return choose(Load(len(runs), seconds, experiment.threads, each), machine_of(settings.device))


def carry_out_run(scoring: Scoring, run: ScoringRun, tell: Listener, stop: Stop) -> None:
    """Carry a scoring run out, from where it was stopped, and seal it; see `carry_out_runs`."""
    torch.set_num_threads(scoring.experiment.threads)
    lab = scoring.lab(run, lambda seen: tell(EpochTrained(run, seen)), lambda message: tell(Said(message)))
    keeper = _Keeper(scoring, run, lab, stop)
    with held(scoring.experiment.determinism):
        try:
            arrays = _made(scoring, run, lab, keeper)
        except Diverged as error:
            raise Diverged(f"seed {run.seed}, {run.told}: {error}; {safe(scoring)}") from error
    seal = partial(scoring.parts.seal, run.seed, run.name, arrays, keeper.facts)
    patiently(seal, scoring.settings.patience, stop, lab.say)
    scoring.parts.forget(run.seed, run.name)


def safe(scoring: Scoring) -> str:
    """How many scoring runs need not be carried out again."""
    done = scoring.parts.count([(run.seed, run.name) for run in scoring.runs])
    return f"{done} sealed before {'is' if done == 1 else 'are'} safe" if done else "none is sealed yet"


@dataclass(frozen=True)
class _Piece:
    """A scoring run as it goes to another process, which reads the dataset itself."""

    digest: str
    facts: Mapping[str, Any]  # Any: a scoring's, but for its dataset
    run: ScoringRun


_read: dict[str, Scoring] = {}
"""In a worker process: the scorings whose dataset it has read."""


def _carry_out(piece: _Piece, tell: Listener, stop: Stop) -> None:
    if piece.digest not in _read:
        dataset = load_dataset(piece.facts["experiment"].data, piece.facts["settings"])
        _read[piece.digest] = Scoring(dataset=dataset, **piece.facts)
    stop.check()
    carry_out_run(_read[piece.digest], piece.run, tell, stop)


def _timed(scoring: Scoring) -> list[tuple[Choice, float]]:
    """The scores that a run over all examples is for, with their epochs."""
    return [(one, scoring.epochs[one.name]) for one in scoring.asked.scores if over(one) != RUNS]


def _made(scoring: Scoring, run: ScoringRun, lab: Lab, keeper: _Keeper) -> dict[str, Array]:
    """What is stored of a scoring run."""
    rate_at, mode, begun = scoring.rate_at(lab), scoring.asked.mode, keeper.begun()
    if run.score is None:
        found = scored_run(lab, _timed(scoring), rate_at, mode, begun, keeper)
        return {name: values.numpy() for name, values in found.items()}
    correct = run_on_subset(lab, scoring.epochs[run.score.name], rate_at, mode, begun, keeper)
    trained = lab.targets.split == TRAINING
    return {"correct": correct.numpy().astype(np.uint8), "trained": trained.numpy().astype(np.uint8)}


@dataclass
class _Keeper:
    """Keeps how far a scoring run has come every so many seconds, and when a signal asks the work to stop."""

    scoring: Scoring
    run: ScoringRun
    lab: Lab
    stop: Stop
    due: float = field(init=False)
    facts: Mapping[str, Any] = field(init=False)  # Any: what JSON holds

    def __post_init__(self) -> None:
        self.due = time.monotonic() + self.scoring.settings.checkpoint
        self.facts = {"conditions": conditions_of(self.scoring.experiment, self.scoring.settings)}

    def __call__(self, looks: Mapping[int, Look], now: Callable[[], State]) -> None:
        stopped = self.stop.by
        if not stopped and time.monotonic() < self.due:
            return
        state = now()
        epoch, where = self.lab.epoch(state.step), f"seed {self.run.seed}, {self.run.told}"
        try:
            self._keep(Reached(state, looks))
        except StorageError as error:
            if stopped or not error.passing:
                raise
            # Training goes on: the scoring run's end is tried again, and patiently.
            self.lab.say(f"{where}, epoch {epoch:g} is not kept: {error}")
        if stopped:
            raise Stopped(
                f"stopped by {stopped}: {where} is kept up to epoch {epoch:g}; {safe(self.scoring)}; the same command "
                "goes on from there"
            )
        self.due = time.monotonic() + self.scoring.settings.checkpoint

    def begun(self) -> Reached | None:
        """How far the scoring run came before; None where it begins, and then nothing else is kept of it."""
        try:
            slot, damage = self._slots.latest((self._tip,))
            for message in damage:
                self.lab.say(message)
            found = None if slot is None else self._reached(slot[1])
        except NewerFormat:
            raise
        except DamagedRun as error:
            self.lab.say(f"{error}; seed {self.run.seed}, {self.run.told} begins anew")
            found = None
        self.scoring.parts.forget(self.run.seed, self.run.name, found.state.step if found else -1)
        return found

    @property
    def _slots(self) -> Slots:
        return Slots(self.scoring.parts.folder(self.run.seed, self.run.name), self.scoring.parts.digest)

    @property
    def _tip(self) -> str:
        """What a slot follows: only under equal conditions are the bytes those of an undisturbed command."""
        return digest(self.facts)

    @property
    def _moments(self) -> dict[int, list[Choice]]:
        return moments_of(self.lab, _timed(self.scoring)) if self.run.score is None else {}

    def _keep(self, reached: Reached) -> None:
        """The looks come first, so that a slot always has those before it."""
        parts = self.scoring.parts
        for step, one in reached.looks.items():
            if parts.count([(self.run.seed, look(self.run.name, step))]):
                continue
            arrays = {f"of {name}": values.numpy() for name, values in one.scores.items()}
            arrays |= {
                "correct": one.correct.numpy().astype(np.uint8),
                "probability": one.probability.numpy(),
            }
            parts.seal(self.run.seed, look(self.run.name, step), arrays, self.facts)
        # Its level is 1, since what begins a chain follows nothing, and this follows the conditions.
        self._slots.keep(Midway(1), reached.state, self._tip)

    def _reached(self, state: State) -> Reached:
        """The state with the looks before it, both found to be of this scoring run.

        Raises:
            DamagedRun: they are not, or a look is missing or damaged.
        """
        _check_fits(state, self.lab, str(self._slots.folder), self.lab.steps(self.scoring.last(self.run)))
        parts, examples = self.scoring.parts, len(self.lab.dataset.train)
        looks = {}
        for step, scores in self._moments.items():
            name = look(self.run.name, step)
            if step > state.step or (step == state.step and not parts.count([(self.run.seed, name)])):
                continue
            names = ["correct", "probability", *(f"of {score.name}" for score in scores)]
            (arrays,) = parts.read(self.run.seed, [name], names, examples)
            correct, probability, *values = (torch.from_numpy(arrays[one]) for one in names)
            found = {score.name: one.double() for score, one in zip(scores, values, strict=True)}
            looks[step] = Look(found, correct.bool(), probability.double())
        return Reached(state.to(self.lab.device), looks)


def _check_fits(state: State, lab: Lab, where: str, last: int) -> None:
    """Whether a kept state is one of this model: its record was honest, its maker may not have been."""
    own = lab.initial()
    pairs = [(state.weights, own.weights), (state.buffers, own.buffers), (state.masks, own.masks)]
    shapes = [
        [{name: (one.shape, one.dtype) for name, one in side.items()} for side in pair] for pair in pairs
    ]
    slots = {place.partition("/")[2] for place in state.optimizer}
    if any(kept != made for kept, made in shapes) or not slots <= set(own.weights):
        raise DamagedRun(f"{where}: a resume slot is of another model than the recipe's")
    if state.step != state.spent or state.step > last:
        raise DamagedRun(f"{where}: a resume slot has other clocks than the scoring run")
