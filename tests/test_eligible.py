"""Fractions of all weights are taken from the eligible ones, and both densities are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small
from test_report import compared, stored
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.errors import RecipeError, UsageError
from prunecli.plan import make_plan
from prunecli.procedure import foresee
from prunecli.recipe.library import path_of
from prunecli.recipe.load import Recipe, load
from prunecli.registry import Choice, models
from prunecli.report import tables
from prunecli.runs import Settings, levels_of, run_digest
from prunecli.store.reading import read_run
from prunecli.trained_weights import trained_at

EXCLUDE = "prunable={exclude: [fc.weight]}"
IGNORED = 160  # fc.weight of `small`: 16 x 10, beside 64 x 16 that can be dropped


def stage(name: str, **options: object) -> Choice:
    return Choice("stages", name, options)


def of_all(recipe: str, times: int) -> Recipe:
    procedure = f"[train, {{repeat: {{times: {times}, stages: [{{prune: {{fraction: 0.2, of: all}}}}, rewind, train]}}}}]"
    return load(path_of(recipe), [f"procedure={procedure}"])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 1 / 3, 0.5, 0.777])
def test_of_all_drops_its_count_from_the_eligible_ones(lab_of, fraction):
    lab = lab_of(EXCLUDE)
    state, kept = lab.initial(), 64 * 16
    while (count := round(fraction * (kept + IGNORED))) <= kept and kept > 100 and fraction:
        state = stage("prune", fraction=fraction, of="all")(state, lab)
        kept -= count
        assert state.masks.kept == kept
    assert "fc.weight" not in state.masks
    assert bool(state.weights["fc.weight"].all())
    assert state.masks.kept == kept


@pytest.mark.parametrize("density", [1.0, 0.9, 0.5, 1 / 3, 0.14])
def test_of_all_leaves_its_density_with_the_excluded_ones(lab_of, density):
    lab = lab_of(EXCLUDE)
    state = stage("prune_to", density=Choice("schedules", "constant", {"value": density}), of="all")(
        lab.initial(), lab
    )
    assert state.masks.kept + IGNORED == round(density * (64 * 16 + IGNORED))


def test_of_all_is_of_the_eligible_ones_where_none_is_excluded(lab_of):
    lab = lab_of()
    first, second = (stage("prune", fraction=0.3, of=of)(lab.initial(), lab) for of in ("all", "eligible"))
    assert all(torch.equal(first.masks[name], second.masks[name]) for name in lab.names)


def test_what_is_foreseen_of_all_is_what_happens(lab_of):
    procedure = (
        "[train, {prune: {fraction: 0.3, of: all}}, rewind, train, {prune_to: {density: 0.4, of: all}}, rewind, train, "
        "{prune: {fraction: 0.1}}]"
    )
    lab = lab_of(EXCLUDE, f"procedure={procedure}")
    state = lab.initial()
    for foreseen in levels_of(lab):
        for one in foreseen.level.stages:
            state = one(state, lab)
        assert state.masks.density == foreseen.outlook.density
        whole = (state.masks.kept + IGNORED) / (64 * 16 + IGNORED)
        assert foreseen.outlook.density_of_all == whole


def test_what_cannot_be_dropped_is_refused_while_it_is_carried_out_too(lab_of):
    lab = lab_of(EXCLUDE)
    bare = stage("prune_to", density=Choice("schedules", "constant", {"value": 0.05}))(lab.initial(), lab)
    with pytest.raises(UsageError, match=r"round\(0.5 x 211\) = 106 weights, and only 51 may be dropped"):
        stage("prune", fraction=0.5, of="all")(bare, lab)
    with pytest.raises(UsageError, match=r"round\(0.1 x 1,184\) = 118 .*160 are excluded .*0.135 at least"):
        stage("prune_to", density=Choice("schedules", "constant", {"value": 0.1}), of="all")(bare, lab)


@pytest.mark.parametrize(
    ("recipe", "last", "found", "floor"),
    [
        # OpenLTH itself rounds up and drops its threshold too: it comes to level 24 with LeNet, to 35 with VGG.
        ("jin2022/lenet_mnist", 25, r"round\(0.2 x 1,006\) = 201 weights, and only 6 may", 0.376),
        ("jin2022/vgg16_cifar10", 35, r"round\(0.2 x 5,970\) = 1,194 weights, and only 850 may", 0.0348),
    ],
)
def test_the_papers_networks_end_where_the_excluded_layer_is_all_but_all(recipe, last, found, floor):
    (plan,) = make_plan(of_all(recipe, last), Settings(), timed=False)
    assert len(plan.levels) == last + 1
    for foreseen in plan.levels:
        assert foreseen.outlook.density_of_all == pytest.approx(0.8**foreseen.level.number, rel=3e-3)
    assert 100 * plan.excluded / (plan.excluded + plan.prunable) == pytest.approx(floor, rel=2e-3)
    with pytest.raises(RecipeError, match=f"level {last + 1}: 'of: all' is to drop {found}") as caught:
        make_plan(of_all(recipe, last + 2), Settings(), timed=False)
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("procedure", "message"),
    [
        ("[{prune: {fraction: 0.1, of: all, scope: layer}}]", "goes with 'scope: global'; this has 'layer'"),
        ("[{prune_to: {density: 0.5, of: all, scope: layer}}]", "goes with 'scope: global'"),
        ("[{prune_to: {density: 0.1, of: all}}]", "level 0: 'of: all' is to leave"),
        (
            "[train, {prune_to: {density: 0.5, scope: layer}}, {prune: {fraction: 0.1, of: all}}]",
            "level 1: .* leaves that open",
        ),
    ],
)
def test_a_count_of_all_that_cannot_be_taken_is_found_before(procedure, message):
    experiment = small(EXCLUDE, f"procedure={procedure}")
    with pytest.raises(RecipeError, match=message):
        foresee(experiment, 8, 64 * 16, IGNORED)


def test_the_option_changes_no_digest_at_its_default():
    plain, told, other = (
        small(f"procedure=[train, {{{name}: {{{amount}{of}}}}}]")
        for name, amount in [("prune", "fraction: 0.5")]
        for of in ("", ", of: eligible", ", of: all")
    )
    assert "of" not in str(plain.plain(results_only=True)["procedure"])
    assert run_digest(plain, "f") == run_digest(told, "f") != run_digest(other, "f")


def test_both_densities_are_planned_stored_and_shown(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "{model: {mlp: {hidden: [16]}}, data: digits, optimizer: sgd, learning_rate: 0.1, epochs: 1, batch_size: 500,\n"
        " seeds: [0, 1], prunable: {exclude: [fc.weight]}, procedure: [train, {prune: {fraction: 0.5}}, train: {epochs: 1}]}".replace(
            "train: {epochs: 1}]}", "{train: {epochs: 1}}]}"
        )
    )
    runs = tmp_path / "runs"
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml"), "--runs", str(runs)])
    assert "1,024 prunable in 1 tensors, 160 weights excluded" in shown.output
    assert "50.00% (56.76% of all)" in shown.output
    assert CliRunner().invoke(app, ["prune", str(tmp_path / "r.yaml"), "--runs", str(runs)]).exit_code == 0
    (folder,) = runs.glob("r-*")
    run = read_run(folder)
    assert (run.total, run.excluded) == (1024, IGNORED)
    assert any(
        "of the 1,024 eligible for pruning; with the 160 excluded ones" in note and "56.76 at level 1" in note
        for table in tables(compared(run))
        for note in table.notes
    )


def test_runs_that_exclude_nothing_have_no_second_density():
    assert not any("excluded" in note for table in tables(compared(stored())) for note in table.notes)


def test_models_with_trained_weights_are_marked_and_no_others():
    name = f"timm:hf-hub:org/tiny@{'0' * 40}"
    assert trained_at(name) == trained_at({name: {"stem": "own"}}) == name.removeprefix("timm:")
    for known in (
        "timm:resnet18",
        "torchvision:resnet18",
        "python:a:b",
        "lenet_300_100",
        {"mlp": {}},
        {},
        3,
        None,
    ):
        assert trained_at(known) is None
    for entry in (
        models[one] for one in (name, "timm:resnet18", "torchvision:vgg16", *models) if one[-1] != ":"
    ):
        assert entry.remote == (trained_at(entry.name) is not None)


def test_a_run_from_trained_weights_says_so():
    name = f"timm:hf-hub:org/tiny@{'0' * 40}"
    recipe = {**stored().recipe, "model": {name: {"stem": "own"}}}
    notes = [note for table in tables(compared(stored(recipe=recipe))) for note in table.notes]
    assert f"pretrained: {name.removeprefix('timm:')}" in notes
    assert not any("pretrained" in note for table in tables(compared(stored())) for note in table.notes)


def test_levels_that_keep_nothing_eligible_keep_the_excluded():
    run = replace(stored(), excluded=IGNORED, density=np.array([1.0, 0.5, 0.0]))
    whole = 100 * IGNORED / (run.total + IGNORED)
    notes = [note for table in tables(compared(run)) for note in table.notes]
    assert any(f"{whole:.2f} at level 2" in note for note in notes)
