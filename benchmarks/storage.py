"""P12: a level's masks and losses as the store seals them, beside gzipped bools and numbers."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Work, interleaved
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_least, at_most, compared, figure
from benchmarks.workloads import Bench, bench, pruned
from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.values import Header, Measured

DENSITIES = (0.5, 0.2, 0.05)
Bools = Mapping[str, NDArray[np.bool_]]


@benchmark("P12")
def storage(at: Circumstances) -> Iterator[Row]:
    """VGG-16's masks, and a level of them with 60,000 losses."""
    made = bench("vgg", at)
    for density in DENSITIES[-1:] if at.quick else DENSITIES:
        kept = masks_of(made, density)
        yield from _masks_alone(kept, density, at)
    yield from _level(masks_of(made, 0.2), made, at)


def _masks_alone(kept: Bools, density: float, at: Circumstances) -> Iterator[Row]:
    level = level_of(kept, np.zeros(0, np.float32), np.zeros(0, np.float32))
    sides: dict[str, Work] = {
        "ours": lambda: codec.encode_level(level, header()),
        "gzip": lambda: gzipped(kept, None),
    }
    taken = interleaved(sides, at.few(3), at.device, warm=False)
    what = f"VGG-16's masks at density {density:g}"
    fast = at_least(100) if density >= 0.2 else None
    yield compared("P12", f"{what}: time", "HDF5 bools, gzip 4", taken, "ours", "gzip", target=fast)
    ratio = len(codec.encode_level(level, header())) / len(gzipped(kept, None))
    small = at_most(0.85) if density >= 0.2 else None
    yield figure("P12", f"{what}: bytes, as a part of gzipped bools'", [ratio], "times", target=small)


def _level(kept: Bools, made: Bench, at: Circumstances) -> Iterator[Row]:
    drawn = np.random.default_rng(5).gamma(1.0, size=made.workload.train + made.workload.test)
    losses = drawn.astype(np.float32)
    numbers = itertools.count()
    level = level_of(kept, losses[: made.workload.train], losses[made.workload.train :])
    sealed: list[Path] = []

    def ours() -> None:
        folder = RunFolder(at.folder / f"sealed-{next(numbers)}", header().digest)
        folder.seal_level(level, header(), "")
        sealed.append(folder.part(level.seed, level.level))

    peer = at.folder / "gzipped.h5"
    sides: dict[str, Work] = {"ours": ours, "gzip": partial(_written, peer, kept, losses)}
    taken = interleaved(sides, at.few(3), at.device)
    what = f"sealing a level: VGG-16's masks, {len(losses):,} losses"
    note = "ours is checked, synced, and has a record; the peer is synced"
    yield compared("P12", what, "HDF5, gzip 4 throughout", taken, "ours", "gzip", note=note)
    ratio = sealed[-1].stat().st_size / peer.stat().st_size
    yield figure("P12", f"{what}: bytes, as a part of the peer's", [ratio], "times")


def masks_of(made: Bench, density: float) -> Bools:
    """The workload's masks at a density, as the store takes them."""
    kept = pruned(made.lab, density).masks
    return {name: mask.numpy(force=True) for name, mask in kept.items()}


def level_of(kept: Bools, train: NDArray[np.float32], test: NDArray[np.float32]) -> Measured:
    """A level of a run with these losses and masks."""
    arrays = {"examples/loss": train, "test/loss": test}
    return Measured(0, 0, 0.2, 160.0, {name: array for name, array in arrays.items() if array.size}, kept)


def header() -> Header:
    """What a made-up store says of itself."""
    return Header("b" * 64, "made up", "pruned_at", {})


def gzipped(kept: Bools, losses: NDArray[np.float32] | None) -> bytes:
    """An HDF5 file as one writes it with h5py's usual compression."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, mask in kept.items():
            file.create_dataset(name, data=mask, compression="gzip", compression_opts=4)
        if losses is not None:
            file.create_dataset("losses", data=losses, compression="gzip", compression_opts=4)
    return buffer.getvalue()


def _written(path: Path, kept: Bools, losses: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        file.write(gzipped(kept, losses))
        file.flush()
        os.fsync(file.fileno())
