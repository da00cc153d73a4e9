"""What `compare` found, for programs: JSON and CSV, with all digits."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from prunecli.compare import DIVERGED, Compared, Comparison, Level, Summary
from prunecli.report.table import mark
from prunecli.report.words import shown

CSV_COLUMNS = (
    *("run", "level", "density", "spent", "metric", "mean", "std", "n"),
    *("difference", "interval_low", "interval_high", "verdict", "mark"),
    *("collapsed", "collapsed_layers", "diverged"),
)
"""The last three: how many layers have no weight left for some seed, their names, and how many seeds diverged."""
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
        "runs": [_run_json(summary) for summary in compared.summaries],
        "comparisons": [_comparison_json(found) for found in compared.comparisons(compared.metric)],
        "subgroups": [],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_csv(compared: Compared) -> str:
    """Long form: one row per run, level and metric; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for summary in compared.summaries:
        for level in summary.levels:
            metrics = [metric for metric in level.metrics if metric != DIVERGED]
            writer.writerows(_csv_row(compared, summary, level, metric) for metric in metrics)
    return text.getvalue()


def _run_json(summary: Summary) -> dict[str, Any]:  # Any: JSON
    run, optimal = summary.run, summary.optimal
    return {
        "name": run.name,
        "path": str(run.path),
        "digest": run.digest,
        "seeds": list(run.seeds),
        "status": run.status,
        "levels": [_level_json(level) for level in summary.levels],
        "dense": summary.dense,
        "optimal": {"level": optimal.level, "selected_by": optimal.selected_by} if optimal else None,
        "sparsest_better": None if summary.sparsest_better is None else {"level": summary.sparsest_better},
    }


def _level_json(level: Level) -> dict[str, Any]:  # Any: JSON
    metrics = {
        name: {"mean": found.mean, "std": found.std, "n": found.n, "values": list(found.values)}
        for name, found in level.metrics.items()
    }
    clocks = {"density": level.value("density"), "spent": level.value("spent")}
    layers = {name: list(seeds) for name, seeds in level.collapsed.items()}
    return {
        "level": level.level,
        **clocks,
        "metrics": metrics,
        "collapsed": {"count": len(layers), "layers": layers},
        "diverged": {"count": len(level.diverged), "seeds": list(level.diverged)},
    }


def _comparison_json(found: Comparison) -> dict[str, Any]:  # Any: JSON
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
    }


def _csv_row(compared: Compared, summary: Summary, level: Level, metric: str) -> list[object]:
    """One cell for each of CSV_COLUMNS."""
    found, difference = level.metrics[metric], compared.difference(summary, level, metric)
    place = (summary.run.name, level.level, level.value("density"), level.value("spent"), metric)
    between = (difference.mean, *(difference.interval or (None, None)), difference.verdict)
    wrong = (len(level.collapsed), " ".join(level.collapsed), len(level.diverged))
    cells = (*place, found.mean, found.std, found.n, *between, mark(summary, level), *wrong)
    return [_csv(cell) for cell in cells]


def _csv(cell: object) -> object:
    # A spreadsheet runs text that begins so as a formula.
    if isinstance(cell, str) and re.match(_FORMULA, cell) and not re.fullmatch(_NUMBER, cell, re.ASCII):
        return "'" + shown(cell)
    return shown(cell) if isinstance(cell, str) else cell
