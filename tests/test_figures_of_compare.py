"""Figures hold the numbers that were compared, leave nothing out in silence, and let no hostile byte through."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from test_report import HOSTILE
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.cli.compare import Settings, compare_runs
from prunecli.cli.plots import PICTURES, FigureName, checked_plotting
from prunecli.compare import Compared, Summary, summarize
from prunecli.courses import Course, Learned
from prunecli.errors import NotComparable, StorageError, UsageError, shown
from prunecli.report import tables
from prunecli.report.figure_data import FIGURES, drawing
from prunecli.report.figures import ENDINGS, draw, rendered
from prunecli.report.html import Picture, page
from prunecli.stability import correlated
from prunecli.statistics import paired
from prunecli.store.values import StoredRun
from prunecli.subgroups import Group, Side, Subgroups

PRUNED = ["train", {"repeat": {"times": 3, "stages": [{"prune": {"fraction": 0.2}}, "rewind", "train"]}}]
EXTENDED = ["train", {"repeat": {"times": 3, "stages": ["rewind", "train"]}}]
DENSITY = (1.0, 0.8, 0.64, 0.512)
SPENT = (40.0, 80.0, 120.0, 160.0)
NAN = math.nan


def stored(
    name: str = "imp",
    *,
    density: Sequence[float] = DENSITY,
    spent: Sequence[float] = SPENT,
    means: Sequence[float] = (2.0, 1.5, 1.8, 3.0),
    seeds: int = 3,
    noise: float = 0,
    **recipe: Any,  # Any: a recipe's values
) -> StoredRun:
    """A run whose seeds are spread round the means; its training loss on noisy labels is NaN where there is no noise."""
    values = np.array(means)[None, :] + 0.1 * np.arange(seeds)[:, None] ** 2
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest="0" * 64,
        status="complete",
        recipe={
            "model": {"lenet_300_100": {"width": 1.0}},
            "data": "digits",
            "labels": {"uniform": {"fraction": noise}},
            "procedure": PRUNED,
            **recipe,
        },
        seeds=tuple(range(seeds)),
        density=np.array(density),
        spent=np.array(spent),
        metrics={
            "test_error": values,
            "train_loss_clean": values / 10,
            "train_loss_noisy": values * (1 if noise else NAN),
        },
        units={"test_error": "percent"},
        total=1000,
    )


def extended(
    name: str = "extended", *, spent: Sequence[float] = SPENT, **more: Any
) -> StoredRun:  # Any: as above
    return stored(
        name, density=[1.0] * len(spent), spent=spent, means=range(len(spent)), procedure=EXTENDED, **more
    )


def compared(*runs: StoredRun, **more: Any) -> Compared:  # Any: a comparison's fields
    return Compared(tuple(map(summarize, runs or (stored(),))), **more)


def with_groups(*runs: StoredRun, seeds: int = 3) -> Compared:
    """Four groups of the last level against the dense one, of each run."""
    heights = [{seed: 0.5 - number + 0.1 * seed**2 for seed in range(seeds)} for number in range(4)]
    groups = tuple(
        Group(25.0 * n, 25.0 * (n + 1), 10, paired(each, dict.fromkeys(each, 0.0)))
        for n, each in enumerate(heights)
    )
    given = runs or (stored(),)
    found = tuple(
        Subgroups(Side(run.name, 3), Side(run.name, 0), "el2n", groups, None, None) for run in given
    )
    return compared(*given, subgroups=found)


def figure_of(found: Compared, name: str = "") -> Figure:
    return draw(drawing(found, name))


def curve(axes: Axes, label: str) -> Line2D:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line


def stars(axes: Axes) -> list[tuple[float, float]]:
    return [tuple(map(float, line.get_xydata()[0])) for line in axes.lines if line.get_marker() == "*"]


def dense_lines(axes: Axes) -> list[float]:
    return [float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "--"]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def column(summary: Summary, metric: str = "test_error") -> list[float]:
    return [NAN if (mean := level.value(metric)) is None else mean for level in summary.levels]


def lay_out_(figure: Figure) -> None:
    """Matplotlib says where it finds no room for panels, and leaves them under the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()


# --- What is drawn


@pytest.mark.parametrize("metric", ["test_error", "train_loss_clean"])
@pytest.mark.parametrize(("name", "x"), [("density", [100.0, 80.0, 64.0, 51.2]), ("epochs", list(SPENT))])
def test_a_line_goes_through_the_means_with_its_star_and_its_dense_level(
    name: str, x: list[float], metric: str
) -> None:
    found = compared(metric=metric)
    (axes,) = figure_of(found, name).axes
    (summary,) = found.summaries
    line = curve(axes, "imp")
    assert line.get_xdata() == pytest.approx(x)
    assert list(line.get_ydata()) == column(summary, metric)
    assert dense_lines(axes) == [summary.levels[0].value(metric)]
    assert summary.optimal is not None
    assert stars(axes) == [
        pytest.approx((x[summary.optimal.level], column(summary, metric)[summary.optimal.level]))
    ]
    assert axes.get_ylabel() == {"test_error": "test error (%)"}.get(metric, "train loss clean")


def test_weights_remaining_fall_from_100_on_a_logarithmic_axis() -> None:
    (axes,) = figure_of(compared(stored(density=(1.0, 0.5, 0.1, 0.004)))).axes
    left, right = axes.get_xlim()
    assert axes.get_xscale() == "log"
    assert left > 100 > 0.4 > right
    assert axes.get_xlabel() == "weights remaining (%)"


def test_the_band_is_one_sd_over_seeds_and_one_seed_has_none() -> None:
    found = compared()
    (axes,) = figure_of(found).axes
    (band,) = [each for each in axes.collections if isinstance(each, PolyCollection)]
    corners = {(round(x, 6), round(y, 9)) for path in band.get_paths() for x, y in path.vertices}
    for level in found.summaries[0].levels:
        each = level.statistic("test_error")
        for end in (each.mean - each.std, each.mean + each.std):
            assert (round(100 * level.density, 6), round(end, 9)) in corners
    (axes,) = figure_of(compared(stored(seeds=1))).axes
    assert not [path for each in axes.collections for path in each.get_paths()]
    assert list(curve(axes, "imp").get_ydata()) == [2.0, 1.5, 1.8, 3.0]


def test_a_level_between_gaps_has_a_bar_of_one_sd() -> None:
    found = compared(stored(means=(2.0, NAN, 1.5, NAN)))
    (axes,) = figure_of(found).axes
    segments = [
        segment
        for each in axes.collections
        if hasattr(each, "get_segments")
        for segment in each.get_segments()
    ]
    level = found.summaries[0].levels[2].statistic("test_error")
    assert [sorted(segment[:, 1].tolist()) for segment in segments][1] == pytest.approx(
        [level.mean - level.std, level.mean + level.std]
    )
    assert np.isnan(curve(axes, "imp").get_ydata()).tolist() == [False, True, False, True]


def test_a_run_of_one_level_has_no_star_and_is_a_point_with_its_line() -> None:
    (axes,) = figure_of(
        compared(stored("dense", density=[1.0], spent=[40.0], means=[2.0], procedure=["train"]))
    ).axes
    assert (stars(axes), len(dense_lines(axes)), len(curve(axes, "dense").get_xdata())) == ([], 1, 1)


def test_levels_without_weights_are_left_out_with_a_message() -> None:
    made = drawing(compared(stored(density=(1.0, 0.5, 0.1, 0.0))))
    assert made.panels[0].curves[0].x[:3] == (100.0, 50.0, 10.0)
    assert math.isnan(made.panels[0].curves[0].x[3])
    assert made.messages == ("imp: levels without weights have no place on a logarithmic axis: 3",)


@pytest.mark.parametrize("means", [(1e308, 1, 2, 3), (-1e308, 1e308, 1, 1), (1, 2e99, 1, 1), (0, 0, 0, 0)])
@pytest.mark.parametrize(
    "density", [(1, 1e-300, 1e-5, 0.1), (5, 1, 0.5, 0.1), (1e308, 1, 0.5, 0.1), (1, 0.9, 0.8, 0.7)]
)
def test_numbers_that_no_training_comes_to_are_left_out_with_a_message(
    means: Sequence[float], density: Sequence[float]
) -> None:
    for name in ("density", "epochs"):
        made = drawing(compared(stored(means=means, density=density)), name)
        assert any("is beyond what can be drawn at levels 0" in message for message in made.messages) == (
            max(map(abs, means)) > 1e100
        )
        rendered(draw(made), ".png")


def test_an_optimal_level_without_the_metric_has_no_star() -> None:
    run = stored(means=(2.0, NAN, 1.8, 3.0))
    chosen = {**run.metrics, "validation_error": np.array([[2.0, 1.0, 1.8, 3.0]] * 3)}
    found = compared(replace(run, metrics=chosen))
    assert found.summaries[0].pick("optimal") == found.summaries[0].levels[1]
    assert drawing(found).panels[0].curves[0].optimal is None


def test_a_run_whose_levels_have_no_place_is_told_of() -> None:
    with pytest.raises(
        NotComparable, match="imp: left out, for none of its levels has a place on the x axis"
    ):
        drawing(compared(stored(spent=(NAN,) * 4)), "epochs")


# --- Extended training stands at the weights of equal epochs


def test_extended_training_stands_where_pruning_has_trained_as_long() -> None:
    made = drawing(compared(stored(), extended(spent=(40.0, 120.0, 130.0))), "density")
    found = made.panels[0].curves[1]
    assert found.x[:2] == (100.0, 64.0)
    assert math.isnan(found.x[2])
    assert found.label == "extended (at equal epochs)"
    assert made.messages == ("extended: left out, for no pruned level has as many epochs: levels 2",)


def test_extended_training_stands_with_the_run_of_the_most_equal_epochs_alone() -> None:
    """One-shot pruning and a width sweep share epochs with it too."""
    one_shot = stored(
        "one_shot", density=(1.0, 0.1), spent=(40.0, 80.0), means=(2.0, 2.5), procedure=["train", "prune"]
    )
    widths = stored("width", density=(1.0, 0.6, 0.4, 0.2), spent=(40.0,) * 4, procedure=["train"])
    made = drawing(compared(one_shot, widths, extended(), stored()), "density")
    assert made.panels[0].curves[2].x == pytest.approx((100.0, 80.0, 64.0, 51.2))
    made = drawing(compared(widths, extended()), "density")
    assert [curve.label for curve in made.panels[0].curves] == ["width"]


def test_extended_training_without_a_pruned_run_is_left_out_of_density_and_drawn_by_epochs() -> None:
    other = stored("elsewhere", data="mnist")
    made = drawing(compared(extended(), other), "density")
    assert [curve.label for panel in made.panels for curve in panel.curves] == ["elsewhere"]
    assert "extended: left out, for its panel has no pruned run" in made.messages[0]
    with pytest.raises(NotComparable, match="nothing to draw in the figure 'density': extended: left out"):
        drawing(compared(extended()), "density")
    assert drawing(compared(extended())).name == "epochs"
    assert drawing(compared(extended(), stored())).name == "density"


# --- Panels and methods


def test_there_is_a_panel_for_each_model_data_and_labels() -> None:
    runs = [
        stored("a", noise=0.15),
        extended("b", noise=0.15),
        stored("c", noise=0.3),
        stored("d", labels="clean"),
        stored("e", noise=0),
        stored("f", model={"lenet_300_100": {"width": 0.5}}),
    ]
    figure = figure_of(compared(*runs), "density")
    assert [axes.get_title() for axes in figure.axes] == [
        "15% uniform label noise",
        "30% uniform label noise",
        "clean labels",
    ]
    assert figure.get_suptitle() == "lenet_300_100 on digits"
    assert [len(axes.lines) - 2 * len(stars(axes)) for axes in figure.axes] == [2, 1, 3]
    figure = figure_of(compared(stored("a"), stored("b", data="mnist"), stored("c", model="lenet_5")))
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert titles == [
        f"{where} clean labels"
        for where in ("lenet_300_100 on digits", "lenet_300_100 on mnist", "lenet_5 on digits")
    ]


def test_runs_of_one_procedure_look_alike_in_every_panel_and_share_a_line_of_the_legend() -> None:
    runs = [
        *(stored(f"noisy-fraction-{noise:g}-{'0' * 8}", noise=noise) for noise in (0, 0.15)),
        *(extended(f"long-fraction-{noise:g}-{'0' * 8}", noise=noise) for noise in (0, 0.15)),
    ]
    figure = figure_of(compared(*runs))
    assert legend_of(figure) == ["noisy", "long (at equal epochs)", "dense level", "optimal level"]
    for label in legend_of(figure)[:2]:
        lines = [curve(axes, label) for axes in figure.axes]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 1
    assert len({curve(figure.axes[0], label).get_color() for label in legend_of(figure)[:2]}) == 2


def test_benchmarks_whose_numbers_differ_share_a_method() -> None:
    later = ["train", {"repeat": {"times": 9, "stages": [{"prune": {"fraction": 0.5}}, "rewind", "train"]}}]
    runs = [stored("imp-a", epochs=40), stored("imp-b", epochs=160, procedure=later, data="cifar10")]
    assert legend_of(figure_of(compared(*runs))) == ["imp", "dense level", "optimal level"]
    named = [replace(run, name=name) for run, name in zip(runs, ("lenet", "resnet"), strict=True)]
    assert legend_of(figure_of(compared(*named)))[0] == "train, 3 x (prune, rewind, train)"


def test_the_legend_lists_names_that_matplotlib_would_hide() -> None:
    assert legend_of(figure_of(compared(stored("_hidden"))))[0] == "_hidden"


def test_runs_that_differ_in_numbers_alone_are_told_apart_in_a_panel() -> None:
    one, other = stored("slow", epochs=40), stored("fast", epochs=10)
    figure = figure_of(compared(one, other, stored("slow_noisy", epochs=40, noise=0.3)))
    looks = [
        (line.get_color(), line.get_marker())
        for axes in figure.axes
        for line in axes.lines
        if line.get_label()[0] != "_"
    ]
    assert len(looks) == 3
    assert looks[0] == looks[2] != looks[1]
    twins = figure_of(compared(stored("one"), stored("twin")))
    assert legend_of(twins)[:2] == ["one", "twin"]


def test_many_lines_are_told_apart_without_colour() -> None:
    runs = [stored(f"run{n}", epochs=n) for n in range(30)]
    (axes,) = figure_of(compared(*runs)).axes
    lines = [line for line in axes.lines if line.get_label()[0] != "_"]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 30
    assert len({line.get_marker() for line in lines[:9]}) == 9
    lay_out_(axes.figure)
    assert axes.get_window_extent().height > 1.5 * axes.figure.dpi


# --- Parts and subgroups


def test_parts_are_the_training_losses_of_clean_and_noisy_labels() -> None:
    found = compared(stored(noise=0.3), stored("clean"))
    made = drawing(found, "parts")
    assert made.messages == ("clean: left out, for it has no train loss noisy",)
    (axes,) = draw(made).axes
    summary = found.summaries[0]
    for part in ("clean", "noisy"):
        assert list(curve(axes, f"imp, {part} labels").get_ydata()) == column(summary, f"train_loss_{part}")
    assert sorted(dense_lines(axes)) == [
        summary.levels[0].value(f"train_loss_{part}") for part in ("clean", "noisy")
    ]
    assert stars(axes) == [
        (80.0, summary.levels[1].value(f"train_loss_{part}")) for part in ("clean", "noisy")
    ]
    with pytest.raises(NotComparable, match="nothing to draw in the figure 'parts': imp: left out"):
        drawing(compared(), "parts")


def test_bars_are_the_groups_differences_with_their_sd_round_a_line_at_zero() -> None:
    found = with_groups()
    (axes,) = figure_of(found).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    groups = found.subgroups[0].groups
    assert [bar.get_height() for bar in bars] == [group.difference.mean for group in groups]
    assert [bar.get_x() for bar in bars] == [group.lo for group in groups]
    (container,) = axes.containers[:1]
    (segments,) = [lines.get_segments() for lines in container[-1]] if isinstance(container, tuple) else [[]]
    spread = [sorted(segment[:, 1].tolist()) for segment in segments]
    assert spread == [
        pytest.approx([g.difference.mean - g.difference.std, g.difference.mean + g.difference.std])
        for g in groups
    ]
    assert [line.get_ydata() for line in axes.lines if list(line.get_ydata()) == [0, 0]]
    assert axes.get_title().splitlines() == ["level 3 (51.2% of weights) minus dense"]


def test_the_line_of_no_difference_stands_clear_of_the_panels_edge() -> None:
    found = with_groups()
    lower = replace(found.subgroups[0], groups=found.subgroups[0].groups[2:])
    (axes,) = figure_of(replace(found, subgroups=(lower,))).axes
    assert axes.get_ylim()[1] > 0.05


def test_groups_of_several_runs_have_a_panel_each_and_groups_of_one_seed_no_bars() -> None:
    figure = figure_of(with_groups(stored(), stored("twin"), seeds=1))
    assert [axes.get_title().split(":")[0].splitlines()[-1] for axes in figure.axes] == ["imp", "twin"]
    assert all(
        list(line.get_ydata()) == [0, 0] or np.isnan(np.array(line.get_ydata(), dtype=float)).all()
        for axes in figure.axes
        for line in axes.lines
    )
    with pytest.raises(NotComparable, match="--groups SCORES"):
        drawing(compared(), "subgroups")


# --- Layout


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5, 8, 13, 16, 17])
def test_panels_words_and_legend_never_overlap_nor_leave_the_figure(panels: int) -> None:
    runs = [
        stored(f"{'long_' * 8}{n}", data=f"a data set with a rather long name {n}") for n in range(panels)
    ]
    figure = figure_of(
        compared(*runs, *(extended(f"other{n}", data=run.recipe["data"]) for n, run in enumerate(runs)))
    )
    assert len(figure.axes) == panels
    lay_out_(figure)
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [
        legend.get_window_extent() for legend in figure.legends
    ]
    for one, other in combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 < box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0 < box.y1 <= figure.bbox.y1 + 1
    assert min(axes.get_window_extent().width for axes in figure.axes) > 0.5 * figure.dpi


def test_more_panels_than_a_page_has_room_for_are_refused() -> None:
    with pytest.raises(NotComparable, match="would have 65 panels"):
        drawing(compared(*(stored(str(n), data=str(n)) for n in range(65))))


# --- Files


def svg_of(found: Compared, name: str = "") -> str:
    content, messages = rendered(figure_of(found, name), ".svg")
    assert messages == ()
    return content.decode()


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_numbers_give_equal_bytes_whatever_the_machines_settings(ending: str) -> None:
    first, _ = rendered(figure_of(compared(stored(), extended())), ending)
    with matplotlib.rc_context(
        {
            "lines.linewidth": 9,
            "font.size": 30,
            "svg.hashsalt": "other",
            "savefig.dpi": 20,
            "axes.facecolor": "red",
        }
    ):
        again, _ = rendered(figure_of(compared(stored(), extended())), ending)
    assert first == again
    for word in (b"date", b"Date", b"Matplotlib v", matplotlib.__version__.encode()):
        assert word not in first or ending == ".pdf"
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert first.startswith(start)


def test_a_picture_is_sharp_enough_for_a_column() -> None:
    content, _ = rendered(figure_of(compared()), ".png")
    height, width, _ = imread(io.BytesIO(content)).shape
    assert width >= 1000
    assert height < 1.5 * width


@pytest.mark.parametrize(
    "name", [*HOSTILE, "_hidden", "$\\frac{$", "a $ b $ c", "\ufffe\U0001ffff", "日本語", "x" * 255]
)
def test_svg_shows_hostile_names_as_text(name: str) -> None:
    run = stored(name, data={name: {name: name}}, labels={name: {name: name}}, procedure=[name])
    text = svg_of(compared(run, stored("other", data={name: {name: name}}, labels={name: {name: name}})))
    root = ElementTree.fromstring(text)
    words = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    escaped = shown(name).replace("\ufffe", r"\ufffe").replace("\U0001ffff", r"\U0001ffff")
    assert "".join(escaped.split()) in "".join("".join(words).split())
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    for ending in (".png", ".pdf"):
        rendered(figure_of(compared(run)), ending)


def test_letters_that_the_font_lacks_are_told_of_once() -> None:
    figure = figure_of(compared(stored("日本語")))
    assert rendered(figure, ".svg")[1] == ()
    (message,) = rendered(figure, ".png")[1]
    assert "drawn as boxes" in message


# --- The page


class Reader(HTMLParser):
    """Reads a page's cells, tags and attributes, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, attribute: str) -> Iterator[str]:
        return (value for name, value in self.attributes if name == attribute)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize(
    "name", [*HOSTILE, "</style><script>alert(1)</script>", "\" onload='x'", "&lt;b&gt;"]
)
def test_a_page_shows_every_cell_and_runs_and_fetches_nothing(name: str) -> None:
    found = with_groups(stored(name, noise=0.3, data=name), stored("other"))
    course = Course(name, np.arange(3.0), np.ones((2, 3)), (1.0,))
    pair = correlated(found.summaries, "test_error", "train_loss_clean:dense", 0.95)
    learned = Learned(name, 3, (0, 1), np.arange(3.0), *np.ones((2, 2, 3)), np.ones((2, 4)))
    found = replace(found, correlations=(pair,), courses=(course,), learned=(learned,))
    pictures = [
        Picture(name, svg_of(found, figure), (name,)) for figure in FIGURES if figure != "double_descent"
    ]
    text = page(name, tables(found), pictures)
    reader = read(text)
    for table in tables(found):
        for cell in (
            table.title,
            *table.columns,
            *(cell for row in table.rows for cell in row),
            *table.notes,
        ):
            assert not cell or shown(cell) in reader.words
    assert reader.words.count(shown(name)) >= 8
    assert not {"script", "img", "link", "iframe", "object", "embed", "form", "a", "base"} & set(reader.tags)
    assert not [
        name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "srcset", "action")
    ]
    assert all(value.startswith("#") for name in ("href", "xlink:href") for value in reader.values(name))
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")
    assert reader.tags.count("svg") == len(pictures)


def test_the_pictures_of_a_page_share_no_names_and_keep_their_own() -> None:
    pictures = [Picture("", svg_of(compared(stored(means=(n, 1, 2, 3))))) for n in range(3)]
    text = page("", [], pictures)
    reader = read(text)
    names = list(reader.values("id"))
    assert len(names) == len(set(names)) > 30
    wanted = {value[1:] for value in reader.values("xlink:href")}
    wanted |= {value[5:-1] for value in reader.values("clip-path")}
    assert wanted
    assert wanted <= set(names)


# --- The command


def carry_out(runs: Sequence[StoredRun], root: Path, *options: str, figure: str | None = None) -> None:
    """Compares runs that are there in memory, drawing into files below `root`."""
    known = {root / run.name: run for run in runs}
    for path in known:
        path.mkdir(exist_ok=True)
    plots = [root / option for option in options if not option.endswith("html")]
    pages = [root / option for option in options if option.endswith("html")]
    plotting = checked_plotting(plots, pages, figure, grouped=figure == "subgroups")
    compare_runs([str(path) for path in known], Settings(plotting=plotting), lambda path: known[path])


def test_files_are_drawn_by_their_ending_beside_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out([stored(), extended()], tmp_path, "a.png", "a.svg", "a.pdf", "a.html")
    told = capsys.readouterr()
    assert "verdict" in told.out
    assert [
        f"wrote {tmp_path / name}" for name in ("a.png", "a.svg", "a.pdf", "a.html")
    ] == told.err.splitlines()
    assert (tmp_path / "a.svg").read_text() == svg_of(compared(stored(), extended()))
    assert read((tmp_path / "a.html").read_text()).tags.count("svg") == 2


def test_what_cannot_be_drawn_is_told_once_and_the_tables_are_there_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotComparable, match=r"^nothing to draw in the figure 'parts': imp: left out[^\n]*$"):
        carry_out([stored()], tmp_path, "a.png", "a.html", figure="parts")
    assert "verdict" in capsys.readouterr().out
    assert not (tmp_path / "a.png").exists()
    assert "<table>" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("name", ["no/a.png", "no/a.html"])
def test_a_file_that_cannot_be_written_is_an_error_of_storage(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        carry_out([stored()], tmp_path, name)
    assert "verdict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.jpg"], "--plot a.jpg: unknown ending; known: .png .svg .pdf"),
        (["--html", "a.txt"], "--html a.txt: unknown ending; known: .html .htm"),
        (["--figure", "parts"], "give --plot FILE or --html FILE too"),
        (["--figure", "subgroups", "--plot", "a.png"], "give --groups SCORES too"),
        (["--figure", "cake", "--plot", "a.png"], "density"),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["compare", "nowhere", *options])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_groups_are_what_is_drawn_where_groups_are_asked_for(tmp_path: Path) -> None:
    plotting = checked_plotting([tmp_path / "a.png"], [], None, grouped=True)
    (tmp_path / "imp").mkdir()
    with pytest.raises(NotComparable, match="nothing to draw in the figure 'subgroups'"):
        compare_runs([str(tmp_path / "imp")], Settings(plotting=plotting), lambda _path: stored())


def test_the_command_line_names_every_figure_and_every_ending() -> None:
    assert set(FigureName) == set(FIGURES)
    assert set(PICTURES) == set(ENDINGS)
    with pytest.raises(UsageError):
        checked_plotting([Path("a")], [], None, grouped=False)


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = "import sys, prunecli.report, prunecli.cli.app, prunecli.cli.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def point(name: str, **recipe: Any) -> StoredRun:  # Any: a recipe's values
    """A run that trains once."""
    return stored(name, density=[1.0], spent=[40.0], means=[2.0], **{"procedure": ["train"], **recipe})


@pytest.mark.parametrize("name", ["density", "epochs"])
def test_single_points_that_hide_the_paths_are_left_out_and_said(name):
    part = {"examples": {"without_random": {"like": "x"}}}
    runs = [stored(), point("less", **part), point("again", replicate=1), point("dense")]
    elsewhere = point("other", data="mnist")
    made = drawing(compared(*runs, elsewhere), name)
    assert [[one.label for one in panel.curves] for panel in made.panels] == [["imp"], ["other"]]
    assert made.messages == (
        "less: left out, for it is a retraining of a single level",
        "again: left out, for it is a retraining of a single level",
        "dense: left out, for its panel has the dense level of a pruned run",
    )
    whole = drawing(compared(stored("kept", replicate=1), stored(procedure=["train", "prune"])), name)
    assert (len(whole.panels[0].curves), whole.messages) == (2, ())
    at_once = stored("at_once", density=(0.8, 0.64, 0.5, 0.4))
    assert len(drawing(compared(at_once, point("dense")), name).panels[0].curves) == 2
