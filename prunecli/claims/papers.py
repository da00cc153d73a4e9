"""The papers whose claims are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prunecli.claims import bartoldson2020, chang2021, jin2022_clean, jin2022_noisy, study, yang2023
from prunecli.claims.density_study import density_study
from prunecli.claims.descent_study import descent_study
from prunecli.claims.registry import Claim, Study, claims_by_paper
from prunecli.claims.stability_study import stability_study
from prunecli.claims.study import Grouper
from prunecli.compare import Compared

__all__ = [
    "STUDIES",
    "bartoldson2020",
    "chang2021",
    "claims_of",
    "jin2022_clean",
    "jin2022_noisy",
    "yang2023",
]
STUDIES: Mapping[str, Callable[[Compared, Grouper], Study]] = {
    "jin2022": study.study_of,
    "bartoldson2020": lambda compared, _grouper: stability_study(compared),
    "yang2023": lambda compared, _grouper: density_study(compared),
    "chang2021": lambda compared, _grouper: descent_study(compared),
}
"""How runs become each paper's study."""


def claims_of(paper: str) -> Sequence[Claim]:
    """The paper's claims in the order of their numbers."""
    return sorted(claims_by_paper[paper], key=lambda claim: int(claim.number.lstrip("NABC")))
