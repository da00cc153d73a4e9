"""Where benchmarks are added: a function from the circumstances to rows, with one decorator.

@benchmark("P4")
def masks(at: Circumstances) -> Iterator[Row]: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.rows import Row

LEFT_OUT = "a quick run leaves this out"
"""Why a row of a quick run has no figure."""


@dataclass(frozen=True)
class Circumstances:
    """How a suite is measured: its rounds, device and threads, and a folder for what it writes.

    `quick` takes tiny sizes, whose figures say nothing.
    """

    rounds: int
    device: torch.device
    threads: int
    folder: Path
    quick: bool = False

    def few(self, most: int) -> int:
        """The rounds, at most so many: for what takes long."""
        return min(self.rounds, most)


Benchmark = Callable[[Circumstances], Iterator[Row]]
BENCHMARKS: list[tuple[str, Benchmark]] = []


def benchmark(id: str) -> Callable[[Benchmark], Benchmark]:
    """Registers a benchmark under an id, P1 to P12; an id may have several."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS.append((id, function))
        return function

    return register


def ids() -> list[str]:
    """The ids that there are, in their order."""
    return sorted({id for id, _ in BENCHMARKS}, key=lambda id: int(id.removeprefix("P")))
