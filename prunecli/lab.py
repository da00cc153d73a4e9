"""The lab: an experiment made concrete for one seed, with its model, data, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from prunecli import masks
from prunecli.datasets.values import Augment, Dataset, Split
from prunecli.errors import Diverged, UsageError, suggest
from prunecli.experiment import Experiment
from prunecli.models.parameters import prunable_names
from prunecli.progress import EpochSeen
from prunecli.randomness import key, permutation
from prunecli.registry import Choice
from prunecli.schedules import Schedule
from prunecli.selections import validation_split
from prunecli.state import State
from prunecli.task import Task
from prunecli.training import (
    Batch,
    Manner,
    Step,
    copied,
    fit,
    load_,
    load_slots_,
    outcomes,
    seed_,
    slots_of,
)

EVALUATION_BATCH = 128
TRAINING, VALIDATION, LEFT_OUT = 0, 1, 2


@dataclass(frozen=True)
class Targets:
    """The training set's labels as used (N,), the source's, which were changed, and each example's split."""

    used: Tensor
    clean: Tensor
    split: Tensor

    @property
    def noisy(self) -> Tensor:
        """Whether a label was changed (N,)."""
        return self.used != self.clean


@dataclass(frozen=True)
class Outcomes:
    """Each example's cross-entropy (N,) float32, and whether it is classified as its label says (N,) bool."""

    loss: Tensor
    correct: Tensor


Watch = Callable[[EpochSeen], None]


@dataclass(frozen=True)
class Lab:
    """What stages work with. `train` and `outcomes` use the one model, whose content is never relied on."""

    experiment: Experiment
    seed: int
    device: torch.device
    dataset: Dataset
    targets: Targets
    model: nn.Module
    names: tuple[str, ...]
    watch: Watch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.batches_in(self._training.numel(), self.experiment.batch_size)

    def steps(self, epochs: float) -> int:
        """Epochs as a whole number of steps."""
        return round(epochs * self.steps_per_epoch)

    def epoch(self, steps: int) -> float:
        """Steps as epochs."""
        return steps / self.steps_per_epoch

    def rate_at(self, schedule: Choice | None = None) -> Schedule:
        """The learning rate as a function of the epoch: the recipe's, or a stage's own schedule."""
        rate: Schedule = (schedule or self.experiment.learning_rate)(self.experiment.epochs)
        return rate

    def initial(self) -> State:
        """The state at initialization."""
        weights, buffers = self.initialized(0)
        return State(weights, buffers, masks.full(weights, self.names))

    def initialized(self, draw: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Freshly drawn weights and buffers; `draw` numbers the drawings of a seed."""
        model = build(self.experiment, self.dataset.task, key("initialization", self.seed, draw), self.device)
        return copied(dict(model.named_parameters())), copied(dict(model.named_buffers()))

    def train(self, state: State, steps: int, rate_at: Schedule) -> State:
        """The state after so many steps more.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        parameters = dict(self.model.named_parameters())
        buffers = dict(self.model.named_buffers())
        load_(parameters, state.weights)
        load_(buffers, state.buffers)
        optimizer = self.experiment.optimizer(parameters)
        load_slots_(optimizer, parameters, state.optimizer)
        spent = state.spent
        while steps > 0:
            epoch, offset = divmod(spent, self.steps_per_epoch)
            count = min(steps, self.steps_per_epoch - offset)
            batches = self._batches(epoch, offset, count, spent - state.spent + state.step, rate_at)
            taken = list(fit(self.model, optimizer, batches, state.masks, self.manner))
            spent, steps = spent + count, steps - count
            rate = rate_at(self.epoch(state.step + spent - state.spent - 1))
            seen = self._seen(taken, spent, count, rate)
            if not math.isfinite(seen.loss):
                raise Diverged(
                    f"the loss is {seen.loss} in epoch {epoch + 1} of training (learning rate {rate:g})"
                )
            self.watch(seen)
        return replace(
            state,
            weights=copied(parameters),
            buffers=copied(buffers),
            optimizer=slots_of(optimizer, parameters),
            step=state.step + spent - state.spent,
            spent=spent,
        )

    def _seen(self, taken: Sequence[Step], spent: int, count: int, rate: float) -> EpochSeen:
        examples = sum(step.examples for step in taken)
        loss = sum(step.loss * step.examples for step in taken) / examples
        wrong = sum(step.wrong for step in taken)
        return EpochSeen(
            self.epoch(spent), self.epoch(count), float(loss), 100 * int(wrong) / examples, examples, rate
        )

    def outcomes(self, state: State, split: Split, labels: Tensor) -> Outcomes:
        """What the state makes of every example of a split, without augmentation."""
        load_(dict(self.model.named_parameters()), state.weights)
        load_(dict(self.model.named_buffers()), state.buffers)
        order = torch.split(torch.arange(len(split)), EVALUATION_BATCH)
        labels = labels.to(self.device)
        images = split.images.batches(order, Augment(), self.device)
        pairs = ((batch, labels[index.to(self.device)]) for batch, index in zip(images, order, strict=True))
        return Outcomes(*outcomes(self.model, pairs, self.manner))

    @property
    def manner(self) -> Manner:
        """How the experiment takes its steps."""
        return manner_of(self.experiment)

    @staticmethod
    def batches_in(examples: int, batch_size: int) -> int:
        """Batches in an epoch: the last is smaller, and one of a single example is joined to the one before."""
        whole, rest = divmod(examples, batch_size)
        return whole + (rest > 1 or (rest == 1 and whole == 0))

    @property
    def _training(self) -> Tensor:
        return (self.targets.split == TRAINING).nonzero().squeeze(1)

    def _split_batches(self, order: Tensor) -> list[Tensor]:
        batches = list(torch.split(order, self.experiment.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            # BatchNorm cannot train on a single example.
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _batches(self, epoch: int, offset: int, count: int, step: int, rate_at: Schedule) -> Iterator[Batch]:
        """`count` batches of an epoch from its batch `offset` on; `step` is the first one's place on the schedule."""
        examples = self._training
        order = examples[permutation(key("order", self.seed, epoch), len(examples))]
        chunks = self._split_batches(order)[offset : offset + count]
        augment = Augment(tuple(self.experiment.augmentation), key("augmentation", self.seed, epoch))
        labels = self.targets.used.to(self.device)
        images = self.dataset.train.images.batches(chunks, augment, self.device)
        for number, (batch, index) in enumerate(zip(images, chunks, strict=True)):
            rate = rate_at(self.epoch(step + number))
            yield Batch(
                batch, labels[index.to(self.device)], rate, key("step", self.seed, epoch, offset + number)
            )


MEMORY_FORMATS = {"contiguous": "contiguous_format", "channels_last": "channels_last"}


def manner_of(experiment: Experiment) -> Manner:
    """How an experiment takes its steps."""
    return Manner(
        experiment.label_smoothing,
        experiment.gradient_clipping,
        torch.bfloat16 if experiment.precision == "bfloat16" else None,
        getattr(torch, MEMORY_FORMATS[experiment.memory_format]),
    )


def make_lab(
    experiment: Experiment,
    seed: int,
    dataset: Dataset,
    device: torch.device,
    watch: Watch = lambda _seen: None,
) -> Lab:
    """The lab of an experiment and a seed; the dataset is already on the device."""
    model = build(experiment, dataset.task, key("initialization", seed, 0), device)
    return Lab(
        experiment,
        seed,
        device,
        dataset,
        make_targets(experiment, seed, dataset),
        model,
        chosen_names(experiment, model),
        watch,
    )


def make_targets(experiment: Experiment, seed: int, dataset: Dataset) -> Targets:
    """Labels and splits: validation first, then noise outside it, then what is left out (see the contract)."""
    clean = dataset.train.labels
    validation = validation_split(clean, experiment.validation, key("validation", dataset.fingerprint))
    used = experiment.labels(
        clean, ~validation, dataset.task.classes, key("labels", seed, dataset.fingerprint)
    )
    chosen = experiment.examples(len(clean))
    split = torch.where(chosen, TRAINING, LEFT_OUT).to(torch.uint8)
    split[validation] = VALIDATION
    if not bool((split == TRAINING).any()):
        raise UsageError("no training example is left: 'validation' and 'examples' take all of them")
    return Targets(used, clean, split)


def build(experiment: Experiment, task: Task, key: int, device: torch.device) -> nn.Module:
    """The experiment's model, initialized by the key, on the device.

    Raises:
        UsageError: the model does not turn such images into such logits.
    """
    with torch.random.fork_rng(devices=[]):
        seed_(torch.device("cpu"), key)
        model: nn.Module = experiment.model(task)
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"{experiment.model.name} returned {type(model).__qualname__}, not a torch.nn.Module"
            )
        experiment.initialization(model)
        _check_shapes(experiment.model.name, model, task)
    # torch's overloads of `to` know tensors, not modules, for memory formats.
    return model.to(device, memory_format=getattr(torch, MEMORY_FORMATS[experiment.memory_format]))  # type: ignore[call-overload,no-any-return]


@torch.no_grad()
def _check_shapes(name: str, model: nn.Module, task: Task) -> None:
    training = model.training
    try:
        logits = model.eval()(torch.zeros(2, *task.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"model '{name}' does not take images of {_by(task.shape)}: {first}") from error
    finally:
        model.train(training)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, task.classes):
        raise UsageError(
            f"model '{name}' gives {found} for two images; it should give (2, {task.classes}) logits"
        )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def chosen_names(experiment: Experiment, model: nn.Module) -> tuple[str, ...]:
    """The prunable parameters, in the model's order."""
    parameters = dict(model.named_parameters())
    include, exclude = experiment.prunable.include, experiment.prunable.exclude
    names: Sequence[str] = prunable_names(model)
    if include:
        names = [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in include)]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise UsageError(f"the pattern '{pattern}' matches no parameter{suggest(pattern, parameters)}")
    return tuple(name for name in names if not any(fnmatchcase(name, pattern) for pattern in exclude))
