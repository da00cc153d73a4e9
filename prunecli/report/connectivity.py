"""What lies on the lines between networks, as tables, as data, and as curves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.report.cells import Table
from prunecli.report.data import csv_cell
from prunecli.report.formats import markdown, plain
from prunecli.report.numbers import interval
from prunecli.report.panels import Curve, Drawing, Panel
from prunecli.statistics import Difference, paired, statistic

if TYPE_CHECKING:
    from prunecli.connectivity import Line

_TITLES = {
    "test_error": "test error (%)",
    "test_loss": "test loss (nats)",
    "train_error": "training error (%)",
    "train_loss": "training loss (nats)",
}
_PANELS = {"error": "error (%)", "loss": "loss (nats)"}
_CURVES = {"test": "test", "train": "training"}
_BATCH_NORMS = {
    "interpolate": "interpolated, as the weights are",
    "recompute": "taken anew at each place, over the training split without augmentation",
}


@dataclass(frozen=True)
class Side:
    """A run at a level, as one end of the lines."""

    run: str
    path: Path
    digest: str
    level: int

    def __str__(self) -> str:
        return f"{self.run} level {self.level}"


@dataclass(frozen=True)
class Connected:
    """Lines from networks of `a` to networks of `b`, one a pair; between levels, or between `a`'s seeds."""

    a: Side
    b: Side
    between: str
    batch_norm: str
    lines: tuple[Line, ...]
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured on each line."""
        return tuple(self.lines[0].metrics)

    def barrier(self, metric: str) -> Difference:
        """Mean, sd and Student's t interval of the lines' barriers, as if the pairs were independent."""
        values = {number: line.barrier(metric) for number, line in enumerate(self.lines)}
        return paired(values, dict.fromkeys(values, 0.0), confidence=self.confidence)

    @property
    def title(self) -> str:
        """What the lines are between."""
        if self.between == "seeds":
            return f"between seeds of {self.a}"
        return f"from {self.a} (a) to {self.b} (b)"


def tables(found: Connected) -> list[Table]:
    """A table of pairs for each metric, then that of the barriers over all pairs, with the notes."""
    return [*(_pairs_table(found, metric) for metric in found.metrics), _barriers_table(found)]


def as_json(found: Connected) -> str:
    """`prunecli/connect`, version 1; what is not known is null."""
    document = {
        "schema": "prunecli/connect",
        "version": 1,
        "between": found.between,
        "batch_norm": found.batch_norm,
        "confidence": found.confidence,
        "a": _side_json(found.a),
        "b": _side_json(found.b),
        "pairs": [_line_json(line) for line in found.lines],
        "barriers": {metric: _barrier_json(found.barrier(metric)) for metric in found.metrics},
        "notes": list(found.notes),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_csv(found: Connected) -> str:
    """Long form: one row a pair and place; the barriers stand in every row of their pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = (*found.metrics, *(f"{metric}_barrier" for metric in found.metrics))
    writer.writerow(
        ("run_a", "level_a", "seed_a", "run_b", "level_b", "seed_b", "place", "density", *measured)
    )
    for line in found.lines:
        ends = (found.a.run, found.a.level, line.seeds[0], found.b.run, found.b.level, line.seeds[1])
        barriers = [line.barrier(metric) for metric in found.metrics]
        for place, *values in zip(line.places, *line.metrics.values(), strict=True):
            writer.writerow([csv_cell(cell) for cell in (*ends, place, line.density, *values, *barriers)])
    return text.getvalue()


FORMATS: Mapping[str, Callable[[Connected], str]] = {
    "table": lambda found: _each(plain, found),
    "md": lambda found: _each(markdown, found),
    "csv": as_csv,
    "json": as_json,
}
"""How each format is written."""
ENDINGS = {".txt": "table", ".md": "md", ".csv": "csv", ".json": "json"}


def drawing(found: Connected) -> Drawing:
    """Error and loss along the lines, means over the pairs with their sd."""
    panels = [
        Panel("", curves=tuple(_curves(found, kind)), y=title)
        for kind, title in _PANELS.items()
        if any(metric.endswith(kind) for metric in found.metrics)
    ]
    title = f"{found.title}; mean and sd of {_pairs(found.lines)}"
    return Drawing("connectivity", title, "place on the line, 0 at a and 1 at b", "", tuple(panels))


def _curves(found: Connected, kind: str) -> Iterator[Curve]:
    places = found.lines[0].places
    for split, label in _CURVES.items():
        if (metric := f"{split}_{kind}") not in found.metrics:
            continue
        each = [
            statistic(values) for values in zip(*(line.metrics[metric] for line in found.lines), strict=True)
        ]
        means, sds = ([one.mean for one in each], [one.std for one in each])
        yield Curve(label, places, _numbers(means), _numbers(sds))


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(float("nan") if value is None else value for value in values)


def _pairs_table(found: Connected, metric: str) -> Table:
    decimals = ".2f" if metric.endswith("error") else ".4f"
    seeds = ("seed a", "seed b") if found.between == "seeds" else ("seed",)
    rows = []
    for line in found.lines:
        values = line.metrics[metric]
        numbers = (values[0], values[-1], max(values))
        cells = (*(f"{one:{decimals}}" for one in numbers), f"{line.highest(metric):.3g}")
        barrier = f"{line.barrier(metric):{decimals}}"
        rows.append((*map(str, line.seeds[: len(seeds)]), f"{100 * line.density:.2f}", *cells, barrier))
    columns = (*seeds, "weights %", "at a", "at b", "highest", "at place", "barrier")
    return Table(f"{_TITLES[metric]} {found.title}", columns, tuple(rows))


def _barriers_table(found: Connected) -> Table:
    columns = ("barrier", "pairs", "mean", "sd", f"{100 * found.confidence:.6g}% interval")
    rows = []
    for metric in found.metrics:
        decimals = ".2f" if metric.endswith("error") else ".4f"
        one = found.barrier(metric)
        spread = [("-" if value is None else f"{value:{decimals}}") for value in (one.mean, one.std)]
        rows.append((_TITLES[metric], str(one.n), *spread, interval(one, decimals)))
    return Table("barriers", columns, tuple(rows), tuple(_notes(found)), words=frozenset({"barrier"}))


def _notes(found: Connected) -> Iterator[str]:
    steps = len(found.lines[0].places)
    yield (
        f"barrier: the highest of {steps} values on the line minus the mean of those at its ends (Frankle et al., "
        "2020); ends that differ make half their difference of it"
    )
    yield "weights %: of the union of what the two ends keep, which is what a network between them keeps"
    yield f"BatchNorm's running statistics: {_BATCH_NORMS[found.batch_norm]}"
    if len(found.lines) > 1:
        yield "interval: Student's t over the pairs"
    seeds = {seed for line in found.lines for seed in line.seeds}
    if found.between == "seeds" and len(found.lines) > 1:
        yield (
            f"{_pairs(found.lines)} of {len(seeds)} seeds share seeds and are not independent: the interval is "
            "narrower than its confidence says"
        )
    if len(found.lines) == 1:
        yield "one pair: no sd and no interval"
    yield from found.notes


def _pairs(lines: Sequence[Line]) -> str:
    return f"{len(lines)} pair{'s' * (len(lines) > 1)}"


def _each(form: Callable[[Table], str], found: Connected) -> str:
    return "\n\n".join(form(table) for table in tables(found)) + "\n"


def _side_json(side: Side) -> dict[str, Any]:  # Any: JSON
    return {"run": side.run, "path": str(side.path), "digest": side.digest, "level": side.level}


def _line_json(line: Line) -> dict[str, Any]:  # Any: JSON
    return {
        "seed_a": line.seeds[0],
        "seed_b": line.seeds[1],
        "density": line.density,
        "places": list(line.places),
        "metrics": {name: list(values) for name, values in line.metrics.items()},
        "barriers": {name: line.barrier(name) for name in line.metrics},
    }


def _barrier_json(found: Difference) -> dict[str, Any]:  # Any: JSON
    ends = None if found.interval is None else list(found.interval)
    return {"mean": found.mean, "std": found.std, "n": found.n, "interval": ends}
