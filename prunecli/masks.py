"""Masks: which weights are kept. Pruning ranks what is kept and drops an exact count; it never thresholds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prunecli.errors import Diverged

Tensors = Mapping[str, Tensor]
Group = tuple[Sequence[str], float]
"""Parameters that are ranked together, and the fraction or density that holds for them."""


class Masks(Tensors):
    """An immutable mapping from parameter names to bool tensors, True where a weight is kept.

    Those `beside` are of biases and norms that are dropped with a filter: they are applied, and do not count.
    """

    def __init__(self, kept: Tensors, beside: Collection[str] = ()) -> None:
        self._kept = dict(kept)
        self.beside = frozenset(beside)

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def total(self) -> int:
        """Prunable weights, kept or dropped."""
        return sum(mask.numel() for mask in self.counted.values())

    @property
    def kept(self) -> int:
        """Weights that are kept."""
        return sum(int(mask.sum()) for mask in self.counted.values())

    @property
    def counted(self) -> dict[str, Tensor]:
        """The masks of prunable weights."""
        return {name: mask for name, mask in self.items() if name not in self.beside}

    def updated(self, masks: Tensors) -> Masks:
        """The masks with others in place of those of the same names."""
        return Masks({**self, **masks}, self.beside)

    @property
    def density(self) -> float:
        """kept / total; 1 where nothing is prunable."""
        return self.kept / self.total if self.total else 1.0

    def apply(self, tensors: Tensors) -> dict[str, Tensor]:
        """The tensors, exactly 0 where a weight is dropped; those without a mask as they are."""
        return {
            name: zeroed(tensor, self[name]) if name in self else tensor for name, tensor in tensors.items()
        }


def zeroed(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor, +0 where the mask is False; a product would leave -0 there, and NaN of an infinite entry."""
    return torch.where(mask, tensor, torch.zeros_like(tensor))


def full(weights: Tensors, names: Sequence[str], beside: Sequence[str] = ()) -> Masks:
    """Masks that keep every weight of the named parameters, and all of those beside."""
    kept = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in (*names, *beside)}
    return Masks(kept, beside)


def prune(masks: Masks, scores: Tensors, groups: Sequence[Group]) -> Masks:
    """Drop the lowest scores, `round(fraction * kept)` in each group; ties go by position."""
    for names, fraction in groups:
        masks = drop(masks, scores, names, round(fraction * _kept(masks, names)))
    return masks


def prune_to(masks: Masks, scores: Tensors, groups: Sequence[Group]) -> Masks:
    """Drop the lowest scores until `round(density * total)` are left in each group, if more are kept."""
    for names, density in groups:
        target = round(density * sum(masks[name].numel() for name in names))
        masks = drop(masks, scores, names, max(0, _kept(masks, names) - target))
    return masks


def _kept(masks: Masks, names: Sequence[str]) -> int:
    return sum(int(masks[name].sum()) for name in names)


def drop(masks: Masks, scores: Tensors, names: Sequence[str], count: int) -> Masks:
    """Drop so many of what the named masks keep, those of the lowest scores; ties go by position.

    Raises:
        Diverged: a score is NaN.
    """
    if count == 0:
        return masks
    kept = torch.cat([masks[name].flatten() for name in names])
    flat = torch.cat([scores[name].flatten() for name in names])
    ranked = flat[kept]
    if bool(ranked.isnan().any()):
        raise _not_ranked(masks, scores, names)
    highest = _at_rank(ranked, count - 1)
    # A threshold alone would drop too many or too few: of those that tie with it, the first go.
    below, tied = kept & (flat < highest), (kept & (flat == highest)).nonzero().squeeze(1)
    kept &= ~below
    kept[tied[: count - int(below.sum())]] = False
    parts = torch.split(kept, [masks[name].numel() for name in names])
    return masks.updated({name: part.view_as(masks[name]) for name, part in zip(names, parts, strict=True)})


def _at_rank(scores: Tensor, rank: int) -> Tensor:
    """The score that so many others come before when all are in order."""
    if scores.device.type != "cpu":
        return scores.sort().values[rank]
    exact = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    return torch.from_numpy(np.partition(exact.detach().numpy(), rank))[rank].to(scores.dtype)


def _not_ranked(masks: Masks, scores: Tensors, names: Sequence[str]) -> Diverged:
    """What is wrong where a kept weight's score is NaN, which no order ranks; infinite scores are first or last."""
    nan = {name: int(scores[name][masks[name]].isnan().sum()) for name in names}
    found = [
        f"{count:,} of {_kept(masks, [name]):,} scores of '{name}'" for name, count in nan.items() if count
    ]
    more = f" and of {len(found) - 3} layers more" if len(found) > 3 else ""
    return Diverged(f"{', '.join(found[:3])}{more} are NaN, so no weights can be ranked")
