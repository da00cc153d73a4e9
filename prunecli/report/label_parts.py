"""Training losses on original and on noisy labels, in a table and as data (Jin et al., 2022, Table 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prunecli.compare import Compared
from prunecli.label_parts import NOISY, LabelParts, label_parts
from prunecli.report.cells import NONE, Table
from prunecli.report.marks import mark
from prunecli.report.numbers import difference_json, interval, signed, spread, statistic_json, verdict_notes
from prunecli.statistics import paired

DECIMALS = ".4f"


def parts_table(compared: Compared, *, brief: bool = True) -> Table:
    """A row a run and level; the marked levels alone where it is to be brief."""
    found = [
        one
        for one in label_parts(compared)
        if not brief or mark(one.summary, one.level) or one.difference is None
    ]
    columns = (
        *("run", "level", "weights %", "loss on original", "loss on noisy", "gap", "difference of gaps"),
        *(f"{100 * compared.confidence:.6g}% interval", "verdict", "mark"),
    )
    rows = tuple(_row(one) for one in found)
    title = "training loss on examples with original and with noisy labels, and the gap between them"
    words = frozenset({"run", "verdict", "mark"})
    return Table(title, columns, rows, tuple(_notes(compared, found)), words)


def parts_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a run and level, with all digits; what is not there is null."""
    return [
        {
            "run": one.summary.run.name,
            "level": one.level.level,
            "density": one.level.value("density"),
            "spent": one.level.value("spent"),
            "mark": mark(one.summary, one.level),
            "train_loss_clean": statistic_json(one.original),
            "train_loss_noisy": statistic_json(one.noisy),
            "gap": statistic_json(one.gap),
            "gap_minus_reference": difference_json(one.difference or paired({}, {})),
        }
        for one in label_parts(compared)
    ]


def _row(one: LabelParts) -> tuple[str, ...]:
    difference = one.difference
    return (
        one.summary.run.name,
        str(one.level.level),
        f"{100 * one.level.density:.2f}",
        spread(one.original, DECIMALS),
        spread(one.noisy, DECIMALS),
        spread(one.gap, DECIMALS),
        signed(difference, DECIMALS) if difference else NONE,
        interval(difference, DECIMALS) if difference else NONE,
        (difference.verdict if difference else None) or NONE,
        mark(one.summary, one.level),
    )


def _notes(compared: Compared, found: Sequence[LabelParts]) -> Iterator[str]:
    yield "gap: loss on noisy labels minus loss on original ones, seed by seed (evaluation mode, no augmentation)"
    if compared.reference:
        run, word = compared.reference.summary.run.name, compared.reference.word
        against = f"that of {run}, level {word}" if word != "same" else f"that of {run}, level by level"
    else:
        against = "that of the run's own dense level"
    yield f"difference of gaps: a level's gap minus {against}, paired over the seeds that both have, ± sd"
    yield from verdict_notes([one.difference for one in found if one.difference])
    if clean := [summary.run.name for summary in compared.summaries if not summary.has(NOISY)]:
        yield f"left out, of clean labels: {', '.join(clean)}"
