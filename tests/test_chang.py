"""Linear problems through the program (Chang et al., 2021): closed forms, theory beside runs, the five commands."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.datasets.linear_gaussian import linear_gaussian, linear_gaussian_file, linear_gaussian_of
from prunecli.datasets.random_features import random_features
from prunecli.datasets.values import Dataset
from prunecli.errors import EnvironmentMissing, OutOfMemory, PrunecliError, RecipeError, UsageError
from prunecli.lab import Lab, make_lab
from prunecli.linear_criteria import hessian, oracle
from prunecli.linear_models import feature_deviations, first_weights, saliencies
from prunecli.places import Roots
from prunecli.plan import make_plan
from prunecli.recipe.load import load_text
from prunecli.registry import Choice
from prunecli.risks import risk, risk_after_pruning
from prunecli.runs import Settings
from prunecli.solving import prune_to_count, solve
from prunecli.state import State
from prunecli.store.reading import read_run
from prunecli.theory import fit, law, predicted_risk, trained_on

RECIPE = """
about: small
model: {linear: {features: 60}}
data: {linear_gaussian: {setting: spiked, features: 60, examples: 24, test: 4}}
optimizer: {sgd: {momentum: 0.9}}
learning_rate: 0.1
epochs: 1
batch_size: 24
seeds: [0, 1, 2]
procedure:
  - solve
  - prune_to_count: {count: 6, criterion: magnitude}
  - observe: {observers: [risk_after_pruning]}
  - solve
observe: [risk]
"""
ALL = ("magnitude", "hessian", "oracle")


def linear_lab(dataset: Dataset, features: int, seed: int = 0, *overrides: str) -> Lab:
    words = [f"model={{linear: {{features: {features}}}}}", *overrides]
    experiment = load_text(RECIPE, "small.yaml", words).points[0].experiment
    return make_lab(experiment, seed, dataset, torch.device("cpu"))


def setting(name: str, d: int, n: int, **more: object) -> Dataset:
    return linear_gaussian(Roots(), setting=name, features=d, examples=n, test=2, **more)


def arrays_of(lab: Lab) -> tuple[np.ndarray, np.ndarray]:
    images = lab.dataset.train.images.pixels.flatten(1)[:, : lab.model.features]
    return images.double().numpy(), lab.targets.used.double().numpy()


def weights_of(state: State, lab: Lab) -> np.ndarray:
    return first_weights(state)


def pruned(state: State, lab: Lab, count: int, pruner: str) -> State:
    return prune_to_count(state, lab, count=count, criterion=Choice("criteria", pruner))


def risk_of(state: State, lab: Lab) -> float:
    return float(risk(state, lab)["metrics/risk"])


@pytest.mark.parametrize("p", [5, 20, 24, 60])
def test_solving_is_the_pseudoinverse(p):
    lab = linear_lab(setting("spiked", 60, 24), p)
    x, y = arrays_of(lab)
    assert weights_of(solve(lab.initial(), lab), lab) == pytest.approx(
        np.linalg.pinv(x) @ y, rel=2e-4, abs=1e-6
    )


@pytest.mark.parametrize("pruner", ALL)
@pytest.mark.parametrize("p", [12, 60])
def test_solving_again_is_least_squares_on_the_support(p, pruner):
    lab = linear_lab(setting("spiked", 60, 24), p)
    dense = solve(lab.initial(), lab)
    cut = pruned(dense, lab, 6, pruner)
    again = solve(cut, lab)
    kept = np.flatnonzero(weights_of(cut, lab))
    assert len(kept) == 6
    assert weights_of(cut, lab)[kept] == pytest.approx(weights_of(dense, lab)[kept])
    x, y = arrays_of(lab)
    assert weights_of(again, lab) == pytest.approx(trained_on(x, y, kept), rel=1e-5)
    assert not np.delete(weights_of(again, lab), kept).any()


def test_solving_counts_no_epochs_and_forgets_momentum():
    lab = linear_lab(setting("identity", 30, 24), 30, 0, "procedure=[train, solve]")
    trained = lab.train(lab.initial(), 3, lab.rate_at())
    assert trained.optimizer
    solved = solve(trained, lab)
    assert (solved.step, solved.spent, dict(solved.optimizer)) == (trained.step, trained.spent, {})


def test_a_linear_model_with_biases_is_solved_whole():
    words = "model={mlp: {hidden: []}}"
    experiment = (
        load_text(RECIPE, "small.yaml", [words, "observe=[]", "procedure=[solve]"]).points[0].experiment
    )
    lab = make_lab(experiment, 0, setting("identity", 10, 24), torch.device("cpu"))
    images, y = lab.dataset.train.images.pixels.flatten(1).double().numpy(), lab.targets.used.double().numpy()
    found = solve(lab.initial(), lab).weights
    wanted = fit(np.column_stack([images, np.ones(24)]), y)
    assert found["fc.weight"].flatten().numpy() == pytest.approx(wanted[:-1], rel=1e-4, abs=1e-6)
    assert float(found["fc.bias"]) == pytest.approx(wanted[-1], rel=1e-4, abs=1e-6)


def test_gradient_descent_from_0_finds_what_solving_finds():
    lab = linear_lab(setting("identity", 60, 24), 60, 0, "optimizer=sgd", "learning_rate=0.02")
    solved, trained = solve(lab.initial(), lab), lab.train(lab.initial(), 2000, lab.rate_at())
    assert weights_of(trained, lab) == pytest.approx(weights_of(solved, lab), abs=1e-4)


def test_a_seed_draws_its_own_examples_and_widths_share_them():
    dataset = setting("spiked", 60, 24)
    narrow, wide, other = linear_lab(dataset, 10), linear_lab(dataset, 60), linear_lab(dataset, 60, 1)
    assert np.array_equal(arrays_of(narrow)[0], arrays_of(wide)[0][:, :10])
    assert np.array_equal(arrays_of(narrow)[1], arrays_of(wide)[1])
    assert not np.array_equal(arrays_of(wide)[0], arrays_of(other)[0])
    assert dataset.drawn is not None
    there = pickle.loads(pickle.dumps(dataset.drawn))(1)
    assert torch.equal(there.train.images.pixels, other.dataset.train.images.pixels)


def test_examples_are_of_the_problem():
    one = setting("spiked", 20, 50_000).drawn(3)
    x, y = one.train.images.pixels.flatten(1).double().numpy(), one.train.labels.double().numpy()
    assert x.var(0) == pytest.approx(one.problem.spectrum, rel=0.03)
    assert np.linalg.lstsq(x, y)[0] == pytest.approx(one.problem.coefficients, abs=0.01)
    assert (y - x @ one.problem.coefficients).var() == pytest.approx(0.1, rel=0.03)


def test_what_data_are_drawn_from_names_them():
    prints = {
        setting("spiked", 20, 30).fingerprint,
        setting("spiked", 20, 31).fingerprint,
        setting("spiked", 20, 30, noise=0.2).fingerprint,
        setting("identity", 20, 30).fingerprint,
        setting("identity", 20, 30, correlation=0.1).fingerprint,
        linear_gaussian_of(Roots(), spectrum=[1, 2], saliencies=[1, 1], examples=30).fingerprint,
        linear_gaussian_of(Roots(), spectrum=[1, 3], saliencies=[1, 1], examples=30).fingerprint,
        random_features(Roots(), features=20, examples=30).fingerprint,
    }
    assert len(prints) == 8
    assert setting("spiked", 20, 30).fingerprint in prints


def test_each_seed_has_its_own_random_features_and_their_risk():
    dataset = random_features(Roots(), features=30, inputs=4, examples=20, test=2)
    first, second = (linear_lab(dataset, 30, seed) for seed in (0, 1))
    assert not np.array_equal(first.dataset.problem.directions, second.dataset.problem.directions)
    solved = solve(second.initial(), second)
    wanted = float(second.dataset.problem.risk(weights_of(solved, second)))
    assert risk_of(solved, second) == pytest.approx(wanted)
    found = risk(solved, second)
    assert float(found["metrics/null_risk"]) == pytest.approx(1)
    assert np.isnan(found["metrics/risk_theory"])


def test_criteria_know_variances_and_the_truth():
    lab = linear_lab(setting("spiked", 60, 24), 30)
    state = solve(lab.initial(), lab)
    deviations = feature_deviations(state, lab)
    assert deviations["fc.weight"].flatten().numpy() == pytest.approx(arrays_of(lab)[0].std(0))
    weights = {"w": torch.tensor([[1.0, -2.0, 0.5, 0.0]])}
    assert hessian(weights, {"w": torch.tensor([[3.0, 1.0, 8.0, 9.0]])})["w"].tolist() == [[3, 2, 4, 0]]
    truth = lab.dataset.problem.first(30).saliencies
    assert oracle(saliencies(state, lab))["fc.weight"].flatten().numpy() == pytest.approx(truth)


@pytest.mark.parametrize("name", ["identity", "spiked_strong"])
def test_runs_are_within_8_percent_of_theory_outside_the_peak(name):
    """Closed form too: identity's dense risk is sigma^2 p/(p - n) + |beta|^2 (1 - n/p) beyond the peak, p = d."""
    d, n, s = 400, 120, 40
    dataset = setting(name, d, n)
    for p in (80, 240, 400):
        found: dict[str, list[float]] = {pruner: [] for pruner in ("", *ALL)}
        for seed in range(24):
            lab = linear_lab(dataset, p, seed)
            dense = solve(lab.initial(), lab)
            found[""].append(risk_of(dense, lab))
            for pruner in ALL:
                found[pruner].append(risk_of(pruned(dense, lab, s, pruner), lab))
        for pruner, risks in found.items():
            wanted = predicted_risk(dataset.problem, n=n, p=p, kept=s if pruner else p, pruner=pruner)
            assert np.mean(risks) == pytest.approx(wanted, rel=0.08), (p, pruner)
        if name == "identity":
            assert np.mean(found["hessian"]) == pytest.approx(np.mean(found["magnitude"]), rel=0.02)
            closed = 0.1 * p / (p - n) + (1 - n / p)
            assert p < d or law(dataset.problem, n=n).gamma == pytest.approx(closed)


def test_the_observers_predict_what_the_recipe_does():
    lab = linear_lab(setting("spiked", 60, 24), 60, 0, "procedure.1.criterion=oracle")
    problem = lab.dataset.problem
    dense = solve(lab.initial(), lab)
    cut = pruned(dense, lab, 6, "oracle")
    found = [
        float(risk(dense, lab)["metrics/risk_theory"]),
        float(risk_after_pruning(cut, lab)["metrics/risk_after_pruning_theory"]),
        float(risk(solve(cut, lab), lab)["metrics/risk_theory"]),
    ]
    kept = ((60, False), (6, False), (6, True))
    wanted = [
        predicted_risk(problem, n=24, p=60, kept=count, pruner="oracle", retrained=again)
        for count, again in kept
    ]
    assert found == pytest.approx(wanted)
    assert len(set(found)) == 3


@pytest.mark.parametrize("after", ["", ", {save: {point: end}}", ", {observe: {observers: [instability]}}"])
def test_what_follows_a_retraining_takes_no_theory_from_it(after):
    words = f"procedure=[solve, {{prune_to_count: {{count: 6, criterion: oracle}}}}, solve{after}]"
    lab = linear_lab(setting("spiked", 60, 24), 60, 0, words)
    again = solve(pruned(solve(lab.initial(), lab), lab, 6, "oracle"), lab)
    wanted = predicted_risk(lab.dataset.problem, n=24, p=60, kept=6, pruner="oracle", retrained=True)
    assert float(risk(again, lab)["metrics/risk_theory"]) == pytest.approx(wanted)


def test_theory_is_of_the_place_where_an_observer_looks():
    seen = "{observe: {observers: [risk]}}"
    stages = ["solve", "{prune_to_count: {count: 6, criterion: oracle}}", "solve"]
    found = {}
    for place in (2, 3):
        words = ", ".join([*stages[:place], seen, *stages[place:]])
        lab = linear_lab(setting("spiked", 60, 24), 60, 0, f"procedure=[{words}]", "observe=[]")
        cut = pruned(solve(lab.initial(), lab), lab, 6, "oracle")
        found[place] = float(risk(cut, lab)["metrics/risk_theory"])
    wanted = [
        predicted_risk(lab.dataset.problem, n=24, p=60, kept=6, pruner="oracle", retrained=again)
        for again in (False, True)
    ]
    assert list(found.values()) == pytest.approx(wanted)


def test_weights_that_cannot_be_pruned_have_a_risk():
    lab = linear_lab(setting("spiked", 60, 24), 60, 0, "procedure=[solve]", "prunable={exclude: [fc.weight]}")
    dense = solve(lab.initial(), lab)
    found = risk(dense, lab)
    assert float(found["metrics/risk"]) == pytest.approx(
        float(lab.dataset.problem.risk(weights_of(dense, lab)))
    )
    assert float(found["metrics/risk_theory"]) == pytest.approx(
        predicted_risk(lab.dataset.problem, n=24, p=60, kept=60)
    )


@pytest.mark.parametrize("pruner", [*ALL, "random"])
def test_without_weights_the_risk_is_that_of_predicting_0(pruner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace(
        "prune_to_count: {count: 6, criterion: magnitude}", f"prune: {{fraction: 1.0, criterion: {pruner}}}"
    )
    Path("small.yaml").write_text(text)
    done = CliRunner().invoke(app, ["prune", "small.yaml", "--seeds", "0", "--runs", "r", "-q"])
    assert done.exit_code == 0, done.output
    (path,) = Path("r").glob("*/store.h5")
    metrics = read_run(path.parent).metrics
    null = setting("spiked", 60, 24).problem.null_risk
    assert metrics["risk"][0, 1] == pytest.approx(null)
    assert metrics["risk_theory"][0, 1] == pytest.approx(null)


def test_the_oracle_refuses_what_is_no_linear_problem(lab_of):
    lab = lab_of()
    with pytest.raises(UsageError, match="problem is known"):
        saliencies(lab.initial(), lab)


def test_features_without_saliencies_have_a_risk_and_no_oracle():
    few = ["data={random_features: {features: 6, inputs: 1, examples: 20, test: 4}}", "model.features=6"]
    assert make_plan(load_text(RECIPE, "small.yaml", [*few, "procedure.1.count=2"]), Settings(), timed=False)
    asking = load_text(RECIPE, "small.yaml", [*few, "procedure.1.count=2", "procedure.1.criterion=oracle"])
    with pytest.raises(RecipeError, match="saliencies"):
        make_plan(asking, Settings(), timed=False)


@pytest.mark.parametrize(
    "text",
    [
        "procedure=[train, {prune_to_count: {count: 6}}]",
        "procedure.1.criterion=random",
        "procedure=[{prune_to_count: {count: 6}}]",
        "procedure=[solve, {prune: {fraction: 0.9, invert: true}}]",
    ],
)
def test_theory_is_silent_about_what_it_does_not_know(text):
    lab = linear_lab(setting("spiked", 60, 24), 60, 0, text)
    cut = pruned(solve(lab.initial(), lab), lab, 6, "magnitude")
    assert np.isnan(risk(cut, lab)["metrics/risk_theory"])


def test_a_recipe_runs_resumes_and_is_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = "sweep:\n  model.features: [12, 60]\n  procedure.1.criterion: [magnitude, hessian]\n"
    Path("small.yaml").write_text(RECIPE + sweep)
    for words in (
        "prune small.yaml --runs whole -q",
        "train small.yaml --runs pieces --seeds 1 -q",
        "prune small.yaml --runs pieces --seeds 1 -q",
        "prune small.yaml --runs pieces -q",
    ):
        assert CliRunner().invoke(app, words.split()).exit_code == 0, words
    stores = [sorted(Path(folder).glob("*/store.h5")) for folder in ("whole", "pieces")]
    assert [path.read_bytes() for path in stores[0]] == [path.read_bytes() for path in stores[1]]
    assert len(stores[0]) == 4

    done = CliRunner().invoke(
        app,
        [
            "compare",
            "--runs",
            "whole",
            "--table",
            "theory",
            "--json",
            "--figure",
            "double_descent",
            "--plot",
            "f.svg",
            "--html",
            "p.html",
        ],
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["theory"]
    assert {(row["value"], row["pruner"], row["retrained"]) for row in rows} == {
        (p, pruner, again)
        for p in (12, 60)
        for pruner, again in (
            *((name, how) for name in ("magnitude", "hessian") for how in (False, True)),
            (None, False),
        )
    }
    dense = next(row for row in rows if row["value"] == 60 and row["pruner"] is None)
    run = next(read_run(path.parent) for path in stores[0] if "features-60" in path.parent.name)
    assert list(dense["values"].values()) == run.metrics["risk"][:, 0].tolist()
    assert dense["theory"] == pytest.approx(
        predicted_risk(setting("spiked", 60, 24).problem, n=24, p=60, kept=60)
    )
    assert dense["ratio"] == pytest.approx(dense["mean"] / dense["theory"])
    svg = Path("f.svg").read_text()
    assert "p = s = 6" in svg
    assert "p = n = 24" in svg
    assert "hessian, retrained" in svg


def test_the_study_is_carried_out_by_its_script(tmp_path):
    script = Path(__file__).parent.parent / "examples" / "chang2021.sh"
    small = ["data.features=60", "data.examples=24", "model={linear: {features: 60}}", "procedure.1.count=6"]
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "prunecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m prunecli "$@"\n')
    (tmp_path / "bin" / "prunecli").chmod(0o755)
    done = subprocess.run(
        ["bash", script, "out", *small, "sweep.data.correlation=[0, 0.5]", "data.block=6"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{commands}",
            "RECIPES": "correlated",
            "SEEDS": "0,1",
            "WORKERS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "correlation" in (tmp_path / "out" / "figures" / "correlated.svg").read_text()
    tested = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]
    assert {one["claim"] for one in tested} == {"C5"}
    assert len(tested) == 3


def test_near_the_peak_there_is_a_caution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    said = {
        p: CliRunner().invoke(app, ["plan", "small.yaml", f"model.features={p}"]).output
        for p in (20, 22, 26, 60)
    }
    assert [p for p, text in said.items() if "interpolation peak" in text] == [22, 26]
    split = CliRunner().invoke(app, ["plan", "small.yaml", "model.features=24", "validation=12"]).output
    assert "interpolation peak" not in split
    for words in (["model.features=12", "validation=12"], ["procedure.1.count=24"]):
        assert "interpolation peak" in CliRunner().invoke(app, ["plan", "small.yaml", *words]).output
        done = CliRunner().invoke(app, ["prune", "small.yaml", *words, "--seeds", "0", "--runs", "q"])
        assert "interpolation peak" in done.stderr
    done = CliRunner().invoke(
        app, ["prune", "small.yaml", "model.features=24", "--seeds", "0", "--runs", "r"]
    )
    assert "interpolation peak" in done.stderr
    table = CliRunner().invoke(app, ["compare", "--runs", "r", "--table", "theory"]).stdout
    assert "look at the median" in table


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["inputs={gaussian: {std: 1}}"], "'inputs: gaussian' makes others"),
        (["inputs={gaussian: {std: 1}}", "observe=[]"], "'risk_after_pruning' knows the problem"),
        (["inputs={gaussian: {std: 1}}", "observe=[]", "procedure=[solve, {prune: {criterion: oracle, fraction: 0.5}}]"],
         "'oracle' knows the problem"),
        (["procedure.1.count=61"], "leave 61 weights, and the model has 60"),
        (["model={linear: {features: 61}}"], "'features' is 61, and the data have 60"),
        (["model={mlp: {hidden: [4]}}", "observe=[]", "procedure=[solve]"], "linear in its parameters"),
        (["data=digits", "model=lenet_5", "observe=[]", "procedure=[solve]"], "told apart as classes"),
        (["data=digits", "model=linear", "observe=[]", "procedure=[train, {prune_to_count: {count: 6, criterion: oracle}}]"],
         "problem is known"),
        (["model={mlp: {hidden: []}}", "procedure=[solve]"], "the problem's first features"),
        (["procedure=[solve, {prune: {criterion: hessian, fraction: 0.5}}]", "data=digits", "observe=[]"], "as classes"),
        (["data.noise=-1"], "data.noise"),
        (["data.correlation=0.5", "data.block=7"], "60 features are no multiple of 7"),
        (["data={linear_gaussian_of: {spectrum: [1, 0], saliencies: [1, 1], examples: 9}}", "model=linear"],
         "number 2 is 0; each has to be above 0"),
        (["data={linear_gaussian_of: {spectrum: [1, 2], saliencies: [1], examples: 9}}", "model=linear"],
         "there are 2 features"),
        (["data={linear_gaussian_of: {spectrum: [1, 2], saliencies: [0, 0], examples: 9}}", "model=linear"], "not all 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(overrides, said):
    with pytest.raises((RecipeError, UsageError)) as found:
        make_plan(load_text(RECIPE, "small.yaml", overrides), Settings(), timed=False)
    assert said in str(found.value)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(OutOfMemory, match="100,000 features"):
        setting("identity", 100_000, 30, correlation=0.1)


def read(path: Path) -> Dataset:
    return linear_gaussian_file(Roots(folders=(path.parent,)), path=path.name, examples=9)


def test_a_problem_comes_from_a_file(tmp_path):
    import h5py

    spectrum, beta = np.array([4.0, 1.0, 2.0]), np.array([0.5, -1.0, 0.0])
    np.savez(tmp_path / "a.npz", spectrum=spectrum, coefficients=beta)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["covariance"], file["coefficients"] = np.diag(spectrum), beta
    np.savez(tmp_path / "c.npz", spectrum=spectrum, saliencies=spectrum * beta**2)
    a, b, c = (read(tmp_path / name).problem for name in ("a.npz", "b.h5", "c.npz"))
    assert a.null_risk == pytest.approx(b.null_risk) == pytest.approx(c.null_risk)
    assert a.coefficients == pytest.approx(beta)
    assert b.covariance == pytest.approx(np.diag(spectrum))
    assert c.coefficients == pytest.approx(np.abs(beta))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"spectrum": [1, -1], "coefficients": [1, 1]}, "number 2 is -1"),
        ({"spectrum": [1, 1], "coefficients": [1, 1, 1]}, "there are 2 features"),
        ({"covariance": [[1, 2], [2, 1]], "coefficients": [1, 1]}, "smallest eigenvalue is -1"),
        ({"covariance": [[1, 0], [0.5, 1]], "coefficients": [1, 1]}, "symmetric"),
        ({"spectrum": [1, np.nan], "coefficients": [1, 1]}, "NaN"),
        ({"spectrum": ["a", "b"], "coefficients": [1, 1]}, "not numbers"),
        ({"covariance": [[1.0]], "saliencies": [1.0]}, "it holds covariance, saliencies"),
        ({"spectrum": [1.0]}, "it holds spectrum"),
        ({"spectrum": [1.0], "coefficients": 1.0}, "coefficients"),
        ({"spectrum": [1.0], "saliencies": 1.0}, "saliencies"),
        ({"spectrum": np.array([{}], dtype=object), "coefficients": [1]}, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_problem_is_refused(tmp_path, content, said):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(EnvironmentMissing, match=said) as found:
        read(tmp_path / "a.npz")
    assert "a.npz" in str(found.value)


def test_a_file_that_is_missing_or_damaged_is_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in ("a.npz", "none.npz"):
        with pytest.raises(PrunecliError, match=name):
            read(tmp_path / name)


def test_comparing_with_theory_imports_no_torch():
    text = (
        "import sys, prunecli.report, prunecli.report.figure_data, prunecli.double_descent, prunecli.claims.papers; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
