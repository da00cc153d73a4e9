"""Test errors class by class: known answers, what is refused, and stored runs read back."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prunecli.classes import harm_to_classes
from prunecli.cli.app import app
from prunecli.engine import carry_out_all
from prunecli.errors import NotComparable
from prunecli.recipe.load import load_text
from prunecli.report.classes import class_table
from prunecli.runs import Settings
from prunecli.statistics import holm, paired
from prunecli.store.examples import SeedTests, read_tests
from prunecli.store.guard import h5py
from prunecli.subgroups import Side

DENSE, SPARSE = Side("run", 0), Side("run", 3)
LABELS = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]


def seed_tests(wrong: list[int], *, level: int = 0, labels: list[int] = LABELS) -> SeedTests:
    correct = np.ones(len(labels), dtype=np.bool_)
    correct[wrong] = False
    return SeedTests(np.array(labels), {level: correct}, "2" * 64)


def found_by_hand():
    """Class 0 loses one more of four in each seed; class 1 changes by none, class 2 by -1 and 0 of five."""
    dense = {0: seed_tests([0, 4, 6]), 1: seed_tests([4, 6])}
    sparse = {0: seed_tests([0, 1, 5], level=3), 1: seed_tests([3, 5, 7], level=3)}
    return harm_to_classes((SPARSE, sparse), (DENSE, dense))


def test_errors_and_differences_by_hand():
    zero, one, two = found_by_hand().classes
    assert [(each.number, each.examples, each.worth) for each in (zero, one, two)] == [
        (0, 4, 25),
        (1, 2, 50),
        (2, 5, 20),
    ]
    assert (zero.error.values, zero.error_against.values) == ((50, 25), (25, 0))
    assert (zero.difference.mean, zero.difference.std, zero.difference.verdict) == (25, 0, "higher")
    assert (one.difference.mean, one.difference.verdict) == (0, "match")
    assert (two.error.values, two.error_against.values) == ((0, 20), (20, 20))
    assert two.difference.mean == -10
    assert two.difference.std == pytest.approx(200**0.5)
    assert two.difference.verdict == "match"


def test_the_worst_harmed_class_and_the_counts():
    found = found_by_hand()
    assert found.worst.number == 0
    assert found.counts == {"lower": 0, "match": 2, "higher": 1}
    assert [one.number for one in found.by_harm] == [0, 1, 2]
    harmless = harm_to_classes((SPARSE, {0: seed_tests([], level=3)}), (DENSE, {0: seed_tests([0])}))
    assert harmless.worst is None
    assert harmless.counts == {"lower": 0, "match": 0, "higher": 0}
    assert any("no class has a higher" in note for note in class_table(harmless, 0.95).notes)


@given(seed=st.integers(0, 99), classes=st.integers(1, 6))
def test_classes_weighed_by_their_examples_are_the_whole_test_set(seed, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 60).tolist()
    sides = [
        {
            s: seed_tests(rng.permutation(60)[: rng.integers(0, 60)].tolist(), level=level, labels=labels)
            for s in (0, 1)
        }
        for level in (3, 0)
    ]
    found = harm_to_classes((SPARSE, sides[0]), (DENSE, sides[1]))
    assert sum(one.examples for one in found.classes) == 60
    for row in (0, 1):
        wrong = sum(one.error.values[row] * one.examples for one in found.classes) / 60
        assert wrong == pytest.approx(100 * np.mean(~sides[0][row].correct[3]))


def test_p_is_corrected_over_all_classes_that_were_looked_at():
    """Classes whose differences are all equal have no test, and still count as looked at."""
    rng = np.random.default_rng(1)
    labels = [n % 5 for n in range(100)]
    sides = [
        {
            s: seed_tests(
                [n for n in range(100) if n % 5 < 4 and rng.random() < 0.3], level=level, labels=labels
            )
            for s in range(4)
        }
        for level in (3, 0)
    ]
    found = harm_to_classes((SPARSE, sides[0]), (DENSE, sides[1]))
    assert found.classes[4].p is None
    family = {one.number: one.difference.p for one in found.classes[:4]}
    expected = holm({**family, 4: 1.0})
    assert {one.number: one.p for one in found.classes[:4]} == {number: expected[number] for number in family}


def test_seeds_without_a_partner_are_left_out_of_the_difference_and_named():
    dense = {0: seed_tests([]), 1: seed_tests([]), 2: seed_tests([0])}
    sparse = {0: seed_tests([0], level=3), 1: seed_tests([0, 1], level=3)}
    found = harm_to_classes((SPARSE, sparse), (DENSE, dense))
    assert found.classes[0].difference == paired({0: 25, 1: 50}, {0: 0, 1: 0, 2: 25})
    assert any("partner: seeds 2" in note for note in class_table(found, 0.95).notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda side: {1: side[0]}, "have no seed in common"),
        (lambda side: {0: seed_tests([0], level=2)}, "have no seed in common"),
        (lambda side: {0: replace(side[0], label=side[0].label + 1)}, "of other data"),
        (lambda side: {0: replace(side[0], fingerprint="3" * 64)}, "of other data"),
    ],
)
def test_what_cannot_be_compared_is_named(change, message):
    side = {0: seed_tests([0], level=3)}
    with pytest.raises(NotComparable, match=message):
        harm_to_classes((SPARSE, change(side)), (DENSE, {0: seed_tests([0])}))


def test_of_many_classes_a_brief_table_shows_the_most_harmed():
    labels = [n // 2 for n in range(60)]
    sparse = {0: seed_tests([40, 41, 50], level=3, labels=labels)}
    found = harm_to_classes((SPARSE, sparse), (DENSE, {0: seed_tests([0], labels=labels)}))
    brief, whole = (class_table(found, 0.95, brief=brief) for brief in (True, False))
    assert (len(brief.rows), len(whole.rows)) == (20, 30)
    assert [row[0] for row in brief.rows[:2]] == ["20", "25"]
    assert "the 20 most harmed of 30 classes; --all-levels shows all" in brief.notes


PRUNED = "procedure=[train, {prune: {fraction: 0.9}}, rewind, train]"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two seeds and two levels."""
    runs = tmp_path_factory.mktemp("runs")
    given = load_text(SMALL, "small.yaml", [PRUNED, "seeds=[0, 1]"], stem="small")
    (finished,) = carry_out_all(given, Settings(runs=runs), lambda _event: None)
    return finished.folder.path


def compared(run: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["compare", str(run), "--classes", *more])


def test_compare_tells_the_harm_to_classes_of_a_stored_run(run):
    done = compared(run, "--level", "1", "--json")
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout)["classes"]
    assert (found["level"], found["level_against"], found["metric"]) == (1, 0, "test_error")
    with h5py.File(run / "store.h5") as store:
        label, correct = store["test/label"][()], store["test/correct"][()]
    for one in found["classes"]:
        of_class = label == one["class"]
        assert one["examples"] == of_class.sum()
        errors = 100 * (1 - correct[:, :, of_class].mean(axis=2))
        assert one["error"]["values"] == pytest.approx(errors[:, 1])
        assert one["error_against"]["values"] == pytest.approx(errors[:, 0])
        assert one["difference"] == pytest.approx((errors[:, 1] - errors[:, 0]).mean())
    assert [one["class"] for one in found["classes"]] == list(range(10))
    table = compared(run, "--level", "1").stdout
    assert "class by class" in table
    assert f"of {len(found['classes'])} classes" in table


def test_classes_are_rows_of_the_csv_too(run):
    done = compared(run, "--level", "1", "--format", "csv")
    rows = {(row["metric"], row["level"]): row for row in csv.DictReader(io.StringIO(done.stdout))}
    [found] = json.loads(compared(run, "--level", "1", "--json").stdout)["classes"]
    for one in found["classes"]:
        row = rows[f"test_error_class_{one['class']}", "1"]
        assert (float(row["mean"]), float(row["difference"])) == (one["error"]["mean"], one["difference"])


def test_parts_are_read_like_stores(run, tmp_path):
    given = load_text(SMALL, "small.yaml", [PRUNED, "seeds=[0]"], stem="small")

    def interrupt(event: object) -> None:
        if type(event).__name__ == "LevelDone" and event.level == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(given, Settings(runs=tmp_path), interrupt)
    (unfinished,) = tmp_path.glob("small-*")
    assert not (unfinished / "store.h5").exists()
    sealed, stored = read_tests(unfinished, [0, 1])[0], read_tests(run, [0, 1])[0]
    assert np.array_equal(sealed.label, stored.label)
    assert sealed.fingerprint == stored.fingerprint
    for level in (0, 1):
        assert np.array_equal(sealed.correct[level], stored.correct[level])


def test_a_run_that_observes_no_examples_says_what_would(tmp_path):
    given = load_text(SMALL, "small.yaml", [PRUNED, "observe=[]"], stem="small")
    carry_out_all(given, Settings(runs=tmp_path), lambda _event: None)
    (path,) = tmp_path.glob("small-*")
    done = compared(path, "--level", "1")
    assert done.exit_code == 4, done.output
    assert "has no /test/correct; a recipe with `observe: [example_losses]` stores it" in done.stderr
    assert "test error %" in done.stdout


def test_a_width_series_is_read_from_the_folders_of_its_members(tmp_path):
    widths = "sweep: {model.width: [1, 0.5, 0.25]}"
    text = SMALL.replace("{mlp: {hidden: [16]}}", "{lenet_300_100: {width: 1}}") + widths
    carry_out_all(
        load_text(text, "small.yaml", [], stem="small"), Settings(runs=tmp_path), lambda _event: None
    )
    levels = ["--level", "1", "--level", "2"]
    done = CliRunner().invoke(app, ["compare", "--runs", str(tmp_path), "--classes", *levels, "--json"])
    assert done.exit_code == 0, done.output
    tests = [
        read_tests(next(tmp_path.glob(f"small-width-{width}-*")), [0])[0] for width in ("1", "0.5", "0.25")
    ]
    for level, found in enumerate(json.loads(done.stdout)["classes"], 1):
        for one in found["classes"]:
            chosen = tests[0].label == one["class"]
            errors = [100 * float(np.mean(~one_width.correct[0][chosen])) for one_width in tests]
            told = [one["error"]["mean"], one["error_against"]["mean"]]
            assert told == pytest.approx([errors[level], errors[0]])


def test_only_the_seeds_that_are_asked_for_count(run):
    [found] = json.loads(compared(run, "--level", "1", "--seeds", "1", "--json").stdout)["classes"]
    stored = read_tests(run, [1])[1]
    for one in found["classes"]:
        error = 100 * float(np.mean(~stored.correct[1][stored.label == one["class"]]))
        assert one["error"]["values"] == pytest.approx([error])


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--level", "optimum"], 2, "--level optimum: unknown"),
        (["--level", "0"], 4, "has no level to look at class by class (0)"),
        (["--level", "99"], 4, "--level 99: it has no such level"),
    ],
)
def test_bad_questions_are_answered_in_a_line(run, more, status, message):
    done = compared(run, *more)
    assert done.exit_code == status, done.output
    assert message in " ".join(done.stderr.split())


def test_nothing_of_torch_is_imported(run):
    arguments = ["compare", str(run), "--classes", "--level", "1", "--table", "methods"]
    code = f"""
import sys
from prunecli.cli.app import app
app({arguments!r}, standalone_mode=False)
assert not {{"torch", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
