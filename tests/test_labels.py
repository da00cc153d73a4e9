"""Laws of the labels used, of validation splits and of choices of examples."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

import prunecli.labels
import prunecli.selections  # noqa: F401  (registers the choices of examples)
from prunecli.errors import UsageError
from prunecli.labels import check_labels
from prunecli.registry import Choice, examples, labels
from prunecli.selections import lacking_classes, lacking_in_words, stratified, validation_split

OPTIONS = {"uniform": {"fraction": 0.3}}


def _true(count: int = 400, classes: int = 7) -> Tensor:
    return torch.arange(count) * 5 % classes


def _changeable(count: int) -> Tensor:
    return torch.arange(count) % 3 > 0


def _noisy(fraction: float, true: Tensor, changeable: Tensor, classes: int, key: int) -> Tensor:
    used: Tensor = Choice("labels", "uniform", {"fraction": fraction})(true, changeable, classes, key)
    return used


@pytest.mark.parametrize("name", labels)
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


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(2, 9), st.integers(0, 2**62), st.integers(0, 300))
def test_noise_changes_an_exact_number_of_labels(fraction: float, classes: int, key: int, count: int) -> None:
    true, changeable = _true(count, classes), _changeable(count)
    used = _noisy(fraction, true, changeable, classes, key)
    assert int((used != true).sum()) == round(fraction * int(changeable.sum()))
    assert torch.equal(used[~changeable], true[~changeable])


def test_no_noise_is_clean() -> None:
    true, changeable = _true(), _changeable(400)
    assert torch.equal(_noisy(0, true, changeable, 7, 3), Choice("labels", "clean")(true, changeable, 7, 3))


def test_more_noise_changes_more_of_the_same() -> None:
    true, changeable = _true(), _changeable(400)
    draws = [_noisy(fraction, true, changeable, 7, 5) for fraction in (0.05, 0.15, 0.3, 0.6, 1)]
    for some, more in pairwise(draws):
        changed = some != true
        assert torch.equal(more[changed], some[changed])


def test_another_key_is_another_draw() -> None:
    true, changeable = _true(), _changeable(400)
    assert not torch.equal(_noisy(0.3, true, changeable, 7, 1), _noisy(0.3, true, changeable, 7, 2))


def test_noise_is_uniform_over_the_other_labels_and_over_examples() -> None:
    true = torch.full((20_000,), 2)
    used = _noisy(0.5, true, torch.ones(20_000, dtype=torch.bool), 5, 11)
    counts = used.bincount(minlength=5)
    assert chisquare(counts[[0, 1, 3, 4]].numpy()).pvalue > 0.001
    assert chisquare((used != true).view(20, -1).sum(1).numpy()).pvalue > 0.001


def test_noise_needs_another_label() -> None:
    with pytest.raises(UsageError, match="one class"):
        _noisy(0.5, torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool), 1, 0)


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


@pytest.mark.parametrize("name", examples)
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
