"""What each layer keeps at a run's levels, and which layers are empty, in tables and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prunecli.compare import Compared, Level, Summary
from prunecli.errors import NotComparable
from prunecli.report.cells import NONE, Table
from prunecli.report.marks import mark
from prunecli.report.numbers import statistic_json
from prunecli.statistics import Statistic, statistic

COUNTED_LEVELS = 4
"""With more levels than these a table has densities alone."""


def layers_tables(compared: Compared, *, brief: bool = False) -> list[Table]:
    """A table a run: a row a layer, at the levels of `--level`, else at the marked ones and the last, or at all.

    Raises:
        NotComparable: no run is known by its layers, or one lacks a level that is asked for.
    """
    return [_table(summary, _levels(compared, summary, brief)) for summary in _with_layers(compared)]


def layers_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a run, level and layer: its weights, the kept ones over seeds, for how many seeds it is empty."""
    return [
        {
            "run": summary.run.name,
            "level": level.level,
            "mark": mark(summary, level),
            "layer": layer,
            "weights": summary.run.sizes[place],
            "kept": statistic_json(kept),
            "density": None if kept.mean is None else kept.mean / summary.run.sizes[place],
            "empty": _empty(kept),
        }
        for summary in _with_layers(compared)
        for level in _levels(compared, summary, brief=False)
        for place, layer in enumerate(summary.run.layers)
        for kept in [_kept(summary, level, place)]
    ]


def _with_layers(compared: Compared) -> list[Summary]:
    found = [one for one in compared.summaries if one.run.kept.size and one.run.sizes]
    if not found:
        names = ", ".join(summary.run.name for summary in compared.summaries)
        raise NotComparable(f"{names}: --table layers needs runs of one width each, with prunable weights")
    return found


def _levels(compared: Compared, summary: Summary, brief: bool) -> list[Level]:
    if compared.at:
        found = {word: summary.pick(word) for word in compared.at}
        if lacking := [word for word, level in found.items() if level is None]:
            raise NotComparable(
                f"{summary.run.name}: --level {lacking[0]}: it has no such level; it has levels 0 to "
                f"{len(summary.levels) - 1}"
            )
        return sorted({level.level: level for level in found.values() if level}.values(), key=_number)
    marked = [level for level in summary.levels if mark(summary, level) or level is summary.levels[-1]]
    return marked if brief else list(summary.levels)


def _number(level: Level) -> int:
    return level.level


def _kept(summary: Summary, level: Level, place: int) -> Statistic:
    """How many weights a layer keeps, of each seed that has the level."""
    column = summary.run.kept[:, level.level, place].tolist()
    return statistic([float(count) if count >= 0 else float("nan") for count in column])


def _empty(kept: Statistic) -> int:
    return kept.values.count(0.0)


def _table(summary: Summary, levels: Sequence[Level]) -> Table:
    run, counted = summary.run, len(levels) <= COUNTED_LEVELS
    columns = ["layer", "weights"]
    for level in levels:
        columns += [f"kept at {level.level}"] * counted + [f"% at {level.level}"]
    rows = []
    for place, layer in enumerate(run.layers):
        cells = [layer, f"{run.sizes[place]:,}"]
        for level in levels:
            kept = _kept(summary, level, place)
            cells += [_count(kept)] * counted + [_percent(kept, run.sizes[place])]
        rows.append(tuple(cells))
    title = f"{run.name}: what each layer keeps, mean over seeds {', '.join(map(str, run.seeds))}"
    return Table(
        title, tuple(columns), tuple(rows), tuple(_notes(summary, levels)), words=frozenset({"layer"})
    )


def _count(kept: Statistic) -> str:
    if kept.mean is None:
        return NONE
    return f"{kept.mean:,.0f}" if kept.mean == round(kept.mean) else f"{kept.mean:,.1f}"


def _percent(kept: Statistic, size: int) -> str:
    """`12.50`, or `0.00, empty 2/3`: for how many seeds the layer has no weight left."""
    if kept.mean is None:
        return NONE
    empty = f", empty {_empty(kept)}/{kept.n}" if _empty(kept) else ""
    density = 100 * kept.mean / size
    return (f"{density:.2f}" if density >= 0.1 or density == 0 else f"{density:.2g}") + empty


def _notes(summary: Summary, levels: Sequence[Level]) -> Iterator[str]:
    layers = len(summary.run.layers)
    for level in levels:
        named = mark(summary, level)
        found = [_empty(_kept(summary, level, place)) for place in range(layers)]
        empty = f"{sum(map(bool, found))} of {layers} layers are empty for some seed" if any(found) else ""
        said = [f"{100 * level.density:.4g}% of all weights remain", *filter(None, (named, empty))]
        yield f"level {level.level}: {'; '.join(said)}"
    if any(level.collapsed for level in levels):
        yield "empty: no weight of the layer is left, so nothing of the input comes through it"
    if len(levels) < len(summary.levels):
        yield f"{len(summary.levels) - len(levels)} further levels; --level names others, --all-levels shows them"
