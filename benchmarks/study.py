"""P10: whole studies as commands: a small grid beside an OpenLTH-style command, and the recipe of the README."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import ROOT, command, interleaved, timed
from benchmarks.openlth_style import arrays_of
from benchmarks.registry import LEFT_OUT, Circumstances, benchmark
from benchmarks.rows import Row, at_least, at_most, compared, figure, not_there
from benchmarks.workloads import LENET, dataset_of, pixels_of

NOISE = (0.0, 0.3)
_RECIPE = """
model: lenet_300_100
data: {{arrays: {{path: {data}, classes: 10}}}}
labels: {{uniform: {{fraction: 0}}}}
optimizer: {{sgd: {{momentum: 0.9, weight_decay: 1e-4}}}}
learning_rate: 0.1
epochs: 2
batch_size: 128
seeds: {seeds}
procedure:
  - train
  - repeat: {{times: {times}, stages: [{{prune: {{fraction: 0.2}}}}, rewind, train]}}
sweep: {{labels.fraction: {noise}}}
"""


@benchmark("P10")
def mini_study(at: Circumstances) -> Iterator[Row]:
    """LeNet-300-100, ten levels, three seeds, two noise levels, two epochs each, as commands."""
    levels, seeds, train, test = 10, 3, 1000, 200
    what = f"mini-study: LeNet, {levels} levels x {seeds} seeds x {len(NOISE)} noise levels, 2 epochs"
    if at.quick:
        yield not_there("P10", what, LEFT_OUT)
        return
    data = _data(at.folder / "study.npz", train, test)
    recipe = at.folder / "study.yaml"
    grid = {"seeds": list(range(seeds)), "times": levels - 1, "noise": list(NOISE)}
    recipe.write_text(_RECIPE.format(data=data, **grid))
    runs = partial(_fresh, at.folder)
    device = ("--device", at.device.type)
    shape = ("--levels", str(levels), "--seeds", str(seeds), "--noise", *map(str, NOISE), *device)

    def ours(*more: str) -> Callable[[], str]:
        words = ("-m", "prunecli", "prune", str(recipe), "--quiet", *device, *more)
        return lambda: command(*words, "--runs", str(runs()))

    sides: dict[str, Callable[[], object]] = {
        "ours": ours(),
        "ours, two workers": ours("--workers", "2"),
        "peer": lambda: command("-m", "benchmarks.openlth_study", str(data), str(runs()), *shape),
    }
    taken = interleaved(sides, at.few(1), at.device, warm=False)
    note = f"{train:,} training images instead of 60,000; whole commands, one round; "
    for side in list(sides)[:-1]:
        how = "one process" if side == "ours" else "--workers 2"
        target = at_least(30 if at.device.type == "cuda" else 8)
        against = "OpenLTH-style command"
        yield compared("P10", what, against, taken, side, "peer", target=target, note=note + how)


@benchmark("P10")
def whole_recipe(at: Circumstances) -> Iterator[Row]:
    """The recipe of the README as a command, and a comparison of its run."""
    what = "prunecli prune recipes/imp_lrr.yaml"
    if at.quick:
        yield not_there("P10", what, LEFT_OUT, target=at_most(120))
        return
    runs = _fresh(at.folder)
    words = ("-m", "prunecli", "prune", str(ROOT / "recipes" / "imp_lrr.yaml"), "--quiet")
    taken = timed(lambda: command(*words, "--device", at.device.type, "--runs", str(runs)), at.device)
    note = f"one round, a new folder; {taken.cpu:.1f} CPU seconds"
    yield figure("P10", what, [taken.wall], "s", target=at_most(120), note=note)
    compare = ("-m", "prunecli", "compare", "--runs", str(runs))
    again = interleaved({"ours": lambda: command(*compare)}, at.few(3), at.device)["ours"]
    seconds = [one.wall for one in again]
    yield figure("P10", "prunecli compare of that run", seconds, "s", target=at_most(1.0))


def _data(path: Path, train: int, test: int) -> Path:
    dataset = dataset_of(replace(LENET, train=train, test=test), torch.device("cpu"))
    parts: dict[str, NDArray[np.generic]] = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        parts[f"x_{name}"], parts[f"y_{name}"] = arrays_of(pixels_of(split), split.labels)
    np.savez(path, **parts)  # type: ignore[arg-type]  # arrays by name
    return path


def _fresh(folder: Path) -> Path:
    """A folder for runs that no other command has."""
    return folder / f"runs-{time.monotonic_ns()}"
