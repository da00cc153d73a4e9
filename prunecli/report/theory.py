"""What theory predicts beside what was found, width by width, in a table and as data (Chang et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from prunecli.compare import Compared
from prunecli.double_descent import Line, Point, Sweep, sweeps
from prunecli.report.cells import NONE, Table
from prunecli.statistics import statistic

_COLUMNS = ("pruner", "retrained", "mean", "median", "sd", "n", "theory", "mean / theory", "near peak")


def metric_asked(compared: Compared) -> str:
    """The metric that runs are looked at by: the one that was asked for, unless it is what nobody had to ask for."""
    return "" if compared.metric in ("test_error", "test_loss") else compared.metric


def theory_tables(compared: Compared) -> list[Table]:
    """A table for what was swept: a row a width and treatment."""
    found = _sweeps(compared)
    near = any(sweep.is_near_peak(point.x) for sweep in found for _, point in _points(sweep))
    return [
        _table(sweep, [*sweep.notes, *(_notes(near=near) if sweep is found[-1] else ())]) for sweep in found
    ] or [Table("theory beside experiment", (), (), ("no runs that differ in an option of model or data",))]


def theory_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a width and treatment, with all digits; what is not there is null."""
    return [
        {
            "sweep": sweep.title,
            "option": ".".join(sweep.path),
            "value": point.x,
            "kept": point.kept,
            "metric": sweep.metric,
            "pruner": line.pruner or None,
            "more": line.more or None,
            "retrained": line.retrained,
            **_numbers(point),
            "theory": _finite(point.theory),
            "ratio": _finite(_ratio(point)),
            "near_peak": sweep.is_near_peak(point.x),
            "values": {str(seed): value for seed, value in point.values.items()},
        }
        for sweep in _sweeps(compared)
        for line, point in _points(sweep)
    ]


def _sweeps(compared: Compared) -> tuple[Sweep, ...]:
    return sweeps([summary.run for summary in compared.summaries], metric_asked(compared))


def _points(sweep: Sweep) -> Iterator[tuple[Line, Point]]:
    pairs = [(line, point) for line in sweep.lines for point in line.points]
    yield from sorted(pairs, key=lambda pair: pair[1].x)


def _table(sweep: Sweep, notes: Sequence[str]) -> Table:
    rows = tuple(_row(sweep, line, point) for line, point in _points(sweep))
    head = sweep.path[1].replace("_", " ")
    title = f"{sweep.metric.replace('_', ' ')} by {head}: {sweep.title}"
    return Table(
        title, (head, "kept", *_COLUMNS), rows, tuple(notes), frozenset({"pruner", "retrained", "near peak"})
    )


def _row(sweep: Sweep, line: Line, point: Point) -> tuple[str, ...]:
    found, ratio = statistic(list(point.values.values())), _ratio(point)
    return (
        f"{point.x:g}",
        str(point.kept),
        ", ".join(filter(None, (line.pruner or NONE, line.more))),
        "yes" if line.retrained else NONE,
        NONE if found.mean is None else f"{found.mean:.4f}",
        f"{point.median:.4f}",
        NONE if found.std is None else f"{found.std:.4f}",
        str(found.n),
        f"{point.theory:.4f}" if math.isfinite(point.theory) else NONE,
        f"{ratio:.3f}" if math.isfinite(ratio) else NONE,
        "yes" if sweep.is_near_peak(point.x) else NONE,
    )


def _notes(*, near: bool) -> Iterator[str]:
    yield "kept: weights of the model; theory: prunecli.theory, asymptotic, - where it is silent"
    if near:
        yield (
            "near peak: within 10% of p = n a few seeds are far worse than all others, and so are mean and sd; look at "
            "the median"
        )


def _numbers(point: Point) -> dict[str, Any]:  # Any: JSON
    found = statistic(list(point.values.values()))
    return {"mean": found.mean, "median": _finite(point.median), "std": found.std, "n": found.n}


def _ratio(point: Point) -> float:
    mean = statistic(list(point.values.values())).mean
    known = mean is not None and math.isfinite(point.theory) and point.theory > 0
    return mean / point.theory if known and mean is not None else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
