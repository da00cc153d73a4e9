"""A bare loop: the same work by hand, as somebody who knows torch well writes it.

Pixels in memory as bytes, an epoch's draws at once, one gather for crops, fused SGD, one product for all masks, one
loss number an epoch. It shares prunecli's network and nothing of its training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.workloads import DECAY, MOMENTUM, PADDING, RATE, Bench, pixels_of
from prunecli.randomness import Draw, key, permutation


@dataclass(frozen=True)
class Draws:
    """An epoch's order, and by example whether it is mirrored and where its crop begins."""

    order: Tensor
    mirrored: Tensor
    top: Tensor
    left: Tensor


Drawing = Callable[[int], Draws]


def torchs_draws(bench: Bench) -> Drawing:
    """Draws of torch's own generators, on the device."""
    count, device = bench.workload.train, bench.lab.device
    generator = torch.Generator(device).manual_seed(1)

    def draw(_epoch: int) -> Draws:
        shifts = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator, device=device)
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        order = torch.randperm(count, generator=generator, device=device)
        return Draws(order, mirrored, shifts[0], shifts[1])

    return draw


def prunecli_draws(bench: Bench) -> Drawing:
    """The draws that prunecli makes, for the comparison of results."""
    count, drawing, device = bench.workload.train, bench.lab.drawing, bench.lab.device

    def draw(epoch: int) -> Draws:
        order = permutation(key("order", drawing, epoch), count)
        chosen = key("augmentation", drawing, epoch)
        flip, crop = (Draw(key(chosen, position), torch.arange(count)) for position in (0, 1))
        mirrored = flip.uniform("flip") < 0.5
        top, left = (crop.integers(f"crop {side}", 2 * PADDING + 1) for side in ("top", "left"))
        # Mirroring before the crop is mirroring the crop that begins as far from the other side.
        left = torch.where(mirrored, 2 * PADDING - left, left)
        return Draws(*(tensor.to(device) for tensor in (order, mirrored, top, left)))

    return draw


@dataclass(eq=False)
class Bare:
    """The loop's model, optimizer and data; `masked` pairs weights with masks, as numbers."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    masked: list[tuple[nn.Parameter, Tensor]]
    pixels: Tensor
    labels: Tensor
    test: tuple[Tensor, Tensor]
    drawing: Drawing
    mean: Tensor
    std: Tensor
    batch: int
    augmented: bool
    layout: torch.memory_format
    autocast: torch.dtype | None
    windows: Tensor = field(init=False)
    epoch: int = 0

    def __post_init__(self) -> None:
        padded = functional.pad(self.pixels, (PADDING,) * 4) if self.augmented else self.pixels
        self.windows = padded.unfold(2, self.pixels.shape[2], 1).unfold(3, self.pixels.shape[3], 1)

    def train(self, first: int, steps: int) -> Tensor:
        """Steps of one epoch from its `first` on; gives their losses (steps,)."""
        draws = self.drawing(self.epoch)
        batches = torch.split(draws.order, self.batch)[first : first + steps]
        self.model.train()
        losses = []
        for index in batches:
            losses.append(self._step(self._images(index, draws), self.labels[index]))
        self.epoch += 1
        found = torch.stack(losses)
        float(found.mean())  # The epoch's one number.
        return found

    @torch.no_grad()
    def evaluate(self, size: int = 128) -> tuple[Tensor, Tensor]:
        """Each test image's loss, and whether it is right."""
        self.model.eval()
        losses, right = [], []
        for pixels, labels in zip(*(torch.split(part, size) for part in self.test), strict=True):
            logits = self._logits(self._normalized(pixels))
            losses.append(functional.cross_entropy(logits, labels, reduction="none"))
            right.append(logits.argmax(1) == labels)
        return torch.cat(losses).cpu(), torch.cat(right).cpu()

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(self._logits(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self.masked:
            gradients = [weight.grad for weight, _ in self.masked if weight.grad is not None]
            torch._foreach_mul_(gradients, [mask for _, mask in self.masked])
        self.optimizer.step()
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        if self.autocast is None:
            return self.model(images)  # type: ignore[no-any-return]  # a module gives what it gives
        with torch.autocast(images.device.type, dtype=self.autocast):
            return self.model(images).float()  # type: ignore[no-any-return]  # as above

    def _images(self, index: Tensor, draws: Draws) -> Tensor:
        if not self.augmented:
            return self._normalized(self.pixels[index])
        pixels = self.windows[index, :, draws.top[index], draws.left[index]]
        mirrored = draws.mirrored[index].view(-1, 1, 1, 1)
        return self._normalized(torch.where(mirrored, pixels.flip(-1), pixels))

    def _normalized(self, pixels: Tensor) -> Tensor:
        # Bytes are quicker to lay out anew than the numbers made of them.
        return (pixels.contiguous(memory_format=self.layout).float() - self.mean) / self.std


def bare(bench: Bench, drawing: Drawing | None = None, decay: float = DECAY) -> Bare:
    """The loop at the bench's state, with the memory format and precision that prunecli has there."""
    model = network(bench)
    parameters = dict(model.named_parameters())
    masked = [(parameters[n], mask.float()) for n, mask in bench.state.masks.items() if not mask.all()]
    normalize, device = bench.workload.normalize, bench.lab.device
    mean, std = (
        torch.tensor(part, device=device).view(-1, 1, 1) * normalize.scale
        for part in (normalize.mean, normalize.std)
    )
    return Bare(
        model,
        torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=decay, fused=True),
        masked,
        pixels_of(bench.lab.dataset.train),
        bench.lab.dataset.train.labels.to(device),
        (pixels_of(bench.evaluated), bench.evaluated.labels.to(device)),
        drawing or torchs_draws(bench),
        mean,
        std,
        bench.workload.batch,
        bench.workload.augmented,
        layout_of(model),
        bench.lab.manner.autocast,
    )


@torch.no_grad()
def network(bench: Bench) -> nn.Module:
    """prunecli's network with the bench's weights, as its memory lies."""
    model = copy.deepcopy(bench.lab.model)
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        tensor.copy_({**bench.state.weights, **bench.state.buffers}[name])
    return model


def layout_of(model: nn.Module) -> torch.memory_format:
    """The memory format of the model's first convolution."""
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return torch.contiguous_format if first is None or first.weight.is_contiguous() else torch.channels_last
