"""Models are as large as the papers say, work on every kind of image, and begin as they promise."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt
from typing import Any

import pytest
import torch
from conftest import small
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.errors import OutOfMemory, UsageError
from prunecli.initializations import LINEAR_OR_CONVOLUTION, kaiming_normal_, pytorch_
from prunecli.models.cifar_resnet import _ResNet
from prunecli.models.parameters import check_batches, count, prunable_names
from prunecli.models.width import Width
from prunecli.recipe.library import folder
from prunecli.recipe.load import load
from prunecli.registry import Choice, initializations, models
from prunecli.task import Task

DIGITS, MNIST, CIFAR = Task((1, 8, 8), 10), Task((1, 28, 28), 10), Task((3, 32, 32), 10)
CIFAR_100, IMAGENET = Task((3, 32, 32), 100), Task((3, 224, 224), 1000)
ZOO = [name for name in models if not name.endswith(":")]
NEEDED = {"mlp": {"hidden": [20, 10]}}
IMAGES = (DIGITS, MNIST, CIFAR, Task((2, 40, 33), 3))
PATCHES, REGRESSION = Task((1, 3, 20), 4), Task((2, 4, 5), 1, "squared_error")
TASKS = {
    "keras_resnet_20": (Task((1, 9, 9), 10), *IMAGES[1:]),  # it averages 3x3 places of a quarter of a side
    "linear": (REGRESSION, Task((1, 1, 7), 1, "squared_error")),
    "two_layer": (PATCHES, Task((1, 2, 50), 10), DIGITS),
}
"""The tasks of models that do not take every kind of image."""
SIZES: dict[str, tuple[str, tuple[float, ...]]] = {
    "linear": ("features", (1, 10, 39, 40)),
    "two_layer": ("neurons", (1, 10, 50, 75)),
}
"""The option that makes a model larger, where it is not `width`."""
ZEROS, ONES = {"linear"}, {"keras_resnet_20"}
"""Models whose weights begin at 0, and those whose BatchNorm begins at 1."""
OWN_WEIGHTS = {"linear", "two_layer"}
"""Models of theory, which begin as their papers say."""
WIDTHS_TRIED = ("width", (0.01, 0.25, 1.0, 1.5))


def tasks_of(name: str) -> tuple[Task, ...]:
    return TASKS.get(name, IMAGES)


def task_of(name: str) -> Task:
    """The task that a model is tried on: CIFAR-10 where it takes that."""
    return CIFAR if CIFAR in tasks_of(name) else tasks_of(name)[0]


def narrow(name: str, width: float) -> dict[str, Any]:  # Any: options differ
    return {} if name in SIZES else {"width": width}


def built(
    name: str, task: Task, seed: int = 0, **options: object
) -> Any:  # Any: models differ in their parts
    torch.manual_seed(seed)
    return Choice("models", name, NEEDED.get(name, {}) | options)(task)


def sketched(name: str, task: Task, **options: Any) -> Any:  # Any: as above
    with torch.device("meta"):
        return built(name, task, **options)


def prunable(model: nn.Module) -> tuple[int, int]:
    """How many tensors, and how many weights in them."""
    names = prunable_names(model)
    return len(names), sum(dict(model.named_parameters())[name].numel() for name in names)


def equal(one: nn.Module, other: nn.Module) -> list[bool]:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return [torch.equal(*pair) for pair in pairs]


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in ZOO for task in tasks_of(name)], ids=str)
def test_a_model_learns_from_any_task_that_it_takes(name: str, task: Task) -> None:
    model = built(name, task, **narrow(name, 0.25))
    outputs: Tensor = model(torch.randn(3, *task.shape))
    assert outputs.shape == (3, task.classes)
    assert outputs.isfinite().all()
    if task.loss == "squared_error":
        torch.autograd.backward((outputs.flatten() - torch.tensor([0.5, -1.0, 2.0])).square().mean())
    else:
        torch.autograd.backward(nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 2])))
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["keras_resnet_20", "two_layer"])
def test_a_model_refuses_the_images_that_it_does_not_take(name: str) -> None:
    with pytest.raises(UsageError, match=f"model '{name}'"):
        built(name, {"keras_resnet_20": DIGITS, "two_layer": CIFAR}[name])


@pytest.mark.parametrize("name", ZOO)
def test_a_model_can_be_sketched_without_memory(name: str) -> None:
    task = task_of(name)
    model = sketched(name, task)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(torch.empty(2, *task.shape, device="meta")).shape == (2, task.classes)


@pytest.mark.parametrize("name", ZOO)
def test_a_wider_model_is_larger(name: str) -> None:
    option, values = SIZES.get(name, WIDTHS_TRIED)
    sizes = [count(sketched(name, task_of(name), **{option: value})) for value in values]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ZOO)
def test_no_layer_is_too_narrow_to_be_there(name: str) -> None:
    option, values = SIZES.get(name, ("width", (0.001,)))
    model = sketched(name, task_of(name), **{option: values[0]})
    assert all(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "task", "options", "parameters", "tensors", "weights"),
    [
        ("lenet_300_100", MNIST, {}, 266_610, 3, 266_200),
        ("mlp", MNIST, {"hidden": [300, 100]}, 266_610, 3, 266_200),
        ("mlp", MNIST, {"hidden": []}, 7_850, 1, 7_840),
        ("lenet_5", MNIST, {}, 61_706, 5, 61_470),
        ("lenet_5", DIGITS, {}, 61_706, 5, 61_470),
        ("cifar_resnet_20", CIFAR, {}, 272_474, 22, 270_896),
        ("cifar_resnet_32", CIFAR_100, {}, 472_756, 34, 470_192),
        ("cifar_resnet_32", CIFAR_100, {"width": 2.0}, 1_872_132, 34, 1_867_104),
        ("cifar_vgg_11", CIFAR, {}, 9_231_114, 9, 9_222_848),
        ("cifar_vgg_16", CIFAR, {}, 14_728_266, 14, 14_715_584),
        ("torchvision:resnet50", IMAGENET, {}, 25_557_032, 54, 25_502_912),
        ("timm:resnet18", CIFAR, {}, 11_181_642, 21, 11_172_032),
        ("timm:resnet18", CIFAR, {"stem": "cifar"}, 11_173_962, 21, 11_164_352),
        ("torchvision:resnet18", CIFAR, {"stem": "cifar"}, 11_173_962, 21, 11_164_352),
        ("torchvision:resnet18", MNIST, {"stem": "cifar"}, 11_172_810, 21, 11_163_200),
    ],
)
def test_a_model_has_the_published_size(
    name: str, task: Task, options: dict[str, object], parameters: int, tensors: int, weights: int
) -> None:
    model = sketched(name, task, **options)
    assert (count(model), *prunable(model)) == (parameters, tensors, weights)


@pytest.mark.parametrize("name", ["cifar_resnet_44", "cifar_resnet_56", "cifar_resnet_110"])
def test_a_resnet_is_as_deep_as_its_name_says(name: str) -> None:
    names = [weight for weight in prunable_names(sketched(name, CIFAR)) if "shortcut" not in weight]
    assert len(names) == int(name.rpartition("_")[2])


@pytest.mark.parametrize("name", ["cifar_vgg_11", "cifar_vgg_13", "cifar_vgg_16", "cifar_vgg_19"])
def test_a_vgg_is_two_layers_short_of_its_name(name: str) -> None:  # one linear layer in place of three
    assert len(prunable_names(sketched(name, CIFAR))) == int(name.rpartition("_")[2]) - 2


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar_resnet_20", [16, 13, 10, 8, 7, 5, 4, 3, 3, 2]),
        ("cifar_vgg_16", [64, 51, 41, 33, 26, 21, 17, 13, 11, 9]),
        ("lenet_300_100", [300, 240, 192, 154, 123, 98, 79, 63, 50, 40]),
    ],
)
def test_widths_shrink_as_the_protocol_lists_them(name: str, sizes: list[int]) -> None:
    shrunk = (sketched(name, CIFAR, width=0.8**step) for step in range(10))
    assert [len(next(model.parameters())) for model in shrunk] == sizes


def test_every_hidden_layer_of_a_lenet_is_rounded() -> None:
    sizes = [
        [len(layer.bias) for layer in sketched("lenet_300_100", MNIST, width=0.8**step).fc_layers]
        for step in range(10)
    ]
    assert [second for _, second in sizes] == [100, 80, 64, 51, 41, 33, 26, 21, 17, 13]


@pytest.mark.parametrize(("name", "factors"), [("resnet_20", (1, 2, 4)), ("vgg_16", (1, 2, 4, 8))])
def test_only_the_base_width_is_rounded(name: str, factors: tuple[int, ...]) -> None:
    model = sketched(f"cifar_{name}", CIFAR, width=0.8)
    sizes = {len(part.weight) for part in model.modules() if isinstance(part, nn.BatchNorm2d)}
    assert sizes == {factor * min(sizes) for factor in factors}


@pytest.mark.parametrize("width", [0, -1, 65, float("nan"), "wide"])
def test_a_width_is_a_positive_number(width: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Width).validate_python(width)


def test_parameters_have_the_names_of_openlth() -> None:
    assert prunable_names(sketched("lenet_300_100", MNIST)) == (
        "fc_layers.0.weight",
        "fc_layers.1.weight",
        "fc.weight",
    )
    resnet = dict(sketched("cifar_resnet_20", CIFAR).named_parameters())
    expected = {"conv.weight", "bn.bias", "blocks.3.conv1.weight", "blocks.3.bn2.weight", "fc.bias"}
    assert expected | {"blocks.3.shortcut.0.weight", "blocks.3.shortcut.1.weight"} <= resnet.keys()
    assert "blocks.1.shortcut.0.weight" not in resnet
    vgg = dict(sketched("cifar_vgg_16", CIFAR).named_parameters())
    assert {"layers.0.conv.weight", "layers.0.conv.bias", "layers.3.bn.weight", "fc.weight"} <= vgg.keys()
    assert not any(name.startswith("layers.2.") for name in vgg)  # the pooling layer keeps its number


@pytest.mark.parametrize("name", ZOO)
def test_every_matrix_of_the_zoo_is_prunable_and_nothing_else(name: str) -> None:
    model = sketched(name, task_of(name))
    assert prunable_names(model) == tuple(key for key, value in model.named_parameters() if value.ndim > 1)


LAYERS = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


@pytest.mark.parametrize("layer", [*(kind(2, 3, 1) for kind in LAYERS), nn.Linear(2, 3)], ids=str)
def test_linear_and_convolution_weights_are_prunable(layer: nn.Module) -> None:
    assert prunable_names(nn.Sequential(layer, nn.BatchNorm2d(3), nn.Embedding(4, 3))) == ("0.weight",)


def test_a_shared_weight_is_counted_once_under_its_first_name() -> None:
    embedding, linear = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    linear.weight = embedding.weight
    model = nn.Sequential(embedding, nn.LayerNorm(3), linear, linear)
    assert prunable_names(model) == ("0.weight",)
    assert count(model) == 15 + 6


def test_a_parametrized_layer_has_no_weight_to_prune() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    assert prunable_names(model) == ("1.weight",)


@pytest.mark.parametrize("name", ZOO)
def test_the_seed_decides_the_weights(name: str) -> None:
    task = tasks_of(name)[0]
    one, same, other = (built(name, task, seed, **narrow(name, 0.25)) for seed in (1, 1, 2))
    assert all(equal(one, same))
    alike = [
        torch.equal(one.state_dict()[weight], other.state_dict()[weight]) for weight in prunable_names(one)
    ]
    assert alike == [name in ZEROS] * len(alike)


def test_the_models_of_theory_begin_as_their_papers_say() -> None:
    assert not built("linear", REGRESSION).fc.weight.any()
    weights = built("two_layer", Task((1, 2, 500), 10), std=0.3).first.weight
    assert weights.std().item() == pytest.approx(0.3, rel=0.01)
    assert abs(weights.mean().item()) < 0.01


def spreads(model: nn.Module) -> list[float]:
    """Each large weight's standard deviation over that of N(0, 2 / fan in)."""
    layers = [part for part in model.modules() if isinstance(part, LINEAR_OR_CONVOLUTION)]
    weights = [layer.weight for layer in layers if layer.weight.numel() >= 2000]
    return [weight.std().item() * sqrt(weight[0].numel() / 2) for weight in weights]


@pytest.mark.parametrize("name", [name for name in ZOO if name not in OWN_WEIGHTS])
def test_the_zoo_begins_kaiming_normal(name: str) -> None:
    model = built(name, CIFAR, width=0.5)
    assert spreads(model) == pytest.approx([1.0] * len(spreads(model)), rel=0.1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            if name in ONES:
                assert (part.weight == 1).all()
            else:
                assert 0 <= part.weight.min() < part.weight.max() < 1
            assert not part.bias.any()
        elif isinstance(part, LINEAR_OR_CONVOLUTION) and part.bias is not None and name in ONES:
            assert not part.bias.any()  # Keras' default
        elif isinstance(part, LINEAR_OR_CONVOLUTION) and part.bias is not None:
            assert 0 < part.bias.abs().max() <= 1 / sqrt(part.weight[0].numel())  # PyTorch's default


@pytest.mark.parametrize("name", initializations)
def test_an_initialization_is_decided_by_the_seed(name: str) -> None:
    one, other = built("cifar_resnet_20", CIFAR, 1), built("cifar_resnet_20", CIFAR, 1)
    for model in (one, other):
        torch.manual_seed(7)
        Choice("initializations", name)(model)
    assert all(equal(one, other))


@pytest.mark.parametrize("name", initializations)
def test_an_initialization_works_on_a_sketch(name: str) -> None:
    Choice("initializations", name)(sketched("cifar_resnet_20", CIFAR))


@pytest.mark.parametrize(("name", "changes"), [("own", False), ("kaiming_normal", True), ("pytorch", True)])
def test_an_initialization_draws_every_weight_anew(name: str, changes: bool) -> None:
    before, model = built("cifar_vgg_11", DIGITS, 1), built("cifar_vgg_11", DIGITS, 1)
    Choice("initializations", name)(model)
    weights = zip(before.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(*pair) != changes for pair in weights if pair[0].ndim > 1)


def test_kaiming_normal_may_leave_batch_norm_at_one() -> None:
    model = built("torchvision:resnet18", CIFAR)
    kaiming_normal_(model, batch_norm="ones")
    assert spreads(model) == pytest.approx([1.0] * 20 + spreads(model)[20:], rel=0.1)
    assert all((part.weight == 1).all() for part in model.modules() if isinstance(part, nn.BatchNorm2d))


def test_kaiming_normal_passes_over_a_norm_without_weights() -> None:
    kaiming_normal_(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)))


def test_pytorch_weights_are_uniform() -> None:
    layer, norm = nn.Linear(100, 100), nn.BatchNorm1d(100)
    model = nn.Sequential(layer, norm)
    kaiming_normal_(model)
    pytorch_(model)
    assert 0.09 < layer.weight.abs().max() <= 0.1
    assert (norm.weight == 1).all()


@pytest.mark.parametrize("prefix", ["timm:", "torchvision:"])
def test_a_library_lists_the_names_it_builds(prefix: str) -> None:
    names = models[f"{prefix}resnet18"].traits["names"]()
    assert {"resnet18", "resnet50", "vgg16_bn"} <= set(names)
    assert not [name for name in names if set(name) & set(":/.@")]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"timm:{name}"
            for name in ("resnet81", "resnet18.a1_in1k", "hf-hub:a/b", "local-dir:/a", "../resnet18")
        ),
        *(f"torchvision:{name}" for name in ("resnet81", "fcn_resnet50", "ResNet")),
    ],
)
def test_a_name_unknown_to_its_library_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name.partition(":")[2]):
        built(name, CIFAR)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        built("timm:resnet18.a1_in1k", CIFAR)


TIMM = ["resnet18", "vgg11", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
TORCHVISION = ["resnet18", "vgg11_bn", "vit_b_16", "googlenet", "densenet121", "mobilenet_v3_small", "swin_t"]


@pytest.mark.parametrize(
    "name", [*(f"timm:{name}" for name in TIMM), *(f"torchvision:{name}" for name in TORCHVISION)]
)
@pytest.mark.parametrize("task", [Task((3, 32, 32), 7), Task((1, 64, 64), 3)], ids=str)
def test_a_model_of_a_library_takes_the_images_of_the_task(name: str, task: Task) -> None:
    model = sketched(name, task)
    assert model(torch.empty(2, *task.shape, device="meta")).shape == (2, task.classes)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_the_cifar_stem_keeps_the_size_of_images_and_the_spread_of_weights(name: str) -> None:
    model = built(name, CIFAR, stem="cifar")
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    assert model.conv1.weight.std().item() == pytest.approx(sqrt(2 / (64 * 9)), rel=0.1)
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", ["timm:resnet18d", "timm:vit_tiny_patch16_224", "torchvision:vgg11"])
def test_the_cifar_stem_is_refused_where_it_does_not_fit(name: str) -> None:
    with pytest.raises(UsageError, match=f"does not fit {name}"):
        sketched(name, CIFAR, stem="cifar")


def test_a_first_convolution_for_other_channels_is_drawn_as_the_library_draws() -> None:
    grey = built("torchvision:resnet18", MNIST)
    assert grey.conv1.weight.shape == (64, 1, 7, 7)
    assert grey.conv1.weight.std().item() == pytest.approx(sqrt(2 / (64 * 49)), rel=0.1)


def test_rates_reach_the_model_of_timm() -> None:
    model = sketched("timm:resnet18", CIFAR, drop_rate=0.3, drop_path_rate=0.2)
    assert model.drop_rate == 0.3
    assert model.layer4[-1].drop_path.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "options", "task"),
    [
        ("timm:vgg11", {"drop_path_rate": 0.1}, CIFAR),
        ("torchvision:maxvit_t", {}, CIFAR),
        ("torchvision:vit_h_14", {}, CIFAR),
        ("torchvision:vit_b_16", {}, Task((3, 32, 64), 2)),
    ],
)
def test_a_model_that_cannot_be_made_says_which(name: str, options: dict[str, object], task: Task) -> None:
    with pytest.raises(UsageError, match=name):
        sketched(name, task, **options)


def test_the_zoo_needs_neither_timm_nor_torchvision() -> None:
    code = "import sys, prunecli.models; sys.exit(bool({'timm', 'torchvision'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", [*ZOO, "timm:resnet18", "torchvision:resnet18"])
def test_a_model_has_a_summary_and_options_that_can_be_validated(name: str) -> None:
    assert models[name].summary
    for option in models[name].options.values():
        TypeAdapter(option.annotation)


def test_a_model_that_memory_does_not_hold_is_refused_before_it_is_made() -> None:
    for choice in (
        Choice("models", "mlp", {"hidden": [1_000_000] * 100}),
        Choice("models", "mlp", {"hidden": [1_000_000, 1_000_000], "width": 64.0}),
    ):
        with pytest.raises(
            OutOfMemory, match=r"has [0-9,]{10,} parameters, which takes .*B; there are .*B of"
        ):
            choice(DIGITS)


def test_looking_at_a_models_size_draws_nothing() -> None:
    made = built("cifar_resnet_20", CIFAR, width=0.25)
    torch.manual_seed(0)
    plain = _ResNet(CIFAR, blocks=3, base=4)
    kaiming_normal_(plain)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(("size", "examples", "fits"), [(1, 100, False), (128, 1, False), (2, 100, True)])
def test_batches_of_one_do_not_fit_batch_norm(size: int, examples: int, fits: bool) -> None:
    experiment = small(f"batch_size={size}")
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    check_batches(experiment, nn.Flatten(), examples)
    if fits:
        check_batches(experiment, norm, examples)
    else:
        with pytest.raises(UsageError, match=r"BatchNorm .*needs batches of two"):
            check_batches(experiment, norm, examples)


WIDTHS = {
    "lenet_mnist": [300, 240, 192, 154, 123, 98, 79, 63, 50, 40],
    "resnet20_cifar10": [16, 13, 10, 8, 7, 5, 4, 3, 2],
    "vgg16_cifar10": [64, 51, 41, 33, 26, 21, 17, 13, 11, 9],
    "resnet32_cifar100": [32, 26, 20, 16, 13, 10, 8, 7, 5, 4],
}
"""0.8^k of the width, rounded from the unrounded product, without what rounds to the width before."""


@pytest.mark.parametrize("name", WIDTHS)
def test_the_widths_of_the_papers_recipes(name):
    points = load(folder() / "jin2022" / f"{name}_width.yaml").points
    task = points[0].experiment.data.entry.traits["facts"].task
    found = [next(point.experiment.model(task).parameters()).shape[0] for point in points]
    assert found == WIDTHS[name]
