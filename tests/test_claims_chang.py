"""The claims of Chang et al. (2021) on linear problems: each holds, and does not hold, on runs made to show it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunecli.claims.answers import FAILS, HOLDS, UNDECIDED, UNTESTED
from prunecli.claims.descent_study import descent_study
from prunecli.claims.papers import claims_of
from prunecli.claims.registry import Claim
from prunecli.compare import Compared, summarize
from prunecli.double_descent import sweeps
from prunecli.report.figure_double_descent import double_descent_drawn
from prunecli.report.figures import draw, rendered
from prunecli.report.theory import theory_records, theory_tables
from prunecli.store.values import StoredRun
from prunecli.theory import predicted_risk, spiked

NUMBERS = [f"C{number}" for number in range(1, 9)]
LINEAR = {
    "linear_gaussian": {"setting": "spiked", "features": 100, "examples": 40, "noise": 0.1, "correlation": 0}
}
IDENTITY = {"linear_gaussian": {**LINEAR["linear_gaussian"], "setting": "identity"}}
RANDOM = {"random_features": {"features": 100, "inputs": 4, "examples": 40, "noise": 0}}
WIDTHS = (4, 10, 20, 40, 100)
SEEDS = (0, 1, 2, 3)
Risks = Sequence[float]


def stored(
    recipe: Mapping[str, object], metrics: Mapping[str, Risks], kept: int, total: int, name: str
) -> StoredRun:
    """A run of two levels, whose seeds differ a little."""
    spread = np.random.default_rng(zlib.crc32(name.encode()))
    return StoredRun(
        name=name,
        path=Path(name),
        digest=name,
        status="complete",
        recipe=recipe,
        seeds=SEEDS,
        density=np.array([1.0, kept / total]),
        spent=np.zeros(2),
        metrics={
            metric: np.array(values) * (1 + 0.002 * spread.standard_normal((len(SEEDS), 2)))
            for metric, values in metrics.items()
        },
        units={},
        total=total,
    )


def linear(
    dense: Risks,
    pruned: Risks,
    retrained: Risks,
    *,
    pruner: str = "oracle",
    data: object = LINEAR,
    s: int = 10,
) -> list[StoredRun]:
    """A run at each of WIDTHS."""
    rows = zip(WIDTHS, dense, pruned, retrained, strict=True)
    return [
        stored(
            {
                "model": {"linear": {"features": p}},
                "data": data,
                "procedure": [
                    "solve",
                    {"prune_to_count": {"count": min(s, p), "criterion": pruner}},
                    {"observe": {"observers": ["risk_after_pruning"]}},
                    "solve",
                ],
            },
            {
                "risk": (before, after),
                "risk_after_pruning": (math.nan, cut),
                "test_loss": (before, after),
                "null_risk": (1.0, 1.0),
            },
            min(s, p),
            p,
            f"{pruner}-{p}-{'random' if data is RANDOM else data['linear_gaussian']['setting']}",
        )
        for p, before, cut, after in rows
    ]


def correlated(retrained: Mapping[float, float]) -> list[StoredRun]:
    """A run at each correlation, of risk 1 as pruned."""
    return [
        stored(
            {
                "model": {"linear": {"features": 100}},
                "data": {"linear_gaussian": {**IDENTITY["linear_gaussian"], "correlation": rho, "block": 10}},
                "procedure": ["solve", {"prune_to_count": {"count": 10, "criterion": "magnitude"}}, "solve"],
            },
            {"risk": (0.5, risk), "risk_after_pruning": (math.nan, 1.0)},
            10,
            100,
            f"rho-{rho}",
        )
        for rho, risk in retrained.items()
    ]


def claim(number: str) -> Claim:
    return next(one for one in claims_of("chang2021") if one.number == number)


def answers(number: str, runs: Sequence[StoredRun]) -> list[str]:
    study = descent_study(Compared(tuple(map(summarize, runs)), "risk"))
    return [finding.answer for finding in claim(number).findings(study)]


DENSE = (0.9, 0.6, 0.8, 50.0, 0.5)
DOWN = (0.9, 0.6, 0.7, 30.0, 0.55)
FLAT = (1.0, 0.8, 0.8, 0.8, 0.8)


def test_every_claim_has_its_rule():
    assert [one.number for one in claims_of("chang2021")][:8] == NUMBERS
    assert all(claim(number).text and claim(number).rule for number in NUMBERS)


@pytest.mark.parametrize(
    ("pruned", "answer"),
    [
        (DOWN, HOLDS),
        ((0.9, 0.6, 0.7, 30.0, 0.65), FAILS),
        ((0.9, 0.6, 0.7, 0.5, 0.4), FAILS),
        ((0.9, 0.6, 0.7, 30.0, 0.6), UNDECIDED),
        ((0.5, 0.6, 0.7, 30.0, 0.4), UNTESTED),
    ],
)
def test_c1_the_pruned_risk_descends_twice(pruned, answer):
    assert answers("C1", linear(DENSE, pruned, pruned)) == [answer]


@pytest.mark.parametrize(("last", "answer"), [(0.55, HOLDS), (0.65, FAILS), (0.6, UNDECIDED)])
def test_c2_is_against_the_dense_model_of_s_features(last, answer):
    assert answers("C2", linear(DENSE, (*DOWN[:-1], last), FLAT)) == [answer]


@pytest.mark.parametrize(
    ("data", "magnitude", "answer"),
    [(LINEAR, 0.9, HOLDS), (LINEAR, 0.5, FAILS), (IDENTITY, 0.56, HOLDS), (IDENTITY, 0.9, FAILS)],
)
def test_c3_depends_on_whether_variances_are_equal(data, magnitude, answer):
    runs = linear(DENSE, DOWN, FLAT, pruner="hessian", data=data)
    runs += linear(DENSE, (*DOWN[:-1], magnitude), FLAT, pruner="magnitude", data=data)
    assert answers("C3", runs) == [answer]


@pytest.mark.parametrize(("again", "answer"), [(0.7, HOLDS), (0.4, FAILS)])
def test_c4_retraining_hurts(again, answer):
    assert answers("C4", linear(DENSE, DOWN, (*FLAT[:-1], again))) == [answer]


@pytest.mark.parametrize(
    ("risks", "answer"),
    [
        ({0.0: 1.3, 0.2: 1.1, 0.3: 1.0, 0.4: 0.9}, HOLDS),
        ({0.0: 1.3, 0.2: 0.9, 0.4: 0.8}, FAILS),
        ({0.0: 1.3, 0.4: 1.1}, FAILS),
        ({0.0: 1.3, 0.1: 1.1}, UNTESTED),
    ],
)
def test_c5_retraining_comes_to_help(risks, answer):
    assert answers("C5", correlated(risks)) == [answer]


@pytest.mark.parametrize(("retrained", "answer"), [(DOWN, HOLDS), ((0.9, 0.6, 0.7, 30.0, 0.7), FAILS)])
def test_c6_is_c1_of_retrained_random_features(retrained, answer):
    runs = linear(DENSE, FLAT, retrained, pruner="magnitude", data=RANDOM)
    assert answers("C6", runs) == [answer]
    assert answers("C1", runs) == []


@pytest.mark.parametrize(("last", "answer"), [(0.99, HOLDS), (0.5, FAILS)])
def test_c7_pruned_features_are_as_bad_as_none(last, answer):
    runs = linear(DENSE, (*FLAT[:-1], last), DOWN, pruner="magnitude", data=RANDOM)
    assert answers("C7", runs) == [answer]


@pytest.mark.parametrize(("retrained", "answer"), [(FLAT, HOLDS), ((0.9, 0.6, 0.3, 0.7, 0.6), FAILS)])
def test_c8_a_random_support_is_flat(retrained, answer):
    assert answers("C8", linear(DENSE, FLAT, retrained, pruner="random", data=RANDOM)) == [answer]


def test_sweeps_are_told_apart_by_what_is_swept():
    runs = [
        *linear(DENSE, DOWN, FLAT),
        *linear(DENSE, DOWN, FLAT, data=IDENTITY),
        *correlated({0.1: 1.0, 0.5: 1.0}),
    ]
    found = sweeps(runs)
    assert [(one.path, len(one.lines)) for one in found] == [
        (("model", "features"), 3),
        (("model", "features"), 3),
        (("data", "correlation"), 3),
    ]
    first = found[0]
    assert (first.examples, first.kept) == (40, 10)
    assert first.null == pytest.approx(1, abs=0.01)
    assert first.problem.spectrum == pytest.approx(spiked(100).spectrum)
    assert found[2].problem is None or found[2].path != ("model", "features")
    assert [first.is_near_peak(p) for p in WIDTHS] == [False, False, False, True, False]


def network(width: float, density: float, errors: Mapping[str, Risks]) -> StoredRun:
    recipe = {
        "model": {"lenet_300_100": {"width": width}},
        "data": "digits",
        "procedure": [
            "train",
            {"prune_to": {"density": density, "criterion": "magnitude"}},
            "rewind",
            "train",
        ],
    }
    return stored(recipe, errors, round(1000 * width * density), round(1000 * width), f"width-{width}")


def test_networks_of_any_width_have_a_place_too():
    runs = [
        network(
            width,
            0.1 / width,
            {"test_error": (10 / width, 20 / width), "test_error_after_pruning": (0, 50.0)},
        )
        for width in (0.1, 0.5, 1.0)
    ]
    (found,) = sweeps(runs)
    assert found.metric == "test_error"
    assert found.kept == 100
    assert [line.name for line in found.lines] == ["dense", "magnitude", "magnitude, retrained"]
    assert [point.values[0] for point in found.lines[2].points] == pytest.approx([200, 40, 20], rel=0.01)
    drawn = double_descent_drawn(Compared(tuple(map(summarize, runs))))
    assert [curve.y[0] for curve in drawn.panels[0].curves] == pytest.approx([100, 50, 200], rel=0.01)
    assert drawn.panels[0].rules == ()


def test_the_figure_has_theorys_curves_and_lines():
    runs = linear(DENSE, DOWN, FLAT)
    drawing = double_descent_drawn(Compared(tuple(map(summarize, runs)), "risk"))
    (panel,) = drawing.panels
    assert [rule.at for rule in panel.rules if rule.upright] == [10, 40]
    curves = {curve.label: curve for curve in panel.curves}
    assert set(curves) == {"dense", "oracle", "oracle, retrained"}
    assert all(len(curve.x) > 40 for curve in curves.values())
    assert "49.9 at 40" in panel.subtitle
    assert max(y for curve in panel.curves for y in curve.y if y == y) < 2
    content, _ = rendered(draw(drawing), ".svg")
    assert (
        content
        == rendered(draw(double_descent_drawn(Compared(tuple(map(summarize, runs)), "risk"))), ".svg")[0]
    )


def test_what_a_stored_recipe_says_wrong_leaves_theory_out():
    for odd in ({"features": 10**12}, {"setting": "none"}, {"noise": "x"}, {"noise": -1}, {"features": True}):
        data = {"linear_gaussian": {**LINEAR["linear_gaussian"], **odd}}
        (found,) = sweeps(linear(DENSE, DOWN, FLAT, data=data))
        assert found.problem is None
        assert theory_records(Compared(tuple(map(summarize, linear(DENSE, DOWN, FLAT, data=data))), "risk"))


def test_medians_are_of_finite_seeds():
    run = linear(DENSE, DOWN, FLAT)[0]
    run.metrics["risk"][0, 0] = math.nan
    (found,) = sweeps([run, *linear(DENSE, DOWN, FLAT)[1:]])
    assert sorted(found.line().points[0].values) == [1, 2, 3]


def told_otherwise(runs: Sequence[StoredRun], by: float = 1.0, **recipe: object) -> list[StoredRun]:
    """The same runs under other names, with other entries of their recipes, their risks multiplied."""
    return [
        replace(
            run,
            name=f"other-{run.name}",
            path=Path(f"other-{run.name}"),
            recipe={**run.recipe, **recipe},
            metrics={name: by * value for name, value in run.metrics.items()},
        )
        for run in runs
    ]


def compared(runs: Sequence[StoredRun]) -> Compared:
    return Compared(tuple(map(summarize, runs)), "risk")


def procedure(prune: object, *, again: Sequence[object] = ("solve",)) -> list[object]:
    return ["solve", prune, {"observe": {"observers": ["risk_after_pruning"]}}, *again]


def lengths(runs: Sequence[StoredRun]) -> dict[str, int]:
    """Of the curves of the only panel: theory's are long."""
    (panel,) = double_descent_drawn(compared(runs)).panels
    return {curve.label: len(curve.x) for curve in panel.curves}


def test_what_trains_otherwise_is_a_line_of_its_own():
    runs = linear(DENSE, DOWN, FLAT)
    others = [
        told_otherwise(
            [run], 2.0, procedure=procedure(run.recipe["procedure"][1], again=[{"train": {"epochs": 9}}])
        )
        for run in runs
    ]
    both = [*runs, *(other for (other,) in others)]
    (found,) = sweeps(both)
    names = {line.name: line for line in found.lines}
    assert set(names) == {"dense", "oracle", "oracle, solve, retrained", "oracle, train epochs 9, retrained"}
    assert names["oracle, solve, retrained"].at(100).median == pytest.approx(0.8, rel=0.01)
    assert names["oracle, train epochs 9, retrained"].at(100).median == pytest.approx(1.6, rel=0.01)
    assert answers("C4", both) == [UNTESTED]


def test_values_that_runs_made_alike_differ_in_are_told():
    runs = linear(DENSE, DOWN, FLAT)
    assert not sweeps([*runs, *told_otherwise(runs)])[0].notes
    both = [*runs, *told_otherwise(runs[-1:], 2.0)]
    (found,) = sweeps(both)
    assert found.line().at(100).median == pytest.approx(0.5, rel=0.01)
    assert any("other-oracle-100-spiked" in note and "seed 3" in note for note in found.notes)
    assert set(found.notes) <= set(double_descent_drawn(compared(both)).messages)
    assert set(found.notes) <= set(theory_tables(compared(both))[0].notes)


def test_theorys_curve_is_of_as_many_weights_as_a_line_keeps():
    two = [*linear(DENSE, DOWN, FLAT), *linear(DENSE, DOWN, FLAT, s=4, pruner="magnitude")]
    (panel,) = double_descent_drawn(compared(two)).panels
    curves = {curve.label: curve for curve in panel.curves}
    for name, s in (("oracle", 10), ("magnitude", 4)):
        wanted = predicted_risk(spiked(100), n=40, p=100, kept=s, pruner=name)
        assert curves[name].y[-1] == pytest.approx(wanted)
    assert [rule.label for rule in panel.rules if rule.upright] == ["p = n = 40"]
    part = [
        replace(
            run,
            density=np.array([1.0, 0.5]),
            recipe={
                **run.recipe,
                "procedure": procedure({"prune": {"fraction": 0.5, "criterion": "oracle"}}),
            },
        )
        for run in linear(DENSE, DOWN, FLAT)
    ]
    assert lengths(part)["dense"] > 40
    assert lengths(part)["oracle"] == len(WIDTHS)


@pytest.mark.parametrize(
    "recipe",
    [
        {"validation": 0.5},
        {"examples": {"without_random": {"fraction": 0.5}}},
        {"inputs": {"gaussian": {"std": 1}}},
        {"procedure": ["train", {"prune_to_count": {"count": 10, "criterion": "oracle"}}, "train"]},
    ],
)
def test_theorys_lines_are_drawn_where_they_hold(recipe):
    runs = told_otherwise(linear(DENSE, DOWN, FLAT), **recipe)
    assert set(lengths(runs).values()) == {len(WIDTHS)}
    (panel,) = double_descent_drawn(compared(runs)).panels
    assert not any("n =" in rule.label for rule in panel.rules)
    assert not any(row["near_peak"] for row in theory_records(compared(runs)))


def test_other_metrics_have_no_theory():
    runs = linear(DENSE, DOWN, FLAT)
    (panel,) = double_descent_drawn(Compared(tuple(map(summarize, runs)), "risk_after_pruning")).panels
    assert {len(curve.x) for curve in panel.curves} <= {len(WIDTHS)}
    (found,) = sweeps(runs, "test_loss")
    assert found.examples is None


def test_what_is_dropped_from_the_top_is_another_pruner():
    prune = {"prune_to_count": {"count": 10, "criterion": "oracle", "invert": True}}
    runs = told_otherwise(linear(DENSE, DOWN, FLAT), procedure=procedure(prune))
    assert set(lengths(runs)) == {"dense", "inverted oracle", "inverted oracle, retrained"}
    assert lengths(runs)["inverted oracle"] == len(WIDTHS)


def test_a_peak_in_any_table_is_explained():
    runs = [*linear(DENSE, DOWN, FLAT), *correlated({0.1: 1.0, 0.5: 1.0})]
    tables = theory_tables(compared(runs))
    assert len(tables) == 2
    assert any("look at the median" in note for note in tables[-1].notes)
