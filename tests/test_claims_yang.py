"""The claims of Yang et al. (2023): runs told by their recipes, and each answer that a claim can come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunecli.claims import answers
from prunecli.claims.density_study import DensityStudy, density_study
from prunecli.claims.papers import STUDIES, claims_of
from prunecli.cli.claims import PAPERS
from prunecli.compare import Compared, summarize
from prunecli.store.values import StoredRun

SEEDS = tuple(range(6))
MILD, EXCESSIVE = 0.166, 6.03e-4
PATCHES = {"two_patches": {"classes": 4, "dimension": 4000}}


def run(
    density: float,
    *,
    jitter: float = 0.01,
    seeds: Sequence[int] = SEEDS,
    recipe: Mapping[str, Any] | None = None,  # Any: a recipe's values
    thresholds: bool = True,
    **metrics: float | Sequence[float],
) -> StoredRun:
    """A run of one level, its metrics about these seed by seed."""
    rng = np.random.default_rng(round(1e6 * density))
    known = {"p_mild": MILD, "p_excessive": EXCESSIVE} if thresholds else {}
    rows = {name: np.full((len(seeds), 1), value) for name, value in known.items()}
    for name, value in metrics.items():
        noise = (
            0 if name in ("train_loss", "train_error", "classes_kept") else rng.normal(0, jitter, len(seeds))
        )
        rows[name] = (np.broadcast_to(np.asarray(value, float), len(seeds)) + noise).reshape(-1, 1)
    name = f"run-{density}-{sorted(metrics)}"
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest=name,
        status="complete",
        recipe={
            "model": {"two_layer": {"power": 2.0}},
            "data": PATCHES,
            "labels": "clean",
            "learning_rate": {"constant": {"value": 0.05 / density}},
            "procedure": [{"prune_bernoulli": {"density": density}}, {"train": {"until_loss": 0.01}}],
            **(recipe or {}),
        },
        seeds=tuple(seeds),
        density=np.array([density]),
        spent=np.array([100.0]),
        metrics=rows,
        units={"test_error": "percent"},
        total=800_000,
    )


def patches(
    density: float, accuracy: float, loss: float, kept: float = 4.0, **more: Any
) -> StoredRun:  # Any: see `run`
    given = {"train_loss": 0.0099, "classes_kept": kept, "signal_learned": 0.5, "noise_learned": 0.1, **more}
    return run(density, test_error=100 - accuracy, test_loss=loss, **given)


def noisy(density: float, error: float, train_error: float = 0.0, std: float = 1.0, **more: Any) -> StoredRun:
    recipe = {"model": "lenet_300_100", "data": "mnist", "inputs": {"gaussian": {"std": std}}}
    found = run(density, thresholds=False, recipe=recipe, test_error=error, train_error=train_error, **more)
    return replace(found, name=f"{found.name}-{std}")


def study(*runs: StoredRun) -> DensityStudy:
    return density_study(Compared(tuple(map(summarize, runs))))


def findings(number: str, *runs: StoredRun) -> list[answers.Finding]:
    (claim,) = [one for one in claims_of("yang2023") if one.number == number]
    return list(claim.findings(study(*runs)))


def answer(number: str, *runs: StoredRun) -> str:
    (found,) = findings(number, *runs)
    return found.answer


SWEEP = (
    patches(1, 42, 1.37),
    patches(0.5, 99.4, 1.16),
    patches(0.2, 100, 0.025),
    patches(0.02, 74, 0.63, kept=3),
    patches(0.001, 25, 3.5, kept=0, signal_learned=0.0, noise_learned=2.0),
)
RELU = {"recipe": {"model": {"two_layer": {"power": 1.0}}}}


def test_the_claims_are_there():
    assert "yang2023" in PAPERS
    assert "yang2023" in STUDIES
    assert [one.number for one in claims_of("yang2023")] == [
        "B1",
        "B2",
        "B3",
        *(f"B{n}" for n in range(5, 11)),
    ]


def test_runs_of_all_densities_are_one_sweep_whatever_their_rate():
    (found,) = study(*SWEEP[::-1]).sweeps
    assert [spot.level.density for spot in found.spots] == [1, 0.5, 0.2, 0.02, 0.001]
    assert (found.mild, found.excessive, found.classes) == (MILD, EXCESSIVE, 4)
    other = patches(0.3, 99, 0.1, **RELU)
    assert len(study(*SWEEP, other).sweeps) == 2
    fast = replace(
        SWEEP[0], name="fast", recipe={**SWEEP[0].recipe, "learning_rate": {"constant": {"value": 9}}}
    )
    assert len(study(SWEEP[0], fast).sweeps) == 2


def at_rate(one: StoredRun, rate: float) -> StoredRun:
    recipe = {**one.recipe, "learning_rate": {"constant": {"value": rate}}}
    return replace(one, recipe=recipe)


def densities(*runs: StoredRun) -> list[list[float]]:
    return [[spot.level.density for spot in sweep.spots] for sweep in study(*runs).sweeps]


def test_a_run_more_at_another_rate_leaves_the_sweep_whole():
    extra = replace(at_rate(SWEEP[2], 9), path=Path("runs/extra"))
    assert densities(*SWEEP, extra) == [[1, 0.5, 0.2, 0.02, 0.001], [0.2]]


@pytest.mark.parametrize("step", [1, -1])
def test_two_rates_are_two_sweeps_in_whatever_order(step):
    slow, fast = (
        [replace(at_rate(one, rate), path=Path(f"runs/{rate}-{place}")) for place, one in enumerate(SWEEP)]
        for rate in (1, 2)
    )
    # The third of the fast runs clashes with none, and goes with them.
    mixed = [slow[0], fast[0], slow[2], fast[1], slow[1], fast[3]][::step]
    assert sorted(densities(*mixed)) == [[1, 0.5, 0.02], [1, 0.5, 0.2]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"train": {"until_loss": 0.01}}, {"train": {"until_loss": 0.001}}),
        ({"train": {"epochs": 5}}, {"train": {"epochs": 50}}),
        ({"perturb": {"fraction": 0.1}}, {"perturb": {"fraction": 0.2}}),
        (
            {"repeat": {"times": 2, "stages": ["train"]}},
            {"repeat": {"times": 3, "stages": ["train"]}},
        ),
    ],
)
def test_runs_that_differ_in_more_than_how_much_they_prune_are_no_sweep(one, other):
    made = [
        replace(found, recipe={**found.recipe, "procedure": [{"prune": {"fraction": amount}}, stage]})
        for found, amount, stage in zip(SWEEP[:3], (0.1, 0.2, 0.3), (one, other, one), strict=True)
    ]
    assert densities(*made) == [[1, 0.2], [0.5]]


def test_a_training_that_stops_above_its_target_is_told():
    assert answer("B1", *SWEEP) == "holds"
    high = patches(0.1, 97, 0.1, train_loss=[0.009] * 5 + [0.0101])
    (found,) = findings("B1", *SWEEP, high)
    assert found.answer == "does not hold"
    assert "above it at p 0.1" in found.measured


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, "holds"),
        ({2: patches(0.2, 98.5, 0.025)}, "does not hold"),
        ({0: patches(1, 61, 1.37)}, "does not hold"),
        ({1: patches(0.5, 99.4, 1.5)}, "does not hold"),
        ({2: patches(0.2, 100, 1.3)}, "does not hold"),
        ({1: patches(0.5, 99.4, 1.366, jitter=0.2)}, "undecided"),
        ({1: patches(0.4, 99.4, 1.16)}, "cannot be tested"),
    ],
)
def test_mild_pruning_helps_the_square(changed, wanted):
    assert answer("B2", *(changed.get(place, one) for place, one in enumerate(SWEEP))) == wanted


def test_the_numbers_of_the_square_are_not_asked_of_relu():
    relu = [replace(one, recipe={**one.recipe, **RELU["recipe"]}) for one in SWEEP]
    assert answer("B2", *relu) == "cannot be tested"
    assert answer("B1", *relu) == "holds"


@pytest.mark.parametrize(
    ("accuracy", "loss", "wanted"),
    [
        ([25, 26, 24, 25, 50, 51], 2.0, "holds"),
        ([25, 50, 50, 51, 50, 51], 2.0, "does not hold"),
        (25, 1.2, "does not hold"),
        (19, 2.0, "does not hold"),
    ],
)
def test_excessive_pruning_is_told_by_medians(accuracy, loss, wanted):
    at = run(6.03e-4, test_error=100 - np.asarray(accuracy, float), test_loss=loss, train_loss=0.009)
    assert answer("B3", *SWEEP, at) == wanted


def test_few_seeds_or_another_density_say_nothing_of_guessing():
    assert answer("B3", *SWEEP) == "cannot be tested"
    few = run(6.03e-4, test_error=75, test_loss=2, train_loss=0.009, seeds=range(4))
    assert answer("B3", *SWEEP, few) == "cannot be tested"


@pytest.mark.parametrize(
    ("accuracy", "kept", "wanted"),
    [
        (25, 0, "holds"),
        (30, 0, "does not hold"),
        (50, 1, "holds"),
        (56, 1, "does not hold"),
        (20, 0, "does not hold"),
    ],
)
def test_accuracy_is_bounded_by_the_classes_whose_signal_is_kept(accuracy, kept, wanted):
    assert answer("B5", *SWEEP, patches(0.005, accuracy, 1.0, kept=kept)) == wanted


def test_mild_pruning_improves_step_by_step():
    assert answer("B6", *SWEEP) == "holds"
    assert answer("B6", patches(1, 42, 1.37), patches(0.5, 99, 1.5), *SWEEP[2:]) == "does not hold"
    assert answer("B6", SWEEP[0], patches(0.02, 99, 0.1)) == "cannot be tested"
    # What lies below the threshold is no mild pruning, and may be worse.
    assert answer("B6", *SWEEP[:3], patches(0.1, 20, 5.0)) == "holds"


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, "holds"),
        ({"train_loss": 0.02}, "does not hold"),
        ({"accuracy": 40}, "does not hold"),
        ({"signal_learned": 3.0}, "does not hold"),
        ({"density": 0.002}, "cannot be tested"),
    ],
)
def test_excessive_pruning_memorizes(changed, wanted):
    given = {
        "density": 0.001,
        "accuracy": 25,
        "loss": 3.5,
        "signal_learned": 0.0,
        "noise_learned": 2.0,
        **changed,
    }
    assert answer("B7", *SWEEP[:4], patches(**given)) == wanted


MODERATE = (noisy(1, 20), noisy(0.5, 19), noisy(0.1, 19.5), noisy(0.01, 60, 30))


def test_a_moderate_density_may_be_best_with_noise_on_inputs():
    assert answer("B8", *MODERATE) == "holds"
    assert answer("B8", MODERATE[0], *(noisy(density, 21) for density in (0.5, 0.1, 0.01))) == "does not hold"
    assert answer("B8", MODERATE[0], noisy(0.5, 19.999, jitter=1), MODERATE[3]) == "undecided"
    # Where the sparsest is better too there is no moderate best.
    assert answer("B8", MODERATE[0], noisy(0.5, 19), noisy(0.01, 18)) == "undecided"


def test_training_error_is_looked_at_where_it_is_best():
    assert answer("B9", *MODERATE) == "holds"
    assert answer("B9", MODERATE[0], noisy(0.5, 19, 0.1), MODERATE[3]) == "does not hold"
    assert answer("B9", noisy(1, 20, 0.1), *MODERATE[1:]) == "does not hold"


def test_a_collapse_is_ten_points_at_least():
    assert answer("B10", *MODERATE) == "holds"
    assert answer("B10", *MODERATE[:3], noisy(0.01, 25)) == "does not hold"


def test_each_noise_is_a_sweep_and_clean_inputs_are_none():
    clean = [noisy(density, error, std=0.0) for density, error in ((1, 5), (0.5, 4))]
    other = [noisy(density, error, std=2.0) for density, error in ((1, 50), (0.5, 49), (0.01, 70))]
    found = findings("B10", *MODERATE, *clean, *other)
    assert [one.benchmark.split(": ")[0] for one in found] == [
        "lenet_300_100 on mnist, noise 1",
        "lenet_300_100 on mnist, noise 2",
    ]
    assert findings("B1", *MODERATE) == []
