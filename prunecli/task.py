"""What a model is built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Inputs of `shape` (channels, height, width), to be told apart as one of `classes`."""

    shape: tuple[int, int, int]
    classes: int
