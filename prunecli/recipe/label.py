"""What the folder of a recipe's run is called, for people."""

from __future__ import annotations

import re

LONGEST_LABEL = 54
_RESERVED = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10)))
)
"""What Windows takes for devices, whatever follows after a dot."""


def folder_name(text: str) -> str:
    """A folder's name that every system takes, to which a run adds nine characters of its digest."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")
    label = re.sub(r"\.{2,}", ".", label)
    if label.partition(".")[0].upper() in _RESERVED:
        label = f"recipe-{label}"
    return label[:LONGEST_LABEL] or "recipe"
