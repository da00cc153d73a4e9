"""Pruning before training on signal and noise (Yang et al., 2023): its data, network, observer, table and figures."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.cli.pictures import Sheet, _found, _of_a_seed, images_at
from prunecli.compare import Compared, summarize
from prunecli.datasets.two_patches import TwoPatches
from prunecli.datasets.values import Augment, Dataset
from prunecli.errors import NotComparable, RecipeError, UsageError
from prunecli.experiment import Experiment
from prunecli.gaussian import normals
from prunecli.inputs import NoisyImages
from prunecli.kept import misfit
from prunecli.lab import Lab, make_lab
from prunecli.places import Roots
from prunecli.randomness import key
from prunecli.recipe.library import names, path_of
from prunecli.recipe.load import load, load_text
from prunecli.registry import data, models
from prunecli.runs import fitting_lab, run_digest
from prunecli.signal_noise import signal_noise
from prunecli.store.reading import read_run
from prunecli.store.scores import read_scores
from prunecli.task import Task

CPU = torch.device("cpu")
PATCHES = """
model: {two_layer: {neurons: 6, power: 2, std: 0.1}}
data: {two_patches: {classes: 3, dimension: 40, examples: 12, test: 30, signal: 2, noise_to_signal: 3}}
optimizer: sgd
learning_rate: 0.2
epochs: 4
batch_size: 12
seeds: [0]
procedure: [{prune_bernoulli: {density: 0.5}}, train]
observe: [{signal_noise: {at: [0, 1, 3, 9]}}]
"""


def experiment(*overrides: str) -> Experiment:
    return load_text(PATCHES, "patches.yaml", overrides).points[0].experiment


def patches(**options: object) -> Dataset:
    given = {"classes": 3, "dimension": 40, "examples": 12, "test": 30, **options}
    return data["two_patches"].function(Roots(), **given)


def lab_of(*overrides: str, seed: int = 0) -> Lab:
    one = experiment(*overrides)
    return make_lab(one, seed, one.data(Roots()), CPU)


def images_of(dataset: Dataset, *, train: bool = True) -> torch.Tensor:
    split = dataset.train if train else dataset.test
    (images,) = split.images.batches([torch.arange(len(split))], Augment(), CPU)
    return images


# --- Gaussian numbers


def test_normals_are_standard_and_normal():
    """Moments within five standard errors; tails as often as a normal's."""
    drawn = normals(key("test"), torch.arange(2000), 500).double()
    count = drawn.numel()
    assert abs(drawn.mean()) < 5 / math.sqrt(count)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((drawn**4).mean() - 3) < 5 * math.sqrt(96 / count)
    for bound, share in ((1, 0.317311), (2, 0.0455), (3, 0.0026998)):
        found = float((drawn.abs() > bound).double().mean())
        assert abs(found - share) < 5 * math.sqrt(share / count)
    # The two halves of a row are the two numbers of each pair.
    assert abs((drawn[:, :250] * drawn[:, 250:]).mean()) < 5 / math.sqrt(count / 2)


@pytest.mark.parametrize("count", [1, 7, 784])
def test_a_row_of_normals_depends_on_the_key_and_its_number_alone(count):
    whole = normals(3, torch.arange(3000), count)
    some = torch.tensor([2999, 0, 17])
    assert torch.equal(normals(3, some, count), whole[some])
    assert torch.equal(normals(3, some[1:2], count), whole[:1])
    assert not torch.equal(normals(4, some, count), whole[some])
    # Coarser than what logarithms of different machines differ by.
    assert torch.equal(whole * 2**16, (whole * 2**16).round())


# --- The data


def test_each_image_is_a_signal_and_noise_in_random_order():
    dataset = patches(signal=2.0, noise_to_signal=3.0, dimension=400, examples=600).of(5, CPU)
    images, labels = images_of(dataset), dataset.train.labels
    assert images.shape == (600, 1, 2, 400)
    signal = torch.zeros(600, 400)
    signal[torch.arange(600), labels] = 2.0
    first, second = images[:, 0, 0], images[:, 0, 1]
    is_first = (first == signal).all(1)
    assert bool((is_first ^ (second == signal).all(1)).all())
    assert 230 < int(is_first.sum()) < 370
    noise = torch.where(is_first.unsqueeze(1), second, first)
    assert float(noise.norm(dim=1).mean()) == pytest.approx(6.0, rel=0.01)
    assert float(noise.std()) == pytest.approx(6 / math.sqrt(400), rel=0.01)
    assert torch.allclose(dataset.problem.noise_in(images, labels), noise, atol=1e-6)
    assert dataset.problem == TwoPatches(3, 400, 2.0, 6 / math.sqrt(400))


def test_seeds_share_labels_and_draw_inputs_of_their_own():
    every = patches()
    zero, one = (every.of(seed, CPU) for seed in (0, 1))
    assert every.train.labels.tolist() == [0, 1, 2] * 4
    assert np.bincount(every.test.labels.numpy()).tolist() == [10, 10, 10]
    assert torch.equal(zero.train.labels, one.train.labels)
    assert zero.fingerprint == one.fingerprint == every.fingerprint
    assert not torch.equal(images_of(zero), images_of(one))
    assert torch.equal(images_of(zero), images_of(patches().of(0, CPU)))
    assert not torch.equal(images_of(zero)[:10], images_of(zero, train=False)[:10])
    assert patches(signal=1.5).fingerprint != every.fingerprint
    assert patches(examples=15).fingerprint != every.fingerprint


def test_what_is_drawn_can_be_handed_to_another_process_and_is_drawn_there():
    dataset = patches().of(3, CPU)
    before, sent = images_of(dataset), pickle.dumps(dataset)
    assert len(sent) < 20_000
    assert torch.equal(images_of(pickle.loads(sent)), before)


def test_more_classes_than_coordinates_are_refused():
    with pytest.raises(UsageError, match="dimension 2 is less than classes 3"):
        patches(dimension=2)


# --- The network


@pytest.mark.parametrize("power", [1, 2, 2.5])
def test_the_network_is_the_papers_sum(power):
    task = Task((1, 2, 5), 3)
    torch.manual_seed(0)
    model = models["two_layer"].function(task, neurons=4, power=float(power), std=0.5)
    images, wanted = torch.randn(7, 1, 2, 5), torch.zeros(7, 3)
    for i in range(7):
        for j in range(3):
            for r in range(4):
                w = model.first.weight[4 * j + r].detach()
                wanted[i, j] += sum(max(float(w @ images[i, 0, p]), 0.0) ** power for p in range(2))
    assert torch.allclose(model(images), wanted, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == ["first.weight"]


def test_weights_begin_as_gaussians_of_the_given_width():
    weights = lab_of("data.dimension=4000", "model.std=0.03").initial().weights["first.weight"]
    assert weights.shape == (18, 4000)
    assert float(weights.std()) == pytest.approx(0.03, rel=0.02)


def test_images_of_several_channels_are_refused():
    with pytest.raises(UsageError, match="the data's have 3 channels"):
        models["two_layer"].function(Task((3, 32, 32), 10))


def test_a_training_step_is_the_papers_pruned_gradient():
    """W - eta (grad L)(W o M) o M, over all examples at once."""
    lab = lab_of()
    state = experiment().procedure[0](lab.initial(), lab)
    mask = state.masks["first.weight"]
    assert 0.3 < float(mask.float().mean()) < 0.7
    weights = state.weights["first.weight"].clone().requires_grad_()
    seen = (images_of(lab.dataset).flatten(1, 2) @ weights.T).relu().square().sum(1)
    logits = seen.view(-1, 3, 6).sum(2)
    loss = torch.nn.functional.cross_entropy(logits, lab.dataset.train.labels)
    (gradient,) = torch.autograd.grad(loss, [weights])
    trained = lab.train(state, 1, lab.rate_at())
    assert torch.allclose(
        trained.weights["first.weight"], (weights - 0.2 * gradient * mask).detach(), atol=1e-6
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.power=0.5", "'power' should be greater than or equal to 1; found 0.5"),
        ("model.neurons=0", "'neurons' should be greater than or equal to 1; found 0"),
        ("procedure.0.density=0", "'density' should be greater than 0; found 0"),
        ("procedure.0.density=1.5", "'density' should be less than or equal to 1; found 1.5"),
        ("data.classes=1", "'classes' should be greater than or equal to 2; found 1"),
        ("data.noise_to_signal=-1", "'noise_to_signal' should be greater than 0; found -1"),
        ("inputs={gaussian: {std: -1}}", "'std' should be greater than or equal to 0; found -1"),
        ("inputs=gaussian", "'std'"),
        ("inputs=guassian", "did you mean 'gaussian'?"),
        ("observe=[{signal_noise: {at: [3, 1]}}]", "should rise"),
    ],
)
def test_options_outside_their_bounds_are_refused(override, said):
    with pytest.raises(RecipeError) as wrong:
        experiment(override)
    assert said in str(wrong.value)


# --- The observer


def test_signal_and_noise_learned_are_the_largest_inner_products():
    lab = lab_of()
    state = lab.initial()
    weights = torch.zeros(18, 40)
    # Head 1's neurons have e_1 at 3 and -5; head 0 looks at the first example's noise patch.
    weights[6 + 2, 1], weights[6 + 4, 1] = 3.0, -5.0
    noise = lab.dataset.problem.noise_in(images_of(lab.dataset), lab.dataset.train.labels)
    weights[3] = noise[0]
    state = state.with_weights({"first.weight": weights}, {})
    seen = signal_noise(state, lab, at=[0])
    own = [float(noise[0] @ noise[i]) for i in range(0, 12, 3)]
    assert seen["metrics/signal_learned"] == pytest.approx((2.0 * max(float(noise[0][0]), 0) + 2 * 3.0) / 3)
    head_0 = sum(max(value, 0.0) for value in own) / 4
    head_1 = sum(max(3 * float(noise[i][1]), -5 * float(noise[i][1])) for i in range(1, 12, 3)) / 4
    assert seen["metrics/noise_learned"] == pytest.approx((head_0 + head_1) / 3, rel=1e-5)


def test_thresholds_and_neurons_kept_are_those_of_the_masks():
    lab = lab_of()
    mask = torch.zeros(18, 40, dtype=torch.bool)
    mask[0, 0] = mask[5, 0] = mask[17, 2] = mask[0, 1] = mask[6, 2] = True
    state = lab.initial()
    state = state.with_masks(state.masks.updated({"first.weight": mask}))
    seen = signal_noise(state, lab, at=[0])
    # What another head keeps of a class's coordinate does not count.
    assert seen["kept"].tolist() == [2, 0, 1]
    assert seen["metrics/classes_kept"] == 2
    assert seen["metrics/p_mild"] == pytest.approx(math.log(40) / 6)
    assert seen["metrics/p_excessive"] == pytest.approx(1 / (3 * 6 * math.log(40)))
    assert seen["metrics/head_without_signal"] == pytest.approx((1 - 5 / 720) ** 6)


def test_what_is_learned_is_noted_at_the_epochs_asked_for():
    one = experiment()
    lab = lab_of()
    pruned = one.procedure[0](lab.initial(), lab)
    trained = one.procedure[1](pruned, lab)
    seen = signal_noise(trained, lab, at=[0, 1, 3, 9])
    assert seen["epoch"].tolist() == [0, 1, 3, 9]
    assert seen["signal"].shape == seen["noise"].shape == (4, 3)
    for row, epochs in enumerate((0, 1, 3)):
        there = lab.train(pruned, epochs, lab.rate_at()) if epochs else pruned
        again = signal_noise(there, lab, at=[0, 1, 3, 9])
        assert seen["signal"][row].mean() == pytest.approx(float(again["metrics/signal_learned"]))
        assert seen["noise"][row].mean() == pytest.approx(float(again["metrics/noise_learned"]))
    assert np.isnan(seen["signal"][3]).all()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=digits"], "this data has no signal that is known"),
        (["model={mlp: {hidden: [4]}}"], "this model is another"),
    ],
)
def test_the_observer_refuses_what_has_no_patches(overrides, said):
    one = experiment(*overrides)
    with pytest.raises(RecipeError, match=said):
        fitting_lab(one, one.data(Roots()))


def test_a_convolution_that_patches_are_too_small_for_is_refused():
    one = experiment("model=torchvision:vgg11_bn", "observe=[]", "procedure=[train]")
    with pytest.raises(UsageError, match="does not take images of 1 x 2 x 40"):
        fitting_lab(one, one.data(Roots()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epoch": torch.tensor([0.0, 1.0], dtype=torch.float64)}, "other numbers of rows"),
        ({"epoch": torch.tensor([0.0, 1.0, 99.0], dtype=torch.float64)}, "none of the recipe's"),
        ({"epoch": torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)}, "none of the recipe's"),
        ({"epoch": torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)}, "none of the recipe's"),
        ({"epoch": torch.tensor([0, 1, 3])}, "no rows of numbers"),
        ({"signal": torch.zeros(3, 4, dtype=torch.float64)}, "none of the recipe's"),
        ({"else": torch.zeros(3, dtype=torch.float64)}, "none of the recipe's"),
    ],
)
def test_a_state_with_rows_that_nobody_saw_does_not_fit(changed, said):
    lab, start = lab_of(), "within/along/signal_noise/"
    seen = {
        "epoch": torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64),
        "signal": torch.zeros(3, 3, dtype=torch.float64),
        "noise": torch.zeros(3, 3, dtype=torch.float64),
    }

    def wrong(rows: dict[str, torch.Tensor]) -> str:
        observed = {f"{start}{name}": one for name, one in rows.items()}
        return misfit(replace(lab.initial(), observed=observed), lab)

    assert wrong(seen) == ""
    assert said in wrong({**seen, **changed})


# --- Noise on inputs


def noisy(std: float = 0.5, seed: int = 0, *overrides: str) -> Lab:
    one = load_text(
        "model: {mlp: {hidden: [4]}}\ndata: digits\noptimizer: sgd\nlearning_rate: 0.1\nepochs: 1\n"
        f"batch_size: 100\nseeds: [0]\ninputs: {{gaussian: {{std: {std}}}}}\nprocedure: [train]\n",
        "noisy.yaml",
        overrides,
    )
    return make_lab(one.points[0].experiment, seed, data["digits"].function(Roots()), CPU)


def added(lab: Lab, *, train: bool = True) -> torch.Tensor:
    clean = data["digits"].function(Roots())
    return images_of(lab.dataset, train=train) - images_of(clean, train=train)


def test_noise_on_inputs_has_its_width_in_training_and_test():
    lab = noisy(0.5)
    for train in (True, False):
        noise = added(lab, train=train).double()
        assert abs(float(noise.mean())) < 0.01
        assert float(noise.std()) == pytest.approx(0.5, rel=0.01)
    assert torch.equal(added(noisy(0.5)), added(lab))
    other = added(noisy(0.5, seed=1))
    assert abs(float((other * added(lab)).mean())) < 0.01
    assert abs(float((added(lab)[:360] * added(lab, train=False)).mean())) < 0.01


def test_noise_is_of_an_example_whatever_batch_order_or_process_it_is_in():
    images = noisy().dataset.train.images
    (whole,) = images.batches([torch.arange(len(images))], Augment(), CPU)
    order = [torch.tensor([3, 1400, 0]), torch.tensor([7])]
    for source in (images, noisy().dataset.train.images, pickle.loads(pickle.dumps(images))):
        batches = list(source.batches(order, Augment(), CPU))
        assert all(torch.equal(batch, whole[index]) for batch, index in zip(batches, order, strict=True))
    assert isinstance(images, NoisyImages)
    assert "_drawn" not in vars(pickle.loads(pickle.dumps(images)))


def test_noise_that_is_too_much_to_be_kept_is_drawn_alike(monkeypatch):
    order = [torch.tensor([5, 2]), torch.arange(1437)]
    kept = list(noisy().dataset.train.images.batches(order, Augment(), CPU))
    monkeypatch.setattr("prunecli.inputs.READY_BYTES", 1)
    anew = list(noisy().dataset.train.images.batches(order, Augment(), CPU))
    assert all(map(torch.equal, kept, anew))


def test_noise_comes_after_augmentation_and_stays_from_epoch_to_epoch():
    from prunecli.registry import Choice

    images, clean = noisy().dataset.train.images, data["digits"].function(Roots()).train.images
    index = torch.arange(50)
    noise = []
    for epoch in (0, 1):
        augment = Augment((Choice("augmentations", "flip", {"p": 0.5}),), epoch)
        (with_noise,), (without,) = (list(one.batches([index], augment, CPU)) for one in (images, clean))
        noise.append(with_noise - without)
    assert torch.allclose(noise[0], noise[1], atol=1e-6)


def test_clean_inputs_leave_recipes_and_images_as_they_were():
    assert "inputs" not in experiment().plain(results_only=True)
    assert run_digest(experiment(), "f") == run_digest(experiment("inputs=clean"), "f")
    assert run_digest(experiment(), "f") != run_digest(experiment("inputs={gaussian: {std: 1}}"), "f")
    assert torch.equal(added(noisy(0.0)), torch.zeros(1437, 1, 8, 8))


def test_noise_goes_on_images_that_are_read_from_files(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / label / f"{number}.png")
    recipe = (
        "data: {image_folder: {path: images, size: 8, resize: 8, workers: 0}}",
        "model={mlp: {hidden: [4]}}",
    )
    one, plain = (
        load_text(
            f"model: {{mlp: {{hidden: [4]}}}}\n{recipe[0]}\noptimizer: sgd\nlearning_rate: 0.1\nepochs: 1\n"
            f"batch_size: 4\nseeds: [0]\ninputs: {inputs}\nprocedure: [train]\n",
            "r.yaml",
        )
        .points[0]
        .experiment
        for inputs in ("{gaussian: {std: 2}}", "clean")
    )
    dataset = one.data(Roots((tmp_path,)))
    difference = images_of(make_lab(one, 0, dataset, CPU).dataset) - images_of(
        make_lab(plain, 0, dataset, CPU).dataset
    )
    assert float(difference.std()) == pytest.approx(2, rel=0.1)


SWEPT = """
model: {mlp: {hidden: [4]}}
data: digits
optimizer: sgd
learning_rate: 0.1
epochs: 1
batch_size: 100
examples: {first: {count: 100}}
procedure: [train, {prune: {fraction: 0.5}}, rewind, train]
"""


@pytest.fixture(scope="module")
def on_noise(tmp_path_factory) -> Path:
    """A run on inputs with noise, one without, and the scores of each: noise.h5, clean.h5 and one.h5 of seed 0."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "r.yaml").write_text(SWEPT + "seeds: [0, 1]\n")
    noise = "inputs={gaussian: {std: 0.5}}"
    rest = ["--runs", str(folder / "runs"), "-q"]
    for more in ([], [noise]):
        done = CliRunner().invoke(app, ["prune", str(folder / "r.yaml"), *more, *rest])
        assert done.exit_code == 0, done.output
    for name, more in (("clean", []), ("noise", [noise]), ("one", [noise, "seeds=[0]"])):
        words = ["--score", "el2n", "--runs-per-seed", "1", "--output", str(folder / f"{name}.h5")]
        done = CliRunner().invoke(app, ["score", str(folder / "r.yaml"), *more, *words, *rest])
        assert done.exit_code == 0, done.output
    return folder


def run_on(folder: Path, inputs: str) -> Path:
    """The run whose inputs are these."""
    return next(one for one in (folder / "runs").glob("r-*") if (inputs in (one / "recipe.yaml").read_text()))


def test_scores_of_one_seeds_inputs_serve_no_other_seed(on_noise):
    whole, one, clean = (read_scores(on_noise / f"{name}.h5") for name in ("noise", "one", "clean"))
    assert (whole.seeds, one.seeds, clean.seeds) == ((0, 1), (0,), (0,))
    assert not np.array_equal(whole.scores["el2n"].values[0], whole.scores["el2n"].values[1], equal_nan=True)
    assert (one.row(0, one.clean), clean.row(7, clean.clean)) == (0, 0)
    with pytest.raises(NotComparable, match="no scores of seed 1, which has inputs of its own"):
        one.row(1, one.clean)


@pytest.mark.parametrize(
    ("inputs", "store", "said"),
    [
        ("gaussian", "noise", ""),
        ("gaussian", "one", "no scores of seed 1, which has inputs of its own"),
        ("gaussian", "clean", "inputs are gaussian (std 0.5), and the scores are of inputs clean"),
        ("", "noise", "inputs are clean, and the scores are of inputs gaussian (std 0.5)"),
    ],
)
def test_examples_are_grouped_by_scores_of_their_own_inputs(on_noise, inputs, store, said):
    runs = (on_noise / "runs").glob("r-*")
    (run,) = [one for one in runs if ("gaussian" in (one / "recipe.yaml").read_text()) == bool(inputs)]
    words = ["compare", str(run), "--groups", str(on_noise / f"{store}.h5"), "--bins", "5", "--level", "1"]
    done = CliRunner().invoke(app, words)
    assert said in " ".join(done.stderr.split())
    assert (done.exit_code == 0) == (not said), done.stderr


def test_pictures_are_of_a_seeds_own_inputs(on_noise):
    run = run_on(on_noise, "gaussian")
    words = ["compare", str(run), "--pictures", str(on_noise / "p.png"), "--level", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "inputs differ between seeds: ranked within seed 0" in " ".join(done.stderr.split())
    sheet = Sheet(on_noise / "p.png", levels=("1",), seeds=(1,))
    compared = Compared((summarize(read_run(run)),))
    found, fingerprint = _found(compared, sheet)
    source = data["digits"].function(Roots())
    assert fingerprint == source.fingerprint
    _, dataset = _of_a_seed(compared, sheet, found, source)
    lab = noisy(0.5, 1)
    shown, wanted = (images_at(one, [3, 5]) for one in (dataset, lab.dataset))
    assert all(np.array_equal(shown[place], wanted[place]) for place in (3, 5))
    assert not np.array_equal(shown[3], images_at(source, [3])[3])


def test_pictures_are_of_what_a_seed_draws():
    with_seed = patches().of(1, CPU)
    assert not np.array_equal(images_at(with_seed, [0])[0], images_at(patches(), [0])[0])


def test_noise_is_told_by_the_plan_and_above_the_table(on_noise):
    planned = CliRunner().invoke(app, ["plan", str(on_noise / "r.yaml"), "inputs={gaussian: {std: 0.5}}"])
    assert "inputs      gaussian(std=0.5)" in planned.stdout
    assert (
        "inputs gaussian (std 0.5)"
        in CliRunner().invoke(app, ["compare", str(run_on(on_noise, "gaussian"))]).stdout
    )
    assert "inputs  " not in CliRunner().invoke(app, ["plan", str(on_noise / "r.yaml")]).stdout


# --- Paths that take their values together


TOGETHER = (
    PATCHES + "sweep: {'procedure.0.density, learning_rate': [[1, 0.05], [0.5, 0.1]], model.power: [1, 2]}\n"
)


def points(text: str, *overrides: str) -> dict[str, tuple[object, ...]]:
    found = load_text(text, "r.yaml", overrides, stem="r").points
    return {
        one.label: (
            one.experiment.procedure[0].options["density"],
            one.experiment.learning_rate.options["value"],
            one.experiment.model.options["power"],
        )
        for one in found
    }


def test_paths_with_a_comma_take_their_values_together_and_lists_multiply():
    assert points(TOGETHER) == {
        "r-density-1-learning_rate-0.05-power-1": (1, 0.05, 1),
        "r-density-1-learning_rate-0.05-power-2": (1, 0.05, 2),
        "r-density-0.5-learning_rate-0.1-power-1": (0.5, 0.1, 1),
        "r-density-0.5-learning_rate-0.1-power-2": (0.5, 0.1, 2),
    }


def test_an_argument_sets_or_replaces_paths_that_go_together():
    fixed = points(TOGETHER, "procedure.0.density=0.2", "learning_rate=3", "model.power=1")
    assert list(fixed.values()) == [(0.2, 3, 1)]
    swept = points(TOGETHER, "sweep.procedure.0.density,learning_rate=[[0.1, 7]]", "model.power=1")
    assert list(swept.values()) == [(0.1, 7, 1)]
    anew = points(PATCHES, "sweep.procedure.0.density,learning_rate=[[0.1, 7], [0.2, 8]]")
    assert list(anew.values()) == [(0.1, 7, 2), (0.2, 8, 2)]


@pytest.mark.parametrize(
    ("sweep", "overrides", "said"),
    [
        ("{'epochs, batch_size': [[1, 2], [3]]}", [], "takes lists of 2 values, one for each path"),
        ("{'epochs, batch_size': [1, 2]}", [], "takes lists of 2 values, one for each path"),
        ("{'epochs, batch_size': [[1, 2]], epochs: [3]}", [], "'epochs' is swept over twice"),
        ("{'epochs, epochs': [[1, 2]]}", [], "'epochs' is swept over twice"),
        ("{'epochs, bach_size': [[1, 2]]}", [], "there is no 'bach_size' to set"),
        ("{'epochs, batch_size': []}", [], "has no values to sweep over"),
        ("{'epochs, batch_size': [[1, 2]]}", ["epochs=3"], "takes its values together with 'batch_size'"),
        ("{'epochs, batch_size': [[1, 2]]}", ["sweep.epochs=[3]"], "'epochs' is swept over twice"),
    ],
)
def test_paths_that_do_not_go_together_are_told(sweep, overrides, said):
    with pytest.raises(RecipeError) as wrong:
        load_text(f"{PATCHES}sweep: {sweep}\n", "r.yaml", overrides)
    assert said in str(wrong.value)


# --- The recipes


YANG = [name for name in names() if name.startswith("yang2023/patches")]


@pytest.mark.parametrize("name", YANG)
def test_the_rate_grows_as_the_density_falls_and_training_goes_to_the_loss(name):
    for point in load(path_of(name)).points:
        one = point.experiment
        (pruned, trained), classes = one.procedure, one.data.options
        assert one.learning_rate.options["value"] == pytest.approx(0.05 / pruned.options["density"], rel=1e-3)
        assert trained.options["until_loss"] == 0.01
        assert one.batch_size == classes["examples"]


def test_the_excessive_recipe_is_at_its_threshold():
    for point in load(path_of("yang2023/patches_excessive")).points:
        one = point.experiment
        d, k, m = one.data.options["dimension"], one.data.options["classes"], one.model.options["neurons"]
        assert one.procedure[0].options["density"] == pytest.approx(1 / (k * m * math.log(d)), rel=1e-3)
        assert len(one.seeds) >= 5


def test_the_noise_recipes_differ_in_how_they_prune_alone():
    apart = {"about", "procedure"}
    for data_name in ("digits", "mnist"):
        pairs = [
            [point.experiment.plain() for point in load(path_of(f"yang2023/{data_name}_noise_{kind}")).points]
            for kind in ("random", "imp")
        ]
        shared = [[{k: v for k, v in one.items() if k not in apart} for one in each] for each in pairs]
        assert all(one in shared[0] for one in shared[1])


# --- From recipe to table and figure


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory) -> Path:
    """The small recipe, carried out with three seeds."""
    runs = tmp_path_factory.mktemp("yang") / "runs"
    done = CliRunner().invoke(
        app, ["prune", "yang2023/patches_small", "--runs", str(runs), "--progress", "none", "-q"]
    )
    assert done.exit_code == 0, done.output
    return runs


def told(runs: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["compare", *sorted(map(str, runs.iterdir())), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_both_regimes_are_in_the_table(small_runs):
    records = json.loads(told(small_runs, "--table", "thresholds", "--json"))["thresholds"]
    assert [round(one["density"], 2) for one in records] == [1, 0.2, 0.02, 0]
    assert records[0]["p_mild"] == pytest.approx(math.log(400) / 50)
    assert records[0]["p_excessive"] == pytest.approx(1 / (2 * 50 * math.log(400)))
    assert all(max(one["train_loss"]["values"]) <= 0.01 for one in records)
    mild, excessive = records[1], records[3]
    assert mild["test_loss"]["mean"] < 0.1 * records[0]["test_loss"]["mean"]
    assert mild["test_accuracy"]["mean"] > 99
    assert excessive["test_loss"]["mean"] > math.log(2)
    assert abs(excessive["test_accuracy"]["mean"] - 50) < 5
    assert excessive["classes_kept"]["mean"] == 0
    assert mild["signal_learned"]["mean"] > mild["noise_learned"]["mean"]
    assert excessive["signal_learned"]["mean"] == 0 < excessive["noise_learned"]["mean"]
    learned = mild["learned"]
    assert learned["epoch"][:3] == [0, 1, 2]
    assert learned["signal"][0] < learned["signal"][-1]
    assert set(learned["kept"]) == {"0", "1", "2"}
    assert all(len(row) == 2 and sum(row) > 0 for row in learned["kept"].values())


def test_the_table_tells_thresholds_neurons_and_what_is_learned(small_runs):
    text = told(small_runs, "--table", "thresholds")
    assert "p_mild 0.12, p_excessive 0.0017; chance 50%, ln K 0.693" in text
    assert "neurons that keep their class's signal, class by class" in text
    assert "signal / noise learned by epoch" in text
    whole = told(small_runs, "--table", "thresholds", "--all-levels")
    assert whole.count("signal and noise learned over time") == 4
    assert len(told(small_runs, "--table", "thresholds", "--format", "csv").splitlines()) == 5


def test_figures_have_thresholds_chance_and_what_is_learned(small_runs, tmp_path):
    for name in ("thresholds", "learned"):
        told(small_runs, "--plot", str(tmp_path / f"{name}.svg"), "--figure", name)
    drawn = (tmp_path / "thresholds.svg").read_text()
    for word in (
        "p_mild",
        "p_excessive",
        "chance",
        "ln K",
        "test accuracy (%)",
        "signal learned",
        "noise learned",
    ):
        assert f">{word}<" in drawn
    over_time = (tmp_path / "learned.svg").read_text()
    assert ">epochs trained<" in over_time
    assert over_time.count(">p 1:") == over_time.count(">p 0.198:") == 1


def test_a_gate_can_ask_for_a_threshold(small_runs):
    run = next(path for path in small_runs.iterdir() if "density-0.005" in path.name)
    gate = "last.signal_learned > 0.01"
    assert CliRunner().invoke(app, ["compare", str(run), "--fail-if", gate]).exit_code == 0
    gate = "last.density > last.p_excessive"
    assert CliRunner().invoke(app, ["compare", str(run), "--fail-if", gate]).exit_code == 5


def test_claims_are_told_of_the_small_runs(small_runs):
    found = json.loads(told(small_runs, "--claims", "yang2023", "--json"))["claims"]
    answers = {one["claim"]: one["answer"] for one in found}
    assert answers["B1"] == "holds"
    assert answers["B2"] == "cannot be tested"


def test_the_example_writes_tables_figures_and_claims(tmp_path):
    given = {"PATCHES": "patches_small", "NOISE": "", "SEEDS": "0", "WORKERS": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = Path(__file__).parent.parent / "examples/yang2023.sh"
    done = subprocess.run(
        ["bash", str(script), "study", "epochs=300"],
        cwd=tmp_path,
        env={**os.environ, **given, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = {str(one.relative_to(tmp_path / "study")) for one in (tmp_path / "study").glob("**/*.[jms][svd]*")}
    wanted = {"patches_small.md", "claims.md", "claims.json", "figures/patches_small.svg"}
    assert wanted | {"figures/patches_small_learned.svg"} <= made


def test_the_table_of_thresholds_needs_no_torch(small_runs):
    runs = sorted(map(str, small_runs.iterdir()))
    words = [
        "compare",
        *runs,
        "--table",
        "thresholds",
        "--plot",
        str(small_runs.parent / "t.svg"),
        "--figure",
        "thresholds",
    ]
    code = (
        "import sys\nfrom prunecli.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
