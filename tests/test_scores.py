"""Formulas of scores: known answers, laws, and an independent computation in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional

from prunecli import example_evidence
from prunecli.errors import Diverged, UsageError
from prunecli.example_evidence import (
    ASKED_FOR,
    check_scores,
    example_gradients,
    look,
    over,
    over_runs,
    scored_run,
)
from prunecli.recipe.library import path_of
from prunecli.recipe.load import load
from prunecli.registry import Choice, Registry
from prunecli.score_checks import epoch_of
from prunecli.score_plan import Asked, subsets
from prunecli.scores import EPOCH, RUNS, el2n, forgetting, grand, margin
from prunecli.scoring import stability
from prunecli.store.scores import clashing
from prunecli.training import Manner

SCORES = Registry.all["scores"]
OF_LOGITS = [name for name in SCORES if set(SCORES[name].needs) <= {"logits", "labels"}]
OPTIONS = {"memorization": {"runs": 6, "fraction": 0.5}}


def choice(name: str) -> Choice:
    return Choice("scores", name, OPTIONS.get(name, {}))


def score(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """A score of logits by its name."""
    evidence = {"logits": logits, "labels": labels}
    found: Tensor = choice(name)(*(evidence[need] for need in SCORES[name].needs))
    return found


def drawn(seed: int, examples: int = 7, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (examples,), generator=generator)


# --- Known answers


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("el2n", lambda c: math.sqrt((c - 1) / c)),
        ("entropy", math.log),
        ("loss", math.log),
        ("margin", lambda c: 0.0),
    ],
)
def test_a_uniform_prediction_has_a_known_score(name, expected, classes):
    logits, labels = torch.full((2, classes), 3.5, dtype=torch.float64), torch.tensor([0, classes - 1])
    assert score(name, logits, labels).numpy() == pytest.approx([expected(classes)] * 2, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("el2n", 0.0, math.sqrt(2)), ("entropy", 0.0, 0.0), ("loss", 0.0, 800.0), ("margin", 800.0, -800.0)],
)
def test_a_certain_prediction_has_a_known_score(name, right, wrong):
    logits = torch.tensor([[800.0, 0.0, 0.0]] * 2, dtype=torch.float64)
    assert score(name, logits, torch.tensor([0, 1])).tolist() == pytest.approx([right, wrong], abs=1e-12)


def computed(name: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The formulas, written again with numpy and scipy."""
    every, p = np.arange(len(labels)), softmax(logits, axis=1)
    if name == "el2n":
        wrong = p.copy()
        wrong[every, labels] -= 1
        return np.sqrt((wrong**2).sum(1))
    if name == "loss":
        return -log_softmax(logits, axis=1)[every, labels]
    if name == "entropy":
        return -(p * log_softmax(logits, axis=1)).sum(1)
    others = np.array([max(np.delete(row, label)) for row, label in zip(logits, labels, strict=True)])
    return logits[every, labels] - others


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12))
def test_scores_of_logits_are_those_of_an_independent_computation(seed, classes):
    logits, labels = drawn(seed, 9, classes)
    for name in OF_LOGITS:
        found = score(name, logits, labels)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(
            found, computed(name, logits.numpy(), labels.numpy()), rtol=1e-10, atol=1e-12
        )


def test_every_score_of_logits_is_computed_here_too():
    assert set(OF_LOGITS) == {"el2n", "loss", "entropy", "margin"}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_adding_a_number_to_all_logits_changes_no_score(name):
    logits, labels = drawn(3)
    torch.testing.assert_close(score(name, logits + 5, labels), score(name, logits, labels))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_el2n_is_within_its_range_and_grows_as_the_label_gets_less_likely(seed):
    logits, labels = drawn(seed)
    before = el2n(logits, labels)
    assert ((before >= 0) & (before <= math.sqrt(2))).all()
    lower = logits - functional.one_hot(labels, 5)
    assert (el2n(lower, labels) > before).all()


def test_margin_is_negative_exactly_where_the_prediction_is_another():
    logits, labels = drawn(5, examples=200)
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(1) == labels)


# --- GraNd


def test_grand_of_a_linear_model_is_el2n_times_the_length_of_its_input():
    """dL/dW = (p - y) x', dL/db = p - y: the norm is ||p - y|| sqrt(|x|^2 + 1)."""
    torch.manual_seed(0)
    model, images, labels = nn.Linear(6, 4).double(), torch.randn(5, 6).double(), torch.arange(5) % 4
    found = grand(example_gradients(model, images, labels, Manner()))
    # The loss is taken of float32 logits, as training's is.
    expected = el2n(model(images).detach(), labels) * (images.square().sum(1) + 1).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [[], ["model={cifar_resnet_20: {width: 0.25}}"], ["model=lenet_5", "memory_format=channels_last"]],
)
def test_grand_is_the_norm_of_each_examples_own_gradient(lab_of, overrides):
    lab = lab_of(*overrides, "examples={first: {count: 20}}")
    found = look(lab, lab.initial(), [choice("grand")]).scores["grand"]
    (images,) = lab.dataset.train.images.batches([torch.arange(3)], example_evidence.Augment(), lab.device)
    lab.model.eval()
    for position in range(3):
        lab.model.zero_grad()
        logits = lab.model(images[position : position + 1])
        functional.cross_entropy(logits, lab.targets.used[position : position + 1]).backward()
        squares = sum(float(p.grad.double().square().sum()) for p in lab.model.parameters())
        assert float(found[position]) == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_grand_takes_no_more_gradients_at_a_time_than_there_is_memory_for(lab_of, monkeypatch):
    lab, taken = lab_of(), []
    whole = look(lab, lab.initial(), [choice("grand")]).scores["grand"]
    size = 4 * sum(parameter.numel() for parameter in lab.model.parameters())
    monkeypatch.setattr(example_evidence, "GRADIENT_BYTES", 10 * size)
    of_each = example_evidence.example_gradients

    def counted(model: nn.Module, images: Tensor, labels: Tensor, manner: Manner) -> object:
        taken.append(len(images))
        return of_each(model, images, labels, manner)

    monkeypatch.setattr(example_evidence, "example_gradients", counted)
    found = look(lab, lab.initial(), [choice("grand")]).scores["grand"]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-7)
    assert max(taken) == 10
    assert sum(taken) == len(lab.dataset.train)


# --- Over epochs


@pytest.mark.parametrize(
    ("right", "forgotten", "first"),
    [
        ("0000", 4, 5),
        ("1111", 0, 1),
        ("0001", 0, 4),
        ("1000", 1, 1),
        ("1010", 2, 1),
        ("0101", 1, 2),
        ("0110", 1, 2),
    ],
)
def test_forgetting_events_and_the_first_learning_event_are_counted(right, forgotten, first):
    correct = torch.tensor([[digit == "1"] for digit in right])
    assert choice("forgetting")(correct).item() == forgotten
    assert choice("first_learned")(correct).item() == first


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_scores_over_epochs_are_those_of_an_independent_computation(epochs, seed):
    correct = np.random.default_rng(seed).random((epochs, 6)) < 0.5
    p = np.random.default_rng(seed + 1).random((epochs, 6))
    for example in range(6):
        column = correct[:, example].tolist()
        events = sum(a and not b for a, b in pairwise(column))
        assert forgetting(torch.tensor(correct))[example] == (events if any(column) else epochs)
        first = column.index(True) + 1 if any(column) else epochs + 1
        assert choice("first_learned")(torch.tensor(correct))[example] == first
    np.testing.assert_allclose(choice("confidence")(torch.tensor(p)), p.mean(0))
    np.testing.assert_allclose(
        choice("variability")(torch.tensor(p)), np.sqrt(((p - p.mean(0)) ** 2).mean(0)), atol=1e-12
    )


def test_what_is_never_learned_is_forgotten_more_than_anything_else_can_be():
    for epochs in range(2, 9):
        most = torch.arange(epochs).unsqueeze(1) % 2 == 0
        assert forgetting(most).item() < forgetting(torch.zeros(epochs, 1, dtype=torch.bool)).item()


# --- Over runs


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**31))
def test_memorization_is_the_difference_of_two_means(runs, seed):
    generator = np.random.default_rng(seed)
    correct, trained = (generator.random((2, runs, 8)) < 0.6).tolist()
    found = over_runs(choice("memorization"), torch.tensor(correct), torch.tensor(trained)).mean(0)
    for example in range(8):
        inside = [correct[r][example] for r in range(runs) if trained[r][example]]
        outside = [correct[r][example] for r in range(runs) if not trained[r][example]]
        if inside and outside:
            assert found[example].item() == pytest.approx(np.mean(inside) - np.mean(outside), abs=1e-12)
        else:
            assert math.isnan(found[example])


def test_what_is_right_only_when_trained_on_is_memorized():
    trained = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    assert over_runs(choice("memorization"), trained, trained).mean(0).tolist() == [1, 1]
    assert over_runs(choice("memorization"), torch.ones_like(trained), trained).mean(0).tolist() == [0, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.floats(0.05, 0.95), st.integers(0, 100))
def test_each_example_is_in_exactly_its_share_of_the_runs(runs, fraction, seed):
    asked = Choice("scores", "memorization", {"runs": runs, "fraction": fraction})
    found = subsets(seed, asked, 50)
    assert found.shape == (runs, 50)
    assert (found.sum(0) == round(fraction * runs)).all()


def test_subsets_are_drawn_for_each_seed_and_example_alone(monkeypatch):
    from prunecli import score_plan

    asked = choice("memorization")
    found = subsets(1, asked, 400)
    assert not torch.equal(found, subsets(2, asked, 400))
    assert torch.equal(found[:, :100], subsets(1, asked, 100))
    # 20 ways to be in three of six runs: each is some example's, and no two runs have the same examples.
    assert len(found.unique(dim=1).T) == 20
    assert len(found.unique(dim=0)) == 6
    assert 150 < int(found[0].sum()) < 250
    monkeypatch.setattr(score_plan, "_AT_ONCE", 42)
    score_plan._drawn.cache_clear()
    assert torch.equal(subsets(1, asked, 400), found)


# --- Laws of every score


@pytest.mark.parametrize("name", SCORES)
def test_scores_move_with_their_examples(name):
    """A score is of an example: another order of the examples is the same scores in another order."""
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    logits, labels = drawn(1)
    first, second = torch.rand(2, 4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    evidence = {
        "logits": logits,
        "labels": labels,
        "correct": first < 0.5,
        "probability": first,
        "trained": second < 0.5,
    }
    moved = {key: value[:, order] if len(value) == 4 else value[order] for key, value in evidence.items()}
    evidence["gradients"] = {"a": logits.unsqueeze(2), "b": 2 * logits}
    moved["gradients"] = {"a": logits[order].unsqueeze(2), "b": 2 * logits[order]}
    there, here = (choice(name)(*(kept[need] for need in SCORES[name].needs)) for kept in (moved, evidence))
    torch.testing.assert_close(there, here[..., order], equal_nan=True)
    assert here.shape == ((4, 7) if over(choice(name)) == RUNS else (7,))


@pytest.mark.parametrize("name", SCORES)
def test_every_score_asks_for_what_there_is_and_has_a_name_of_its_own(name):
    assert set(SCORES[name].needs) <= set(ASKED_FOR[over(choice(name))])
    assert not clashing(sorted(SCORES))


@pytest.mark.parametrize(
    ("names", "clash"),
    [(["a", "a"], "a"), (["a", "a_runs"], "a_runs"), (["label"], "label"), (["a/b"], "a/b")],
)
def test_a_name_stands_for_one_thing_in_a_store(names, clash):
    assert clashing(names) == clash


# --- What a run sees


def test_a_run_is_scored_by_its_state_at_the_epoch(lab_of):
    """An independent way to EL2N: train so many steps, look with numpy."""
    lab = lab_of("epochs=3", "labels={uniform: {fraction: 0.3}}", "validation=0.2", "augmentation=[flip]")
    found = scored_run(lab, [(choice("el2n"), 2.0)], lab.rate_at())["el2n"]
    state = lab.train(lab.initial(), lab.steps(2), lab.rate_at())
    (images,) = lab.dataset.train.images.batches(
        [torch.arange(len(found))], example_evidence.Augment(), lab.device
    )
    weights = {name: tensor.double().numpy() for name, tensor in state.weights.items()}
    hidden, names = images.flatten(1).double().numpy(), list(weights)
    for number in range(0, len(names), 2):
        hidden = hidden @ weights[names[number]].T + weights[names[number + 1]]
        hidden = np.maximum(hidden, 0) if number + 2 < len(names) else hidden
    np.testing.assert_allclose(found, computed("el2n", hidden, lab.targets.used.numpy()), atol=1e-5)


def test_a_score_does_not_depend_on_what_else_is_asked_for(lab_of):
    lab = lab_of(
        "epochs=3",
        "model={cifar_resnet_20: {width: 0.13}}",
        "examples={first: {count: 150}}",
        "batch_size=50",
    )
    alone = scored_run(lab, [(choice("el2n"), 2.0)], lab.rate_at())
    every = [
        (choice(name), 2.0 if over(choice(name)) == EPOCH else 3.0)
        for name in SCORES
        if over(choice(name)) != RUNS
    ]
    together = scored_run(lab, every, lab.rate_at())
    assert list(together) == sorted(name for name in SCORES if name != "memorization")
    assert torch.equal(together["el2n"], alone["el2n"])


def test_scores_over_epochs_look_after_each_epoch(lab_of):
    lab = lab_of("epochs=4")
    found = scored_run(lab, [(choice("confidence"), 3.5), (choice("forgetting"), 3.5)], lab.rate_at())
    seen = []
    for epoch in (1, 2, 3):
        state = lab.train(lab.initial(), lab.steps(epoch), lab.rate_at())
        seen.append(look(lab, state, ()))
    assert torch.equal(found["confidence"], torch.stack([one.probability for one in seen]).mean(0))
    assert torch.equal(found["forgetting"], forgetting(torch.stack([one.correct for one in seen])))


def test_looking_changes_nothing(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.13}}", "examples={first: {count: 60}}")
    state = lab.initial()
    for mode in ("evaluation", "training"):
        generator = torch.get_rng_state()
        look(lab, state, [choice("el2n")], mode)
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(tensor, state.buffers[name]) for name, tensor in lab.model.named_buffers())
        assert all(torch.equal(tensor, state.weights[name]) for name, tensor in lab.model.named_parameters())


def test_batch_statistics_count_in_training_mode_alone(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.13}}", "examples={first: {count: 60}}")
    first, second = (
        look(lab, lab.initial(), [choice("el2n")], mode).scores["el2n"] for mode in ("evaluation", "training")
    )
    assert not torch.allclose(first, second)


def test_a_score_that_is_not_finite_names_itself(lab_of):
    lab = lab_of()
    state = lab.initial()
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.weights.items()}
    lab = beginning_with(lab, broken)
    with pytest.raises(Diverged, match=r"score 'el2n' of 1,437 of 1,437 examples is NaN or infinite"):
        scored_run(lab, [(choice("el2n"), 0.0)], lab.rate_at())


def beginning_with(lab, weights):
    """The lab, beginning with other weights."""

    class Begun(type(lab)):
        def initial(self):
            return super().initial().with_weights(weights, {})

    return Begun(**vars(lab))


@pytest.mark.parametrize(
    ("score", "mode", "said"),
    [
        ("python:own_scores:shapeless", "evaluation", r"gives torch.float32 \(\); it should give real numbers of shape \(2,\)"),
        ("python:own_scores:nothing", "evaluation", "gives NoneType"),
        ("python:own_scores:curious", "evaluation", "asks for 'logit'; did you mean 'logits'"),
        ("python:own_scores:epochal", "evaluation", r"gives torch.float32 \(3, 4\); it should give real numbers of shape \(4,\)"),
        ("python:own_scores:early", "evaluation", "is taken over 'epohcs'; did you mean 'epochs'"),
        ("python:own_scores:many", "evaluation", "needs the options 'runs' and 'fraction'"),
        ("grand", "training", "it needs --mode evaluation"),
    ],
)  # fmt: skip
def test_a_score_that_cannot_be_taken_is_found_before_training(
    lab_of, tmp_path, monkeypatch, score, mode, said
):
    (tmp_path / "own_scores.py").write_text(
        "def shapeless(logits): return logits.float().sum()\n"
        "def nothing(labels): return None\n"
        "def curious(logit): return logit\n"
        "def epochal(correct): return correct.float()\n"
        "epochal.traits = {'over': 'epochs'}\n"
        "def early(correct): return correct\n"
        "early.traits = {'over': 'epohcs'}\n"
        "def many(correct): return correct\n"
        "many.traits = {'over': 'runs'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=said):
        check_scores(lab_of(), [Choice("scores", score)], mode)


def test_a_model_whose_gradients_cannot_be_taken_one_by_one_is_named(lab_of):
    lab = lab_of()

    class Looks(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images) * (2.0 if float(images.sum().item()) > 0 else 1.0)

    with pytest.raises(
        UsageError, match=r"score 'grand': torch.func cannot take .* model 'mlp' .*leave this score out"
    ):
        check_scores(type(lab)(**{**vars(lab), "model": Looks(lab.model)}), [choice("grand")], "evaluation")


# --- The epoch, and the stability


@pytest.mark.parametrize(
    ("recipe", "epoch"),
    [
        ("imp_lrr", 4),
        ("imp_weight_rewinding", 2),
        ("jin2022/resnet20_cifar10", 10),
        ("jin2022/lenet_mnist", 4),
        ("one_shot", 4),
    ],
)
def test_the_epoch_is_the_rewinding_point_or_a_tenth(lab_of, recipe, epoch):
    experiment = load(path_of(recipe)).points[0].experiment
    asked, lab = Asked((choice("el2n"),)), lab_of()
    assert epoch_of(choice("el2n"), asked, experiment, lab) == epoch
    assert epoch_of(choice("forgetting"), asked, experiment, lab) == experiment.epochs
    assert epoch_of(choice("memorization"), asked, experiment, lab) == experiment.epochs


@pytest.mark.parametrize(("epochs", "epoch"), [(0.5, 0.5), (1, 1), (3, 1), (24, 2), (26, 3)])
def test_a_tenth_is_a_whole_epoch_at_least(lab_of, epochs, epoch):
    asked = Asked((choice("el2n"),))
    assert epoch_of(choice("el2n"), asked, small(f"epochs={epochs}", "learning_rate=0.1"), lab_of()) == epoch


def test_stability_is_the_rank_correlation_of_halves():
    rows = np.random.default_rng(0).random((4, 50))

    def average(chosen):
        return rows[chosen].mean(0)

    assert -1 <= stability(average, 4) <= 1
    assert stability(lambda chosen: np.arange(5.0) ** len(chosen), 6) == pytest.approx(1)
    assert stability(lambda chosen: np.arange(5.0) * (1 if 0 in chosen else -1), 2) == pytest.approx(-1)
    assert math.isnan(stability(average, 1))
    assert math.isnan(stability(lambda chosen: np.ones(5), 4))
    assert stability(lambda chosen: np.array([1.0, 2.0, np.nan, 3.0]), 2) == pytest.approx(1)


def test_more_runs_of_a_noisy_score_are_more_stable():
    truth, noise = np.random.default_rng(1).random(300), np.random.default_rng(2).random((40, 300))
    found = [stability(lambda chosen: truth + noise[chosen].mean(0), runs) for runs in (2, 10, 40)]
    assert found == sorted(found)
    assert found[-1] > 0.9
