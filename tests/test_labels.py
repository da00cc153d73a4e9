"""Laws of the labels used, of validation splits and of choices of examples."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare
from torch import Tensor

import prunecli.labels
import prunecli.selections  # noqa: F401  (registers the choices of examples)
from prunecli.building import VALIDATION, make_targets
from prunecli.errors import RecipeError, UsageError
from prunecli.labels import _apportioned, check_labels
from prunecli.measuring import measure
from prunecli.registry import Choice, examples, labels
from prunecli.selections import lacking_classes, lacking_in_words, stratified, validation_split

CLASSES = 7
ROTTEN = [[0.7 if i == j else 0.05 for j in range(CLASSES)] for i in range(CLASSES)]
OPTIONS: dict[str, dict[str, Any]] = {  # Any: options are of every type
    "uniform": {"fraction": 0.3},
    "symmetric": {"fraction": 0.3},
    "pair_flip": {"fraction": 0.3},
    "transition": {"matrix": ROTTEN},
    "shuffle": {"fraction": 0.3},
}
COUNTED = ("uniform", "pair_flip")
"""The kinds that change exactly round(fraction x changeable examples) labels."""
NESTED = ("uniform", "symmetric", "pair_flip")
DRAWN = [name for name in labels if labels[name].traits.get("draws", True)]


def _true(count: int = 400, classes: int = 7) -> Tensor:
    return torch.arange(count) * 5 % classes


def _changeable(count: int) -> Tensor:
    return torch.arange(count) % 3 > 0


def _noisy(
    fraction: float, true: Tensor, changeable: Tensor, classes: int, key: int, name: str = "uniform"
) -> Tensor:
    used: Tensor = Choice("labels", name, {"fraction": fraction})(true, changeable, classes, key)
    return used


def _all(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def _table(true: Tensor, used: Tensor, classes: int) -> Tensor:
    """How many examples of each class have each label."""
    return (true * classes + used).bincount(minlength=classes**2).view(classes, classes)


@pytest.mark.parametrize("name", ["clean", *DRAWN])
def test_labels_are_of_the_classes_and_change_only_where_they_may(name: str) -> None:
    true, changeable = _true(), _changeable(400)
    before = true.clone()
    choice = Choice("labels", name, OPTIONS.get(name, {}))
    used = choice(true, changeable, 7, 1)
    assert used.dtype == torch.int64
    assert used.shape == true.shape
    assert ((used >= 0) & (used < 7)).all()
    assert torch.equal(used[~changeable], true[~changeable])
    assert torch.equal(used, choice(true, changeable, 7, 1))
    assert torch.equal(true, before)


@pytest.mark.parametrize("name", COUNTED)
@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(2, 9), st.integers(0, 2**62), st.integers(0, 300))
def test_noise_changes_an_exact_number_of_labels(
    name: str, fraction: float, classes: int, key: int, count: int
) -> None:
    true, changeable = _true(count, classes), _changeable(count)
    used = _noisy(fraction, true, changeable, classes, key, name)
    assert int((used != true).sum()) == round(fraction * int(changeable.sum()))
    assert torch.equal(used[~changeable], true[~changeable])


@pytest.mark.parametrize("name", COUNTED)
def test_a_thousand_draws_change_the_same_number_of_labels(name: str) -> None:
    true, changeable = _true(), _changeable(400)
    counts = {int((_noisy(0.3, true, changeable, 7, key, name) != true).sum()) for key in range(1000)}
    assert counts == {round(0.3 * int(changeable.sum()))}


@pytest.mark.parametrize("name", [*NESTED, "shuffle"])
def test_no_noise_is_clean(name: str) -> None:
    true, changeable = _true(), _changeable(400)
    clean = Choice("labels", "clean")(true, changeable, 7, 3)
    assert torch.equal(_noisy(0, true, changeable, 7, 3, name), clean)


@pytest.mark.parametrize("name", NESTED)
def test_more_noise_changes_more_of_the_same(name: str) -> None:
    true, changeable = _true(), _changeable(400)
    draws = [_noisy(fraction, true, changeable, 7, 5, name) for fraction in (0.05, 0.15, 0.3, 0.6, 1)]
    assert int((draws[-1] != true).sum()) == int(changeable.sum())
    for some, more in pairwise(draws):
        changed = some != true
        assert torch.equal(more[changed], some[changed])


@pytest.mark.parametrize("name", DRAWN)
def test_another_key_is_another_draw(name: str) -> None:
    choice, given = Choice("labels", name, OPTIONS[name]), (_true(), _changeable(400), 7)
    assert not torch.equal(choice(*given, 1), choice(*given, 2))


@pytest.mark.parametrize("name", ["uniform", "symmetric"])
def test_noise_is_uniform_over_the_other_labels_and_over_examples(name: str) -> None:
    true = torch.full((20_000,), 2)
    used = _noisy(0.5, true, _all(20_000), 5, 11, name)
    counts = used.bincount(minlength=5)
    assert chisquare(counts[[0, 1, 3, 4]].numpy()).pvalue > 0.001
    assert chisquare((used != true).view(20, -1).sum(1).numpy()).pvalue > 0.001


@pytest.mark.parametrize("name", NESTED)
def test_noise_needs_another_label(name: str) -> None:
    with pytest.raises(UsageError, match="one class"):
        _noisy(0.5, torch.zeros(4, dtype=torch.int64), _all(4), 1, 0, name)


def test_each_label_changes_with_the_probability_and_by_itself() -> None:
    """The number of changes is binomial: its mean and variance over a thousand draws are those of 400 coins."""
    counts = [
        int((_noisy(0.3, _true(), _all(400), 7, key, "symmetric") != _true()).sum()) for key in range(1000)
    ]
    assert binomtest(sum(counts), 400_000, 0.3).pvalue > 0.001
    # (n - 1) s^2 / sigma^2 is chi-squared with 999 degrees of freedom: within 15% but once in a thousand.
    assert np.var(counts, ddof=1) == pytest.approx(400 * 0.3 * 0.7, rel=0.15)


def test_a_label_flips_to_the_next_class_and_the_last_to_the_first() -> None:
    table = _table(_true(), _noisy(0.5, _true(), _all(400), 7, 3, "pair_flip"), 7)
    for number in range(7):
        assert table[number].nonzero().flatten().tolist() == sorted({number, (number + 1) % 7})


def test_pairs_say_which_label_becomes_which_and_leave_the_other_classes() -> None:
    true = torch.arange(10).repeat(50)
    options = {"fraction": 0.4, "pairs": [[9, 1], [2, 0], [4, 7], [3, 5], [5, 3]]}
    table = _table(true, Choice("labels", "pair_flip", options)(true, _all(500), 10, 3), 10)
    changes = table - torch.diag(table.diagonal())
    assert {tuple(pair) for pair in changes.nonzero().tolist()} == {(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)}
    assert int(changes.sum()) == round(0.4 * 5 * 50)


def test_a_pair_names_classes_that_are_there() -> None:
    choice = Choice("labels", "pair_flip", {"fraction": 0.4, "pairs": [[0, 7]]})
    with pytest.raises(UsageError, match=r"\[0, 7\] names a class that is not there; they are 0 to 6"):
        choice(_true(), _all(400), 7, 0)


def test_a_transition_gives_each_class_exactly_its_shares_in_a_thousand_draws() -> None:
    matrix = [[0.29, 0.7, 0.01], [0, 1, 0], [0.5, 0.25, 0.25]]
    true = torch.arange(300) // 100
    for key in range(1000):
        used = Choice("labels", "transition", {"matrix": matrix})(true, _all(300), 3, key)
        assert _table(true, used, 3).tolist() == [[29, 70, 1], [0, 100, 0], [50, 25, 25]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_shares_are_rounded_by_largest_remainder(count: int, weights: list[int]) -> None:
    """They add up, none is off by one or more, and what has no weight gets nothing."""
    row = [weight / sum(weights) for weight in weights]
    shares = _apportioned(count, row)
    assert sum(shares) == count
    for share, weight, exact in zip(shares, weights, row, strict=True):
        assert abs(share - count * exact) < 1 + 1e-9
        assert weight or not share


def test_remainders_of_a_row_go_to_the_largest_and_then_to_the_lower_class() -> None:
    assert _apportioned(5, [0.5, 0.5, 0]) == [3, 2, 0]
    assert _apportioned(10, [0.14, 0.15, 0.71]) == [1, 2, 7]
    assert _apportioned(100, [0.29, 0.71]) == [29, 71]
    assert _apportioned(0, [0.29, 0.71]) == [0, 0]


def test_the_identity_is_clean_and_a_permutation_renames_every_class() -> None:
    def used(matrix: Tensor) -> Tensor:
        found: Tensor = Choice("labels", "transition", {"matrix": matrix.tolist()})(_true(), _all(400), 7, 1)
        return found

    assert torch.equal(used(torch.eye(7)), _true())
    assert torch.equal(used(torch.eye(7).roll(2, 1)), (_true() + 2) % 7)


def test_a_row_that_keeps_fewer_labels_changes_those_that_one_of_more_changes() -> None:
    """Whatever the labels are that the others get."""

    def changed(kept: float, other: int) -> Tensor:
        own = torch.eye(CLASSES, dtype=torch.float64)
        matrix = kept * own + (1 - kept) * own.roll(other, 1)
        choice = Choice("labels", "transition", {"matrix": matrix.tolist()})
        found: Tensor = choice(_true(), _all(400), CLASSES, 1) != _true()
        return found

    few, more = changed(0.9, 1), changed(0.4, -1)
    assert 0 < int(few.sum()) < int(more.sum())
    assert bool((more | ~few).all())


def test_a_matrix_has_a_row_for_each_class() -> None:
    choice = Choice("labels", "transition", {"matrix": [[1, 0], [0, 1]]})
    with pytest.raises(UsageError, match="2 x 2; the data has 7 classes"):
        choice(_true(), _all(400), 7, 0)


@pytest.mark.parametrize(
    ("value", "place", "told"),
    [
        ("[[0.9, 0.2], [0, 1]]", 31, "'matrix.0' should sum to 1; its 2 entries sum to 1.1"),
        ("[[1, 0], [0.5, 0.4999]]", 39, "'matrix.1' should sum to 1; its 2 entries sum to 0.9999"),
        ("[[1, 0], [1.5, -0.5]]", 40, "'matrix.1.0' should be less than or equal to 1; found 1.5"),
        ("[[1, 0], [1]]", 30, "should be square; it has 2 rows, and row 1 has 1 entries"),
        ("[[1]]", 30, "should have at least 2 items"),
        ("[[1, 0], one]", 39, "found 'one'"),
    ],
)
def test_a_matrix_that_is_none_is_told_with_its_place(value: str, place: int, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        small(f"labels={{transition: {{matrix: {value}}}}}")
    assert any(
        str(one).startswith(f"argument:1:{place}: ") and told in str(one) for one in raised.value.mistakes
    ), str(raised.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[[3, 3]]", r"'pairs' should lead to other labels; \[3, 3\] does not"),
        ("[[3, 4], [3, 5]]", "'pairs' should have each class first once; 3 is first 2 times"),
        ("[[3, 4, 5]]", "at most 2 items"),
        ("[[3, -1]]", "greater than or equal to 0; found -1"),
        ("[]", "at least 1 item"),
    ],
)
def test_pairs_that_are_none_are_told(value: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        small(f"labels={{pair_flip: {{fraction: 0.1, pairs: {value}}}}}")


def test_a_shuffle_keeps_the_number_of_examples_of_each_class() -> None:
    used = _noisy(0.8, _true(), _changeable(400), 7, 2, "shuffle")
    assert torch.equal(used.bincount(), _true().bincount())
    # Of seven equal classes one in seven gets its own label again.
    assert 0.7 < int((used != _true()).sum()) / (0.8 * int(_changeable(400).sum())) < 0.95


@pytest.mark.parametrize("name", DRAWN)
def test_a_function_of_labels_says_what_it_draws_by(name: str) -> None:
    assert labels[name].needs == ("labels", "changeable", "classes", "key")


# --- In a run


def _choice(name: str) -> str:
    matrix = [[0.7 if i == j else 0.3 if j == (i + 1) % 10 else 0 for j in range(10)] for i in range(10)]
    return (
        f"labels={{{name}: {{matrix: {matrix}}}}}"
        if name == "transition"
        else f"labels={{{name}: {{fraction: 0.3}}}}"
    )


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_depends_on_the_seed_and_the_dataset_alone(name: str, digits: Any) -> None:  # Any: a Dataset
    """Not on the model, the procedure, the training or the examples left out; validation labels stay clean."""
    experiment = small(_choice(name), "validation=0.2")
    found = make_targets(experiment, 3, digits)
    held_out = found.split == VALIDATION
    assert bool(found.noisy.any())
    assert not bool(found.noisy[held_out].any())
    other = small(
        _choice(name),
        "validation=0.2",
        "model=lenet_300_100",
        "epochs=9",
        "seeds=[3, 4]",
        "examples={without: {indices: [1, 2]}}",
        "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]",
    )
    assert torch.equal(make_targets(other, 3, digits).used, found.used)
    assert not torch.equal(make_targets(experiment, 4, digits).used, found.used)
    # Without a validation split, which depends on the fingerprint too.
    alone, renamed = small(_choice(name)), dataclasses.replace(digits, fingerprint="0" * 64)
    assert not torch.equal(make_targets(alone, 3, renamed).used, make_targets(alone, 3, digits).used)
    assert torch.equal(digits.train.labels, found.clean)


@pytest.mark.parametrize("name", DRAWN)
def test_losses_are_told_for_the_clean_and_the_noisy_part(name: str, lab_of: Any) -> None:  # Any: a fixture
    lab = lab_of(
        _choice(name), "validation=0.1", "epochs=1", "examples={without: {indices: [0, 1, 2, 3, 4, 5]}}"
    )
    level, _ = measure(0, lab.train(lab.initial(), lab.steps(1), lab.rate_at()), lab, {})
    arrays = level.arrays
    noisy, training = arrays["examples/noisy"] == 1, arrays["examples/split"] == 0
    assert np.array_equal(noisy, arrays["examples/label"] != arrays["examples/clean_label"])
    for part, chosen in (("clean", training & ~noisy), ("noisy", training & noisy)):
        expected = arrays["examples/loss"][chosen].mean(dtype=np.float64)
        assert float(arrays[f"metrics/train_loss_{part}"]) == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(arrays["test/label"], lab.dataset.test.labels.numpy())


def test_labels_that_change_validation_examples_are_refused(
    digits: Any, monkeypatch: Any
) -> None:  # Any: fixtures
    """Whoever draws them: a function of the user's own too."""

    def own(labels: Tensor) -> Tensor:
        return (labels + 1) % 10

    monkeypatch.setitem(labels._entries, "own", dataclasses.replace(labels["clean"], function=own))
    with pytest.raises(
        UsageError, match=r"argument:1:8: labels 'own': 287 of 287 validation examples .* clean labels"
    ):
        make_targets(small("labels=own", "validation=0.2"), 0, digits)
    assert bool((make_targets(small("labels=own"), 0, digits).noisy).all())


def test_labels_are_handed_what_they_ask_for_and_nothing_else(
    digits: Any, monkeypatch: Any
) -> None:  # Any: fixtures
    def own(key: int, labels: Tensor, laebls: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setitem(labels._entries, "own", dataclasses.replace(labels["clean"], function=own))
    with pytest.raises(UsageError, match="labels 'own': asks for 'laebls'; did you mean 'labels'"):
        make_targets(small("labels=own"), 0, digits)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.data(), st.integers(0, 2**62))
def test_a_stratified_choice_gives_each_class_its_share(
    true: list[int], data: st.DataObject, key: int
) -> None:
    count = data.draw(st.integers(0, len(true)))
    positions = stratified(torch.tensor(true), count, key)
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert len(positions) == count
    for number in set(true):
        share = count * true.count(number) / len(true)
        assert abs(sum(true[position] == number for position in positions) - share) < 1


def test_remainders_go_to_the_largest_and_then_to_the_lower_class() -> None:
    true = torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
    assert true[stratified(true, 5, 0)].bincount().tolist() == [2, 2, 1]
    assert true[stratified(true, 1, 0)].bincount(minlength=3).tolist() == [1, 0, 0]


def test_a_class_keeps_its_lowest_hashes() -> None:
    true = _true()
    few, more = stratified(true, 50, 9), stratified(true, 100, 9)
    assert set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, stratified(true, 50, 10))


@pytest.mark.parametrize(
    ("amount", "count"), [(0, 0), (0.0, 0), (50, 50), (0.25, 100), (0.001, 0), (399, 399)]
)
def test_a_validation_split_has_its_amount(amount: float, count: int) -> None:
    held_out = validation_split(_true(), amount, 4)
    assert held_out.dtype == torch.bool
    assert held_out.shape == (400,)
    assert int(held_out.sum()) == count


@pytest.mark.parametrize("amount", [400, 401, 0.9999])
def test_a_validation_split_leaves_something_to_train_on(amount: float) -> None:
    with pytest.raises(UsageError, match=f"{amount} of 400"):
        validation_split(_true(), amount, 4)


CHOSEN: dict[str, tuple[dict[str, Any], list[bool]]] = {  # Any: options are of every type
    "all": ({}, [True] * 6),
    "only": ({"indices": [4, 0, 4]}, [True, False, False, False, True, False]),
    "without": ({"indices": [4, 0, 4]}, [False, True, True, True, False, True]),
    "first": ({"count": 2}, [True, True, False, False, False, False]),
}


# Those that ask for more than a number refer to a run: test_run_examples has them.
@pytest.mark.parametrize("name", [name for name in examples if examples[name].needs == ("size",)])
def test_a_choice_of_examples_marks_those_kept(name: str) -> None:
    options, kept = CHOSEN[name]
    marks = Choice("examples", name, options)(6)
    assert marks.dtype == torch.bool
    assert marks.tolist() == kept


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("only", {"indices": [1, 6, 9]}, "no training example 6, 9; they are numbered 0 to 5"),
        ("without", {"indices": [-1]}, "no training example -1"),
        ("only", {"indices": list(range(20))}, "6, 7, 8, 9, 10 and 9 more"),
        ("without", {"indices": list(range(6))}, "without all 6"),
        ("first", {"count": 7}, "there are 6"),
    ],
)
def test_examples_that_are_not_there_are_named(
    name: str, options: dict[str, Any], told: str
) -> None:  # Any: as above
    with pytest.raises(UsageError, match=told):
        Choice("examples", name, options)(6)


@pytest.mark.parametrize(
    ("used", "message"),
    [
        (torch.tensor([0, 1, 3]), "from 0 to 2; found 3 at example 2$"),
        (torch.tensor([0, -100, 3]), "found -100 at example 1 and 1 more"),
        (torch.tensor([0.0, 1.0, 2.0]), "torch.float32"),
        (torch.tensor([[0], [1], [2]]), r"found \(3, 1\)"),
        (torch.tensor([0, 1]), r"have shape \(3,\); found \(2,\)"),
        ([0, 1, 2], "found list"),
    ],
)
def test_labels_that_are_none_are_told(used, message):
    with pytest.raises(UsageError, match=message):
        check_labels(used, 3, "labels 'mine'", count=3)
    check_labels(torch.tensor([0, 1, 2]), 3, "labels 'mine'", count=3)


def test_classes_that_no_training_example_has_are_found():
    labels, training = torch.tensor([0, 1, 3, 1]), torch.tensor([True, False, True, False])
    assert lacking_classes(labels, training, 5) == (1, 2, 4)
    assert lacking_in_words((1, 2, 4)) == "no training example of classes 1, 2, 4"
    assert lacking_in_words(range(12)).endswith("9 and 2 more")
