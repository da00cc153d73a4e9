"""What a user can mend, told so that they can: where, what was found, what would work."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Unicode's categories: control, format, surrogate, line separator, paragraph separator.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Letters and marks that are drawn as nothing, though they are of no such category.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")


def shown(text: str) -> str:
    """Foreign text with its control, bidi, zero-width, blank and lone surrogate characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character in _BLANK or unicodedata.category(character) in _UNSHOWN
        else character
        for character in text
    )


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
        return f"{shown(self.source)}:{self.line}:{self.column}"

    def shown(self) -> str:
        """The source's line with a caret under the spot; empty where there is no line."""
        if not self.text.strip():
            return ""
        number = str(self.line)
        # What is escaped before the spot moves the caret to the right.
        before, spot = (shown(part) for part in (self.text[: self.column - 1], self.text[self.column - 1 :]))
        carets = " " * len(before) + "^" * max(1, min(self.length, len(spot)))
        return f"  {number} | {before}{spot}\n  {' ' * len(number)} | {carets}"


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


class OutOfMemory(EnvironmentMissing):
    """Something does not fit into memory."""


class DamagedRun(PrunecliError):
    """A run that is damaged, empty, or of a newer format."""

    status = 3


class NewerFormat(DamagedRun):
    """A run, record or store that a newer prunecli made: whole, but not for this one to read or to move."""


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
    """Input or output failed: the disk is full, read-only, or gone; `passing` where it may be over soon."""

    status = 74

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


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
