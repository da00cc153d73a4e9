"""Scopes: which weights are ranked together, and what fraction or density holds for them.

Positional parameters name what a scope looks at: the `names` of the prunable weights, their `shapes`, the `amount`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from prunecli.errors import UsageError, suggest
from prunecli.experiment import Fraction
from prunecli.masks import Group
from prunecli.registry import Choice, scopes

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each prunable weight, by its name."""


def groups_of(scope: Choice, shapes: Shapes, amount: float) -> list[Group]:
    """The groups that a scope makes of weights of these shapes, for a fraction or a density.

    Raises:
        UsageError: the scope asks for something else, or its options do not fit these weights.
    """
    known = {"names": tuple(shapes), "shapes": shapes, "amount": amount}
    for name in scope.entry.needs:
        if name not in known:
            raise UsageError(f"scope '{scope.name}' asks for '{name}'{suggest(name, known)}")
    groups: list[Group] = scope(*(known[name] for name in scope.entry.needs))
    return groups


@scopes
def global_(names: Sequence[str], amount: float) -> list[Group]:
    """All prunable weights in one ranking."""
    return [(names, amount)]


@scopes
def layer(names: Sequence[str], amount: float) -> list[Group]:
    """Each layer by itself, the same amount in each: uniform layer densities."""
    return [([name], amount) for name in names]


@scopes
def policy(
    names: Sequence[str], amount: float, *, amounts: Annotated[dict[str, Fraction], Field(min_length=1)]
) -> list[Group]:
    """Each layer by itself: the amount of the first pattern that its name matches, else the stage's own."""
    for pattern in amounts:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"the pattern '{pattern}' matches no prunable parameter{suggest(pattern, names)}"
            )
    return [([name], next((a for p, a in amounts.items() if fnmatchcase(name, p)), amount)) for name in names]


@scopes(densities=True)
def erk(shapes: Shapes, amount: float) -> list[Group]:
    """Each layer by itself, its density proportional to the sum of its shape over their product: Erdos-Renyi-Kernel.

    For a convolution (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w), for a linear layer (n_in + n_out) / (n_in
    n_out) (Mocanu et al., 2018; Evci et al., 2020, appendix). A layer that would pass 1 is kept whole and the others
    share the rest. All layers together keep exactly `round(density * total)`; shares are rounded by largest remainder.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = _rounded(_erk_shares(shapes, sizes, round(amount * sum(sizes.values()))), sizes)
    return [([name], count / sizes[name] if sizes[name] else amount) for name, count in counts.items()]


def _erk_shares(shapes: Shapes, sizes: Mapping[str, int], total: int) -> dict[str, float]:
    """How many of `total` weights each layer keeps, not rounded: proportional to its shape's sum, at most all."""
    sums = {name: sum(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        left = total - sum(sizes[name] for name in whole)
        rate = left / max(1, sum(sums[name] for name in shapes if name not in whole))
        over = {name for name in shapes if name not in whole and rate * sums[name] > sizes[name]}
        if not over:
            return {name: sizes[name] if name in whole else rate * sums[name] for name in shapes}
        whole |= over


def _rounded(shares: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers of the same sum, no larger than the sizes; largest remainders go up, ties by position."""
    counts = {name: min(sizes[name], math.floor(share)) for name, share in shares.items()}
    left = round(sum(shares.values())) - sum(counts.values())
    up = [name for name in shares if counts[name] < sizes[name]]
    for name in sorted(up, key=lambda name: counts[name] - shares[name])[:left]:
        counts[name] += 1
    return counts
