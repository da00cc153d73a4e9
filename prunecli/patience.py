"""Waiting for room on a full disk, what is to be written being in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from prunecli.errors import StorageError
from prunecli.stopping import Stop

T = TypeVar("T")


def patiently(work: Callable[[], T], waits: Sequence[float], stop: Stop, say: Callable[[str], None]) -> T:
    """What the work gives; where the disk is full or failing it is tried again after each of the waits, in seconds.

    Raises:
        StorageError: it cannot be stored in the end.
        Stopped: a signal asked for it while it waited.
    """
    for seconds in waits:
        try:
            return work()
        except StorageError as error:
            if not error.passing:
                raise
            say(f"{error}; trying again in {seconds:g} s")
            stop.sleep(seconds)
            stop.check()
    return work()
