"""What a fraction or a density of all weights comes to for those that are eligible, the others being excluded.

OpenLTH drops a fraction of the layers that it never prunes too, and takes all of it from the others.
"""

from __future__ import annotations

from prunecli.errors import UsageError


def fraction_of_eligible(fraction: float, kept: int, excluded: int, where: str = "") -> float:
    """The fraction of the kept eligible weights that is this fraction of them and the excluded together.

    Raises:
        UsageError: it is more than all of them.
    """
    count = round(fraction * (kept + excluded))
    if count > kept:
        raise UsageError(
            f"{where}'of: all' is to drop round({fraction:g} x {kept + excluded:,}) = {count:,} weights, and only "
            f"{kept:,} may be dropped, the others being excluded; end at the level before, or leave 'of' out"
        )
    return count / kept if kept else 0.0


def density_of_eligible(density: float, total: int, excluded: int, where: str = "") -> float:
    """The density of the eligible weights at which they and the excluded together have this one.

    Raises:
        UsageError: the excluded ones alone are more.
    """
    left = round(density * (total + excluded))
    if left < excluded:
        raise UsageError(
            f"{where}'of: all' is to leave round({density:g} x {total + excluded:,}) = {left:,} weights, and "
            f"{excluded:,} are excluded and stay; the density can be {excluded / (total + excluded):.3g} at least"
        )
    return (left - excluded) / total if total else 1.0
