"""Every random draw is a function of what it is for: a key, and the number of the example.

Nothing here keeps a state, so worker counts, resuming and splitting change no draw; and the
numbers are integer arithmetic of our own, so they outlive torch's and numpy's generators.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK_31, _MASK_30, _MASK_27, _MASK_53 = (1 << 33) - 1, (1 << 34) - 1, (1 << 37) - 1, (1 << 53) - 1
_GOLDEN, _MIX_1, _MIX_2 = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


_NO_SEED = 2**62
"""A bit that no recipe's seed has."""


def key(*parts: int | str) -> int:
    """A 63-bit number for a purpose, such as `key("order", seed, epoch)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def drawing(key: int) -> int:
    """What takes a seed's place where initialization and order are to be others than those of every seed."""
    return _NO_SEED | key


def bits(key: int, index: Tensor) -> Tensor:
    """64 random bits for each number in `index`, as int64 (SplitMix64: Steele et al., 2014)."""
    # torch has no logical shift for int64: shift, then mask the copies of the sign away.
    z = index.to(torch.int64) * _GOLDEN + key
    z = (z ^ ((z >> 30) & _MASK_30)) * _MIX_1
    z = (z ^ ((z >> 27) & _MASK_27)) * _MIX_2
    return z ^ ((z >> 31) & _MASK_31)


def permutation(key: int, count: int) -> Tensor:
    """The numbers below `count` in a random order."""
    return bits(key, torch.arange(count)).argsort(stable=True)


@dataclass(frozen=True)
class Draw:
    """Random numbers for examples, one each, keyed by a purpose: `draw.integers("flip", 2)`."""

    key: int
    index: Tensor

    def integers(self, purpose: str, below: int) -> Tensor:
        """Numbers from 0 to `below` - 1, of `index`'s shape."""
        return (self.uniform(purpose) * below).to(torch.int64)

    def uniform(self, purpose: str) -> Tensor:
        """float64 numbers in [0, 1), of `index`'s shape."""
        drawn = bits(key(self.key, purpose), self.index)
        return ((drawn >> 11) & _MASK_53).to(torch.float64) / (1 << 53)
