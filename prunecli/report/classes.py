"""Classes of the test set, laid out in a table and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunecli.classes import Classes, ClassHarm
from prunecli.report.cells import NONE, Table
from prunecli.report.numbers import difference_json, interval, spread, statistic_json

FEW = 20
"""How many classes a brief table shows: the most harmed."""


def class_table(found: Classes, confidence: float, *, brief: bool = False) -> Table:
    """A row a class; where there are many and the table is to be brief, those of the most harmed."""
    columns = (
        *("class", "examples", "one is worth", "error % against", "error %", "difference", "sd"),
        *(f"{100 * confidence:.6g}% interval", "verdict", "p (Holm)"),
    )
    short = brief and len(found.classes) > FEW
    shown = found.by_harm[:FEW] if short else found.classes
    more = (
        (f"the {FEW} most harmed of {len(found.classes):,} classes; --all-levels shows all",) if short else ()
    )
    title = (
        f"test error of {found.a.run} level {found.a.level} minus that of {found.b.run} level {found.b.level}, "
        "class by class"
    )
    rows = tuple(map(_row, shown))
    return Table(title, columns, rows, (*more, *_notes(found)), frozenset({"verdict"}), frozenset({"sd"}))


def classes_json(found: Classes) -> dict[str, Any]:  # Any: JSON
    """All digits; errors in percent, differences in points."""
    worst = found.worst
    return {
        "run": found.a.run,
        "level": found.a.level,
        "against": found.b.run,
        "level_against": found.b.level,
        "metric": "test_error",
        "classes": [
            {
                "class": one.number,
                "examples": one.examples,
                "worth": one.worth,
                "error": statistic_json(one.error),
                "error_against": statistic_json(one.error_against),
                **difference_json(one.difference),
                "p_corrected": one.p,
            }
            for one in found.classes
        ],
        "counts": found.counts,
        "worst": None if worst is None else {"class": worst.number, "difference": worst.difference.mean},
    }


def _row(one: ClassHarm) -> tuple[str, ...]:
    difference = one.difference
    return (
        str(one.number),
        f"{one.examples:,}",
        f"{one.worth:.3g}",
        spread(one.error_against, ".2f"),
        spread(one.error, ".2f"),
        NONE if difference.mean is None else f"{difference.mean:+.2f}",
        NONE if difference.std is None else f"{difference.std:.2f}",
        interval(difference, ".2f"),
        difference.verdict or NONE,
        NONE if one.p is None else f"{one.p:.2g}",
    )


def _notes(found: Classes) -> Iterator[str]:
    if any(found.counts.values()):
        told = ", ".join(f"{word} in {count}" for word, count in found.counts.items())
        yield f"test error {told} of {len(found.classes):,} classes"
    worst = found.worst
    if worst is None:
        yield "no class has a higher mean test error"
    else:
        rise = worst.difference.mean or 0.0
        wrong = f"{rise / worst.worth:.3g} of {worst.examples:,} examples on average"
        verdict = f", {worst.difference.verdict}" if worst.difference.verdict else ""
        yield f"worst harmed: class {worst.number}, by {rise:+.2f} points or {wrong}{verdict}"
    if unpaired := found.classes[0].difference.unpaired:
        yield f"left out of the differences, for want of a partner: seeds {', '.join(map(str, unpaired))}"
    yield "one is worth: the points of error that one test example of the class comes to"
    if any(one.p is not None for one in found.classes):
        yield "p (Holm): of Student's two-sided t test, corrected over the classes"
