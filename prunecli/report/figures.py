"""Figures drawn with matplotlib: panels of curves, bars or points, the same bytes for the same numbers."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from prunecli.report.figure_data import WEIGHTS
from prunecli.report.panels import Bar, Curve, Drawing, Panel
from prunecli.report.rules import draw_rules_, draw_scales_, draw_spread_
from prunecli.report.words import shown

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Told apart by the colour-blind (Okabe and Ito, 2008), and in grey by their markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "-.", ":")
"""How curves are drawn, in turn as colours run out; dashes are for dense levels."""
GREY = "#555555"
ENDINGS: Mapping[str, Mapping[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The formats, each with what matplotlib would note in it of the time and of itself."""
SETTINGS: Mapping[Any, Any] = {  # Any: some versions of matplotlib list their names, others take strings
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "prunecli",
    # A dollar in a name is a dollar.
    "text.parse_math": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
_WIDTHS = {1: 3.5, 2: 3.2, 3: 2.4, 4: 2.2}
"""Inches of a panel by the number of columns."""
_CHARACTER, _LINE = 0.06, 0.15
"""Inches that a letter takes at most on average, and a line of text."""
_STAR: Mapping[str, Any] = {  # Any: what matplotlib calls a line's properties
    "marker": "*",
    "markersize": 9,
    "markeredgecolor": "#000000",
    "markeredgewidth": 0.5,
    "linestyle": "none",
}


def draw(drawing: Drawing) -> Figure:
    """The figure, in inches for print: one panel is as wide as a column of text."""
    columns = _columns(len(drawing.panels))
    rows = math.ceil(len(drawing.panels) / columns)
    width = columns * _WIDTHS[columns]
    titles = [_title(panel, int(_WIDTHS[columns] / _CHARACTER) - 6) for panel in drawing.panels]
    over = _wrapped(drawing.title, int(width / _CHARACTER) - 8)
    labels = [_wrapped(label, int(width / _CHARACTER) - 8) for label in drawing.labels]
    with _style():
        styles = dict(zip(drawing.labels, _styles(), strict=False))
        legend = _legend(drawing, labels, styles)
        in_row = _in_row([label for label, _ in legend], width)
        height = rows * (0.72 * _WIDTHS[columns] + _LINE * max(map(_lines, titles)))
        height += _LINE * (1 + _lines(over) + sum(_lines(label) for label, _ in legend) / in_row)
        figure = Figure(figsize=(width, height), layout="constrained")
        for number, (panel, title) in enumerate(zip(drawing.panels, titles, strict=True), 1):
            axes = figure.add_subplot(rows, columns, number)
            axes.set_title(title)
            _draw_panel_(axes, panel, styles, weights=drawing.x == WEIGHTS)
            if panel.x or number + columns > len(drawing.panels):
                axes.set_xlabel(_legible(panel.x or drawing.x))
            if panel.y or number % columns == 1 % columns:
                axes.set_ylabel(_legible(panel.y or drawing.y))
        if over:
            figure.suptitle(over)
        _draw_legend_(figure, legend, in_row)
        figure.align_ylabels()
    return figure


def rendered(figure: Figure, ending: str) -> tuple[bytes, tuple[str, ...]]:
    """The figure as a file of this ending, and what is to be said of it."""
    file = io.BytesIO()
    with _style(), warnings.catch_warnings():
        # The message tells it once, and not for every letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format=ending.removeprefix("."), metadata=dict(ENDINGS[ending]))
        drawn_as_boxes = ending != ".svg" and not _all_in_font(figure)
    message = "letters that matplotlib's font lacks are drawn as boxes; .svg keeps them as text"
    return file.getvalue(), (message,) if drawn_as_boxes else ()


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own settings with ours, whatever the machine's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def _styles() -> Iterator[dict[str, Any]]:  # Any: what matplotlib calls a line's properties
    for number in range(len(COLOURS) * len(MARKERS) * len(LINES)):
        yield {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": LINES[number // len(COLOURS) % len(LINES)],
        }


Styles = Mapping[str, dict[str, Any]]  # Any: what matplotlib calls a line's properties


def _draw_panel_(axes: Axes, panel: Panel, styles: Styles, *, weights: bool) -> None:
    for curve in panel.curves:
        _draw_curve_(axes, curve, styles[curve.label])
    for row, curve in enumerate(curve for curve in panel.curves if curve.events):
        _draw_events_(axes, curve, styles[curve.label]["color"], row)
    _draw_clouds_(axes, panel, styles)
    if panel.bars:
        _draw_bars_(axes, panel.bars)
    if weights:
        _from_all_weights_(axes, [x for curve in panel.curves for x in curve.x if math.isfinite(x)])
    if not panel.log_y:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    draw_scales_(axes, panel)
    draw_rules_(axes, panel.rules)


def _draw_curve_(axes: Axes, curve: Curve, style: dict[str, Any]) -> None:  # Any: a line's properties
    colour = style["color"]
    if curve.dense is not None:
        axes.axhline(curve.dense, color=colour, linestyle="--", linewidth=0.9, zorder=1.5)
    y, sd = np.array(curve.y), np.array(curve.sd)
    axes.fill_between(curve.x, y - sd, y + sd, color=colour, alpha=0.18, linewidth=0, zorder=1.8)
    between = np.isfinite(y - sd)
    # A band has no width at a level whose neighbours have none: bars stand there.
    alone = between & ~np.append(between[1:], False) & ~np.append(False, between[:-1])
    axes.errorbar(
        np.array(curve.x)[alone],
        y[alone],
        yerr=sd[alone],
        fmt="none",
        ecolor=colour,
        elinewidth=0.7,
        capsize=1.5,
        zorder=2,
    )
    size = 3 if curve.dots else 0
    axes.plot(
        curve.x, curve.y, label=_legible(curve.label), linewidth=1.1, markersize=size, zorder=2.5, **style
    )
    if curve.optimal:
        axes.plot(*([place] for place in curve.optimal), color=colour, zorder=3, **_STAR)


def _draw_events_(axes: Axes, curve: Curve, colour: str, row: int) -> None:
    """Marks at the foot of the panel, a row a curve."""
    height = [0.02 + 0.035 * (row % 10)] * len(curve.events)
    axes.plot(
        curve.events,
        height,
        color=colour,
        marker="|",
        markersize=4,
        linestyle="none",
        transform=axes.get_xaxis_transform(),
        zorder=3,
    )


def _draw_clouds_(axes: Axes, panel: Panel, styles: Styles) -> None:
    for cloud in panel.clouds:
        style = {**styles[cloud.label], "linestyle": "none"}
        axes.plot(
            cloud.x, cloud.y, label=_legible(cloud.label), markersize=4, alpha=0.85, zorder=2.5, **style
        )
        draw_spread_(axes, cloud, style["color"])
    if panel.line:
        slope, intercept = panel.line
        ends = [bound([x for cloud in panel.clouds for x in cloud.x]) for bound in (min, max)]
        axes.plot(ends, [slope * x + intercept for x in ends], color=GREY, linewidth=1.1, zorder=2)
    if panel.clouds and not panel.log_x:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def _draw_bars_(axes: Axes, bars: Sequence[Bar]) -> None:
    # Bars would stick to the edge, and the line of no difference be lost in it.
    axes.use_sticky_edges = False
    axes.bar(
        [bar.low for bar in bars],
        [bar.height for bar in bars],
        width=[0.85 * (bar.high - bar.low) for bar in bars],
        yerr=[bar.sd for bar in bars],
        align="edge",
        color=COLOURS[0],
        error_kw={"elinewidth": 0.7, "capsize": 1.2, "ecolor": "#000000"},
    )
    axes.axhline(0, color="#000000", linewidth=0.7)
    axes.set_xlim(0, 100)


def _from_all_weights_(axes: Axes, percents: Sequence[float]) -> None:
    """Makes the x axis logarithmic, falling from 100%."""
    most, least = max((100.0, *percents)), min((100.0, *percents))
    axes.set_xscale("log")
    axes.set_xlim(most * 1.12, least / 1.12)
    decades = math.log10(most / least)
    ticks = (1.0,) if decades > 2.2 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(map(float, range(1, 10)))
    axes.xaxis.set_major_locator(LogLocator(subs=ticks, numticks=50))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(drawing: Drawing, labels: Sequence[str], styles: Styles) -> list[tuple[str, Artist]]:
    """Each line of the legend with its sign; the last two are for the signs that all curves have."""
    points = {cloud.label for panel in drawing.panels for cloud in panel.clouds}
    bare = {curve.label for panel in drawing.panels for curve in panel.curves if not curve.dots}
    # Points with a curve of their own through them are shown by both.
    points, bare = points - bare, bare - points
    found: list[tuple[str, Artist]] = [
        (label, Line2D([], [], linewidth=1.1, markersize=3.5, **_sign(style, name in points, name in bare)))
        for label, (name, style) in zip(labels, styles.items(), strict=True)
    ]
    curves = [curve for panel in drawing.panels for curve in panel.curves]
    if any(curve.events for curve in curves):
        found.append(("pruning", Line2D([], [], color=GREY, marker="|", markersize=5, linestyle="none")))
    if any(curve.dense is not None for curve in curves):
        found.append(("dense level", Line2D([], [], color=GREY, linestyle="--", linewidth=0.9)))
    if any(curve.optimal for curve in curves):
        found.append(("optimal level", Line2D([], [], color=GREY, **_STAR)))
    return found


def _sign(style: dict[str, Any], alone: bool, bare: bool) -> dict[str, Any]:  # Any: a line's properties
    """How the legend shows a style: markers alone, a line without them, or both."""
    return {**style, **({"linestyle": "none"} if alone else {}), **({"marker": "none"} if bare else {})}


def _draw_legend_(figure: Figure, legend: Sequence[tuple[str, Artist]], in_row: int) -> None:
    if not legend:
        return
    drawn = figure.legend(
        [sign for _, sign in legend],
        # Matplotlib leaves labels that begin with "_" out: they are put in afterwards.
        ["label"] * len(legend),
        loc="outside lower center",
        ncols=in_row,
    )
    for text, (label, _) in zip(drawn.get_texts(), legend, strict=True):
        text.set_text(label)


def _columns(panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(panels, 3 if panels <= 9 else 4)


def _in_row(labels: Sequence[str], width: float) -> int:
    """How many labels stand side by side in so many inches, each with its sign before it."""
    inches = [0.55 + _CHARACTER * max(map(len, label.splitlines())) for label in labels]
    return max(1, len(inches) if sum(inches) <= width else int(width / max(inches)))


def _title(panel: Panel, length: int) -> str:
    return "\n".join(_wrapped(text, length) for text in (panel.title, panel.subtitle) if text)


def _wrapped(text: str, length: int) -> str:
    return textwrap.fill(_legible(text), length)


def _lines(text: str) -> int:
    return len(text.splitlines())


def _legible(text: str) -> str:
    """Foreign text as it may stand in a figure: XML has no such thing as the last two characters of a plane."""
    return "".join(
        character.encode("unicode_escape").decode("ascii") if ord(character) & 0xFFFE == 0xFFFE else character
        for character in shown(text)
    )


def _all_in_font(figure: Figure) -> bool:
    font = get_font(findfont(FontProperties()))
    texts = (found.get_text() for found in figure.findobj(Text) if isinstance(found, Text))
    return all(font.get_char_index(ord(letter)) for text in texts for letter in set(text) - {"\n"})
