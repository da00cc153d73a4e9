"""Networks of many widths pruned to one budget (Chang et al., 2021, section 5)."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL

from prunecli.compare import summarize
from prunecli.engine import carry_out_all
from prunecli.errors import RecipeError, UsageError
from prunecli.models.parameters import count
from prunecli.plan import make_plan
from prunecli.procedure import foresee
from prunecli.progress import Event, Said
from prunecli.recipe.library import path_of
from prunecli.recipe.load import load, load_text
from prunecli.registry import models
from prunecli.runs import Settings, prepare
from prunecli.store.reading import read_run
from prunecli.task import Task
from prunecli.trajectories import trajectory_digest
from prunecli.widths import Widths

CIFAR = Task((3, 32, 32), 10)
BUDGET = (
    "model={mlp: {hidden: [16], width: 2}}",
    "epochs=1",
    "procedure=[{save: {point: initial}}, train, {prune_to_width: {width: 0.5}}, "
    "{rewind: {what: weights, to: initial}}, train]",
    "learning_rate=0.1",
)


def keras(width: float, task: Task = CIFAR) -> torch.nn.Module:
    made: torch.nn.Module = models["keras_resnet_20"].function(task, width=width)
    return made


def test_the_network_is_that_of_keras_but_for_its_last_layer():
    # Keras' example has 273,066 trainable parameters, 650 of them in its last layer, which here sees 2x2 places.
    assert count(keras(1)) == 273_066 - 650 + (4 * 64 + 1) * 10
    assert keras(1)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert not any(bool(one.any()) for name, one in keras(1).named_parameters() if name.endswith("bias"))
    norms = [one for one in keras(1).modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert {(one.eps, one.momentum) for one in norms} == {(1e-3, 0.01)}
    assert keras(0.0625, Task((1, 13, 9), 3))(torch.zeros(2, 1, 13, 9)).shape == (2, 3)


def test_images_that_are_too_small_for_its_pooling_are_refused():
    with pytest.raises(UsageError, match=r"these are 8x8; give images of 9x9"):
        prepare(load_text(SMALL, "small.yaml", ["model=keras_resnet_20"]), Settings())


@pytest.mark.parametrize("target", [5, 8, 10])
def test_the_papers_recipes_leave_what_the_narrow_network_has(target):
    recipe = load(path_of(f"chang2021/resnet20_cifar10_s{target}"))
    narrow = count(keras(target / 16))
    channels = []
    for point in recipe.points:
        widths = Widths(point.experiment, CIFAR)
        total = widths.prunable(widths.own)
        assert total == count(keras(widths.own))
        last = foresee(point.experiment, 352, total, widths=widths)[-1].outlook
        assert last.kept == narrow
        assert last.spent == 130
        channels.append(widths.own * 16)
    assert channels == [k for k in (1, 5, 8, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 45, 50) if k >= target]


@pytest.mark.parametrize(
    ("budget", "left"), [("parameters", 8 * 64 + 8 + 8 * 10 + 10), ("width_ratio", round((32 * 75 + 10) / 4))]
)
def test_a_budget_is_met_exactly(tmp_path, budget, left):
    given = (*BUDGET, 'prunable={include: ["*"]}', f"procedure.2.prune_to_width.budget={budget}")
    recipe = load_text(SMALL, "small.yaml", given, stem="small")
    (planned,) = make_plan(recipe, Settings(runs=tmp_path), timed=False)
    assert planned.levels[-1].outlook.kept == left
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path), lambda _event: None)
    run = read_run(finished.folder.path)
    assert run.kept[0, 1].sum() == left
    assert run.density[1] == left / run.total


def test_a_layer_that_lost_its_bias_has_not_collapsed(tmp_path):
    given = (*BUDGET[:2], BUDGET[3], "prunable={include: ['*bias', fc.weight]}")
    heard: list[Event] = []
    stages = "procedure=[{prune_to_count: {count: 10}}, train]"
    recipe = load_text(SMALL, "small.yaml", [*given, stages], stem="small")
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path), heard.append)
    run = read_run(finished.folder.path)
    assert run.kept[0, 0, run.layers.index("fc_layers.0.bias")] == 0
    assert not summarize(run).levels[0].collapsed
    assert not [one for one in heard if isinstance(one, Said)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "procedure.2.prune_to_width.width=3",
            r"it is narrower itself: its width is 2; sweep over widths from 3 on",
        ),
        ("model=torchvision:resnet18", r"model 'torchvision:resnet18' has no option 'width'"),
        ("procedure.2.prune_to_width.width=0", r"greater than 0"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        prepare(load_text(SMALL, "small.yaml", [*BUDGET, override]), Settings(runs=tmp_path))


def test_retraining_can_leave_augmentation_out(lab_of):
    flips, plain = lab_of("augmentation=[flip]"), lab_of()
    (whole,) = plain.experiment.procedure
    without = lab_of("augmentation=[flip]", "procedure=[{train: {augment: false}}]").experiment.procedure[0]
    ends = [stage(lab.initial(), lab) for stage, lab in ((whole, flips), (without, flips), (whole, plain))]
    weights = [torch.cat([one.flatten() for one in end.weights.values()]) for end in ends]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    trained = (trajectory_digest(flips.experiment, "data", 4, [stage]) for stage in (whole, without))
    assert len(set(trained)) == 2


@pytest.mark.parametrize(
    "second", ["prune_to_width: {width: 0.5}", "prune_to_count: {count: 100}", "prune_to: {density: 0.1}"]
)
def test_what_chance_left_is_not_expected_any_more(lab_of, second):
    """Nor is it known: there may be fewer weights already than are to be left."""
    stages = f"procedure=[{{prune_bernoulli: {{density: 0.5}}}}, {{{second}}}, train]"
    lab = lab_of("model={mlp: {hidden: [16], width: 2}}", stages)
    (level,) = foresee(lab.experiment, 8, 2400, widths=Widths(lab.experiment, lab.dataset.task))
    assert (level.outlook.density, level.outlook.expected) == (None, None)
