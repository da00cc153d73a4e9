"""A study in the style of OpenLTH as a command: level after level, each from and to files.

python -m benchmarks.openlth_study DATA.npz FOLDER --levels 10 --seeds 3 --noise 0 0.3
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import prunecli.catalog  # noqa: F401  (registers the network)
from benchmarks.openlth_style import Masked, Pictures, Style, pruned_masks
from benchmarks.workloads import MNIST
from prunecli.registry import models
from prunecli.task import Task

EPOCHS, BATCH, FRACTION = 2, 128, 0.2
Arrays = Mapping[str, NDArray[Any]]  # Any: as they were written


def main(words: Sequence[str] | None = None) -> None:
    """Carry the grid out, one level after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(words)
    with np.load(options.data) as read:
        arrays = {name: read[name] for name in read.files}
    for noise, seed in itertools.product(options.noise, range(options.seeds)):
        folder = options.folder / f"noise-{noise:g}" / f"seed-{seed}"
        labels = _noisy(arrays["y_train"], noise, seed)
        for level in range(options.levels):
            _level(folder, level, seed, {**arrays, "y_train": labels}, torch.device(options.device))


def _level(folder: Path, level: int, seed: int, arrays: Arrays, device: torch.device) -> None:
    """Train a level: its masks from the one before it, its weights from the initialization, all read from files."""
    own = folder / f"level-{level}"
    own.mkdir(parents=True)
    torch.manual_seed(seed)
    model = models["lenet_300_100"].function(Task((1, 28, 28), 10))
    if level == 0:
        torch.save(model.state_dict(), folder / "initial")
    model.load_state_dict(torch.load(folder / "initial", weights_only=True))
    masks = _masks(folder, level, [name for name, p in model.named_parameters() if p.dim() > 1])
    if masks:
        torch.save(masks, own / "masks")
    train, test = (
        Pictures(arrays[f"x_{part}"], arrays[f"y_{part}"], [], MNIST) for part in ("train", "test")
    )
    loop = Style(Masked(model, masks).to(device), device, train, test, BATCH, own)
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        loop.epoch(torch.randperm(len(arrays["y_train"]), generator=generator).tolist())


def _masks(folder: Path, level: int, names: list[str]) -> dict[str, torch.Tensor]:
    if level == 0:
        return {}
    before = folder / f"level-{level - 1}"
    stored = torch.load(before / "checkpoint", weights_only=True)["model"]
    weights = {name: stored[f"model.{name}"].cpu().numpy() for name in names}
    kept = {name: np.ones_like(weight) for name, weight in weights.items()}
    if level > 1:
        kept = {name: mask.numpy() for name, mask in torch.load(before / "masks", weights_only=True).items()}
    found = pruned_masks(weights, kept, FRACTION)
    return {name: torch.from_numpy(mask) for name, mask in found.items()}


def _noisy(labels: NDArray[Any], fraction: float, seed: int) -> NDArray[Any]:  # Any: as they were written
    generator = np.random.default_rng(seed)
    changed = generator.permutation(len(labels))[: round(fraction * len(labels))]
    found: NDArray[Any] = labels.copy()  # Any: as before
    found[changed] = (found[changed] + generator.integers(1, 10, len(changed))) % 10
    return found


if __name__ == "__main__":
    main()
