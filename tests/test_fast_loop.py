"""Laws of what makes training fast: on a CPU the same bits as a plain loop, elsewhere the same but for rounding."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, same
from test_training import CONVOLUTIONAL, equal, sparse
from torch import nn
from torch.nn import functional

from prunecli.batching import in_batches, in_order
from prunecli.building import settled
from prunecli.captured import Inference
from prunecli.datasets.values import InMemory, Normalization
from prunecli.errors import OutOfMemory, UsageError
from prunecli.folding import agree, fold
from prunecli.lab import FOLDED_FROM, make_lab
from prunecli.masks import Masks
from prunecli.memory_formats import laid_out, quickest
from prunecli.models.fully_connected import lenet_300_100
from prunecli.plan import make_plan
from prunecli.recipe.load import load_text
from prunecli.registry import Choice
from prunecli.runs import Settings, prepare, run_digest
from prunecli.task import Task
from prunecli.training import LOOKED_AT_ONCE, fit

CPU, CIFAR, DIGITS = torch.device("cpu"), Task((3, 32, 32), 10), Task((1, 8, 8), 10)
RATE = "learning_rate={constant: {value: 0.0625}}"
"""A number that float32 holds: a recorded step has its rate in a tensor of that type."""


def as_it_is(work):
    """Records nothing: the work on fixed memory is done anew each time."""
    return work


def by_hand(lab, state, steps: int):
    """What somebody would write who wants these steps and nothing else; gives the weights."""
    model = copy.deepcopy(lab.model)
    for tensors, found in ((state.weights, model.named_parameters()), (state.buffers, model.named_buffers())):
        for name, tensor in found:
            tensor.data.copy_(tensors[name])
    parameters = dict(model.named_parameters())
    optimizer = lab.experiment.optimizer(parameters)
    rate, done = lab.rate_at(), 0
    model.train()
    for epoch in range(steps // lab.steps_per_epoch + 1):
        order = in_batches(
            in_order(lab._training, lab._seen_in_an_epoch, lab.drawing, epoch), lab.experiment.batch_size
        )
        for batch, index in zip(
            lab._batches(epoch, 0, len(order), epoch * len(order), rate), order, strict=True
        ):
            if done == steps:
                return {name: p.detach() for name, p in parameters.items()}
            for group in optimizer.param_groups:
                group["lr"] = rate(lab.epoch(done))
            images = batch.images.contiguous(memory_format=lab.manner.memory_format)
            loss = functional.cross_entropy(model(images), lab.targets.used[index])
            optimizer.zero_grad()
            loss.backward()
            for name, mask in state.masks.items():
                parameters[name].grad.mul_(mask)
            optimizer.step()
            done += 1
    raise AssertionError("too few epochs")


@pytest.mark.parametrize("model", ["lenet_300_100", "lenet_5", "{cifar_resnet_20: {width: 0.125}}"])
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_training_gives_the_bits_of_a_loop_written_by_hand(lab_of, model, loop):
    lab = lab_of(*CONVOLUTIONAL, f"model={model}", f"loop={loop}")
    state = sparse(lab)
    assert same(lab.train(state, 7, lab.rate_at()).weights, by_hand(lab, state, 7))


@pytest.mark.parametrize(
    "optimizer", ["{sgd: {momentum: 0.9}}", "{sgd: {nesterov: true, momentum: 0.5}}", "sgd"]
)
@pytest.mark.parametrize("more", [(), ("label_smoothing=0.1", "gradient_clipping=0.5")])
def test_steps_on_fixed_memory_give_the_bits_of_steps_as_they_are(lab_of, optimizer, more):
    given = (*CONVOLUTIONAL, f"optimizer={optimizer}", RATE, *more)
    plain, recorded = lab_of(*given, "loop=plain"), recording(lab_of(*given))
    state = sparse(plain)
    for lab in (plain, recorded):
        assert (lab.machinery.captured is None) is (lab is plain)
    # A level more, with other masks and a fresh optimizer: nothing of the first is left.
    first = [lab.train(state, 7, lab.rate_at()) for lab in (plain, recorded)]
    assert equal(*first)
    second = [lab.train(sparse(plain, 0.9), 6, lab.rate_at()) for lab in (plain, recorded)]
    assert equal(*second)
    assert equal(*(lab.train(first[0], 3, lab.rate_at()) for lab in (plain, recorded)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "{rmsprop: {momentum: 0.5}}"])
def test_other_optimizers_on_fixed_memory_differ_by_the_rounding_of_their_rate(lab_of, optimizer):
    given = (*CONVOLUTIONAL, f"optimizer={optimizer}", "learning_rate={constant: {value: 0.0009765625}}")
    plain, recorded = lab_of(*given, "loop=plain"), recording(lab_of(*given))
    one, other = (lab.train(sparse(plain), 6, lab.rate_at()) for lab in (plain, recorded))
    assert one.optimizer.keys() == other.optimizer.keys()
    for name, weight in one.weights.items():
        torch.testing.assert_close(other.weights[name], weight, atol=2e-5, rtol=1e-3)
    for name, mask in one.masks.items():
        assert not other.weights[name][~mask].any()


def recording(lab, record=as_it_is):
    """The lab again, with what records steps; everything it says is in `said`."""
    said = []
    made = make_lab(lab.experiment, lab.seed, lab.dataset, lab.device, say=said.append, record=record)
    object.__setattr__(made, "said", said)
    return made


def test_a_step_that_cannot_be_recorded_is_said_once_and_taken_as_it_is(lab_of):
    def refused(_work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain = lab_of(*CONVOLUTIONAL, RATE, "loop=plain")
    lab = recording(lab_of(*CONVOLUTIONAL, RATE), refused)
    state = sparse(plain)
    assert equal(plain.train(state, 7, plain.rate_at()), lab.train(state, 7, lab.rate_at()))
    assert equal(plain.train(state, 2, plain.rate_at()), lab.train(state, 2, lab.rate_at()))
    assert lab.said == [
        "the training step cannot be recorded (operation not permitted when stream is capturing): its operations are "
        "started one by one"
    ]


def test_a_recording_that_does_something_else_is_not_used(lab_of):
    def once(work):
        """As a recording of numbers that were drawn when it was made."""
        state = random.getstate()

        def again():
            random.setstate(state)
            work()

        return again

    def drawn(model, given):
        return given[0] * random.random()

    plain, lab = lab_of(RATE, "loop=plain"), recording(lab_of(RATE), once)
    for one in (plain, lab):
        one.model.register_forward_pre_hook(lambda model, given: (drawn(model, given),))
        object.__setattr__(one, "manner", replace(one.manner, own_code=True))
    captured = lab.machinery.captured
    captured.manner = lab.manner
    one, other = (each.train(each.initial(), 3, each.rate_at()) for each in (plain, lab))
    assert equal(one, other)
    assert "in another way" in lab.said[0]


def test_a_recording_that_fails_late_leaves_nothing_of_what_it_tried(lab_of):
    def late(work):
        for _ in range(3):
            work()
        raise RuntimeError("capture ended")

    given = (*CONVOLUTIONAL, RATE, "optimizer={sgd: {momentum: 0.9}}")
    plain, lab = lab_of(*given, "loop=plain"), recording(lab_of(*given), late)
    one, other = (each.train(sparse(plain), 5, each.rate_at()) for each in (plain, lab))
    assert equal(one, other)


class Averaging(nn.Module):
    """Keeps an average of its logits, in another tensor each time or in the same."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.layers, self.in_place = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), in_place
        self.register_buffer("average", torch.zeros(10))

    def forward(self, images):
        logits = self.layers(images)
        if self.training and self.in_place:
            self.average.lerp_(logits.detach().mean(0), 0.5)
        elif self.training:
            self.average = self.average.lerp(logits.detach().mean(0), 0.5)
        return logits


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_a_recording_would_not_find_again_is_not_recorded(lab_of, in_place):
    """A model may put another tensor in a buffer's place; a recording goes on with the first."""
    trained = []
    for loop in ("plain", "fast"):
        lab = lab_of(RATE, f"loop={loop}")
        torch.manual_seed(0)
        made = recording(lab) if loop == "fast" else lab
        model = Averaging(in_place)
        object.__setattr__(made, "model", model)
        made.machinery.model, made.machinery.names = model, ()
        state = replace(
            lab.initial(),
            weights={name: p.detach().clone() for name, p in model.named_parameters()},
            buffers={"average": torch.zeros(10)},
            masks=Masks({}),
        )
        trained.append(made.train(state, 4, made.rate_at()))
    assert same(trained[0].buffers, trained[1].buffers)
    assert same(trained[0].weights, trained[1].weights)
    assert bool(made.said) is not in_place
    assert in_place or "another tensor after a step" in made.said[0]


def test_evaluations_that_replay_something_else_are_not_replayed():
    """A recording that holds nothing gives what it was recorded with, which is right for those images alone."""
    said, model = [], nn.Sequential(nn.Flatten(), nn.Linear(12, 10))

    def nothing(work):
        work()
        return lambda: None

    inference = Inference(model, nothing, said.append)
    images = torch.rand(4, 3, 2, 2)
    with torch.no_grad():
        for seen in (images, images + 1):
            assert torch.equal(inference(seen), model(seen))
    assert said == [
        "the evaluation cannot be recorded (replayed, it gives other logits): its operations are started one by one"
    ]


def test_memory_that_a_recording_has_not_is_an_error_of_memory(lab_of):
    def too_much(_work):
        raise torch.OutOfMemoryError("no room")

    lab = recording(lab_of(*CONVOLUTIONAL), too_much)
    with pytest.raises(OutOfMemory, match="a training step of batch_size 64"):
        lab.train(lab.initial(), 1, lab.rate_at())


def norms_moved(model: nn.Module) -> nn.Module:
    """The model with statistics and parameters of its BatchNorms that are not those of a new one."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-1.5, 1.5)
                module.bias.normal_()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("cifar_resnet_8", 9), ("cifar_resnet_20", 21), ("cifar_vgg_11", 8), ("timm:resnet10t", 14)],
)
def test_a_folded_network_is_the_same_function(name, pairs):
    torch.manual_seed(0)
    model = norms_moved(Choice("models", name, {"width": 0.25} if name.startswith("cifar") else {})(CIFAR))
    folded = fold(model)
    assert len(folded.pairs) == pairs
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.module.modules())
    images = torch.rand(16, 3, 32, 32)
    for _ in range(2):
        folded.load_(dict(model.named_parameters()), dict(model.named_buffers()))
        with torch.no_grad():
            torch.testing.assert_close(folded.module(images), model(images), rtol=1e-4, atol=1e-4)
        norms_moved(model)


class Reads(nn.Module):
    """A convolution that is read by more than its BatchNorm, one whose norm has no statistics, and a shared one."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.batch, self.shared = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3)]
        )
        self.head = nn.Linear(3, 10)

    def forward(self, images):
        seen = self.read(images)
        seen = self.norms[0](seen) + seen
        seen = self.norms[1](self.batch(seen))
        seen = self.norms[2](self.shared(self.shared(seen)))
        return self.head(seen.mean((2, 3)))


class Activated(nn.BatchNorm2d):
    """A BatchNorm that does more, as timm's do."""

    def forward(self, images):
        return super().forward(images).relu()


def activated() -> nn.Module:
    """A convolution before a BatchNorm that does more."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), Activated(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


class Keeps(nn.Module):
    """Keeps what it saw, which cannot be copied while it has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)
        self.forward(torch.rand(2, 3, 8, 8))

    def forward(self, images):
        self.seen = self.norm(self.convolution(images))
        return self.seen.mean((2, 3))


def shared() -> nn.Module:
    """Two convolutions of one weight."""
    layers = [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]
    layers[2].weight = layers[0].weight
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))


def by_length() -> nn.Module:
    """A linear layer of sequences, whose BatchNorm is over places and not over its outputs."""
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 7), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(21, 10))


class Depends(nn.Module):
    """What it does depends on what it sees: nobody can know it by looking at one run."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)

    def forward(self, images):
        seen = self.norm(self.convolution(images))
        return (seen if seen.sum() > 0 else -seen).mean((2, 3))


@pytest.mark.parametrize(
    "model",
    [Reads(), activated(), Depends(), Keeps(), shared(), by_length(), lenet_300_100(DIGITS)],
)
def test_what_cannot_be_folded_is_left(model):
    assert fold(model) is None


@pytest.fixture
def larger(lab_of):
    """A lab of a ResNet whose training split is large enough to fold for."""
    lab = lab_of("model={cifar_resnet_8: {width: 0.25}}", "labels=clean")
    images = lab.dataset.train.images
    again = torch.arange(FOLDED_FROM) % len(images)
    many = replace(
        lab.dataset.train,
        images=InMemory(images.pixels[again], images.normalize),
        labels=lab.dataset.train.labels[again],
    )
    return lab, replace(lab.dataset, train=many)


@pytest.mark.parametrize("record", [None, as_it_is])
def test_evaluation_folds_where_it_pays_and_gives_the_same_but_for_rounding(larger, record):
    small, dataset = larger
    fast = make_lab(small.experiment, 0, dataset, CPU, record=record)
    plain = make_lab(replace(small.experiment, loop="plain"), 0, dataset, CPU)
    state = fast.train(fast.initial(), 2, fast.rate_at())
    one, other = (lab.outcomes(state, dataset.train, dataset.train.labels) for lab in (fast, plain))
    assert plain.machinery.inference is None
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-4, atol=1e-5)
    assert not torch.equal(one.loss, other.loss)
    assert torch.equal(one.correct, other.correct)
    # Few examples are evaluated as they are.
    few = (lab.outcomes(state, dataset.test, dataset.test.labels) for lab in (fast, plain))
    assert torch.equal(*(seen.loss for seen in few))


def test_a_quicker_network_that_does_something_else_is_not_used(larger):
    small, dataset = larger
    lab, plain = (
        make_lab(replace(small.experiment, loop=loop), 0, dataset, CPU) for loop in ("fast", "plain")
    )
    lab.machinery.folded.module.register_forward_hook(lambda _model, _given, logits: logits * 1.01)
    one, other = (each.outcomes(each.initial(), dataset.train, dataset.train.labels) for each in (lab, plain))
    assert torch.equal(one.loss, other.loss)


def test_losses_agree_within_a_ten_thousandth():
    loss = torch.tensor([0.0, 1.0, 100.0])
    assert agree(loss + torch.tensor([0.9e-4, 1.9e-4, 1e-2]), loss)
    for wrong in ([1.1e-4, 0, 0], [0, 2.1e-4, 0], [0, 0, 1.1e-2], [0, float("nan"), 0]):
        assert not agree(loss + torch.tensor(wrong), loss)


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("lenet_300_100", DIGITS, ("contiguous", "contiguous")),
        ("lenet_5", Task((1, 28, 28), 10), ("channels_last", "channels_last")),
        ("cifar_resnet_20", CIFAR, ("channels_last", "channels_last")),
        ("cifar_vgg_16", CIFAR, ("mixed", "channels_last")),
        ("cifar_resnet_8", DIGITS, ("channels_last", "channels_last")),
    ],
)
def test_the_memory_format_follows_from_the_layers_and_the_device(name, task, expected):
    model = Choice("models", name)(task)
    assert tuple(quickest(model, task, torch.device(kind)) for kind in ("cpu", "cuda")) == expected


def test_mixed_layers_keep_wide_convolutions_of_small_images_as_they_are():
    torch.manual_seed(0)
    model = Choice("models", "cifar_vgg_16")(CIFAR).eval()
    mixed = laid_out(copy.deepcopy(model), "mixed", CIFAR, CPU)
    layers = [module for module in mixed.modules() if isinstance(module, nn.Conv2d)]
    kept = [layer.weight.is_contiguous() for layer in layers]
    assert kept == [False] * 7 + [True] * 6
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _layer, given, _made: seen.append(given[0].is_contiguous()))
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        made = mixed(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(made, model(images), rtol=1e-4, atol=1e-5)
    assert seen[1:] == kept[1:]


def test_what_a_recipe_leaves_to_us_becomes_a_part_of_the_run(lab_of):
    loose = lab_of(*CONVOLUTIONAL).experiment
    gpu = settled(replace(loose, precision="auto", memory_format="auto"), CIFAR, torch.device("cuda"))
    assert (loose.precision, loose.memory_format) == ("float32", "channels_last")
    assert (gpu.precision, gpu.memory_format) == ("bfloat16", "channels_last")
    told = lab_of(*CONVOLUTIONAL, "memory_format=channels_last", "precision=float32").experiment
    assert run_digest(loose, "f") == run_digest(told, "f") != run_digest(gpu, "f")
    own = settled(replace(loose, precision="float32", memory_format="auto"), CIFAR, torch.device("cuda"))
    assert own.precision == "float32"


def test_the_loop_is_a_part_of_the_digest_only_where_it_is_plain(lab_of):
    fast = lab_of().experiment
    assert "loop" not in fast.plain(results_only=True)
    assert run_digest(fast, "f") != run_digest(replace(fast, loop="plain"), "f")


def test_images_that_are_kept_normalized_are_those_that_are_not(monkeypatch):
    torch.manual_seed(0)
    images = InMemory(
        torch.randint(0, 256, (50, 3, 7, 5), dtype=torch.uint8),
        Normalization(255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)),
    )
    order = list(torch.split(torch.randperm(50), 13))
    from prunecli.datasets import values

    kept = list(images.batches(order, values.Augment(), CPU))
    monkeypatch.setattr(values, "READY_BYTES", 0)
    made = list(InMemory(images.pixels, images.normalize).batches(order, values.Augment(), CPU))
    assert all(torch.equal(one, other) for one, other in zip(kept, made, strict=True))
    kept[0].zero_()
    assert not (next(iter(images.batches(order, values.Augment(), CPU))) == 0).all()


def test_fit_says_what_it_saw(lab_of):
    lab = lab_of("loop=plain")
    state = lab.initial()
    optimizer, _ = lab._loaded(state)
    batch = next(lab._batches(0, 0, 1, 0, lab.rate_at()))
    (step,) = fit(lab.model, optimizer, [batch], state.masks, lab.manner)
    assert step.logits.shape == (len(batch.labels), 10)
    assert float(step.loss) == pytest.approx(
        float(functional.cross_entropy(step.logits, batch.labels)), rel=1e-6
    )


def test_an_epoch_tells_the_mean_loss_and_the_error_of_what_its_steps_saw(lab_of):
    lab, told = lab_of("batch_size=20"), []
    _, steps_of = lab._loaded(lab.initial())
    steps = list(steps_of(lab._batches(0, 0, lab.steps_per_epoch, 0, lab.rate_at())))
    assert len(steps) > 2 * LOOKED_AT_ONCE
    examples = sum(len(step.labels) for step in steps)
    wrong = sum(int((step.logits.argmax(1) != step.labels).sum()) for step in steps)
    replace(lab, watch=told.append).train(lab.initial(), lab.steps_per_epoch, lab.rate_at())
    (seen,) = told
    assert (seen.images, seen.error) == (examples, 100 * wrong / examples)
    losses = sum(float(step.loss) * len(step.labels) for step in steps)
    assert seen.loss == pytest.approx(losses / examples, rel=1e-6)


@pytest.mark.parametrize("look", [prepare, make_plan])
def test_points_that_come_to_one_run_are_refused(tmp_path, look):
    text = SMALL + "sweep: {memory_format: [auto, contiguous]}\n"
    with pytest.raises(
        UsageError, match=r"two points of the sweep give one experiment: .*auto and .*contiguous"
    ):
        look(load_text(text, "small.yaml"), Settings(tmp_path))
