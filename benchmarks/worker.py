"""What a process of P8 does: it trains a workload with one thread. It imports no more than that takes."""

from __future__ import annotations

import time

import torch

from benchmarks.workloads import SUITE, Bench, made, quick

_made: dict[str, Bench] = {}
"""In a worker process: what it trains."""


def begin() -> None:
    """Have this process's arithmetic take one thread, before its first operation."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def train(name: str, tiny: bool = False) -> float:
    """Train and evaluate a workload; gives the CPU seconds."""
    if name not in _made:
        _made[name] = made(quick(name) if tiny else SUITE[name], torch.device("cpu"))
    own = _made[name]
    begun = time.process_time()
    own.evaluate(own.train())
    return time.process_time() - begun
