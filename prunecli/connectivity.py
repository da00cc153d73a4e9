"""Linear mode connectivity: what networks are like on the straight line between two (Frankle et al., 2020).

Linear Mode Connectivity and the Lottery Ticket Hypothesis, section 2: the error barrier of two networks is the highest
error on the line between their weights minus the mean of the errors at its ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import update_bn

from prunecli.batching import batches_in
from prunecli.building import TRAINING
from prunecli.datasets.values import Augment
from prunecli.errors import NotComparable
from prunecli.filters import Gates
from prunecli.lab import Lab
from prunecli.masks import Masks, Tensors
from prunecli.randomness import key
from prunecli.state import Outcomes, State, error_percent
from prunecli.training import load_, seed_, undisturbed

Split = Literal["test", "train"]
BatchNorms = Literal["interpolate", "recompute"]
SPLITS: Mapping[str, tuple[Split, ...]] = {
    "test": ("test",),
    "train": ("train",),
    "both": ("test", "train"),
}
STRAY = 1e-2
"""How far a loss may be from the stored one: devices and precisions differ by less, other weights by more."""


@dataclass(frozen=True)
class Network:
    """A seed's network at a level: weights that are 0 where its masks drop them, and buffers."""

    seed: int
    weights: Tensors
    buffers: Tensors
    masks: Masks


@dataclass(frozen=True)
class Line:
    """What is measured at each of `places`, 0 at the first seed's network and 1 at the second's; by metric.

    `density` is of the union of the weights that the two keep.
    """

    seeds: tuple[int, int]
    places: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]]
    density: float

    def barrier(self, metric: str) -> float:
        """The highest value on the line minus the mean of those at its ends (Frankle et al., 2020, section 2)."""
        values = self.metrics[metric]
        return max(values) - (values[0] + values[-1]) / 2

    def highest(self, metric: str) -> float:
        """Where the highest value is, the first of those that tie."""
        values = self.metrics[metric]
        return self.places[values.index(max(values))]


def between(a: Network, b: Network, place: float) -> State:
    """The network (1 - place) a + place b: exactly a at 0, b at 1, and a everywhere where b is a.

    It keeps what either keeps. Buffers that are no floats are those of the nearer end.
    """
    weights = {name: _mixed(a.weights[name], b.weights[name], place) for name in a.weights}
    buffers = {name: _mixed(a.buffers[name], b.buffers[name], place) for name in a.buffers}
    return State(weights, buffers, union(a.masks, b.masks))


def union(a: Masks, b: Masks) -> Masks:
    """Masks that keep what either keeps; what one of them has no mask of is kept."""
    both = {name: a[name] | b[name] for name in a if name in b}
    alone = {name: torch.ones_like(mask) for name, mask in {**a, **b}.items() if name not in both}
    return Masks({**both, **alone}, a.beside | b.beside)


def line_between(
    lab: Lab,
    a: Network,
    b: Network,
    places: Sequence[float],
    splits: Sequence[Split],
    batch_norms: BatchNorms,
) -> Line:
    """The errors (percent) and mean losses (nats) of the networks at the places between two.

    Raises:
        NotComparable: a loss is NaN or infinite.
    """
    found: dict[str, list[float]] = {}
    # Gates that keep what they are told: else they would be those of the masks, which are of both ends.
    gates, lab = lab.gates, replace(lab, gates=Gates({}, {}))
    for place in places:
        state = between(a, b, place)
        _open_between_(gates, a, b, place)
        if batch_norms == "recompute":
            state = with_statistics_anew(lab, state)
        for name, value in _measured(lab, state, splits).items():
            if not math.isfinite(value):
                where = f"at {place:g} of the way from seed {a.seed} to seed {b.seed}"
                raise NotComparable(f"{where} the {name.replace('_', ' ')} is {value}: there is no barrier")
            found.setdefault(name, []).append(value)
    metrics = {name: tuple(values) for name, values in found.items()}
    return Line((a.seed, b.seed), tuple(places), metrics, union(a.masks, b.masks).density)


def with_statistics_anew(lab: Lab, state: State) -> State:
    """The state with its BatchNorms' running statistics taken anew: means over the training split's batches.

    The batches are without augmentation, as equal in size as can be, and the network is in training mode. Gates are as
    they are.
    """
    load_(dict(lab.model.named_parameters()), state.weights)
    examples = (lab.targets.split == TRAINING).nonzero().squeeze(1)
    count = batches_in(len(examples), lab.experiment.batch_size)
    batches = lab.dataset.train.images.batches(examples.tensor_split(count), Augment(), lab.device)
    manner = lab.manner
    with undisturbed(lab.model):
        load_(dict(lab.model.named_buffers()), state.buffers)
        # Dropout and its like are at work in training mode.
        seed_(lab.device, key("statistics", lab.seed))
        with torch.autocast(lab.device.type, dtype=manner.autocast, enabled=manner.autocast is not None):
            update_bn((one.contiguous(memory_format=manner.memory_format) for one in batches), lab.model)
        buffers = {name: buffer.clone() for name, buffer in lab.model.named_buffers()}
    return State(state.weights, buffers, state.masks)


def check_same_examples(a: Lab, b: Lab, *, labels: bool) -> None:
    """Whether two networks were trained on the same examples, and on the same labels of them, if those count.

    Raises:
        NotComparable: they were not.
    """
    same = {"examples": torch.equal(a.targets.split, b.targets.split)}
    if labels:
        same["labels"] = torch.equal(a.targets.used, b.targets.used)
    if differ := [name for name, equal in same.items() if not equal]:
        raise NotComparable(
            f"the two ends of a line were trained on other {' and '.join(differ)} (seeds {a.seed} and {b.seed}): there "
            "is no one training split; --of test --batch-norm interpolate needs none"
        )


def strays(line: Line, stored: Sequence[Mapping[str, float]]) -> bool:
    """Whether a line's ends have other numbers than their runs stored, beyond what another machine makes of them."""
    return any(
        abs(line.metrics[name][end] - values[name]) > STRAY * max(1.0, abs(values[name]))
        for end, values in zip((0, -1), stored, strict=True)
        for name in line.metrics
        if name.endswith("_loss") and name in values
    )


@torch.no_grad()
def _open_between_(gates: Gates, a: Network, b: Network, place: float) -> None:
    """Open the channels of dropped filters as far as the place is from the end that closes them."""
    ends = []
    for end in (a, b):
        gates.load_(end.masks)
        ends.append({gate: channels.clone() for gate, channels in gates.open.items()})
    for gate, channels in gates.open.items():
        channels.copy_(torch.lerp(ends[0][gate], ends[1][gate], place))


def _mixed(a: Tensor, b: Tensor, place: float) -> Tensor:
    if not a.is_floating_point():
        return a if place < 0.5 else b
    return torch.lerp(a, b, place)


def _measured(lab: Lab, state: State, splits: Sequence[Split]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in splits:
        split, labels = (
            (lab.dataset.test, lab.dataset.test.labels)
            if name == "test"
            else (lab.dataset.train, lab.targets.used)
        )
        part = np.ones(len(split), np.bool_) if name == "test" else lab.targets.split.numpy() == TRAINING
        found |= _numbers(name, lab.outcomes(state, split, labels), part)
    return found


def _numbers(name: str, seen: Outcomes, part: NDArray[np.bool_]) -> dict[str, float]:
    """The error and the mean loss of some examples, as a level stores them (see `measuring`)."""
    return {
        f"{name}_error": error_percent(seen.correct.numpy()[part]),
        f"{name}_loss": float(seen.loss.numpy()[part].mean(dtype=np.float64)),
    }
