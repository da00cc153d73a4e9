"""Pruning ranks and drops exact counts, whatever the criterion, scope, fraction, ties and shapes."""

from __future__ import annotations

import pytest
import torch
from conftest import same
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecli import masks
from prunecli.errors import Diverged, UsageError
from prunecli.evidence import gather
from prunecli.masks import Masks
from prunecli.registry import Choice, criteria, scopes
from prunecli.scopes import groups_of

NAMES = ("a", "b", "c")
SHAPES = {"a": (7, 3), "b": (5,), "c": (2, 3, 3, 3)}
SCOPES = {
    "erk": Choice("scopes", "erk"),
    "global": Choice("scopes", "global"),
    "layer": Choice("scopes", "layer"),
    "policy": Choice("scopes", "policy", {"amounts": {"a": 0.5, "b*": 0.0}}),
}


def weights_of(seed: int, ties: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: weight.round() if ties else weight for name, weight in drawn.items()}


def test_every_scope_is_tested():
    assert set(SCOPES) == set(scopes)


@given(
    fraction=st.floats(0, 1),
    again=st.floats(0, 1),
    scope=st.sampled_from(sorted(SCOPES)),
    seed=st.integers(0, 99),
    ties=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_pruning_drops_an_exact_count_and_masks_only_shrink(fraction, again, scope, seed, ties):
    weights = weights_of(seed, ties)
    scores = {name: weight.abs() for name, weight in weights.items()}
    kept = masks.full(weights, NAMES)
    for amount in (fraction, again):
        groups = groups_of(SCOPES[scope], SHAPES, amount)
        new = masks.prune(kept, scores, groups)
        for names, part in groups:
            before = sum(int(kept[name].sum()) for name in names)
            assert sum(int(new[name].sum()) for name in names) == before - round(part * before)
        assert all(bool((new[name] <= kept[name]).all()) for name in NAMES)
        kept = new


@given(density=st.floats(0, 1), scope=st.sampled_from(sorted(SCOPES)), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_pruning_to_a_density_leaves_an_exact_count(density, scope, seed):
    weights = weights_of(seed)
    scores = {name: weight.abs() for name, weight in weights.items()}
    groups = groups_of(SCOPES[scope], SHAPES, density)
    new = masks.prune_to(masks.full(weights, NAMES), scores, groups)
    for names, part in groups:
        total = sum(new[name].numel() for name in names)
        assert sum(int(new[name].sum()) for name in names) == round(part * total)


OF_FILTERS = [entry.name for entry in criteria.entries() if entry.traits.get("filters")]
OF_PROBLEMS = [entry.name for entry in criteria.entries() if entry.traits.get("problem_fits")]
"""Criteria that ask for the problem that data were drawn from; tests/test_chang.py has them."""


@pytest.mark.parametrize("criterion", [name for name in criteria if name not in (*OF_FILTERS, *OF_PROBLEMS)])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_every_criterion_scores_every_weight_and_prunes_exactly(criterion, fraction, lab_of):
    lab = lab_of()
    state = lab.initial()
    scores = Choice("criteria", criterion)(*gather(criteria[criterion].needs, state, lab))
    assert {name: score.shape for name, score in scores.items()} == {
        n: state.weights[n].shape for n in lab.names
    }
    new = masks.prune(state.masks, scores, [(lab.names, fraction)])
    assert new.kept == state.masks.total - round(fraction * state.masks.total)


def test_the_lowest_scores_go_first_and_ties_go_by_position():
    kept = masks.full({"a": torch.zeros(2), "b": torch.zeros(3)}, ("a", "b"))
    scores = {"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([1.0, 0.0, 1.0])}
    new = masks.prune(kept, scores, [(("a", "b"), 0.6)])
    assert new["a"].tolist() == [True, False]
    assert new["b"].tolist() == [False, False, True]


def test_dropped_weights_are_not_ranked_again():
    kept = Masks({"a": torch.tensor([False, True, True, True])})
    new = masks.prune(kept, {"a": torch.tensor([0.0, 1.0, 2.0, 3.0])}, [(("a",), 1 / 3)])
    assert new["a"].tolist() == [False, False, True, True]


def test_a_fraction_of_0_changes_nothing():
    weights = weights_of(0)
    kept = masks.full(weights, NAMES)
    assert same(masks.prune(kept, weights, [(NAMES, 0.0)]), kept)


EDGES = [0.0, -0.0, 1e-40, -1e-40, 1e-45, 1.0, -1.0, 3.0, 3.0000002, float("inf"), float("-inf")]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@given(
    values=st.lists(st.sampled_from(EDGES) | st.floats(-2, 2, width=32), min_size=1, max_size=60),
    kept=st.lists(st.booleans(), min_size=60, max_size=60),
    fraction=st.floats(0, 1),
)
@settings(max_examples=60)
def test_what_is_dropped_is_what_a_stable_order_of_all_scores_puts_first(
    dtype, flushed, values, kept, fraction
):
    """The same ranking as sorting everything, however many tie, and where subnormal numbers count as 0 too."""
    before = torch.tensor(kept[: len(values)])
    scores, count = torch.tensor(values).to(dtype), round(fraction * int(before.sum()))
    torch.set_flush_denormal(flushed)
    try:
        positions = before.nonzero().squeeze(1)
        expected = before.clone()
        expected[positions[scores[positions].argsort(stable=True)[:count]]] = False
        found = masks.prune(Masks({"a": before}), {"a": scores}, [(("a",), fraction)])["a"]
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found, expected)


def test_scores_that_are_nan_are_refused_by_name():
    kept = masks.full({"fc.weight": torch.zeros(2)}, ("fc.weight",))
    with pytest.raises(Diverged, match=r"fc\.weight"):
        masks.prune(kept, {"fc.weight": torch.tensor([1.0, float("nan")])}, [(("fc.weight",), 0.5)])


def test_a_nan_score_of_a_dropped_weight_does_no_harm():
    kept = Masks({"a": torch.tensor([False, True, True])})
    new = masks.prune(kept, {"a": torch.tensor([float("nan"), 1.0, 2.0])}, [(("a",), 0.5)])
    assert new["a"].tolist() == [False, False, True]


def test_a_policy_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UsageError, match="conv"):
        Choice("scopes", "policy", {"amounts": {"conv*": 0.5}})(NAMES, 0.1)


def test_zeroed_is_plus_zero_even_of_infinite_entries():
    tensor = torch.tensor([-1.0, float("inf"), float("nan"), 3.0])
    zeroed = masks.zeroed(tensor, torch.tensor([False, False, False, True]))
    assert zeroed.tolist() == [0.0, 0.0, 0.0, 3.0]
    assert not zeroed.signbit().any()


def test_nan_scores_are_counted_layer_by_layer_and_infinite_ones_rank():
    kept = Masks({"a": torch.tensor([False, True, True, True]), "b": torch.tensor([True])})
    nan, infinite = float("nan"), float("inf")
    scores = {"a": torch.tensor([nan, nan, 1.0, nan]), "b": torch.tensor([nan])}
    with pytest.raises(Diverged, match="2 of 3 scores of 'a', 1 of 1 scores of 'b' are NaN"):
        masks.prune(kept, scores, [(("a", "b"), 0.5)])
    scores = {"a": torch.tensor([nan, infinite, 0.0, -infinite]), "b": torch.tensor([1.0])}
    new = masks.prune(kept, scores, [(("a", "b"), 0.5)])
    assert new["a"].tolist() == [False, True, False, False]
    assert new["b"].tolist() == [True]
