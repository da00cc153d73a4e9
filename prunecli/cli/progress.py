"""Progress on standard error: a live bar, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from prunecli.cli.output import decorated, say
from prunecli.errors import shown as visible
from prunecli.progress import (
    EpochDone,
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

SECONDS_BETWEEN_LINES = 1.0
WIDE = 120
"""Columns that a terminal needs for the bar itself beside the words."""


@contextmanager
def shown(mode: str) -> Iterator[Listener]:
    """A listener that shows progress in the way asked for: auto, bar, log, json or none."""
    if mode == "auto":
        mode = "bar" if decorated(sys.stderr) else "log"
    if mode == "bar":
        with _bar() as listener:
            yield listener
    else:
        yield {"log": _log(), "json": _as_json, "none": _failures_only}[mode]


@dataclass
class Pace:
    """How fast the work goes, from the moment it was planned."""

    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    ahead: float = 0.0
    epochs: float = 0.0
    images: int = 0
    ends: dict[str, float] = field(default_factory=dict)

    def see(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, Planned):
            self.started, self.ahead = self.clock(), event.epochs
        elif isinstance(event, EpochDone):
            self.epochs += event.seen.epochs
            self.images += event.seen.images

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(1e-9, self.clock() - self.started)

    @property
    def left(self) -> str:
        """The time left, as h:mm:ss."""
        if not self.epochs:
            return "-:--:--"
        seconds = (self.clock() - self.started) / self.epochs * max(0.0, self.ahead - self.epochs)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def line_of(event: EpochDone, pace: Pace) -> str:
    """An epoch in a line."""
    seen = event.seen
    return (
        f"{event.run} seed {event.seed} level {event.level}/{event.levels - 1} epoch {seen.spent:g}: "
        f"{seen.in_words}, {pace.rate:,.0f} images/s, {pace.left} left"
    )


def _message(event: Event) -> str | None:
    """What is said of an event other than an epoch, on a terminal and off it."""
    if isinstance(event, RunStarted):
        total = event.levels * len(event.seeds)
        if event.done >= total:
            return f"{event.path}: complete; nothing to do"
        went_on = f", {event.done} sealed already" if event.done else ""
        return f"{event.path}: {len(event.seeds)} seeds, {event.levels} levels each{went_on}"
    if isinstance(event, SeedFailed):
        return f"{event.run}: {event.why}"
    if isinstance(event, LevelDone):
        return (
            f"{event.run} seed {event.seed} level {event.level}/{event.levels - 1} sealed: "
            f"{100 * event.density:.2f}% of weights remaining, {event.tested}"
        )
    if isinstance(event, RunDone):
        return f"{event.path}: {event.status}"
    return event.message if isinstance(event, Said) else None


def _log() -> Listener:
    """A line an epoch and a level; epochs that follow within a second are left out."""
    pace, last = Pace(), [float("-inf")]

    def listen(event: Event) -> None:
        pace.see(event)
        if isinstance(event, EpochDone):
            if pace.clock() - last[0] >= SECONDS_BETWEEN_LINES:
                last[0] = pace.clock()
                say(visible(line_of(event, pace)))
        elif message := _message(event):
            _say_lines(message)

    return listen


def _as_json(event: Event) -> None:
    say(json.dumps(as_json(event), allow_nan=False))


def _failures_only(event: Event) -> None:
    if isinstance(event, Said) and event.informational:
        return
    if isinstance(event, (SeedFailed, Said)) and (message := _message(event)):
        _say_lines(message)


def _say_lines(message: str) -> None:
    for line in message.split("\n"):
        say(visible(line))


@contextmanager
def _bar() -> Iterator[Listener]:
    pace, console = Pace(), Console(stderr=True)
    wide = console.width >= WIDE
    columns = (
        TextColumn("{task.description}"),
        *([BarColumn()] if wide else []),
        # A folder's name may look like markup.
        TextColumn("{task.fields[told]}", markup=False),
    )
    with Bar(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task: TaskID = bar.add_task("reading", total=None, told="")
        tested = ["not tested yet"]

        def listen(event: Event) -> None:
            pace.see(event)
            if isinstance(event, Planned):
                bar.update(task, total=event.epochs or None)
            elif isinstance(event, EpochDone):
                where = f"seed {event.seed} level {event.level}/{event.levels - 1} epoch {event.seen.spent:g}"
                errors = f"{event.seen.in_words}, {tested[0]}"
                # What matters most comes first: a narrow terminal cuts the end off.
                told = f"{pace.left} left  {errors}  {pace.rate:,.0f} images/s  {event.run}"
                bar.update(task, description=where, completed=pace.epochs, told=visible(told))
            elif isinstance(event, LevelDone):
                tested[0] = event.tested
            elif message := _message(event):
                lines = [visible(line) for line in message.split("\n")]
                bar.console.print(Text("\n".join(lines)), highlight=False)

        yield listen
