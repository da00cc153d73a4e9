"""Methods side by side, laid out in a table and as data (Jin et al., 2022, Table 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunecli.compare import GENERALIZATION, Compared
from prunecli.methods import OTHERS, Method, Methods, Row, Spot, methods, training
from prunecli.report.cells import NONE, Table
from prunecli.report.numbers import difference_json, interval, signed, spread, statistic_json, verdict_notes
from prunecli.report.words import describe, differences
from prunecli.statistics import Difference, paired, statistic

_SPOTS: tuple[Method, ...] = ("dense", "pruning", "extended training", "width")


def methods_table(compared: Compared) -> Table:
    """A row a benchmark and pruning run: each method's optimum, and the pruning optimum minus each of the others."""
    found = methods(compared)
    percent = compared.summaries[0].run.units.get(compared.metric) in ("percent", "%")
    decimals = ".2f" if percent else ".4f"
    grid = [_cells(row, decimals) for row in found.rows]
    alone = len({cells["benchmark"] for cells in grid}) == 1
    columns = tuple(
        name
        for name in grid[0]
        if any(cells[name] != NONE for cells in grid) and not (alone and name == "benchmark")
    )
    unit = " %" if percent else ""
    title = f"{compared.metric.replace('_', ' ')}{unit} by method: each run's optimal level"
    if alone:
        title += f"; {grid[0]['benchmark']}"
    return Table(
        title,
        columns,
        tuple(tuple(cells[name] for name in columns) for cells in grid),
        tuple(_notes(compared, found)),
        frozenset({"benchmark", "labels", "pruning by"}),
    )


def methods_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a row, with all digits; what is not there is null."""
    return [
        {
            "benchmark": _benchmark(row),
            "labels": _labels(row),
            "metric": compared.metric,
            **{_snake(name): _spot_json(row.spots.get(name)) for name in _SPOTS},
            **{
                f"pruning_minus_{_snake(other)}": difference_json(row.differences.get(other, paired({}, {})))
                for other in OTHERS
            },
        }
        for row in methods(compared).rows
    ]


def optimal_note(metric: str) -> str:
    """What the optimal level was chosen by."""
    optimistic = "; chosen by the test set itself, so its value is optimistic"
    return f"optimal: lowest mean {metric.replace('_', ' ')}{optimistic if metric in GENERALIZATION else ''}"


def _cells(row: Row, decimals: str) -> dict[str, str]:
    spots = row.spots
    pruning, extended, width = (spots.get(name) for name in ("pruning", "extended training", "width"))
    procedure = {"procedure": pruning.summary.run.recipe.get("procedure")} if pruning else {}
    cells = {
        "benchmark": _benchmark(row),
        "labels": _labels(row),
        "pruning by": describe(procedure).removeprefix(": ") or NONE,
        "dense": _value(spots.get("dense"), decimals),
        "pruning": _value(pruning, decimals),
        "at % weights": f"{100 * pruning.level.density:.2f}" if pruning else NONE,
        "extended": _value(extended, decimals),
        "at epochs": f"{extended.level.spent:g}" if extended else NONE,
        "width": _value(width, decimals),
        "at % of weights": f"{100 * width.level.density:.2f}" if width else NONE,
    }
    heads: dict[Method, str] = {
        "dense": "pruning - dense",
        "extended training": "pruning - extended",
        "width": "pruning - width",
    }
    return cells | {head: _difference(row.differences.get(name), decimals) for name, head in heads.items()}


def _benchmark(row: Row) -> str:
    return describe({**row.benchmark, "labels": "clean"})


def _labels(row: Row) -> str:
    return describe({"labels": row.benchmark["labels"]}).removeprefix("labels ") or "clean"


def _value(spot: Spot | None, decimals: str) -> str:
    return spread(spot.statistic, decimals) if spot else NONE


def _difference(found: Difference | None, decimals: str) -> str:
    if found is None:
        return NONE
    parts = (signed(found, decimals), interval(found, decimals), found.verdict or NONE)
    return " ".join(part for part in parts if part != NONE) or NONE


def _notes(compared: Compared, found: Methods) -> Iterator[str]:
    for other in OTHERS:
        for noisy in (False, True):
            counts = found.counts(other, noisy=noisy)
            if total := sum(counts.values()):
                told = ", ".join(f"{word} in {count}" for word, count in counts.items())
                yield f"pruning against {other}, {'noisy' if noisy else 'clean'} labels: {told} of {total}"
    for row in found.rows:
        yield from _unlike(row)
        yield from _unpaired(row)
    for summary in found.left_out:
        yield f"{summary.run.name}: left out, another run of its method comes first"
    if count := len(found.retrainings):
        yield f"left out: {count} runs that are retrainings, of another replicate or without some of the examples"
    yield (
        f"pruning - others: paired over the seeds that both have, ± sd, with the {100 * compared.confidence:.6g}% "
        "interval and the verdict"
    )
    known = [one for row in found.rows for one in row.differences.values()]
    yield from verdict_notes(known)
    for metric in dict.fromkeys(
        one.optimal.selected_by for row in found.rows for one in row.summaries if one.optimal
    ):
        yield optimal_note(metric)


def _unlike(row: Row) -> Iterator[str]:
    """A note where the row's runs were not trained alike."""
    summaries = row.summaries
    found = differences([training(summary.run.recipe) for summary in summaries])
    for path, values in found.items():
        told = ", ".join(f"{one.run.name} {value}" for one, value in zip(summaries, values, strict=True))
        yield f"{_where(row)}: not trained alike, {path}: {told}"


def _unpaired(row: Row) -> Iterator[str]:
    for name, difference in row.differences.items():
        if seeds := ", ".join(map(str, difference.unpaired)):
            yield f"{_where(row)}: left out of pruning - {name}, for want of a partner: seeds {seeds}"


def _where(row: Row) -> str:
    return f"{_benchmark(row)}, labels {_labels(row)}"


def _spot_json(spot: Spot | None) -> dict[str, Any]:  # Any: JSON
    optimal = spot.summary.optimal if spot else None
    return {
        "run": spot.summary.run.name if spot else None,
        "level": spot.level.level if spot else None,
        "density": spot.level.value("density") if spot else None,
        "spent": spot.level.value("spent") if spot else None,
        "selected_by": optimal.selected_by
        if spot and optimal and optimal.level == spot.level.level
        else None,
        **statistic_json(spot.statistic if spot else statistic(())),
    }


def _snake(name: str) -> str:
    return name.replace(" ", "_")
