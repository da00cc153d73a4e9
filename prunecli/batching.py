"""How an epoch's examples are put in order and cut into batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunecli.randomness import key, permutation

EVALUATION_BATCH = {"cpu": 128, "cuda": 2048}
"""Examples that are evaluated at once: on a CPU what is between layers is to stay in its caches."""


def batches_in(examples: int, batch_size: int) -> int:
    """Batches in an epoch: the last is smaller, and one of a single example is joined to the one before."""
    whole, rest = divmod(examples, batch_size)
    return whole + (rest > 1 or (rest == 1 and whole == 0))


def in_order(examples: Tensor, count: int, drawing: int, epoch: int) -> Tensor:
    """The `count` examples of an epoch in their order; those that come again have an order of their own."""
    rounds = [() if number == 0 else (number,) for number in range(math.ceil(count / len(examples)))]
    orders = [permutation(key("order", drawing, epoch, *again), len(examples)) for again in rounds]
    return examples[torch.cat(orders)[:count]]


def in_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The examples in batches, as `batches_in` counts them."""
    batches = list(torch.split(order, batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        # BatchNorm cannot train on a single example.
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def evaluation_batch(device: torch.device) -> int:
    """How many examples are evaluated at once."""
    return EVALUATION_BATCH.get(device.type, 128)
