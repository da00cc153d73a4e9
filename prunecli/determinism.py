"""How far two runs of the same recipe are the same: `exact`, `seeded` or `fast`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Determinism = Literal["exact", "seeded", "fast"]

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_CHOICES: dict[Determinism, tuple[bool, bool, bool, bool, bool]] = {
    "exact": (True, False, True, False, False),
    "seeded": (False, False, False, True, False),
    "fast": (False, True, False, True, True),
}
"""Deterministic algorithms; cuDNN's trying out and its deterministic kernels; TF32 of convolutions and of products."""


@contextmanager
def held(determinism: Determinism) -> Iterator[None]:
    """Set what torch is asked for until the block ends.

    `exact`: equal bytes on the same type of machine with the same versions and threads, interrupted or not; an
    operation that has no deterministic kernel is an error, and TF32 is off. `seeded`: everything is drawn from
    the seed, and torch's own choices hold; on a CPU that gives equal bytes too, on a GPU some kernels add in an
    order that varies. `fast`: as `seeded`, but cuDNN tries kernels out and TF32 is on: no equality is promised.
    """
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    try:
        _set(*_CHOICES[determinism])
        yield
    finally:
        _set(*before)


def prepare_workspace() -> None:
    """Have cuBLAS add in one order, which it learns before its first call; what the user has set stays."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


def _set(algorithms: bool, benchmark: bool, deterministic: bool, convolutions: bool, products: bool) -> None:
    torch.use_deterministic_algorithms(algorithms)
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = benchmark, deterministic, convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
