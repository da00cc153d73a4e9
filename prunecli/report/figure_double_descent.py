"""Dense, pruned and retrained risk over a swept width, with theory's curves through the points (Chang et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from prunecli.compare import Compared
from prunecli.double_descent import RISK, Line, Sweep, sweeps
from prunecli.report.panels import Cloud, Curve, Drawing, Panel, Rule, drawable
from prunecli.report.theory import metric_asked
from prunecli.swept import FEATURES
from prunecli.theory import Curve as Theory
from prunecli.theory import LinearProblem, curve, retrained_risk

PLACES = 160
"""Of a smooth curve."""
_HEADING = "medians and quartiles over seeds; smooth curves: theory; straight ones: theory at these widths, or medians"
ROOM, WIDE = 1.5, 100.0
"""How much higher than all away from the peak an axis ends; the ratio of its ends that makes one logarithmic."""


def double_descent_drawn(compared: Compared) -> Drawing:
    """A panel a sweep: medians over seeds with their quartiles, theory's curves, and lines at p = s and p = n."""
    runs = [summary.run for summary in compared.summaries]
    found = sweeps(runs, metric_asked(compared))
    panels = [_panel(one) for one in found if any(line.points for line in one.lines)]
    drawn = {name for one in found for name in one.runs}
    left = [run.name for run in runs if drawn.isdisjoint((run.name, *(one.name for one in run.members)))]
    messages = [f"{name}: left out, for it has no swept option or prunes more than once" for name in left]
    messages += [note for one in found for note in one.notes]
    first = found[0] if found else None
    x = _axis(first) if first else ""
    y = first.metric.replace("_", " ") if first else ""
    return Drawing("double_descent", _HEADING, x, y, tuple(panels), tuple(messages))


def _axis(sweep: Sweep) -> str:
    return "features p" if sweep.path == FEATURES else sweep.path[1].replace("_", " ")


def _panel(sweep: Sweep) -> Panel:
    most = _most(sweep)
    smooth = _smooth(sweep, most)
    curves = [_curve(name, *places) for name, places in smooth.items()]
    curves += [_curve(line.name, *_straight(line, most)) for line in sweep.lines if line.name not in smooth]
    clouds = tuple(_cloud(line, most) for line in sweep.lines)
    heights = [y for cloud in clouds for y in (*cloud.y, *cloud.low) if math.isfinite(y)]
    places = sorted({x for cloud in clouds for x in cloud.x})
    return Panel(
        sweep.title,
        _beyond(sweep, most),
        curves=tuple(curves),
        clouds=clouds,
        rules=tuple(_rules(sweep)),
        x=_axis(sweep),
        log_x=len(places) > 2 and places[0] > 0 and places[-1] / places[0] > WIDE,
        log_y=bool(heights) and min(heights) > 0 and max(heights) / min(heights) > WIDE,
    )


def _most(sweep: Sweep) -> float:
    """The risk that the axis ends at: beyond it are the peak's alone, which would have all of it to themselves."""
    away = [
        point.quartiles[1] for line in sweep.lines for point in line.points if not sweep.is_near_peak(point.x)
    ]
    return ROOM * max(away) if away else math.inf


def _beyond(sweep: Sweep, most: float) -> str:
    """What the axis does not reach, in words."""
    found = [point for line in sweep.lines for point in line.points if point.median > most]
    if not found:
        return ""
    medians, places = [point.median for point in found], sorted({point.x for point in found})
    where = ", ".join(f"{x:g}" for x in places)
    return f"beyond the axis: medians of {min(medians):.3g} to {max(medians):.3g} at {where}"


def _cloud(line: Line, most: float) -> Cloud:
    points = [point for point in line.points if point.median <= most]
    quartiles = [point.quartiles for point in points]
    return Cloud(
        line.name,
        tuple(point.x for point in points),
        tuple(drawable(point.median) for point in points),
        tuple(drawable(low) for low, _ in quartiles),
        tuple(drawable(min(high, most)) for _, high in quartiles),
    )


def _curve(label: str, x: tuple[float, ...], y: tuple[float, ...]) -> Curve:
    none = (math.nan,) * len(x)
    return Curve(label, x, tuple(map(drawable, y)), none, dots=False)


def _straight(line: Line, most: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Theory at the widths of the runs, as these stored it; the medians where it is silent."""
    theory = all(math.isfinite(point.theory) for point in line.points)
    y = np.array([point.theory if theory else point.median for point in line.points])
    return tuple(point.x for point in line.points), _cut(y, most)


def _smooth(sweep: Sweep, most: float) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Theory's curves by the lines that they go through, at many widths: those of models it knows at every width."""
    problem, n = sweep.problem, sweep.examples
    if problem is None or n is None or sweep.path != FEATURES:
        return {}
    widths = _widths([point.x for line in sweep.lines for point in line.points], n, problem)
    counts = {line.kept if line.pruner else problem.size for line in sweep.lines}
    found = {
        kept: curve(problem, n=n, kept=kept, widths=widths)
        for kept in counts
        if kept is not None and 0 < kept <= problem.size
    }
    smooth = {}
    for line in sweep.lines:
        theory = found.get(line.kept or 0) if line.pruner else found[problem.size]
        column = _columns(theory).get((line.pruner, line.retrained)) if theory else None
        if theory is not None and column is not None:
            smooth[line.name] = tuple(map(float, theory.widths)), _cut(column, most)
    return smooth


def _columns(found: Theory) -> Mapping[tuple[str, bool], np.ndarray]:
    return {
        ("", False): found.none,
        **{(name, False): column for name, column in found.pruned.items()},
        **{(name, True): column for name, column in found.retrained.items()},
    }


def _cut(column: np.ndarray, most: float) -> tuple[float, ...]:
    return tuple(float(value) if value <= most else math.nan for value in column)


def _widths(places: list[float], n: int, problem: LinearProblem) -> list[int]:
    """Widths over the range of the runs' own, closer to each other near the peak."""
    first, last = max(1, round(min(places))), min(problem.size, round(max(places)))
    even = np.linspace(first, last, PLACES)
    near = n * (1 + np.array([-1, 1])[:, None] * np.geomspace(0.005, 0.3, 20))
    found = {round(value) for value in (*even, *near.flat)}
    return sorted(value for value in found if first <= value <= last)


def _rules(sweep: Sweep) -> Iterator[Rule]:
    if sweep.path != FEATURES:
        return
    kept, n, problem = sweep.kept, sweep.examples, sweep.problem
    if kept is not None:
        yield Rule(f"p = s = {kept}", float(kept))
    if n is not None:
        yield Rule(f"p = n = {n}", float(n))
    if problem is not None and n is not None and kept is not None and 0 < kept < min(n, problem.size):
        yield Rule("best s features, known", retrained_risk(problem, n=n, kept=kept), upright=False)
    dense = sweep.line()
    under = [point.median for point in dense.points if n is not None and point.x < n] if dense else []
    if under and problem is None:
        yield Rule("best dense model below n", min(under), upright=False)
    if math.isfinite(sweep.null) and sweep.metric == RISK:
        yield Rule("predicting 0", sweep.null, upright=False)
