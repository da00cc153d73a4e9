"""Groups of training examples, laid out in a table."""

from __future__ import annotations

from collections.abc import Iterator

from prunecli.report.cells import NONE, Table
from prunecli.subgroups import TOP, Subgroups


def subgroup_table(found: Subgroups, confidence: float) -> Table:
    """A row a group, from the lowest scores to the highest."""
    columns = ("percentile", "examples", "difference", "sd", f"{100 * confidence:.6g}% interval", "verdict")
    rows = []
    for group in found.groups:
        difference = group.difference
        low_high = ", ".join(f"{end:+.4f}" for end in difference.interval or ())
        rows.append(
            (
                f"{group.lo:g} to {group.hi:g}",
                f"{group.size:,}",
                NONE if difference.mean is None else f"{difference.mean:+.4f}",
                NONE if difference.std is None else f"{difference.std:.4f}",
                f"[{low_high}]" if low_high else NONE,
                difference.verdict or NONE,
            )
        )
    title = (
        f"training loss of {found.a.run} level {found.a.level} minus that of {found.b.run} level {found.b.level}, by "
        f"percentiles of {found.score}"
    )
    return Table(title, columns, tuple(rows), tuple(_notes(found)), frozenset({"verdict"}))


def _notes(found: Subgroups) -> Iterator[str]:
    counts = found.counts
    if any(counts.values()):
        told = ", ".join(f"{word} in {count}" for word, count in counts.items())
        yield f"training loss {told} of {len(found.groups)} groups (evaluation mode, no augmentation, labels as used)"
    highest = f"the {round(TOP * len(found.groups))} groups of the highest {found.score}"
    if found.ratio is not None:
        yield f"mean absolute difference of {highest} over that of the others: {found.ratio:.3g}"
    if found.ratio_by_example is not None:
        yield f"the same of single examples, over seeds first where seeds share groups: {found.ratio_by_example:.3g}"
