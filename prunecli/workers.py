"""How many pieces of work go on side by side where nobody says, and whether the disk has room for them.

What is chosen follows from the recipe and the machine's cores and memory alone, never from a clock, and changes no
result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prunecli.building import build, settled
from prunecli.datasets.values import Dataset
from prunecli.errors import StorageError
from prunecli.experiment import Experiment
from prunecli.memory import in_words, memory
from prunecli.runs import Prepared, Settings

SECONDS_A_STEP = 6e-4
FLOPS_A_SECOND = {"cpu": 5e10, "cuda": 1e13}
"""What a training step takes however small it is, and how fast the rest goes: on a core of 2.6 GHz with AVX-512, by
lenet_300_100 (1.4 ms a step on 8x8 images, 3.2 on 28x28) and cifar_resnet_20 (760 ms), batches of 128. A GPU's is a
guess on the safe side."""
SECONDS_A_PROCESS = 10.0
"""Work that a process of its own has to have: importing torch and reading the data takes it 3."""
BYTES_A_PROCESS, BYTES_ON_A_GPU = 600 << 20, 600 << 20
"""What a process has once torch is imported, and a CUDA context."""
COPIES = 10
"""Tensors of a model's size in a training: weights, gradients, optimizer slots, states being kept, saved points."""
_SAMPLE = 2
"""Examples that a model is tried on: BatchNorm does not train on one."""


@dataclass(frozen=True)
class Load:
    """Pieces of work ahead: how many, their seconds in all by the rule of this module, and what each takes."""

    pieces: int
    seconds: float
    threads: int
    bytes_each: int


@dataclass(frozen=True)
class Machine:
    """Cores that this process may use, and bytes of memory: a GPU's free ones where the work is done on one."""

    cores: int
    bytes_free: int


@dataclass(frozen=True)
class Chosen:
    """How many pieces go on side by side, and why not more."""

    count: int
    why: str


@dataclass(frozen=True)
class Footprint:
    """A model's forward FLOPs of an example, the bytes that backpropagation keeps of it, and its parameters."""

    flops: float
    bytes_kept: float
    parameters: int


def choose(load: Load, machine: Machine) -> Chosen:
    """As many as there are pieces, cores, and memory for, each with enough work to be worth starting a process for."""
    limits = [
        (load.pieces, f"there are {load.pieces}"),
        (machine.cores // load.threads, f"{machine.cores} cores, {load.threads} a piece"),
        (
            machine.bytes_free // load.bytes_each,
            f"{in_words(machine.bytes_free)} of memory, {in_words(load.bytes_each)} a piece",
        ),
        (int(load.seconds / SECONDS_A_PROCESS), "the work is too little for more processes"),
    ]
    count, why = min(limits, key=lambda one: one[0])
    return Chosen(max(1, count), why)


def machine_of(device: torch.device) -> Machine:
    """This machine, as far as this process may use it."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory()
    return Machine(len(os.sched_getaffinity(0)), free)


def footprint(experiment: Experiment, dataset: Dataset) -> Footprint:
    """What an example of the dataset takes in the experiment's model."""
    cpu = torch.device("cpu")
    model = build(settled(experiment, dataset.task, cpu), dataset.task, 0, cpu)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as counter,
    ):
        model.eval()(torch.zeros(_SAMPLE, *dataset.task.shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Footprint(counter.get_total_flops() / _SAMPLE, sum(kept) / _SAMPLE, parameters)


def seconds_of(
    experiment: Experiment, one: Footprint, steps: float, evaluated: float, device: torch.device
) -> float:
    """What so many steps and evaluated examples take by the rule of this module, whatever the machine."""
    # Backpropagation takes twice what the forward pass does.
    flops = one.flops * (3 * experiment.batch_size * steps + evaluated)
    return SECONDS_A_STEP * steps + flops / FLOPS_A_SECOND[device.type]


def bytes_of(experiment: Experiment, one: Footprint, dataset: Dataset, device: torch.device) -> int:
    """What a piece of work takes of the memory that it is done in."""
    images = len(dataset.train) + len(dataset.test)
    pixels = images * torch.Size(dataset.task.shape).numel()
    training = experiment.batch_size * one.bytes_kept + 4 * COPIES * one.parameters
    base = BYTES_ON_A_GPU if device.type == "cuda" else BYTES_A_PROCESS
    return int(base + pixels + training)


def load_of(ahead: Sequence[tuple[Prepared, float]], settings: Settings) -> Load:
    """The load of seeds of runs, each with the epochs ahead of it."""
    device, seconds, most = settings.device, 0.0, 1
    footprints: dict[int, Footprint] = {}
    for run, epochs in ahead:
        if id(run) not in footprints:
            footprints[id(run)] = footprint(run.experiment, run.dataset)
        one, dataset = footprints[id(run)], run.dataset
        share = epochs / (run.foreseen[-1].outlook.spent or 1.0)
        evaluated = share * len(run.foreseen) * (len(dataset.train) + 3 * len(dataset.test))
        seconds += seconds_of(run.experiment, one, epochs * run.steps_per_epoch, evaluated, device)
        most = max(most, bytes_of(run.experiment, one, dataset, device))
    return Load(pieces(ahead), seconds, max((run.experiment.threads for run, _ in ahead), default=1), most)


def pieces(ahead: Sequence[tuple[Prepared, float]]) -> int:
    """How many pieces of work these seeds of runs are: those of a run that train together are one."""
    return len(
        {
            (run.folder.path, 0 if run.experiment.batched_seeds else number)
            for number, (run, _) in enumerate(ahead)
        }
    )


def chosen(ahead: Sequence[tuple[Prepared, float]], settings: Settings) -> Chosen:
    """How many of these seeds of runs, each with the epochs ahead of it, are carried out side by side."""
    if settings.workers is not None:
        return Chosen(settings.workers, "as asked")
    if pieces(ahead) < 2:
        return Chosen(1, "there is one")
    return choose(load_of(ahead, settings), machine_of(settings.device))


def check_room(ahead: Sequence[tuple[Prepared, int]], settings: Settings, workers: int) -> str:
    """Whether the disk has room for runs with so many seeds ahead; gives what to say where it may not reach the end.

    Raises:
        StorageError: it has none even for the next levels of the seeds that are worked on at once.
    """
    needed = max((run.room for run, _ in ahead), default=0) * workers
    there = next(
        path for path in (settings.runs.absolute(), *settings.runs.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{settings.runs}: {free / 1e6:,.1f} MB are free, and the next levels need {needed / 1e6:,.1f} MB "
            f"({workers} seed{'s' * (workers > 1)} at once); make room, or choose another disk "
            f"with --runs DIR"
        )
    stores = [run.level_bytes * len(run.foreseen) * seeds for run, seeds in ahead]
    # A store is put together while what it is made from is still there.
    whole = sum(stores) + max(stores, default=0)
    if free < whole:
        return (
            f"{settings.runs}: {free / 1e6:,.1f} MB are free; levels and stores may come to {whole / 1e6:,.1f} MB in "
            f"the end, before compression"
        )
    return ""
