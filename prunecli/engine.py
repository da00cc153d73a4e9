"""How runs are carried out: find what is stored already, do the rest, seal it level by level."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from prunecli.errors import Diverged
from prunecli.lab import Lab, Outcomes, Watch, make_lab
from prunecli.measuring import measure
from prunecli.placing import Task, side_by_side
from prunecli.procedure import Level, carry_out, prefix_digest
from prunecli.progress import (
    EpochDone,
    EpochSeen,
    Event,
    LevelDone,
    Listener,
    Planned,
    RunDone,
    RunStarted,
    Said,
    SeedFailed,
    as_json,
)
from prunecli.recipe.load import Recipe
from prunecli.runs import Prepared, Settings, header_of, prepare, write_run_files
from prunecli.state import State
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import make_folder
from prunecli.store.states import States
from prunecli.store.values import Measured
from prunecli.training import denormals_flushed


@dataclass(frozen=True)
class Finished:
    """What became of a run: its failed seeds with the reason, and whether its store is sealed."""

    folder: RunFolder
    failures: Mapping[int, str]
    complete: bool


def carry_out_all(recipe: Recipe, settings: Settings, tell: Listener) -> list[Finished]:
    """Carry the recipe's runs out, `settings.workers` seeds side by side; a failed seed does not stop the others."""
    tell = _logged(tell, settings.runs)
    with ExitStack() as locks:
        locks.enter_context(denormals_flushed())
        prepared = []
        for run in prepare(recipe, settings):
            if run.limit:
                prepared.append(run)
            else:
                tell(
                    Said(f"{run.point.label}: prunes before any training, so it has no dense model to train")
                )
        tell(Planned(len(prepared), sum(_epochs_ahead(run) for run in prepared)))
        begun = [_begin(run, recipe, settings, tell, locks) for run in prepared]
        failures: list[dict[int, str]] = [{} for _ in begun]
        waiting = [set(one.missing) for one in begun]
        finished = {
            n: _end(one, recipe, settings, {}, tell) for n, one in enumerate(begun) if not one.missing
        }
        tasks = [(number, seed) for number, one in enumerate(begun) for seed in one.missing]
        for (number, seed), why in _attempted(prepared, tasks, settings, tell):
            waiting[number].discard(seed)
            if why:
                failures[number][seed] = why
                tell(SeedFailed(prepared[number].folder.path.name, seed, why))
            if not waiting[number]:
                finished[number] = _end(begun[number], recipe, settings, failures[number], tell)
    return [finished[number] for number in range(len(begun))]


def carry_out_seed(run: Prepared, seed: int, settings: Settings, tell: Listener) -> str:
    """Carry a run's seed out; gives why it failed, or nothing."""
    torch.set_num_threads(run.experiment.threads)
    try:
        _carry_out_seed(run, seed, States(settings.runs / ".states"), settings, tell)
    except Diverged as error:
        return str(error)
    return ""


def _logged(tell: Listener, runs: Path) -> Listener:
    """The listener, with what happens to a run but for its epochs written to the run's `log.jsonl`, for people."""

    complete: set[str] = set()

    def listen(event: Event) -> None:
        name = getattr(event, "run", None)
        if isinstance(event, RunStarted) and event.done == event.levels * len(event.seeds):
            complete.add(event.run)
        if name and name not in complete and not isinstance(event, EpochDone):
            line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **as_json(event)})
            # The log is never the truth: a full disk stops the next seal, not this.
            with suppress(OSError), (runs / name / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        tell(event)

    return listen


@dataclass(frozen=True)
class _Begun:
    """A locked run, the seeds that its store has, and those that are to be carried out."""

    run: Prepared
    have: frozenset[int]
    missing: tuple[int, ...]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.have | set(self.run.experiment.seeds))


def _begin(run: Prepared, recipe: Recipe, settings: Settings, tell: Listener, locks: ExitStack) -> _Begun:
    seeds = tuple(run.experiment.seeds)
    if not run.folder.stored_seeds() >= set(seeds):
        # What is complete is only read, and may well be read-only.
        make_folder(run.folder.path)
        locks.enter_context(run.folder.locked())
    have = run.folder.stored_seeds()
    begun = _Begun(run, have, tuple(seed for seed in seeds if seed not in have))
    done = sum(min(run.limit, len(run.folder.chain(seed).parts)) for seed in begun.missing)
    levels = run.limit * len(have & set(seeds)) + done
    tell(RunStarted(run.folder.path.name, run.folder.path, seeds, run.limit, levels))
    if begun.missing:
        write_run_files(run, recipe, settings, {}, begun.seeds)
    return begun


def _end(
    begun: _Begun, recipe: Recipe, settings: Settings, failures: Mapping[int, str], tell: Listener
) -> Finished:
    run = begun.run
    if failures:
        write_run_files(run, recipe, settings, failures, begun.seeds)
    complete = not failures and (run.limit == len(run.foreseen) or not begun.missing)
    if complete and begun.missing:
        run.folder.merge(begun.missing, header_of(run))
    tell(RunDone(run.folder.path.name, run.folder.path, "complete" if complete else "partial"))
    return Finished(run.folder, failures, complete)


def _attempted(
    prepared: Sequence[Prepared], tasks: Sequence[Task], settings: Settings, tell: Listener
) -> Iterator[tuple[Task, str]]:
    """Each task with why it failed, or nothing, as they end."""
    if settings.workers > 1 and len(tasks) > 1:
        points = [run.point for run in prepared]
        yield from side_by_side(points, tasks, settings, carry_out_seed, tell)
    else:
        for number, seed in tasks:
            yield (number, seed), carry_out_seed(prepared[number], seed, settings, tell)


def _carry_out_seed(run: Prepared, seed: int, states: States, settings: Settings, tell: Listener) -> None:
    """Go on from the last state that is stored, and seal each level that is not sealed yet."""
    sealed, tip = _sealed(run, seed, tell)
    if sealed >= run.limit:
        return
    lab = make_lab(run.experiment, seed, run.dataset, settings.device, _watch(run, seed, tell))
    start, state = _latest(run, seed, sealed, states)
    state = lab.initial() if state is None else state.to(settings.device)
    previous: Outcomes | None = None
    for foreseen in run.foreseen[start : run.limit]:
        level = foreseen.level
        state, measured, previous = _reached(run, level, state, lab, previous, states)
        if level.number >= sealed:
            tip = run.folder.seal_level(measured, header_of(run), tip)
            _keep_state(run, seed, level, state, states)
            tell(_level_done(run, measured))


def _sealed(run: Prepared, seed: int, tell: Listener) -> tuple[int, str]:
    """How many levels of a seed are sealed, and their chain's tip; what is not whole is set aside."""
    chain = run.folder.chain(seed)
    moved = run.folder.set_aside(seed, len(chain.parts))
    if chain.damage:
        where = f"moved to quarantine: {', '.join(moved)}; seed {seed} goes on from the level before"
        tell(Said(f"{chain.damage}; {where}"))
    return len(chain.parts), chain.tip


def _reached(
    run: Prepared, level: Level, state: State, lab: Lab, previous: Outcomes | None, states: States
) -> tuple[State, Measured, Outcomes]:
    """The level's end: level 0's is read where another recipe of the same prefix has stored it."""
    if level.number == 0:
        shared = states.load(prefix_digest(run.experiment, run.dataset.fingerprint, 0), lab.seed)
        if shared is not None:
            state = shared.to(lab.device)
            return state, *measure(0, state, lab, {})
    return carry_out(level, state, lab, previous)


def _watch(run: Prepared, seed: int, tell: Listener) -> Watch:
    """Tells of each epoch, with the level that it belongs to."""
    ends = [foreseen.outlook.spent for foreseen in run.foreseen]

    def watch(seen: EpochSeen) -> None:
        level = next((n for n, end in enumerate(ends) if seen.spent <= end + 1e-9), len(ends) - 1)
        tell(EpochDone(run.folder.path.name, seed, level, run.limit, seen))

    return watch


def _level_done(run: Prepared, measured: Measured) -> LevelDone:
    error = float(measured.arrays["metrics/test_error"])
    return LevelDone(run.folder.path.name, measured.seed, measured.level, run.limit, measured.density, error)


def _latest(run: Prepared, seed: int, sealed: int, states: States) -> tuple[int, State | None]:
    """The level to begin with and the state to begin from: that of the last sealed level, if it is stored."""
    for level in reversed(range(sealed)):
        state = states.load(prefix_digest(run.experiment, run.dataset.fingerprint, level), seed)
        if state is not None:
            return level + 1, state
    return 0, None


def _keep_state(run: Prepared, seed: int, level: Level, state: State, states: States) -> None:
    """Keep the dense training's state, to share, and the latest, to go on from."""
    names = [
        prefix_digest(run.experiment, run.dataset.fingerprint, number)
        for number in (level.number, level.number - 1)
    ]
    states.save(names[0], seed, state)
    if level.number > 1:
        states.drop(names[1], seed)


def _epochs_ahead(run: Prepared) -> float:
    have = run.folder.stored_seeds()
    ends = [0.0, *(foreseen.outlook.spent for foreseen in run.foreseen)]
    todo = [seed for seed in run.experiment.seeds if seed not in have]
    return sum(ends[run.limit] - ends[min(run.limit, len(run.folder.chain(seed).parts))] for seed in todo)
