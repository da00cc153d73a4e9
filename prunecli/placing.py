"""Seeds side by side, each in a process of its own: the same bytes as one after the other.

A process gets a point of the recipe and reads the dataset itself; what it finds is sealed by itself, and only
events come back. Threads a seed are the recipe's, whatever the number of processes.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import TYPE_CHECKING

import torch

from prunecli.errors import SomeFailed
from prunecli.experiment import digest
from prunecli.progress import Event, Listener
from prunecli.recipe.load import Point
from prunecli.runs import Prepared, Settings, prepare_point

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

Task = tuple[int, int]
"""The number of a point, and a seed."""
Work = Callable[[Prepared, int, Settings, Listener], str]

LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What a terminal or a cluster sends to the whole group; the parent ends its processes by SIGTERM."""

_events: SimpleQueue[Event | None] | None = None
"""In a worker process: where its events go."""
_read: dict[str, Prepared] = {}
"""In a worker process: the points that it has read."""


def side_by_side(
    points: Sequence[Point], tasks: Sequence[Task], settings: Settings, work: Work, tell: Listener
) -> Iterator[tuple[Task, str]]:
    """Each task with what `work` gives for it, in the order in which they end."""
    # Forked processes would share torch's thread pools and CUDA's state with this one.
    context = multiprocessing.get_context("spawn")
    events: SimpleQueue[Event | None] = context.SimpleQueue()
    reader = Thread(target=_tell_all, args=(events, tell), daemon=True)
    reader.start()
    workers = min(settings.workers, len(tasks))
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(events,)) as pool:
        futures: dict[Future[str], Task] = {}
        for number, seed in tasks:
            futures[pool.submit(_carry_out, points[number], seed, settings, work)] = (number, seed)
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise SomeFailed(
                "a process was killed, perhaps for want of memory; everything sealed is safe: give the same command "
                "again, with fewer --workers"
            ) from error
        except BaseException:
            # What is sealed is safe, so nobody waits for the end of a level.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    events.put(None)
    reader.join()


def _tell_all(events: SimpleQueue[Event | None], tell: Listener) -> None:
    while (event := events.get()) is not None:
        tell(event)


def _begin(events: SimpleQueue[Event | None]) -> None:
    import prunecli.catalog  # noqa: F401  (registers what recipes name)

    for number in LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    torch.set_flush_denormal(True)
    global _events  # a process pool hands its workers things in no other way
    _events = events


def _carry_out(point: Point, seed: int, settings: Settings, work: Work) -> str:
    assert _events is not None
    name = digest(point.experiment.plain())
    if name not in _read:
        _read[name] = prepare_point(point, settings)
    return work(_read[name], seed, settings, _events.put)
