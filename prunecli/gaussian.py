"""Gaussian numbers for examples, keyed as all draws are: a row depends on the key and the example's number alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunecli.randomness import bits

_HALF = (1 << 32) - 1
_BLOCK = 1 << 20
"""Numbers that are drawn at once: what is between is in float64."""
_STEP = 2.0**-16


def normals(key: int, index: Tensor, count: int) -> Tensor:
    """`count` standard normal numbers for each number in `index` (B,), as float32 (B, count), on its device.

    They are multiples of 2^-16, so that last digits of a device's logarithm, or of a batch's place in it, do not show.
    Source: Box and Muller (1958), A note on the generation of random normal deviates.
    """
    rows = torch.split(index, max(1, _BLOCK // count))
    return torch.cat([_drawn(key, row, count) for row in rows])


def _drawn(key: int, index: Tensor, count: int) -> Tensor:
    pairs = -(-count // 2)
    places = index.to(torch.int64).unsqueeze(1) * pairs + torch.arange(pairs, device=index.device)
    drawn = bits(key, places)
    radius = ((((drawn >> 32) & _HALF) + 1).double() / 2**32).log_().mul_(-2).sqrt_()
    angle = (drawn & _HALF).double() * (2 * math.pi / 2**32)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
    return ((both / _STEP).round_() * _STEP).float()
