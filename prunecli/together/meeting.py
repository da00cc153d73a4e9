"""Meetings: where the seeds of a run, each in a thread of its own, wait for each other to train together.

One thread runs at a time: whoever has the turn keeps it until it waits here or ends. So torch's settings, its random
state and the store are used as by one seed after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Condition

import torch
from torch import nn

from prunecli.errors import Diverged, PrunecliError
from prunecli.lab import Lab
from prunecli.memory import allocating
from prunecli.progress import EpochSeen
from prunecli.schedules import Schedule
from prunecli.state import State
from prunecli.stopping import Stop
from prunecli.together.stack import Stack, Steps, stacked
from prunecli.training import Batch, seed_, seed_python_


@dataclass(eq=False)
class Request:
    """A training that a seed waits for: where it stands, and what is left of it."""

    lab: Lab
    state: State
    left: int
    rate_at: Schedule
    taken: int
    """Steps that the training is past already."""
    error: PrunecliError | None = None

    @property
    def waits(self) -> bool:
        """Whether there is anything to train."""
        return self.left > 0 and self.error is None

    @property
    def end(self) -> tuple[int, int, int]:
        """Where the training goes: its last clocks, and the examples of an epoch, which say how large batches are."""
        seen = self.lab._seen_in_an_epoch
        return self.state.spent + self.left, self.state.step + self.left, seen

    def pause(self, now: Callable[[], State], steps: int) -> None:
        """Tell that the training can be interrupted so many steps from where it stands; what that raises ends it."""
        try:
            self.lab.pause(now, self.taken + steps)
        except PrunecliError as error:
            self.error = error

    def advance(self, state: State, steps: int) -> None:
        """Go on to a state that is so many steps further."""
        self.state, self.left, self.taken = state, self.left - steps, self.taken + steps


@dataclass
class Meeting:
    """Where so many seeds meet; the last one that comes trains them."""

    seeds: int
    stop: Stop
    turn: Condition = field(default_factory=Condition)
    _waiting: list[Request] = field(default_factory=list)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """The turn, once it is free, for the work of a seed; after it the others no longer wait for this one."""
        with self.turn:
            try:
                yield
            finally:
                self.leave(1)

    def leave(self, seeds: int) -> None:
        """No longer wait for so many seeds."""
        with self.turn:
            self.seeds -= seeds
            self.turn.notify_all()

    def train(self, lab: Lab, state: State, steps: int, rate_at: Schedule) -> State:
        """What `Lab.train` gives, trained with those who wait as well.

        Raises:
            Diverged: this seed's loss is NaN or infinite; the others go on.
            Stopped: its pause raised it.
            OutOfMemory: the batches do not fit.
        """
        request = Request(lab, state, steps - lab.taken, rate_at, lab.taken)
        self._waiting.append(request)
        try:
            while request.waits:
                if len(self._waiting) == self.seeds:
                    self._train_next()
                else:
                    self.turn.wait()
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        return request.state

    def _train_next(self) -> None:
        """Bring those who are least advanced on, at most to where others of the same training wait."""
        if self.stop.by:
            # What is kept is where each stands, so that all go on from the same step.
            for request in self._waiting:
                request.pause(partial(_same, request.state), 0)
            self._hand_out()
        if self._waiting:
            end = min(request.end for request in self._waiting)
            same = [request for request in self._waiting if request.end == end]
            spot = min(request.state.spent for request in same)
            alike = [request for request in same if request.state.spent == spot]
            ahead = [request.state.spent for request in same if request.state.spent > spot]
            _train(alike, min([*ahead, end[0]]) - spot)
            self._hand_out()

    def _hand_out(self) -> None:
        self._waiting = [request for request in self._waiting if request.waits]
        self.turn.notify_all()


def _same(state: State) -> State:
    return state


def _train(group: Sequence[Request], steps: int) -> None:
    """Train requests that are alike so many steps, or fewer if one of them ends before."""
    stack, done = stacked([one.state for one in group], [one.lab for one in group]), 0
    while done < steps and all(one.error is None for one in group):
        done += _train_in_epoch(group, stack, done, steps - done)
    for number, one in enumerate(group):
        if one.error is None:
            one.advance(stack.state(number, one.state, done), done)


def _train_in_epoch(group: Sequence[Request], stack: Stack, done: int, left: int) -> int:
    """Train to the epoch's end, at most `left` steps; gives how many were taken."""
    lab, start = group[0].lab, group[0].state
    epoch, offset = divmod(start.spent + done, lab.steps_per_epoch)
    count, seen = min(left, lab.steps_per_epoch - offset), list[Steps]()
    with allocating(f"a training step of {len(group)} seeds with batch_size {lab.experiment.batch_size}"):
        for batches in zip(*(_batches(one, epoch, offset, count, done) for one in group), strict=True):
            seen.append(stack.step(batches))
            # On a GPU a look at each loss would wait for it: there the epoch's end is early enough.
            if lab.device.type == "cpu":
                _mark_diverged(group, stack, seen[-1:], epoch, offset + len(seen) - 1, batches[0].rate)
            for number, one in enumerate(group):
                if one.error is None:
                    after = done + len(seen)
                    one.pause(partial(stack.state, number, one.state, after), after)
            if any(one.error is not None for one in group):
                break
    taken = len(seen)
    rate = group[0].rate_at(lab.epoch(start.step + done + taken - 1))
    if lab.device.type != "cpu":
        _mark_diverged(group, stack, seen, epoch, offset, rate)
    for number, one in enumerate(group):
        if one.error is None:
            one.lab.watch(_epoch_seen(lab, seen, number, start.spent + done + taken, rate))
    return taken


def _batches(one: Request, epoch: int, offset: int, count: int, done: int) -> Iterator[Batch]:
    """The seed's batches; functions of the user's draw for each as they do where a seed trains alone."""
    batches = one.lab._batches(epoch, offset, count, one.state.step + done, one.rate_at)
    if not one.lab.manner.own_code:
        return batches
    return _seeded(batches, one.lab.device)


def _seeded(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        # The next one is made after the step of this one, whose key it draws by.
        seed_(device, batch.key)
        seed_python_(batch.key)


def _mark_diverged(
    group: Sequence[Request], stack: Stack, seen: Sequence[Steps], epoch: int, offset: int, rate: float
) -> None:
    """End the requests whose loss was not finite at one of the steps, which began with the epoch's step `offset`."""
    losses = torch.stack([step.losses for step in seen])
    wrong = ~losses.isfinite()
    if not bool(wrong.any()):
        return
    for number in wrong.any(0).nonzero().flatten().tolist():
        first = int(wrong[:, number].nonzero()[0])
        parameters = stack.parts[number].parameters
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        norm = nn.utils.get_total_norm(list(gradients.values()))
        tensor = next((name for name, one in gradients.items() if not one.isfinite().all()), "none")
        group[number].error = Diverged(
            f"epoch {epoch + 1}, step {offset + first + 1}: the loss is {float(losses[first, number])} (learning "
            f"rate {rate:g}, gradient norm {float(norm):.3g}, first gradient that is not finite: {tensor})"
        )


def _epoch_seen(lab: Lab, seen: Sequence[Steps], number: int, spent: int, rate: float) -> EpochSeen:
    """What a seed saw in the steps of an epoch, the last of which ends at `spent`."""
    examples = sum(step.examples for step in seen)
    loss = sum(float(step.losses[number]) * step.examples for step in seen) / examples
    wrong = sum(int(step.wrong[number]) for step in seen)
    return EpochSeen(lab.epoch(spent), lab.epoch(len(seen)), loss, 100 * wrong / examples, examples, rate)
