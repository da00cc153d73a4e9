"""P9: what lies between two trainings: pruning, rewinding, the first step; and what a level costs beside training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import ROOT, Work, interleaved, median_wall
from benchmarks.openlth_style import boundary, pruned_masks, shuffled, style
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_least, at_most, compared, figure
from benchmarks.storage import header, level_of, masks_of
from benchmarks.workloads import Bench, bench
from prunecli import masks, stages
from prunecli.lab import Lab, make_lab
from prunecli.measuring import measure, tested
from prunecli.places import Roots
from prunecli.recipe.load import load
from prunecli.state import State
from prunecli.store.folder import RunFolder
from prunecli.store.states import States

FRACTION = 0.2
EPOCHS = 160
"""What the papers train ResNet-20 for, a level."""


@benchmark("P9")
def pruning(at: Circumstances) -> Iterator[Row]:
    """Global magnitude pruning of VGG-16's 14.7 million weights, beside one sort of the same scores."""
    made = bench("vgg", at)
    state = made.lab.initial()
    names = made.lab.names
    scores = {name: state.weights[name].abs() for name in names}
    flat = torch.cat([scores[name].flatten() for name in names])
    weights = {name: state.weights[name].numpy(force=True) for name in names}
    full = {name: np.ones(weight.shape, np.float32) for name, weight in weights.items()}
    sides: dict[str, Work] = {
        "ours": lambda: masks.prune(state.masks, scores, [(names, FRACTION)]),
        "sort": lambda: torch.sort(flat),
        "OpenLTH-style": lambda: pruned_masks(weights, full, FRACTION),
    }
    taken = interleaved(sides, at.few(5), at.device)
    what = f"{made.workload.title}: pruning {flat.numel() / 1e6:.1f} M weights"
    yield compared("P9", what, "one torch.sort of the scores", taken, "ours", "sort", target=at_least(1.0))
    yield compared("P9", what, "OpenLTH-style, numpy", taken, "ours", "OpenLTH-style")


@benchmark("P9")
def turning_over(at: Circumstances) -> Iterator[Row]:
    """From one level's end to the next one's first step."""
    for name in ("lenet", "resnet"):
        made = bench(name, at)
        folder = at.folder / f"boundary-{name}"
        folder.mkdir(exist_ok=True)
        early = stages.save(made.state, made.lab, point="early")
        ended = made.train(early, 1)
        _kept_for_the_peer(made, folder)
        sides: dict[str, Work] = {
            "ours": partial(_turned_over, made, ended),
            "peer": partial(_boundary, made, folder),
        }
        taken = interleaved(sides, at.few(5), at.device)
        what = f"{made.workload.title}: level turn-over (prune, rewind, first step)"
        yield compared("P9", what, "OpenLTH-style, made anew from disk", taken, "ours", "peer")
        seconds = [one.wall for one in taken["ours"]]
        limit = at_most(0.05 if at.device.type == "cuda" else 0.5)
        yield figure("P9", what, seconds, "s", target=limit if name == "lenet" else None)


@benchmark("P9")
def beside_training(at: Circumstances) -> Iterator[Row]:
    """Pruning, evaluating, sealing and keeping the state, as a part of the level's training."""
    lab = _digits_lab(at)
    state = stages.train(lab.initial(), lab)
    numbers = itertools.count()
    rewound = stages.rewind(stages.prune(state, lab, fraction=FRACTION), lab)
    sides: dict[str, Work] = {
        "training": lambda: stages.train(rewound, lab),
        "all else": lambda: _all_else(lab, state, at.folder / f"level-{next(numbers)}"),
    }
    taken = interleaved(sides, at.rounds, at.device)
    pairs = zip(taken["all else"], taken["training"], strict=True)
    shares = [100 * rest.wall / training.wall for rest, training in pairs]
    what = "LeNet on digits: pruning, measuring, sealing, keeping, as a part of training"
    note = "a level of recipes/imp_lrr.yaml: 40 epochs; three evaluations of the test images, one of all"
    yield figure("P9", what, shares, "%", target=at_most(10), note=note)
    yield _resnet_beside_training(at)


def _digits_lab(at: Circumstances) -> Lab:
    overrides = ["epochs=1"] if at.quick else []
    experiment = load(ROOT / "recipes" / "imp_lrr.yaml", overrides).points[0].experiment
    dataset = experiment.data(Roots())
    return make_lab(experiment, 0, dataset, at.device)


def _all_else(lab: Lab, state: State, path: Path) -> None:
    before = tested(lab, state)
    pruned = stages.prune(state, lab, fraction=FRACTION)
    after = tested(lab, pruned)
    measured, _ = measure(1, pruned, lab, {"before": before, "after": after})
    RunFolder(path, header().digest).seal_level(measured, header(), "")
    States(path / ".states").save("c" * 64, 0, pruned)


def _resnet_beside_training(at: Circumstances) -> Row:
    made = bench("resnet", at)
    drawn = np.random.default_rng(5).gamma(1.0, size=made.workload.train + made.workload.test)
    losses = drawn.astype(np.float32)
    level = level_of(masks_of(made, 0.2), losses[: made.workload.train], losses[made.workload.train :])
    numbers = itertools.count()

    def rest() -> None:
        path = at.folder / f"resnet-{next(numbers)}"
        pruned = stages.prune(made.state, made.lab, fraction=FRACTION)
        RunFolder(path, header().digest).seal_level(level, header(), "")
        States(path / ".states").save("c" * 64, 0, pruned)

    sides: dict[str, Work] = {"training": made.train, "evaluation": made.evaluate, "rest": rest}
    taken = interleaved(sides, at.few(3), at.device)
    evaluated = made.workload.train + 3 * made.workload.test
    looking = median_wall(taken["evaluation"]) / len(made.evaluated) * evaluated
    training = median_wall(taken["training"]) / made.images * made.workload.train * EPOCHS
    shares = [100 * (one.wall + looking) / training for one in taken["rest"]]
    what = "ResNet-20: pruning, measuring, sealing, keeping, as a part of training"
    note = f"estimate: training of {EPOCHS} epochs and the evaluations from the rates of fewer images"
    return figure("P9", what, shares, "%", target=at_most(2), note=note)


def _turned_over(made: Bench, ended: State) -> None:
    pruned = stages.prune(ended, made.lab, fraction=FRACTION)
    made.train(stages.rewind(pruned, made.lab, what="weights", to="early"), 1)


def _kept_for_the_peer(made: Bench, folder: Path) -> None:
    """What the OpenLTH-style command has on disk at a level's end."""
    trained = style(made, workers=0)
    trained.folder = folder
    torch.save(trained.model.model.state_dict(), folder / "initial")
    trained.checkpoint()


def _boundary(made: Bench, folder: Path) -> None:
    following = boundary(made, folder, FRACTION)
    following.train(shuffled(made)[: made.workload.batch])
