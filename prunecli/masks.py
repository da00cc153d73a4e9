"""Masks: which weights are kept. Pruning ranks what is kept and drops an exact count; it never thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from prunecli.errors import Diverged

Tensors = Mapping[str, Tensor]
Group = tuple[Sequence[str], float]
"""Parameters that are ranked together, and the fraction or density that holds for them."""


class Masks(Tensors):
    """An immutable mapping from parameter names to bool tensors, True where a weight is kept."""

    def __init__(self, kept: Tensors) -> None:
        self._kept = dict(kept)

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def total(self) -> int:
        """Prunable weights, kept or dropped."""
        return sum(mask.numel() for mask in self.values())

    @property
    def kept(self) -> int:
        """Weights that are kept."""
        return sum(int(mask.sum()) for mask in self.values())

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


def full(weights: Tensors, names: Sequence[str]) -> Masks:
    """Masks that keep every weight of the named parameters."""
    return Masks({name: torch.ones_like(weights[name], dtype=torch.bool) for name in names})


def prune(masks: Masks, scores: Tensors, groups: Sequence[Group]) -> Masks:
    """Drop the lowest scores, `round(fraction * kept)` in each group; ties go by position."""
    for names, fraction in groups:
        masks = _drop(masks, scores, names, round(fraction * _kept(masks, names)))
    return masks


def prune_to(masks: Masks, scores: Tensors, groups: Sequence[Group]) -> Masks:
    """Drop the lowest scores until `round(density * total)` are left in each group, if more are kept."""
    for names, density in groups:
        target = round(density * sum(masks[name].numel() for name in names))
        masks = _drop(masks, scores, names, max(0, _kept(masks, names) - target))
    return masks


def _kept(masks: Masks, names: Sequence[str]) -> int:
    return sum(int(masks[name].sum()) for name in names)


def _drop(masks: Masks, scores: Tensors, names: Sequence[str], count: int) -> Masks:
    if count == 0:
        return masks
    _check_ranked(masks, scores, names)
    kept = torch.cat([masks[name].flatten() for name in names])
    flat = torch.cat([scores[name].flatten() for name in names])
    positions = kept.nonzero().squeeze(1)
    # Rank, never threshold: tied scores would drop too many or too few.
    dropped = positions[flat[positions].argsort(stable=True)[:count]]
    kept[dropped] = False
    parts = torch.split(kept, [masks[name].numel() for name in names])
    new = {name: part.view_as(masks[name]) for name, part in zip(names, parts, strict=True)}
    return Masks({**masks, **new})


def _check_ranked(masks: Masks, scores: Tensors, names: Sequence[str]) -> None:
    """Raises where a kept weight's score is NaN, which no order ranks; infinite scores are first or last."""
    nan = {name: int(scores[name][masks[name]].isnan().sum()) for name in names}
    found = [
        f"{count:,} of {_kept(masks, [name]):,} scores of '{name}'" for name, count in nan.items() if count
    ]
    if found:
        more = f" and of {len(found) - 3} layers more" if len(found) > 3 else ""
        raise Diverged(f"{', '.join(found[:3])}{more} are NaN, so no weights can be ranked")
