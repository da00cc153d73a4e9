"""One seed of a run: what is stored of it already, and the levels that are still to be carried out and sealed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from prunecli.building import TRAINING
from prunecli.determinism import held
from prunecli.errors import Diverged, EnvironmentMissing, Stopped, StorageError
from prunecli.experiment import digest
from prunecli.lab import Lab, Watch, make_lab
from prunecli.masks import Tensors
from prunecli.measuring import measure
from prunecli.patience import patiently
from prunecli.procedure import Level, carry_out, prefix_digest, safe_levels
from prunecli.progress import EpochDone, EpochSeen, LevelDone, Listener, Said
from prunecli.runs import Prepared, Settings, dense_state, header_of
from prunecli.selections import lacking_classes, lacking_in_words
from prunecli.state import Midway, Outcomes, State
from prunecli.stopping import Stop
from prunecli.store.folder import Chain
from prunecli.store.sealing import SAFE, record_path
from prunecli.store.slots import Slots
from prunecli.store.states import States
from prunecli.store.values import Measured

T = TypeVar("T")


def carry_out_seed(run: Prepared, seed: int, settings: Settings, tell: Listener, stop: Stop) -> str:
    """Carry a run's seed out; gives why it failed, or nothing.

    Raises:
        Stopped: a signal asked for it; what was done is kept.
        StorageError: it cannot be stored; the message names what is safe.
    """
    torch.set_num_threads(run.experiment.threads)
    with held(run.experiment.determinism):
        try:
            Seed(run, seed, settings, tell, stop).carry_out()
        except Diverged as error:
            return str(error)
    return ""


@dataclass(frozen=True)
class Seed:
    """A seed of a run, and whom to tell and to ask."""

    run: Prepared
    seed: int
    settings: Settings
    tell: Listener
    stop: Stop

    def carry_out(self) -> None:
        """Go on from what is stored, and seal each level that is not sealed yet."""
        chain = self._chain()
        sealed = len(chain.parts)
        for level in {0, sealed - 1, sealed} & set(range(len(self.run.foreseen))):
            self._states.sweep(self._prefix(level), self.seed)
        self._drop_states(range(sealed - 1))
        if len(chain.parts) >= self.run.limit:
            return
        lab = make_lab(
            self.run.experiment, self.seed, self.run.dataset, self.settings.device, self._watch(), self._say
        )
        training, classes = lab.targets.split == TRAINING, lab.dataset.task.classes
        if lacking := lacking_classes(lab.targets.used, training, classes):
            self._say(f"seed {self.seed}: {lacking_in_words(lacking)}")
        while len(chain.parts) < self.run.limit:
            before, chain = chain, self._go_on(chain, lab)
            if len(chain.parts) <= len(before.parts):
                where = self.run.folder.part(self.seed, len(chain.parts))
                raise StorageError(f"{where}: does not read back as it was written; the disk may be failing")

    @property
    def _states(self) -> States:
        return States(self.settings.runs / ".states")

    @property
    def _slots(self) -> Slots:
        return Slots(self.run.folder.seed_folder(self.seed), self.run.folder.digest)

    def _go_on(self, chain: Chain, lab: Lab) -> Chain:
        """Carry levels out to the last, or until those that lie behind a damaged one join the chain again."""
        start, state, midway = self._start(chain, lab)
        previous: Outcomes | None = None
        for foreseen in self.run.foreseen[start : self.run.limit]:
            level = foreseen.level
            tip = chain.tips[level.number - 1] if level.number else ""
            keeper = _Keeper(self, tip, lab)
            state, measured, previous = self._reached(level, state, lab, previous, midway, keeper)
            midway = None
            if level.number < len(chain.parts):
                self._check_agrees(measured)
                continue
            with _placed(self.seed, level.number, measured.spent):
                # The state comes first, so that a sealed level always has one to go on from.
                self._patiently(partial(self._keep_state, level, state))
                tip = self._patiently(partial(self._seal, measured, tip))
                self._drop_states([level.number - 1])
            self.tell(self._level_done(measured))
            chain = Chain((*chain.parts, self.run.folder.part(self.seed, level.number)), (*chain.tips, tip))
            following = self.run.folder.part(self.seed, level.number + 1)
            if following.exists() or record_path(following).exists():
                return self._chain()
        return chain

    def _check_agrees(self, measured: Measured) -> None:
        """Whether a level that had to be made again, its state being gone, is the one that is sealed."""
        if not self.run.folder.agrees(measured):
            raise EnvironmentMissing(
                f"seed {self.seed}, level {measured.level}: made again it has other numbers than the sealed one, which "
                f"was made under other conditions (see run.json); nothing is changed: go on with the versions and the "
                f"machine of then, or move {self.run.folder.path} away to begin anew"
            )

    def _seal(self, measured: Measured, tip: str) -> str:
        dense = "" if measured.level else self._prefix(0)
        return self.run.folder.seal_level(measured, header_of(self.run), tip, dense)

    def _chain(self) -> Chain:
        """The seed's sealed levels; a level that is damaged is moved to the quarantine, and named."""
        chain = self.run.folder.chain(self.seed)
        if chain.damage:
            moved = self.run.folder.set_level_aside(self.seed, len(chain.parts))
            where = f"moved to quarantine: {', '.join(moved)}; seed {self.seed} goes on from the level before"
            self._say(f"{chain.damage}; {where}")
        return chain

    def _start(self, chain: Chain, lab: Lab) -> tuple[int, State, Midway | None]:
        """The level to begin with, the state to begin from, and the spot in the level if it is inside."""
        slot, damage = self._slots.latest(chain.tips)
        level, state = self._latest(len(chain.parts))
        for message in damage:
            self._say(message)
        if slot is not None and slot[0].level >= level:
            wrong = self._wrong_spot(*slot) or _misfit(slot[1], lab)
            if not wrong:
                return slot[0].level, slot[1].to(lab.device), slot[0]
            moved = ", ".join(self._slots.set_aside())
            self._say(f"{self._slots.folder}: a resume slot has {wrong}; moved to quarantine: {moved}")
        if state is not None and (wrong := _misfit(state, lab)):
            self._say(self._states.set_aside(self._prefix(level - 1), self.seed, f"has {wrong}"))
            return self._start(chain, lab)
        return level, lab.initial() if state is None else state.to(lab.device), None

    def _wrong_spot(self, midway: Midway, state: State) -> str:
        levels = [foreseen.level for foreseen in self.run.foreseen]
        if midway.level >= len(levels) or midway.stage > len(levels[midway.level].stages):
            return "a spot that the procedure has not"
        if midway.steps > min(state.step, state.spent):
            return "more steps taken than its clocks say"
        return ""

    def _latest(self, sealed: int) -> tuple[int, State | None]:
        """The level after the last sealed one whose state is stored, and that state; else level 0."""
        for level in reversed(range(sealed)):
            state = self._stored(level)
            if state is not None:
                return level + 1, state
        return 0, None

    def _stored(self, level: int) -> State | None:
        state, damage = self._states.load(self._prefix(level), self.seed)
        for message in damage:
            self._say(message)
        return state

    def _reached(
        self,
        level: Level,
        state: State,
        lab: Lab,
        previous: Outcomes | None,
        midway: Midway | None,
        keeper: _Keeper,
    ) -> tuple[State, Measured, Outcomes]:
        """The level's end: level 0's is read where another recipe of the same prefix has stored it."""
        if level.number == 0 and (shared := self._stored(0)) is not None:
            if not (wrong := _misfit(shared, lab)):
                state = shared.to(lab.device)
                return state, *measure(0, state, lab, {})
            self._say(self._states.set_aside(self._prefix(0), self.seed, f"has {wrong}"))
        return carry_out(level, state, lab, previous, midway, keeper)

    def _keep_state(self, level: Level, state: State) -> None:
        """Keep the state at a level's end, to go on from and to share."""
        for message in self._states.save(self._prefix(level.number), self.seed, state):
            self._say(message)

    def _drop_states(self, levels: Iterable[int]) -> None:
        """Forget the states at these levels' ends, but for that of the dense training, which recipes share."""
        for level in levels:
            if level > 0:
                self._states.drop(self._prefix(level), self.seed)

    def _prefix(self, level: int) -> str:
        """The name of a state; past the dense training it is the run's own: others drop theirs at their own time."""
        experiment, fingerprint = self.run.experiment, self.run.dataset.fingerprint
        if level == 0:
            sealed = self.run.folder.dense_state(self.seed)
            return sealed or dense_state(experiment, fingerprint, self.settings)
        return digest(
            {"prefix": prefix_digest(experiment, fingerprint, level), "run": self.run.folder.digest}
        )

    def _patiently(self, work: Callable[[], T]) -> T:
        return patiently(work, self.settings.patience, self.stop, self._say)

    def _say(self, message: str) -> None:
        self.tell(Said(message))

    def _watch(self) -> Watch:
        """Tells of each epoch, with the level that it belongs to."""
        ends = [foreseen.outlook.spent for foreseen in self.run.foreseen]

        def watch(seen: EpochSeen) -> None:
            level = next((n for n, end in enumerate(ends) if seen.spent <= end + 1e-9), len(ends) - 1)
            self.tell(EpochDone(self.run.folder.path.name, self.seed, level, self.run.limit, seen))

        return watch

    def _level_done(self, measured: Measured) -> LevelDone:
        error = float(measured.arrays["metrics/test_error"])
        name = self.run.folder.path.name
        return LevelDone(name, self.seed, measured.level, self.run.limit, measured.density, error)


@dataclass
class _Keeper:
    """Keeps a state inside a level every so many seconds, and when a signal asks the work to stop."""

    seed: Seed
    tip: str
    lab: Lab
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = time.monotonic() + self.seed.settings.checkpoint

    def __call__(self, midway: Midway, now: Callable[[], State]) -> None:
        stopped = self.seed.stop.by
        if not stopped and time.monotonic() < self.due:
            return
        state = now()
        epoch = self.lab.epoch(state.spent)
        with _placed(self.seed.seed, midway.level, epoch):
            try:
                self.seed._slots.keep(midway, state, self.tip)
            except StorageError as error:
                if stopped or not error.passing:
                    raise
                # Training goes on: the level's end is tried again, and patiently.
                self.seed._say(
                    f"seed {self.seed.seed}, level {midway.level}, epoch {epoch:g} is not kept: {error}"
                )
        if stopped:
            raise Stopped(
                f"stopped by {stopped}: seed {self.seed.seed}, level {midway.level} is kept up to epoch {epoch:g}; "
                f"{safe_levels(midway.level)}; the same command goes on from there"
            )
        self.due = time.monotonic() + self.seed.settings.checkpoint


@contextmanager
def _placed(seed: int, level: int, epoch: float) -> Iterator[None]:
    """Name seed, level and epoch in what goes wrong with storing inside the block."""
    try:
        yield
    except StorageError as error:
        safe = f"{safe_levels(level)}, and the same command goes on from there"
        message = f"seed {seed}, level {level}, epoch {epoch:g}: {str(error).replace(SAFE, safe)}"
        raise StorageError(message, passing=error.passing) from error


def _misfit(state: State, lab: Lab) -> str:
    """What a stored state has that is not this model's: its record was honest, its maker may not have been."""
    own = lab.initial()
    held = {"weights": (state.weights, own.weights), "buffers": (state.buffers, own.buffers)}
    held["masks"] = (state.masks, own.masks)
    for name, point in state.points.items():
        held[f"weights in point '{name}'"] = (point.weights, own.weights)
        held[f"buffers in point '{name}'"] = (point.buffers, own.buffers)
    for part, (found, expected) in held.items():
        if _shapes(found) != _shapes(expected):
            return f"other {part} than the recipe's model"
    unknown = {place.partition("/")[2] for place in state.optimizer} - set(own.weights)
    return f"optimizer slots of '{min(unknown)}', which the recipe's model has not" if unknown else ""


def _shapes(tensors: Tensors) -> dict[str, object]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
