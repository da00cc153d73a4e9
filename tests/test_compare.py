"""Statistics, verdicts, pairing, selections and gates, on stored runs made by hand."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunecli.cli.compare import Format, Settings, compare_runs
from prunecli.compare import Compared, Reference, Summary, check_gate, problems, summarize, with_seeds
from prunecli.errors import DamagedRun, GateFailed, NotComparable, PrunecliError, StorageError, UsageError
from prunecli.expression import parse
from prunecli.statistics import area, false_positives, holm, paired, statistic
from prunecli.store.values import StoredRun

NAN = math.nan
TEST_ERROR = ((2.0, 1.5, 1.4, 1.8, 3.0), (2.2, 1.6, 1.7, 2.0, 3.1), (2.1, 1.7, 1.4, 2.0, 3.3))


def stored(
    name: str = "imp",
    test_error: Sequence[Sequence[float]] = TEST_ERROR,
    *,
    seeds: Sequence[int] = (),
    density: Sequence[float] = (),
    folder: Path = Path("runs"),
    **metrics: Sequence[Sequence[float]],
) -> StoredRun:
    """A run of S seeds by L levels, 0.8 of the weights kept at each level."""
    levels = len(test_error[0])
    return StoredRun(
        name=name,
        path=folder / name,
        digest="0" * 64,
        status="complete",
        recipe={"model": "lenet_300_100", "data": "digits", "procedure": ["train"]},
        seeds=tuple(seeds) or tuple(range(len(test_error))),
        density=np.array(density or [0.8**level for level in range(levels)]),
        spent=np.array([40.0 * level for level in range(1, levels + 1)]),
        metrics={key: np.array(rows) for key, rows in {"test_error": test_error, **metrics}.items()},
        units={"test_error": "percent", "validation_error": "percent"},
        total=266_200,
    )


def at(level: int | None, summary: Summary) -> float | None:
    return None if level is None else summary.levels[level].density


def test_a_level_of_fewer_seeds_is_no_optimum() -> None:
    lucky = [[2.0, 1.5, 0.1], [2.2, 1.6, NAN], [2.1, 1.7, NAN]]
    assert summarize(stored(test_error=lucky)).optimal.level == 1
    assert summarize(stored(test_error=lucky, validation_error=[[NAN, NAN, 5.0]] * 3)).optimal.level == 2
    assert summarize(stored(test_error=lucky[:1])).optimal.level == 2


def gate(text: str, run: StoredRun, against: Reference | None = None) -> None:
    check_gate(parse(text), Compared((summarize(run),), reference=against), summarize(run))


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-1.0, -1.0, -1.0], "lower"),
        ([0.1, 0.1, 0.1], "higher"),
        ([0.0, 0.0, 0.0], "match"),
        ([-1.0, 0.0, 1.0], "match"),
        ([-3.0, -2.0, -1.0], "lower"),
        ([0.0, 1.0, 2.0], "higher"),  # |mean| is the sd: at least one sd is a difference
        ([-0.1, 1.0, 2.0], "match"),
        ([0.5, 0.5 + 1e-9], "higher"),
    ],
)
def test_the_verdict_is_by_one_sd_of_the_paired_differences(differences: list[float], expected: str) -> None:
    a = dict(enumerate(differences))
    assert paired(a, dict.fromkeys(a, 0.0)).verdict == expected
    mirrored = {"lower": "higher", "higher": "lower", "match": "match"}
    assert paired(dict.fromkeys(a, 0.0), a).verdict == mirrored[expected]


def test_one_seed_has_a_difference_and_nothing_more() -> None:
    found = paired({7: 1.5}, {7: 2.0})
    assert (found.n, found.mean) == (1, -0.5)
    assert (found.std, found.interval, found.verdict) == (None, None, None)


def test_no_seed_has_nothing() -> None:
    found = paired({1: 1.0}, {2: 1.0})
    assert (found.n, found.mean, found.std, found.interval, found.verdict) == (0, None, None, None, None)
    assert found.unpaired == (1, 2)


def test_the_interval_of_three_seeds_is_students() -> None:
    found = paired({0: -0.5, 1: -0.3, 2: -0.4}, dict.fromkeys(range(3), 0.0))
    assert found.mean == pytest.approx(-0.4)
    assert found.std == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.interval == pytest.approx((-0.4 - half, -0.4 + half), abs=1e-6)


@pytest.mark.parametrize(("confidence", "t"), [(0.9, 2.919986), (0.99, 9.924843)])
def test_the_interval_widens_with_confidence(confidence: float, t: float) -> None:
    found = paired({0: -1.0, 1: 0.0, 2: 1.0}, dict.fromkeys(range(3), 0.0), confidence=confidence)
    low, high = found.interval or (NAN, NAN)
    assert high == pytest.approx(t / math.sqrt(3), abs=1e-5)
    assert low == pytest.approx(-high)


def test_effect_and_p_are_of_students_paired_test() -> None:
    """Against scipy's paired t test, which prunecli does not import to start quickly."""
    from scipy.stats import ttest_rel

    a, b = {0: 1.0, 1: 2.0, 2: 4.0, 3: 3.5}, {0: 0.5, 1: 2.5, 2: 2.0, 3: 3.0}
    found = paired(a, b)
    assert found.p == pytest.approx(ttest_rel(list(a.values()), list(b.values())).pvalue)
    assert found.effect == pytest.approx(found.mean / found.std)
    for other in ({0: 1.0, 1: 2.0}, {0: 0.9, 1: 1.9}):
        alike = paired({0: 1.0, 1: 2.0}, other)
        assert (alike.std, alike.effect, alike.p) == (0, None, None)


def test_p_values_are_corrected_over_their_family() -> None:
    assert holm({1: 0.01, 2: 0.04, 3: 0.03, 4: 0.005}) == pytest.approx({4: 0.02, 1: 0.03, 3: 0.06, 2: 0.06})
    assert holm({7: 0.6, 8: 0.7}) == {7: 1.0, 8: 1.0}
    assert holm({}) == {}


def test_without_any_effect_a_family_finds_something_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    runs, levels, seeds = 2000, 10, 3
    found = 0
    for _ in range(runs):
        draws = rng.normal(size=(levels, seeds))
        p = {
            level: paired(dict(enumerate(row)), dict.fromkeys(range(seeds), 0.0)).p
            for level, row in enumerate(draws)
        }
        found += min(holm(p).values()) <= 0.05
    assert found / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_area_is_the_mean_over_the_logarithm_of_the_density() -> None:
    """Of a curve that is a straight line over log density, it is the height in the middle."""
    densities = [0.8**level for level in range(12)]
    assert area(densities, [5.0] * 12) == pytest.approx(5.0)
    assert area(densities, [float(level) for level in range(12)]) == pytest.approx(5.5)
    assert area([1, 0.1, 0.01], [0, 1, 0]) == pytest.approx(0.5)
    assert area([1, 0.5, 0.5], [1, 2, 4]) == pytest.approx(2.0)
    assert area([1, 1, 1], [3, 2, 1]) is None
    assert area([1, 0.5], [3, math.nan]) is None


def test_equal_values_have_no_spread_at_all() -> None:
    assert statistic([0.1, 0.1, 0.1]) == statistic([0.1] * 3)
    assert (statistic([0.1] * 3).mean, statistic([0.1] * 3).std) == (0.1, 0.0)


def test_nan_and_infinity_are_left_out_and_counted() -> None:
    found = statistic([1.0, NAN, 3.0, math.inf])
    assert (found.values, found.n, found.mean) == ((1.0, None, 3.0, None), 2, 2.0)
    assert found.std == pytest.approx(math.sqrt(2))
    assert statistic([NAN]).mean is None


def test_three_seeds_differ_by_chance_22_percent_of_the_time() -> None:
    draw = random.Random(0)
    trials = 20_000
    zeros = dict.fromkeys(range(3), 0.0)
    called = sum(
        paired({seed: draw.gauss(0, 1) for seed in range(3)}, zeros).verdict != "match" for _ in range(trials)
    )
    assert false_positives(3) == pytest.approx(0.2254, abs=1e-4)
    assert called / trials == pytest.approx(false_positives(3), abs=0.01)


def test_seeds_pair_by_value_whatever_their_order() -> None:
    run = stored("a", [[2.0, 1.0], [20.0, 10.0], [5.0, 5.0]], seeds=[0, 1, 9])
    other = stored("b", [[11.0, 11.0], [1.0, 1.0]], seeds=[1, 0])
    compared = Compared((summarize(run),), reference=Reference(summarize(other), "last"))
    first, second = compared.comparisons("test_error")
    assert first.difference.mean == pytest.approx((2 - 1 + 20 - 11) / 2)
    assert second.difference.mean == pytest.approx((1 - 1 + 10 - 11) / 2)
    assert first.difference.unpaired == (9,)


def test_by_default_each_level_is_compared_with_its_own_dense_one() -> None:
    compared = Compared((summarize(stored("a")), summarize(stored("b"))))
    found = list(compared.comparisons("test_error"))
    assert [(each.a, each.b, each.level_b) for each in found] == [("a", "a", 0)] * 4 + [("b", "b", 0)] * 4
    assert [each.level_a for each in found[:4]] == [1, 2, 3, 4]
    assert [each.selected_by for each in found[:4]] == [None, "test_error", None, None]


def test_same_compares_level_by_level() -> None:
    dense = stored("extended", [[2.0, 1.9]] * 3, density=[1.0, 1.0])
    compared = Compared((summarize(stored()),), reference=Reference(summarize(dense), "same"))
    assert [(each.level_a, each.level_b) for each in compared.comparisons("test_error")] == [(0, 0), (1, 1)]


def test_the_levels_that_the_paper_names() -> None:
    summary = summarize(stored())
    assert summary.dense == 0
    assert summary.optimal is not None
    assert (summary.optimal.level, summary.optimal.selected_by) == (2, "test_error")
    assert summary.sparsest_better == 3
    for level in summary.levels:
        sparser = level.density < (at(summary.sparsest_better, summary) or 0)
        lower = paired(summary.by_seed(level, "test_error"), summary.by_seed(summary.levels[0], "test_error"))
        assert not (sparser and lower.verdict == "lower")


def test_the_corrected_test_names_a_level_only_where_it_is_sure() -> None:
    """Level 1 is lower by 1.0, 1.0 and 1.01 points; level 2 by the paper's rule alone."""
    run = stored(test_error=[[3.0, 2.0, 2.9], [3.1, 2.1, 2.8], [3.0, 1.99, 2.6]])
    summary = summarize(run)
    assert (summary.sparsest_better, summary.sparsest_better_corrected) == (2, 1)
    assert summary.pick("sparsest_better_corrected") is summary.levels[1]
    corrected = Compared((summary,)).corrected(summary, "test_error")
    assert corrected.keys() == {1, 2}
    assert corrected[1] < 0.05 < corrected[2]


def test_a_level_without_a_test_is_one_of_the_family() -> None:
    """Level 2 is the dense level in every seed: nothing to test, but looked at."""
    run = stored(test_error=[[3.0, 2.0, 3.0], [3.1, 2.1, 3.1], [3.0, 1.9, 3.0]])
    summary = summarize(run)
    compared = Compared((summary,))
    p = compared.difference(summary, summary.levels[1], "test_error").p
    assert p is not None
    assert compared.corrected(summary, "test_error") == pytest.approx({1: 2 * p})


def test_the_area_is_of_the_seeds_that_have_every_level() -> None:
    run = stored(test_error=[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, NAN, 3.0]])
    assert summarize(run).area("test_error").values == pytest.approx((1.0, 2.0, None))
    assert summarize(run).area("no_such_metric").n == 0


def test_validation_chooses_the_optimum_where_there_is_one() -> None:
    run = stored(validation_error=[[2.0, 1.0, 1.9, 1.9, 1.9]] * 3)
    optimal = summarize(run).optimal
    assert optimal is not None
    assert (optimal.level, optimal.selected_by) == (1, "validation_error")
    without = summarize(stored(validation_error=[[NAN] * 5] * 3)).optimal
    assert without is not None
    assert (without.level, without.selected_by) == (2, "test_error")


def test_pruning_before_training_has_no_dense_level() -> None:
    summary = summarize(stored(density=[0.5, 0.4, 0.3, 0.2, 0.1]))
    assert summary.dense is None
    assert summary.sparsest_better is None
    assert list(Compared((summary,)).comparisons("test_error")) == []


def test_extended_dense_training_has_no_sparsest_better_level() -> None:
    summary = summarize(stored(density=[1.0] * 5))
    assert (summary.dense, summary.sparsest_better) == (0, None)


def test_one_seed_has_no_sparsest_better_level() -> None:
    assert summarize(stored(test_error=TEST_ERROR[:1])).sparsest_better is None


def test_regression_is_chosen_by_its_loss() -> None:
    run = stored(test_loss=[[3.0, 2.0, 1.0, 2.0, 3.0]] * 3)
    run = replace(run, metrics={"test_loss": run.metrics["test_loss"]})
    optimal = summarize(run).optimal
    assert optimal is not None
    assert (optimal.level, optimal.selected_by) == (2, "test_loss")
    assert summarize(run).sparsest_better == 3


def test_a_run_that_has_no_level_yet_has_a_summary() -> None:
    run = stored(test_error=[[], [], []])
    summary = summarize(run)
    assert (summary.levels, summary.dense, summary.optimal, summary.pick("last")) == ((), None, None, None)


@pytest.mark.parametrize(
    ("word", "level"),
    [
        ("dense", 0),
        ("optimal", 2),
        ("sparsest_better", 3),
        ("last", 4),
        ("level_1", 1),
        ("1", 1),
        ("9", None),
    ],
)
def test_levels_are_picked_by_word_or_number(word: str, level: int | None) -> None:
    found = summarize(stored()).pick(word)
    assert (found.level if found else None) == level


def test_seeds_can_be_chosen() -> None:
    run = with_seeds(stored(seeds=[3, 4, 5]), [5, 3, 8])
    assert run.seeds == (3, 5)
    assert run.metrics["test_error"][:, 0].tolist() == [2.0, 2.1]
    with pytest.raises(NotComparable, match="has no seed of --seeds; it has 3, 5"):
        with_seeds(run, [0])


@pytest.mark.parametrize(
    ("metric", "require_n", "message"),
    [
        ("test_eror", 0, "has no metric 'test_eror'; did you mean 'test_error'?"),
        ("train_error", 0, "train_error is NaN at every level and seed"),
        ("noisy_error", 0, "noisy_error is missing at imp level 0"),
        ("test_error", 4, "level 0 has test_error of 3 seeds; --require-n asks for 4"),
        ("partial_error", 3, "level 4 has partial_error of 2 seeds; --require-n asks for 3"),
    ],
)
def test_what_cannot_be_compared_is_named(metric: str, require_n: int, message: str) -> None:
    run = stored(
        train_error=[[NAN] * 5] * 3,
        noisy_error=[[NAN, 1, 1, 1, 1]] * 3,
        partial_error=[[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, NAN]],
    )
    [error] = problems(Compared((summarize(run),), metric), require_n=require_n)
    assert isinstance(error, NotComparable)
    assert message in str(error)


def test_a_run_with_seeds_enough_is_no_problem() -> None:
    assert problems(Compared((summarize(stored()),)), require_n=3) == []


@pytest.mark.parametrize(
    "text",
    [
        "optimal.test_error > dense.test_error + 0.5",
        "not optimal.test_error < dense.test_error",
        "dense.test_error < 2 and last.test_error > 3",
        "level_4.test_error == dense.test_error or 1 > 2",
        "1 < optimal.test_error < 1.4",
        "(dense.test_error - optimal.test_error) / dense.test_error <= 0.01",
        "sparsest_better.density > 0.52",
        "-dense.test_error * 2 != -2 * dense.test_error",
        "last.spent > 200",
        "not dense.test_error <= dense.test_error",
        "not dense.test_error >= dense.test_error",
        "dense.test_error < dense.test_error or dense.test_error > dense.test_error",
    ],
)
def test_gates_that_are_false_pass_and_their_contraries_fail(text: str) -> None:
    gate(text, stored())
    with pytest.raises(GateFailed, match="imp: --fail-if"):
        gate(f"not ({text})", stored())


def test_a_failed_gate_shows_its_numbers() -> None:
    with pytest.raises(GateFailed) as failed:
        gate("optimal.test_error < dense.test_error", stored())
    assert str(failed.value).endswith(
        "is true: optimal.test_error = 1.5 (level 2), dense.test_error = 2.1 (level 0)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimal.tests_error > 1", "did you mean 'test_error'"),
        ("level_17.test_error > 1", "there is no level 'level_17'"),
        ("against.test_error > 1", "there is no level 'against'"),
        ("last.validation_error > 1", "last.validation_error is missing or NaN"),
        ("1 > 2 or last.validation_error > 1", "last.validation_error is missing or NaN"),
        ("2 > 1 and not last.validation_error > 1", "last.validation_error is missing or NaN"),
        ("dense.test_error / (optimal.test_error - optimal.test_error) > 1", "division by zero"),
        ("dense.test_error * 1e308 * 1e308 > 1", "result too large"),
    ],
)
def test_what_is_missing_never_passes(text: str, message: str) -> None:
    run = stored(validation_error=[[1.0, 1.0, 1.0, 1.0, NAN]] * 3)
    for expression in (text, f"not ({text})"):
        with pytest.raises(NotComparable, match=message):
            gate(expression, run)


def test_a_density_that_is_nan_is_missing() -> None:
    with pytest.raises(NotComparable, match=r"last\.density is missing or NaN"):
        gate("last.density > 1", stored(density=[1.0, 0.8, 0.6, 0.4, NAN]))


def test_a_gate_can_name_the_reference() -> None:
    against = Reference(summarize(stored("baseline", [[1.0, 1.0]] * 3)), "dense")
    with pytest.raises(GateFailed, match=r"against\.test_error = 1 "):
        gate("optimal.test_error > against.test_error + 0.4", stored(), against)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid syntax"),
        ("optimal.test_error >", "1:"),
        ("optimal.test_error", "is no condition"),
        ("1 + 1", "is no condition"),
        ("optimla.test_error > 1", "--fail-if:1:1: 'optimla' is no level; did you mean 'optimal'"),
        ("1 < optimla.test_error", "--fail-if:1:5:"),
        ("test_error > 1", "'test_error' is no number"),
        ("(dense.a < 1) + 1 > 2", "is no number"),
        ("True < dense.test_error", "'True' is no number"),
        ("'a' < dense.test_error", "is no number"),
        ("dense.test_error ** 9 > 1", "is no number"),
        ("dense.test_error < 1e999", "too large"),
        ("dense.test_error < " + "9" * 400, "too large"),
        ("__import__('os').system('true') > 1", "is no number"),
        ("dense.__class__.mro() > 1", "is no number"),
        ("[x for x in (1,)] > 1", "is no"),
        ("(lambda: 1)() > 1", "is no number"),
        ("dense.test_error in (1, 2)", "is no condition"),
        ("dense.a if 1 < 2 else 2", "is no condition"),
        ("(a := 1) < 2", "is no number"),
        ("dense.a is 1", "is no condition"),
        ("-" * 60 + "1 < 2", "too deep"),
        ("(" * 230 + "1" + ")" * 230 + " < 2", "--fail-if"),
        ("1 < 2 or " * 60 + "1 < 2", "at most 500"),
        ("dense.a < 1\0", "--fail-if"),
        ("dense.\udcff < 1", "--fail-if"),
        ("dense.é < missing.x", "--fail-if:1:11:"),
    ],
)
def test_what_is_no_gate_is_refused_before_anything_is_read(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert message in str(refused.value)


def test_a_gate_may_be_folded_over_lines() -> None:
    assert parse("optimal.test_error\n  > dense.test_error").text == "optimal.test_error > dense.test_error"


Folder = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path) -> dict[Path, StoredRun]:
    """Two runs' folders and what is in them."""
    made = [stored("imp", folder=tmp_path), stored("random", [[2.0, 2.5]] * 3, folder=tmp_path)]
    for run in made:
        run.path.mkdir()
        (run.path / "recipe.yaml").touch()
    return {run.path: run for run in made}


def carry_out(runs: dict[Path, StoredRun], texts: Sequence[str], settings: Settings = Settings()) -> None:  # noqa: B008  (frozen)
    root = next(iter(runs)).parent

    def read(path: Path) -> StoredRun:
        if path in runs:
            return runs[path]
        raise DamagedRun(f"{path}: is empty") if path.exists() else UsageError(f"{path}: is not there")

    compare_runs(texts, replace(settings, root=root), read)


def test_without_arguments_every_run_is_compared(
    runs: dict[Path, StoredRun], capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(runs, [])
    shown = capsys.readouterr()
    assert "imp: lenet_300_100 on digits" in shown.out
    assert "random: lenet_300_100 on digits" in shown.out
    assert shown.err == ""


def test_runs_are_found_by_the_beginning_of_their_names(
    runs: dict[Path, StoredRun], capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(runs, ["ran"], Settings(against="im:optimal"))
    assert "difference: to imp, level optimal" in capsys.readouterr().out
    carry_out(runs, ["ran"], Settings(against="im:same"))
    assert "difference: to imp, level by level" in capsys.readouterr().out


@pytest.mark.parametrize("format", [Format.csv, Format.json])
def test_data_on_standard_output_leaves_the_notes_to_standard_error(
    runs: dict[Path, StoredRun], capsys: pytest.CaptureFixture[str], format: Format
) -> None:
    single = {path: replace(run, seeds=run.seeds[:1]) for path, run in runs.items()}
    carry_out(single, ["imp"], Settings(format=format))
    shown = capsys.readouterr()
    assert "imp: n = 1: one seed" in shown.err
    assert "n = 1" not in shown.out


@pytest.mark.parametrize(("against", "error"), [("nope", UsageError), ("imp:77", NotComparable), ("", None)])
def test_a_reference_that_is_not_there_is_named(
    runs: dict[Path, StoredRun], against: str, error: type[PrunecliError] | None
) -> None:
    if error is None:
        carry_out(runs, ["imp"], Settings(against=against))
    else:
        with pytest.raises(error, match=against):
            carry_out(runs, ["imp"], Settings(against=against))


def test_a_beginning_of_two_names_is_refused(runs: dict[Path, StoredRun], tmp_path: Path) -> None:
    (tmp_path / "impostor").mkdir()
    with pytest.raises(UsageError, match="begins several runs: imp, impostor"):
        carry_out(runs, ["im"])


def test_an_unreadable_run_does_not_stop_the_others(
    runs: dict[Path, StoredRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "store.h5").touch()
    with pytest.raises(DamagedRun, match="broken: is empty"):
        carry_out(runs, [str(tmp_path / name) for name in ("broken", "imp", "random")])
    assert "imp: lenet_300_100 on digits" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_left_out_where_there_are_others(
    runs: dict[Path, StoredRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plots").mkdir()
    carry_out(runs, [str(tmp_path / "plots"), str(tmp_path / "imp")])
    assert "plots: not a run's folder, left out" in capsys.readouterr().err
    with pytest.raises(DamagedRun, match="plots: is empty"):
        carry_out(runs, [str(tmp_path / "plots")])


def test_a_missing_path_is_a_wrong_argument(runs: dict[Path, StoredRun]) -> None:
    with pytest.raises(UsageError, match="nowhere: is not there"):
        carry_out(runs, ["nowhere", "imp"])


def test_the_gravest_error_gives_the_class_and_all_are_told(
    runs: dict[Path, StoredRun], capsys: pytest.CaptureFixture[str]
) -> None:
    gates = (parse("optimal.test_error < 9"), parse("level_3.test_error > 9"))
    with pytest.raises(NotComparable) as error:
        carry_out(runs, ["imp", "random"], Settings(gates=gates))
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(GateFailed):
        carry_out(runs, ["imp", "random"], Settings(gates=gates[:1]))
    assert "imp: lenet_300_100 on digits" in capsys.readouterr().out


def test_a_metric_that_one_run_lacks_leaves_the_others_comparable(
    runs: dict[Path, StoredRun], capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = next(path for path in runs if path.name == "random")
    runs[lacking] = replace(runs[lacking], metrics={"test_loss": np.zeros((3, 2))})
    with pytest.raises(NotComparable, match="random: has no metric 'test_error'"):
        carry_out(runs, ["imp", "random"])
    assert "2.10 ± 0.10" in capsys.readouterr().out


def test_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [stored("imp", folder=tmp_path / place) for place in ("a", "b")]
    for run in found:
        run.path.mkdir(parents=True)
        (run.path / "recipe.yaml").touch()
    carry_out({run.path: run for run in found}, [str(run.path) for run in found])
    out = capsys.readouterr().out
    assert all(f"{run.path}: lenet_300_100" in out for run in found)


def test_output_files_are_written_by_their_ending(
    runs: dict[Path, StoredRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tuple(tmp_path / f"table{ending}" for ending in (".md", ".csv", ".tex", ".json", ".txt"))
    carry_out(runs, ["imp"], Settings(files=files))
    assert all(file.stat().st_size for file in files)
    assert files[-1].read_text(encoding="utf-8") == capsys.readouterr().out
    with pytest.raises(StorageError, match="cannot be written"):
        carry_out(runs, ["imp"], Settings(files=(tmp_path / "no" / "table.md",)))


def test_comparing_imports_nothing_heavy() -> None:
    heavy = "torch", "torchvision", "timm", "pydantic", "h5py", "scipy.stats", "pandas"
    code = (
        f"import sys, prunecli.report, prunecli.expression; print([m for m in {heavy} if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize("base", range(12))
@pytest.mark.parametrize("wrong", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_mean_of_one_sd_is_a_difference_whatever_its_last_bits_say(
    base: int, wrong: tuple[int, ...]
) -> None:
    """Differences of 0, 1 and 2 test examples have a mean of exactly one sd; their percentages are rounded."""
    before = dict.fromkeys(range(3), 100 * base / 360)
    after = {seed: 100 * (base + more) / 360 for seed, more in enumerate(wrong)}
    assert paired(after, before, confidence=0.95).verdict == "higher"
    assert paired(before, after, confidence=0.95).verdict == "lower"


def test_choosing_seeds_chooses_what_is_known_of_their_layers():
    kept = np.array([[[3], [1]], [[3], [0]], [[3], [2]]])
    run = replace(stored(test_error=[row[:2] for row in TEST_ERROR]), layers=("fc.weight",), kept=kept)
    assert summarize(run).levels[1].collapsed == {"fc.weight": (1,)}
    assert summarize(with_seeds(run, [0, 2])).levels[1].collapsed == {}
    assert with_seeds(run, [2]).kept.tolist() == [[[3], [2]]]


@pytest.mark.parametrize("values", [[1e308, -1e308, 1e308], [1.7e308, -1.7e308, -1.7e308], [1e200, 1, 2]])
def test_numbers_whose_squares_are_no_floats_have_a_mean_and_no_sd(values):
    found = statistic(values)
    assert found.mean is not None
    assert math.isfinite(found.mean)
    assert found.std is None
    difference = paired(dict(enumerate(values)), dict(enumerate(reversed(values))))
    assert difference.interval is None or all(map(math.isfinite, difference.interval))
