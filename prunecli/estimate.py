"""How long a step takes here, measured on random images before anything is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prunecli import masks
from prunecli.batching import evaluation_batch
from prunecli.building import build, manner_of, settled
from prunecli.experiment import Experiment
from prunecli.task import Task
from prunecli.training import Batch, fit, outcomes

SAMPLE = 8
BUDGET = 1.0
"""Examples in a first, small step; seconds that a whole batch may take to be worth timing itself."""


@dataclass(frozen=True)
class Cost:
    """Seconds a training step of the recipe's batch size takes, and an image in evaluation."""

    step: float
    evaluated_image: float


def measure_cost(experiment: Experiment, task: Task, device: torch.device) -> Cost:
    """The cost on this machine, the data's own reading left out; that of large batches is scaled up."""
    torch.set_num_threads(experiment.threads)
    experiment = settled(experiment, task, device)
    manner = manner_of(experiment)
    model = build(experiment, task, 0, device)
    optimizer = experiment.optimizer(dict(model.named_parameters()))
    none = masks.full({}, ())

    def train(size: int) -> None:
        images, labels = _random_batch(task, size, device)
        list(fit(model, optimizer, [Batch(images, labels, 0.0, 0)], none, manner))
        _wait(device)

    def evaluate(size: int) -> None:
        outcomes(model, [_random_batch(task, size, device)], manner)

    evaluated = evaluation_batch(device)
    return Cost(_seconds(train, experiment.batch_size), _seconds(evaluate, evaluated) / evaluated)


def _seconds(work: Callable[[int], None], size: int) -> float:
    """The median time of work on so many examples, extrapolated from a few where it would take long."""
    sample = min(SAMPLE, size)
    first = _timed(work, sample)
    if first > BUDGET:
        return first * size / sample
    scaled = _timed(work, sample) * size / sample
    if scaled > BUDGET:
        return scaled
    work(size)
    return statistics.median(
        _timed(work, size) for _ in range(max(1, min(20, int(BUDGET / max(scaled, 1e-6)))))
    )


def _timed(work: Callable[[int], None], size: int) -> float:
    start = time.perf_counter()
    work(size)
    return time.perf_counter() - start


def _random_batch(task: Task, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    labels = torch.arange(size, device=device) % task.classes
    return torch.rand(size, *task.shape, device=device), labels.float() if task.is_regression else labels


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
