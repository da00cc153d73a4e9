"""`prunecli compare --claims`: a paper's claims beside what the runs show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli.groups import Grouping, examples_of, scores_for
from prunecli.errors import NotComparable, UsageError, suggest

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Summary
    from prunecli.subgroups import Examples, Subgroups

PAPERS = ("jin2022", "bartoldson2020", "yang2023", "chang2021")
METRIC = "test_error"
"""What claims are about, in percentage points."""
Claims = Annotated[
    str,
    typer.Option(
        metavar="PAPER",
        help=f"Set a paper's claims beside what the runs show, by rules of docs/claims.md: {', '.join(PAPERS)}.",
    ),
]


def checked_paper(paper: str, metric: str, against: str) -> str:
    """The paper, once it is sure that its claims are known and can be tested so.

    Raises:
        UsageError: they cannot.
    """
    if paper and paper not in PAPERS:
        raise UsageError(f"--claims {paper}: unknown; known: {', '.join(PAPERS)}{suggest(paper, PAPERS)}")
    if paper and (metric not in ("", METRIC) or against):
        given = f"--against {against}" if against else f"--metric {metric}"
        raise UsageError(
            f"{given}: --claims sets each claim's own runs side by side, by {METRIC}; leave it out"
        )
    return paper


def with_claims(compared: Compared, paper: str, grouping: Grouping | None, seeds: Sequence[int]) -> Compared:
    """The comparison with what each of the paper's claims comes to; groups are by the stores of `grouping`."""
    from prunecli.claims.answers import Tested
    from prunecli.claims.papers import STUDIES, claims_of
    from prunecli.subgroups import Side, subgroups

    @lru_cache(maxsize=2)
    def examples(number: int) -> Examples:
        # A study looks at many levels of a run: they are read at once.
        summary = compared.summaries[number]
        return examples_of(summary.run, range(len(summary.levels)), seeds)

    def of(summary: Summary) -> Examples:
        return examples(compared.summaries.index(summary))

    def grouper(a: Summary, level_a: int, b: Summary, level_b: int, bins: int) -> Subgroups:
        if grouping is None:
            raise NotComparable("needs scores: --groups SCORES")
        mine, theirs = of(a), of(b)
        store, score = scores_for(a.run, mine, grouping, own_model=True)
        sides = (Side(a.run.name, level_a), mine), (Side(b.run.name, level_b), theirs)
        return subgroups(*sides, store, score, bins, compared.confidence)

    study = STUDIES[paper](compared, grouper)
    found = tuple(
        Tested(claim.number, claim.text, claim.rule, tuple(claim.findings(study)))
        for claim in claims_of(paper)
    )
    return replace(compared, claims=found, claim_notes=study.notes, table="claims")
