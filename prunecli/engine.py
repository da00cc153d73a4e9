"""How runs are carried out: find what is stored already, do the rest seed by seed, merge what is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prunecli.determinism import prepare_workspace
from prunecli.errors import DamagedRun, EnvironmentMissing, NewerFormat, Stopped
from prunecli.kept_weights import lacking_weights
from prunecli.memory import keep_freed
from prunecli.order import Order
from prunecli.patience import patiently
from prunecli.placing import Task, side_by_side
from prunecli.progress import (
    EpochDone,
    Event,
    Listener,
    Planned,
    RunDone,
    RunStarted,
    Said,
    SeedFailed,
    as_json,
)
from prunecli.recipe.load import Recipe
from prunecli.reuse import reused
from prunecli.runs import Prepared, Settings, header_of, prepare, write_run_files
from prunecli.seeds import carry_out_seed
from prunecli.stopping import Stop, flagged
from prunecli.store.folder import RunFolder
from prunecli.store.lock import locked
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import make_folder
from prunecli.together.carrying import attempted
from prunecli.training import denormals_flushed
from prunecli.workers import check_room, chosen, pieces


@dataclass(frozen=True)
class Finished:
    """What became of a run: its failed seeds with the reason, and whether its store is sealed."""

    folder: RunFolder
    failures: Mapping[int, str]
    complete: bool
    damage: DamagedRun | None = None
    """Why its levels were not put together: one is not whole any more."""


def carry_out_all(recipe: Recipe, settings: Settings, tell: Listener) -> list[Finished]:
    """Carry the recipe's runs out, `settings.workers` seeds side by side; a failed seed does not stop the others.

    Raises:
        Stopped: a signal asked for it, or another process writes a run; the same call goes on from there.
        StorageError: something cannot be stored; all that was sealed is safe.
        DamagedRun: a run's levels are not whole at its end; the other runs are carried out.
    """
    tell = _logged(tell, settings.runs)
    prepare_workspace()
    keep_freed()
    with ExitStack() as until_the_end:
        until_the_end.enter_context(denormals_flushed())
        prepared = _prepared(recipe, settings, tell)
        stop = until_the_end.enter_context(flagged())
        tell(Planned(len(prepared), sum(_epochs_ahead(run, settings) for run in prepared)))
        begun = [_begin(run, recipe, settings, tell, stop, until_the_end) for run in prepared]
        settings = _with_workers(begun, settings, tell)
        room = [(one.run, len(one.missing)) for one in begun if one.missing]
        together = [seeds for run, seeds in room if run.experiment.batched_seeds]
        if short := check_room(room, settings, max([settings.workers or 1, *together])):
            tell(Said(short))
        failures: list[dict[int, str]] = [{} for _ in begun]
        waiting = [set(one.missing) for one in begun]
        finished = {
            n: _end(one, recipe, settings, {}, tell, stop) for n, one in enumerate(begun) if not one.missing
        }
        tasks = [(number, seed) for number, one in enumerate(begun) for seed in one.missing]
        for (number, seed), why in _attempted(prepared, tasks, settings, tell, stop):
            waiting[number].discard(seed)
            if why:
                failures[number][seed] = why
                tell(SeedFailed(prepared[number].folder.path.name, seed, why))
            if not waiting[number]:
                finished[number] = _end(begun[number], recipe, settings, failures[number], tell, stop)
    if damage := next((one.damage for one in finished.values() if one.damage), None):
        raise damage
    return [finished[number] for number in range(len(begun))]


def _prepared(recipe: Recipe, settings: Settings, tell: Listener) -> list[Prepared]:
    """The runs to carry out, everything about them checked."""
    found = prepare(recipe, settings)
    _check_same_run(recipe, found)
    for said in dict.fromkeys(run.dataset.said for run in found):
        if said:
            tell(Said(said, informational=True))
    for run in found:
        if not run.limit:
            tell(Said(f"{run.point.label}: prunes before any training, so it has no dense model to train"))
    return [run for run in found if run.limit]


def _check_same_run(recipe: Recipe, prepared: Sequence[Prepared]) -> None:
    """Whether the recipe that a run's folder holds still means that run: on other data it would be another."""
    folder = Path(recipe.source).parent
    results = [override for override in recipe.overrides if not override.startswith("seeds=")]
    if Path(recipe.source).name != "recipe.yaml" or results or not (folder / "run.json").exists():
        return
    try:
        content = read_run_json(folder)
    except NewerFormat:
        raise
    except DamagedRun:
        return  # It is set aside when the run goes on.
    if any(run.folder.digest == content.get("recipe_digest") for run in prepared):
        return
    was, now = content.get("dataset_fingerprint"), prepared[0].dataset.fingerprint
    what = f"the dataset is another one (fingerprint {str(was)[:12]}, now {now[:12]})"
    if was == now:
        what = "its recipe.yaml was changed, or it is of a prunecli that stored other options"
    raise EnvironmentMissing(
        f"{folder}: cannot be gone on with: {what}; copy its recipe.yaml elsewhere to start a new run"
    )


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
            with suppress(OSError):
                _append(runs / name / "log.jsonl", line + "\n")
        tell(event)

    return listen


def _append(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Begun:
    """A locked run, the seeds that its store has, and those that are to be carried out."""

    run: Prepared
    have: frozenset[int]
    missing: tuple[int, ...]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.have | set(self.run.experiment.seeds))


def _begin(
    run: Prepared, recipe: Recipe, settings: Settings, tell: Listener, stop: Stop, locks: ExitStack
) -> _Begun:
    seeds, say = tuple(run.experiment.seeds), _saying(tell)
    folder = run.folder
    if _whole(folder) >= set(seeds):
        # What is complete is only read, and may well be read-only; what was left behind goes if it can.
        if folder.leftovers(seeds) and os.access(folder.path, os.W_OK):
            folder.refuse_links()
            # Whoever holds the lock clears it, or has just put the store together.
            with suppress(Stopped):
                locks.enter_context(locked(folder.path, say))
                _clear(folder, sorted(folder.stored_seeds()), tell)
    else:
        folder.refuse_links()
        make_folder(folder.path)
        locks.enter_context(locked(folder.path, say))
        if folder.is_open_to_others():
            say(f"{folder.path}: others may write to it: whoever does can change results and their records")
        folder.recover()
        _set_damaged_store_aside(folder, tell)
        folder.settle()
    have = folder.stored_seeds()
    begun = _Begun(run, have, tuple(seed for seed in seeds if seed not in have))
    done = sum(min(run.limit, len(folder.chain(seed).parts)) for seed in begun.missing)
    tell(
        RunStarted(folder.path.name, folder.path, seeds, run.limit, run.limit * len(have & set(seeds)) + done)
    )
    if told := lacking_weights(run, sorted(have & set(seeds))):
        tell(Said(told))
    if begun.missing:
        write = partial(write_run_files, run, recipe, settings, {}, begun.seeds)
        for message in patiently(write, settings.patience, stop, say):
            say(message)
    return begun


def _saying(tell: Listener) -> Callable[[str], None]:
    return lambda message: tell(Said(message))


def _whole(folder: RunFolder) -> frozenset[int]:
    """The seeds of a whole store; none of a damaged one."""
    try:
        return folder.stored_seeds()
    except NewerFormat:
        raise
    except DamagedRun:
        return frozenset()


def _set_damaged_store_aside(folder: RunFolder, tell: Listener) -> None:
    try:
        folder.stored_seeds()
    except NewerFormat:
        raise
    except DamagedRun as error:
        moved = folder.set_store_aside()
        tell(Said(f"{error}; moved to quarantine: {', '.join(moved)}; what it held is carried out again"))


def _clear(folder: RunFolder, seeds: Sequence[int], tell: Listener) -> None:
    folder.recover()
    folder.settle()
    moved = folder.tidy(seeds)
    if moved:
        tell(Said(f"{folder.path}: not of this run, moved to quarantine: {', '.join(moved)}"))


def _end(
    begun: _Begun,
    recipe: Recipe,
    settings: Settings,
    failures: Mapping[int, str],
    tell: Listener,
    stop: Stop,
) -> Finished:
    run, say = begun.run, _saying(tell)
    if failures:
        write = partial(write_run_files, run, recipe, settings, failures, begun.seeds)
        patiently(write, settings.patience, stop, say)
    complete = not failures and (run.limit == len(run.foreseen) or not begun.missing)
    if complete and begun.missing:
        merge = partial(run.folder.merge, begun.missing, header_of(run), len(run.foreseen))
        try:
            patiently(merge, settings.patience, stop, say)
        except DamagedRun as damage:
            say(str(damage))
            return Finished(run.folder, failures, False, damage)
        _clear(run.folder, begun.seeds, tell)
    tell(RunDone(run.folder.path.name, run.folder.path, "complete" if complete else "partial"))
    return Finished(run.folder, failures, complete)


def _with_workers(begun: Sequence[_Begun], settings: Settings, tell: Listener) -> Settings:
    """The settings with how many seeds go on side by side, chosen where nobody said."""
    ahead = [(one.run, _epochs_of(one.run, seed, settings)) for one in begun for seed in one.missing]
    found = chosen(ahead, settings)
    if settings.workers is None and (count := pieces(ahead)) > 1:
        what = "seeds" if count == len(ahead) else "pieces of work"
        said = f"{found.count} of {count} {what} side by side: {found.why} (--workers N chooses)"
        tell(Said(said, informational=True))
    return replace(settings, workers=found.count)


def _attempted(
    prepared: Sequence[Prepared], tasks: Sequence[Task], settings: Settings, tell: Listener, stop: Stop
) -> Iterator[tuple[Task, str]]:
    """Each task with why it failed, or nothing, as they end."""
    if any(prepared[number].experiment.batched_seeds for number, _ in tasks):
        yield from attempted(prepared, tasks, settings, tell, stop)
    elif settings.workers != 1 and len(tasks) > 1:
        points, order = [run.point for run in prepared], Order(prepared, tasks, settings)
        done = side_by_side(
            points, tasks, settings, carry_out_seed, order.hearing(tell), stop, order.may_begin
        )
        for task, why in done:
            order.ended.add(task)
            yield task, why
    else:
        for number, seed in tasks:
            stop.check()
            yield (number, seed), carry_out_seed(prepared[number], seed, settings, tell, stop)


def _epochs_ahead(run: Prepared, settings: Settings) -> float:
    have = _whole(run.folder)
    todo = [seed for seed in run.experiment.seeds if seed not in have]
    return sum(_epochs_of(run, seed, settings) for seed in todo)


def _epochs_of(run: Prepared, seed: int, settings: Settings) -> float:
    """The epochs that a seed still has to be trained for, as far as what is stored tells now."""
    whole = run.foreseen[run.limit - 1].outlook.spent
    return max(0.0, whole - sum(one.epochs for one in reused(run, seed, settings)))
