"""The papers whose claims are known."""

from __future__ import annotations

from collections.abc import Sequence

from prunecli.claims import jin2022_clean, jin2022_noisy
from prunecli.claims.registry import Claim, claims_by_paper

__all__ = ["claims_of", "jin2022_clean", "jin2022_noisy"]


def claims_of(paper: str) -> Sequence[Claim]:
    """The paper's claims in the order of their numbers."""
    return sorted(claims_by_paper[paper], key=lambda claim: int(claim.number.lstrip("NABC")))
