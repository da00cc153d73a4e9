"""Seeds carried out together: each in a thread of its own, their trainings one; runs of such seeds side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from prunecli.determinism import held
from prunecli.errors import Diverged
from prunecli.order import Order
from prunecli.placing import Task, in_processes
from prunecli.progress import Listener
from prunecli.recipe.load import Point
from prunecli.runs import Prepared, Settings, prepare_point
from prunecli.seeds import Seed
from prunecli.stopping import Stop
from prunecli.together.meeting import Meeting

MOST = 32
"""Seeds that train together at once: more are no faster, and each holds a model and what it makes of all examples."""

ANOTHER = "what ended another seed"


def attempted(
    prepared: Sequence[Prepared], tasks: Sequence[Task], settings: Settings, tell: Listener, stop: Stop
) -> Iterator[tuple[Task, str]]:
    """Each task with why it failed, or nothing; the seeds of a run with `batched_seeds` are one piece of work."""
    pieces = [
        _Piece(prepared[number].point, number, seeds, settings) for number, seeds in _pieces(prepared, tasks)
    ]
    if settings.workers != 1 and len(pieces) > 1:
        yield from _side_by_side(pieces, Order(prepared, tasks, settings), settings, tell, stop)
        return
    for piece in pieces:
        stop.check()
        for seed, why in carried_out(prepared[piece.number], piece.seeds, settings, tell, stop):
            yield (piece.number, seed), why


def carried_out(
    run: Prepared, seeds: Sequence[int], settings: Settings, tell: Listener, stop: Stop
) -> Iterator[tuple[int, str]]:
    """Each seed of a run with why it failed, or nothing, as they end; their trainings are carried out together.

    Raises:
        Stopped: a signal asked for it; each seed has kept what it was at.
        StorageError: one seed cannot be stored; the others have kept what they were at.
    """
    for first in range(0, len(seeds), MOST):
        stop.check()
        yield from _carried_out_at_once(run, seeds[first : first + MOST], settings, tell, stop)


class _EitherStop(Stop):
    """The caller's, or what the seeds ask each other for."""

    def __init__(self, outer: Stop) -> None:
        self._outer, self._own = outer, ""
        super().__init__()

    @property
    def by(self) -> str:
        return self._outer.by or self._own

    @by.setter
    def by(self, value: str) -> None:
        self._own = value


@dataclass
class _Fault:
    """The first error that ended a seed's thread; those after it may come of it."""

    error: BaseException | None = None


def _carried_out_at_once(
    run: Prepared, seeds: Sequence[int], settings: Settings, tell: Listener, outer: Stop
) -> Iterator[tuple[int, str]]:
    stop, fault = _EitherStop(outer), _Fault()
    meeting = Meeting(len(seeds), stop)
    # Settings of torch that each seed makes for itself are to be the same before the first and after the last.
    with held(run.experiment.determinism), ThreadPoolExecutor(len(seeds)) as pool:
        futures = dict[Future[str], int]()
        try:
            for seed in seeds:
                member = Seed(run, seed, settings, tell, stop, meeting.train)
                futures[pool.submit(_attended, member, meeting, fault)] = seed
            for future in as_completed(futures):
                if future.exception() is not None:
                    assert fault.error is not None
                    raise fault.error
                with meeting.turn:
                    yield futures[future], future.result()
        finally:
            # Where all have ended nobody is asked any more; those without a thread are not to be waited for.
            stop.by = ANOTHER
            meeting.leave(len(seeds) - len(futures))


def _attended(member: Seed, meeting: Meeting, fault: _Fault) -> str:
    """Carry a seed out where the others are; gives why it failed, or nothing."""
    with meeting.attended():
        torch.set_num_threads(member.run.experiment.threads)
        try:
            with held(member.run.experiment.determinism):
                member.carry_out()
        except Diverged as error:
            return str(error)
        except BaseException as error:
            fault.error = fault.error or error
            member.stop.by = ANOTHER
            raise
    return ""


@dataclass(frozen=True)
class _Piece:
    """Seeds of a point that are one piece of work, as they go to another process."""

    point: Point
    number: int
    seeds: tuple[int, ...]
    settings: Settings

    @property
    def tasks(self) -> list[Task]:
        return [(self.number, seed) for seed in self.seeds]


def _pieces(prepared: Sequence[Prepared], tasks: Sequence[Task]) -> list[tuple[int, tuple[int, ...]]]:
    together: dict[tuple[int, int], list[int]] = {}
    for number, seed in tasks:
        alone = 0 if prepared[number].experiment.batched_seeds else seed + 1
        together.setdefault((number, alone), []).append(seed)
    return [(number, tuple(seeds)) for (number, _), seeds in together.items()]


def _side_by_side(
    pieces: Sequence[_Piece], order: Order, settings: Settings, tell: Listener, stop: Stop
) -> Iterator[tuple[Task, str]]:
    def ready(piece: _Piece) -> bool:
        return all(map(order.may_begin, piece.tasks))

    heard, workers = order.hearing(tell), settings.workers or 1
    for piece, found in in_processes(pieces, workers, _in_a_process, heard, stop, ready):
        for seed, why in found.items():
            order.ended.add((piece.number, seed))
            yield (piece.number, seed), why


def _in_a_process(piece: _Piece, tell: Listener, stop: Stop) -> Mapping[int, str]:
    run = prepare_point(piece.point, piece.settings)
    return dict(carried_out(run, piece.seeds, piece.settings, tell, stop))
