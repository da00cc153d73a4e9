"""Correlations over the seeds of runs: coefficients and intervals, what they are of, and how they are told."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, kendalltau, pearsonr
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.cli.compare import Format, Settings, compare_runs
from prunecli.cli.plots import checked_plotting
from prunecli.compare import Compared, summarize
from prunecli.correlations import (
    Correlation,
    Point,
    correlation,
    kendall_of_resamples,
    pearson_of_resamples,
)
from prunecli.courses import Course, course_of
from prunecli.errors import UsageError
from prunecli.report import FORMATS, tables
from prunecli.report.data import as_csv, as_json
from prunecli.report.figure_data import drawing
from prunecli.report.figures import draw, rendered
from prunecli.stability import correlated, event_levels, pairs_of, quantified, quantity
from prunecli.store.observations import read_epochs
from prunecli.store.reading import read_run
from prunecli.store.values import StoredRun

NAN = math.nan
SEEDS = (0, 1, 2)


def points(x: Sequence[float], y: Sequence[float], *, runs: int = 3) -> list[Point]:
    """Points that are dealt out to so many runs."""
    return [Point(f"r{n % runs}", n, a, b) for n, (a, b) in enumerate(zip(x, y, strict=True))]


def of(x: Sequence[float], y: Sequence[float], *, runs: int = 3, resamples: int = 500) -> Correlation:
    return correlation("x", "y", points(x, y, runs=runs), resamples=resamples)


def cloud(count: int = 24, *, slope: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count)
    return x, slope * x + rng.normal(size=count)


# --- Coefficients and intervals


def test_coefficients_of_four_points():
    found = of([1, 2, 3, 4], [1, 3, 2, 4])
    assert found.pearson.value == pytest.approx(0.8)
    assert found.kendall.value == pytest.approx(4 / 6)
    assert found.pearson.p == pytest.approx(0.2)
    assert found.line == pytest.approx((0.8, 0.5))


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=9), st.data())
def test_a_resample_has_the_correlation_of_the_points_that_it_draws(pairs, data):
    x, y = np.array(pairs, dtype=np.float64).T
    drawn = data.draw(st.lists(st.integers(0, len(x) - 1), min_size=len(x), max_size=len(x)))
    counts = np.bincount(drawn, minlength=len(x))[None, :].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of points that are all one SciPy makes NaN, and says so.
        wanted = pearsonr(x[drawn], y[drawn]).statistic, kendalltau(x[drawn], y[drawn]).statistic
    assert pearson_of_resamples(x, y, counts)[0] == pytest.approx(wanted[0], nan_ok=True)
    assert kendall_of_resamples(x, y, counts)[0] == pytest.approx(wanted[1], nan_ok=True)


@pytest.mark.parametrize("slope", [-1.0, 0.3, 2.0])
def test_the_interval_is_scipys_percentiles_of_resampled_points(slope):
    x, y = cloud(slope=slope)
    found = correlation("x", "y", points(x, y))
    for one, test in ((found.pearson, pearsonr), (found.kendall, kendalltau)):
        theirs = bootstrap(
            (x, y),
            lambda a, b, test=test: test(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=2_000,
            method="percentile",
            random_state=np.random.default_rng(1),
        ).confidence_interval
        assert one.interval == pytest.approx((theirs.low, theirs.high), abs=0.04)


def test_equal_points_give_equal_intervals_and_more_confidence_wider_ones():
    x, y = cloud()
    assert of(x, y) == of(x, y)
    wide, narrow = (correlation("x", "y", points(x, y), confidence=level).pearson for level in (0.99, 0.8))
    assert wide.interval[0] < narrow.interval[0] < wide.value < narrow.interval[1] < wide.interval[1]


def test_seeds_of_one_run_that_stand_together_widen_the_interval_over_runs():
    """Four runs whose seeds hardly differ are four points, and not forty."""
    rng = np.random.default_rng(3)
    means = [(0, 0), (1, 2), (2, 0.5), (3, 3)]
    stands = [
        Point(f"r{run}", seed, x + rng.normal(0, 0.01), y + rng.normal(0, 0.01))
        for run, (x, y) in enumerate(means)
        for seed in range(10)
    ]
    found = correlation("x", "y", stands).pearson
    by_point, by_run = (high - low for low, high in (found.interval, found.interval_by_run))
    assert by_run > 2 * by_point


@settings(deadline=None)
@given(st.floats(0.1, 1e6), st.floats(-1e3, 1e3))
def test_units_do_not_matter(scale, shift):
    x, y = cloud(12)
    one, other = of(x, y, resamples=50), of(scale * x + shift, y, resamples=50)
    assert other.pearson.value == pytest.approx(one.pearson.value, abs=1e-6)
    assert other.kendall.value == pytest.approx(one.kendall.value, abs=1e-6)


def test_numbers_that_differ_by_rounding_are_ties():
    third = [0.1 + 0.2, 0.3, 1.0, 2.0]
    assert of(third, [2, 1, 3, 4]).kendall.value == of([0.3, 0.3, 1.0, 2.0], [2, 1, 3, 4]).kendall.value
    assert of([0.1 + 0.2, 0.3, 0.3, 0.3], [1, 2, 3, 4]).pearson.value is None


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([1, 2, 3], [1, 2, 3], "3 points; it takes 4"),
        ([], [], "0 points; it takes 4"),
        ([1, 2, 3, NAN, 5], [1, NAN, 2, 3, 4], "3 points; it takes 4"),
        ([7, 7, 7, 7], [1, 2, 3, 4], "x is the same in all 4 points"),
        ([1, 2, 3, 4], [0, 0, 0, 0], "y is the same in all 4 points"),
    ],
)
def test_where_there_is_no_correlation_nothing_is_made_up(x, y, why):
    found = of(x, y)
    assert why in found.notes[0]
    for one in (found.pearson, found.kendall):
        assert (one.value, one.p, one.interval, one.interval_by_run) == (None,) * 4
    assert found.line is None


def test_points_that_lack_a_number_are_dropped_and_counted():
    found = of([1, 2, 3, 4, NAN, 6], [1, 3, 2, 4, 5, math.inf])
    assert (len(found.points), found.dropped) == (4, 2)
    assert found.pearson == of([1, 2, 3, 4], [1, 3, 2, 4]).pearson


def test_too_few_runs_or_too_little_variety_have_no_interval_and_say_so():
    x, y = cloud(12)
    assert of(x, y, runs=2).pearson.interval_by_run is None
    assert "2 of them; it takes 3" in of(x, y, runs=2).notes[0]
    mostly = [100.0] * 10 + [99.0, 98.0]
    assert of(mostly, y).pearson.interval is None
    assert any("one and the same number" in note for note in of(mostly, y).notes)


def test_numbers_of_any_size_do_no_harm():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = of([1e300, -1e300, 5e299, 0.0], [1e-300, 2e-300, 0.0, 1e-301], resamples=50)
    assert found.pearson.value is not None
    assert abs(found.pearson.value) <= 1


# --- Quantities of runs


def run(
    name: str = "pruned",
    *,
    instability: Sequence[float] = (NAN, 0.1, 0.3),
    removed: Sequence[float] | None = (0, 4, 4),
    best: float = 5.0,
    spread: float = 0.2,
    spent: Sequence[float] = (4, 8, 20),
    **metrics: Sequence[float],
) -> StoredRun:
    """A run of three seeds and three levels; the best error of the last one is about `best`."""
    offsets = np.arange(3)[:, None] * spread
    rows = {
        "test_error": [9.0, 8.0, best],
        "best_test_error": [8.0, 7.0, best],
        "late_test_error": [8.0, 7.0, best + 1],
        "generalization_gap": [1.0, 2.0, 3.0],
        "instability": instability,
        "test_error_before_pruning": [NAN, 10.0, 20.0],
        "test_error_after_pruning": [NAN, 19.0, 44.0],
        **({} if removed is None else {"removed": removed}),
        **metrics,
    }
    exact = ("instability", "removed", "test_error_before_pruning", "test_error_after_pruning")
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest=name,
        status="complete",
        recipe={"model": "lenet_5", "data": "digits", "labels": "clean", "procedure": [name]},
        seeds=SEEDS,
        density=np.array([1.0, 0.8, 0.6]),
        spent=np.array(spent, dtype=np.float64),
        metrics={
            metric: np.array(row, dtype=np.float64) + (0 * offsets if metric in exact else offsets)
            for metric, row in rows.items()
        },
        units={"test_error": "percent"},
        total=1000,
    )


def test_stability_is_the_mean_over_events_of_what_is_left():
    found = summarize(run())
    assert quantity(found, "mean_stability") == pytest.approx(dict.fromkeys(SEEDS, 80.0))
    assert quantity(found, "mean_accuracy_drop") == pytest.approx(dict.fromkeys(SEEDS, (9 + 24) / 2))
    assert quantity(found, "largest_accuracy_drop") == pytest.approx(dict.fromkeys(SEEDS, 24.0))
    assert quantity(found, "events") == dict.fromkeys(SEEDS, 2.0)


def test_an_event_is_a_level_that_something_was_chosen_at():
    quiet = summarize(run(removed=(0, 4, 0)))
    assert quantity(quiet, "mean_stability") == pytest.approx(dict.fromkeys(SEEDS, 90.0))
    unknown = summarize(run(removed=None, instability=(NAN, NAN, 0.3)))
    assert quantity(unknown, "mean_stability") == pytest.approx(dict.fromkeys(SEEDS, 70.0))


def test_what_never_prunes_trained_weights_is_wholly_stable():
    never = summarize(run(removed=(0, 0, 0), instability=(NAN, NAN, NAN)))
    before = summarize(run(removed=(0, 4, 0), instability=(NAN, 0.5, NAN), spent=(0, 4, 20)))
    for one in (never, before):
        assert quantity(one, "mean_stability") == dict.fromkeys(SEEDS, 100.0)
        assert quantity(one, "mean_accuracy_drop") == quantity(one, "events") == dict.fromkeys(SEEDS, 0.0)
    assert event_levels(before, 0) == []


def test_accuracies_are_those_of_the_last_level():
    found = summarize(run(best=5.0))
    assert quantity(found, "best_test_accuracy") == pytest.approx({0: 95, 1: 94.8, 2: 94.6})
    assert quantity(found, "late_test_accuracy") == pytest.approx({0: 94, 1: 93.8, 2: 93.6})
    assert quantity(found, "selected_test_accuracy") == {}
    assert quantity(found, "test_error:dense") == pytest.approx({0: 9, 1: 9.2, 2: 9.4})
    assert quantity(found, "test_error:1") == pytest.approx({0: 8, 1: 8.2, 2: 8.4})
    assert quantity(found, "test_error:last") == quantity(found, "test_error")


def test_a_seed_without_the_last_level_has_no_quantity_yet():
    whole = run()
    cut = {name: values.copy() for name, values in whole.metrics.items()}
    for values in cut.values():
        values[2, -1] = NAN
    found = summarize(replace(whole, metrics=cut, status="running"))
    assert set(quantity(found, "mean_stability")) == set(quantity(found, "best_test_accuracy")) == {0, 1}
    assert correlated([found], "mean_stability", "best_test_accuracy", 0.95).dropped == 1


def test_the_papers_pairs_have_the_flatness_that_is_stored():
    plain, flat = summarize(run()), summarize(run(hessian_sum=[NAN, NAN, 300.0]))
    first = [("mean_stability", "best_test_accuracy"), ("mean_stability", "generalization_gap")]
    assert pairs_of(["stability"], [plain]) == first
    flatness = [("mean_stability", "hessian_sum"), ("hessian_sum", "best_test_accuracy")]
    assert pairs_of(["stability"], [plain, flat]) == [*first, *flatness]
    assert pairs_of(["stability", "mean_stability, best_test_accuracy"], [plain]) == first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mean_stability", "should be two quantities"),
        ("a,b,c", "should be two quantities"),
        ("mean_stabilty,test_error", "'mean_stabilty' is known to no run; did you mean 'mean_stability'"),
        ("mean_stability:2,test_error", "is derived from several levels"),
        ("events,test_error:9", "no run has level '9'"),
        ("events,test_error:best", "no run has level 'best'"),
    ],
)
def test_a_slip_of_the_pen_is_told(text, told):
    with pytest.raises(UsageError, match=told):
        pairs_of([text], [summarize(run())])


# --- How they are told


def several() -> list[StoredRun]:
    return [
        run(f"r{n}", instability=(NAN, 0.1 * n, 0.1 * n), best=9.0 - n, spread=0.1 * n + 0.1)
        for n in range(1, 4)
    ]


def compared(*runs: StoredRun, pairs: Sequence[str] = ("stability",)) -> Compared:
    summaries = tuple(map(summarize, runs or several()))
    found = tuple(correlated(summaries, x, y, 0.95) for x, y in pairs_of(pairs, summaries))
    return Compared(summaries, correlations=found, table="correlations" if found else "stability")


def test_the_table_has_a_row_a_run_and_a_row_a_pair_and_owns_up_to_clusters():
    by_run, by_pair = tables(compared())
    assert [row[0] for row in by_run.rows] == ["r1", "r2", "r3"]
    assert by_run.rows[0][by_run.columns.index("mean stability %")] == "90.00 ± 0.00"
    assert by_run.rows[0][by_run.columns.index("best test accuracy %")] == "91.80 ± 0.20"
    assert [row[:4] for row in by_pair.rows] == [
        ("mean_stability", "best_test_accuracy", "9", "3"),
        ("mean_stability", "generalization_gap", "9", "3"),
    ]
    assert any("not independent" in note for note in by_pair.notes)
    assert any("optimistic" in note for note in by_run.notes)


def test_every_format_has_the_correlation():
    found = compared(*several(), run("r4", instability=(NAN, 0.4, 0.5), best=4.0))
    value = found.correlations[0].pearson.value
    assert -1 < value < -0.9
    for name in ("table", "md", "latex"):
        assert f"{value:.2f}".strip("-") in FORMATS[name](found, True)
    document = json.loads(as_json(found))
    assert document["correlations"][0]["pearson"]["value"] == value
    by_run = found.correlations[0].pearson.interval_by_run
    assert document["correlations"][0]["pearson"]["by_run"]["interval"] == list(by_run)
    assert len(document["correlations"][0]["values"]) == 12
    assert document["stability"] == []
    first, _ = csv.DictReader(io.StringIO(as_csv(found)))
    assert float(first["pearson_value"]) == value
    assert float(first["pearson_by_run_interval_low"]) == by_run[0]


def test_the_table_of_stability_as_data():
    found = compared(*several(), pairs=())
    document = json.loads(as_json(found))
    assert document["correlations"] == []
    assert [one["run"] for one in document["stability"]] == ["r1", "r2", "r3"]
    assert document["stability"][1]["mean_stability"]["mean"] == pytest.approx(80)
    assert as_csv(found).splitlines()[0].startswith("run,status,seeds,events_mean,events_std,events_n")
    assert quantified(found)[0].quantities["hessian_sum"].n == 0


def test_nulls_and_notes_where_there_is_nothing_to_correlate():
    found = compared(run(), pairs=["mean_stability,best_test_accuracy", "test_error:dense,instability"])
    document = json.loads(as_json(found))
    for one in document["correlations"]:
        assert one["pearson"] == {"value": None, "p": None, "interval": None, "by_run": {"interval": None}}
        assert one["notes"]
    assert all(text for text in (form(found, True) for form in FORMATS.values()))
    assert as_csv(found).count("\n") == 3


def test_the_command_prints_correlations_and_draws_them(tmp_path, capsys):
    runs = {tmp_path / one.name: one for one in several()}
    for path in runs:
        path.mkdir()
    plotting = checked_plotting(
        [tmp_path / "a.svg", tmp_path / "a.png"],
        [tmp_path / "a.html"],
        None,
        grouped=False,
        correlated=True,
    )
    settings = Settings(pairs=("mean_stability,best_test_accuracy",), plotting=plotting, format=Format.json)
    compare_runs([str(path) for path in runs], settings, lambda path: runs[path])
    document = json.loads(capsys.readouterr().out)
    assert [one["n"] for one in document["correlations"]] == [9]
    svg = (tmp_path / "a.svg").read_text()
    assert "best test accuracy (%)" in svg
    assert "mean stability (%)" in svg
    assert "correlations over the seeds of runs" in (tmp_path / "a.html").read_text()


# --- Figures


def test_the_figure_has_each_seed_the_line_and_the_coefficients():
    found = compared()
    (axes, _) = draw(drawing(found)).axes
    drawn = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    xy = {tuple(map(float, point)) for line in drawn for point in line.get_xydata()}
    assert xy == {(point.x, point.y) for point in found.correlations[0].points}
    (line,) = [line for line in axes.lines if line not in drawn]
    slope, intercept = found.correlations[0].line
    assert line.get_ydata() == pytest.approx([slope * x + intercept for x in line.get_xdata()])
    title = " ".join(axes.get_title().split())
    value, ends = found.correlations[0].pearson.value, found.correlations[0].pearson.interval
    assert f"r {value:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}]" in title
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("mean stability (%)", "best test accuracy (%)")


def courses(*names: str) -> tuple[Course, ...]:
    epochs = np.arange(1.0, 21.0)
    rows = {seed: np.stack([epochs, 20 - epochs / 2 + seed]) for seed in SEEDS}
    return tuple(course_of(name, rows, [4.0, 8.0]) for name in names)


def test_training_is_drawn_epoch_by_epoch_with_its_events():
    found = replace(compared(*several()[:2]), courses=courses("r1", "r2"))
    (axes,) = draw(drawing(found, "training")).axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 20]
    assert len(curves) == 2
    assert curves[0].get_ydata() == pytest.approx(80 + np.arange(1, 21) / 2 - 1)
    marks = [line for line in axes.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in marks] == [[4.0, 8.0]] * 2


RECIPE = """
model: {mlp: {hidden: [12]}}
data: digits
optimizer: adam
learning_rate: {constant: {value: 0.005}}
epochs: 3
batch_size: 256
validation: 0.2
seeds: [0, 1]
procedure:
  - prune_during_training: {criterion: l2_norm, every: 1, layers: {fc_layers.0.weight: {fraction: 0.5, start: 0, end: 2}}}
  - train
observe: [instability, epochs]
"""


def test_a_run_is_measured_stored_and_drawn_epoch_by_epoch(tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    runs = tmp_path / "runs"
    done = CliRunner().invoke(
        app, ["prune", str(tmp_path / "small.yaml"), "--runs", str(runs), "--workers", "1"]
    )
    assert done.exit_code == 0, done.stderr
    (path,) = runs.glob("small-*")
    found = summarize(read_run(path))
    course = course_of("a", read_epochs(path, len(found.levels)), [])
    assert course.epochs.tolist() == [1, 2, 3]
    best = quantity(found, "best_test_accuracy")
    assert course.accuracy[:, 2].tolist() == pytest.approx([best[0], best[1]])
    assert quantity(found, "events") == {0: 2.0, 1: 2.0}
    stabilities = [
        100 * (1 - quantity(found, f"instability:{level.level}")[0]) for level in found.levels[-2:]
    ]
    assert quantity(found, "mean_stability")[0] == pytest.approx(sum(stabilities) / 2)
    picture = tmp_path / "a.svg"
    done = CliRunner().invoke(
        app, ["compare", str(path), "--figure", "training", "--plot", str(picture), "--table", "stability"]
    )
    assert done.exit_code == 0, done.stderr
    assert "mean stability" in done.stdout
    assert "test accuracy (%)" in picture.read_text()


def test_a_course_has_the_epochs_of_every_seed():
    rows = {1: np.array([[1.0, 2.0], [10.0, 20.0]]), 0: np.array([[2.0, 3.0], [30.0, NAN]])}
    found = course_of("a", rows, [])
    assert found.epochs.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found.accuracy, [[NAN, 70, NAN], [90, 80, NAN]])


@pytest.mark.parametrize("name", ["correlations", "training"])
def test_equal_numbers_give_equal_bytes(name):
    found = [replace(compared(), courses=courses("r1", "r2", "r3")) for _ in range(2)]
    for ending in (".svg", ".png", ".pdf"):
        one, other = (rendered(draw(drawing(each, name)), ending)[0] for each in found)
        assert one == other


def test_the_figure_of_correlations_needs_some():
    with pytest.raises(UsageError, match="give --correlate X,Y too"):
        checked_plotting([Path("a.png")], [], "correlations", grouped=False)
