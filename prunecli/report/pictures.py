"""A sheet of the training images that pruning changes most, with their labels (Jin et al., 2022, appendix K.1)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prunecli.changed_examples import Changed, ChangedExamples
from prunecli.errors import shown
from prunecli.report.figures import rendered

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

Pixels = NDArray[Any]  # Any: float32 (H, W) or (H, W, 3), from 0 to 1

MOST_COLUMNS = 8
INCHES = 1.35
"""The width of a picture with its words."""
CHARACTER = 0.065
"""Inches that a letter of the title takes on average."""


def draw(found: ChangedExamples, pixels: Mapping[int, Pixels], source: Mapping[int, int]) -> Figure:
    """The improved examples above the harmed ones, each with position, labels, and loss before and after.

    `pixels` and the `source`'s labels are by position. A label used that is not the source's is in red beside it.
    """
    parts = {"most improved": found.improved, "most harmed": found.harmed}
    columns = min(MOST_COLUMNS, max(map(len, parts.values()), default=1) or 1)
    rows = [max(1, math.ceil(len(part) / columns)) for part in parts.values()]
    width = INCHES * max(columns, 4)
    figure = Figure(figsize=(width, 1.35 * INCHES * sum(rows) + 1.4), layout="constrained")
    over = (
        f"training loss of {shown(found.a.run)} level {found.a.level} against {shown(found.b.run)} level "
        f"{found.b.level}; {_of_seeds(found)}"
    )
    # Matplotlib's own wrapping takes dollars for formulas, whatever it is told.
    figure.suptitle(textwrap.fill(over, int(width / CHARACTER)), fontsize=8, parse_math=False)
    subfigures = figure.subfigures(2, 1, squeeze=False, height_ratios=[row + 0.35 for row in rows])
    for place, ((name, part), row) in zip(
        subfigures[:, 0], zip(parts.items(), rows, strict=True), strict=True
    ):
        _draw_part_(place, name, part, (row, columns), pixels, source)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    return rendered(figure, ".png")[0]


def shades(images: Pixels) -> Pixels:
    """Images (N, C, H, W) as matplotlib draws them: (N, H, W, 3), or (N, H, W) of grey, from 0 to 1.

    Values beyond that are brought there, the same way for all; of other than three channels it is their mean.
    """
    low, high = float(images.min()), float(images.max())
    if low < -1e-3 or high > 1 + 1e-3:
        images = (images - low) / (high - low)
    images = np.clip(images, 0, 1)
    return np.asarray(images.transpose(0, 2, 3, 1) if images.shape[1] == 3 else images.mean(axis=1))


def _of_seeds(found: ChangedExamples) -> str:
    seeds = ", ".join(map(str, found.seeds))
    if not found.alike:
        return f"labels differ between seeds: seed {seeds} alone"
    return f"means over seeds {seeds}" if len(found.seeds) > 1 else f"seed {seeds}"


def _draw_part_(
    place: SubFigure,
    name: str,
    part: Sequence[Changed],
    grid: tuple[int, int],
    pixels: Mapping[int, Pixels],
    source: Mapping[int, int],
) -> None:
    place.suptitle(f"{name} ({len(part)})" if part else f"{name}: none", fontsize=9, fontweight="bold")
    for number, one in enumerate(part, 1):
        axes = place.add_subplot(*grid, number)
        axes.imshow(pixels[one.position], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        changed = one.label != source[one.position]
        label = f"label {one.label}" + (f", source {source[one.position]}" if changed else "")
        axes.set_title(f"#{one.position}\n{label}", fontsize=7, color="firebrick" if changed else "black")
        axes.set_xlabel(f"{_number(one.before)} → {_number(one.after)}", fontsize=7)


def _number(loss: float) -> str:
    return f"{loss:.2f}" if loss >= 0.01 else f"{loss:.1g}"
