"""Which training examples are trained on, and which are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.randomness import bits
from prunecli.registry import examples

Indices = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def stratified(labels: Tensor, count: int, key: int) -> Tensor:
    """Sorted positions of `count` examples: of each class its share, those with the lowest keyed hash.

    Shares are rounded by largest remainder, ties going to the lower class.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"{count} of {len(labels)} examples cannot be chosen")
    sizes = torch.bincount(labels)
    shares = count * sizes // max(len(labels), 1)
    remainders = count * sizes % max(len(labels), 1)
    shares[remainders.argsort(descending=True, stable=True)[: count - int(shares.sum())]] += 1
    hashes = bits(key, torch.arange(len(labels)))
    classes = [(labels == number).nonzero().squeeze(1) for number in range(len(sizes))]
    chosen = [
        members[hashes[members].argsort(stable=True)[:share]]
        for members, share in zip(classes, shares.tolist(), strict=True)
    ]
    return torch.cat([*chosen, hashes[:0]]).sort().values


def validation_split(labels: Tensor, amount: int | float, key: int) -> Tensor:
    """Marks (N,) of the examples held out: a number of them, or a fraction, stratified by label.

    Labels that are numbers make no groups.
    """
    count = round(amount * len(labels)) if isinstance(amount, float) else amount
    if count >= max(len(labels), 1):
        raise UsageError(f"validation: {amount} of {len(labels)} training examples leaves none to train on")
    groups = torch.zeros_like(labels, dtype=torch.int64) if labels.is_floating_point() else labels
    return _marked(len(labels), stratified(groups, count, key))


def lacking_classes(labels: Tensor, training: Tensor, classes: int) -> tuple[int, ...]:
    """The classes that none of the labels (N,) marked as `training` (N,) has; none where they are numbers."""
    if labels.is_floating_point():
        return ()
    found = torch.bincount(labels[training], minlength=classes)
    return tuple((found == 0).nonzero().squeeze(1).tolist())


def lacking_in_words(classes: Sequence[int]) -> str:
    """`no training example of classes 3, 7`: the first ten are named."""
    named = ", ".join(map(str, classes[:10]))
    more = f" and {len(classes) - 10:,} more" if len(classes) > 10 else ""
    return f"no training example of class{'es' * (len(classes) > 1)} {named}{more}"


@examples(name="all")
def all_examples(size: int) -> Tensor:
    """Every training example."""
    return torch.ones(size, dtype=torch.bool)


@examples
def only(size: int, *, indices: Indices) -> Tensor:
    """These training examples, by their position in the source."""
    return _marked(size, _within(size, indices))


@examples
def without(size: int, *, indices: Indices) -> Tensor:
    """Every training example but these, by their position in the source."""
    kept = ~_marked(size, _within(size, indices))
    if not kept.any():
        raise UsageError(f"examples: without all {size} training examples none is left to train on")
    return kept


@examples
def first(size: int, *, count: Annotated[int, Field(ge=1)]) -> Tensor:
    """The first training examples, in the order of the source."""
    if count > size:
        raise UsageError(f"examples: the first {count} were asked for, there are {size}")
    return torch.arange(size) < count


def _within(size: int, indices: list[int]) -> Tensor:
    wrong = [index for index in indices if not 0 <= index < size]
    if wrong:
        named = ", ".join(map(str, wrong[:5])) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UsageError(f"examples: no training example {named}; they are numbered 0 to {size - 1}")
    return torch.tensor(indices)


def _marked(size: int, positions: Tensor) -> Tensor:
    marks = torch.zeros(size, dtype=torch.bool)
    marks[positions] = True
    return marks
