"""Signals that ask a process to stop: they set a flag, and the work looks at it where it can be interrupted.

Raising from a signal handler would end the work anywhere, inside a library's callback too, where Python may
swallow it. A second Ctrl-C does raise: whoever presses it twice does not want to wait, and what is sealed is safe.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from prunecli.errors import Stopped

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""What people and schedulers send before they kill."""


class Aborted(KeyboardInterrupt):
    """A second Ctrl-C."""


class Stop:
    """Whether somebody asked this process to stop, and by which signal."""

    def __init__(self) -> None:
        self.by = ""
        self._interrupts = 0

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """The signal handler."""
        self._interrupts += number == signal.SIGINT
        self.by = self.by or signal.Signals(number).name
        if self._interrupts > 1:
            raise Aborted

    def check(self) -> None:
        """Raise Stopped if somebody asked."""
        if self.by:
            raise Stopped(
                f"stopped by {self.by}; everything sealed is safe, and the same command goes on from there"
            )

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than until somebody asks."""
        end = time.monotonic() + seconds
        while not self.by and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.2, left))


@contextmanager
def flagged(signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Stop]:
    """A flag that the signals set until the block ends; one that is ignored, as SIGHUP under nohup, stays so."""
    stop, before = Stop(), {}
    # Elsewhere than in the main thread Python allows no handlers, and signals are its caller's business.
    if threading.current_thread() is threading.main_thread():
        caught = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop.ask) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
