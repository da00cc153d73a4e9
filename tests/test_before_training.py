"""Pruning at initialization: criteria, layer densities, chance, controls, and what is said of layers left empty."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL, same, small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from typer.testing import CliRunner

from prunecli import masks
from prunecli.building import TRAINING
from prunecli.cli.app import app
from prunecli.datasets.values import Augment
from prunecli.errors import Mistake, RecipeError, UsageError
from prunecli.fitting import check_fits
from prunecli.gradients import BatchSlopes, balanced, check_differentiable
from prunecli.lab import Lab, make_lab
from prunecli.models.parameters import prunable_names
from prunecli.places import Roots
from prunecli.procedure import carry_out, foresee, levels
from prunecli.randomness import key
from prunecli.ranking import scores_of
from prunecli.registry import Choice, models, scopes
from prunecli.scopes import groups_of
from prunecli.state import State
from prunecli.task import Task
from prunecli.trajectories import trajectory_digest

MILLI = 0.001


def stage(name: str, **options: object) -> Choice:
    return Choice("stages", name, options)


def to(density: float, criterion: str = "magnitude", **options: object) -> Choice:
    constant = Choice("schedules", "constant", {"value": density})
    return stage("prune_to", density=constant, criterion=Choice("criteria", criterion), **options)


def scored(criterion: str, lab: Lab, state: State, **options: object) -> Mapping[str, Tensor]:
    shapes = {name: state.weights[name].shape for name in lab.names}
    return scores_of(Choice("criteria", criterion, options), state, lab, shapes)


def in_float64(state: State) -> State:
    return replace(state, weights={name: weight.double() for name, weight in state.weights.items()})


def drawn(lab: Lab, per_class: int = 10, number: int = 0) -> tuple[Tensor, Tensor]:
    """The images and labels of a round's draw, as criteria get them."""
    rows = balanced(lab, per_class, key("evidence", lab.drawing, lab.dataset.fingerprint, number))
    (images,) = lab.dataset.train.images.batches([rows], Augment(), lab.device)
    return images, lab.targets.used[rows]


def slopes_at(lab: Lab, state: State, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy of these examples, in training mode."""
    weights = {name: weight.clone().requires_grad_() for name, weight in state.weights.items()}
    buffers = {name: buffer.clone() for name, buffer in state.buffers.items()}
    images = images.to(weights[lab.names[0]].dtype)
    logits = functional_call(lab.model.train(), {**weights, **buffers}, (images,))
    functional.cross_entropy(logits, labels).backward()
    return {name: weights[name].grad for name in lab.names}


def kept_by_layer(lab: Lab, state: State) -> list[int]:
    return [int(state.masks[name].sum()) for name in lab.names]


# --- SNIP


def test_snip_is_the_weight_times_its_gradient_in_a_linear_model(lab_of):
    """Whose gradient is (softmax - one-hot)^T x / N."""
    lab = lab_of("model={mlp: {hidden: []}}")
    state = in_float64(lab.initial())
    images, labels = drawn(lab)
    x, weight = images.flatten(1).double(), state.weights["fc.weight"]
    probabilities = torch.softmax(x @ weight.T + state.weights["fc.bias"], 1)
    gradient = (probabilities - functional.one_hot(labels, 10)).T @ x / len(labels)
    (found,) = scored("snip", lab, state).values()
    torch.testing.assert_close(found, (weight * gradient).abs(), rtol=1e-9, atol=1e-15)


def test_rounds_are_means_over_draws_of_their_own(lab_of):
    lab = lab_of()
    state = in_float64(lab.initial())
    one, other = (slopes_at(lab, state, *drawn(lab, 4, number)) for number in (0, 1))
    found = BatchSlopes(state, lab).gradient(4, 2)
    for name in lab.names:
        assert not torch.equal(one[name], other[name])
        torch.testing.assert_close(found[name], (one[name] + other[name]) / 2, rtol=1e-9, atol=1e-15)


def test_how_examples_are_split_into_batches_does_not_matter(lab_of):
    for name in ("snip", "grasp"):
        found = [
            scored(name, lab, in_float64(lab.initial()), per_class=7)
            for lab in (lab_of(), lab_of("batch_size=9"))
        ]
        for one, other in zip(*(each.values() for each in found), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-18)


# --- GraSP


def test_grasp_is_the_weight_times_the_dense_hessian_times_the_gradient(lab_of):
    """With logits divided by 200, the Hessian and gradient being of the weights that can be pruned."""
    lab = lab_of("model={mlp: {hidden: [5], activation: tanh}}")
    state = in_float64(lab.initial())
    state = state.with_masks(masks.prune(state.masks, state.weights, [(lab.names, 0.25)]))
    images, labels = drawn(lab)
    x = images.flatten(1).double()
    first, second = (state.weights[name] for name in lab.names)
    size = first.numel()
    biases = [weight for name, weight in state.weights.items() if name.endswith("bias")]

    def loss(flat: Tensor) -> Tensor:
        hidden = torch.tanh(x @ flat[:size].view_as(first).T + biases[0])
        logits = hidden @ flat[size:].view_as(second).T + biases[1]
        return functional.cross_entropy(logits / 200, labels)

    flat = torch.cat([first.flatten(), second.flatten()])
    hessian = torch.autograd.functional.hessian(loss, flat)
    gradient = torch.autograd.functional.jacobian(loss, flat)
    gradient = gradient * torch.cat([state.masks[name].flatten() for name in lab.names])
    found = torch.cat([one.flatten() for one in scored("grasp", lab, state).values()])
    torch.testing.assert_close(found, flat * (hessian @ gradient), rtol=1e-7, atol=1e-16)


def test_what_grasp_drops_first_is_what_the_gradients_norm_grows_by_losing(lab_of):
    """Shrinking a weight by a part h changes the squared norm by -2 h w Hg: up where the score is lowest."""
    lab = lab_of()
    state = in_float64(lab.initial())
    scores = scored("grasp", lab, state, temperature=1.0)

    def norm_of(weights: Mapping[str, Tensor]) -> float:
        gradient = BatchSlopes(replace(state, weights=weights), lab).gradient(10, 1)
        return sum(float(one.square().sum()) for one in gradient.values())

    before, h = norm_of(state.weights), 1e-5
    flat = {name: one.flatten() for name, one in scores.items()}
    for pick in ("argmin", "argmax"):
        name = getattr(torch.stack([getattr(one, pick[3:])() for one in flat.values()]), pick)().item()
        layer = list(flat)[name]
        place = int(getattr(flat[layer], pick)())
        weights = {key: one.clone() for key, one in state.weights.items()}
        weights[layer].view(-1)[place] *= 1 - h
        change = (norm_of(weights) - before) / h
        assert change == pytest.approx(-2 * float(flat[layer][place]), rel=1e-3)
        assert (change > 0) == (pick == "argmin")


def test_shrinking_all_that_grasp_would_drop_raises_the_gradients_norm(lab_of):
    lab = lab_of()
    state = in_float64(lab.initial())
    scores = scored("grasp", lab, state, temperature=1.0)
    flow = {}
    for invert in (False, True):
        dropped = to(0.9, "grasp", invert=invert)
        dropped = replace(
            dropped,
            options={**dropped.options, "criterion": Choice("criteria", "grasp", {"temperature": 1.0})},
        )
        mask = dropped(state, lab).masks
        weights = dict(state.weights)
        for name in lab.names:
            weights[name] = torch.where(mask[name], weights[name], 0.999 * weights[name])
        gradient = BatchSlopes(replace(state, weights=weights), lab).gradient(10, 1)
        flow[invert] = sum(float(one.square().sum()) for one in gradient.values())
    gradient = BatchSlopes(state, lab).gradient(10, 1)
    before = sum(float(one.square().sum()) for one in gradient.values())
    assert min(float(one.min()) for one in scores.values()) < 0
    assert flow[False] > before > flow[True]


# --- the examples that weights are scored by


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_balanced_of_training_examples_and_of_labels_as_used(lab_of, seed):
    lab = lab_of(
        "validation=0.2", "labels={uniform: {fraction: 0.4}}", "examples={first: {count: 900}}", seed=seed
    )
    rows = balanced(lab, 10, 7)
    assert torch.bincount(lab.targets.used[rows]).tolist() == [10] * 10
    assert len(set(rows.tolist())) == 100
    assert set(lab.targets.split[rows].tolist()) == {TRAINING}
    assert torch.equal(rows, balanced(lab, 10, 7))
    assert not torch.equal(rows, balanced(lab, 10, 8))


def test_each_seed_draws_its_own_examples(lab_of):
    first, second = (drawn(lab_of(seed=seed))[0] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_classes_with_too_few_examples_give_all_and_are_told_once(lab_of):
    heard: list[str] = []
    lab = lab_of("examples={first: {count: 25}}", say=heard.append)
    state = to(0.5, "snip")(lab.initial(), lab)
    counts = torch.bincount(lab.targets.used[lab.targets.split == TRAINING], minlength=10)
    assert len(balanced(lab, 10, 0)) == int(counts.clamp(max=10).sum()) < 100
    to(0.2, "snip")(state, lab)
    (said,) = heard
    assert said.startswith(
        "seed 0: weights are scored by fewer than 10 training examples of a class: class 0 has"
    )


def test_a_class_without_examples_is_left_out(lab_of):
    heard: list[str] = []
    lab = lab_of("examples={only: {indices: [0, 1, 2, 3, 4]}}", say=heard.append)
    assert len(balanced(lab, 10, 0)) == 5
    assert all(bool(one.isfinite().all()) for one in scored("snip", lab, lab.initial()).values())
    assert "class 9 has 0" in heard[0]


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_scoring_disturbs_nothing(lab_of, criterion):
    lab = lab_of("model={cifar_resnet_20: {width: 0.25}}")
    state = lab.initial()
    lab.load_(state)
    lab.model.eval()
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    shown = {name: tensor.clone() for name, tensor in {**state.weights, **state.buffers}.items()}
    generator = torch.get_rng_state()
    first = scored(criterion, lab, state)
    assert torch.equal(generator, torch.get_rng_state())
    assert same(lab.model.state_dict(), before)
    assert same({**state.weights, **state.buffers}, shown)
    assert not any(module.training for module in lab.model.modules())
    assert same(first, scored(criterion, lab, state))


def test_batchnorm_normalizes_by_the_batch_as_in_training(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.25}}")
    state = lab.initial()
    gradient = slopes_at(lab, state, *drawn(lab))
    name = lab.names[3]
    expected = (state.weights[name] * gradient[name]).abs()
    torch.testing.assert_close(scored("snip", lab, state)[name], expected, rtol=1e-4, atol=1e-8)


def test_a_regression_is_scored_by_its_squared_error(lab_of):
    """Whose gradient is 2 X^T (X w - y) / N, of `per_class` examples in all; logits alone have a temperature."""
    experiment = small("model=linear", "data=linear_gaussian", "seeds=[3]", "batch_size=64")
    data = experiment.data(Roots())
    lab = make_lab(experiment, 3, data, torch.device("cpu"))
    state = in_float64(lab.initial())
    state = replace(state, weights={name: torch.ones_like(one) for name, one in state.weights.items()})
    images, labels = drawn(lab, 25)
    assert len(labels) == 25
    x = images.flatten(1).double()
    (name,) = lab.names
    residual = x @ state.weights[name].T - labels.unsqueeze(1)
    gradient = 2 * residual.T @ x / 25
    hessian = 2 * x.T @ x / 25
    found = scored("snip", lab, state, per_class=25)[name]
    torch.testing.assert_close(found, gradient.abs(), rtol=1e-6, atol=1e-9)
    found = scored("grasp", lab, state, per_class=25)[name]
    torch.testing.assert_close(found, gradient @ hessian, rtol=1e-6, atol=1e-9)


def test_what_is_dropped_scores_nothing_and_repeated_pruning_ends_at_its_density(lab_of):
    lab = lab_of()
    state = lab.initial()
    for density in (0.5, 0.2, 0.05):
        for criterion in ("snip", "grasp"):
            state = to(density, criterion)(state, lab)
        for found in (scored("snip", lab, state), scored("grasp", lab, state)):
            assert not any(bool(found[name][~state.masks[name]].count_nonzero()) for name in lab.names)
    assert state.masks.kept == round(0.05 * state.masks.total)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_a_model_without_prunable_weights_is_left_alone(lab_of, criterion):
    lab = lab_of("prunable={exclude: ['*']}")
    assert scored(criterion, lab, lab.initial()) == {}
    assert to(0.5, criterion)(lab.initial(), lab).masks.density == 1


# --- what cannot be scored


class _Half(nn.Module):
    """A model with a layer that nothing comes through."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))


class _Once(torch.autograd.Function):
    """The identity, differentiable once."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return gradient


def test_a_layer_that_the_loss_does_not_depend_on_is_named(lab_of):
    model = _Half()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    lab = replace(lab_of(), model=model, names=("used.weight", "unused.weight"))
    state = State(weights, {}, masks.full(weights, lab.names))
    with pytest.raises(UsageError, match=r"the loss does not depend on 'unused\.weight'.*exclude"):
        scored("snip", lab, state)


def test_an_operation_without_second_derivative_is_told(lab_of):
    lab = lab_of()
    lab.model.register_forward_hook(lambda _module, _inputs, outputs: _Once.apply(outputs))
    assert scored("snip", lab, lab.initial())
    with pytest.raises(UsageError, match=r"cannot be differentiated twice.*snip or synflow"):
        scored("grasp", lab, lab.initial())


def test_frozen_weights_are_refused_before_anything_runs(lab_of):
    lab = lab_of()
    lab.model.get_parameter("fc.weight").requires_grad_(False)
    check_differentiable(Choice("criteria", "magnitude"), lab.model, lab.names)
    experiment = small("procedure=[{prune_to: {criterion: snip, density: 0.5}}, train]")
    with pytest.raises(RecipeError, match=r"criterion 'snip'.*'fc\.weight' is frozen") as refused:
        check_fits(experiment, lab.model, lab.names, lab.dataset.task)
    assert all(isinstance(one, Mistake) and one.place for one in refused.value.mistakes)


@pytest.mark.parametrize(
    ("procedure", "message"),
    [
        ("{prune_to: {density: 1.5}}", "density should be from 0 to 1"),
        ("{prune_bernoulli: {density: 0}}", "'density' should be greater than 0; found 0"),
        ("{prune_bernoulli: {density: 1.5}}", "'density' should be less than or equal to 1; found 1.5"),
        ("{prune_to: {density: 0.5, criterion: {snip: {per_class: 0}}}}", "'per_class' should be greater"),
        (
            "{prune_to: {density: 0.5, criterion: {grasp: {temperature: 0}}}}",
            "'temperature' should be greater",
        ),
        ("{prune: {fraction: 0.5, scope: erk}}", "scope 'erk' says how dense layers are to be"),
        ("{shuffle: {point: start}}", "the point 'start' is never saved before this"),
    ],
)
def test_what_makes_no_sense_is_refused_while_the_recipe_is_read(procedure, message):
    with pytest.raises(RecipeError, match=message) as refused:
        foresee(small(f"procedure=[{procedure}, train]"))
    assert all(mistake.place for mistake in refused.value.mistakes)


# --- layer densities


def erk_counts(shapes: Mapping[str, tuple[int, ...]], density: float) -> list[int]:
    groups = groups_of(Choice("scopes", "erk"), shapes, density)
    return [round(amount * math.prod(shapes[name])) for (name,), amount in groups]


LENET = {"one": (300, 784), "two": (100, 300), "three": (10, 100)}


def test_erk_of_lenet_300_100_by_hand():
    """Shares 1084 : 400 : 110; at 10% the last layer would pass 1, is kept whole, and the others share the rest."""
    assert erk_counts(LENET, 0.05) == [9051, 3340, 919]
    assert erk_counts(LENET, 0.1) == [18714, 6906, 1000]
    assert erk_counts(LENET, 1) == [235200, 30000, 1000]
    assert erk_counts(LENET, 0) == [0, 0, 0]


def test_erk_of_convolutions_counts_the_kernel():
    """(16 + 3 + 3 + 3) / (16 3 3 3) to (32 + 16 + 3 + 3) / (32 16 3 3)."""
    shapes = {"one": (16, 3, 3, 3), "two": (32, 16, 3, 3)}
    one, two = erk_counts(shapes, 0.01)
    assert one + two == round(0.01 * (432 + 4608))
    assert one / two == pytest.approx(25 / 54, rel=0.05)


SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)


@given(shapes=SHAPES, density=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_erk_keeps_exactly_what_is_asked_for_and_no_layer_more_than_it_has(shapes, density):
    named = {f"layer {number}": shape for number, shape in enumerate(shapes)}
    sizes = [math.prod(shape) for shape in shapes]
    counts = erk_counts(named, density)
    assert sum(counts) == round(density * sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    # Layers that are not whole have one ratio of count to the shape's sum, up to rounding.
    rates = [(count - 1) / sum(shape) for count, shape in zip(counts, shapes, strict=True)]
    least = [
        (count + 1) / sum(shape)
        for count, shape, size in zip(counts, shapes, sizes, strict=True)
        if count < size
    ]
    assert max(rates) <= min(least, default=math.inf) + 1e-9


@pytest.mark.parametrize("criterion", ["random", "magnitude"])
def test_a_pruning_with_erk_densities_is_foreseen_and_exact(lab_of, criterion):
    lab = lab_of()
    pruned = to(0.1, criterion, scope=Choice("scopes", "erk"))(lab.initial(), lab)
    shapes = {name: tuple(lab.initial().weights[name].shape) for name in lab.names}
    assert kept_by_layer(lab, pruned) == erk_counts(shapes, 0.1)
    recipe = f"procedure=[{{prune_to: {{criterion: {criterion}, scope: erk, density: 0.1}}}}, train]"
    (only,) = foresee(small(recipe), total=pruned.masks.total)
    assert only.outlook.density == 0.1
    assert only.outlook.kept == pruned.masks.kept


def test_a_scope_that_asks_for_what_there_is_not_is_named():
    scopes._entries["odd"] = replace(scopes["layer"], name="odd", function=lambda sizes, amount: [])
    try:
        with pytest.raises(UsageError, match="scope 'odd' asks for 'sizes'"):
            groups_of(Choice("scopes", "odd"), LENET, 0.5)
    finally:
        del scopes._entries["odd"]


# --- chance


def test_bernoulli_keeps_each_weight_with_its_probability(lab_of):
    """Counts over seeds have the mean and the variance of a binomial; neighbours are independent."""
    p, counts, pairs = 0.3, [], []
    for seed in range(60):
        lab = lab_of(seed=seed)
        mask = torch.cat(
            [one.flatten() for one in stage("prune_bernoulli", density=p)(lab.initial(), lab).masks.values()]
        )
        counts.append(float(mask.sum()))
        pairs.append(float((mask[1:] & mask[:-1]).double().mean()))
    n, found = len(mask), torch.tensor(counts, dtype=torch.float64)
    assert float(found.mean()) == pytest.approx(n * p, abs=4 * math.sqrt(n * p * (1 - p) / 60))
    assert 0.5 < float(found.var()) / (n * p * (1 - p)) < 1.7
    assert sum(pairs) / 60 == pytest.approx(p * p, abs=4 * math.sqrt(p * p * (1 - p * p) / (60 * n)) * 2)


def test_bernoulli_masks_are_nested_in_the_probability_and_drawn_anew_each_time(lab_of):
    lab = lab_of()
    lower, higher = (stage("prune_bernoulli", density=p)(lab.initial(), lab) for p in (0.2, 0.6))
    assert all(bool((lower.masks[name] <= higher.masks[name]).all()) for name in lab.names)
    again = stage("prune_bernoulli", density=0.6)(higher, lab)
    assert again.masks.density == pytest.approx(0.36, abs=0.05)
    assert same(stage("prune_bernoulli", density=1)(higher, lab).masks, higher.masks)


def test_a_density_by_chance_is_foreseen_as_an_expectation():
    procedure = "[{prune_bernoulli: {density: 0.5}}, {prune: {fraction: 0.2}}, {prune_bernoulli: {density: 0.5}}, train]"
    (only,) = foresee(small(f"procedure={procedure}"), total=1000)
    assert only.outlook.density is None
    assert only.outlook.expected == pytest.approx(0.2)
    done = CliRunner().invoke(app, ["plan", "erk", "procedure=[{prune_bernoulli: {density: 0.25}}, train]"])
    assert "25.00% expected" in done.stdout


# --- controls


def test_shuffling_keeps_each_layers_count_and_takes_new_weights_from_the_point(lab_of):
    lab = lab_of()
    start = stage("save", point="start")(lab.initial(), lab)
    pruned = to(0.2, "snip")(start, lab)
    moved = stage("shuffle", point="start")(pruned, lab)
    assert kept_by_layer(lab, moved) == kept_by_layer(lab, pruned)
    for name in lab.names:
        assert not torch.equal(moved.masks[name], pruned.masks[name])
        assert torch.equal(moved.weights[name], torch.where(moved.masks[name], start.weights[name], 0))
    assert moved.weights["fc.bias"] is pruned.weights["fc.bias"]
    assert same(moved.masks, stage("shuffle", point="start")(pruned, lab).masks)


def test_places_are_shuffled_evenly(lab_of):
    """The lowest tenth of a layer's places holds a tenth of what is kept, wherever it was before."""
    lab = lab_of()
    start = stage("save", point="start")(lab.initial(), lab)
    first = lab.names[0]
    half = torch.arange(start.weights[first].numel()) < 0.5 * start.weights[first].numel()
    packed = start.with_masks(start.masks.updated({first: half.view_as(start.weights[first])}))
    moved = stage("shuffle", point="start")(packed, lab).masks[first].flatten()
    assert float(moved[half].double().mean()) == pytest.approx(0.5, abs=0.08)


def test_runs_that_shuffle_from_different_points_share_no_state():
    stages = ["{save: {point: start}}", "{prune_to: {density: 0.5}}", "{shuffle: {point: start}}", "train"]
    orders = ([0, 1, 2, 3], [1, 0, 2, 3])
    names = set()
    for order in orders:
        experiment = small(f"procedure=[{', '.join(stages[number] for number in order)}]")
        names.add(trajectory_digest(experiment, "f", 8, experiment.procedure))
    assert len(names) == 2


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "random"])
def test_a_pruning_and_its_inverse_keep_what_the_other_drops(lab_of, criterion):
    lab = lab_of()
    state = lab.initial()
    plain, inverse = to(0.3, criterion)(state, lab), to(0.7, criterion, invert=True)(state, lab)
    dropped = stage("prune", fraction=0.3, criterion=Choice("criteria", criterion), invert=True)(state, lab)
    for name in lab.names:
        assert torch.equal(plain.masks[name], ~inverse.masks[name])
        assert torch.equal(dropped.masks[name], inverse.masks[name])


def test_recipes_without_invert_have_the_digest_that_they_had():
    plain = small("procedure=[{prune_to: {density: 0.5}}, train]").plain(results_only=True)
    assert "invert" not in json.dumps(plain)
    inverted = small("procedure=[{prune_to: {density: 0.5, invert: true}}, train]").plain(results_only=True)
    assert "invert" in json.dumps(inverted)


# --- known answers of whole networks


def test_magnitude_at_initialization_keeps_the_tails_of_half_normals():
    """VGG-16 drawn as Kaiming-normal: a layer keeps 2 (1 - Phi(t / sigma)), t being of 10% in all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models["cifar_vgg_16"].function(Task((3, 32, 32), 10))
    weights = {name: model.get_parameter(name).detach() for name in prunable_names(model)}
    sizes = {name: weight.numel() for name, weight in weights.items()}
    sigma = {name: math.sqrt(2 / weight[0].numel()) for name, weight in weights.items()}

    def tail(t: float, name: str) -> float:
        return 2 * float(norm.sf(t / sigma[name]))

    total = sum(sizes.values())
    t = brentq(lambda t: sum(sizes[name] * tail(t, name) for name in sizes) - 0.1 * total, 1e-9, 1)
    scores = {name: weight.abs() for name, weight in weights.items()}
    kept = masks.prune_to(masks.full(weights, list(weights)), scores, [(list(weights), 0.1)])
    densities = [float(kept[name].double().mean()) for name in weights]
    for name, found in zip(weights, densities, strict=True):
        expected = tail(t, name)
        error = math.sqrt(expected * (1 - expected) / sizes[name])
        assert found == pytest.approx(expected, abs=5 * error), name
    assert [tail(t, name) for name in weights][:4] == pytest.approx([0.888, 0.517, 0.517, 0.360], abs=5e-4)


@pytest.mark.parametrize("model", ["lenet_300_100", "{cifar_vgg_16: {width: 0.125}}"])
def test_synflow_leaves_no_layer_empty_where_pruning_once_does(lab_of, model):
    lab = lab_of(f"model={model}")
    state = lab.initial()
    for number in range(1, 101):
        state = to(MILLI ** (number / 100), "synflow")(state, lab)
    assert state.masks.kept == round(MILLI * state.masks.total)
    assert min(kept_by_layer(lab, state)) > 0
    assert min(kept_by_layer(lab, to(MILLI)(lab.initial(), lab))) == 0
    if "vgg" in model:
        assert min(kept_by_layer(lab, to(MILLI, "snip")(lab.initial(), lab))) == 0


# --- layers that are empty


def test_layers_that_pruning_empties_are_told_as_it_happens(lab_of):
    heard: list[str] = []
    lab = lab_of("model={mlp: {hidden: [16, 16]}}", "epochs=1", "procedure=[train]", seed=3, say=heard.append)
    only = "{policy: {amounts: {fc.weight: 0}}}"
    stages = f"[{{prune_to: {{density: 1, scope: {only}}}}}, {{prune: {{fraction: 0.5}}}}, train]"
    (level,) = levels(small(f"procedure={stages}").procedure)
    carry_out(level, lab.initial(), lab, None)
    assert heard == ["seed 3, level 0: no weight is left in fc.weight"]


RECIPE = SMALL.replace("epochs: 2", "epochs: 1").replace("seeds: [0]", "seeds: [0, 1]")
EMPTYING = "procedure=[{prune_to: {criterion: random, density: 0.5, scope: {policy: {amounts: {fc.weight: 0}}}}}, train]"


def prunecli_(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def test_compare_tabulates_layers_with_those_that_are_empty(folder):
    done = CliRunner().invoke(app, ["prune", "small.yaml", EMPTYING])
    assert "seed 1, level 0: no weight is left in fc.weight" in done.stderr
    (run,) = (folder / "runs").glob("small-*")
    text = prunecli_("compare", str(run), "--table", "layers")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}
    assert rows["fc_layers.0.weight"] == ["fc_layers.0.weight", "1,024", "512", "50.00"]
    assert rows["fc.weight"] == ["fc.weight", "160", "0", "0.00,", "empty", "2/2"]
    assert "1 of 2 layers are empty" in text
    records = json.loads(prunecli_("compare", str(run), "--table", "layers", "--json"))["layers"]
    assert [
        (one["layer"], one["weights"], one["kept"]["values"], one["density"], one["empty"]) for one in records
    ] == [
        ("fc_layers.0.weight", 1024, [512.0, 512.0], 0.5, 0),
        ("fc.weight", 160, [0.0, 0.0], 0.0, 2),
    ]
    csv = prunecli_("compare", str(run), "--table", "layers", "--format", "csv").splitlines()
    assert len(csv) == 3
    assert csv[0].startswith("run,level,mark,layer,weights,kept_mean")


def test_the_layers_of_chosen_levels_are_tabulated(folder):
    procedure = "procedure=[train, {repeat: {times: 6, stages: [{prune: {fraction: 0.5}}, rewind, train]}}]"
    prunecli_("prune", "small.yaml", procedure, "-q")
    (run,) = (folder / "runs").glob("small-*")
    few = prunecli_("compare", str(run), "--table", "layers", "--level", "2", "--level", "dense")
    assert few.splitlines()[1].split() == [
        "layer",
        "weights",
        "kept",
        "at",
        "0",
        "%",
        "at",
        "0",
        "kept",
        "at",
        "2",
        "%",
        "at",
        "2",
    ]
    assert "level 0: 100% of all weights remain; dense" in few
    every = prunecli_("compare", str(run), "--table", "layers", "--all-levels")
    assert every.splitlines()[1].split() == [
        "layer",
        "weights",
        *(word for n in range(7) for word in ("%", "at", str(n))),
    ]
    done = CliRunner().invoke(app, ["compare", str(run), "--table", "layers", "--level", "9"])
    assert done.exit_code == 4
    assert "it has levels 0 to 6" in done.stderr


def test_the_table_of_layers_needs_no_torch(folder):
    prunecli_("prune", "small.yaml", EMPTYING, "-q")
    code = (
        "import sys; from prunecli.cli.app import app; "
        "app(['compare', *sys.argv[1:]], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    (run,) = (folder / "runs").glob("small-*")
    subprocess.run(
        [sys.executable, "-c", code, str(run), "--table", "layers"], check=True, capture_output=True
    )


# --- through the command line


def test_a_control_that_is_stopped_goes_on_to_the_same_bytes(folder):
    procedure = (
        "procedure=[{save: {point: start}}, {prune_to: {criterion: grasp, density: 0.3}}, {shuffle: {point: start}}, "
        "train, {repeat: {times: 8, stages: [{prune_bernoulli: {density: 0.9}}, rewind, train]}}]"
    )
    options = ["small.yaml", procedure, "epochs=5", "--seeds", "0"]
    prunecli_("prune", *options, "-q", "--runs", "whole")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prunecli",
            "prune",
            *options,
            "--progress",
            "json",
            "--workers",
            "1",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    next(line for line in process.stderr if "EpochDone" in line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 75
    (run,) = (folder / "runs").glob("small-*")
    assert not (run / "store.h5").exists()
    prunecli_("prune", *options, "-q")
    (whole,) = (folder / "whole").glob("small-*")
    assert (run / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_a_store_of_shuffled_masks_is_sound(folder):
    """Masks that grow back are kept level by level."""
    procedure = (
        "procedure=[{save: {point: start}}, train, {repeat: {times: 2, stages: "
        "[{prune: {fraction: 0.5}}, {shuffle: {point: start}}, rewind, train]}}]"
    )
    prunecli_("prune", "small.yaml", procedure, "-q")
    (run,) = (folder / "runs").glob("small-*")
    assert prunecli_("check", str(run)).endswith(": sound\n")
    table = json.loads(prunecli_("compare", str(run), "--json"))["runs"][0]
    assert [level["density"] for level in table["levels"]] == pytest.approx([1, 0.5, 0.25])
