"""The claims of Bartoldson et al. (2020): runs told by their recipes, and each answer that a claim can come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunecli.claims import answers
from prunecli.claims.papers import STUDIES, claims_of
from prunecli.claims.stability_study import StabilityStudy, is_unpruned, scheme_of, stability_study
from prunecli.cli.claims import PAPERS, with_claims
from prunecli.compare import Compared, summarize
from prunecli.report import FORMATS, tables
from prunecli.store.values import StoredRun

NAN = math.nan
SEEDS = tuple(range(6))
LAYERS = {
    "layers.7.conv.weight": {"fraction": 0.3, "start": 4, "end": 151},
    "layers.11.conv.weight": {"fraction": 0.9, "start": 7, "end": 276},
}
SGD = {"sgd": {"momentum": 0.9, "weight_decay": 1e-4}}


def during(**options: Any) -> list[object]:  # Any: a recipe's values
    """A procedure that prunes during training."""
    given = {"criterion": "l2_norm", "target": "smallest", "every": 40, "layers": LAYERS, **options}
    observe = {"observe": {"observers": ["flatness"]}}
    return [{"prune_during_training": given}, {"train": {"until": 315}}, observe, {"train": {}}]


def scratch() -> list[object]:
    at_once = {name: {**one, "start": 0, "end": 0} for name, one in LAYERS.items()}
    return during(every=1, layers=at_once)


def run(
    name: str,
    procedure: Sequence[object],
    stability: float = 100.0,
    accuracy: float = 85.0,
    *,
    spread: float = 0.05,
    gap: float = 10.0,
    flat: Sequence[float] = (),
    seeds: Sequence[int] = SEEDS,
    **recipe: Any,  # Any: a recipe's values
) -> StoredRun:
    """A run whose stability and best accuracy are about these, seed by seed with an sd of about `spread`."""
    rng = np.random.default_rng(list(map(ord, name)))
    jitter = rng.normal(0, spread, (5, len(seeds), 1))
    pruned = stability < 100
    rows = {
        "test_error": [20.0, 100 - accuracy],
        "best_test_error": [20.0, 100 - accuracy],
        "late_test_error": [21.0, 101 - accuracy],
        "generalization_gap": [5.0, gap],
        "instability": [NAN, 1 - stability / 100 if pruned else NAN],
        "removed": [0.0, 10.0 if pruned else 0.0],
    }
    noise = {"instability": jitter[0] / 100, "removed": 0 * jitter[0], "generalization_gap": jitter[2]}
    metrics = {key: np.array(row) + noise.get(key, jitter[1]) for key, row in rows.items()}
    if flat:
        for place, key in enumerate(("hessian_sum", "gradient_covariance_trace")):
            metrics[key] = np.array([NAN, flat[place]]) + jitter[3 + place]
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest=name,
        status="complete",
        recipe={
            "model": "cifar_vgg_11",
            "data": "cifar10",
            "labels": "clean",
            "optimizer": "adam",
            "procedure": procedure,
            **recipe,
        },
        seeds=tuple(seeds),
        density=np.array([1.0, 0.6]),
        spent=np.array([7.0, 325.0]),
        metrics=metrics,
        units={"test_error": "percent"},
        total=1000,
    )


def unpruned(accuracy: float = 85.0, **more: Any) -> StoredRun:  # Any: what `run` takes
    return run("none", ["train"], accuracy=accuracy, **more)


def study(*runs: StoredRun) -> StabilityStudy:
    return stability_study(Compared(tuple(map(summarize, runs))))


def findings(number: str, *runs: StoredRun) -> list[answers.Finding]:
    (claim,) = [one for one in claims_of("bartoldson2020") if one.number == number]
    return list(claim.findings(study(*runs)))


def answer(number: str, *runs: StoredRun) -> str:
    (found,) = findings(number, *runs)
    return found.answer


# --- Runs are told by their recipes


def test_the_papers_rates_are_those_of_its_labels():
    """VGG's last layer loses 90% in 68, 14, 7, 5, 3, 2 or 1 events (appendix, config.py)."""
    wanted = {
        4: (68, 1.3),
        20: (14, 6.4),
        40: (7, 12.9),
        60: (5, 18),
        100: (3, 30),
        200: (2, 45),
        300: (1, 90),
    }
    for every, (events, rate) in wanted.items():
        found = scheme_of(summarize(run("a", during(every=every))))
        assert found.events == events
        assert 100 * found.rate == pytest.approx(rate, abs=0.06)


def test_a_run_is_told_from_its_recipe():
    found = scheme_of(summarize(run("a", during(target="largest", effect="zero", batches=1105))))
    assert (found.criterion, found.target, found.effect, found.batches) == (
        "l2_norm",
        "largest",
        "zero",
        1105,
    )
    assert not found.from_scratch
    assert scheme_of(summarize(run("a", scratch()))).from_scratch
    at_start = [{"prune_layers": {"criterion": "l2_norm", "layers": {"a": {"fraction": 0.3}}}}, "train"]
    assert scheme_of(summarize(run("a", at_start))).from_scratch
    assert is_unpruned(
        summarize(run("a", ["train", {"observe": {"observers": ["flatness"]}}, {"train": {}}]))
    )


def test_windows_may_stand_beside_the_layers_or_within():
    beside = during(layers={"a": {"fraction": 0.9, "start": None, "end": None}}, start=7, end=276)
    within = during(layers={"a": {"fraction": 0.9, "start": 7, "end": 276}})
    assert scheme_of(summarize(run("a", beside))) == scheme_of(summarize(run("a", within)))


@pytest.mark.parametrize(
    "procedure",
    [
        [],
        None,
        "train",
        [None, 3],
        ["train", {"prune": {"fraction": 0.2}}, "train"],
        ["train", {"prune_layers": {"layers": {"a": {"fraction": 0.3}}}}, "train"],
        [{"prune_during_training": None}],
        [{"prune_during_training": {"layers": None}}],
        [{"prune_during_training": {"layers": {}}}],
        during(every="a"),
        during(every=0),
        during(every=1e-300),
        during(layers={"a": {"fraction": 10**400, "start": 1, "end": 2}}),
        during(layers={"a": {"fraction": 0.5, "start": 9, "end": 2}}),
        during(layers={"a": {"fraction": 0.5, "start": None, "end": 2}}),
        during(layers={"a": "b"}),
    ],
)  # fmt: skip
def test_what_is_none_of_the_papers_is_left_out_and_named(procedure):
    found = study(run("odd", procedure), unpruned())
    assert found.left_out == ("odd",)
    assert found.settings == ()
    assert any("odd" in note for note in found.notes)
    for claim in claims_of("bartoldson2020"):
        assert list(claim.findings(found)) == []


def test_settings_are_of_one_training_criterion_and_fractions():
    more = {name: {**one, "fraction": 0.8} for name, one in LAYERS.items()}
    found = study(
        run("small", during(), 99),
        run("large", during(target="largest"), 97),
        run("zero", during(target="largest", effect="zero", batches=50), 97),
        run("scratch", scratch()),
        run("ebn", during(criterion="expected_activation"), 99),
        run("more", during(layers=more), 99),
        run("sgd", during(), 99, optimizer=SGD),
        unpruned(),
        run("resnet", during(), 99, model="resnet"),
    )
    names = [one.name for one in found.settings]
    assert names == [
        "cifar_vgg_11 on cifar10, l2_norm (1)",
        "cifar_vgg_11 on cifar10, expected_activation",
        "cifar_vgg_11 on cifar10, l2_norm (2)",
        "cifar_vgg_11 on cifar10, l2_norm (3)",
        "resnet on cifar10, l2_norm",
    ]
    first = found.settings[0]
    assert [one.summary.run.name for one in first.removing] == ["small", "large"]
    assert [one.summary.run.name for one in first.disturbing] == ["zero"]
    assert (first.scratch.run.name, first.unpruned.run.name) == ("scratch", "none")
    assert found.settings[3].unpruned is None


# --- Each claim, each answer


def pruned(target: str, every: int, stability: float, accuracy: float = 85.0, **more: Any) -> StoredRun:
    """A run that removes filters (Any: what `run` takes)."""
    return run(f"{target}{every}", during(target=target, every=every), stability, accuracy, **more)


def pair(fine: float, coarse: float, **more: Any) -> list[StoredRun]:  # Any: what `run` takes
    return [pruned("smallest", 4, fine, **more), pruned("smallest", 40, coarse, **more)]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (pair(99.9, 99), "holds"),
        ([*pair(99.9, 99), pruned("largest", 4, 99.5), pruned("largest", 40, 95)], "holds"),
        ([*pair(99.9, 99), pruned("largest", 4, 95), pruned("largest", 40, 99)], "does not hold"),
        (pair(99, 99.9), "does not hold"),
        (pair(99, 99, spread=1.0), "undecided"),
        (pair(99.9, 99, seeds=[0]), "cannot be tested"),
        ([pruned("smallest", 4, 99), pruned("largest", 40, 95)], "cannot be tested"),
    ],
)
def test_finer_is_more_stable(runs, wanted):
    assert answer("A1", *runs) == wanted


def three(small: float, drawn: float, large: float, **more: Any) -> list[StoredRun]:  # Any: what `run` takes
    values = {"smallest": small, "random": drawn, "largest": large}
    return [pruned(target, 40, value, **more) for target, value in values.items()]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (three(99, 98, 95), "holds"),
        (three(99, 99, 95), "holds"),
        (three(99, 94, 95), "does not hold"),
        (three(95, 98, 99), "does not hold"),
        (three(99, 99, 99, spread=0.5), "undecided"),
        (three(99, 98, 95)[::2], "cannot be tested"),
        ([*three(99, 98, 95)[:2], pruned("largest", 4, 95)], "cannot be tested"),
        (three(99, 98, 95, seeds=[3]), "cannot be tested"),
    ],
)
def test_the_smallest_are_the_most_stable(runs, wanted):
    assert answer("A2", *runs) == wanted


def tradeoff(fine: float, small: float, large: float, **more: Any) -> list[StoredRun]:
    """The three runs of Figure 2, by their accuracy (Any: what `run` takes)."""
    return [
        pruned("smallest", 4, 99.9, fine, **more),
        pruned("smallest", 40, 99, small, **more),
        pruned("largest", 40, 95, large, **more),
    ]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (tradeoff(85, 85.5, 86.5), "holds"),
        (tradeoff(86.5, 85.5, 85), "does not hold"),
        (tradeoff(85.5, 85, 86.5), "does not hold"),
        (tradeoff(85, 85, 86.5), "undecided"),
        (tradeoff(85, 85.1, 85.2, spread=3.0), "undecided"),
        (tradeoff(85, 85.5, 86.5)[1:], "cannot be tested"),
        (tradeoff(85, 85.5, 86.5)[:2], "cannot be tested"),
    ],
)
def test_stability_and_accuracy_are_traded(runs, wanted):
    assert answer("A3", *runs) == wanted


def test_the_tradeoff_is_of_the_rate_nearest_to_the_papers():
    """One shot, where the tradeoff breaks, is none of the three."""
    shots = [pruned("smallest", 300, 80, 80), pruned("largest", 300, 60, 70)]
    assert answer("A3", *tradeoff(85, 85.5, 86.5), *shots) == "holds"


def rates(*slopes: float, every: Sequence[int] = (20, 40), **more: Any) -> list[StoredRun]:
    """Three targets at each rate, whose accuracy falls by `slope` for each point of stability."""
    stabilities = {"smallest": 99, "random": 97, "largest": 95}
    return [
        pruned(target, one, stability, 85 - slope * (stability - 95), **more)
        for one, slope in zip(every, slopes, strict=True)
        for target, stability in stabilities.items()
    ]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (rates(0.3, 0.3), "holds"),
        (rates(0.3, 0.3, -0.3, every=(20, 40, 300)), "holds"),
        (rates(0.3, -0.3), "does not hold"),
        (rates(0.3, 0.0, spread=0.3), "undecided"),
        (rates(0.3, every=(40,)), "cannot be tested"),
        (rates(0.3, 0.3, every=(4, 300)), "cannot be tested"),
    ],
)
def test_the_tradeoff_holds_across_moderate_rates(runs, wanted):
    assert answer("A4", *runs) == wanted


def augmented(slope: float, gaps: tuple[float, float], **more: Any) -> list[StoredRun]:
    """A fine and a coarse run by SGD (Any: what `run` takes)."""
    return [
        pruned("smallest", 30, 99.9, 90, gap=gaps[0], **{"optimizer": SGD, **more}),
        pruned("smallest", 60, 99, 90 + slope, gap=gaps[1], **{"optimizer": SGD, **more}),
    ]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (augmented(1, (7, 6)), "holds"),
        (augmented(-1, (7, 6)), "does not hold"),
        (augmented(1, (6, 7)), "does not hold"),
        (augmented(0, (6, 6), spread=0.5), "undecided"),
        (augmented(1, (7, 6), optimizer="adam"), "cannot be tested"),
        (augmented(1, (7, 6), optimizer={"sgd": {"weight_decay": 0}}), "cannot be tested"),
        (augmented(1, (7, 6))[:1], "cannot be tested"),
    ],
)
def test_other_networks_trade_too(runs, wanted):
    assert answer("A5", *runs) == wanted


def noisy(
    gains: Mapping[int, float], *, effect: str = "zero", removal: float = 1.0, **more: Any
) -> list[StoredRun]:
    """No pruning, removal and noise for so many batches, by what each gains (Any: what `run` takes)."""
    disturbed = [
        run(f"n{n}", during(target="largest", effect=effect, batches=n), 95, 85 + gain, **more)
        for n, gain in gains.items()
    ]
    return [unpruned(), pruned("largest", 40, 95, 85 + removal, **more), *disturbed]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (noisy({1: 0, 50: 0.5, 1105: 1.1}, spread=0.1), "holds"),
        (noisy({1105: 1.1}, effect="restore"), "holds"),
        (noisy({1105: 0.2}), "does not hold"),
        (noisy({50: 1.5, 1105: 1.1}), "does not hold"),
        (noisy({1: 1, 1105: 1.1}), "does not hold"),
        (noisy({1105: 1.0}, spread=2), "undecided"),
        (noisy({1105: 1.0}, removal=0), "undecided"),
        (noisy({50: 0.2, 1105: 0.6}, effect="gaussian"), "holds"),
        (noisy({1105: -0.6}, effect="gaussian"), "does not hold"),
        (noisy({1105: 0}, effect="gaussian", spread=2), "undecided"),
        (noisy({1105: 1.1})[1:], "cannot be tested"),
        ([noisy({1105: 1.1})[0], noisy({1105: 1.1})[2]], "cannot be tested"),
        (noisy({1105: 1.1}, seeds=[0]), "cannot be tested"),
    ],
)
def test_noise_does_what_removal_does(runs, wanted):
    assert answer("A6", *runs) == wanted


def test_every_effect_is_a_row_of_its_own():
    found = findings("A6", *noisy({1105: 1.1}), *noisy({50: 1.1}, effect="gaussian")[2:])
    assert [one.benchmark.partition(": ")[2] for one in found] == [
        "gaussian, largest every 40 epochs",
        "zero, largest every 40 epochs",
    ]


def flat(curvature: float, noise: float, accuracy: float, **more: Any) -> list[StoredRun]:
    """Runs of falling stability; by how much curvature, gradient noise and accuracy change with each step."""
    places = [("smallest", 4, 99.9), ("smallest", 40, 99), ("random", 40, 97), ("largest", 40, 95)]
    return [
        pruned(*one, 85 + n * accuracy, flat=(300 + n * curvature, 2000 + n * noise), **more)
        for n, one in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (flat(-20, -100, 0.5), "holds"),
        (flat(20, -100, 0.5), "does not hold"),
        (flat(-20, -100, -0.5), "does not hold"),
        (flat(0, -100, 0.5), "undecided"),
        ([replace(one, metrics={k: v for k, v in one.metrics.items() if k != "hessian_sum"})
          for one in flat(-20, -100, 0.5)], "cannot be tested"),
    ],
)  # fmt: skip
def test_the_unstable_are_flatter(runs, wanted):
    assert answer("A7", *runs) == wanted


def against(none: float, early: float, large: float, **more: Any) -> list[StoredRun]:  # Any: what `run` takes
    first = run("scratch", scratch(), accuracy=early, **more)
    return [unpruned(none, **more), first, pruned("largest", 40, 95, large, **more)]


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (against(85, 84, 86), "holds"),
        (against(87, 84, 86), "does not hold"),
        (against(85, 87, 86), "does not hold"),
        (against(85, 85, 85, spread=1), "undecided"),
        (against(85, 84, 86)[::2], "cannot be tested"),
        (against(85, 84, 86)[:2], "cannot be tested"),
        (against(85, 84, 86, seeds=[1]), "cannot be tested"),
    ],
)
def test_the_unstable_beat_no_pruning_and_pruning_before_training(runs, wanted):
    assert answer("A8", *runs) == wanted


def test_without_the_epochs_observed_the_reason_is_told():
    bare = [
        replace(one, metrics={name: row for name, row in one.metrics.items() if name != "best_test_error"})
        for one in tradeoff(85, 85.5, 86.5)
    ]
    (found,) = findings("A3", *bare)
    assert found.answer == "cannot be tested"
    assert "`observe: [epochs]`" in found.measured


# --- The command's part


def test_every_claim_is_there_once_with_its_rule():
    claims = claims_of("bartoldson2020")
    assert [claim.number for claim in claims] == [f"A{number}" for number in range(1, 9)]
    assert all(claim.text and claim.rule for claim in claims)


def test_every_paper_has_a_study():
    assert set(PAPERS) == set(STUDIES)
    for paper in PAPERS:
        assert claims_of(paper)


@pytest.mark.parametrize("form", FORMATS)
def test_the_table_has_every_claim_and_the_pitfall(form):
    runs = tuple(map(summarize, [*tradeoff(85, 85.5, 86.5), *against(85, 84, 86)[:2]]))
    found = with_claims(Compared(runs), "bartoldson2020", None, ())
    (table,) = tables(found)
    assert {row[0] for row in table.rows} == {f"A{number}" for number in range(1, 9)}
    assert {row[0]: row[3] for row in table.rows}["A8"] == "holds"
    assert any("optimistic" in note for note in table.notes)
    assert FORMATS[form](found, True)
