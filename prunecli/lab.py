"""The lab: an experiment made concrete for one seed, with its model, data, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunecli import masks
from prunecli.activations import Firing
from prunecli.batching import batches_in, evaluation_batch, in_batches, in_order
from prunecli.building import (
    TRAINING,
    VALIDATION,
    Targets,
    along,
    asks_for_firing,
    build,
    chosen_names,
    drops_filters,
    ends_early,
    is_curved,
    make_targets,
    manner_of,
    settled,
)
from prunecli.captured import Record, recorder
from prunecli.datasets.values import Augment, Dataset, Split
from prunecli.errors import OutOfMemory
from prunecli.experiment import Experiment
from prunecli.filters import Filters, Gates, beside_of, filters_of
from prunecli.machinery import Machinery
from prunecli.memory import allocating
from prunecli.progress import EpochSeen
from prunecli.randomness import drawing, key
from prunecli.registry import Choice
from prunecli.schedules import Schedule
from prunecli.seeded import seeded
from prunecli.state import Outcomes, State
from prunecli.together.chain import check_together
from prunecli.training import (
    Batch,
    Manner,
    Step,
    Tally,
    check_finite,
    check_masks,
    copied,
    fit,
    load_,
    load_slots_,
    outcomes,
    slots_of,
)
from prunecli.underway import Underway

FOLDED_FROM = 2048
"""Examples of a split from which on folding BatchNorms pays."""
Watch = Callable[[EpochSeen], None]
Pause = Callable[[Callable[[], State], int], None]
"""Called wherever work can be interrupted, with what makes the state so far and the steps of this training that it
has taken; it may keep that state, and may raise Stopped."""
Together = Callable[["Lab", State, int, Schedule], State]
"""Trains a lab's seed with others: from its state after `taken` steps, so many steps at these rates."""


@dataclass(frozen=True)
class Lab:
    """What stages work with. `train` and `outcomes` use the one model, whose content is never relied on."""

    experiment: Experiment
    seed: int
    drawing: int
    """What initialization, order and augmentation are drawn by: the seed, or what takes its place."""
    device: torch.device
    dataset: Dataset
    targets: Targets
    model: nn.Module
    names: tuple[str, ...]
    machinery: Machinery
    filters: Mapping[str, Filters]
    """The filters of prunable weights, where the recipe drops whole filters."""
    gates: Gates
    watch: Watch
    say: Callable[[str], None] = lambda _message: None
    pause: Pause = lambda _now, _steps: None
    taken: int = 0
    """Steps that the next training is past already: the state that it gets has the clocks of the training's start,
    and all else of after those steps."""
    together: Together | None = None
    """What trains instead, where several seeds train together."""

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return batches_in(self._seen_in_an_epoch, self.experiment.batch_size)

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
        return State(weights, buffers, masks.full(weights, self.names, beside_of(self.filters)))

    def initialized(self, draw: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Freshly drawn weights and buffers; `draw` numbers the drawings of a seed."""
        model = build(
            self.experiment, self.dataset.task, key("initialization", self.drawing, draw), self.device
        )
        return copied(dict(model.named_parameters())), copied(dict(model.named_buffers()))

    def train(self, state: State, steps: int, rate_at: Schedule, until_loss: float | None = None) -> State:
        """The state after so many steps more, or after the first epoch whose mean loss is at most `until_loss`.

        Raises:
            Diverged: the loss is NaN or infinite.
            OutOfMemory: a batch does not fit.
            UsageError: the optimizer changed weights that are dropped.
        """
        state = replace(state, step=state.step + self.taken, spent=state.spent + self.taken)
        if self.together is not None:
            trained = self.together(self, state, steps, rate_at)
            check_masks(trained.weights, trained.masks, self.experiment.optimizer.name)
            return trained
        optimizer, steps_of = self._loaded(state)
        under = self._underway(state, until_loss)
        now = partial(self._now, state, optimizer, under)
        done, left = 0, steps - self.taken
        under.end(state.spent)
        reached = False
        if state.spent % self.steps_per_epoch == 0:
            reached = self._end_epoch(under, state.spent, partial(now, 0))
        while done < left and not reached:
            epoch, offset = divmod(state.spent + done, self.steps_per_epoch)
            count = min(left - done, self.steps_per_epoch - offset)
            batches = self._batches(epoch, offset, count, state.step + done, rate_at)
            seen = under.seen if under.keeps else Tally()
            first = offset - len(seen.sizes)
            with allocating(f"a training step of batch_size {self.experiment.batch_size}"):
                for number, step in enumerate(steps_of(under.around(batches, state.spent + done)), 1):
                    seen.add(step)
                    # On a GPU a look at each loss would wait for it: there the epoch's end is early enough.
                    if self.device.type == "cpu" and not math.isfinite(step.loss.item()):
                        break
                    self.pause(partial(now, done + number), self.taken + done + number)
            rate = rate_at(self.epoch(state.step + done + number - 1))
            check_finite(self.model, seen, epoch, first, rate)
            done += count
            self.watch(self._epoch_seen(seen, state.spent + done, count, rate))
            under.end(state.spent + done)
            if offset + count == self.steps_per_epoch:
                reached = self._end_epoch(under, state.spent + done, partial(now, done))
        trained = now(done)
        check_masks(trained.weights, trained.masks, self.experiment.optimizer.name)
        return trained

    def _loaded(self, state: State) -> tuple[Optimizer, Callable[[Iterator[Batch]], Iterator[Step]]]:
        """The recipe's optimizer, over the model as the state has it, and what takes its steps."""
        self.load_(state)
        if (captured := self.machinery.captured) is not None:
            captured.load_(state.masks, state.optimizer)
            return captured.optimizer, captured.fit
        parameters = dict(self.model.named_parameters())
        optimizer: Optimizer = self.experiment.optimizer(parameters)
        load_slots_(optimizer, parameters, state.optimizer)
        return optimizer, lambda batches: fit(self.model, optimizer, batches, state.masks, self.manner)

    def load_(self, state: State) -> None:
        """Put a state's weights, buffers and closed channels into the model."""
        load_(dict(self.model.named_parameters()), state.weights)
        load_(dict(self.model.named_buffers()), state.buffers)
        self.gates.load_(state.masks)

    def _underway(self, state: State, until_loss: float | None) -> Underway:
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        firing = Firing(self.model, self.filters, self.manner, state.activations)
        asked, curved = asks_for_firing(self.experiment), is_curved(self.experiment)
        whole = bool(along(self.experiment)) or ends_early(self.experiment)
        means = firing if asked else None
        return Underway.of(state, tensors, self.drawing, means, until_loss, curved=curved, whole=whole)

    def _now(self, state: State, optimizer: Optimizer, under: Underway, steps: int) -> State:
        """The state that the model and the optimizer are in, so many steps after another."""
        parameters = dict(self.model.named_parameters())
        trained = replace(
            state,
            weights=copied(parameters),
            buffers=copied(dict(self.model.named_buffers())),
            optimizer=slots_of(optimizer, parameters),
            step=state.step + steps,
            spent=state.spent + steps,
        )
        return under.into(trained)

    def _end_epoch(self, under: Underway, spent: int, now: Callable[[], State]) -> bool:
        """Note what is asked for at an epoch's end, or before the first; whether the training ends here."""
        # A level may begin inside an epoch, and has then seen a part of it.
        ended, whole = bool(under.seen.sizes), len(under.seen.sizes) == self.steps_per_epoch
        if not ended and (spent or under.rows):
            return False
        for choice in along(self.experiment):
            under.note(choice.name, choice.entry.traits["along"](now(), self, **choice.options))
        if not ended:
            return False
        reached = whole and under.until_loss is not None and under.seen.mean_loss() <= under.until_loss
        if under.curve is not None:
            self._add_epoch(under, now())
        under.seen = Tally()
        return reached

    def _add_epoch(self, under: Underway, state: State) -> None:
        """Note what the epoch that has just ended came to, and what its end makes of examples not trained on."""
        # What is kept now has all of the epoch: there is nothing to interrupt.
        still = replace(self, pause=lambda _now, _steps: None)
        test = still.outcomes(state, self.dataset.test, self.dataset.test.labels)
        rows = (self.targets.split == VALIDATION).nonzero().squeeze(1)
        held = still.outcomes(state, self.dataset.train, self.targets.used, rows) if len(rows) else None
        seen = self._epoch_seen(under.seen, state.spent, len(under.seen.sizes), 0.0)
        under.add(
            {
                "spent": seen.spent,
                "train_error": seen.error,
                "train_loss": seen.loss,
                "test_error": test.error,
                "validation_error": math.nan if held is None else held.error,
            }
        )

    def _epoch_seen(self, seen: Tally, spent: int, count: int, rate: float) -> EpochSeen:
        error = math.nan if self.dataset.task.is_regression else 100 * seen.wrong() / seen.examples
        return EpochSeen(self.epoch(spent), self.epoch(count), seen.mean_loss(), error, seen.examples, rate)

    def outcomes(self, state: State, split: Split, labels: Tensor, rows: Tensor | None = None) -> Outcomes:
        """What the state makes of a split's examples, or of those in these rows, without augmentation.

        Raises:
            OutOfMemory: not even one example fits.
        """
        self.load_(state)
        labels, rows = labels.to(self.device), torch.arange(len(split)) if rows is None else rows
        size, quicker = evaluation_batch(self.device), None
        if len(rows) >= FOLDED_FROM and (quicker := self.machinery.inference) and self.machinery.folded:
            self.machinery.folded.load_(state.weights, state.buffers)
        while True:
            batches = self._evaluated(split, labels, torch.split(rows, size), lambda: state)
            try:
                with allocating(f"the evaluation of {size} examples"):
                    return Outcomes(*outcomes(self.model, batches, self.manner, quicker))
            except OutOfMemory as error:
                if size == 1:
                    raise
                size //= 2
                self.say(f"{error}; evaluated {size} at a time, which may change last digits of losses")

    def _evaluated(
        self, split: Split, labels: Tensor, order: Sequence[Tensor], now: Callable[[], State]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's images and their labels, batch by batch."""
        images = split.images.batches(order, Augment(), self.device)
        for batch, index in zip(images, order, strict=True):
            self.pause(now, 0)
            yield batch, labels[index.to(self.device)]

    @cached_property
    def manner(self) -> Manner:
        """How the experiment takes its steps."""
        return manner_of(self.experiment)

    @cached_property
    def _training(self) -> Tensor:
        return (self.targets.split == TRAINING).nonzero().squeeze(1)

    @cached_property
    def _seen_in_an_epoch(self) -> int:
        counted = (
            self.targets.split != VALIDATION
            if self.experiment.equal_steps
            else self.targets.split == TRAINING
        )
        return int(counted.sum())

    def _batches(self, epoch: int, offset: int, count: int, step: int, rate_at: Schedule) -> Iterator[Batch]:
        """`count` batches of an epoch from its batch `offset` on; `step` is the first one's place on the schedule."""
        order = in_order(self._training, self._seen_in_an_epoch, self.drawing, epoch)
        chunks = in_batches(order, self.experiment.batch_size)[offset : offset + count]
        augment = Augment(tuple(self.experiment.augmentation), key("augmentation", self.drawing, epoch))
        sizes = [len(chunk) for chunk in chunks]
        labels = torch.split(self.targets.used[torch.cat(chunks)].to(self.device), sizes)
        images = self.dataset.train.images.batches(chunks, augment, self.device)
        for number, (batch, target) in enumerate(zip(images, labels, strict=True)):
            rate = rate_at(self.epoch(step + number))
            yield Batch(batch, target, rate, key("step", self.drawing, epoch, offset + number))


def make_lab(
    experiment: Experiment,
    seed: int,
    dataset: Dataset,
    device: torch.device,
    watch: Watch = lambda _seen: None,
    say: Callable[[str], None] = lambda _message: None,
    record: Record | None = None,
) -> Lab:
    """The lab of an experiment and a seed; the dataset is on the device. `record` is how steps are recorded."""
    experiment = settled(experiment, dataset.task, device)
    dataset = seeded(dataset, experiment, seed, device)
    drawn = drawing(key("replicate", seed, experiment.replicate)) if experiment.replicate else seed
    model = build(experiment, dataset.task, key("initialization", drawn, 0), device)
    names = chosen_names(experiment, model)
    if experiment.batched_seeds:
        check_together(experiment, model, manner_of(experiment))
    filters = filters_of(model, dataset.task, names) if drops_filters(experiment) else {}
    gates = Gates.on(model, filters)
    masked = (*names, *beside_of(filters))
    return Lab(
        experiment,
        seed,
        drawn,
        device,
        dataset,
        make_targets(experiment, seed, dataset),
        model,
        names,
        Machinery(experiment, model, masked, record or recorder(device), say, gated=bool(gates.layers)),
        filters,
        gates,
        watch,
        say,
    )
