"""Correlations over the seeds of runs, laid out in a table and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunecli.compare import Compared
from prunecli.correlations import RESAMPLES, Coefficient, Correlation
from prunecli.report.cells import NONE, Table


def correlations_table(compared: Compared) -> Table:
    """A row a pair of quantities."""
    percent = f"{100 * compared.confidence:.6g}%"
    measured = [
        (name, f"{name}: {percent} interval", f"{name}: interval over runs")
        for name in ("Pearson r", "Kendall tau")
    ]
    columns = ("x", "y", "points", "runs", *measured[0], *measured[1])
    rows = tuple(_row(found) for found in compared.correlations)
    return Table(
        "correlations over the seeds of runs",
        (*columns, "p (Pearson)", "p (Kendall)"),
        rows,
        tuple(_notes(compared)),
        frozenset({"x", "y"}),
        frozenset({"p (Kendall)"}),
    )


def correlations_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a pair, with all digits; what is not there is null."""
    return [
        {
            "x": found.x,
            "y": found.y,
            "n": len(found.points),
            "runs": len(found.runs),
            "dropped": found.dropped,
            "pearson": _coefficient_json(found.pearson),
            "kendall": _coefficient_json(found.kendall),
            "slope": found.line[0] if found.line else None,
            "intercept": found.line[1] if found.line else None,
            "notes": "; ".join(found.notes),
            # Left out of CSV, as a seed's values are.
            "values": [
                {"run": point.run, "seed": point.seed, "x": point.x, "y": point.y} for point in found.points
            ],
        }
        for found in compared.correlations
    ]


def coefficient_told(found: Coefficient) -> str:
    """`-0.42 [-0.61, -0.23]`."""
    return " ".join(filter(None, (_number(found.value), _ends(found.interval)))) or NONE


def _row(found: Correlation) -> tuple[str, ...]:
    cells = [found.x, found.y, str(len(found.points)), str(len(found.runs))]
    for one in (found.pearson, found.kendall):
        cells += [
            part or NONE for part in (_number(one.value), _ends(one.interval), _ends(one.interval_by_run))
        ]
    return (*cells, *(NONE if p is None else f"{p:.2g}" for p in (found.pearson.p, found.kendall.p)))


def _notes(compared: Compared) -> Iterator[str]:
    yield "a point is one seed of one run"
    yield (
        f"interval: percentiles of {RESAMPLES:,} resamples of the points; interval over runs: of as many resamples of "
        "the runs, each with all of its seeds"
    )
    if any(len(found.runs) < len(found.points) for found in compared.correlations):
        yield (
            "seeds of one run are not independent: the p values and the interval over points take them as if they "
            "were; the interval over runs does not; that one seed is in several runs is taken into account by neither"
        )
    told: dict[str, list[str]] = {}
    for found in compared.correlations:
        dropped = [f"{found.dropped} seeds left out, for they lack one of the two"] if found.dropped else []
        for note in (*dropped, *found.notes):
            told.setdefault(note, []).append(f"{found.x}, {found.y}")
    for note, pairs in told.items():
        every = len(pairs) == len(compared.correlations)
        yield note if every else f"{'; '.join(pairs)}: {note}"


def _coefficient_json(found: Coefficient) -> dict[str, Any]:  # Any: JSON
    return {
        "value": found.value,
        "p": found.p,
        "interval": _listed(found.interval),
        "by_run": {"interval": _listed(found.interval_by_run)},
    }


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _ends(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:+.2f}, {ends[1]:+.2f}]"
