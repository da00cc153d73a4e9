"""What `compare` may tabulate."""

from __future__ import annotations

from typing import Literal

Tabulated = Literal[
    "levels",
    "methods",
    "parts",
    "claims",
    "stability",
    "correlations",
    "layers",
    "theory",
    "thresholds",
]
