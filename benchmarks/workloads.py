"""What is trained: networks of the papers on random data of the real shapes, as prunecli's own lab and state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

import torch

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from benchmarks.registry import Circumstances
from prunecli import masks
from prunecli.datasets.values import Dataset, InMemory, Normalization, Split
from prunecli.experiment import Experiment
from prunecli.lab import Lab, make_lab
from prunecli.progress import EpochSeen
from prunecli.recipe.load import load_text
from prunecli.state import State
from prunecli.task import Task

RATE, MOMENTUM, DECAY, PADDING = 0.1, 0.9, 1e-4, 4
DENSITY = 0.2
"""What is left of the prunable weights while steps are timed."""
MNIST = Normalization(255, (0.1307,), (0.3081,))
CIFAR = Normalization(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_RECIPE = """
model: {model}
data: digits
augmentation: {augmentation}
optimizer: {{sgd: {{momentum: {momentum}, weight_decay: {decay}}}}}
learning_rate: {rate}
epochs: 1000
batch_size: {batch}
seeds: [0]
procedure: [train]
"""


@dataclass(frozen=True)
class Workload:
    """A network on so many images of a shape; `steps` is what of an epoch is timed, None all of it."""

    title: str
    model: str
    shape: tuple[int, int, int]
    normalize: Normalization
    train: int
    test: int
    batch: int = 128
    steps: int | None = None
    augmented: bool = True

    def part(self) -> str:
        """What of an epoch is timed, in words; empty where it is all of it."""
        if self.steps is None:
            return ""
        whole = math.ceil(self.train / self.batch)
        return f"the last {self.steps} of {whole} steps, the partial batch among them"


LENET = Workload("LeNet-300-100", "lenet_300_100", (1, 28, 28), MNIST, 60_000, 10_000, augmented=False)
RESNET = Workload("ResNet-20", "cifar_resnet_20", (3, 32, 32), CIFAR, 50_000, 10_000, steps=7)
VGG = Workload("VGG-16", "cifar_vgg_16", (3, 32, 32), CIFAR, 50_000, 10_000, steps=2)
SUITE = {"lenet": LENET, "resnet": RESNET, "vgg": VGG}
_QUICK = {
    "lenet": replace(LENET, train=400, test=128),
    "resnet": replace(RESNET, model="cifar_resnet_20: {width: 0.25}", train=104, test=64, batch=16, steps=2),
    "vgg": replace(VGG, model="cifar_vgg_16: {width: 0.125}", train=104, test=64, batch=16, steps=2),
}


def workload(name: str, at: Circumstances) -> Workload:
    """A workload of the suite, tiny where it is to be quick."""
    return quick(name) if at.quick else SUITE[name]


def quick(name: str) -> Workload:
    """The tiny one of a workload's name."""
    return _QUICK[name]


def on_gpu(found: Workload) -> Workload:
    """The workload with whole epochs, which a GPU has time for."""
    return replace(found, steps=None)


@dataclass(frozen=True, eq=False)
class Bench:
    """A workload made concrete: prunecli's lab, and a state at its density; `seen` collects what the lab tells."""

    workload: Workload
    lab: Lab
    state: State
    evaluated: Split
    seen: list[EpochSeen] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The steps that are timed."""
        return self.workload.steps or self.lab.steps_per_epoch

    @property
    def first(self) -> int:
        """The step of the epoch that timing begins at: it ends with the epoch, whose last batch is smaller."""
        return self.lab.steps_per_epoch - self.steps

    @property
    def images(self) -> int:
        """The images that are trained on while timed."""
        return self.workload.train - self.first * self.workload.batch

    def train(self, state: State | None = None, steps: int | None = None) -> State:
        """prunecli's own training, of the steps that are timed."""
        rate = self.lab.rate_at()
        return self.lab.train(state or self.state, self.steps if steps is None else steps, rate)

    def evaluate(self, state: State | None = None) -> masks.Tensors:
        """prunecli's own evaluation of the test images: each one's loss, and whether it is right."""
        found = self.lab.outcomes(state or self.state, self.evaluated, self.evaluated.labels)
        return {"loss": found.loss, "correct": found.correct}


@cache
def bench(name: str, at: Circumstances) -> Bench:
    """The workload of this name, once an invocation."""
    found = workload(name, at)
    return made(on_gpu(found) if at.device.type == "cuda" else found, at.device)


def made(found: Workload, device: torch.device, density: float = DENSITY) -> Bench:
    """A workload's lab and state on the device."""
    dataset = dataset_of(found, device)
    seen: list[EpochSeen] = []
    lab = make_lab(experiment_of(found), 0, dataset, device, seen.append)
    state = pruned(lab, density)
    steps = found.steps or lab.steps_per_epoch
    state = replace(state, spent=lab.steps_per_epoch - steps)
    return Bench(found, lab, state, _evaluated(found, dataset), seen)


def pruned(lab: Lab, density: float) -> State:
    """The lab's initial state, its largest weights kept."""
    state = lab.initial()
    scores = {name: state.weights[name].abs() for name in lab.names}
    return state.with_masks(masks.prune_to(state.masks, scores, [(lab.names, density)]))


def experiment_of(found: Workload, **more: object) -> Experiment:
    """The workload's recipe, read as any recipe is."""
    text = _RECIPE.format(
        model=f"{{{found.model}}}" if ":" in found.model else found.model,
        augmentation=f"[flip, {{crop: {{padding: {PADDING}}}}}]" if found.augmented else "[]",
        momentum=MOMENTUM,
        decay=DECAY,
        rate=RATE,
        batch=found.batch,
    )
    overrides = [f"{name}={value}" for name, value in more.items()]
    return load_text(text, "benchmark.yaml", overrides).points[0].experiment


def dataset_of(found: Workload, device: torch.device) -> Dataset:
    """Random pixels and labels of the workload's shape and number."""
    generator = torch.Generator().manual_seed(20)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, *found.shape), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=generator)
        return Split(InMemory(pixels, found.normalize).to(device), labels)

    return Dataset(Task(found.shape, 10), split(found.train), split(found.test), f"random-{found.title}")


def pixels_of(split: Split) -> torch.Tensor:
    """The stored pixels (N, C, H, W) of a made-up split."""
    assert isinstance(split.images, InMemory)
    return split.images.pixels


def evaluating_more(bench: Bench, count: int) -> Bench:
    """The bench with so many test images."""
    return replace(bench, evaluated=_first(bench.workload, bench.lab.dataset, count))


def _evaluated(found: Workload, dataset: Dataset) -> Split:
    """The test images; of a shortened epoch the same part of them as of the training images."""
    if found.steps is None:
        return dataset.test
    part = found.steps / math.ceil(found.train / found.batch)
    return _first(found, dataset, max(1, round(part * found.test)))


def _first(found: Workload, dataset: Dataset, count: int) -> Split:
    images = InMemory(pixels_of(dataset.test)[:count], found.normalize)
    return Split(images, dataset.test.labels[:count])
