"""How much of a reliability check is done: the short version in every run of the suite, the long one on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Figures = Mapping[str, int | float | str]
"""What a check counted, by the words that `RELIABILITY.md` prints; a check that finds a fault raises AssertionError."""


@dataclass(frozen=True)
class Scale:
    """The short or the long version of a check, and the seed of all that it draws."""

    name: str
    seed: int = 0

    def of(self, short: int, long: int) -> int:
        """The count for this scale."""
        return long if self.name == "long" else short


SHORT, LONG = Scale("short"), Scale("long")
