"""The recipes of Bartoldson et al. (2020) are what the paper did: its networks, its events, its sizes."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg11_bn
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.events import left_of
from prunecli.experiment import Experiment
from prunecli.models.parameters import count, prunable_names
from prunecli.procedure import foresee, unroll
from prunecli.recipe.library import names, path_of
from prunecli.recipe.load import load
from prunecli.registry import Choice
from prunecli.store.layout import MAX_PRUNED_AT
from prunecli.task import Task

ROOT = Path(__file__).parent.parent
CIFAR = Task((3, 32, 32), 10)


def vgg(**options: object) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = Choice("models", "cifar_vgg_11", options)(CIFAR)
    return made.eval()


def test_vgg_with_max_pooling_is_torchvisions_features_and_one_linear_layer():
    ours = vgg(pooling="max")
    theirs = nn.Sequential(vgg11_bn(num_classes=10).features, nn.Flatten(), nn.Linear(512, 10)).eval()
    pairs = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(pairs))
    images = torch.randn(3, *CIFAR.shape)
    assert torch.equal(ours(images), theirs(images))
    assert count(ours) == 9_231_114
    assert not torch.allclose(vgg()(images), ours(images))


def test_recipes_that_do_not_name_the_pooling_keep_their_digests():
    named = [Choice("models", "cifar_vgg_11", {"width": 1.0, "pooling": kind}) for kind in ("average", "max")]
    assert [one.plain(results_only=True) for one in named] == [
        {"cifar_vgg_11": {"width": 1.0}},
        {"cifar_vgg_11": {"width": 1.0, "pooling": "max"}},
    ]


def test_vgg_begins_as_torchvisions_does():
    torch.manual_seed(1)
    theirs, ours = vgg11_bn(num_classes=10), vgg(pooling="max")
    Choice("initializations", "vgg")(ours)
    layers = [part for part in ours.modules() if isinstance(part, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    for layer in layers:
        alike = [part for part in theirs.modules() if isinstance(part, type(layer))]
        like = next((part for part in alike if part.weight.shape == layer.weight.shape), alike[-1])
        assert layer.weight.std().item() == pytest.approx(like.weight.std().item(), rel=0.05)
        assert layer.weight.mean().item() == pytest.approx(like.weight.mean().item(), abs=0.01)
        assert not layer.bias.any()


ALL = sorted(name for name in names() if name.startswith("bartoldson2020/"))
VGG = ("layers.7.conv", "layers.8.conv", "layers.10.conv", "layers.11.conv")
RESNET = ("layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2")
OF_VGG = (VGG, (0.3, 0.3, 0.3, 0.9), (3, 4, 5, 6), (150, 150, 150, 275))
OF_RESNET = (RESNET, (0.25, 0.4, 0.25, 0.95), (7, 8, 9, 10), (150, 150, 170, 275))
EARLIER = (RESNET, (0.25, 0.4, 0.25, 0.95), (3, 4, 5, 6), (150, 150, 170, 275))
TABLE = {
    "vgg11_cifar10": (*OF_VGG, {40}, 3),
    "vgg11_cifar10_fine": (*OF_VGG, {4}, 1),
    "vgg11_cifar10_rates": (*OF_VGG, {4, 20, 40, 60, 100, 200, 300}, 21),
    "vgg11_cifar10_noise": (*OF_VGG, {40}, 6),
    "vgg11_cifar10_restore": (*OF_VGG, {40}, 4),
    "vgg11_cifar10_activation": (*OF_VGG, {40}, 4),
    "vgg11_cifar10_activation_fine": (*OF_VGG, {4}, 2),
    "resnet18_cifar10": (*OF_RESNET, {40}, 2),
    "resnet18_cifar10_fine": (*OF_RESNET, {4}, 1),
    "resnet18_cifar10_more": (RESNET, (0.25, 0.8, 0.25, 0.95), *OF_RESNET[2:], {4, 40}, 4),
    "resnet18_cifar10_activation": (*EARLIER, {40}, 4),
    "resnet18_cifar10_activation_fine": (*EARLIER, {4}, 2),
    "resnet18_cifar100": (("layer4.1.conv2",), (0.7,), (2500,), (3500,), {750}, 2),
}
"""Layers, fractions, first and last epoch from 0 on, periods, and runs."""
BLOCKS = {
    "resnet18_cifar10_augmented": (16, {0.1}, 40, {30, 60}),
    "resnet20_cifar10_augmented": (18, {0.1}, 40, {30, 60}),
    "resnet56_cifar10_augmented": (54, {0.1}, 40, {30, 60}),
    "resnet18_cifar10_augmented_amounts": (16, {0.1, 0.06}, 24, {1}),
}
"""How many convolutions, which fractions, first epoch from 0 on (the last is 100), periods."""


def experiments(name: str, *overrides: str) -> list[Experiment]:
    return [point.experiment for point in load(path_of(f"bartoldson2020/{name}"), list(overrides)).points]


def macro_of(experiment: Experiment) -> Mapping[str, Any]:  # Any: a stage's options
    return experiment.procedure[0].options


def progress_of(experiment: Experiment, pattern: str) -> list[tuple[float, Mapping[str, float]]]:
    """The epochs trained before each event of a layer, and what it takes: it stands at the events of others too."""
    epoch, found = 0.0, list[tuple[float, Mapping[str, float]]]()
    for stage in unroll(experiment.procedure):
        if stage.name == "train":
            epoch = stage.options["until"] or experiment.epochs
        part = stage.options["layers"].get(pattern) if stage.name == "prune_layers" else None
        if part and part["event"] > (found[-1][1]["event"] if found else 0):
            found.append((epoch, part))
    return found


def epochs_of(experiment: Experiment, pattern: str) -> list[float]:
    return [epoch for epoch, _ in progress_of(experiment, pattern)]


def left(units: int, fraction: float, event: int, events: int) -> int:
    """The protocol's count: F + (N - F) (n - j) / n, rounded up."""
    last = ceil((1 - fraction) * units)
    return ceil(last + (units - last) * (events - event) / events)


@pytest.mark.parametrize("name", TABLE)
def test_every_event_is_where_the_authors_configuration_has_it(name):
    layers, fractions, starts, ends, periods, runs = TABLE[name]
    found = experiments(name)
    assert len(found) == runs
    assert {macro_of(one)["every"] for one in found} == periods
    for one in found:
        every = int(macro_of(one)["every"])
        for layer, fraction, start, end in zip(layers, fractions, starts, ends, strict=True):
            # Theirs come after an epoch's training, ours count the epochs trained so far.
            assert epochs_of(one, f"{layer}.weight") == [e + 1 for e in range(start, end + 1, every)]
            assert macro_of(one)["layers"][f"{layer}.weight"]["fraction"] == fraction


@pytest.mark.parametrize("name", BLOCKS)
def test_the_blocks_convolutions_are_pruned_where_the_table_has_it(name):
    count, fractions, start, periods = BLOCKS[name]
    found = experiments(name)
    assert {macro_of(one)["every"] for one in found} == periods
    for one in found:
        ((pattern, part),) = macro_of(one)["layers"].items()
        chosen = fnmatch.filter(prunable_names(one.model(CIFAR)), pattern)
        assert len(chosen) == count
        assert all(re.search(r"\d\.conv[12]\.weight$", weight) for weight in chosen)
        assert part["fraction"] in fractions
        assert epochs_of(one, pattern) == [e + 1 for e in range(start, 101, int(macro_of(one)["every"]))]
    assert len({macro_of(one)["layers"][pattern]["fraction"] for one in found}) == len(fractions)


def test_the_last_layer_has_as_many_events_as_the_paper_labels_its_rates_with():
    counts = {
        int(macro_of(one)["every"]): len(epochs_of(one, f"{VGG[-1]}.weight"))
        for one in experiments("vgg11_cifar10_rates")
    }
    assert counts == {4: 68, 20: 14, 40: 7, 60: 5, 100: 3, 200: 2, 300: 1}


@pytest.mark.parametrize("every", [4, 20, 40, 60, 100, 200, 300])
def test_a_pruned_vgg_has_lost_the_papers_share_of_its_weights(every):
    (one, *_) = experiments("vgg11_cifar10_rates", f"sweep.procedure.0.every=[{every}]")
    sizes = dict(one.model(CIFAR).named_parameters())
    lost = 0
    for weight in macro_of(one)["layers"]:
        _, part = progress_of(one, weight)[-1]
        units, progress = len(sizes[weight]), (part["fraction"], int(part["event"]), int(part["events"]))
        assert left_of(units, *progress) == left(units, *progress)
        lost += (units - left_of(units, *progress)) * sizes[weight][0].numel()
    assert round(100 * lost / 9_231_114, 1) == 42.1


@pytest.mark.parametrize("name", ALL)
def test_no_recipe_has_more_levels_than_the_compact_masks_hold(name):
    levels = [len(foresee(one)) for one in experiments(name.partition("/")[2])]
    assert max(levels) <= MAX_PRUNED_AT
    if name.endswith("vgg11_cifar10_fine"):
        assert levels == [180]


def beside_procedure(name: str) -> list[dict[str, object]]:
    return [
        {key: value for key, value in one.plain(results_only=True).items() if key != "procedure"}
        for one in experiments(name)
    ]


@pytest.mark.parametrize("family", ["vgg11_cifar10", "resnet18_cifar10", "resnet18_cifar100", "digits_vgg11"])
def test_the_recipes_of_a_set_differ_in_their_procedure_alone(family):
    members = [name.partition("/")[2] for name in ALL]
    members = [name for name in members if name.startswith(family) and "augmented" not in name]
    members = [name for name in members if family != "resnet18_cifar10" or "100" not in name]
    assert len(members) >= 3
    settings = [setting for name in members for setting in beside_procedure(name)]
    assert all(setting == settings[0] for setting in settings)


@pytest.mark.parametrize("family", ["vgg11_cifar10", "digits_vgg11"])
def test_the_points_of_figure_2_are_among_those_of_figure_3(family):
    rates = [one.plain(results_only=True) for one in experiments(f"{family}_rates")]
    for name in (family, f"{family}_fine"):
        for one in experiments(name):
            assert rates.count(one.plain(results_only=True)) == 1


def test_the_miniature_has_the_papers_proportions():
    for name in ("", "_fine", "_rates", "_noise", "_restore"):
        for one in experiments(f"digits_vgg11{name}"):
            assert one.epochs == 65
            assert one.learning_rate.options["at"] == [30, 60]
    (coarse, *_), (paper, *_) = experiments("digits_vgg11"), experiments("vgg11_cifar10")
    counts = [[len(epochs_of(one, f"{layer}.weight")) for layer in VGG] for one in (coarse, paper)]
    assert counts == [[4, 4, 4, 7]] * 2
    fractions = [[part["fraction"] for part in macro_of(one)["layers"].values()] for one in (coarse, paper)]
    assert fractions[0] == fractions[1]


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_says_its_figure_or_setting_and_its_cost(name):
    header = path_of(name).read_text().partition("\nabout:")[0]
    assert re.search(r"Figures? |Table |The setting of |miniature", header)
    assert re.search(r"# Cost: \d+ runs? of \d+ seeds, \d+ epochs each", header)


SMALL = """
about: filters of an MLP dropped during a short training
model: {mlp: {hidden: [64, 32]}}
data: digits
optimizer: adam
learning_rate: 3e-3
epochs: 14
batch_size: 64
seeds: [0, 1]
procedure:
  - prune_during_training:
      criterion: l2_norm
      target: smallest
      every: 6
      layers:
        fc_layers.0.weight: {fraction: 0.5, start: 2, end: 8}
        fc_layers.1.weight: {fraction: 0.5, start: 3, end: 9}
  - train
observe: [instability]
sweep: {procedure.0.target: [smallest, random, largest], procedure.0.every: [1, 6]}
"""


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory) -> dict[tuple[str, int], h5py.File]:
    """The stores of a small study, by target and period."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(SMALL)
    words = ["prune", str(folder / "small.yaml"), "--runs", str(folder / "runs"), "-q", "--workers", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    stores = {}
    for path in (folder / "runs").glob("*/store.h5"):
        target, every = re.search(r"target-(\w+)-every-(\d)", path.parent.name).groups()
        stores[target, int(every)] = h5py.File(path)
    return stores


def stability_of(store: h5py.File) -> float:
    """100 times 1 minus the mean relative drop of test accuracy at events."""
    return 100 * (1 - store["metrics/instability"][:, 1:].mean())


def test_finer_pruning_is_more_stable(small_runs):
    """Claim A1: the same filters in more events."""
    for target in ("smallest", "random", "largest"):
        assert stability_of(small_runs[target, 1]) > stability_of(small_runs[target, 6])


def test_small_filters_are_missed_less_than_any_and_those_less_than_large_ones(small_runs):
    """Claim A2, at one rate."""
    smallest, anyone, largest = (
        stability_of(small_runs[target, 6]) for target in ("smallest", "random", "largest")
    )
    assert smallest >= anyone >= largest


@pytest.mark.parametrize("target", ["smallest", "random", "largest"])
@pytest.mark.parametrize("every", [1, 6])
def test_what_is_stored_of_events_agrees_with_itself(small_runs, target, every):
    store = small_runs[target, every]
    metrics = {
        name: store[f"metrics/{name}"][:, 1:]
        for name in store["metrics"]
        if store[f"metrics/{name}"].ndim == 2
    }
    before, after = 100 - metrics["test_error_before_pruning"], 100 - metrics["test_error_after_pruning"]
    assert np.allclose(metrics["instability"], (before - after) / before, rtol=1e-12)
    # Nothing is trained between the end of a level and the event that the next begins with.
    ends = store["metrics/test_error"][:, :-1]
    assert np.array_equal(metrics["test_error_before_pruning"], ends)
    assert metrics["removed"].sum(axis=1).tolist() == [32 + 16] * 2
    assert np.isnan(store["metrics/removed"][:, 0]).all()
    kept = dict(zip(store["layers/name"].asstr(), store["layers/kept"][0, -1], strict=True))
    assert kept["fc_layers.0.weight"] == 32 * 64
    assert kept["fc_layers.1.weight"] == 16 * 64


def study(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The example's script carried out, with this installation's command on its path."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/prunecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m prunecli "$@"\n')
    (folder / "bin/prunecli").chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(ROOT / "examples/bartoldson2020_digits.sh"), *words]
    given = {**os.environ, "PATH": path, "WORKERS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)


def test_a_study_of_unknown_parts_is_refused_before_it_begins(tmp_path):
    done = study(tmp_path, "out", PARTS="rates noises")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bartoldson2020_digits.sh: PARTS has 'noises'; there are rates, noise and restore\n"
    assert not (tmp_path / "out").exists()


def test_the_study_on_digits_makes_every_run_figure_table_and_claim(tmp_path):
    """The shortest study, of a tiny network that makes one step an epoch; one seed decides no claim."""
    done = study(tmp_path, "out", "model.width=0.03", "batch_size=719", PARTS="", SEEDS="0")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert {path.name for path in (out / "figures").iterdir()} == {"stability.svg", "training.svg"}
    for name in ("stability", "correlations", "claims"):
        assert "digits" in (out / f"{name}.md").read_text()
    assert set(re.findall(r"A\d", done.stdout)) == {f"A{number}" for number in range(1, 9)}
    said = json.loads((out / "claims.json").read_text())
    assert len(said["runs"]) == 6
    assert {one["answer"] for one in said["claims"]} <= {"cannot be tested", "undecided"}
    for run in said["runs"]:
        last = run["levels"][-1]["metrics"]
        assert {"best_test_error", "selected_test_error", "hessian_sum"} <= last.keys()
