"""Pruning during training: bookkeeping, targets, what a dropped filter comes to, and effects that pass."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, same, small
from torch import nn

from prunecli.engine import carry_out_all
from prunecli.errors import RecipeError, UsageError
from prunecli.filter_criteria import expected_activation, l1_norm, l2_norm, signed_expected_activation
from prunecli.filters import check_droppable, filters_of
from prunecli.injection import Injection
from prunecli.kept import misfit
from prunecli.lab import make_lab
from prunecli.layer_parts import left_of
from prunecli.measuring import measure
from prunecli.models.parameters import prunable_names
from prunecli.observers import epochs
from prunecli.procedure import carry_out, foresee, levels, unroll
from prunecli.progress import EpochDone
from prunecli.recipe.load import load_text
from prunecli.registry import Choice, criteria, models
from prunecli.runs import Settings, prepare
from prunecli.state import State
from prunecli.store.states import decode, encode
from prunecli.task import Task
from prunecli.underway import CURVE

VGG = (
    "model={cifar_vgg_11: {width: 0.125}}",
    "examples={first: {count: 400}}",
    "optimizer=adam",
    "learning_rate=0.01",
)
RESNET = ("model={cifar_resnet_20: {width: 0.25}}", *VGG[1:])
LAST = "layers.11.conv.weight"
OF_FILTERS = [entry.name for entry in criteria.entries() if entry.traits.get("filters")]


def pruning(layers: dict[str, float], lab, criterion: str = "l2_norm", **options: object) -> Choice:
    """The stage that drops a fraction of some layers."""
    whole = {
        "target": "smallest",
        "schedule": "linear",
        "effect": "remove",
        "batches": 1,
        "which": "new",
        **options,
    }
    parts = {name: {"fraction": fraction} for name, fraction in layers.items()}
    return Choice(
        "stages", "prune_layers", {"layers": parts, "criterion": Choice("criteria", criterion), **whole}
    )


def dropping(*overrides: str) -> tuple[str, ...]:
    """Overrides that have a lab look for filters."""
    return (
        *overrides,
        "procedure=[{prune_layers: {layers: {'*': {fraction: 0.5}}, criterion: l2_norm}}, train]",
    )


def events_of(every: float, layers: str, epochs: int = 325) -> list[dict[str, float]]:
    """The `event` of each layer at each event of the unrolled procedure."""
    stage = f"{{prune_during_training: {{criterion: l2_norm, every: {every}, layers: {layers}}}}}"
    experiment = small(f"procedure=[{stage}, train]", f"epochs={epochs}", "learning_rate=0.1")
    found = [one for one in unroll(experiment.procedure) if one.name == "prune_layers"]
    return [{name: part["event"] for name, part in one.options["layers"].items()} for one in found]


@pytest.mark.parametrize(
    ("every", "count"), [(4, 68), (20, 14), (40, 7), (60, 5), (100, 3), (200, 2), (300, 1)]
)
def test_the_papers_rates_have_the_papers_events(every, count):
    """Bartoldson et al. (2020), their configurations: the layer with fraction .9 is pruned from epoch 6 to 275."""
    assert len(events_of(every, "{conv: {fraction: 0.9, start: 7, end: 276}}")) == count
    left = [left_of(512, 0.9, event, count) for event in range(count + 1)]
    assert (left[0], left[-1]) == (512, 52)
    steps = [before - after for before, after in itertools.pairwise(left)]
    assert sum(steps) == 460
    assert max(steps) - min(steps) <= 1


def test_layers_of_one_epoch_form_one_event():
    layers = "{a: {fraction: 0.3, start: 4, end: 151}, b: {fraction: 0.9, start: 7, end: 276}}"
    found = events_of(40, layers)
    assert len(found) == 11
    together = events_of(3, layers)
    epochs = {*range(4, 152, 3), *range(7, 277, 3)}
    assert len(together) == len(epochs)
    assert together[-1] == {"a": 50, "b": 90}


@pytest.mark.parametrize(
    ("units", "fraction", "left"),
    [(512, 0.9, 52), (10, 0.7, 3), (16, 0.1, 15), (512, 0.95, 26), (3, 0.999, 1)],
)
def test_what_is_left_at_last_is_exact(units, fraction, left):
    for course in ("linear", "cubic"):
        assert left_of(units, fraction, 5, 5, course) == left
        assert left_of(units, fraction, 0, 5, course) == units


def test_a_cubic_course_drops_most_at_first():
    cubic = [left_of(100, 0.9, event, 3, "cubic") for event in range(4)]
    assert cubic == [100, 10 + math.ceil(90 * 8 / 27), 10 + math.ceil(90 / 27), 10]


def test_levels_begin_at_events_and_density_is_foreseen(lab_of):
    stage = f"{{prune_during_training: {{criterion: l2_norm, every: 1, start: 1, end: 3, layers: {{{LAST}: {{fraction: 0.9}}}}}}}}"
    lab = lab_of(*VGG, f"procedure=[{stage}, train]", "epochs=4")
    assert [[one.name for one in level.stages] for level in levels(lab.experiment.procedure)] == [
        ["train"],
        ["prune_layers", "train"],
        ["prune_layers", "train"],
        ["prune_layers", "train"],
    ]
    shapes = {name: tuple(lab.model.get_parameter(name).shape) for name in lab.names}
    total = lab.initial().masks.total
    foreseen = [one.outlook.density for one in foresee(lab.experiment, lab.steps_per_epoch, total, 0, shapes)]
    state, found = lab.initial(), []
    for one in unroll(lab.experiment.procedure):
        state = one(state, lab)
        if one.name == "prune_layers":
            found.append(state.masks.density)
            assert float(state.observed["metrics/removed"]) > 0
            state = replace(state, observed={})
    assert foreseen == [1.0, *found]


@pytest.mark.parametrize("target", ["smallest", "largest", "random"])
def test_targets_are_exact_in_number_and_by_score(lab_of, target):
    lab = lab_of(*dropping(*VGG))
    state = lab.initial()
    pruned = pruning({LAST: 0.7}, lab, target=target)(state, lab)
    norms = state.weights[LAST].flatten(1).norm(dim=1)
    gone = ~pruned.masks[LAST].flatten(1).any(1)
    count = len(norms) - left_of(len(norms), 0.7, 1, 1)
    assert int(gone.sum()) == count
    assert float(pruned.observed["metrics/removed"]) == count
    order = norms.argsort(stable=True)
    if target == "smallest":
        assert set(gone.nonzero().flatten().tolist()) == set(order[:count].tolist())
    elif target == "largest":
        assert set(gone.nonzero().flatten().tolist()) == set(order[-count:].tolist())
    else:
        other = lab_of(*dropping(*VGG), seed=1)
        again = pruning({LAST: 0.7}, lab, target=target)(state, lab)
        assert same(pruned.masks, again.masks)
        assert not same(pruned.masks, pruning({LAST: 0.7}, other, target=target)(state, other).masks)


def test_ties_drop_exactly_as_many(lab_of):
    lab = lab_of(*dropping(*VGG))
    state = lab.initial()
    equal = replace(state, weights={**state.weights, LAST: torch.ones_like(state.weights[LAST])})
    pruned = pruning({LAST: 0.5}, lab)(equal, lab)
    assert pruned.masks[LAST].flatten(1).any(1).tolist() == [False] * 32 + [True] * 32


def outputs(lab, state: State, layer: str) -> torch.Tensor:
    """What a layer's filters come to, as the model is trained and as it is used, (2, N) maxima of |output|."""
    found = []
    handle = lab.model.get_submodule(layer).register_forward_hook(
        lambda _m, _i, made: found.append(made.detach())
    )
    lab.load_(state)
    images = torch.rand(8, *lab.dataset.task.shape)
    for mode in (True, False):
        lab.model.train(mode)(images)
    handle.remove()
    return torch.stack([one.abs().amax((0, 2, 3)) for one in found])


@pytest.mark.parametrize(
    ("overrides", "weight", "layer"),
    [
        (VGG, LAST, "layers.11"),
        (RESNET, "blocks.4.conv1.weight", "blocks.4.bn1"),
        (RESNET, "blocks.4.conv2.weight", "blocks.4"),
    ],
)
def test_a_dropped_filters_output_is_exactly_0_before_and_after_training(lab_of, overrides, weight, layer):
    lab = lab_of(*dropping(*overrides))
    trained = lab.train(lab.initial(), 3, lab.rate_at())
    pruned = pruning({weight: 0.5}, lab)(trained, lab)
    gone = ~pruned.masks[weight].flatten(1).any(1)
    for state in (pruned, lab.train(pruned, 6, lab.rate_at())):
        found = outputs(lab, state, layer)
        assert not found[:, gone].any()
        assert found[:, ~gone].any(0).sum() > 0.5 * (~gone).sum()
        assert same({weight: state.masks[weight]}, {weight: pruned.masks[weight]})
    dense = outputs(lab, trained, layer)
    assert dense[:, gone].any(), "gates have to open again for another state"


def test_a_filter_goes_with_its_bias_and_norm_which_do_not_count(lab_of):
    lab = lab_of(*dropping(*VGG))
    pruned = pruning({LAST: 0.5}, lab)(lab.initial(), lab)
    gone = ~pruned.masks[LAST].flatten(1).any(1)
    for beside in ("layers.11.conv.bias", "layers.11.bn.weight", "layers.11.bn.bias"):
        assert torch.equal(~pruned.masks[beside], gone)
        assert not pruned.weights[beside][gone].any()
    own = pruned.masks[LAST].numel() // 2
    assert pruned.masks.total == sum(lab.model.get_parameter(name).numel() for name in lab.names)
    assert pruned.masks.total - pruned.masks.kept == own


def test_single_weights_are_dropped_where_the_criterion_scores_weights(lab_of):
    lab = lab_of(*VGG)
    pruned = pruning({LAST: 0.7}, lab, criterion="magnitude", target="largest")(lab.initial(), lab)
    size = pruned.masks[LAST].numel()
    assert int(pruned.masks[LAST].sum()) == left_of(size, 0.7, 1, 1)
    assert lab.initial().weights[LAST][~pruned.masks[LAST]].abs().min() >= pruned.weights[LAST].abs().max()


def test_an_event_that_has_been_drops_nothing_more(lab_of):
    lab = lab_of(*dropping(*VGG))
    stage = pruning({LAST: 0.5}, lab)
    once = stage(lab.initial(), lab)
    twice = stage(once, lab)
    assert same(once.masks, twice.masks)
    assert float(twice.observed["metrics/removed"]) == float(once.observed["metrics/removed"])


@pytest.mark.parametrize("name", ["cifar_resnet_20", "torchvision:resnet18", "timm:resnet18"])
def test_filters_are_found_by_what_a_model_does(name):
    task = Task(shape=(3, 32, 32), classes=10)
    entry = models[name]
    model = entry.function(*([entry.rest] if entry.rest else []), task)
    found = filters_of(model, task, prunable_names(model))
    convolutions = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert {weight for weight, one in found.items() if one.batch_norm} == set(convolutions)
    second = {weight: one for weight, one in found.items() if weight.endswith("conv2.weight")}
    assert len(second) == (9 if "20" in name else 8)
    assert all(one.closed and weight == f"{one.gate}.conv2.weight" for weight, one in second.items())
    assert all(one.gate is None for weight, one in found.items() if weight.endswith("conv1.weight"))
    assert not any(model.get_submodule(n)._forward_hooks for n, _ in model.named_modules())


class Sums(nn.Module):
    """`a`, then what `b` makes of it added to it, in one of some ways; a linear layer comes last."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.c = (nn.Conv2d(count, 4, 3, padding=1) for count in (1, 4, 4))
        self.fc = nn.Linear(4, 10)

    def forward(self, images):
        values = self.a(images)
        values = values.relu_() if self.way == "in place" else values.relu()
        made = values + self.b(values)
        if self.way == "goes on":
            made = self.c(made)
        if self.way == "twice":
            made = made + self.c(made)
        return self.fc(made.relu().mean((2, 3))) if self.way == "in place" else made.relu()


class Wrapped(nn.Module):
    """A layer whose output goes straight into the sum of a module after it, a residual one, and a head."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(1, 1, 3, padding=1), Sums(way), nn.Linear(4, 10)

    def forward(self, images):
        return self.fc(self.block(self.stem(images)).mean((2, 3)))


def gates_of(model: nn.Module) -> dict[str, tuple[str | None, bool]]:
    task = Task(shape=(1, 8, 8), classes=10)
    return {
        name: (one.gate, one.closed) for name, one in filters_of(model, task, prunable_names(model)).items()
    }


def test_a_sum_is_closed_where_a_module_ends_with_it():
    assert gates_of(Sums("in place")) == {
        "a.weight": (None, False),
        "b.weight": ("", False),
        "c.weight": (None, False),
        "fc.weight": (None, False),
    }
    ends = gates_of(Wrapped(""))
    assert (ends["block.b.weight"], ends["block.a.weight"]) == (("block", True), (None, False))
    assert gates_of(Wrapped("goes on"))["block.b.weight"] == ("block", False)
    twice = gates_of(Wrapped("twice"))
    assert (twice["block.b.weight"], twice["block.c.weight"]) == (("block", False), ("block", True))


class Shortcut(nn.Module):
    """A linear bottleneck: what comes in is added to, as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, values):
        return values + self.b(values)


def test_what_a_shortcut_begins_with_is_not_its_sum():
    found = gates_of(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Shortcut(), nn.Flatten(), nn.Linear(256, 10))
    )
    assert (found["0.weight"], found["1.b.weight"]) == ((None, False), ("1", True))


def normal(value: float) -> tuple[float, float]:
    return 0.5 * math.erfc(-value / math.sqrt(2)), math.exp(-value * value / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
    ("g", "b"), [(1.0, 0.0), (0.5, -1.0), (-0.7, 0.3), (0.0, 0.4), (0.0, -0.4), (2.0, -30.0)]
)
def test_expected_activation_is_the_mean_of_a_rectified_normal(g, b):
    norms = {"layer": (torch.tensor([g]), torch.tensor([b]))}
    (found,), (signed,) = (
        one(norms)["layer"].tolist() for one in (expected_activation, signed_expected_activation)
    )
    if g == 0:
        assert found == signed == pytest.approx(max(b, 0.0))
        return
    wide, near = normal(b / abs(g))
    assert found == pytest.approx(b * wide + abs(g) * near, abs=1e-7)
    drawn = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert found == pytest.approx(float((b + abs(g) * drawn).clamp(min=0).mean()), abs=5e-3)
    # The paper's code: alpha = -b / w, Z = 1 - Phi(alpha), E = Z (b + w phi(alpha) / Z).
    beyond, density = 1 - normal(-b / g)[0], normal(-b / g)[1]
    assert signed == pytest.approx(beyond * b + g * density, abs=1e-7)


@pytest.mark.parametrize("criterion", OF_FILTERS)
def test_every_criterion_of_filters_scores_every_filter_and_drops_exactly(criterion, lab_of):
    layers = {"layers.[0-9]*.conv.weight": {"fraction": 0.3}}
    stage = f"{{prune_layers: {{layers: {json.dumps(layers)}, criterion: {criterion}}}}}"
    lab = lab_of(*VGG, f"procedure=[train, {stage}, train]")
    state = lab.train(lab.initial(), 1, lab.rate_at())
    (drop,) = (one for one in unroll(lab.experiment.procedure) if one.name == "prune_layers")
    pruned = drop(state, lab)
    for name in lab.names:
        kept = int(pruned.masks[name].flatten(1).any(1).sum())
        count = len(pruned.masks[name])
        assert kept == (count if name == "fc.weight" else left_of(count, 0.3, 1, 1)), name


def test_norms_of_filters_are_norms():
    weight = torch.tensor([[3.0, -4.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    assert l1_norm({"w": weight})["w"].tolist() == [7, 1]
    assert l2_norm({"w": weight})["w"].tolist() == [5, 1]


@pytest.mark.parametrize("overrides", [VGG, RESNET])
def test_running_means_are_of_what_nonlinearities_get(lab_of, overrides):
    """Against a loop by hand: every tenth training batch, decay .9, before the ReLU and after the shortcut."""
    stage = "{prune_layers: {layers: {'*conv*': {fraction: 0.5}}, criterion: mean_activation}}"
    lab = lab_of(*overrides, f"procedure=[train, {stage}, train]", "batch_size=40")
    weight, layer = (LAST, "layers.11") if overrides is VGG else ("blocks.4.conv2.weight", "blocks.4")
    state, means = lab.initial(), None
    for step in range(0, 21, 10):
        before = lab.train(state, step, lab.rate_at()) if step else state
        batch = next(lab._batches(*divmod(step, lab.steps_per_epoch), 1, step, lab.rate_at()))
        lab.load_(before)
        lab.model.train()
        with torch.no_grad():
            values = _before_relu(lab.model, batch.images, layer)
        now = values.abs().sum((0, 2, 3))
        means = now if means is None else 0.9 * means + 0.1 * now
    trained = lab.train(state, 21, lab.rate_at())
    torch.testing.assert_close(trained.activations[weight], means, rtol=1e-4, atol=1e-3)
    parts = lab.train(lab.train(state, 8, lab.rate_at()), 13, lab.rate_at())
    assert same(parts.activations, trained.activations)
    assert same(parts.weights, trained.weights)
    plain = lab_of(*overrides, "batch_size=40")
    unseen = plain.train(plain.initial(), 21, plain.rate_at())
    assert same(unseen.weights, trained.weights)
    assert same(unseen.buffers, trained.buffers)


def _before_relu(model: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    """What the last nonlinearity in a layer gets."""
    found, inside = [], []
    part = model.get_submodule(layer)
    relu = nn.functional.relu

    def kept(values, *more, **options):
        found.append((bool(inside), values.clone()))
        return relu(values, *more, **options)

    handles = [
        part.register_forward_pre_hook(lambda *_: inside.append(1)),
        part.register_forward_hook(lambda *_: inside.clear()),
    ]
    buffers = {name: one.clone() for name, one in model.named_buffers()}
    nn.functional.relu = kept
    try:
        model(images)
    finally:
        nn.functional.relu = relu
        for handle in handles:
            handle.remove()
        for name, one in model.named_buffers():
            one.copy_(buffers[name])
    return [values for within, values in found if within][-1]


def test_zeroing_holds_for_so_many_batches_and_weights_regrow(lab_of):
    lab = lab_of(*dropping(*VGG))
    trained = lab.train(lab.initial(), 3, lab.rate_at())
    zeroed = pruning({LAST: 0.5}, lab, effect="zero", batches=3, target="largest")(trained, lab)
    gone = zeroed.injections[LAST].chosen
    assert not zeroed.weights[LAST][gone].any()
    assert same(zeroed.masks, trained.masks)
    after = [
        lab.train(zeroed, steps, lab.rate_at()).weights[LAST][gone].abs().max() for steps in (1, 2, 3, 4, 8)
    ]
    # Each step of Adam moves a weight by at most about the learning rate: while it is held it starts from 0 again.
    assert 0 < after[0] <= 0.0101
    assert after[1] <= 0.0201
    assert after[2] <= 0.0201
    assert after[4] > 2 * after[0]
    once = pruning({LAST: 0.5}, lab, effect="zero", batches=1, target="largest")(trained, lab)
    free = lab.train(once, 4, lab.rate_at()).weights[LAST][gone].abs().mean()
    assert free > lab.train(zeroed, 3, lab.rate_at()).weights[LAST][gone].abs().mean()


def by_hand(lab, state: State, batches: int, steps: int) -> State:
    """Zeroing by hand: train a step at a time, and zero before each that is held."""
    gone = state.injections[LAST].chosen
    state = replace(state, injections={})
    for step in range(steps):
        if step < batches:
            weight = state.weights[LAST].clone()
            weight[gone] = 0
            state = replace(state, weights={**state.weights, LAST: weight})
        state = lab.train(state, 1, lab.rate_at())
    return state


def test_zeroing_is_what_zeroing_by_hand_is(lab_of):
    lab = lab_of(*dropping(*VGG))
    trained = lab.train(lab.initial(), 2, lab.rate_at())
    zeroed = pruning({LAST: 0.5}, lab, effect="zero", batches=4)(trained, lab)
    for steps in (3, 4, 7):
        assert same(lab.train(zeroed, steps, lab.rate_at()).weights, by_hand(lab, zeroed, 4, steps).weights)


def test_restoring_puts_everything_back(lab_of):
    lab = lab_of(*dropping(*VGG))
    trained = lab.train(lab.initial(), 3, lab.rate_at())
    held = pruning({LAST: 0.5}, lab, effect="restore", batches=4)(trained, lab)
    gone = held.injections[LAST].chosen
    names = [LAST, "layers.11.conv.bias", "layers.11.bn.weight", "layers.11.bn.bias"]
    assert not any(held.weights[name][gone].any() for name in names)
    assert not outputs(lab, held, "layers.11")[:, gone].any()
    back = lab.train(held, 4, lab.rate_at())
    assert all(torch.equal(back.weights[name][gone], trained.weights[name][gone]) for name in names)
    for name in ("layers.11.bn.running_mean", "layers.11.bn.running_var"):
        assert torch.equal(back.buffers[name][gone], trained.buffers[name][gone])
    assert not torch.equal(back.weights[LAST][~gone], trained.weights[LAST][~gone])
    assert (back.injections[LAST].targets, back.injections[LAST].saved) == ({}, {})
    later = lab.train(held, 6, lab.rate_at())
    assert same(later.weights, lab.train(back, 2, lab.rate_at()).weights)


def test_gaussian_noise_has_the_layers_own_scale_and_adds_up(lab_of):
    lab = lab_of(*dropping(*VGG), "learning_rate=0")
    state = lab.initial()
    noisy = pruning({LAST: 0.5}, lab, effect="gaussian", batches=5, target="largest")(state, lab)
    gone = noisy.injections[LAST].chosen
    first = state.weights[LAST][~gone][0].std()
    assert float(noisy.injections[LAST].scale) == pytest.approx(float(first))
    added = [
        (lab.train(noisy, steps, lab.rate_at()).weights[LAST] - state.weights[LAST])[gone] for steps in (5, 7)
    ]
    apart = (noisy.weights[LAST] - state.weights[LAST])[gone]
    assert float(apart.std()) == pytest.approx(float(first), rel=0.05)
    assert float(added[0].std()) == pytest.approx(5**0.5 * float(first), rel=0.05)
    assert torch.equal(*added)
    rest = lab.train(noisy, 7, lab.rate_at()).weights[LAST][~gone]
    assert torch.equal(rest, state.weights[LAST][~gone])


@pytest.mark.parametrize("effect", ["zero", "restore", "gaussian"])
def test_what_pruning_dropped_stays_dropped(lab_of, effect):
    lab = lab_of(*dropping(*VGG))
    sparse = pruning({LAST: 0.5}, lab, criterion="magnitude")(lab.initial(), lab)
    disturbed = pruning({LAST: 0.5}, lab, effect=effect, batches=3)(sparse, lab)
    for state in (disturbed, lab.train(disturbed, 5, lab.rate_at())):
        assert not state.weights[LAST][~sparse.masks[LAST]].any()
        assert same(state.masks, sparse.masks)


@pytest.mark.parametrize("effect", ["zero", "restore", "gaussian"])
def test_an_injection_can_be_split_anywhere(lab_of, effect):
    lab = lab_of(*dropping(*VGG))
    trained = lab.train(lab.initial(), 2, lab.rate_at())
    injected = pruning({LAST: 0.5}, lab, effect=effect, batches=3)(trained, lab)
    whole = lab.train(injected, 5, lab.rate_at())
    for cut in range(1, 5):
        first = lab.train(injected, cut, lab.rate_at())
        parts = lab.train(first, 5 - cut, lab.rate_at())
        assert same(parts.weights, whole.weights), cut
        assert same(parts.buffers, whole.buffers), cut


def test_injections_into_several_layers_each_last_as_long_as_they_do(lab_of):
    lab = lab_of(*dropping(*VGG))
    other = "layers.8.conv.weight"
    trained = lab.train(lab.initial(), 2, lab.rate_at())
    first = pruning({LAST: 0.5}, lab, effect="restore", batches=5)(trained, lab)
    both = pruning({other: 0.5}, lab, effect="restore", batches=6)(lab.train(first, 2, lab.rate_at()), lab)
    assert [(one.start, one.until) for one in both.injections.values()] == [(2, 7), (4, 10)]
    at_seven = lab.train(both, 3, lab.rate_at())
    one, two = (both.injections[name].chosen for name in (LAST, other))
    assert torch.equal(at_seven.weights[LAST][one], trained.weights[LAST][one])
    assert at_seven.weights[other][two].abs().max() <= 0.0101
    at_ten = lab.train(at_seven, 3, lab.rate_at())
    assert torch.equal(at_ten.weights[other][two], both.injections[other].saved[other][two])
    assert same(at_ten.weights, lab.train(both, 6, lab.rate_at()).weights)


def test_later_events_choose_others_and_hold_all_where_they_are_asked_to(lab_of):
    lab = lab_of(*dropping(*VGG))
    half = {LAST: {"fraction": 0.5, "event": 1, "events": 2}}
    stage = pruning({LAST: 0.5}, lab, effect="zero", which="all")
    first = Choice("stages", "prune_layers", {**stage.options, "layers": half})(lab.initial(), lab)
    first = lab.train(first, 3, lab.rate_at())
    both = stage(first, lab)
    before, chosen = first.injections[LAST].chosen, both.injections[LAST].chosen
    assert bool(chosen[before].all())
    assert int(chosen.sum()) == 32
    assert int(before.sum()) == 16
    assert not both.weights[LAST][chosen].any()
    new = Choice("stages", "prune_layers", {**stage.options, "which": "new"})(first, lab)
    assert new.weights[LAST][before].any()
    assert not new.weights[LAST][chosen & ~before].any()


REFUSED = {
    "a window outside training": (
        "{prune_during_training: {every: 1, start: 1, end: 5, layers: {'*': {fraction: 0.5}}}}",
        "outside training, which ends at epoch 2",
    ),
    "a window that ends before it starts": (
        "{prune_during_training: {every: 1, start: 2, end: 1, layers: {'*': {fraction: 0.5}}}}",
        "before its start",
    ),
    "a window without an end": (
        "{prune_during_training: {every: 1, start: 1, layers: {'*': {fraction: 0.5}}}}",
        "has no 'end'",
    ),
    "nothing left": (
        "{prune_during_training: {every: 1, start: 1, end: 1, layers: {'*': {fraction: 1}}}}",
        "should be between 0 and 1",
    ),
    "nothing dropped": ("{prune_layers: {layers: {'*': {fraction: 0}}}}", "should be between 0 and 1"),
    "a fraction is missing": ("{prune_layers: {layers: {'*': {event: 1}}}}", "needs a 'fraction'"),
    "an unknown word": (
        "{prune_layers: {layers: {'*': {fractoin: 0.5}}}}",
        "'fraction', 'event' or 'events'",
    ),
    "too many events": (
        "{prune_during_training: {every: 0.0000001, start: 1, end: 2, layers: {'*': {fraction: 0.5}}}}",
        "at most 10,000",
    ),
    "noise that lasts too long": (
        "{prune_layers: {layers: {'*': {fraction: 0.5}}, effect: zero, batches: 100000}}",
        "give fewer 'batches', or train on",
    ),
    "events during noise": (
        "{prune_during_training: {every: 1, start: 0, end: 1, effect: zero, batches: 9, layers: {'*': {fraction: 0.5}}}}",
        "is not over",
    ),
    "an event after the end": (
        "{prune_during_training: {every: 1.5, start: 0.5, end: 3, layers: {'*': {fraction: 0.5}}}}",
        "outside training, which ends at epoch 2",
    ),
    "pruning what is disturbed": (
        "{train: {until: 1}}, {prune_layers: {layers: {'*': {fraction: 0.5}}, effect: restore, batches: 9}}, "
        "{prune: {fraction: 0.5}}",
        "changes weights that something is injected into",
    ),
    "fresh weights for what is disturbed": (
        "{prune_layers: {layers: {'*': {fraction: 0.5}}, effect: restore, batches: 9}}, reinitialize",
        "changes weights that something is injected into",
    ),
    "activations before training": (
        "{prune_layers: {layers: {'*': {fraction: 0.5}}, criterion: mean_activation}}",
        "needs some training before",
    ),
}


@pytest.mark.parametrize(("procedure", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_carried_out_is_refused_when_the_recipe_is_read(procedure, message):
    with pytest.raises(RecipeError, match=message):
        foresee(load_text(SMALL, "r.yaml", [f"procedure=[{procedure}, train]"]).points[0].experiment, 8)


def equal(one, other) -> bool:
    """Whether two levels as they are stored are the same to the bit."""
    arrays = all(
        np.array_equal(array, other.arrays[place], equal_nan=True)
        for place, array in one.arrays.items()
        if array.dtype != object
    )
    return (
        one.arrays.keys() == other.arrays.keys()
        and arrays
        and all(np.array_equal(mask, other.masks[name]) for name, mask in one.masks.items())
    )


@pytest.mark.parametrize("effect", ["remove", "zero", "restore", "gaussian"])
def test_a_level_gone_on_with_from_any_spot_is_the_same(lab_of, effect):
    """What is kept at each spot is written and read back: curves, running means and injections are part of it."""
    during = (
        f"{{prune_during_training: {{criterion: mean_activation, target: largest, every: 1.5, start: 1, end: 2.5, "
        f"effect: {effect}, batches: 4, layers: {{layers.11.*: {{fraction: 0.5}}}}}}}}"
    )
    lab = lab_of(
        *VGG,
        f"procedure=[{during}, train, {{observe: {{observers: [epochs]}}}}]",
        "epochs=4",
        "batch_size=100",
        "observe=[instability]",
        "validation=0.2",
    )
    state, previous = lab.initial(), None
    for level in levels(lab.experiment.procedure):
        spots: list[bytes] = []
        start = state

        def keep(midway, now, spots=spots):
            spots.append(encode(now(), midway))

        state, whole, found = carry_out(level, start, lab, previous, keep=keep)
        curved = {"metrics/best_test_error", "observations/epochs/test_error"} <= set(whole.arrays)
        assert curved is (level.number == 2)
        for spot in spots[:: 1 + len(spots) // 12]:
            kept, midway = decode(spot, "here")
            again, measured, _ = carry_out(level, kept, lab, previous, midway)
            assert same(again.weights, state.weights), midway
            assert same(again.activations, state.activations), midway
            assert equal(whole, measured), midway
        previous = found
    assert state.spent == lab.steps(4)


@pytest.mark.parametrize("effect", ["remove", "zero", "restore", "gaussian"])
def test_steps_on_fixed_memory_do_what_steps_as_they_are_do(lab_of, effect):
    """What is recorded has masks of biases and norms, closed channels and injections as well."""
    stage = f"{{prune_layers: {{layers: {{'blocks.*.conv2.weight': {{fraction: 0.5}}}}, criterion: mean_activation, effect: {effect}, batches: 3}}}}"
    given = (
        *RESNET[:2],
        "optimizer={sgd: {momentum: 0.9}}",
        "learning_rate=0.125",
        "batch_size=50",
        f"procedure=[train, {stage}, train]",
    )
    plain = lab_of(*given, "loop=plain")
    recorded = make_lab(plain.experiment, 0, plain.dataset, plain.device, record=_as_it_is)
    recorded = replace(
        recorded, machinery=replace(recorded.machinery, experiment=replace(plain.experiment, loop="fast"))
    )
    assert plain.machinery.captured is None
    assert set(recorded.machinery.captured.masks) == set(plain.initial().masks)
    assert recorded.machinery.captured is not None
    found = []
    for lab in (plain, recorded):
        state = lab.train(lab.initial(), 12, lab.rate_at())
        state = next(one for one in unroll(lab.experiment.procedure) if one.name == "prune_layers")(
            state, lab
        )
        found.append(lab.train(state, 6, lab.rate_at()))
    assert same(found[0].weights, found[1].weights)
    assert same(found[0].buffers, found[1].buffers)
    assert same(found[0].activations, found[1].activations)


def _as_it_is(work):
    work()
    return work


def test_what_is_best_late_and_selected_of_a_curve(lab_of):
    lab = lab_of("epochs=5")
    rows = [
        [1, 60, 1.0, 30, 9],
        [2, 50, 0.9, 12, 5],
        [3, 40, 0.8, 20, 4],
        [4, 10, 0.7, 12, 8],
        [4.5, 5, 0.6, 16, 4],
    ]
    state = replace(lab.initial(), observed={CURVE: torch.tensor(rows, dtype=torch.float64)})
    found = {name: np.asarray(one) for name, one in epochs(state, lab, late=2).items()}
    scalars = {name.removeprefix("metrics/"): float(one) for name, one in found.items() if one.ndim == 0}
    assert scalars == {
        "best_test_error": 12,
        "best_epoch": 2,
        "generalization_gap": 12 - 50,
        "late_test_error": 14,
        "selected_test_error": 20,
        "selected_epoch": 3,
    }
    assert found["spent"].tolist() == [1, 2, 3, 4, 4.5]
    longer = replace(lab.initial(), observed={CURVE: torch.tensor([*rows, *rows], dtype=torch.float64)})
    assert epochs(longer, lab)["spent"].tolist() == [1, 2, 3, 4, 4.5]
    assert epochs(lab.initial(), lab) == {}
    without = torch.tensor(rows, dtype=torch.float64)
    without[:, 4] = math.nan
    some = epochs(replace(state, observed={CURVE: without[:2]}), lab)
    assert math.isnan(some["metrics/selected_test_error"])
    assert np.isnan(some["test_error"]).tolist() == [False, False, True, True, True]


def test_a_run_stores_events_and_curves_and_takes_more_seeds(tmp_path):
    """The curve's errors are those that are measured at the level's end; masks of norms are stored and not counted."""
    during = "{prune_during_training: {criterion: l2_norm, every: 1, start: 1, end: 2, layers: {layers.11.*: {fraction: 0.5}}}}"
    given = [
        *VGG,
        f"procedure=[{during}, train]",
        "epochs=4",
        "observe=[instability, epochs]",
        "learning_rate=0.001",
    ]
    (first,) = carry_out_all(
        load_text(SMALL, "small.yaml", given), Settings(runs=tmp_path), lambda _event: None
    )
    (more,) = carry_out_all(
        load_text(SMALL, "small.yaml", [*given, "seeds=[0, 1]"]),
        Settings(runs=tmp_path, workers=1),
        lambda _event: None,
    )
    assert more.folder.path == first.folder.path
    with h5py.File(more.folder.store) as file:
        metrics = {name: file["metrics"][name][()] for name in file["metrics"]}
        curve = file["observations/epochs/test_error"][()]
        spent = file["observations/epochs/spent"][()]
        counted = {name: int(file["masks"][name].attrs["counted"]) for name in file["masks"]}
        gone = file["masks/layers.11.bn.weight"][()]
        kept = file["layers/kept"][()]
        total = file["layers/total"][()].sum()
    assert metrics["test_error"].shape == (2, 3)
    assert curve.shape == (2, 3, 4)
    assert np.isnan(metrics["removed"][:, 0]).all()
    assert metrics["removed"][:, 1:].tolist() == [[16, 16], [16, 16]]
    assert spent[0, 2, :2].tolist() == [3, 4]
    assert np.array_equal(curve[:, 2, 1], metrics["test_error"][:, 2])
    assert np.array_equal(metrics["best_test_error"][:, 2], np.nanmin(curve[:, 2], axis=1))
    assert {name for name, count in counted.items() if not count} == {
        name for name in counted if not (name.endswith("conv.weight") or name == "fc.weight")
    }
    assert [np.count_nonzero(gone[0] == level) for level in (1, 2, 255)] == [16, 16, 32]
    assert np.array_equal(kept.sum(2)[0] / total, metrics["density"])


def test_a_dense_training_is_shared_with_those_who_look_at_its_epochs_alone(tmp_path):
    """A state has notes of its epochs where they are asked for; without them it is another one's."""
    prune = "procedure=[train, {prune: {fraction: 0.5}}, {train: {epochs: 1}}]"
    trained = []
    for observe in ("[instability]", "[instability, epochs]"):
        heard: list[object] = []
        recipe = load_text(SMALL, "small.yaml", [prune, f"observe={observe}"])
        (done,) = carry_out_all(recipe, Settings(runs=tmp_path), heard.append)
        trained.append({event.level for event in heard if isinstance(event, EpochDone)})
    assert trained == [{0, 1}, {0, 1}]
    with h5py.File(done.folder.store) as file:
        assert np.isfinite(file["metrics/best_test_error"][()]).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "{'*': {fraction: 0.5}, 'fc.weight': {fraction: 0.9}}",
            "matches only what patterns before it match",
        ),
        ("{'conv9*': {fraction: 0.5}}", "matches no prunable parameter"),
    ],
)
def test_patterns_that_match_nothing_more_are_refused(lab_of, layers, message):
    lab = lab_of(f"procedure=[{{prune_layers: {{layers: {layers}}}}}, train]")
    shapes = {name: tuple(lab.model.get_parameter(name).shape) for name in lab.names}
    with pytest.raises(RecipeError, match=message):
        foresee(lab.experiment, 8, 1, 0, shapes)


class Again(nn.Module):
    """One layer that works twice, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.a, self.b, self.fc = (
            nn.Linear(64, 64),
            nn.Linear(64, 64),
            nn.Linear(64, 64),
            nn.Linear(64, 10),
        )
        self.b.weight = self.a.weight

    def forward(self, images):
        values = self.twice(self.twice(images.flatten(1)).relu()).relu()
        return self.fc(self.b(self.a(values).relu()).relu())


def test_layers_that_are_used_again_have_no_filters_to_drop():
    model = Again()
    found = filters_of(model, Task(shape=(1, 8, 8), classes=10), prunable_names(model))
    assert {name: one.shared for name, one in found.items()} == {
        "twice.weight": True,
        "a.weight": True,
        "fc.weight": False,
    }
    with pytest.raises(UsageError, match="is used in several places"):
        check_droppable(found["a.weight"])
    check_droppable(found["fc.weight"])


def test_removal_takes_filters_that_were_only_disturbed_before(lab_of):
    lab = lab_of(*dropping(*VGG))
    zeroed = lab.train(
        pruning({LAST: 0.5}, lab, effect="zero", batches=1)(lab.initial(), lab), 2, lab.rate_at()
    )
    removed = pruning({LAST: 0.5}, lab)(replace(zeroed, observed={}), lab)
    assert int(removed.masks[LAST].flatten(1).any(1).sum()) == 32
    assert float(removed.observed["metrics/removed"]) == 32


def test_noise_has_a_scale_where_the_first_filters_are_gone(lab_of):
    lab = lab_of(*dropping(*VGG))
    start = lab.initial()
    start.weights[LAST][0] /= 1000
    state = pruning({LAST: 0.5}, lab)(start, lab)
    assert not state.weights[LAST][0].any()
    noisy = pruning({LAST: 0.75}, lab, effect="gaussian")(state, lab)
    free = state.masks[LAST].flatten(1).any(1) & ~noisy.injections[LAST].chosen
    assert float(noisy.injections[LAST].scale) == pytest.approx(float(state.weights[LAST][free][0].std()))


def test_density_is_not_foreseen_where_other_stages_prune_too(lab_of):
    lab = lab_of(
        *VGG, "procedure=[train, {prune: {fraction: 0.5}}, {prune_layers: {layers: {'*': {fraction: 0.5}}}}]"
    )
    shapes = {name: tuple(lab.model.get_parameter(name).shape) for name in lab.names}
    *_, last = foresee(lab.experiment, 2, lab.initial().masks.total, 0, shapes)
    assert last.outlook.density is None


def test_events_past_the_schedules_end_fine_tune_as_prunings_do(lab_of):
    stages = "{repeat: {times: 2, stages: [{prune_layers: {layers: {'*': {fraction: 0.5}}}}, {train: {epochs: 1}}]}}"
    assert len(foresee(lab_of(f"procedure=[train, {stages}]").experiment, 8)) == 3


def carried_out(runs: Path, *overrides: str):
    (done,) = carry_out_all(
        load_text(SMALL, "small.yaml", overrides), Settings(runs=runs), lambda _event: None
    )
    with h5py.File(done.folder.store) as file:
        return {name: file["metrics"][name][()] for name in file["metrics"]}, done.folder


@pytest.mark.parametrize("before", ["l2_norm", "magnitude"])
def test_a_dense_state_is_shared_with_those_alone_who_hold_the_same(tmp_path, before):
    """Running means and masks of norms are parts of a state: a run without them has another one."""
    wanted, _ = carried_out(tmp_path / "alone", *VGG, *_sharing("mean_activation"))
    _, first = carried_out(tmp_path / "both", *VGG, *_sharing(before))
    found, folder = carried_out(tmp_path / "both", *VGG, *_sharing("mean_activation"))
    assert np.array_equal(found["test_error"], wanted["test_error"])
    assert not list((tmp_path / "both" / ".states").rglob("quarantine"))
    assert first.path != folder.path


def _sharing(criterion: str) -> tuple[str, ...]:
    stage = (
        f"{{prune_layers: {{layers: {{layers.11.conv.weight: {{fraction: 0.5}}}}, criterion: {criterion}}}}}"
    )
    return f"procedure=[train, {stage}, {{train: {{epochs: 1}}}}]", "seeds=[0]"


def test_a_curve_does_not_depend_on_how_a_training_is_cut(tmp_path):
    """Cut inside an epoch by `save`, which changes nothing and shares its dense state."""
    cut = (
        "procedure=[{train: {until: 0.5}}, {save: {point: early}}, train]",
        "observe=[epochs]",
        "validation=0.1",
    )
    whole = ("procedure=[train]", *cut[1:])
    wanted, _ = carried_out(tmp_path / "alone", *whole)
    for runs in (tmp_path / "one", tmp_path / "other"):
        both = (cut, whole) if runs.name == "one" else (whole, cut)
        for found, folder in (carried_out(runs, *one) for one in both):
            assert all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)
            with h5py.File(folder.store) as file:
                assert file["observations/epochs/spent"][0, 0].tolist() == [1, 2]


def test_what_is_restored_at_an_epochs_end_is_restored_in_the_curve(lab_of):
    lab = lab_of(*dropping(*VGG), "observe=[epochs]")
    trained = lab.train(lab.initial(), 15 * lab.steps_per_epoch, lab.rate_at())
    held = pruning({LAST: 0.9}, lab, effect="restore", batches=lab.steps_per_epoch)(trained, lab)
    end = lab.train(held, lab.steps_per_epoch, lab.rate_at())
    test = lab.outcomes(end, lab.dataset.test, lab.dataset.test.labels)
    assert float(end.observed[CURVE][-1, 3]) == test.error
    gone = held.injections[LAST].chosen
    assert torch.equal(end.weights[LAST][gone], trained.weights[LAST][gone])


def test_running_means_do_not_depend_on_what_was_drawn_before(lab_of, tmp_path):
    """Dropout is at work while they are taken."""
    (tmp_path / "dropped.py").write_text(
        "from torch import nn\n"
        "def model(task):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n"
    )
    stage = "{prune_layers: {layers: {'2.weight': {fraction: 0.5}}, criterion: mean_activation}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        given = ["model=python:dropped:model", f"procedure=[train, {stage}, train]", "batch_size=100"]
        recipe = load_text(SMALL, str(tmp_path / "r.yaml"), given, allow_code=True)
        lab = make_lab(recipe.points[0].experiment, 0, lab_of().dataset, torch.device("cpu"))
        whole = lab.train(lab.initial(), 25, lab.rate_at())
        torch.manual_seed(5)
        parts = lab.train(lab.train(lab.initial(), 20, lab.rate_at()), 5, lab.rate_at())
    assert same(parts.activations, whole.activations)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("observed", {CURVE: torch.zeros(1, 2)}),
        ("activations", {LAST: torch.zeros(3)}),
        ("injections", {LAST: Injection("zero", 0, 1, torch.zeros(3, dtype=torch.bool))}),
    ],
)
def test_a_strangers_state_that_does_not_fit_is_told(lab_of, part, wrong):
    lab = lab_of(*dropping(*VGG))
    assert not misfit(lab.initial(), lab)
    assert misfit(replace(lab.initial(), **{part: wrong}), lab)


def test_numbers_of_a_level_are_its_own_whatever_was_observed_inside_it(lab_of):
    lab = lab_of()
    state = lab.train(lab.initial(), 2, lab.rate_at())
    forged = replace(state, observed={"metrics/test_error": torch.zeros((), dtype=torch.float64)})
    assert equal(measure(0, forged, lab, {})[0], measure(0, state, lab, {})[0])


def test_observers_that_would_overwrite_each_other_are_refused(tmp_path):
    inside = "{observe: {observers: [epochs]}}"
    for given in (
        ["observe=[epochs, epochs]"],
        [f"procedure=[train, {inside}, {inside}]"],
        ["observe=[epochs]", f"procedure=[train, {inside}]"],
    ):
        with pytest.raises(RecipeError, match="looks at a level twice"):
            prepare(load_text(SMALL, "small.yaml", given), Settings(runs=tmp_path))


@pytest.mark.parametrize("observer", ["flatness", "perturbation"])
def test_more_examples_than_there_are_are_refused_before_anything_runs(tmp_path, observer):
    prepare(
        load_text(SMALL, "small.yaml", [f"observe=[{{{observer}: {{examples: 360}}}}]"]),
        Settings(runs=tmp_path),
    )
    for where in ("observe=[{}]", "procedure=[train, {{observe: {{observers: [{}]}}}}]"):
        given = where.format(f"{{{observer}: {{examples: 361}}}}")
        with pytest.raises(RecipeError, match="'examples' is 361, and there are 360 test examples"):
            prepare(load_text(SMALL, "small.yaml", [given]), Settings(runs=tmp_path))
