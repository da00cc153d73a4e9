"""A paper's claims: intervals against bounds, runs sorted into a study, and each answer that a claim can come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli.claims import answers
from prunecli.claims.papers import claims_of
from prunecli.claims.registry import claims_by_paper
from prunecli.claims.study import is_imp, study_of
from prunecli.compare import Compared, summarize
from prunecli.errors import NotComparable
from prunecli.report.claims import claims_table
from prunecli.series import joined
from prunecli.statistics import Difference, paired
from prunecli.store.values import StoredRun
from prunecli.subgroups import Group, Side, Subgroups

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
TRAIN, REWIND = {"train": {}}, {"rewind": {"what": "learning_rate", "to": 0.0}}
PRUNE = {"prune": {"criterion": "magnitude", "fraction": 0.2, "scope": "global"}}
IMP = [TRAIN, {"repeat": {"times": 2, "stages": [PRUNE, REWIND, TRAIN]}}]
ONE_SHOT = [TRAIN, {"prune_to": {"criterion": "magnitude", "density": 0.1, "scope": "global"}}, TRAIN]
EXTENDED = [TRAIN, {"repeat": {"times": 2, "stages": [REWIND, TRAIN]}}]


def between(low: float, high: float) -> Difference:
    """A difference with this interval."""
    return Difference(3, (low + high) / 2, 1.0, (low, high), "match")


@given(st.floats(-10, 10), st.floats(0.001, 10), st.floats(-5, 5))
def test_an_interval_lies_above_or_below_a_bound_or_leaves_it_open(low, width, bound):
    found = between(low, low + width)
    above, below = answers.above(found, bound), answers.below(found, bound)
    assert {above, below} in ({"holds", "does not hold"}, {"undecided"})
    assert (above == "holds") == (low > bound)
    assert (below == "holds") == (low + width < bound)


@given(st.floats(-10, 10), st.floats(0.001, 10), st.floats(0.1, 5))
def test_a_match_lies_inside_the_margin_on_both_sides(low, width, margin):
    found, mirrored = between(low, low + width), between(-low - width, -low)
    answer = answers.within(found, margin)
    assert answer == answers.within(mirrored, margin)
    assert (answer == "holds") == (-margin <= low and low + width <= margin)
    assert answer != "does not hold" or low > margin or low + width < -margin
    assert answers.at_most(found, margin) == "holds" or answer != "holds"


def test_one_seed_tests_nothing():
    found = paired({0: 1.0}, {0: 2.0})
    for rule in (answers.above, answers.below):
        assert rule(found) == "cannot be tested"
    assert answers.within(found, 1) == answers.at_most(found, 1) == "cannot be tested"


@pytest.mark.parametrize(
    ("each", "all_of", "half"),
    [
        (["holds", "holds"], "holds", "holds"),
        (["holds", "undecided"], "undecided", "holds"),
        (["holds", "does not hold"], "does not hold", "holds"),
        (["undecided", "does not hold"], "does not hold", "undecided"),
        (["does not hold", "does not hold"], "does not hold", "does not hold"),
        (["cannot be tested", "holds"], "cannot be tested", "holds"),
        (["cannot be tested", "does not hold"], "does not hold", "does not hold"),
        (["cannot be tested"], "cannot be tested", "cannot be tested"),
        ([], "cannot be tested", "cannot be tested"),
    ],
)
def test_answers_together(each, all_of, half):
    assert answers.all_of(each) == all_of
    assert answers.share(each * 4, 0.5) == half


def test_a_share_of_fewer_than_four_is_undecided():
    assert answers.share(["holds"] * 3, 0.5) == answers.share(["does not hold"] * 3, 0.5) == "undecided"
    assert answers.share(["holds"] * 4, 0.5) == "holds"


def test_equal_differences_say_nothing_unless_there_is_none():
    for bound in (-1.0, 0.0, 1.0):
        assert (
            answers.above(between(0.5, 0.5), bound) == answers.below(between(0.5, 0.5), bound) == "undecided"
        )
    assert answers.within(between(0.5, 0.5), 1) == answers.at_most(between(0.5, 0.5), 1) == "undecided"
    assert answers.within(between(0, 0), 1) == answers.at_most(between(0, 0), 1) == "holds"


def run(
    name: str,
    errors: list[float],
    *,
    procedure: list[object] = IMP,
    noise: float = 0.0,
    density: list[float] | None = None,
    spread: float = 0.01,
    model: object = {"lenet_300_100": {"width": 1.0}},
    metrics: dict[str, list[float]] | None = None,
    **recipe: object,
) -> StoredRun:
    """A run of three seeds whose values have about the sd `spread`."""
    rng = np.random.default_rng(list(map(ord, name)))
    rows = {"test_error": errors, **(metrics or {})}
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest=name,
        status="complete",
        recipe={
            "model": model,
            "data": "digits",
            "labels": {"uniform": {"fraction": noise}},
            "procedure": procedure,
            **recipe,
        },
        seeds=SEEDS,
        density=np.array(density or [1.0, 0.5, 0.05][: len(errors)]),
        spent=np.arange(len(errors)) * 40.0 + 40,
        metrics={metric: values + rng.normal(0, spread, (3, len(values))) for metric, values in rows.items()},
        units={"test_error": "percent"},
        total=1000,
        tests=360,
    )


def extended(name: str, errors: list[float], **more: object) -> StoredRun:
    return run(name, errors, procedure=EXTENDED, density=[1.0] * len(errors), **more)


def groups(means: list[float], spread: float = 0.001) -> Subgroups:
    """Groups with these mean differences."""
    made = tuple(
        Group(
            number,
            number + 1,
            10,
            paired({seed: mean + seed * spread for seed in SEEDS}, dict.fromkeys(SEEDS, 0.0)),
        )
        for number, mean in enumerate(means)
    )
    return Subgroups(Side("a", 1), Side("b", 0), "el2n", made, 4.0, 3.0)


def findings(number: str, runs: list[StoredRun], grouper=None) -> list[answers.Finding]:
    def none(*_: object) -> Subgroups:
        raise NotComparable("needs scores")

    study = study_of(Compared(tuple(map(summarize, runs))), grouper or none)
    (claim,) = [one for one in claims_of("jin2022") if one.number == number]
    return list(claim.findings(study))


def answer(number: str, runs: list[StoredRun], grouper=None) -> str:
    (found,) = findings(number, runs, grouper)
    return found.answer


def test_every_claim_is_there_once_with_its_rule():
    claims = claims_of("jin2022")
    assert [claim.number for claim in claims] == [f"N{number}" for number in range(1, 25)]
    assert all(claim.text and claim.rule for claim in claims)


@pytest.mark.parametrize(
    ("procedure", "imp"),
    [
        (IMP, True),
        (["train", {"repeat": {"times": 2, "stages": [PRUNE, "rewind", "train"]}}], True),
        (ONE_SHOT, False),
        (EXTENDED, False),
        (
            [TRAIN, {"repeat": {"times": 2, "stages": [{"prune": {"criterion": "random"}}, REWIND, TRAIN]}}],
            False,
        ),
        ([TRAIN, {"repeat": {"times": 2, "stages": [{"prune": {"scope": "layer"}}, REWIND, TRAIN]}}], False),
        ([TRAIN, {"repeat": {"times": 2, "stages": [PRUNE, {"rewind": {"what": "weights"}}, TRAIN]}}], False),
        ([TRAIN, {"repeat": {"times": 2, "stages": [PRUNE, TRAIN]}}], False),
    ],
)
def test_imp_is_told_from_other_algorithms(procedure, imp):
    assert is_imp(summarize(run("x", [2.0, 1.0, 3.0], procedure=procedure))) == imp


def test_runs_are_sorted_into_benchmarks_and_kinds():
    widths = {f"w-width-{width}": {"lenet_300_100": {"width": width}} for width in (1.0, 0.8)}
    (series,) = joined([run(name, [2], procedure=["train"], model=model) for name, model in widths.items()])
    again = {"without_improved": {"run": "imp", "level": 1}}
    control = {"without_random": {"like": again, "stratified": False}}
    runs = [
        run("imp", [2, 1, 3]),
        run("one_shot", [2, 1], procedure=ONE_SHOT),
        extended("longer", [2, 1, 1]),
        series,
        run("again", [2], procedure=["train"], replicate=1, examples=again),
        run("control", [2], procedure=["train"], replicate=1, examples=control),
        run("noisy", [9, 4, 3], noise=0.3),
    ]
    study = study_of(Compared(tuple(map(summarize, runs))), lambda *_: groups([0.0]))
    clean, noisy = study.benchmarks
    assert (clean.name, noisy.name) == ("lenet_300_100 on digits", "lenet_300_100 on digits, 30% noise")
    assert [clean.pruning.run.name, clean.extended.run.name, clean.width.run.name] == ["imp", "longer", "w"]
    assert [one.run.name for one in clean.algorithms] == ["one_shot"]
    assert [one.name for one in clean.retrained] == ["without_improved", "without_random"]
    assert clean.retrained[0].like == clean.retrained[1].like
    assert (noisy.pruning.run.name, noisy.extended) == ("noisy", None)


NOISY = {"noise": 0.3}


def both(number: int, error: float) -> list[StoredRun]:
    """Pruning and extended training at a noise level of their own."""
    noise = number / 10
    return [run(f"p{number}", [9, 4, 5], noise=noise), extended(f"e{number}", [9, error, 9], noise=noise)]


@pytest.mark.parametrize(
    ("number", "runs", "wanted"),
    [
        ("N1", [run("p", [2, 2, 2]), extended("e", [2, 2.2, 1.8])], "holds"),
        ("N1", [run("p", [2, 2, 5]), extended("e", [2, 2.2, 1.8])], "does not hold"),
        ("N5", [run(f"p{n}", [9, 4, 5], noise=n / 10) for n in range(1, 5)], "holds"),
        ("N5", [run(f"p{n}", [9, 4, 5], noise=n / 10) for n in range(1, 4)], "undecided"),
        ("N5", [run(f"p{n}", [9, 9.5, 9.9], noise=n / 10) for n in range(1, 5)], "undecided"),
        ("N11", [run("p", [3, 2, 5]), extended("e", [3, 2.5, 2.4])], "holds"),
        ("N11", [run("p", [6, 2, 5]), extended("e", [6, 5.5, 5.4])], "does not hold"),
        ("N12", [one for n in range(1, 5) for one in both(n, 8)], "holds"),
        ("N12", [one for n in range(1, 5) for one in both(n, 3)], "does not hold"),
        ("N6", [run("p", [9, 4, 5], **NOISY)], "cannot be tested"),
        ("N6", [run("p", [30, 14, 20], model="cifar_vgg_16", data="cifar10", spread=0.05, **NOISY)], "holds"),
        ("N6", [run("p", [30, 24, 28], model="cifar_vgg_16", data="cifar10", **NOISY)], "does not hold"),
        ("N17", [run("a", [3, 2, 5]), run("b", [9, 4, 5], **NOISY)], "holds"),
        ("N17", [run("a", [9, 2, 5]), run("b", [9, 4, 5], **NOISY)], "does not hold"),
        ("N17", [run("a", [9, 2, 5])], "cannot be tested"),
        ("N22", [run("a", [3, 2, 5]), run("b", [3, 2.4], procedure=ONE_SHOT)], "holds"),
        ("N22", [run("a", [9, 2, 5]), run("b", [9, 6.4], procedure=ONE_SHOT)], "does not hold"),
        ("N22", [run("a", [9, 2, 5])], "cannot be tested"),
        ("N24", [extended("e", [3, 2, 2]), run("b", [3, 2.4], procedure=ONE_SHOT)], "holds"),
    ],
)  # fmt: skip
def test_claims_about_errors(number, runs, wanted):
    assert answer(number, runs) == wanted


def parts(noisy: list[float], clean: list[float]) -> StoredRun:
    levels = {"train_loss_noisy": noisy, "train_loss_clean": clean}
    return run("p", [9, 8, 4], noise=0.3, metrics=levels, spread=0.001)


@pytest.mark.parametrize(
    ("number", "found", "wanted"),
    [
        ("N7", parts([0.1, 1, 3], [0.05, 0.1, 0.2]), "holds"),
        ("N7", parts([1.1, 1, 3], [0.05, 0.1, 0.2]), "does not hold"),
        ("N8", parts([0.1, 1, 3], [0.05, 0.1, 0.2]), "holds"),
        ("N8", parts([0.1, 1, 1], [0.05, 0.1, 0.2]), "does not hold"),
        ("N9", parts([0.5, 0.3, 3], [0.05, 0.1, 0.2]), "holds"),
        ("N9", parts([0.5, 0.9, 3], [0.05, 0.1, 0.2]), "does not hold"),
        ("N18", parts([0.1, 3, 2], [0.05, 0.1, 0.2]), "holds"),
        ("N18", parts([0.1, 2, 3], [0.05, 0.1, 0.2]), "does not hold"),
    ],
)
def test_claims_about_losses_on_noisy_and_clean_parts(number, found, wanted):
    assert answer(number, [found]) == wanted


def test_the_dip_is_that_of_pruned_levels_alone():
    (found,) = findings("N9", [parts([0.5, 0.3, 3], [0.05, 0.1, 0.2])])
    assert found.measured.startswith("-0.20")


CLEAN = run("p", [2, 1, 3])


@pytest.mark.parametrize(
    ("number", "runs", "means", "wanted"),
    [
        ("N2", [CLEAN], [-1, -0.5] * 10, "holds"),
        ("N2", [CLEAN], [-1, 0.5] * 10, "does not hold"),
        ("N3", [CLEAN], [-1] * 20, "undecided"),
        ("N4", [CLEAN], [0.5] * 20, "holds"),
        ("N4", [CLEAN], [-0.5] * 20, "does not hold"),
        ("N10", [run("p", [9, 4, 5], **NOISY)], [0.0, 0, 0, 0, 2], "holds"),
        ("N10", [run("p", [9, 4, 5], **NOISY)], [0.0, 0, 0, 0, -2], "does not hold"),
        ("N10", [run("p", [1, 4, 5], **NOISY)], [0.0, 0, 0, 0, 2], "cannot be tested"),
        ("N21", [extended("e", [2, 1, 1], metrics={"train_loss": [0.5, 0.2, 0.1]})], [-1] * 20, "holds"),
        (
            "N21",
            [extended("e", [2, 1, 1], metrics={"train_loss": [0.5, 0.2, 0.9]})],
            [-1] * 20,
            "does not hold",
        ),
        ("N23", [CLEAN], [-1] * 20, "cannot be tested"),
        ("N2", [CLEAN], [0.005] * 20, "holds"),
        ("N23", [CLEAN], [0.005] * 20, "cannot be tested"),
        ("N23", [CLEAN], [1] * 20, "holds"),
        ("N23", [run("p", [2, 1, 3], density=[1.0, 0.8, 0.05])], [1] * 20, "does not hold"),
    ],
)
def test_claims_about_subgroups(number, runs, means, wanted):
    assert answer(number, runs, lambda *_: groups(means)) == wanted


def again(name: str, error: float, examples: object, **more: object) -> StoredRun:
    return run(name, [error], procedure=["train"], replicate=1, examples=examples, **more)


@pytest.mark.parametrize(("null", "wanted"), [(2.0, "holds"), (4.0, "undecided")])
def test_what_is_affected_most_is_set_against_two_dense_trainings(null, wanted):
    def grouper(a, *_: object) -> Subgroups:
        return replace(groups([-1] * 20), ratio=null if a.run.name == "again" else 5.0)

    assert answer("N3", [CLEAN, again("again", 2, "all")], grouper) == wanted


def test_one_seed_has_no_subgroups_to_speak_of():
    alone = replace(
        groups([-1] * 20),
        groups=tuple(
            replace(group, difference=paired({0: 1.0}, {0: 0.0})) for group in groups([-1] * 20).groups
        ),
    )
    for number, runs in (("N2", [CLEAN]), ("N3", [CLEAN]), ("N23", [CLEAN])):
        assert answer(number, runs, lambda *_: alone) == "cannot be tested"


def test_runs_that_are_trained_otherwise_are_no_benchmark():
    other = extended("e", [6, 5.5, 5.4], epochs=3)
    found = findings("N11", [run("p", [6, 2, 5], epochs=60), other])
    assert [one.answer for one in found] == ["cannot be tested"] * 2


def test_labels_of_another_kind_are_no_noise_level():
    pairs = run("b", [9, 4, 5])
    flipped = replace(pairs, recipe={**pairs.recipe, "labels": {"pair_flip": {"fraction": 0.3}}})
    study = study_of(
        Compared(tuple(map(summarize, [run("a", [3, 2, 5]), flipped]))), lambda *_: groups([0.0])
    )
    assert [one.name for one in study.benchmarks][1].endswith("30% pair_flip noise")
    assert answer("N17", [run("a", [3, 2, 5]), flipped]) == "cannot be tested"


def test_a_strangers_recipe_is_sorted_without_a_traceback():
    odd = [
        run(
            "a", [3, 2, 5], procedure=[TRAIN, {"repeat": {"stages": [{"prune": "magnitude"}, REWIND, TRAIN]}}]
        ),
        run("b", [3, 2, 5], procedure=[TRAIN, {"repeat": {"stages": [{"prune": None}, REWIND, TRAIN]}}]),
        run("c", [3, 2, 5], model={"lenet_300_100": {"width": "a"}}),
        run("d", [3, 2, 5], model={"lenet_300_100": {"width": 10**400}}),
        run("e", [3, 2, 5], procedure=[None, 3]),
    ]
    for claim in claims_of("jin2022"):
        assert findings(claim.number, odd) is not None


IMPROVED = [{"without_improved": {"run": "imp", "level": level}} for level in (1, 2)]
CONTROLS = [{"without_random": {"like": one, "stratified": False}} for one in IMPROVED]


@pytest.mark.parametrize(("errors", "wanted"), [((5, 6), "holds"), ((1, 1), "does not hold")])
def test_the_improved_are_set_against_their_controls(errors, wanted):
    retrained = [
        again(f"t{n}", error, one) for n, (error, one) in enumerate(zip(errors, IMPROVED, strict=True))
    ]
    controls = [again(f"r{n}", 2, one) for n, one in enumerate(CONTROLS)]
    assert answer("N16", [CLEAN, *retrained, *controls]) == wanted
    assert answer("N16", [CLEAN, *retrained]) == "cannot be tested"
    others = [replace(one, recipe={**one.recipe, "equal_steps": True}) for one in controls]
    assert answer("N16", [CLEAN, *retrained, *others]) == "cannot be tested"


@pytest.mark.parametrize(("without", "wanted"), [(4.2, "holds"), (7, "does not hold"), (10, "does not hold")])
def test_leaving_out_is_set_against_all_and_against_pruning(without, wanted):
    examples = {"without_misclassified": {"run": "p", "level": 1}}
    runs = [
        run("p", [9, 4, 5], **NOISY),
        again("a", 9, "all", **NOISY),
        again("m", without, examples, **NOISY),
    ]
    assert answer("N19", runs) == wanted


def test_the_table_has_every_claim_and_what_an_example_is_worth():
    runs = tuple(map(summarize, [run("p", [2, 1, 3]), run("n", [9, 4, 5], **NOISY)]))
    study = study_of(Compared(runs), lambda *_: groups([0.0] * 20))
    tested = tuple(
        answers.Tested(one.number, one.text, one.rule, tuple(one.findings(study)))
        for one in claims_of("jin2022")
    )
    table = claims_table(replace(Compared(runs), claims=tested, table="claims"))
    assert [row[0] for row in table.rows] == sorted(
        (row[0] for row in table.rows), key=lambda name: int(name[1:])
    )
    assert {row[0] for row in table.rows} == {f"N{number}" for number in range(1, 25)}
    assert any("360 test examples, one of them 0.28 points" in note for note in table.notes)


def test_the_page_of_claims_has_every_rule():
    page = " ".join((ROOT / "docs/claims.md").read_text().split())
    for paper in claims_by_paper:
        for claim in claims_of(paper):
            for text in (claim.number, claim.text, claim.rule):
                assert text in page
