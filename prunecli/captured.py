"""Steps and evaluations that are recorded once and replayed, as CUDA graphs are: a GPU takes longer to be told of a
small network's operations, one by one, than to carry them out.

What is recorded reads and writes fixed memory: a batch, a learning rate, masks and the optimizer's slots are copied
into it, and a new level needs no new recording. How something is recorded is a parameter, so that all of this but the
graph itself runs, and is tested, on any device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunecli.masks import Masks, Tensors
from prunecli.training import Batch, Manner, Step, backward, copied, fit, load_, loss_of, seed_, seed_python_

Record = Callable[[Callable[[], None]], Callable[[], object]]
"""Takes work on fixed memory and gives what does it again; it may do the work some times itself."""
WARM_UP = 3
"""Times that work is done before it is recorded, for libraries to choose their kernels and memory."""
ALLOWED = 0.02
"""How far a replayed step's change of the weights may be from that of the step as it is, as a part of its norm."""
ONE_BY_ONE = "its operations are started one by one"
SIZES = 2
"""Batch sizes that a recording is made of: an epoch has its own and a smaller one at its end."""


def as_cuda_graph(device: torch.device, work: Callable[[], None]) -> Callable[[], object]:
    """Record work as a CUDA graph, once it was done a few times on a stream of its own; see `Record`."""
    graph = torch.cuda.CUDAGraph()
    # Streams and graphs are of the current device, which need not be the one that is worked on.
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        # A thread that pins memory for the next batches may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


def recorder(device: torch.device) -> Record | None:
    """How work is recorded on a device; None where there is nothing to gain."""
    return partial(as_cuda_graph, device) if device.type == "cuda" else None


@dataclass(frozen=True)
class _Recorded:
    """The fixed memory of a batch and of what its step gives, and what carries the step out."""

    images: Tensor
    labels: Tensor
    given: dict[str, Tensor]
    replay: Callable[[], object]


@dataclass
class Captured:
    """Training steps of one model and optimizer, recorded for each batch size; see `training.fit` for what a step is.

    A step that cannot be recorded, or that replayed does something else, is said once and taken as it is.
    """

    model: nn.Module
    optimizer: Optimizer
    masks: dict[str, Tensor]
    """For each prunable parameter 1 where it is kept, in its own type."""
    manner: Manner
    record: Record
    say: Callable[[str], None]
    rate: Tensor
    recorded: dict[int, _Recorded] = field(default_factory=dict)
    given_up: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        names: Iterable[str],
        manner: Manner,
        record: Record,
        say: Callable[[str], None],
    ) -> Captured:
        """A model's steps by an optimizer that has seen nothing yet."""
        parameters = dict(model.named_parameters())
        device = next(iter(parameters.values())).device
        # An optimizer takes its rate from this tensor: a number would be a part of the recording.
        rate = torch.zeros((), device=device)
        for group in optimizer.param_groups:
            group["lr"] = rate
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True
        masks = {name: torch.ones_like(parameters[name]) for name in names}
        captured = cls(model, optimizer, masks, manner, record, say, rate)
        captured._make_slots()
        return captured

    def load_(self, masks: Masks, slots: Tensors) -> None:
        """Take a level's masks and the optimizer's slots; slots that are not there are as before the first step."""
        load_(self.masks, masks)
        own = self._slots()
        for place, slot in own.items():
            slot.copy_(slots[place]) if place in slots else slot.zero_()

    def fit(self, batches: Iterable[Batch]) -> Iterator[Step]:
        """Train the model in place, one step a batch."""
        self.model.train()
        remaining = iter(batches)
        for batch in remaining:
            recorded = None if self.given_up else self._recorded_for(batch)
            if recorded is None:
                masks = Masks({name: mask.bool() for name, mask in self.masks.items()})
                yield from fit(self.model, self.optimizer, chain([batch], remaining), masks, self.manner)
                return
            self._place(recorded, batch)
            recorded.replay()
            given = {name: tensor.clone() for name, tensor in recorded.given.items()}
            yield Step(given["loss"], given["logits"], batch.labels)

    def _slots(self) -> dict[str, Tensor]:
        return {
            f"{slot}/{name}": value
            for name, parameter in self.model.named_parameters()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def _make_slots(self) -> None:
        """Have the optimizer make its slots, by a step of rate 0 without gradients' content."""
        with _quietly():
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()
        for slot in self._slots().values():
            slot.zero_()

    def _place(self, recorded: _Recorded, batch: Batch) -> None:
        recorded.images.copy_(batch.images)
        recorded.labels.copy_(batch.labels)
        self.rate.fill_(batch.rate)
        seed_(self.rate.device, batch.key)
        if self.manner.own_code:
            seed_python_(batch.key)

    def _recorded_for(self, batch: Batch) -> _Recorded | None:
        size = len(batch.labels)
        if size not in self.recorded and len(self.recorded) < SIZES:
            try:
                with _quietly():
                    self.recorded[size] = self._record(batch)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError) as error:
                self.given_up = True
                self.say(f"the training step cannot be recorded ({_cause(error)}): {ONE_BY_ONE}")
        return self.recorded.get(size)

    def _record(self, batch: Batch) -> _Recorded:
        """Record the step of a batch; the model and the optimizer are afterwards as before.

        Raises:
            ValueError: replayed it does something else.
        """
        images = torch.empty_like(batch.images, memory_format=self.manner.memory_format)
        given: dict[str, Tensor] = {}
        fixed = _Recorded(images, torch.empty_like(batch.labels), given, lambda: None)

        def step() -> None:
            given.update(self._step(fixed.images, fixed.labels))

        before, places = self._content(), self._places()
        try:
            self._place(fixed, batch)
            replay = self.record(step)
            gradients = [(parameter, parameter.grad) for parameter in self.model.parameters()]
            # Numbers that Python drew would be a part of the recording: with another key they are others.
            other, found = replace(batch, key=batch.key + 1), []
            for work in (lambda: self._step(images, fixed.labels), replay):
                self._put_back(before)
                self._place(fixed, other)
                work()
                found.append(self._content())
            self._check_same(before, *found)
            if moved := [name for name, place in self._places().items() if places.get(name) != place]:
                raise ValueError(f"'{moved[0]}' is another tensor after a step, not the same one changed")
        finally:
            self._put_back(before)
        for parameter, gradient in gradients:
            # What is replayed writes there, and whoever asks why a loss is not finite looks there.
            parameter.grad = gradient
        return _Recorded(images, fixed.labels, given, replay)

    def _step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits, loss = loss_of(self.model, images, labels, self.manner)
        parameters = dict(self.model.named_parameters())
        backward(
            loss,
            list(parameters.values()),
            [(parameters[name], mask) for name, mask in self.masks.items()],
            self.manner,
        )
        self.optimizer.step()
        return {"loss": loss.detach(), "logits": logits.detach()}

    def _content(self) -> dict[str, Tensor]:
        return copied(self._everything())

    def _put_back(self, content: Tensors) -> None:
        load_(self._everything(), content)

    def _everything(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers()), **self._slots()}

    def _places(self) -> dict[str, int]:
        return {name: tensor.data_ptr() for name, tensor in self._everything().items()}

    def _check_same(self, before: Tensors, wanted: Tensors, found: Tensors) -> None:
        for name, tensor in wanted.items():
            change, apart = ((tensor - other[name]).double().norm() for other in (before, found))
            if not apart <= ALLOWED * change + 1e-6:
                raise ValueError(f"replayed, it changes '{name}' in another way")


_Replayed = tuple[Tensor, dict[str, Tensor], Callable[[], object]]
"""The fixed images, the logits that are made of them, and what makes these."""


class Inference(nn.Module):
    """A module whose work on batches of the sizes first seen is recorded; of others it is done as it is."""

    def __init__(self, module: nn.Module, record: Record, say: Callable[[str], None]) -> None:
        super().__init__()
        self.module, self.record, self.say = module, record, say
        self.recorded: dict[torch.Size, _Replayed | None] = {}

    def forward(self, images: Tensor) -> Tensor:
        """The module's logits, in memory of their own."""
        if images.shape not in self.recorded and len(self.recorded) < SIZES:
            self.recorded[images.shape] = self._record(images)
        found = self.recorded.get(images.shape)
        if found is None:
            return self.module(images)  # type: ignore[no-any-return]
        fixed, given, replay = found
        fixed.copy_(images)
        replay()
        return given["logits"].clone()

    def _record(self, images: Tensor) -> _Replayed | None:
        fixed, given = images.clone(), dict[str, Tensor]()

        def work() -> None:
            given["logits"] = self.module(fixed)

        try:
            replay = self.record(work)
            # On the images that it was recorded with, what was never recorded looks right as well.
            fixed.copy_(images.flip(0).neg())
            wanted = self.module(fixed)
            replay()
            if not torch.allclose(given["logits"], wanted, rtol=ALLOWED, atol=ALLOWED):
                raise ValueError("replayed, it gives other logits")
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            self.say(f"the evaluation cannot be recorded ({_cause(error)}): {ONE_BY_ONE}")
            return None
        return fixed, given, replay


def _cause(error: BaseException) -> str:
    """What went wrong first: the end of a recording complains of it anew."""
    return str(error.__context__ or error).strip().partition("\n")[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warning that an optimizer made for recording works before it is recorded."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        yield
