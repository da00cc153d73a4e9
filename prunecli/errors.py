"""What a user can mend, told so that they can: where, what was found, what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A spot in a recipe, an argument or a file; lines and columns count from 1."""

    source: str
    line: int = 1
    column: int = 1
    text: str = ""
    """The source's line, to be shown under the message."""
    length: int = 1

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"

    def shown(self) -> str:
        """The source's line with a caret under the spot; empty where there is no line."""
        if not self.text.strip():
            return ""
        number = str(self.line)
        carets = " " * (self.column - 1) + "^" * max(1, min(self.length, len(self.text) - self.column + 1))
        return f"  {number} | {self.text}\n  {' ' * len(number)} | {carets}"


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a recipe, and where."""

    place: Place | None
    message: str

    def __str__(self) -> str:
        if self.place is None:
            return self.message
        shown = self.place.shown()
        return f"{self.place}: {self.message}" + (f"\n{shown}" if shown else "")


class PrunecliError(Exception):
    """Something a user can mend; shown without a traceback, and the process ends with `status`."""

    status = 1


class UsageError(PrunecliError):
    """A wrong argument, or a path that is not there."""

    status = 2


class RecipeError(UsageError):
    """A recipe's mistakes, all of them."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


class EnvironmentMissing(PrunecliError):
    """The machine lacks what the recipe asks for: a dataset, a device, a package."""

    status = 3


class DamagedRun(PrunecliError):
    """A run that is damaged, empty, or of a newer format."""

    status = 3


class NotComparable(PrunecliError):
    """A comparison that cannot be made: a metric is missing or NaN, or there are too few seeds."""

    status = 4


class GateFailed(PrunecliError):
    """A `--fail-if` gate failed."""

    status = 5


class SomeFailed(PrunecliError):
    """Some seeds or runs failed; the others are done and comparable."""

    status = 6


class Diverged(PrunecliError):
    """The loss is NaN or infinite."""

    status = 7


class StorageError(PrunecliError):
    """Input or output failed: the disk is full, read-only, or gone."""

    status = 74


class Stopped(PrunecliError):
    """Stopped by a signal, or the run is another process's; everything sealed is safe."""

    status = 75


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to this one, or the known names if they are few."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 24 else ""
