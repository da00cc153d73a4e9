"""P11: what a user waits for: the help, a table of many runs, the first step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import command, interleaved, observed, timed
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_most, compared, figure, not_there
from benchmarks.training import once
from benchmarks.workloads import bench, made
from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import commit
from prunecli.store.values import Header, Measured

SEEDS, LEVELS = 3, 21
EXAMPLES, WEIGHTS = 1437, {"fc_layers.0.weight": (300, 64), "fc_layers.1.weight": (100, 300)}
"""Of a made-up run: training examples, and weights that can be pruned."""


@benchmark("P11")
def starting(at: Circumstances) -> Iterator[Row]:
    """The help, beside an import of torch."""
    sides = {
        "ours": lambda: command("-m", "prunecli", "--help"),
        "torch": lambda: command("-c", "import torch"),
    }
    taken = interleaved(sides, at.few(5), at.device, warm=not at.quick)
    yield compared("P11", "prunecli --help", "python -c 'import torch'", taken, "ours", "torch")
    seconds = [one.wall for one in taken["ours"]]
    yield figure("P11", "prunecli --help", seconds, "s", target=at_most(0.3))


@benchmark("P11")
def comparing(at: Circumstances) -> Iterator[Row]:
    """A table of many made-up runs."""
    count = 3 if at.quick else 100
    runs = at.folder / "made-up"
    for number in range(count):
        made_up_run(runs, number)
    words = ("prunecli", "compare", "--runs", str(runs))
    taken = interleaved({"ours": lambda: command("-m", *words)}, at.few(3), at.device, warm=not at.quick)
    what = f"prunecli compare of {count} runs of {SEEDS} seeds and {LEVELS} levels"
    note = f"{EXAMPLES:,} training examples and {sum(map(np.prod, WEIGHTS.values())):,} weights each"
    yield figure("P11", what, [one.wall for one in taken["ours"]], "s", note=note)
    peak, _ = observed(*words)
    yield figure("P11", f"{what}: peak memory", [peak], "MB")


@benchmark("P11")
def first_step(at: Circumstances) -> Iterator[Row]:
    """From the start of a process to the end of its first training step."""
    what = "from a process's start to the end of its first step, LeNet"
    capture = "capture of the training step"
    if at.device.type == "cpu":
        _, seconds = once("ours", "lenet", at)
        note = "the interpreter's own start left out; random data made in it"
        yield figure("P11", what, [seconds], "s", target=at_most(3), note=note)
        yield not_there("P11", capture, "needs --device cuda", target=at_most(5))
        return
    for name in ("lenet", "resnet"):
        fresh = made(bench(name, at).workload, at.device)
        first, following = (timed(partial(fresh.train, None, 2), at.device).wall for _ in range(2))
        what = f"{fresh.workload.title}: the first two steps beyond what later ones take, capture among it"
        yield figure("P11", what, [first - following], "s", target=at_most(5))


def made_up_run(runs: Path, number: int) -> RunFolder:
    """A complete run whose numbers are drawn, as the store's own functions write one."""
    digest = f"{number:064x}"
    # The label's end is the digest's beginning: all runs of small numbers would share it.
    digest = digest[::-1]
    folder = RunFolder(runs / f"run-{number:03d}-{digest[:8]}", digest)
    folder.path.mkdir(parents=True)
    levels = [
        _level(np.random.default_rng(number), seed, level) for seed in range(SEEDS) for level in range(LEVELS)
    ]
    data = codec.encode_store(levels, Header(digest, f"made up {number}", "pruned_at", {}))
    commit(folder.store, data, {"recipe_digest": digest, "seeds": list(range(SEEDS)), "tips": {}})
    recipe = {"seeds": list(range(SEEDS)), "learning_rate": number}
    folder.write_run(
        {
            "recipe_digest": digest,
            "label": f"run-{number:03d}",
            "recipe": recipe,
            "levels": LEVELS,
            "tests": 360,
        }
    )
    return folder


def _level(draw: np.random.Generator, seed: int, level: int) -> Measured:
    fixed = np.random.default_rng(seed)
    # Ranks that do not vary by level: what a level drops the next ones drop too.
    ranks = {name: fixed.permutation(np.prod(shape)).reshape(shape) for name, shape in WEIGHTS.items()}
    masks = {name: rank < round(0.8**level * rank.size) for name, rank in ranks.items()}
    density = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.size for mask in masks.values())
    arrays: dict[str, NDArray[Any]] = {  # Any: see Measured
        "examples/label": np.zeros(EXAMPLES, np.int64),
        "examples/clean_label": np.zeros(EXAMPLES, np.int64),
        "examples/noisy": np.zeros(EXAMPLES, np.uint8),
        "examples/split": np.zeros(EXAMPLES, np.uint8),
        "examples/loss": draw.random(EXAMPLES, np.float32),
        "test/loss": draw.random(360, np.float32),
        "layers/name": np.array(list(masks), dtype=object),
        "layers/total": np.array([mask.size for mask in masks.values()], dtype=np.int64),
        "layers/kept": np.array([int(mask.sum()) for mask in masks.values()], dtype=np.int64),
        **{
            f"metrics/{name}": np.asarray(draw.random())
            for name in ("test_error", "train_error", "test_loss")
        },
    }
    return Measured(seed, level, density, 40.0 * (level + 1), arrays, masks)
