"""What each stage does to a state, what it foresees, and how procedures are cut into levels."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, same, small

from prunecli.errors import RecipeError
from prunecli.procedure import carry_out, dense_end, foresee, levels, unroll
from prunecli.recipe.load import load_text
from prunecli.registry import Choice, stages
from prunecli.runs import run_digest
from prunecli.trajectories import prefix_digest


def stage(name: str, **options: object) -> Choice:
    return Choice("stages", name, options)


def cut(procedure: str) -> list[list[str]]:
    return [[s.name for s in level.stages] for level in levels(small(f"procedure={procedure}").procedure)]


def test_learning_rate_rewinding_keeps_weights_and_statistics(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.125}}", "examples={first: {count: 300}}")
    trained = lab.train(lab.initial(), 4, lab.rate_at())
    rewound = stage("rewind")(trained, lab)
    assert same(rewound.weights, trained.weights)
    assert same(rewound.buffers, trained.buffers)
    assert (rewound.step, rewound.spent, rewound.optimizer) == (0, 4, {})


def test_momentum_is_kept_where_the_recipe_says_so(lab_of):
    lab = lab_of()
    trained = lab.train(lab.initial(), 4, lab.rate_at())
    assert trained.optimizer
    assert same(stage("rewind", momentum="keep")(trained, lab).optimizer, trained.optimizer)


def test_weight_rewinding_restores_everything_under_the_masks(lab_of):
    lab = lab_of("model={cifar_resnet_20: {width: 0.125}}", "examples={first: {count: 300}}")
    early = stage("save", point="early")(lab.train(lab.initial(), 2, lab.rate_at()), lab)
    late = lab.train(early, 3, lab.rate_at())
    pruned = stage("prune", fraction=0.5)(late, lab)
    rewound = stage("rewind", what="weights", to="early")(pruned, lab)
    assert (rewound.step, rewound.spent) == (2, 5)
    assert same(rewound.buffers, early.buffers)
    assert same(rewound.masks, pruned.masks)
    for name, weight in rewound.weights.items():
        expected = early.weights[name]
        if name in pruned.masks:
            expected = torch.where(pruned.masks[name], expected, torch.zeros(()))
        assert torch.equal(weight, expected)


def test_reinitialize_draws_afresh_under_the_masks(lab_of):
    lab = lab_of()
    pruned = stage("prune", fraction=0.5)(lab.initial(), lab)
    drawn = stage("reinitialize")(pruned, lab)
    for name, mask in drawn.masks.items():
        assert not drawn.weights[name][~mask].any()
        assert not torch.equal(drawn.weights[name], pruned.weights[name])
    assert same(drawn.weights, stage("reinitialize")(pruned, lab).weights)


def test_random_pruning_draws_by_seed_and_moment(lab_of):
    lab, other = lab_of(), lab_of(seed=1)
    random = stage("prune", criterion=Choice("criteria", "random"), fraction=0.5)
    first = random(lab.initial(), lab)
    assert same(first.masks, random(lab.initial(), lab).masks)
    assert not same(first.masks, random(other.initial(), other).masks)
    assert not same(first.masks, random(lab.train(lab.initial(), 1, lab.rate_at()), lab).masks)


def test_prune_to_follows_a_schedule(lab_of):
    lab = lab_of()
    state = lab.train(lab.initial(), lab.steps(1), lab.rate_at())
    halved = stage("prune_to", density=Choice("schedules", "linear", {"start": 1.0, "end": 0.0}))(state, lab)
    assert halved.masks.kept == round(0.5 * state.masks.total)


def test_training_on_past_the_end_is_fine_tuning_at_the_last_rate(lab_of):
    lab = lab_of()
    seen = []
    lab = lab_of(watch=seen.append)
    ended = stage("train")(lab.initial(), lab)
    assert seen[-1].rate == pytest.approx(0.01)
    stage("train", epochs=1.0)(ended, lab)
    assert seen[-1].rate == pytest.approx(0.01)
    stage("train", epochs=1.0, learning_rate=Choice("schedules", "constant", {"value": 0.5}))(ended, lab)
    assert seen[-1].rate == 0.5


def test_repeat_is_written_out():
    procedure = small(
        "procedure=[train, {repeat: {times: 2, stages: [rewind, {repeat: {times: 2, stages: [save: {point: a}]}}]}}]"
    )
    assert [s.name for s in unroll(procedure.procedure)] == ["train", *["rewind", "save", "save"] * 2]


@pytest.mark.parametrize(
    ("procedure", "expected"),
    [
        ("[train]", [["train"]]),
        ("[train, {prune: {fraction: 0.2}}, rewind, train]", [["train"], ["prune", "rewind", "train"]]),
        ("[train, rewind, train]", [["train"], ["rewind", "train"]]),
        ("[{prune: {fraction: 0.2}}, train]", [["prune", "train"]]),
        ("[{train: {until: 1}}, {save: {point: a}}, train]", [["train", "save", "train"]]),
        (
            "[train, {prune: {fraction: 0.2}}, {prune: {fraction: 0.2}}, rewind, train, {prune: {fraction: 0.2}}]",
            [["train"], ["prune", "prune", "rewind", "train"], ["prune"]],
        ),
    ],
)
def test_a_level_begins_where_masks_or_clocks_first_change_after_training(procedure, expected):
    assert cut(procedure) == expected


def test_prunings_without_training_between_are_one_event():
    procedure = "[train, {prune: {fraction: 0.2}}, {prune: {fraction: 0.2}}, rewind, train]"
    assert [level.event for level in levels(small(f"procedure={procedure}").procedure)] == [None, (0, 1)]


@pytest.mark.parametrize(
    ("procedure", "dense"),
    [
        ("[train]", 1),
        ("[train, rewind, train]", 2),
        ("[train, {prune: {fraction: 0.2}}]", 1),
        ("[{prune: {fraction: 0.2}}]", 0),
    ],
)
def test_dense_training_ends_at_the_first_pruning(procedure, dense):
    assert dense_end(small(f"procedure={procedure}").procedure) == dense


def test_training_that_comes_to_no_step_is_found_before(digits):
    from prunecli.runs import fitting_lab, levels_of

    with pytest.raises(RecipeError, match="nothing to do"):
        levels_of(
            fitting_lab(small("procedure=[{repeat: {times: 20, stages: [{train: {epochs: 0.05}}]}}]"), digits)
        )
    (level,) = levels_of(
        fitting_lab(small("procedure=[{repeat: {times: 10, stages: [{train: {epochs: 0.1}}]}}]"), digits)
    )
    assert level.outlook.spent == 10 / 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer={sgd: {nesterov: true}}", "Nesterov"),
        (
            "procedure=[{prune: {fraction: 0.5, scope: {policy: {amounts: {'conv*': 0.5}}}}}]",
            "matches no prunable",
        ),
        ("augmentation=[{random_resized_crop: {size: 4}}]", "makes images 4x4"),
    ],
)
def test_what_does_not_fit_the_model_or_the_data_is_found_before(digits, override, message):
    from prunecli.errors import UsageError
    from prunecli.runs import fitting_lab

    with pytest.raises(UsageError, match=message):
        fitting_lab(small(override), digits)


def test_every_stage_foresees():
    assert all("foresee" in entry.traits or entry.traits.get("macro") for entry in stages.entries())


def test_what_is_foreseen_is_what_happens(lab_of):
    procedure = (
        "[{train: {until: 0.5}}, {save: {point: early}}, train, {prune: {fraction: 0.2}}, "
        "{rewind: {what: weights, to: early}}, train, {prune_to: {density: 0.3}}, {rewind: {to: 1}}, {train: {epochs: 0.5}}]"
    )
    lab = lab_of(f"procedure={procedure}")
    state = lab.initial()
    for foreseen in foresee(lab.experiment):
        for one in foreseen.level.stages:
            state = one(state, lab)
        outlook = foreseen.outlook
        assert (lab.epoch(state.step), lab.epoch(state.spent)) == (outlook.step, outlook.spent)
        assert state.masks.density == pytest.approx(outlook.density, abs=1e-3)


@pytest.mark.parametrize(
    ("procedure", "message"),
    [
        ("[train, {rewind: {what: weights, to: early}}, train]", "point 'early' is never saved"),
        ("[train, {save: {point: earl}}, {rewind: {to: early}}, train]", "did you mean 'earl'"),
        ("[train, {rewind: {what: weights}}, train]", "needs the name of a saved point"),
        ("[train, train]", "nothing to do"),
        ("[{train: {epochs: 1, until: 2}}]", "not both"),
        ("[{rewind: {to: 1}}, train]", "past epoch 0"),
        ("[train, {prune_to: {density: {constant: {value: 1.5}}}}]", "from 0 to 1"),
        (
            "[{train: {learning_rate: {cyclic: {to: 9, then: {constant: {value: 1}}}}}}]",
            "not before its period",
        ),
    ],
)
def test_a_procedure_that_could_not_be_carried_out_is_found_before(procedure, message):
    text = SMALL.replace("[train]", procedure)
    with pytest.raises(RecipeError, match=message) as caught:
        foresee(load_text(text, "small.yaml").points[0].experiment)
    assert "small.yaml:9:" in str(caught.value)


def test_all_mistakes_of_a_procedure_come_together_and_once():
    procedure = "[train, {repeat: {times: 3, stages: [{rewind: {to: nowhere}}, {rewind: {what: weights}}]}}]"
    with pytest.raises(RecipeError) as caught:
        foresee(small(f"procedure={procedure}"))
    assert len(caught.value.mistakes) == 2


def test_a_repeat_that_explodes_is_refused():
    nested = "{repeat: {times: 1000, stages: [{repeat: {times: 1000, stages: [{save: {point: a}}]}}]}}"
    with pytest.raises(RecipeError, match="more than 100,000 stages"):
        foresee(small(f"procedure=[{nested}]"))


def test_a_prefix_is_named_by_what_led_to_it_alone():
    pruned = small("procedure=[train, {prune: {fraction: 0.2}}, rewind, train]")
    other = small("procedure=[train, {prune: {fraction: 0.5}}, rewind, train]")
    assert prefix_digest(pruned, "f", 0) == prefix_digest(other, "f", 0)
    assert prefix_digest(pruned, "f", 1) != prefix_digest(other, "f", 1)
    assert prefix_digest(pruned, "f", 0) != prefix_digest(pruned, "g", 0)
    assert prefix_digest(small("batch_size=100"), "f", 0) != prefix_digest(small(), "f", 0)


def error_of(lab, state) -> float:
    """The test error of a state, in percent."""
    seen = lab.outcomes(state, lab.dataset.test, lab.dataset.test.labels)
    return 100 * int((~seen.correct).sum()) / len(seen.correct)


def test_an_event_is_measured_before_its_first_and_after_its_last_pruning(lab_of):
    procedure = (
        "[{train: {until: 0.5}}, {save: {point: early}}, train, {rewind: {what: weights, to: early}}, "
        "{prune: {fraction: 0.5}}, {prune: {fraction: 0.9}}, train]"
    )
    lab = lab_of(f"procedure={procedure}")
    dense, pruned = levels(lab.experiment.procedure)
    state, _, tested = carry_out(dense, lab.initial(), lab, None)
    _, measured, _ = carry_out(pruned, state, lab, tested)
    rewound = stage("rewind", what="weights", to="early")(state, lab)
    last = stage("prune", fraction=0.9)(stage("prune", fraction=0.5)(rewound, lab), lab)
    assert measured.arrays["metrics/test_error_before_pruning"] == error_of(lab, rewound)
    assert measured.arrays["metrics/test_error_after_pruning"] == error_of(lab, last)
    assert error_of(lab, rewound) != error_of(lab, state)


def test_other_data_is_another_run():
    assert run_digest(small(), "f") != run_digest(small(), "g")
