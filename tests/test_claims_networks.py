"""The claims of Chang et al. (2021) about networks: each answer that a sweep over widths can come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from prunecli.claims import answers
from prunecli.claims.papers import STUDIES, claims_of
from prunecli.compare import Compared, summarize
from prunecli.store.values import StoredRun

SEEDS = (0, 1, 2, 3)
WIDTHS = (0.25, 0.5, 1, 2, 4)
NARROW = 0.25
DENSE = {0.25: 25.0, 0.5: 20.0, 1: 18.0, 2: 16.0, 4: 15.0}
DESCENT = {0.25: 25.0, 0.5: 27.0, 1: 30.0, 2: 22.0, 4: 17.0}
"""An error that peaks at width 1 and ends below both ends."""
TRAINED = {0.25: 20.0, 0.5: 8.0, 1: 0.5, 2: 0.0, 4: 0.0}
Curve = dict[float, float]


def run(
    width: float,
    tested: float,
    trained: float,
    *,
    pruner: str = "magnitude",
    as_pruned: float = 60.0,
    budget: float = NARROW,
    data: str = "digits",
    seeds: Sequence[int] = SEEDS,
    train: object = "train",
) -> StoredRun:
    """A run of a width, dense and pruned to the weights of a narrow one, with little noise from seed to seed."""
    jitter = np.random.default_rng(round(1000 * width) + len(pruner)).normal(0, 0.1, (2, len(seeds), 1))
    total = round(1000 * width)
    density = round(1000 * budget) / total
    stage = {"prune_to_width": {"width": budget, "budget": "parameters", "criterion": pruner}}
    rewind = {"rewind": {"what": "weights", "to": "initial"}}
    return StoredRun(
        name=f"{data}-{pruner}-{budget}-{width}-{train}",
        path=Path("runs") / f"{data}-{pruner}-{budget}-{width}",
        digest=f"{data}-{pruner}-{budget}-{width}",
        status="complete",
        recipe={
            "model": {"mlp": {"hidden": [64], "width": width}},
            "data": data,
            "procedure": [{"save": {"point": "initial"}}, "train", stage, rewind, train],
        },
        seeds=tuple(seeds),
        density=np.array([1.0, density]),
        spent=np.array([10.0, 20.0]),
        metrics={
            "test_error": np.array([DENSE[width], tested]) + jitter[0],
            "train_error": np.array([trained, trained]) + 0 * jitter[0],
            "test_error_after_pruning": np.array([np.nan, tested if density == 1 else as_pruned]) + jitter[1],
        },
        units={"test_error": "percent"},
        total=total,
        layers=("fc",),
        kept=np.array([[[total], [round(density * total)]]] * len(seeds)),
    )


def sweep(curve: Curve = DESCENT, trained: Curve = TRAINED, **more: object) -> list[StoredRun]:
    return [run(width, curve[width], trained[width], **more) for width in WIDTHS]


def answer(number: str, runs: Sequence[StoredRun]) -> tuple[str, str]:
    """The answer of a claim on the only sweep, and what it tells."""
    compared = Compared(tuple(map(summarize, runs)))
    study = STUDIES["chang2021"](compared, lambda *_: None)
    (claim,) = [one for one in claims_of("chang2021") if one.number == number]
    (finding,) = claim.findings(study)
    return finding.answer, finding.measured


def shifted(by: float, curve: Curve = DESCENT, only: Callable[[float], bool] = lambda _width: True) -> Curve:
    return {width: error + by * only(width) for width, error in curve.items()}


HOLDING = [
    *sweep(),
    *sweep(shifted(6, DESCENT, lambda width: width > NARROW), pruner="random"),
]


@pytest.mark.parametrize("number", ["C9", "C10", "C11", "C12", "C13"])
def test_what_the_paper_found_holds(number):
    assert answer(number, HOLDING)[0] == answers.HOLDS


@pytest.mark.parametrize(
    ("number", "runs"),
    [
        ("C9", sweep(shifted(10, DESCENT, lambda width: width == 4))),
        ("C10", sweep(dict.fromkeys(WIDTHS, 20.0) | {0.25: 40.0, 0.5: 30.0})),
        # The same peak, where training errors vanish far from it.
        ("C10", sweep(DESCENT, {0.25: 0.0, 0.5: 0.0, 1: 0.0, 2: 0.0, 4: 0.0})),
        ("C11", sweep() + sweep(DESCENT, shifted(5, TRAINED, lambda width: width < 4), budget=0.5)[1:]),
        ("C11", sweep() + sweep(DESCENT, shifted(5, TRAINED), budget=0.5)[1:]),
        ("C12", sweep() + sweep(shifted(-6, DESCENT, lambda width: width == 2), pruner="random")),
        ("C13", [run(width, DESCENT[width], 0.0, as_pruned=DESCENT[width] + 1) for width in WIDTHS]),
    ],
)
def test_what_is_otherwise_does_not_hold(number, runs):
    assert answer(number, runs)[0] == answers.FAILS


def test_on_cifar_10_the_gain_is_to_be_the_papers():
    curve = shifted(5, DESCENT, lambda width: width == 4)
    assert answer("C9", sweep(curve))[0] == answers.HOLDS
    assert answer("C9", sweep(curve, data="cifar10"))[0] == answers.FAILS
    assert answer("C9", sweep(data="cifar10"))[0] == answers.HOLDS


@pytest.mark.parametrize(
    ("number", "runs", "why"),
    [
        ("C9", sweep(pruner="random"), "no runs pruned by magnitude and trained again"),
        ("C9", sweep()[1:], "no width at which nothing is pruned"),
        ("C9", sweep()[:1], "a single width"),
        ("C10", [*sweep()[:1], *sweep()[-1:]], "fewer than three widths"),
        ("C10", sweep(trained=shifted(5, TRAINED)), "no width at which training errors vanish"),
        ("C12", sweep(), "no runs that prune at random to the same budget"),
    ],
)
def test_what_is_missing_is_said(number, runs, why):
    found, told = answer(number, runs)
    assert found == answers.UNTESTED
    assert why in told


def test_budgets_are_told_apart():
    runs = sweep() + sweep(shifted(20, DESCENT, lambda width: width == 4), budget=0.5)[1:]
    found, told = answer("C9", runs)
    assert found == answers.FAILS
    assert "width 0.25" in told
    assert "width 0.5" in told


def test_networks_are_set_beside_those_of_their_budget():
    """Magnitude of two budgets, random of the larger: there magnitude is worse, and to the smaller it says nothing."""
    small, large = sweep(), sweep(shifted(20), budget=0.5)[1:]
    random = sweep(shifted(10), pruner="random", budget=0.5)[1:]
    assert answer("C12", small + large + random)[0] == answers.FAILS
    better = sweep(shifted(30), pruner="random", budget=0.5)[1:]
    found, told = answer("C12", small + large + better)
    assert found == answers.HOLDS
    assert "of 3 widths" in told
    assert answer("C12", small + random) == (
        answers.UNTESTED,
        "no runs that prune at random to the same budget",
    )


def test_networks_that_train_again_otherwise_are_lines_of_their_own():
    longer = {"train": {"epochs": 300}}
    runs = sweep() + sweep(shifted(30, DESCENT, lambda width: width == 4), train=longer)
    for order in (runs, runs[::-1]):
        found, told = answer("C9", order)
        assert found == answers.FAILS
        assert "epochs 300" in told
    random = sweep(shifted(6, DESCENT, lambda width: width > NARROW), pruner="random")
    found, told = answer("C12", runs + random)
    assert (found, "of 4 widths" in told) == (answers.HOLDS, True)
