"""Scopes: which weights are ranked together, and what fraction or density holds for them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from prunecli.errors import UsageError, suggest
from prunecli.experiment import Fraction
from prunecli.masks import Group
from prunecli.registry import scopes


@scopes
def global_(names: Sequence[str], amount: float) -> list[Group]:
    """All prunable weights in one ranking."""
    return [(names, amount)]


@scopes
def layer(names: Sequence[str], amount: float) -> list[Group]:
    """Each layer by itself, the same amount in each."""
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
