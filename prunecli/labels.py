"""The labels that training uses, clean or noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction as Exact
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.experiment import Fraction
from prunecli.randomness import Draw
from prunecli.registry import labels

_SUMS_TO_ONE = 1e-6
"""How far the entries of a row may be from 1 together: thirds are written with as many digits."""


def _sums_to_one(row: list[float]) -> list[float]:
    if abs(math.fsum(row) - 1) > _SUMS_TO_ONE:
        raise ValueError(f"should sum to 1; its {len(row)} entries sum to {math.fsum(row):.9g}")
    return row


def _square(matrix: list[list[float]]) -> list[list[float]]:
    uneven = next((number for number, row in enumerate(matrix) if len(row) != len(matrix)), None)
    if uneven is not None:
        raise ValueError(
            f"should be square; it has {len(matrix)} rows, and row {uneven} has {len(matrix[uneven])} entries"
        )
    return matrix


def _pairs(pairs: list[list[int]]) -> list[list[int]]:
    for first, second in pairs:
        if first == second:
            raise ValueError(f"should lead to other labels; [{first}, {second}] does not")
    firsts = [first for first, _ in pairs]
    twice = next((first for first in firsts if firsts.count(first) > 1), None)
    if twice is not None:
        raise ValueError(f"should have each class first once; {twice} is first {firsts.count(twice)} times")
    return pairs


Label = Annotated[int, Field(ge=0, lt=1_000_000)]
Pairs = Annotated[
    list[Annotated[list[Label], Field(min_length=2, max_length=2)]],
    Field(min_length=1, max_length=1000),
    AfterValidator(_pairs),
]
Row = Annotated[list[Fraction], AfterValidator(_sums_to_one)]
Matrix = Annotated[list[Row], Field(min_length=2), AfterValidator(_square)]


def check_labels(used: object, classes: int, where: str, *, count: int | None = None) -> None:
    """Raises UsageError, naming `where`, unless these are labels (N,): int64 from 0 to `classes` - 1.

    `count` is the N that they should have, where it is known.
    """
    if not isinstance(used, Tensor):
        raise UsageError(f"{where}: labels are a tensor; found {type(used).__qualname__}")
    if used.dtype != torch.int64:
        raise UsageError(f"{where}: labels are of type torch.int64; found {used.dtype}")
    if used.dim() != 1 or count not in (None, len(used)):
        wanted = "(N,)" if count is None else f"({count},)"
        raise UsageError(f"{where}: labels have shape {wanted}; found {tuple(used.shape)}")
    wrong = ((used < 0) | (used >= classes)).nonzero().squeeze(1)
    if len(wrong):
        first = int(wrong[0])
        raise UsageError(
            f"{where}: labels are from 0 to {classes - 1}; found {int(used[first])} at example {first}"
            + (f" and {len(wrong) - 1:,} more that are not" if len(wrong) > 1 else "")
        )


@labels(draws=False)
def clean(labels: Tensor, changeable: Tensor, classes: int, key: int) -> Tensor:  # noqa: ARG001  (as all)
    """The source's labels (N,)."""
    return labels.clone()


@labels
def uniform(labels: Tensor, changeable: Tensor, classes: int, key: int, *, fraction: Fraction) -> Tensor:
    """A fraction of the labels become one of the other classes, uniformly (Jin et al., 2022, section 4).

    Exactly round(fraction x changeable examples) differ. With one key, a larger fraction changes the
    examples that a smaller one changes, to the same labels, and then some more.
    """
    positions = changeable.nonzero().squeeze(1)
    return _to_others(labels, _first(positions, fraction, key), classes, key)


@labels
def symmetric(labels: Tensor, changeable: Tensor, classes: int, key: int, *, fraction: Fraction) -> Tensor:
    """Each label becomes one of the other classes with probability `fraction`, uniformly (Patrini et al., 2017).

    How many differ is binomial; `uniform` changes an exact number. Label i stays with probability
    1 - fraction, and becomes j with probability fraction / (classes - 1). With one key, a larger fraction
    changes the examples that a smaller one changes, to the same labels, and then some more.
    """
    positions = changeable.nonzero().squeeze(1)
    return _to_others(labels, positions[Draw(key, positions).uniform("changed") < fraction], classes, key)


@labels
def pair_flip(
    labels: Tensor,
    changeable: Tensor,
    classes: int,
    key: int,
    *,
    fraction: Fraction,
    pairs: Pairs | None = None,
) -> Tensor:
    """A fraction of the labels c become c + 1, and the last class the first (pair flipping: Han et al., 2018).

    Exactly round(fraction x changeable examples) differ. `pairs` says which label becomes which in place of
    that: [[9, 1], [2, 0], [4, 7], [3, 5], [5, 3]] is the asymmetric noise of Patrini et al. (2017) on CIFAR-10;
    the fraction is then of the changeable examples of the classes that come first in a pair. With one key, a
    larger fraction changes the examples that a smaller one changes, and then some more.
    """
    own = torch.arange(classes)
    becomes = _next(own, classes) if pairs is None else own.clone()
    for first, second in pairs or ():
        if max(first, second) >= classes:
            raise UsageError(
                f"pairs: [{first}, {second}] names a class that is not there; they are 0 to {classes - 1}"
            )
        becomes[first] = second
    positions = (changeable & (becomes != own)[labels]).nonzero().squeeze(1)
    changed = _first(positions, fraction, key)
    used = labels.clone()
    used[changed] = becomes[labels[changed]]
    return used


@labels
def transition(labels: Tensor, changeable: Tensor, classes: int, key: int, *, matrix: Matrix) -> Tensor:
    """Labels become others with the probabilities of a class-transition matrix (Patrini et al., 2017, section 2).

    `matrix[i][j]` is the probability that an example of class i is labelled j: rows sum to 1. Of the n
    changeable examples of class i, n x matrix[i][j] are labelled j, rounded by largest remainder (ties go to
    the lower class), and which of them is drawn: exact counts, as those of `uniform`, keep the amount of noise
    from being one more thing that differs between the few seeds that are compared.
    """
    if len(matrix) != classes:
        size = len(matrix)
        raise UsageError(f"the matrix is {size} x {size}; the data has {classes} classes, a row for each")
    positions = changeable.nonzero().squeeze(1)
    ranked = positions[Draw(key, positions).uniform("changed").argsort(stable=True)]
    used = labels.clone()
    for number, row in enumerate(matrix):
        members = ranked[labels[ranked] == number]
        counts = torch.tensor(_apportioned(len(members), row))
        # Its own label last: where a row leaves fewer labels as they are, those changed before are changed too.
        order = (number + 1 + torch.arange(classes)) % classes
        used[members] = order.repeat_interleave(counts[order])
    return used


@labels
def shuffle(labels: Tensor, changeable: Tensor, classes: int, key: int, *, fraction: Fraction) -> Tensor:  # noqa: ARG001  (as all)
    """A fraction of the examples exchange their labels at random, as data_diet does (Paul et al., 2021).

    round(fraction x changeable examples) take part, and the number of examples of each class stays as it is.
    Some get a label equal to their own, with ten equal classes one in ten, and do not count as noisy.
    """
    chosen = _first(changeable.nonzero().squeeze(1), fraction, key)
    used = labels.clone()
    used[chosen] = labels[chosen[Draw(key, chosen).uniform("exchange").argsort(stable=True)]]
    return used


def _first(positions: Tensor, fraction: float, key: int) -> Tensor:
    """round(fraction x positions) of the positions, those that are drawn first."""
    order = Draw(key, positions).uniform("changed").argsort(stable=True)
    return positions[order[: round(fraction * len(positions))]]


def _to_others(labels: Tensor, changed: Tensor, classes: int, key: int) -> Tensor:
    """The labels, where those at `changed` are one of the other classes, uniformly."""
    _need_others(classes)
    step = 1 + Draw(key, changed).integers("label", classes - 1)
    used = labels.clone()
    used[changed] = (labels[changed] + step) % classes
    return used


def _next(labels: Tensor, classes: int) -> Tensor:
    _need_others(classes)
    return (labels + 1) % classes


def _need_others(classes: int) -> None:
    if classes < 2:
        raise UsageError("noise needs another label to give, but the dataset has one class")


def _apportioned(count: int, row: Sequence[float]) -> list[int]:
    """`count` shared out by the row's weights, rounded by largest remainder, ties going to the lower class."""
    # As the recipe writes them: 100 x 0.29 is 29, and in binary a little less.
    weights = [Exact(repr(weight)) for weight in row]
    shares = [count * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(row)), key=lambda number: (counts[number] - shares[number], number))
    for number in by_remainder[: count - sum(counts)]:
        counts[number] += 1
    return counts
