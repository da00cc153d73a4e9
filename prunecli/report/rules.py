"""What a panel of a figure has beside its curves: logarithmic axes, lines across it, bars of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from prunecli.report.panels import Cloud, Panel, Rule
from prunecli.report.words import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#555555"
_ENOUGH = 50
"""Ticks that a logarithmic axis may have at most."""


def draw_scales_(axes: Axes, panel: Panel) -> None:
    """Makes the panel's logarithmic axes logarithmic, with plain numbers at their ticks."""
    for is_log, name in ((panel.log_x, "x"), (panel.log_y, "y")):
        if is_log:
            axes.set(**{f"{name}scale": "log"})
            axis = axes.xaxis if name == "x" else axes.yaxis
            low, high = axis.get_view_interval()
            ticks = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
            axis.set_major_locator(LogLocator(subs=ticks, numticks=_ENOUGH))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def draw_rules_(axes: Axes, rules: Sequence[Rule]) -> None:
    """Draws lines across the panel, each with its word at its end."""
    style: dict[str, Any] = {  # Any: what matplotlib calls a line's properties
        "color": _GREY,
        "linewidth": 0.7,
        "linestyle": (0, (4, 2)),
        "zorder": 1.2,
    }
    for rule in rules:
        word = shown(rule.label)
        if rule.upright:
            axes.axvline(rule.at, **style)
            place, across = (rule.at, 0.99), axes.get_xaxis_transform()
            axes.text(*place, word, transform=across, rotation=90, ha="right", va="top", size=6, color=_GREY)
        else:
            axes.axhline(rule.at, **style)
            place, across = (0.99, rule.at), axes.get_yaxis_transform()
            axes.text(*place, word, transform=across, ha="right", va="bottom", size=6, color=_GREY)


def draw_spread_(axes: Axes, cloud: Cloud, colour: str) -> None:
    """Draws the bars of points that have some."""
    if cloud.low:
        axes.vlines(cloud.x, cloud.low, cloud.high, color=colour, linewidth=0.8, alpha=0.85, zorder=2.2)
