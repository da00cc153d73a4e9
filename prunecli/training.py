"""The training loop: masked steps of a torch optimizer over batches that know their learning rate."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunecli.errors import Diverged, UsageError
from prunecli.folding import agree
from prunecli.losses import example_losses, mean_loss, right
from prunecli.masks import Masks, Tensors

LOOKED_AT_ONCE = 32
"""Steps whose logits are kept to be looked at together."""


@dataclass(frozen=True)
class Batch:
    """Images (B, C, H, W) with labels (B,), the learning rate of their step, and its random key."""

    images: Tensor
    labels: Tensor
    rate: float
    key: int


@dataclass(frozen=True)
class Manner:
    """How steps are taken, the same at each: smoothing, clipping, precision and memory format."""

    label_smoothing: float = 0.0
    gradient_clipping: float | None = None
    autocast: torch.dtype | None = None
    memory_format: torch.memory_format = torch.contiguous_format
    own_code: bool = False
    """Whether functions of the user's run in a step, which may draw from Python's and NumPy's generators too."""


@dataclass(frozen=True)
class Step:
    """What a step saw: its mean loss, the logits (B, classes) and the labels (B,)."""

    loss: Tensor
    logits: Tensor
    labels: Tensor


@dataclass
class Tally:
    """Adds up what steps saw; it looks at many steps at once, and never waits for a GPU before it is asked."""

    losses: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    _waiting: list[Step] = field(default_factory=list)
    _wrong: list[Tensor] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count a step in."""
        self.losses.append(step.loss)
        self.sizes.append(len(step.labels))
        self._waiting.append(step)
        if len(self._waiting) == LOOKED_AT_ONCE:
            self._look()

    @property
    def examples(self) -> int:
        """How many examples the steps saw."""
        return sum(self.sizes)

    def mean_loss(self) -> float:
        """The mean loss of their examples."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        losses = torch.stack([loss.to(self.losses[-1].device) for loss in self.losses]).cpu()
        return float((losses * sizes).sum() / self.examples)

    def wrong(self) -> int:
        """How many of their examples the model had wrong when it saw them."""
        self._look()
        return sum(int(one) for one in self._wrong)

    def _look(self) -> None:
        if self._waiting:
            logits, labels = (
                torch.cat([getattr(step, name) for step in self._waiting]) for name in ("logits", "labels")
            )
            self._wrong.append((~right(logits, labels)).sum())
            self._waiting.clear()


def check_finite(model: nn.Module, seen: Tally, epoch: int, first: int, rate: float) -> None:
    """Raises Diverged where a step's loss is NaN or infinite; the tally's first step is the epoch's step `first`."""
    losses = torch.stack([loss.to(seen.losses[-1].device) for loss in seen.losses])
    wrong = (~losses.isfinite()).nonzero()
    if not len(wrong):
        return
    at = int(wrong[0])
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = nn.utils.get_total_norm(list(gradients.values()))
    tensor = next((name for name, one in gradients.items() if not one.isfinite().all()), "none")
    raise Diverged(
        f"epoch {epoch + 1}, step {first + at + 1}: the loss is {float(losses[at])} (learning "
        f"rate {rate:g}, gradient norm {float(norm):.3g}, first gradient that is not finite: {tensor})"
    )


def check_masks(weights: Tensors, masks: Masks, optimizer: str) -> None:
    """Raises UsageError where a dropped weight came back."""
    for name, mask in masks.items():
        if not mask.all() and bool(weights[name][~mask].count_nonzero()):
            raise UsageError(
                f"optimizer '{optimizer}' changed weights of '{name}' that are pruned and had no gradient; what it "
                f"adds by itself has to leave zeros as they are"
            )


def fit(
    model: nn.Module, optimizer: Optimizer, batches: Iterable[Batch], masks: Masks, manner: Manner
) -> Iterator[Step]:
    """Train the model in place, one step a batch.

    Gradients of dropped weights are zeroed before the optimizer sees them, so momentum and weight decay
    have nothing to revive: a weight and a slot that are 0 stay 0.
    """
    parameters = dict(model.named_parameters())
    trained, device = list(parameters.values()), next(iter(parameters.values())).device
    # A full mask multiplies by 1, which changes no bit: leave the product out.
    masked = [
        (parameters[name], mask.to(parameters[name].dtype)) for name, mask in masks.items() if not mask.all()
    ]
    model.train()
    for batch in batches:
        seed_(device, batch.key)
        if manner.own_code:
            seed_python_(batch.key)
        for group in optimizer.param_groups:
            group["lr"] = batch.rate
        logits, loss = loss_of(model, batch.images, batch.labels, manner)
        backward(loss, trained, masked, manner)
        optimizer.step()
        yield Step(loss.detach(), logits.detach(), batch.labels)


def loss_of(model: nn.Module, images: Tensor, labels: Tensor, manner: Manner) -> tuple[Tensor, Tensor]:
    """Logits (B, classes) and the mean loss that training minimizes."""
    logits = forward(model, images, manner)
    return logits, mean_loss(logits, labels, manner.label_smoothing)


def backward(
    loss: Tensor,
    trained: Sequence[nn.Parameter],
    masked: Sequence[tuple[nn.Parameter, Tensor]],
    manner: Manner,
) -> None:
    """Give the trained parameters their gradients, 0 where a mask is, clipped as the manner says."""
    for parameter in trained:
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    alive = [(p.grad, mask) for p, mask in masked if p.grad is not None]
    if alive:
        torch._foreach_mul_([gradient for gradient, _ in alive], [mask for _, mask in alive])
    if manner.gradient_clipping is not None:
        nn.utils.clip_grad_norm_(trained, manner.gradient_clipping)


def forward(model: nn.Module, images: Tensor, manner: Manner) -> Tensor:
    """Logits (B, classes) in float32."""
    images = images.contiguous(memory_format=manner.memory_format)
    if manner.autocast is None:
        logits: Tensor = model(images)
    else:
        # Its cache keeps what a recording of the step would not find again; each weight is used once anyway.
        with torch.autocast(images.device.type, dtype=manner.autocast, cache_enabled=False):
            logits = model(images)
    return logits.float()


@torch.no_grad()
def outcomes(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    manner: Manner,
    quicker: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Each example's loss (N,) float32 and whether it is classified right (N,) bool, in evaluation mode.

    A `quicker` module, which is to compute what the model does, takes its place if the two agree on the first batch.
    """
    losses, correct, used = [], [], model
    with undisturbed(model):
        model.eval()
        for number, (images, labels) in enumerate(batches):
            logits = forward(used, images, manner)
            loss = example_losses(logits, labels)
            if (
                number == 0
                and quicker is not None
                and agree(example_losses(forward(quicker, images, manner), labels), loss)
            ):
                used = quicker
            losses.append(loss)
            correct.append(right(logits, labels))
    return torch.cat(losses).cpu(), torch.cat(correct).cpu()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back the modules' modes, the buffers and torch's random state when the block ends."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            load_(dict(model.named_buffers()), buffers)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 become 0 at once: arithmetic on them is tens of times slower.

    Threads inherit this when they start, so it comes before the first operation.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def seed_(device: torch.device, key: int) -> None:
    """Seed torch's generators, for dropout and its like."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)


def seed_python_(key: int) -> None:
    """Seed Python's and NumPy's global generators, which nothing of ours draws from."""
    random.seed(key)
    np.random.seed(key % 2**32)


@torch.no_grad()
def load_(into: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Copy the tensors into those of the same names, which keep their memory."""
    for name, tensor in into.items():
        tensor.copy_(tensors[name])


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory of their own, contiguous and without gradient."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def slots_of(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's tensors as `slot/parameter`.

    Raises:
        UsageError: the optimizer keeps something else, which could not be stored.
    """
    for state in optimizer.state.values():
        for slot, value in state.items():
            if not isinstance(value, Tensor) and value is not None:
                found = f"{type(optimizer).__name__} keeps '{slot}' as {type(value).__name__}"
                raise UsageError(f"{found}: only tensors can be stored and gone on from")
    return copied(
        {
            f"{slot}/{name}": value
            for name, parameter in parameters.items()
            for slot, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
    )


def load_slots_(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], slots: Tensors) -> None:
    """Give the optimizer the tensors that `slots_of` took from one like it."""
    for place, tensor in slots.items():
        slot, _, name = place.partition("/")
        parameter = parameters[name]
        # Fused optimizers walk memory as it lies: a slot has its parameter's strides, channels-last included.
        own = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
        optimizer.state[parameter][slot] = own.detach().copy_(tensor)
