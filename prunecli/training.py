"""The training loop: masked steps of a torch optimizer over batches that know their learning rate."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from prunecli.errors import UsageError
from prunecli.masks import Masks, Tensors


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
    """What a step saw: its mean loss, how many of its examples the model had wrong, and how many there were."""

    loss: Tensor
    wrong: Tensor
    examples: int


def fit(
    model: nn.Module, optimizer: Optimizer, batches: Iterable[Batch], masks: Masks, manner: Manner
) -> Iterator[Step]:
    """Train the model in place, one step a batch.

    Gradients of dropped weights are zeroed before the optimizer sees them, so momentum and weight decay
    have nothing to revive: a weight and a slot that are 0 stay 0.
    """
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
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
        logits = forward(model, batch.images, manner)
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=manner.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        alive = [(p.grad, mask) for p, mask in masked if p.grad is not None]
        if alive:
            torch._foreach_mul_([gradient for gradient, _ in alive], [mask for _, mask in alive])
        if manner.gradient_clipping is not None:
            nn.utils.clip_grad_norm_(parameters.values(), manner.gradient_clipping)
        optimizer.step()
        wrong = (logits.detach().argmax(1) != batch.labels).sum()
        yield Step(loss.detach(), wrong, len(batch.labels))


def forward(model: nn.Module, images: Tensor, manner: Manner) -> Tensor:
    """Logits (B, classes) in float32."""
    images = images.contiguous(memory_format=manner.memory_format)
    if manner.autocast is None:
        logits: Tensor = model(images)
    else:
        with torch.autocast(images.device.type, dtype=manner.autocast):
            logits = model(images)
    return logits.float()


@torch.no_grad()
def outcomes(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], manner: Manner
) -> tuple[Tensor, Tensor]:
    """Each example's cross-entropy (N,) float32 and whether it is classified right (N,) bool, in evaluation mode."""
    losses, right = [], []
    with undisturbed(model):
        model.eval()
        for images, labels in batches:
            logits = forward(model, images, manner)
            losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
            right.append((logits.argmax(1) == labels).cpu())
    return torch.cat(losses), torch.cat(right)


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
