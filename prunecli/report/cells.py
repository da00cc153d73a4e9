"""What a table is made of."""

from __future__ import annotations

from dataclasses import dataclass

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Cells of raw text under `columns`, one string each; the notes stand below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    """The columns of words, aligned left; numbers are aligned right."""
    spare: frozenset[str] = frozenset()
    """The columns that a narrow terminal may leave out, saying so."""
