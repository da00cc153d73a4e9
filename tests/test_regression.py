"""Labels that are numbers, data that each seed draws for itself, and trainings that end at a loss."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, small
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.engine import carry_out_all
from prunecli.errors import RecipeError, Stopped, UsageError
from prunecli.losses import example_losses, mean_loss, right
from prunecli.progress import EpochDone, Event, LevelDone, Said
from prunecli.recipe.load import load_text
from prunecli.registry import Choice, observers
from prunecli.runs import Settings, prepare
from prunecli.store import codec
from prunecli.store.inspection import problems
from prunecli.store.reading import read_run
from prunecli.trajectories import prefix_digest, trajectory_digest

CODE = """
from dataclasses import replace

import torch
from torch import nn

from prunecli.datasets.values import Dataset, InMemory, Normalization, Split
from prunecli.task import Task

def split(x, y):
    return Split(InMemory(x, Normalization(1.0, (0.0,), (1.0,))), y)

def of(seed):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 1, 1, 6, generator=made)
    y = x.flatten(1) @ torch.arange(6.0) + 0.1 * torch.randn(60, generator=made)
    return Dataset(Task((1, 1, 6), 1, "squared_error"), split(x[:40], y[:40]), split(x[40:], y[40:]), "numbers")

def numbers(roots):
    return replace(of(0), drawn=of)

def classes_of(seed):
    made = torch.Generator().manual_seed(seed)
    y = torch.arange(40) % 2
    x = torch.randn(40, 1, 1, 6, generator=made) + y.view(-1, 1, 1, 1)
    return Dataset(Task((1, 1, 6), 2), split(x[:30], y[:30]), split(x[30:], y[30:]), "classes")

def classes(roots):
    return replace(classes_of(0), drawn=classes_of)

def inconsistent(roots):
    return replace(classes_of(0), drawn=lambda seed: replace(classes_of(seed), fingerprint=str(seed)))
"""

RECIPE = """
model: {mlp: {hidden: [8]}}
data: python:own_numbers:numbers
optimizer: sgd
learning_rate: 0.05
epochs: 3
batch_size: 10
validation: 0.25
seeds: [0, 1]
procedure: [train, {prune: {fraction: 0.5}}, rewind, train]
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """Datasets of the user's, which processes that are started find too."""
    (tmp_path / "own_numbers.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield
    sys.modules.pop("own_numbers", None)


def loaded(text: str, *overrides: str):
    return load_text(text, "numbers.yaml", overrides, allow_code=True, stem="numbers")


def carried_out(runs: Path, *overrides: str, text: str = RECIPE, hear=lambda _event: None, **wanted) -> Path:
    (finished,) = carry_out_all(loaded(text, *overrides), Settings(runs=runs, **wanted), hear)
    return finished.folder.path


def test_a_loss_of_numbers_is_the_squared_error_and_none_of_them_is_right():
    outputs, labels = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1.0])
    assert example_losses(outputs, labels).tolist() == [0.25, 9.0]
    assert float(mean_loss(outputs, labels)) == 4.625
    assert right(outputs, labels).shape == (0,)


def test_a_regression_is_stored_and_tabulated_by_its_losses(tmp_path):
    heard: list[Event] = []
    run = carried_out(tmp_path / "runs", hear=heard.append)
    import own_numbers

    with h5py.File(run / "store.h5") as file:
        assert not [name for name in file["metrics"] if "error" in name or name == "instability"]
        assert {"examples/correct", "examples/label", "examples/clean_label", "test/label"}.isdisjoint(
            f"{group}/{name}" for group in ("examples", "test") for name in file[group]
        )
        for row, seed in enumerate((0, 1)):
            drawn = own_numbers.of(seed)
            assert np.array_equal(file["examples/target"][row], drawn.train.labels)
            assert np.array_equal(file["test/target"][row], drawn.test.labels)
        split, losses = file["examples/split"][:], file["examples/loss"][:]
        assert (split == 1).sum(axis=1).tolist() == [10, 10]
        kept = np.stack([losses[seed][:, split[seed] == 0].mean(axis=1) for seed in range(2)])
        assert np.allclose(file["metrics/train_loss"], kept)
        assert file["metrics/test_loss"].attrs["units"] == file["test/loss"].attrs["units"] == "1"
        assert np.isfinite(file["metrics/test_loss_after_pruning"][:, 1]).all()
        assert not file["metrics/diverged"][:].any()
        assert file["metrics/test_loss_after_pruning"].attrs["units"] == "1"
        assert file["summary/test_loss"].attrs["units"] == "1"
        assert file["summary"].attrs["signal"] == "test_loss"
        assert np.allclose(file["summary/test_loss"], file["metrics/test_loss"][:].mean(axis=0))
    assert problems(run) == []
    data = (run / "store.h5").read_bytes()
    (prepared,) = prepare(loaded(RECIPE), Settings(runs=tmp_path / "runs"))
    from prunecli.runs import header_of

    assert codec.encode_store(codec.decode_store(data, "it"), header_of(prepared)) == data
    shown = CliRunner().invoke(app, ["compare", str(run)])
    assert shown.exit_code == 0
    assert "test loss" in shown.output
    assert "error" not in shown.output
    (last,) = [one for one in heard if isinstance(one, LevelDone) and (one.seed, one.level) == (1, 1)]
    assert last.tested.startswith("test loss ")


def test_numbers_have_no_classes_and_are_not_set_against_classes(tmp_path):
    numbers = carried_out(tmp_path / "runs")
    classes = carried_out(tmp_path / "runs", "data=python:own_numbers:classes")
    command = ["compare", str(numbers), "--classes", "--level", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0
    assert "its labels are numbers, so there are no classes" in " ".join(done.stderr.split())
    for one, other, kind in ((numbers, classes, "cross-entropies"), (classes, numbers, "squared errors")):
        done = CliRunner().invoke(app, ["compare", str(one), "--against", str(other)])
        assert done.exit_code != 0
        assert f"the losses of {other.name} are {kind}" in " ".join(done.stderr.split())
    assert CliRunner().invoke(app, ["compare", str(numbers), "--against", str(numbers)]).exit_code == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labels={uniform: {fraction: 0.1}}"], "labels 'uniform' changes classes"),
        (["label_smoothing=0.1"], "'label_smoothing' goes with classes"),
        (["batched_seeds=true"], "'batched_seeds' goes with classes"),
        (["observe=[epochs]"], "observer 'epochs' has errors of classes"),
    ],
)
def test_what_has_no_meaning_for_numbers_is_refused(tmp_path, overrides, message):
    with pytest.raises((RecipeError, UsageError), match=message):
        prepare(loaded(RECIPE, *overrides), Settings(runs=tmp_path))


def test_examples_of_a_regression_are_not_scored(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    shown = CliRunner().invoke(app, ["score", str(path), "--allow-code", "--runs", str(tmp_path / "runs")])
    assert shown.exit_code == 2
    assert "scores are of examples of classes" in shown.output


def test_each_seed_has_the_data_that_it_draws(tmp_path):
    run = carried_out(tmp_path, "data=python:own_numbers:classes", "validation=0")
    alone = carried_out(tmp_path / "alone", "data=python:own_numbers:classes", "validation=0", "seeds=[1]")
    with h5py.File(run / "store.h5") as both, h5py.File(alone / "store.h5") as second:
        losses = both["test/loss"][:]
        assert not np.array_equal(losses[0], losses[1])
        assert np.array_equal(losses[1], second["test/loss"][0])
    with pytest.raises(
        UsageError, match="seed 0 draws a dataset of another task, size, fingerprint or other labels"
    ):
        carried_out(
            tmp_path, "data=python:own_numbers:inconsistent", "validation=0", "seeds=[0, 1]", workers=1
        )


EARLY = SMALL.replace(
    "procedure: [train]", "procedure: [{train: {until_loss: 0.5}}, {prune: {fraction: 0.5}}]"
)
EARLY = EARLY.replace("epochs: 2", "epochs: 12").replace("seeds: [0]", "seeds: [0, 1, 2]")
HALF = "{train: {epochs: 0.5}}"
EARLY_OVERRIDES = ("examples={first: {count: 400}}", "batch_size=100", "learning_rate=0.05")


def test_a_training_ends_after_the_first_epoch_at_the_loss(lab_of):
    lab = lab_of(*EARLY_OVERRIDES)
    seen: list[float] = []
    watched = replace(lab, watch=lambda epoch: seen.append(epoch.loss))
    state = watched.train(watched.initial(), 48, watched.rate_at(), 0.5)
    assert seen[-1] <= 0.5 < min(seen[:-1])
    assert state.spent == state.step == lab.steps_per_epoch * len(seen) < 48
    assert not state.observed
    whole = lab.train(lab.initial(), state.spent, lab.rate_at())
    assert all(torch.equal(whole.weights[name], one) for name, one in state.weights.items())


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_where_it_ends_does_not_depend_on_how_it_is_cut(lab_of, cut):
    lab = lab_of(*EARLY_OVERRIDES)
    whole = lab.train(lab.initial(), 48, lab.rate_at(), 0.5)
    part = lab.train(lab.initial(), cut, lab.rate_at(), 0.5)
    started = replace(part, step=0, spent=0)
    parts = replace(lab, taken=cut).train(started, 48, lab.rate_at(), 0.5)
    assert (parts.spent, parts.step) == (whole.spent, whole.step)
    assert all(torch.equal(whole.weights[name], one) for name, one in parts.weights.items())


def test_seeds_that_end_at_different_epochs_are_stored_and_gone_on_with(tmp_path):
    run = carried_out(tmp_path / "runs", *EARLY_OVERRIDES, text=EARLY, workers=1)
    with h5py.File(run / "store.h5") as file:
        spent = file["metrics/seed_spent"][:]
        assert len(set(spent[:, 0])) > 1
        assert np.array_equal(file["metrics/spent"], spent.mean(axis=0))
        assert (spent <= 12).all()
    assert problems(run) == []
    assert np.array_equal(read_run(run).spent, spent.mean(axis=0))

    def interrupt(event: Event) -> None:
        if isinstance(event, EpochDone) and event.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    runs = tmp_path / "stopped"
    with pytest.raises(Stopped):
        carried_out(runs, *EARLY_OVERRIDES, text=EARLY, workers=1, hear=interrupt)
    again = carried_out(runs, *EARLY_OVERRIDES, text=EARLY, workers=1)
    assert (again / "store.h5").read_bytes() == (run / "store.h5").read_bytes()


def test_a_training_that_ends_early_is_not_taken_for_one_that_does_not(tmp_path):
    runs = tmp_path / "runs"
    early = carried_out(runs, *EARLY_OVERRIDES, "seeds=[0]", text=EARLY)
    procedure = "procedure=[{train: {until_loss: 0.8}}, {prune: {fraction: 0.5}}]"
    later = carried_out(runs, *EARLY_OVERRIDES, "seeds=[0]", procedure, text=EARLY)
    whole = carried_out(
        runs, *EARLY_OVERRIDES, "seeds=[0]", "procedure=[train, {prune: {fraction: 0.5}}]", text=EARLY
    )
    spent = [read_run(run).spent[0] for run in (early, later, whole)]
    assert spent[1] < spent[0] < spent[2] == 12


def test_levels_that_ended_early_are_taken_over_from_another_run(tmp_path):
    heard: list[Event] = []
    names = []
    early = "{train: {until_loss: 0.5}}"
    for more in (", {prune: {fraction: 0.3}}", ""):
        stages = f"[{early}, {{prune: {{fraction: 0.5}}}}, rewind, {early}{more}]"
        heard.clear()
        given = (*EARLY_OVERRIDES, "seeds=[0]", f"procedure={stages}")
        names.append(carried_out(tmp_path, *given, text=EARLY, hear=heard.append).name)
    assert not [one for one in heard if isinstance(one, EpochDone)]
    assert [one.message for one in heard if isinstance(one, Said)] == [
        f"seed 0: levels 0 to 1 are those of {names[0]}"
    ]


@pytest.mark.parametrize("last", ["{train: {epochs: 6}}", "{train: {until: 12}}"])
def test_what_follows_an_early_end_is_not_named_by_clocks_that_are_not_known(tmp_path, last):
    """Six epochs more and training to epoch 12 are one where a training took six, and another where it ended sooner."""
    first = "{train: {epochs: 6, until_loss: 2.0}}"
    spent = []
    for runs, stages in (("both", "{train: {epochs: 6}}"), ("both", "{train: {until: 12}}"), ("alone", last)):
        given = (*EARLY_OVERRIDES, "seeds=[0]", f"procedure=[{first}, {stages}]")
        spent.append((stages, read_run(carried_out(tmp_path / runs, *given, text=EARLY)).spent[0]))
    assert spent[0][1] < spent[1][1] == 12
    assert spent[2] in spent[:2]


@pytest.mark.parametrize("observe", ["[instability]", "[epochs]"])
def test_observing_does_not_change_where_a_training_ends(lab_of, observe):
    # The first epoch's mean loss is about 2.5: its half that no training with a loss to end at has seen counts.
    lab = lab_of(*EARLY_OVERRIDES, f"procedure=[{HALF}, {{train: {{until_loss: 3}}}}]", f"observe={observe}")
    state = lab.initial()
    for stage in lab.experiment.procedure:
        state = stage(state, lab)
    assert state.spent == lab.steps_per_epoch


def test_a_state_that_knows_its_epoch_is_no_other_recipes():
    plain, early = (
        small(f"procedure=[{HALF}, {{train: {{{how}}}}}]") for how in ("epochs: 1", "until_loss: 3")
    )
    digests = {trajectory_digest(one, "data", 4, one.procedure[:1]) for one in (plain, early)}
    assert len(digests) == 2


def test_a_rewind_does_not_go_forward_after_an_early_end(lab_of):
    stages = "procedure=[{train: {until_loss: 1.0}}, {prune: {fraction: 0.5}}, {rewind: {to: 7}}, train]"
    with pytest.raises(RecipeError, match=r"may end sooner \(until_loss\), perhaps before epoch 7"):
        prepare(loaded(EARLY, stages), Settings())
    lab = lab_of(*EARLY_OVERRIDES)
    trained = lab.train(lab.initial(), 8, lab.rate_at())
    with pytest.raises(UsageError, match="epoch 7 is past epoch 2, where a training ended at its loss"):
        Choice("stages", "rewind", {"to": 7.0})(trained, lab)


def test_progress_names_the_level_that_is_trained(tmp_path):
    heard: list[Event] = []
    stages = "procedure=[{train: {until_loss: 1.0}}, {prune: {fraction: 0.5}}, rewind, {train: {epochs: 2}}]"
    carried_out(tmp_path, *EARLY_OVERRIDES, "seeds=[0]", stages, text=EARLY, hear=heard.append)
    levels = [one.level for one in heard if isinstance(one, EpochDone)]
    assert levels == sorted(levels)
    assert levels.count(1) == 2


def test_batched_seeds_do_not_end_at_a_loss():
    with pytest.raises(RecipeError, match="seeds of 'batched_seeds' train for equally long"):
        prepare(loaded(EARLY, "batched_seeds=true"), Settings())


@pytest.fixture
def norms():
    """An observer that looks along a training, every other epoch."""

    def look(state, lab, *, every: int):
        if lab.epoch(state.spent) % every:
            return None
        total = sum(float(one.double().square().sum()) for one in state.weights.values())
        return {"spent": np.asarray(lab.epoch(state.spent)), "norm": np.array([total, total / 2])}

    def written(state, lab, *, every: int):
        del lab, every
        return {"norm": state.observed["within/along/norms/norm"].numpy()}

    observers(name="norms", along=look)(written)
    yield Choice("observers", "norms", {"every": 2})
    del observers._entries["norms"]


@pytest.mark.parametrize("cut", [1, 4, 8, 11])
def test_what_is_seen_along_a_training_does_not_depend_on_how_it_is_cut(digits, norms, cut):
    from prunecli.lab import make_lab

    experiment = replace(small(*EARLY_OVERRIDES), observe=[norms])
    lab = make_lab(experiment, 0, digits, torch.device("cpu"))
    whole = lab.train(lab.initial(), 16, lab.rate_at())
    rows = whole.observed["within/along/norms/norm"]
    assert rows.shape == (3, 2)
    assert whole.observed["within/along/norms/spent"].tolist() == [0, 2, 4]
    parts = lab.train(lab.train(lab.initial(), cut, lab.rate_at()), 16 - cut, lab.rate_at())
    assert torch.equal(parts.observed["within/along/norms/norm"], rows)


def test_a_state_that_was_looked_at_is_not_shared_with_others(norms):
    plain = small(*EARLY_OVERRIDES)
    looked = replace(plain, observe=[norms])
    digests = {
        trajectory_digest(one, "data", 4, one.procedure) + prefix_digest(one, "data", 0)
        for one in (plain, looked)
    }
    assert len(digests) == 2


def test_a_plan_says_that_a_training_may_end_sooner(tmp_path):
    path = tmp_path / "early.yaml"
    path.write_text(EARLY)
    given = ["plan", str(path), *EARLY_OVERRIDES, "--runs", str(tmp_path / "runs")]
    shown = CliRunner().invoke(app, given)
    assert "12 at most" in shown.output
    assert json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)[0]["levels"][0]["may_end_sooner"]
