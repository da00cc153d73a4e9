"""Work side by side, each piece in a process of its own: the same bytes as one after the other.

A process gets what is to be done, such as a seed of a recipe's point, and reads the dataset itself; what it finds is
sealed by itself, and only events come back. Threads a piece are the recipe's, whatever the number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from prunecli.cores import share
from prunecli.errors import SomeFailed, Stopped
from prunecli.experiment import digest
from prunecli.memory import keep_freed
from prunecli.progress import Listener
from prunecli.recipe.load import Point
from prunecli.runs import Prepared, Settings, prepare_point
from prunecli.stopping import Stop

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

Task = tuple[int, int]
"""The number of a point, and a seed."""
Work = Callable[[Prepared, int, Settings, Listener, Stop], str]
P = TypeVar("P")
"""A piece of work."""
E = TypeVar("E")
"""What is told of it."""
R = TypeVar("R")
"""What it gives."""

LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What a terminal or a cluster sends to the whole group; the parent asks its processes to stop by SIGTERM."""
SECONDS_BETWEEN_LOOKS = 0.2
KILLED = (
    "a process was killed, perhaps for want of memory; everything sealed is safe: give the same command again, with "
    "fewer --workers"
)
SECONDS_TO_KEEP = 60.0
"""For a process whose parent is gone, to end its batch and to keep what it was at."""

_stop, _working = Stop(), Lock()
_events: SimpleQueue[Any] | None = None  # Any: whatever the work tells, and None at its end
"""In a worker process: whether it is asked to stop, and where its events go."""
_read: dict[str, Prepared] = {}
"""In a worker process: the points that it has read."""


def side_by_side(
    points: Sequence[Point],
    tasks: Sequence[Task],
    settings: Settings,
    work: Work,
    tell: Listener,
    stop: Stop,
    ready: Callable[[Task], bool] = lambda _task: True,
) -> Iterator[tuple[Task, str]]:
    """Each task with what `work` gives for it, in the order in which they end; see `in_processes`.

    Raises:
        Stopped: `stop` asked for it; each process has kept what it was at.
    """
    pieces = [_Seed(points[number], seed, settings, (number, seed)) for number, seed in tasks]
    carried_out = in_processes(
        pieces,
        settings.workers or 1,
        partial(_carry_out, work),
        tell,
        stop,
        lambda piece: ready(piece.task),
    )
    for piece, found in carried_out:
        yield piece.task, found


def in_processes(
    pieces: Sequence[P],
    workers: int,
    work: Callable[[P, Callable[[E], None], Stop], R],
    tell: Callable[[E], None],
    stop: Stop,
    ready: Callable[[P], bool] = lambda _piece: True,
) -> Iterator[tuple[P, R]]:
    """Each piece of work with what `work`, a module's function, gives for it, in the order in which they end.

    A piece begins once it is `ready`; when no other is being worked on, one has to be.

    Raises:
        Stopped: `stop` asked for it; each process has kept what it was at.
        SomeFailed: a process was killed.
    """
    # Forked processes would share torch's thread pools and CUDA's state with this one.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    events: SimpleQueue[E | None] = context.SimpleQueue()
    reader = Thread(target=_tell_all, args=(events, tell), daemon=True)
    reader.start()
    try:
        with ProcessPoolExecutor(
            min(workers, len(pieces)),
            context,
            initializer=_begin,
            initargs=(events, min(workers, len(pieces))),
        ) as pool:
            held, futures = list(pieces), dict[Future[R], P]()

            def submit() -> None:
                for piece in [piece for piece in held if ready(piece) and not stop.by]:
                    held.remove(piece)
                    futures[pool.submit(_work_on, piece, work)] = piece

            try:
                for future in _as_completed(futures, submit, stop, others):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                # The one that was killed may have held the queue, for which the others would wait for ever.
                _end_in_time(set(multiprocessing.active_children()) - others)
                stop.check()
                raise SomeFailed(KILLED) from error
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - others:
                    # What is sealed is safe: after a second Ctrl-C nobody waits for the end of a step.
                    (process.kill if isinstance(error, KeyboardInterrupt) else process.terminate)()
                raise
    except Stopped as error:
        # They ended in order: what they told comes before the error. One that was killed may hold the queue for ever.
        if not isinstance(error.__context__, BrokenProcessPool):
            events.put(None)
            reader.join()
        raise
    events.put(None)
    reader.join()


def _as_completed(
    futures: Mapping[Future[R], P], submit: Callable[[], None], stop: Stop, others: Collection[BaseProcess]
) -> Iterator[Future[R]]:
    """The futures as they end, after which more may be submitted; once somebody asks to stop, so are the processes."""
    ended, asked, begun = set[Future[R]](), False, set[BaseProcess]()
    submit()
    while waiting := set(futures) - ended:
        done, waiting = wait(waiting, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
        ended |= done
        yield from (future for future in done if not future.cancelled())
        submit()
        begun |= (alive := set(multiprocessing.active_children()) - set(others))
        if waiting and begun - alive:
            # The pool itself does not see the end of a process that it started after it began to wait.
            raise BrokenProcessPool
        if stop.by and not asked:
            asked = True
            for future in futures:
                future.cancel()
            for process in set(multiprocessing.active_children()) - set(others):
                process.terminate()
        if asked and not any(future.running() for future in futures):
            stop.check()


def _end_in_time(processes: Collection[BaseProcess]) -> None:
    """Have processes keep what they are at and end; kill those that do not."""
    for process in processes:
        process.terminate()
    left = {process.sentinel: process for process in processes}
    end = time.monotonic() + SECONDS_TO_KEEP
    while left and (seconds := end - time.monotonic()) > 0:
        for sentinel in wait_for(list(left), seconds):
            del left[sentinel]  # type: ignore[arg-type]  # those that were given
    for process in left.values():
        process.kill()


def _tell_all(events: SimpleQueue[E | None], tell: Callable[[E], None]) -> None:
    while (event := events.get()) is not None:
        tell(event)


def _begin(events: SimpleQueue[Any], processes: int) -> None:  # Any: see `_events`
    import prunecli.catalog  # noqa: F401  (registers what recipes name)

    share(processes)
    for number in LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop.ask)
    Thread(target=_end_with_parent, daemon=True).start()
    keep_freed()
    torch.set_flush_denormal(True)
    global _events  # a process pool hands its workers things in no other way
    _events = events


def _end_with_parent() -> None:
    """Keep what is being done and end, once the parent is gone: it cannot always say so itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    _stop.by = _stop.by or signal.SIGTERM.name
    _working.acquire(timeout=SECONDS_TO_KEEP)
    os._exit(Stopped.status)


def _work_on(piece: P, work: Callable[[P, Callable[[E], None], Stop], R]) -> R:
    assert _events is not None
    _stop.check()
    with _working:
        return work(piece, _events.put, _stop)


@dataclass(frozen=True)
class _Seed:
    """A seed of a point, as it goes to another process, and the task that it is."""

    point: Point
    seed: int
    settings: Settings
    task: Task


def _carry_out(work: Work, piece: _Seed, tell: Listener, stop: Stop) -> str:
    name = digest(piece.point.experiment.plain())
    if name not in _read:
        _read[name] = prepare_point(piece.point, piece.settings)
    stop.check()
    return work(_read[name], piece.seed, piece.settings, tell, stop)
