"""What `compare` found, for programs: JSON and CSV, with all digits."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prunecli.compare import DIVERGED, Compared, Comparison, Level, Summary
from prunecli.report.claims import claims_records
from prunecli.report.classes import classes_json
from prunecli.report.correlations import correlations_records
from prunecli.report.label_parts import parts_records
from prunecli.report.layers import layers_records
from prunecli.report.marks import mark
from prunecli.report.methods import methods_records
from prunecli.report.numbers import flat, statistic_json
from prunecli.report.stability import stability_records
from prunecli.report.theory import theory_records
from prunecli.report.thresholds import thresholds_records
from prunecli.report.words import shown
from prunecli.statistics import Difference, Statistic
from prunecli.subgroups import Subgroups

CSV_COLUMNS = (
    *("run", "level", "density", "spent", "metric", "mean", "std", "n"),
    *("difference", "interval_low", "interval_high", "verdict", "mark"),
    *("collapsed", "collapsed_layers", "diverged"),
    *("effect", "p", "p_corrected"),
)
"""`collapsed`: how many layers have no weight left for some seed; `diverged`: how many seeds."""
# Spreadsheets take the wide forms of these signs for the signs.
_FORMULA = r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"


def as_json(compared: Compared) -> str:
    """The contract's `prunecli/compare`, version 1; what is not a number is null."""
    match = "|mean difference| < 1 sd of the seed-paired differences"
    document = {
        "schema": "prunecli/compare",
        "version": 1,
        "criteria": {"match": match, "confidence": compared.confidence},
        "runs": [_run_json(summary, compared.metric) for summary in compared.summaries],
        "comparisons": [
            _comparison_json(found, corrected.get(found.level_a))
            for summary in compared.summaries
            for corrected in [compared.corrected(summary, compared.metric)]
            for found in compared.comparisons_of(summary, compared.metric)
        ],
        "subgroups": [_subgroups_json(found) for found in compared.subgroups],
        "classes": [classes_json(found) for found in compared.classes],
        **{name: made(compared) if name == compared.table else [] for name, made in _RECORDS.items()},
        "correlations": correlations_records(compared),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_csv(compared: Compared) -> str:
    """Long form: one row per run, level and metric, then the classes; empty where there is no number.

    Of methods and parts, one row each as in JSON, without the seeds' values.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if compared.table in _RECORDS:
        rows = [flat(record) for record in _RECORDS[compared.table](compared)]
        writer.writerow(rows[0])
        writer.writerows([csv_cell(cell) for cell in row.values()] for row in rows)
        return text.getvalue()
    writer.writerow(CSV_COLUMNS)
    for summary in compared.summaries:
        metrics = [metric for metric in summary.run.metrics if metric != DIVERGED]
        corrected = {metric: compared.corrected(summary, metric) for metric in metrics}
        for level in summary.levels:
            for metric in metrics:
                p = corrected[metric].get(level.level)
                difference = compared.difference(summary, level, metric)
                writer.writerow(_csv_row(summary, level, metric, level.metrics[metric], difference, p))
    writer.writerows(_class_rows(compared))
    return text.getvalue()


def _run_json(summary: Summary, metric: str) -> dict[str, Any]:  # Any: JSON
    run, optimal = summary.run, summary.optimal
    return {
        "name": run.name,
        "path": str(run.path),
        "digest": run.digest,
        "seeds": list(run.seeds),
        "status": run.status,
        "members": [member.name for member in run.members],
        "levels": [_level_json(level) for level in summary.levels],
        "dense": summary.dense,
        "optimal": {"level": optimal.level, "selected_by": optimal.selected_by} if optimal else None,
        "sparsest_better": _marked_json(summary.sparsest_better),
        "sparsest_better_corrected": _marked_json(summary.sparsest_better_corrected),
        "area": {"metric": metric, **statistic_json(summary.area(metric))},
    }


def _marked_json(level: int | None) -> dict[str, int] | None:
    return None if level is None else {"level": level}


def _level_json(level: Level) -> dict[str, Any]:  # Any: JSON
    metrics = {name: statistic_json(found) for name, found in level.metrics.items()}
    clocks = {"density": level.value("density"), "spent": level.value("spent")}
    layers = {name: list(seeds) for name, seeds in level.collapsed.items()}
    return {
        "level": level.level,
        **clocks,
        "metrics": metrics,
        "collapsed": {"count": len(layers), "layers": layers},
        "diverged": {"count": len(level.diverged), "seeds": list(level.diverged)},
    }


def _comparison_json(found: Comparison, corrected: float | None) -> dict[str, Any]:  # Any: JSON
    difference = found.difference
    return {
        "a": found.a,
        "level_a": found.level_a,
        "b": found.b,
        "level_b": found.level_b,
        "selected_by": found.selected_by,
        "metric": found.metric,
        "n": difference.n,
        "difference": difference.mean,
        "std": difference.std,
        "interval": None if difference.interval is None else list(difference.interval),
        "verdict": difference.verdict,
        "effect": difference.effect,
        "p": difference.p,
        "p_corrected": corrected,
    }


def _subgroups_json(found: Subgroups) -> dict[str, Any]:  # Any: JSON
    return {
        "run": found.a.run,
        "level": found.a.level,
        "against": found.b.run,
        "level_against": found.b.level,
        "score": found.score,
        "groups": [
            {
                "lo": group.lo,
                "hi": group.hi,
                "examples": group.size,
                "difference": group.difference.mean,
                "std": group.difference.std,
                "n": group.difference.n,
                "interval": None if group.difference.interval is None else list(group.difference.interval),
                "verdict": group.difference.verdict,
            }
            for group in found.groups
        ],
        "ratio": found.ratio,
        "ratio_by_example": found.ratio_by_example,
    }


def _class_rows(compared: Compared) -> Iterator[list[object]]:
    """The classes as metrics of their level, `test_error_class_3`."""
    named = {summary.run.name: summary for summary in compared.summaries}
    for found in compared.classes:
        summary = named[found.a.run]
        level = summary.levels[found.a.level]
        for one in found.classes:
            name = f"test_error_class_{one.number}"
            yield _csv_row(summary, level, name, one.error, one.difference, one.p)


def _csv_row(
    summary: Summary,
    level: Level,
    metric: str,
    found: Statistic,
    difference: Difference,
    corrected: float | None,
) -> list[object]:
    """One cell for each of CSV_COLUMNS."""
    place = (summary.run.name, level.level, level.value("density"), level.value("spent"), metric)
    between = (difference.mean, *(difference.interval or (None, None)), difference.verdict)
    wrong = (len(level.collapsed), " ".join(level.collapsed), len(level.diverged))
    tested = (difference.effect, difference.p, corrected)
    cells = (*place, found.mean, found.std, found.n, *between, mark(summary, level), *wrong, *tested)
    return [csv_cell(cell) for cell in cells]


def csv_cell(cell: object) -> object:
    """A cell as a spreadsheet may have it: text that would be a formula is quoted, and no letter is hidden."""
    # A spreadsheet runs text that begins so as a formula.
    if isinstance(cell, str) and re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell, re.ASCII):
        return "'" + shown(cell)
    return shown(cell) if isinstance(cell, str) else cell


_RECORDS: Mapping[str, Callable[[Compared], list[dict[str, Any]]]] = {  # Any: JSON
    "methods": methods_records,
    "parts": parts_records,
    "claims": claims_records,
    "stability": stability_records,
    "correlations": correlations_records,
    "layers": layers_records,
    "thresholds": thresholds_records,
    "theory": theory_records,
}
"""What a table other than that of levels is made of."""
