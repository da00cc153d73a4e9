"""`prunecli compare --plot` and `--html`: figures and a page of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.errors import NotComparable, PrunecliError, UsageError, shown

# Matplotlib takes a second to import: only what draws waits for it.
if TYPE_CHECKING:
    from prunecli.compare import Compared
    from prunecli.report.html import Picture
    from prunecli.report.panels import Drawing

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html", ".htm")
MOST_NAMES = 4
"""Of runs in a page's title."""
# What `--html` has where no figure is named, the figure that fits best first.
_ALL = ("correlations", "density", "subgroups", "parts", "epochs", "training")


class FigureName(StrEnum):
    """What a figure shows."""

    density = "density"
    epochs = "epochs"
    parts = "parts"
    subgroups = "subgroups"
    correlations = "correlations"
    training = "training"
    double_descent = "double_descent"
    thresholds = "thresholds"
    learned = "learned"


PlotFiles = Annotated[
    list[Path] | None,
    typer.Option("--plot", metavar="FILE", help="Draw it: .png .svg or .pdf says how; repeatable."),
]
Figure = Annotated[
    FigureName | None,
    typer.Option(
        "--figure",
        help="What to draw; by default subgroups with --groups, correlations with --correlate, epochs where nothing is "
        "pruned, else density.",
        show_default=False,
    ),
]
HtmlFiles = Annotated[
    list[Path] | None,
    typer.Option("--html", metavar="FILE", help="Write tables and figures as one page; repeatable."),
]


@dataclass(frozen=True)
class Plotting:
    """The files to draw into, the pages to write, and the figure's name; "" for what fits, with groups or without."""

    plots: tuple[Path, ...] = ()
    pages: tuple[Path, ...] = ()
    figure: str = ""
    grouped: bool = False


def checked_plotting(
    plots: Sequence[Path],
    pages: Sequence[Path],
    figure: str | None,
    *,
    grouped: bool,
    correlated: bool = False,
) -> Plotting | None:
    """What `--plot`, `--html` and `--figure` ask for; None where that is nothing."""
    for option, paths, endings in (("--plot", plots, PICTURES), ("--html", pages, PAGES)):
        for path in paths:
            if path.suffix not in endings:
                raise UsageError(f"{option} {path}: unknown ending; known: {' '.join(endings)}")
    if figure and not (plots or pages):
        raise UsageError(f"--figure {figure} chooses what is drawn: give --plot FILE or --html FILE too")
    if figure == FigureName.subgroups and not grouped:
        raise UsageError("--figure subgroups draws groups of examples: give --groups SCORES too")
    if figure == FigureName.correlations and not correlated:
        raise UsageError("--figure correlations draws pairs of quantities: give --correlate X,Y too")
    return Plotting(tuple(plots), tuple(pages), figure or "", grouped) if plots or pages else None


def write_plots(compared: Compared, plotting: Plotting, errors: list[PrunecliError], *, brief: bool) -> None:
    """Writes the figure into each file, then the pages; what cannot be drawn or written goes to `errors`."""
    found: list[PrunecliError] = []
    if plotting.plots:
        with _collecting_(found):
            _write_figure(compared, plotting)
    if plotting.pages:
        content = _page(compared, plotting.figure, found, brief=brief).encode()
        for path in plotting.pages:
            with _collecting_(found):
                output.write(path, content)
    # A named figure that cannot be drawn is missing in the files and in the pages: told once.
    errors += {str(error): error for error in found}.values()


@contextmanager
def _collecting_(errors: list[PrunecliError]) -> Iterator[None]:
    try:
        yield
    except PrunecliError as error:
        errors.append(error)


def _write_figure(compared: Compared, plotting: Plotting) -> None:
    from prunecli.report.figure_data import drawing
    from prunecli.report.figures import draw, rendered

    found = drawing(compared, plotting.figure or (FigureName.subgroups if plotting.grouped else ""))
    for message in found.messages:
        output.say(shown(message))
    for path in plotting.plots:
        # Matplotlib lays a figure out anew each time it is written, from where it left it: each file has its own.
        content, messages = rendered(draw(found), path.suffix)
        for message in messages:
            output.say(shown(f"{path}: {message}"))
        output.write(path, content)


def _page(compared: Compared, figure: str, errors: list[PrunecliError], *, brief: bool) -> str:
    from prunecli.report import tables
    from prunecli.report.html import page

    runs = [summary.run.name for summary in compared.summaries]
    title = ", ".join(runs) if len(runs) <= MOST_NAMES else f"{len(runs)} runs"
    pictures = [_picture(found) for found in _drawings(compared, figure, errors)]
    return page(f"prunecli compare: {title}", tables(compared, brief=brief), pictures)


def _drawings(compared: Compared, figure: str, errors: list[PrunecliError]) -> Iterator[Drawing]:
    """The figure that is named, or each that the runs have something for."""
    from prunecli.report.figure_data import drawing

    for name in [figure] if figure else _ALL:
        try:
            yield drawing(compared, name)
        except NotComparable as error:
            if figure:
                errors.append(error)


def _picture(found: Drawing) -> Picture:
    from prunecli.report.figures import draw, rendered
    from prunecli.report.html import Picture

    content, _ = rendered(draw(found), ".svg")
    return Picture(f"{found.y} by {found.x}", content.decode(), found.messages)
