"""Which of the levels that the paper names a level is."""

from __future__ import annotations

from prunecli.compare import Level, Summary


def mark(summary: Summary, level: Level) -> str:
    """Which of the levels that the paper names this one is: `optimal, sparsest better`, or empty."""
    optimal = summary.optimal.level if summary.optimal else None
    marks = {
        "dense": summary.dense,
        "optimal": optimal,
        "sparsest better": summary.sparsest_better,
        "sparsest corrected": summary.sparsest_better_corrected,
    }
    return ", ".join(name for name, number in marks.items() if number == level.level)
