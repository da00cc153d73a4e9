"""Criteria that ask for more than weights: laws and known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import small

from prunecli.criteria import synflow
from prunecli.evidence import flow
from prunecli.lab import Lab
from prunecli.procedure import foresee, levels
from prunecli.recipe.library import find
from prunecli.recipe.load import load
from prunecli.state import State

DEEP = "model={mlp: {hidden: [20, 15, 10]}}"


def scores_of(lab: Lab, state: State) -> dict[str, torch.Tensor]:
    return dict(synflow({name: state.weights[name] for name in lab.names}, flow(state, lab)))


def without_biases(state: State) -> State:
    zeros = {name: w if name.endswith("weight") else torch.zeros_like(w) for name, w in state.weights.items()}
    return replace(state, weights=zeros)


def test_as_much_flows_through_each_layer_as_through_all(lab_of):
    """Tanaka et al. (2020), theorem 2; what flows is the product of the absolute matrices, summed."""
    lab = lab_of(DEEP)
    state = without_biases(lab.initial())
    scores = scores_of(lab, state)
    product = torch.ones(64, dtype=torch.float64)
    for name in scores:
        product = state.weights[name].abs().double() @ product
    assert [float(score.sum()) for score in scores.values()] == pytest.approx(
        [float(product.sum())] * 4, rel=1e-12
    )


def test_a_neuron_that_nothing_leaves_scores_nothing(lab_of):
    lab = lab_of(DEEP)
    state = without_biases(lab.initial())
    names = list(lab.names)
    weights = {**state.weights, names[1]: state.weights[names[1]].clone()}
    weights[names[1]][:, 3] = 0
    scores = scores_of(lab, replace(state, weights=weights))
    assert scores[names[0]][3].count_nonzero() == 0
    assert scores[names[0]][4].count_nonzero() == 64


def test_many_small_prunings_empty_no_layer_where_one_does(lab_of):
    """Layers of very unequal sizes, to 100 weights (Tanaka et al., 2020, section 5: maximal critical compression)."""
    lab = lab_of("model={mlp: {hidden: [200, 100, 50]}}")
    stages = {
        "once": "[{prune_to: {criterion: synflow, density: 0.0026}}, train]",
        "often": "[{repeat: {times: 100, stages: [{prune: {criterion: synflow, fraction: 0.057805}}]}}, train]",
    }
    kept = {}
    for name, procedure in stages.items():
        state = lab.initial()
        for stage in levels(small(f"procedure={procedure}").procedure)[0].stages[:-1]:
            state = stage(state, lab)
        kept[name] = [int(state.masks[each].sum()) for each in lab.names]
    assert min(kept["often"]) > 0
    assert min(kept["once"]) < min(kept["often"])


def test_flow_leaves_the_model_and_the_state_as_they_were(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.25}}")
    state = lab.initial()
    before = {name: tensor.clone() for name, tensor in {**state.weights, **state.buffers}.items()}
    training = lab.model.training
    found = flow(state, lab)
    assert lab.model.training == training
    assert all(
        torch.equal(before[name], tensor) for name, tensor in {**state.weights, **state.buffers}.items()
    )
    assert all(tensor.dtype == torch.float64 and bool(tensor.isfinite().all()) for tensor in found.values())


def test_the_recipe_is_one_level_at_exactly_its_density():
    (point,) = load(find("synflow")).points
    (only,) = foresee(point.experiment, 11, 266_200)
    assert only.outlook.density == pytest.approx(0.05, abs=1e-9)
