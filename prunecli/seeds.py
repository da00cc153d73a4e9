"""One seed of a run: what is stored of it already, and the levels that are still to be carried out and sealed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from prunecli.building import TRAINING
from prunecli.determinism import held
from prunecli.errors import DamagedRun, Diverged, EnvironmentMissing, Stopped, StorageError
from prunecli.kept import Kept, misfit
from prunecli.kept_weights import KeptWeights
from prunecli.lab import Lab, Together, Watch, make_lab
from prunecli.measuring import measure
from prunecli.patience import patiently
from prunecli.procedure import Level, carry_out, carry_out_stages, safe_levels, saved_after
from prunecli.progress import EpochDone, LevelDone, Listener, Said
from prunecli.reuse import Source, agree, source, taken
from prunecli.runs import Prepared, Settings, header_of
from prunecli.selections import lacking_classes, lacking_in_words
from prunecli.state import Midway, Outcomes, State
from prunecli.stopping import Stop
from prunecli.store.folder import Chain
from prunecli.store.sealing import SAFE, record_path
from prunecli.store.slots import Slots
from prunecli.store.values import Measured

T = TypeVar("T")


def carry_out_seed(run: Prepared, seed: int, settings: Settings, tell: Listener, stop: Stop) -> str:
    """Carry a run's seed out; gives why it failed, or nothing.

    Raises:
        Stopped: a signal asked for it; what was done is kept.
        StorageError: it cannot be stored; the message names what is safe.
    """
    torch.set_num_threads(run.experiment.threads)
    # The last bits of NumPy's sums depend on its threads too, and more of them than cores stand in each other's way.
    with held(run.experiment.determinism), threadpool_limits(run.experiment.threads, user_api="blas"):
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
    together: Together | None = None
    """What trains it with other seeds, where they train together."""

    def carry_out(self) -> None:
        """Go on from what is stored, and seal each level that is not sealed yet."""
        chain = self._chain()
        sealed = len(chain.parts)
        for level in {0, sealed - 1, sealed} & set(range(len(self.run.foreseen))):
            self._kept.sweep(level)
        self._drop_states(range(sealed - 1))
        if len(chain.parts) >= self.run.limit:
            return
        experiment, dataset, device = self.run.experiment, self.run.dataset, self.settings.device
        lab = make_lab(experiment, self.seed, dataset, device, say=self._say)
        lab = replace(lab, together=self.together)
        training, classes = lab.targets.split == TRAINING, lab.dataset.task.classes
        if lacking := lacking_classes(lab.targets.used, training, classes):
            self._say(f"seed {self.seed}: {lacking_in_words(lacking)}")
        self._patiently(partial(self._weights.fill, range(sealed), lab))
        chain = self._with_levels_of_others(chain, lab)
        while len(chain.parts) < self.run.limit:
            before, chain = chain, self._go_on(chain, lab)
            if len(chain.parts) <= len(before.parts):
                where = self.run.folder.part(self.seed, len(chain.parts))
                raise StorageError(f"{where}: does not read back as it was written; the disk may be failing")

    def _with_levels_of_others(self, chain: Chain, lab: Lab) -> Chain:
        """The chain with the levels that another run of equal beginnings has sealed, sealed for this run."""
        found = self._read_from_others(chain, lab)
        if found is None:
            return chain
        name, levels, state = found
        if not all(map(self.run.folder.agrees, levels[: len(chain.parts)])):
            self._say(f"seed {self.seed}: its sealed levels are not those of {name}; it goes on by itself")
            return chain
        last, tip = levels[-1], chain.tip
        ahead = levels[len(chain.parts) :]
        self.tell(
            Said(f"seed {self.seed}: levels {ahead[0].level} to {last.level} are those of {name}", True)
        )
        with _placed(self.seed, ahead[0].level, last.spent):
            if state is not None:
                self._patiently(partial(self._kept.save, last.level, state))
            self._patiently(partial(self._weights.fill, [one.level for one in ahead], lab, name))
            for measured in ahead:
                tip = self._patiently(partial(self._seal, measured, tip))
                self.tell(self._level_done(measured))
        self._drop_states(range(last.level))
        return self._chain()

    def _read_from_others(self, chain: Chain, lab: Lab) -> tuple[str, list[Measured], State | None] | None:
        """A run's name, its levels that are this run's too, and the state after them; None where there are none."""
        damage = ""
        # A run that is under way may have gone on meanwhile, and dropped the state: then there is a later one.
        for _ in range(2):
            found = source(self.run, self.seed, self.settings, len(chain.parts))
            if found is None:
                return None
            try:
                levels = taken(self.run, self.seed, found)
                return found.folder.path.name, levels, self._state_after(levels, found, lab)
            except (DamagedRun, StorageError) as error:
                damage = str(error)
        self._say(f"seed {self.seed}: {damage}; what it has is carried out again")
        return None

    def _state_after(self, levels: Sequence[Measured], found: Source, lab: Lab) -> State | None:
        """The state to go on from after another run's levels; None where nothing comes after them.

        Raises:
            DamagedRun: it is gone, damaged, or not of these levels.
            StorageError: it cannot be read.
        """
        if not found.state:
            return None
        state = self._kept.read(found.state)
        if state is None:
            raise DamagedRun(
                f"{found.folder.path}: the state after its level {found.levels - 1} is not there any more"
            )
        if (wrong := misfit(state, lab)) or not agree(levels, state):
            raise DamagedRun(
                f"{found.folder.path}: the state after its level {found.levels - 1} has {wrong or 'other masks'}"
            )
        return state

    @property
    def _kept(self) -> Kept:
        return Kept(self.run, self.seed, self.settings, self._say)

    @property
    def _weights(self) -> KeptWeights:
        return KeptWeights(self._kept)

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
            lab = replace(lab, watch=self._watch(level.number))
            keeper = _Keeper(self, tip, lab)
            state, measured, previous = self._reached(level, state, lab, previous, midway, keeper)
            midway = None
            if level.number < len(chain.parts):
                self._check_agrees(measured)
                continue
            with _placed(self.seed, level.number, measured.spent):
                # The state comes first, so that a sealed level always has one to go on from.
                self._patiently(partial(self._kept.save, level.number, state))
                self._patiently(partial(self._weights.save, level.number, state, lab))
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
        dense = "" if measured.level else self._kept.name(0)
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
            wrong = self._wrong_spot(*slot) or misfit(slot[1], lab)
            if not wrong:
                return slot[0].level, slot[1].to(lab.device), slot[0]
            moved = ", ".join(self._slots.set_aside())
            self._say(f"{self._slots.folder}: a resume slot has {wrong}; moved to quarantine: {moved}")
        if state is not None and (wrong := misfit(state, lab)):
            self._say(self._kept.set_aside(level - 1, f"has {wrong}"))
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
            state = self._kept.load(level)
            if state is not None:
                return level + 1, state
        return 0, None

    def _reached(
        self,
        level: Level,
        state: State,
        lab: Lab,
        previous: Outcomes | None,
        midway: Midway | None,
        keeper: _Keeper,
    ) -> tuple[State, Measured, Outcomes]:
        """The level's end: level 0's is read where another recipe of the same trajectory has stored it."""
        if level.number == 0 and (shared := self._shared(level, state, lab, midway, keeper)) is not None:
            return shared, *measure(0, shared, lab, {})
        return carry_out(level, state, lab, previous, midway, keeper)

    def _shared(
        self, level: Level, state: State, lab: Lab, midway: Midway | None, keeper: _Keeper
    ) -> State | None:
        """The dense training's end as it is kept; where points that it saves are not, they alone are trained for."""
        kept = self._kept
        dense = kept.read(kept.name(0))
        if dense is None:
            return None
        whole = kept.with_points(dense)
        if whole is None:
            last = max(saved_after(level).values()) + 1
            if midway is None or midway.stage < last:
                state, *_ = carry_out_stages(level, state, lab, None, midway, keeper, last)
            whole = replace(dense, points=state.points)
        if wrong := misfit(whole, lab):
            self._say(kept.set_aside(0, f"has {wrong}"))
            return None
        return whole.to(lab.device)

    def _drop_states(self, levels: Iterable[int]) -> None:
        for level in levels:
            self._kept.drop(level)

    def _patiently(self, work: Callable[[], T]) -> T:
        return patiently(work, self.settings.patience, self.stop, self._say)

    def _say(self, message: str) -> None:
        self.tell(Said(message))

    def _watch(self, level: int) -> Watch:
        """Tells of each epoch, with the level that it belongs to."""
        name, limit = self.run.folder.path.name, self.run.limit
        return lambda seen: self.tell(EpochDone(name, self.seed, level, limit, seen))

    def _level_done(self, measured: Measured) -> LevelDone:
        error, loss = (float(measured.arrays.get(f"metrics/test_{of}", math.nan)) for of in ("error", "loss"))
        name = self.run.folder.path.name
        return LevelDone(name, self.seed, measured.level, self.run.limit, measured.density, error, loss)


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
