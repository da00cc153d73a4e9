"""The signal-noise data of Yang et al. (2023): two patches, of which one tells the class and one is noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunecli.datasets.values import Augment, Dataset, Facts, Images, InMemory, Normalization, Split
from prunecli.errors import UsageError
from prunecli.experiment import digest
from prunecli.gaussian import normals
from prunecli.memory import check_fits
from prunecli.places import Roots
from prunecli.randomness import bits, key
from prunecli.registry import data
from prunecli.task import Task

_VERSION = 1
"""Of the draws: with other draws it is another dataset."""
_CPU = torch.device("cpu")
_AS_DRAWN = Normalization(1, mean=(0.0,), std=(1.0,))
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Size = Annotated[float, Field(gt=0, le=1e6)]


@dataclass(frozen=True)
class TwoPatches:
    """What the data is drawn from: K `classes` in R^d, d the `dimension`, the signals mu e_y, noise N(0, sigma^2 I)."""

    classes: int
    dimension: int
    mu: float
    sigma: float

    def noise_in(self, images: Tensor, labels: Tensor) -> Tensor:
        """The noise patch (B, d) of images (B, 1, 2, d) whose classes are `labels` (B,)."""
        noise = images.sum(dim=(1, 2))
        noise[torch.arange(len(labels), device=labels.device), labels] -= self.mu
        return noise


@data(facts=Facts())
def two_patches(
    _roots: Roots,
    *,
    classes: Annotated[int, Field(ge=2, le=10_000)] = 4,
    dimension: Count = 4000,
    examples: Count = 80,
    test: Count = 2000,
    signal: Size = 1.0,
    noise_to_signal: Size = 6.0,
) -> Dataset:
    """Two patches in random order: `signal` times e_y, and noise N(0, sigma^2 I), drawn anew for each seed.

    Images are (1, 2, dimension), without normalization. `noise_to_signal` is what the noise patch's norm comes to in
    multiples of the signal's: sigma is `noise_to_signal * signal / sqrt(dimension)`. Example i is of class i modulo
    `classes`, whatever the seed. Source: Yang et al. (2023), section 2.
    """
    if dimension < classes:
        raise UsageError(
            f"two_patches: dimension {dimension} is less than classes {classes}, and each class's signal is a "
            f"coordinate of its own; give a dimension of {classes} or more"
        )
    problem = TwoPatches(classes, dimension, signal, noise_to_signal * signal / math.sqrt(dimension))
    values = torch.float32.itemsize * 2 * dimension * (examples + test)
    check_fits(f"two_patches: {examples + test:,} examples of dimension {dimension:,}", values)
    return _drawn(problem, (examples, test), 0)


def _drawn(problem: TwoPatches, sizes: tuple[int, int], seed: int) -> Dataset:
    """A seed's dataset; those of all seeds are of the same labels and have one fingerprint."""
    train, test = (
        _split(problem, size, key("two_patches", _VERSION, seed, name))
        for name, size in zip(("train", "test"), sizes, strict=True)
    )
    said = {"two_patches": {**asdict(problem), "sizes": sizes, "version": _VERSION}}
    return Dataset(
        Task((1, 2, problem.dimension), problem.classes),
        train,
        test,
        digest(said),
        drawn=partial(_drawn, problem, sizes),
        problem=problem,
    )


def _split(problem: TwoPatches, size: int, draws: int) -> Split:
    labels = torch.arange(size) % problem.classes
    return Split(_Patches(problem, labels, draws), labels)


@dataclass(frozen=True)
class _Patches:
    """Images (N, 1, 2, d) that are drawn once they are asked for."""

    problem: TwoPatches
    labels: Tensor
    key: int
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[Tensor], augment: Augment, device: torch.device) -> Iterator[Tensor]:
        """See `Images.batches`."""
        return self._made.batches(order, augment, device)

    def to(self, device: torch.device) -> Images:
        """The same images, drawn on the device."""
        return replace(self, device=device)

    @cached_property
    def _made(self) -> InMemory:
        index = torch.arange(len(self), device=self.device)
        noise = normals(key(self.key, "noise"), index, self.problem.dimension) * self.problem.sigma
        signal = torch.zeros_like(noise)
        signal[index, self.labels.to(self.device)] = self.problem.mu
        first = (bits(key(self.key, "order"), index) < 0).view(-1, 1)
        patches = [torch.where(first, signal, noise), torch.where(first, noise, signal)]
        return InMemory(torch.stack(patches, dim=1).unsqueeze(1), _AS_DRAWN)

    def __getstate__(self) -> dict[str, object]:
        # What is drawn goes to no other process: it is drawn there.
        return {name: value for name, value in self.__dict__.items() if name != "_made"}
