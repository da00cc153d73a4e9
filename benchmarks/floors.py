"""What the machine does at most, measured in the same run: products, convolutions, copies; and what training needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bare import network
from benchmarks.measure import finished
from benchmarks.registry import Circumstances
from benchmarks.workloads import Bench

TRIES = 9


@dataclass(frozen=True)
class Floors:
    """The highest rates seen: operations a second of products and convolutions, bytes a second of copies."""

    product: float
    convolution: float
    memory: float
    dtype: str

    @property
    def rate(self) -> float:
        """Operations a second, of whichever kind is quicker."""
        return max(self.product, self.convolution)


@cache
def floors(at: Circumstances, dtype: torch.dtype = torch.float32) -> Floors:
    """What this device reaches in numbers of the type."""
    size = 256 if at.quick else 8192 if at.device.type == "cuda" else 2048
    batch, side = (8, 8) if at.quick else (128, 16)
    made = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made).to(at.device, dtype)

    left, right = drawn(size, size), drawn(size, size)
    images = drawn(batch, 128, side, side).contiguous(memory_format=torch.channels_last)
    kernels = drawn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    source = drawn(4 * size, 4 * size) if at.quick else drawn(8192, 8192)
    target = torch.empty_like(source)
    pairs = 2.0 * batch * side * side * 128 * 128 * 9
    return Floors(
        2.0 * size**3 / _least(lambda: left @ right, at),
        pairs / _least(lambda: functional.conv2d(images, kernels, padding=1), at),
        2.0 * source.nbytes / _least(lambda: target.copy_(source), at),
        str(dtype).removeprefix("torch."),
    )


@cache
def operations(bench: Bench) -> float:
    """Floating-point operations of a training step, an image: products and convolutions, forward and backward."""
    model: nn.Module = network(bench)
    count = 8
    images = torch.randn(count, *bench.workload.shape, device=bench.lab.device)
    labels = torch.zeros(count, dtype=torch.int64, device=bench.lab.device)
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]  # torch's
    return float(counter.get_total_flops()) / count


@torch.no_grad()
def _least(work: Callable[[], object], at: Circumstances) -> float:
    """Seconds of the quickest of several tries, each long enough for the clock."""
    repeats = 1 if at.quick else 3
    work()
    tries = []
    for _ in range(TRIES):
        finished(at.device)
        begun = time.perf_counter()
        for _ in range(repeats):
            work()
        finished(at.device)
        tries.append(time.perf_counter() - begun)
    return min(tries) / repeats
