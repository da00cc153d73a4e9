"""Flatness: curvature, its trace, gradients' spread and rises of the loss, against closed forms and full Hessians."""

from __future__ import annotations

import dataclasses
import math

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, same, small
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian
from torch.nn import functional
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.engine import carry_out_all
from prunecli.errors import OutOfMemory, RecipeError, UsageError
from prunecli.flatness import observing
from prunecli.flatness.spectrum import Spectrum, spectrum, trace
from prunecli.flatness.surface import Surface, differentiable_twice, rise_distance
from prunecli.masks import Masks, Tensors
from prunecli.recipe.load import load_text
from prunecli.registry import observers
from prunecli.runs import Settings
from prunecli.store.reading import read_run

EXAMPLES, INPUTS, CLASSES = 24, 5, 3


def draws(size: int, seed: int = 0):
    """Normal float64 vectors, one after another."""
    made = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(size, generator=made, dtype=torch.float64)


def signs(size: int, seed: int = 1):
    drawn = draws(size, seed)
    return lambda: drawn().sign()


def in_chunks(inputs: Tensor, targets: Tensor, at_once: int):
    chunks = list(zip(torch.split(inputs, at_once), torch.split(targets, at_once), strict=True))
    return lambda: iter(chunks)


def data(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, *(shape or (INPUTS,)), generator=made, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (EXAMPLES,), generator=made)


def diagonal(values: list[float]) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with these eigenvalues, in turned coordinates."""
    size = len(values)
    turn, _ = torch.linalg.qr(
        torch.stack([draws(size, 7)() + 0 for _ in range(1)] + [draws(size, s)() for s in range(size - 1)])
    )
    return turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T, turn


def of(matrix: Tensor, count: int, **more: float) -> Spectrum:
    return spectrum(lambda v: matrix @ v, draws(len(matrix)), count, **{"tolerance": 1e-9, **more})


def check_pairs(matrix: Tensor, found: Spectrum, within: float = 1e-8) -> None:
    """The found are the eigenvalues of largest magnitude, with orthonormal eigenvectors."""
    values = torch.linalg.eigvalsh(matrix).numpy()
    wanted = values[np.argsort(-np.abs(values))][: len(found.values)]
    np.testing.assert_allclose(
        np.abs(found.values), np.abs(wanted), rtol=within, atol=within * np.abs(wanted[0])
    )
    np.testing.assert_allclose(found.values.sum(), wanted.sum(), atol=10 * within * np.abs(wanted[0]))
    own = torch.from_numpy(found.values)[:, None] * found.vectors
    assert (found.vectors @ matrix - own).norm(dim=1).max() <= 1e-6 * max(1e-300, float(np.abs(wanted[0])))
    torch.testing.assert_close(
        found.vectors @ found.vectors.T, torch.eye(len(found.values), dtype=torch.float64)
    )
    assert found.settled.all()


def softmax_regression(weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(inputs @ weight["w"].T, targets, reduction="none")


def small_net() -> nn.Module:
    """A convolution net with BatchNorm whose statistics are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        ).double()
        net.train()(3 * torch.randn(64, 1, 8, 8, dtype=torch.float64) + 1)
        return net.eval()


def net_surface(at_once: int = EXAMPLES, masks: Tensors | None = None) -> Surface:
    net = small_net()
    buffers = dict(net.named_buffers())

    def losses(parameters: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(net, {**parameters, **buffers}, (images,))
        return functional.cross_entropy(logits, labels, reduction="none")

    held = {name: one.detach() for name, one in net.named_parameters()}
    return Surface(losses, held, in_chunks(*data(1, 8, 8), at_once), masks or {})


@pytest.fixture(scope="module")
def net_hessian() -> Tensor:
    return full_hessian(net_surface())


def full_hessian(surface: Surface) -> Tensor:
    """The whole Hessian in all parameters, by torch.func."""
    ((inputs, targets),) = surface.batches()
    sizes = [one.numel() for one in surface.parameters.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        shaped = {n: p.view_as(one) for (n, one), p in zip(surface.parameters.items(), parts, strict=True)}
        return surface.losses(shaped, inputs, targets).mean()

    return hessian(loss)(torch.cat([one.flatten() for one in surface.parameters.values()]))


def test_the_hessian_of_least_squares_is_that_of_its_inputs():
    inputs, _ = data()
    outputs = draws(EXAMPLES, 5)()
    surface = Surface(
        lambda p, x, y: (x @ p["w"] - y).square(), {"w": draws(INPUTS)()}, in_chunks(inputs, outputs, 7)
    )
    wanted = 2 * inputs.T @ inputs / EXAMPLES
    direction = draws(INPUTS, 2)()
    torch.testing.assert_close(surface.product(direction), wanted @ direction)
    check_pairs(wanted, spectrum(surface.product, draws(INPUTS), 3, tolerance=1e-9))


def test_the_hessian_of_logistic_regression():
    inputs, labels = data()
    labels, weight = (labels > 0).double(), draws(INPUTS)()
    surface = Surface(
        lambda p, x, y: functional.binary_cross_entropy_with_logits(x @ p["w"], y, reduction="none"),
        {"w": weight},
        in_chunks(inputs, labels, EXAMPLES),
    )
    p = torch.sigmoid(inputs @ weight)
    wanted = inputs.T @ torch.diag(p * (1 - p)) @ inputs / EXAMPLES
    found = torch.stack([surface.product(one) for one in torch.eye(INPUTS, dtype=torch.float64)])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.tensor(surface.gradient_square(), dtype=torch.float64),
        ((p - labels)[:, None] * inputs).square().sum(1).mean(),
    )


def test_the_hessian_of_softmax_regression_at_nothing_has_each_eigenvalue_more_than_once():
    """With weights of 0 it is (1 - 11' / C) / C (x) X'X / n: each eigenvalue of X'X / (C n), C - 1 times."""
    inputs, labels = data()
    surface = Surface(
        softmax_regression,
        {"w": torch.zeros(CLASSES, INPUTS, dtype=torch.float64)},
        in_chunks(inputs, labels, 5),
    )
    centred = torch.eye(CLASSES, dtype=torch.float64) - 1 / CLASSES
    wanted = torch.kron(centred / CLASSES, inputs.T @ inputs / EXAMPLES)
    found = spectrum(surface.product, draws(surface.size), 6, tolerance=1e-9)
    check_pairs(wanted, found)
    np.testing.assert_allclose(found.values[::2], found.values[1::2], rtol=1e-8)


def test_the_largest_eigenvalues_of_a_net_are_those_of_its_whole_hessian(net_hessian):
    surface = net_surface()
    assert surface.size == len(net_hessian) > 100
    found = spectrum(surface.product, draws(surface.size), 10, tolerance=1e-9)
    values = torch.linalg.eigvalsh(net_hessian).numpy()
    largest = values[np.argsort(-np.abs(values))]
    np.testing.assert_allclose(found.values, largest[:10], rtol=1e-6)
    check_pairs(net_hessian, found)
    many = spectrum(surface.product, draws(surface.size), 100, tolerance=1e-9)
    np.testing.assert_allclose(many.values.sum(), largest[:100].sum(), rtol=1e-6)


def test_the_trace_is_within_its_own_error(net_hessian):
    surface = net_surface()
    wanted = float(net_hessian.trace())
    known = spectrum(surface.product, draws(surface.size), 5, tolerance=1e-3)
    mean, error = trace(surface.product, signs(surface.size), known, 20)
    assert 0 < error < 0.3 * wanted
    assert abs(mean - wanted) < 3 * error
    # The error is what repeated estimates vary by.
    several = [trace(surface.product, signs(surface.size, seed), known, 20)[0] for seed in range(8)]
    assert 0.5 < np.std(several, ddof=1) / error < 2
    assert abs(np.mean(several) - wanted) < 3 * error / math.sqrt(8) * 1.5


def test_known_eigenvectors_make_the_trace_exact():
    matrix, _ = diagonal([5.0, -3.0, 1.0, 0.5])
    mean, error = trace(lambda v: matrix @ v, signs(4), of(matrix, 4), 2)
    assert (mean, error) == (pytest.approx(3.5), 0)
    steep, _ = diagonal([1e4, *np.linspace(0, 1, 99)])
    plain = trace(
        lambda v: steep @ v,
        signs(100),
        dataclasses.replace(
            of(steep, 1), values=np.zeros(1), vectors=torch.zeros(1, 100, dtype=torch.float64)
        ),
        20,
    )
    deflated = trace(lambda v: steep @ v, signs(100), of(steep, 1), 20)
    assert deflated[1] < plain[1] / 100


def test_gradients_square_is_that_of_each_example_in_turn():
    surface = net_surface(at_once=5)
    ((inputs, targets),) = net_surface().batches()
    squares = []
    for image, label in zip(inputs, targets, strict=True):
        one = grad(lambda p, x=image, y=label: surface.losses(p, x[None], y[None]).sum())(
            dict(surface.parameters)
        )
        squares.append(sum(float(g.square().sum()) for g in one.values()))
    assert surface.gradient_square() == pytest.approx(np.mean(squares), rel=1e-12)


def test_chunks_change_nothing_but_last_digits():
    whole, parts = net_surface(), net_surface(at_once=5)
    direction = draws(whole.size)()
    torch.testing.assert_close(whole.product(direction), parts.product(direction), rtol=1e-10, atol=1e-14)
    assert whole.loss(0.1 * direction) == pytest.approx(parts.loss(0.1 * direction), rel=1e-12)
    assert whole.gradient_square() == pytest.approx(parts.gradient_square(), rel=1e-12)


def test_dropped_weights_are_no_coordinates():
    """The Hessian under masks is the block of the kept weights of the Hessian at the masked weights."""
    masks = Masks({"0.weight": torch.arange(27).view(3, 1, 3, 3) % 3 > 0, "4.bias": torch.arange(4) != 2})
    surface = net_surface(masks=masks)
    surface = dataclasses.replace(surface, parameters=masks.apply(surface.parameters))
    kept = torch.cat(
        [masks.get(n, torch.ones_like(p, dtype=torch.bool)).flatten() for n, p in surface.parameters.items()]
    )
    block = full_hessian(surface)[kept][:, kept]
    assert surface.size == int(kept.sum()) == len(kept) - 10
    direction = draws(surface.size)()
    torch.testing.assert_close(surface.product(direction), block @ direction)
    check_pairs(block, spectrum(surface.product, draws(surface.size), 4, tolerance=1e-9))
    moved = surface.tensors(direction)
    assert all(not moved[name][~mask].any() for name, mask in masks.items())
    torch.testing.assert_close(surface.vector(moved), direction)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        pytest.param([4.0] * 12 + [1.0] * 60, 14, id="twelve equal ones"),
        pytest.param([3.0, 3.0, 3.0, -3.0, -3.0, *np.linspace(0, 1, 70)], 5, id="equal, of both signs"),
        pytest.param([-10.0, -9.0, 8.0, *np.linspace(-1, 1, 70)], 3, id="negative ones are largest"),
        pytest.param([2.0, 1.0, -0.5], 100, id="fewer than asked for"),
        pytest.param([0.0] * 60, 3, id="nothing but 0"),
        pytest.param([7.0], 1, id="one weight"),
        pytest.param([1.0] * 80, 4, id="the identity"),
        pytest.param(list(np.linspace(1, 2, 200)), 60, id="close together"),
        pytest.param([1e6, *np.logspace(-6, 0, 99)], 20, id="twelve orders of magnitude"),
    ],
)
def test_eigenvalues_are_found_however_they_lie(values, count):
    matrix, _ = diagonal(values)
    found = of(matrix, count)
    assert len(found.values) == min(count, len(values))
    check_pairs(matrix, found)


def test_residuals_bound_the_error_of_eigenvalues():
    matrix, _ = diagonal(list(np.linspace(0, 1, 300)))
    found = of(matrix, 5, tolerance=0.03)
    exact = np.linspace(0, 1, 300)
    away = [np.abs(exact - value).min() for value in found.values]
    assert (np.array(away) <= found.residuals + 1e-12).all()
    own = torch.from_numpy(found.values)[:, None] * found.vectors
    assert ((found.vectors @ matrix - own).norm(dim=1).numpy() <= found.residuals + 1e-12).all()
    assert (found.residuals <= 0.03).all()


def test_products_that_do_not_suffice_leave_nan():
    matrix, _ = diagonal(list(np.linspace(0, 1, 300)))
    found = of(matrix, 5, most=8)
    assert found.products == 8
    assert np.isnan(found.found[~found.settled]).all()
    assert not found.settled.all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_nan_and_ends(bad):
    found = spectrum(lambda v: v * bad, draws(50), 3)
    assert np.isnan(found.found).all()
    assert found.products == 1
    assert all(math.isnan(one) for one in trace(lambda v: v * bad, signs(50), found, 4))


def test_a_loss_that_is_linear_or_leaves_weights_out_is_flat():
    inputs, targets = data()
    surface = Surface(
        lambda p, x, y: x @ p["w"],
        {"w": draws(INPUTS)(), "unused": draws(2)()},
        in_chunks(inputs, targets, 9),
    )
    assert not surface.product(draws(INPUTS + 2)()).any()
    assert np.array_equal(spectrum(surface.product, draws(INPUTS + 2), 3).values, np.zeros(3))


def test_attention_is_differentiated_twice():
    def losses(p: Tensors, x: Tensor, y: Tensor) -> Tensor:
        heads = (x * p["w"]).view(len(x), 1, INPUTS, 1)
        return functional.scaled_dot_product_attention(heads, heads, heads).sum((1, 2, 3)) ** 2

    surface = Surface(losses, {"w": draws(INPUTS)()}, in_chunks(*data(), EXAMPLES))
    with differentiable_twice():
        wanted = full_hessian(surface)
    found = torch.stack([surface.product(one) for one in torch.eye(INPUTS, dtype=torch.float64)])
    torch.testing.assert_close(found, wanted)


def test_a_quadratic_rises_where_it_is_known_to():
    """Along an eigenvector of value v the rise is v e^2 / 2: it is 0.1 at sqrt(0.2 / v)."""
    matrix, _ = diagonal([20.0, -30.0, 5.0])
    found = of(matrix, 3)
    loss = lambda w: float(w @ matrix @ w) / 2  # noqa: E731
    assert rise_distance(loss, found.vectors, 0.1, farthest=0.4, step=0.01) == pytest.approx(0.1)
    assert rise_distance(loss, found.vectors[2:], 0.1, farthest=0.4, step=0.01) == pytest.approx(0.2)
    assert math.isnan(rise_distance(loss, found.vectors[:1], 0.1, farthest=0.4, step=0.01))
    assert math.isnan(rise_distance(loss, found.vectors[2:], 0.1, farthest=0.19, step=0.01))
    assert math.isnan(rise_distance(loss, found.vectors[:0], 0.1, farthest=0.4, step=0.01))
    # A slope is risen along on one side alone, and a loss that is NaN has risen.
    assert rise_distance(
        lambda w: float(w[0]), -torch.eye(3)[:1], 0.1, farthest=0.4, step=0.05
    ) == pytest.approx(0.1)
    assert (
        rise_distance(lambda w: math.nan if w.any() else 0.0, torch.eye(3), 0.1, farthest=0.4, step=0.05)
        == 0.05
    )


FLAT = "observe=[{flatness: {examples: 40, sum_of: 20, directions: 3, trace_draws: 8}}]"


def observed(lab, state, name: str, **options: object) -> dict[str, np.ndarray]:
    entry = observers[name]
    defaults = {option: parameter.default for option, parameter in entry.options.items()}
    return entry.function(state, lab, **{**defaults, **options})


@pytest.fixture(scope="module")
def trained(digits):
    """A trained network with BatchNorm of the digits, half of it dropped."""
    from prunecli.lab import make_lab

    said: list[str] = []
    experiment = small("model={cifar_vgg_11: {width: 0.05}}", "epochs=1", "label_smoothing=0.1")
    lab = make_lab(experiment, 0, digits, torch.device("cpu"), say=said.append)
    state = lab.initial()
    keep = torch.Generator().manual_seed(0)
    masks = Masks({name: torch.rand(one.shape, generator=keep) < 0.5 for name, one in state.masks.items()})
    return lab, lab.train(state.with_masks(masks), 4, lab.rate_at()), said


QUICK = {"examples": 12, "eigenvalues": 2, "sum_of": 2, "directions": 1, "trace_draws": 2, "tolerance": 1e-2}


def test_an_observer_leaves_everything_as_it_was_and_repeats_itself(trained):
    lab, state, _ = trained
    lab.model.train()
    modes = [module.training for module in lab.model.modules()]
    weights = {name: one.clone() for name, one in state.weights.items()}
    buffers = {name: one.clone() for name, one in state.buffers.items()}
    own = {name: one.clone() for name, one in lab.model.state_dict().items()}
    before = torch.random.get_rng_state()
    first = {
        name: observed(lab, state, name, **some)
        for name, some in (("flatness", QUICK), ("perturbation", {"examples": 30}))
    }
    assert torch.equal(before, torch.random.get_rng_state())
    assert [module.training for module in lab.model.modules()] == modes
    assert same(weights, state.weights)
    assert same(buffers, state.buffers)
    assert same(own, lab.model.state_dict())
    assert all(one.grad is None or not one.grad.requires_grad for one in lab.model.parameters())
    torch.manual_seed(12345)
    for name, some in (("flatness", QUICK), ("perturbation", {"examples": 30})):
        again = observed(lab, state, name, **some)
        assert all(np.array_equal(again[place], first[name][place], equal_nan=True) for place in again)


def test_float64_gives_what_float32_does(trained):
    lab, state, _ = trained
    low, high = (observed(lab, state, "flatness", **QUICK, precision=one) for one in ("float32", "float64"))
    for name in ("metrics/hessian_top", "metrics/hessian_sum", "metrics/gradient_covariance_trace"):
        assert low[name] == pytest.approx(float(high[name]), rel=2e-2)
    assert high["metrics/hessian_top"] != low["metrics/hessian_top"]


def test_the_loss_is_that_of_the_first_examples_of_a_split_without_smoothing(trained):
    lab, state, _ = trained
    outcome = lab.outcomes(state, lab.dataset.test, lab.dataset.test.labels)
    for count in (1, 30, 360):
        there = observing._surface(lab, state, "test", count, "included", "float32")
        with observing._looking(lab, state, "the loss"):
            assert there.loss() == pytest.approx(float(outcome.loss[:count].mean()), rel=1e-5)
    seen = lab.outcomes(state, lab.dataset.train, lab.targets.used).loss[lab.targets.split == 0]
    there = observing._surface(lab, state, "train", 100, "included", "float32")
    with observing._looking(lab, state, "the loss"):
        assert there.loss() == pytest.approx(float(seen[:100].mean()), rel=1e-5)


def test_norms_are_parameters_or_are_not(trained):
    lab, state, _ = trained
    every, fewer = (
        observing._surface(lab, state, "test", 5, one, "float32") for one in ("included", "excluded")
    )
    norms = {name for name in every.parameters if name not in fewer.parameters}
    scales = {
        f"{name}.{part}"
        for name, one in lab.model.named_modules()
        if isinstance(one, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert norms == scales != set()
    dropped = sum(int((~mask).sum()) for mask in state.masks.values())
    assert every.size == sum(one.numel() for one in state.weights.values()) - dropped


def test_a_network_that_diverged_is_nan_throughout(trained):
    lab, state, _ = trained
    name = next(iter(state.weights))
    bad = dataclasses.replace(state, weights={**state.weights, name: state.weights[name] * math.nan})
    found = observed(lab, bad, "flatness", **QUICK)
    products = found.pop("products")
    assert products == 1
    assert all(np.isnan(one).all() for one in found.values())
    assert found["eigenvalues"].shape == (2,)
    assert np.isnan(observed(lab, bad, "perturbation", examples=5)["loss_increase"]).all()


def test_eigenvalues_that_do_not_settle_are_said_to_be_nan(trained):
    lab, state, said = trained
    found = observed(lab, state, "flatness", **QUICK | {"products": 3})
    assert np.isnan(found["metrics/hessian_sum"])
    assert np.isnan(found["metrics/epsilon_flatness"])
    assert np.isfinite(found["metrics/hessian_trace"])
    assert "did not settle in 3 products" in said[-1]


def test_what_is_left_out_is_not_stored(trained):
    lab, state, _ = trained
    found = observed(
        lab,
        state,
        "flatness",
        examples=10,
        eigenvalues=1,
        sum_of=0,
        trace_draws=0,
        directions=0,
        tolerance=1e-2,
    )
    assert set(found) == {
        "metrics/hessian_top",
        "eigenvalues",
        "residuals",
        "products",
        "metrics/gradient_covariance_trace",
    }


def test_eigenvectors_that_do_not_fit_are_refused(trained, monkeypatch):
    lab, state, _ = trained
    from prunecli import memory

    monkeypatch.setattr(memory, "memory", lambda: 1000)
    with pytest.raises(OutOfMemory, match="finding 2 eigenvectors of"):
        observed(lab, state, "flatness", **QUICK)


def test_perturbations_rise_with_their_size_and_keep_dropped_weights_at_0(trained):
    lab, state, _ = trained
    found = observed(lab, state, "perturbation", sizes=[0.3, 0.01], draws=5, examples=50)
    assert found["loss_increase"].shape == found["loss_increase_sd"].shape == found["size"].shape == (2,)
    assert abs(found["loss_increase"][1]) < abs(found["loss_increase"][0])
    assert found["metrics/perturbed_loss_increase"] == found["loss_increase"][0]
    there = observing._surface(lab, state, "test", 5, "included", "float32")
    noise = observing._as_long_as(
        there.tensors(observing._drawn(lab, state, there, "x")()), there.tensors(there.here)
    )
    for name, one in noise.items():
        assert (
            float(one.norm()) == pytest.approx(float(state.weights[name].norm()), rel=1e-4) or not one.any()
        )
        assert name not in state.masks or not one[~state.masks[name]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{of: validation}", "'of' should be 'test' or 'train'"),
        ("{examples: 0}", "'examples' should be greater than or equal to 1"),
        ("{eigenvalues: 0}", "'eigenvalues' should be greater than or equal to 1"),
        ("{norms: some}", "'norms' should be 'included' or 'excluded'"),
        ("{tolerance: 0}", "'tolerance' should be greater than or equal to 0.0"),
        ("{step: 0}", "'step' should be greater than 0"),
        ("{epsilon: 0.1}", "observer 'flatness' has no option 'epsilon'"),
    ],
)
def test_wrong_options_are_refused_as_the_recipe_is_read(options, message):
    with pytest.raises(RecipeError, match=message):
        load_text(SMALL, "small.yaml", [f"observe=[{{flatness: {options}}}]"])


@pytest.mark.parametrize("of_", ["test", "train"])
def test_more_examples_than_there_are_are_refused(trained, of_):
    lab, state, _ = trained
    with pytest.raises(
        UsageError, match=rf"'examples' is 2,000, and there are [\d,]+ {of_} examples; give fewer"
    ):
        observed(lab, state, "perturbation", of=of_, examples=2000)
    fits = observers["flatness"].traits["fits"]
    with pytest.raises(UsageError, match="there are 360 test examples"):
        fits({"train": 1000, "test": 360}, of="test", examples=361)
    fits({"train": 1000, "test": 360}, of="test", examples=360)


def test_flatness_of_a_run_is_stored_and_compared(tmp_path):
    procedure = "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]"
    (finished,) = carry_out_all(
        load_text(SMALL, "small.yaml", [procedure, FLAT, "seeds=[0, 1]"], stem="flat"),
        Settings(runs=tmp_path),
        lambda _event: None,
    )
    path = finished.folder.path
    run = read_run(path)
    metrics = run.metrics
    names = {
        "hessian_top",
        "hessian_sum",
        "hessian_trace",
        "gradient_covariance_trace",
        "noise_to_curvature",
        "epsilon_flatness",
    }
    assert names <= set(metrics)
    assert all(np.isfinite(metrics[name]).all() for name in names - {"epsilon_flatness"})
    np.testing.assert_allclose(
        metrics["noise_to_curvature"], metrics["gradient_covariance_trace"] / metrics["hessian_sum"]
    )
    with h5py.File(path / "store.h5") as file:
        assert file["observations/flatness/eigenvalues"].shape == (2, 2, 10)
        np.testing.assert_array_equal(
            file["observations/flatness/eigenvalues"][..., 0], metrics["hessian_top"]
        )
        assert (file["observations/flatness/trace_error"][:] > 0).all()
    done = CliRunner().invoke(app, ["compare", str(path), "--metric", "hessian_trace"])
    assert done.exit_code == 0, done.output
    assert "hessian trace" in done.output.replace("_", " ")
