"""P7: the loss of each example, and writing it down."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bare import bare
from benchmarks.measure import Work, interleaved, median_wall
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_least, at_most, compared, figure
from benchmarks.storage import header, level_of
from benchmarks.workloads import bench, evaluating_more
from prunecli.store.folder import RunFolder

_TARGETS = {"lenet": None, "resnet": at_least(1.4), "vgg": None}

_IMAGES = {"lenet": 10_000, "resnet": 4_096, "vgg": 2_048}
"""Of the test images: enough for what prunecli does with large splits alone."""


@benchmark("P7")
def evaluating(at: Circumstances) -> Iterator[Row]:
    """Each example's loss beside a loop that takes no gradients, channel after channel, 128 images at a time."""
    for name, target in _TARGETS.items():
        made = bench(name, at) if at.quick else evaluating_more(bench(name, at), _IMAGES[name])
        loop = bare(made)
        loop.model.to(memory_format=torch.contiguous_format)
        loop.layout = torch.contiguous_format
        same = bare(made)
        ours = made.evaluate()["loss"]
        farthest = float((ours - loop.evaluate()[0]).abs().max())
        sides: dict[str, Work] = {"ours": made.evaluate, "bare": loop.evaluate, "same": same.evaluate}
        taken = interleaved(sides, at.rounds if name == "lenet" else at.few(3), at.device)
        what = f"{made.workload.title}: loss of each of {len(made.evaluated):,} images"
        note = f"farthest loss {farthest:.1g} apart"
        yield compared(
            "P7", what, "no_grad loop, contiguous", taken, "ours", "bare", target=target, note=note
        )
        against = "no_grad loop, the memory format of ours"
        yield compared("P7", what, against, taken, "ours", "same", target=at_least(0.97))


@benchmark("P7")
def recording(at: Circumstances) -> Iterator[Row]:
    """A level's losses sealed in the store, beside numpy's file of them."""
    made = bench("resnet", at)
    counts = (made.workload.train, made.workload.test)
    losses = np.random.default_rng(5).gamma(1.0, size=sum(counts)).astype(np.float32)
    numbers = itertools.count()
    level = level_of({}, losses[: counts[0]], losses[counts[0] :])

    def ours() -> None:
        folder = RunFolder(at.folder / f"recorded-{next(numbers)}", header().digest)
        folder.seal_level(level, header(), "")

    sides: dict[str, Work] = {"ours": ours, "np.save": partial(_saved, at.folder / "losses.npy", losses)}
    taken = interleaved(sides, at.rounds, at.device)
    what = f"recording {len(losses):,} losses, sealed and synced"
    note = "ours is checked, compressed, and has a record"
    yield compared("P7", what, "np.save and fsync", taken, "ours", "np.save", note=note)
    rate = len(made.evaluated) / median_wall(interleaved({"e": made.evaluate}, at.few(3), at.device)["e"])
    shares = [100 * one.wall / (len(losses) / rate) for one in taken["ours"]]
    note = "estimate: the evaluation's time from the rate at which fewer images were evaluated"
    what = "ResNet-20: recording's part of the evaluation"
    yield figure("P7", what, shares, "%", target=at_most(1), note=note)


def _saved(path: Path, losses: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, losses)
        file.flush()
        os.fsync(file.fileno())
