"""The figures of Bartoldson et al. (2020), as numbers: two quantities over runs and seeds, and training by epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from prunecli.compare import Compared
from prunecli.correlations import Correlation, Point
from prunecli.courses import Course
from prunecli.report.correlations import coefficient_told
from prunecli.report.figure_methods import methods_of, panels_of, setting_of
from prunecli.report.panels import Cloud, Curve, Drawing, Panel, drawable
from prunecli.report.stability import heading
from prunecli.statistics import statistic


def correlations_drawn(compared: Compared) -> Drawing:
    """A panel a pair of quantities: a point each seed of each run, and the line through them (Figures 2, 4 and 6)."""
    methods = methods_of(compared.summaries)
    panels = [_panel(compared, found, methods) for found in compared.correlations if _drawable(found)]
    messages = [message for found in compared.correlations for message in _left_out(found)]
    if not compared.correlations:
        messages.append("--correlate X,Y says of what")
    over = (
        f"Pearson's r and Kendall's tau with {100 * compared.confidence:.6g}% intervals over points; seeds of one run "
        "are not independent"
    )
    return Drawing("correlations", over, "", "", tuple(panels), tuple(messages))


def training_drawn(compared: Compared) -> Drawing:
    """Test accuracy at each epoch's end, with the epochs after which weights are pruned (Figure 2, left)."""
    courses = {course.run: course for course in compared.courses}
    known = [summary for summary in compared.summaries if summary.run.name in courses]
    methods = methods_of(known)
    panels = [
        Panel(
            setting_of(group[0].run).title,
            curves=tuple(_curve(courses[one.run.name], methods[one.run.name]) for one in group),
        )
        for group in panels_of(known)
    ]
    messages = () if panels else ("no run has its epochs observed; `observe: [epochs]` in a recipe does",)
    return Drawing("training", "", "epochs trained", "test accuracy (%)", tuple(panels), messages)


def _panel(compared: Compared, found: Correlation, methods: Mapping[str, str]) -> Panel:
    points = _drawable(found)
    labels = dict.fromkeys(methods[point.run] for point in points)
    clouds = {label: [point for point in points if methods[point.run] == label] for label in labels}
    return Panel(
        f"r {coefficient_told(found.pearson)}",
        f"tau {coefficient_told(found.kendall)}",
        clouds=tuple(
            Cloud(label, tuple(one.x for one in inside), tuple(one.y for one in inside))
            for label, inside in clouds.items()
        ),
        line=found.line if len(points) == len(found.points) else None,
        x=_percent(heading(compared, found.x)),
        y=_percent(heading(compared, found.y)),
    )


def _drawable(found: Correlation) -> list[Point]:
    return [one for one in found.points if math.isfinite(drawable(one.x)) and math.isfinite(drawable(one.y))]


def _left_out(found: Correlation) -> Iterator[str]:
    if beyond := len(found.points) - len(_drawable(found)):
        yield f"{found.x}, {found.y}: {beyond} points are beyond what can be drawn"
    if not found.points:
        yield f"{found.x}, {found.y}: no seed has both"


def _percent(text: str) -> str:
    """`test error (%)`."""
    return f"{text.removesuffix(' %')} (%)" if text.endswith(" %") else text


def _curve(course: Course, label: str) -> Curve:
    found = [statistic(column) for column in course.accuracy.T.tolist()]
    means, sds = (
        tuple(map(drawable, column)) for column in zip(*((one.mean, one.std) for one in found), strict=True)
    )
    return Curve(
        label, tuple(map(drawable, course.epochs.tolist())), means, sds, events=course.events, dots=False
    )
