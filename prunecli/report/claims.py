"""A paper's claims beside what was measured, laid out in a table and as data."""

from __future__ import annotations

from typing import Any

from prunecli.compare import Compared, Summary
from prunecli.report.cells import NONE, Table


def claims_table(compared: Compared) -> Table:
    """A row a claim and what it is tested on."""
    rows = [
        (one.number, one.text, finding.benchmark, finding.answer, finding.measured)
        for one in compared.claims
        for finding in one.findings
    ]
    rows += [
        (one.number, one.text, NONE, "cannot be tested", "no runs of its kind")
        for one in compared.claims
        if not one.findings
    ]
    order = [one.number for one in compared.claims]
    columns = ("claim", "the paper says", "tested on", "answer", "measured")
    return Table(
        "the paper's claims, by the rules of docs/claims.md",
        columns,
        tuple(sorted(rows, key=lambda row: order.index(row[0]))),
        tuple(_notes(compared)),
        frozenset(columns),
    )


def claims_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a claim and what it is tested on, with the rule that decided."""
    return [
        {
            "claim": one.number,
            "text": one.text,
            "rule": one.rule,
            "tested_on": finding.benchmark,
            "answer": finding.answer,
            "measured": finding.measured,
        }
        for one in compared.claims
        for finding in one.findings
    ]


def _notes(compared: Compared) -> list[str]:
    answers = [finding.answer for one in compared.claims for finding in one.findings]
    counts = ", ".join(
        f"{word} {answers.count(word)}"
        for word in ("holds", "does not hold", "undecided", "cannot be tested")
    )
    seeds = sorted({len(summary.run.seeds) for summary in compared.summaries})
    sizes = sorted({size for summary in compared.summaries if (size := _test_size(summary))})
    worth = [f"{size:,} test examples, one of them {100 / size:.2g} points" for size in sizes]
    exact = all("risk" in summary.run.metrics for summary in compared.summaries)
    told = "exact risks" if exact else "; ".join(worth) or "test size unknown"
    return [
        counts,
        *compared.claim_notes,
        f"seeds: {' or '.join(map(str, seeds))} a run; {told}",
        f"intervals: Student's t over seeds, {100 * compared.confidence:.6g}%",
        "with few seeds an interval is wide: undecided says that, and not that there is nothing",
    ]


def _test_size(summary: Summary) -> int:
    if "risk" in summary.run.metrics:
        return 0  # Exact: test examples play no part.
    runs = summary.run.members or (summary.run,)
    return max(run.tests for run in runs)
