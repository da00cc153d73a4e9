"""A step, loader and level boundary in the style of OpenLTH, written anew from its documented behaviour.

One PIL image an example, torchvision's transforms, worker processes, masks multiplied into the weights before each
forward pass by name, the default SGD, a LambdaLR step an iteration, evaluation through a loader, a checkpoint an epoch.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as by_hand

from benchmarks.bare import Draws, network
from benchmarks.workloads import DECAY, MOMENTUM, PADDING, RATE, Bench, pixels_of
from prunecli.datasets.values import Normalization

Transform = Callable[[Image.Image], Any]  # Any: torchvision publishes no types


class Pictures(Dataset[tuple[Tensor, int]]):
    """Examples as PIL images, transformed one by one; `fed` fixes the draws, for the comparison of results."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        augment: Sequence[Transform],
        normalize: Normalization,
        fed: Draws | None = None,
    ) -> None:
        self.pixels, self.labels, self.fed = pixels, labels, fed
        last = [transforms.ToTensor(), transforms.Normalize(normalize.mean, normalize.std)]
        self.augment = transforms.Compose([*augment, *last])
        self.without = transforms.Compose(last)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index])
        label = int(self.labels[index])
        if self.fed is None:
            return self.augment(image), label
        return self.without(_as_drawn(image, self.fed, index)), label


class Masked(nn.Module):
    """A network whose weights are multiplied by masks, its buffers, before each forward pass."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        for name, mask in masks.items():
            self.register_buffer(_buffer(name), mask.float())

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits (B, classes)."""
        for name, weight in self.model.named_parameters():
            if hasattr(self, _buffer(name)):
                weight.data *= getattr(self, _buffer(name))
        logits: Tensor = self.model(images)
        return logits


@dataclass(eq=False)
class Style:
    """The loop's model, optimizer, schedule and datasets; `persistent` workers are not started anew each epoch."""

    model: Masked
    device: torch.device
    train_set: Pictures
    test_set: Pictures
    batch: int
    folder: Path | None
    workers: int = 2
    persistent: bool = False
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: torch.optim.lr_scheduler.LambdaLR = field(init=False)
    _loaders: dict[str, DataLoader[tuple[Tensor, int]]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        parameters = self.model.model.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _iteration: 1.0)

    def train(self, order: Sequence[int]) -> list[float]:
        """A step for each batch of the order; gives their losses."""
        self.order[:] = order
        losses = []
        for images, labels in self._loader("train", self.train_set, self.order):
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            self.model.train()
            loss = functional.cross_entropy(self.model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self.optimizer.step()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore")
                self.schedule.step()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """The test set's mean loss and its accuracy, read through a loader."""
        self.model.eval()
        loss, right, count = torch.zeros(()), torch.zeros(()), 0
        for images, labels in self._loader("test", self.test_set, range(len(self.test_set))):
            labels = labels.to(self.device)
            logits = self.model(images.to(self.device))
            loss += functional.cross_entropy(logits, labels).cpu() * len(labels)
            right += (logits.argmax(1) == labels).sum().cpu()
            count += len(labels)
        return float(loss) / count, float(right) / count

    def checkpoint(self) -> None:
        """Write the model, the optimizer and the schedule."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        if self.folder is not None:
            torch.save(parts, self.folder / "checkpoint")

    def epoch(self, order: Sequence[int]) -> None:
        """An epoch: its steps, the evaluation, the checkpoint."""
        self.train(order)
        self.evaluate()
        self.checkpoint()

    def _loader(self, name: str, examples: Pictures, order: Sequence[int]) -> DataLoader[tuple[Tensor, int]]:
        if name not in self._loaders or not self.persistent:
            self._loaders[name] = DataLoader(
                examples,
                batch_size=self.batch,
                sampler=order,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
                persistent_workers=self.persistent,
                # Forked, as on the systems that it was written for: cheaper than new processes.
                multiprocessing_context="fork" if self.workers else None,
            )
        return self._loaders[name]


def style(
    bench: Bench, folder: Path | None = None, fed: Draws | None = None, workers: int | None = None
) -> Style:
    """The loop at the bench's state; a shortened epoch leaves out the starts of workers and the checkpoint."""
    shortened = bench.first > 0
    model = network(bench).to(memory_format=torch.contiguous_format)
    masks = {name: mask for name, mask in bench.state.masks.items() if not mask.all()}
    augment = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(bench.workload.shape[1], PADDING)]
    train, test = bench.lab.dataset.train, bench.evaluated
    normalize = bench.workload.normalize
    if workers is None:
        workers = 2 if bench.lab.device.type == "cpu" else os.cpu_count() or 2
    return Style(
        Masked(model, masks).to(bench.lab.device),
        bench.lab.device,
        Pictures(
            *arrays_of(pixels_of(train), train.labels),
            augment if bench.workload.augmented else [],
            normalize,
            fed if bench.workload.augmented else None,
        ),
        Pictures(*arrays_of(pixels_of(test), test.labels), [], normalize),
        bench.workload.batch,
        None if shortened else folder,
        workers,
        persistent=shortened and workers > 0,
    )


def shuffled(bench: Bench) -> list[int]:
    """The examples of the timed steps, in an order drawn afresh."""
    order = torch.randperm(bench.workload.train)[bench.first * bench.workload.batch :]
    return order.tolist()


def arrays_of(pixels: Tensor, labels: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images as PIL reads them, (N, H, W) or (N, H, W, C)."""
    images = pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return images.squeeze(-1) if images.shape[-1] == 1 else images, labels.cpu().numpy()


def pruned_masks(
    weights: Mapping[str, NDArray[np.float32]], masks: Mapping[str, NDArray[np.float32]], fraction: float
) -> dict[str, NDArray[np.float32]]:
    """Masks by a threshold: the smallest weight that is kept, in the sorted order of all that are."""
    kept = np.concatenate([weights[name][masks[name] == 1] for name in masks])
    threshold = np.sort(np.abs(kept))[int(np.ceil(fraction * len(kept)))]
    return {
        name: np.where(np.abs(weights[name]) > threshold, mask, np.zeros_like(mask))
        for name, mask in masks.items()
    }


def boundary(bench: Bench, folder: Path, fraction: float) -> Style:
    """The next level's loop: what was trained is read from its checkpoint, pruned, and everything is made anew."""
    stored = torch.load(folder / "checkpoint", weights_only=True)["model"]
    weights = {n: stored[f"model.{n}"].cpu().numpy() for n in bench.lab.names}
    before = {n: stored[_buffer(n)].cpu().numpy() for n in bench.lab.names}
    masks = {n: torch.from_numpy(mask) for n, mask in pruned_masks(weights, before, fraction).items()}
    torch.save(masks, folder / "masks")
    following = style(bench, folder)
    following.model = Masked(copy.deepcopy(bench.lab.model), masks).to(bench.lab.device)
    following.folder = folder
    following.model.model.load_state_dict(torch.load(folder / "initial", weights_only=True))
    following.__post_init__()
    return following


def _as_drawn(image: Image.Image, draws: Draws, index: int) -> Any:  # Any: torchvision publishes no types
    padded = by_hand.pad(image, PADDING)
    width, height = image.size
    cropped = by_hand.crop(padded, int(draws.top[index]), int(draws.left[index]), height, width)
    return by_hand.hflip(cropped) if bool(draws.mirrored[index]) else cropped


def _buffer(name: str) -> str:
    return "mask_" + name.replace(".", "___")
