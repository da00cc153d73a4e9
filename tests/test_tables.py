"""Methods side by side, and losses on original and noisy labels: known answers from runs made by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from test_subgroups import seed_examples, store_of
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.compare import Compared, Reference, summarize
from prunecli.engine import carry_out_all
from prunecli.errors import NotComparable
from prunecli.label_parts import label_parts
from prunecli.methods import method, methods
from prunecli.recipe.load import load_text
from prunecli.report import FORMATS, tables
from prunecli.runs import Settings
from prunecli.statistics import paired
from prunecli.store.values import StoredRun
from prunecli.subgroups import Side, subgroups

TRAIN = {"train": {"epochs": None}}
REWIND = {"rewind": {"to": 0.0}}
PRUNE = {"prune": {"criterion": "magnitude", "fraction": 0.2}}
PRUNING = [TRAIN, {"repeat": {"times": 2, "stages": [PRUNE, REWIND, TRAIN]}}]
EXTENDED = [TRAIN, {"repeat": {"times": 2, "stages": [REWIND, TRAIN]}}]


def stored(
    name: str,
    test_error: Sequence[Sequence[float]],
    procedure: Any = PRUNING,
    *,
    labels: Any = "clean",
    model: Any = "lenet_300_100",
    density: Sequence[float] = (),
    **metrics: Sequence[Sequence[float]],
) -> StoredRun:
    """A run of S seeds by L levels; what is not pruned keeps its density."""
    levels = len(test_error[0])
    keeps = 0.8 if procedure is PRUNING else 1.0
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest="0" * 64,
        status="complete",
        recipe={"model": model, "data": "digits", "labels": labels, "epochs": 4.0, "procedure": procedure},
        seeds=tuple(range(len(test_error))),
        density=np.array(density or [keeps**level for level in range(levels)]),
        spent=np.array([4.0 * level for level in range(1, levels + 1)]),
        metrics={key: np.array(rows) for key, rows in {"test_error": test_error, **metrics}.items()},
        units={"test_error": "percent"},
        total=1000,
    )


def compared(*runs: StoredRun, **more: Any) -> Compared:
    return Compared(tuple(map(summarize, runs)), **more)


IMP = stored("imp", [[3.0, 2.0, 2.5], [3.2, 2.4, 2.5]])
LONGER = stored("longer", [[3.0, 1.5, 2.8], [3.2, 1.7, 2.9]], EXTENDED)
ONCE = stored(
    "once", [[3.0, 2.7], [3.2, 2.7]], [TRAIN, {"prune_to": {"density": 0.5}}, REWIND, TRAIN], density=[1, 0.5]
)
ALONE = stored("alone", [[4.0], [4.4]], [TRAIN])
WIDTH = {"lenet_300_100": {"width": [1.0, 0.8]}}
NARROWER = replace(
    stored("narrower", [[3.0, 2.6], [3.2, 2.6]], [TRAIN], model=WIDTH, density=[1, 0.7]),
    members=(ALONE, ALONE),
)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (IMP, "pruning"),
        (ONCE, "pruning"),
        (stored("begun", [[3.0]], PRUNING), "pruning"),
        (stored("own", [[3.0, 2.0]], [TRAIN, "python:mine:drop"], density=[1, 0.5]), "pruning"),
        (LONGER, "extended training"),
        (ALONE, "dense"),
        (NARROWER, "width"),
        (stored("odd", [[3.0]], "train"), "dense"),
        (stored("odder", [[3.0]], [{}, 3, None, [[]]], model={}), "dense"),
    ],
)
def test_a_method_is_told_from_the_resolved_recipe(run, expected):
    assert method(summarize(run)) == expected


def test_a_benchmark_has_a_row_for_each_run_that_prunes():
    found = methods(compared(LONGER, IMP, ONCE, ALONE))
    assert found.left_out == (summarize(ALONE),)
    assert [row.spots["pruning"].summary.run.name for row in found.rows] == ["imp", "once"]
    for row in found.rows:
        assert row.spots["extended training"].level.level == 1
        assert row.spots["dense"].summary.run is row.spots["pruning"].summary.run


def test_differences_are_of_the_optima_and_paired_over_seeds():
    [row] = methods(compared(IMP, LONGER, NARROWER)).rows[:1]
    assert row.spots["pruning"].level.level == 1
    assert row.differences["dense"] == paired({0: 2.0, 1: 2.4}, {0: 3.0, 1: 3.2})
    assert row.differences["extended training"] == paired({0: 2.0, 1: 2.4}, {0: 1.5, 1: 1.7})
    assert row.differences["dense"].verdict == "lower"
    assert row.differences["extended training"].verdict == "higher"


def test_a_width_series_is_on_the_benchmark_of_the_model_it_begins_with():
    imp = replace(IMP, recipe={**IMP.recipe, "model": {"lenet_300_100": {"width": 1}}})
    [row] = methods(compared(imp, NARROWER)).rows
    assert row.spots["width"].level.density == 0.7
    assert row.differences["width"] == paired({0: 2.0, 1: 2.4}, {0: 2.6, 1: 2.6})


def test_a_run_that_does_not_prune_stands_alone():
    [row] = methods(compared(LONGER)).rows
    assert (set(row.spots), row.differences) == ({"dense", "extended training"}, {})
    [row] = methods(compared(ALONE)).rows
    assert set(row.spots) == {"dense"}


def noise(fraction: float) -> dict[str, dict[str, float]]:
    return {"uniform": {"fraction": fraction}}


def test_noise_parts_benchmarks_and_none_of_it_is_clean():
    noisy = [
        replace(IMP, name=f"imp-{n}", path=Path(f"imp-{n}"), recipe={**IMP.recipe, "labels": noise(n)})
        for n in (0.6, 0.15)
    ]
    none = replace(LONGER, recipe={**LONGER.recipe, "labels": noise(0.0)})
    found = methods(compared(*noisy, IMP, none))
    assert [row.benchmark["labels"] for row in found.rows] == ["clean", noise(0.15), noise(0.6)]
    assert [row.noisy for row in found.rows] == [False, True, True]
    assert "extended training" in found.rows[0].spots
    assert found.counts("dense", noisy=True) == {"lower": 2, "match": 0, "higher": 0}
    assert found.counts("dense", noisy=False) == {"lower": 1, "match": 0, "higher": 0}
    assert found.counts("extended training", noisy=False) == {"lower": 0, "match": 0, "higher": 1}


def test_runs_on_a_part_of_the_examples_are_a_benchmark_of_their_own():
    part = replace(
        IMP, name="part", path=Path("part"), recipe={**IMP.recipe, "examples": {"first": {"count": 9}}}
    )
    found = methods(compared(IMP, part))
    assert sorted(spot.summary.run.name for row in found.rows for spot in row.spots.values()) == [
        *["imp"] * len(found.rows[0].spots),
        *["part"] * len(found.rows[1].spots),
    ]


@pytest.mark.parametrize("more", [{"examples": {"without_improved": {"run": "imp"}}}, {"replicate": 1}])
def test_retrainings_are_no_methods_and_are_counted(more):
    again = [
        replace(ALONE, name=f"again-{n}", path=Path(f"again-{n}"), recipe={**ALONE.recipe, **more})
        for n in range(2)
    ]
    made = compared(again[0], IMP, again[1], table="methods")
    [row] = methods(made).rows
    assert {spot.summary.run.name for spot in row.spots.values()} == {"imp"}
    [table] = tables(made)
    assert [note for note in table.notes if "left out" in note] == [
        "left out: 2 runs that are retrainings, of another replicate or without some of the examples"
    ]
    [plain] = tables(
        compared(replace(IMP, recipe={**IMP.recipe, "replicate": 0, "examples": "all"}), table="methods")
    )
    assert not any("left out" in note for note in plain.notes)
    with pytest.raises(NotComparable, match="every run has a 'replicate' or leaves 'examples' out"):
        tables(compared(*again, table="methods"))


def test_an_optimum_chosen_by_the_test_set_is_said_to_be_optimistic():
    [table] = tables(compared(IMP, table="methods"))
    optimistic = "optimal: lowest mean test error; chosen by the test set itself, so its value is optimistic"
    assert optimistic in table.notes
    validated = stored("validated", [[3.0, 2.0]], validation_error=[[3.0, 2.0]])
    [table] = tables(compared(validated, table="methods"))
    assert "optimal: lowest mean validation error" in table.notes
    assert optimistic not in table.notes


def test_what_was_not_trained_alike_or_stands_in_no_row_is_said():
    other = replace(LONGER, recipe={**LONGER.recipe, "epochs": 8.0})
    again = replace(LONGER, name="again", path=Path("again"))
    [table] = tables(compared(IMP, other, again, table="methods"))
    assert any("not trained alike, epochs: imp 4.0, longer 8.0" in note for note in table.notes)
    assert "again: left out, another run of its method comes first" in table.notes
    [alike] = tables(compared(IMP, LONGER, table="methods"))
    assert not any("not trained alike" in note for note in alike.notes)


def test_unpaired_seeds_are_named():
    one = replace(LONGER, seeds=(1, 2))
    [table] = tables(compared(IMP, one, table="methods"))
    assert any(
        "left out of pruning - extended training, for want of a partner: seeds 0, 2" in note
        for note in table.notes
    )


def test_columns_without_any_number_are_left_out_of_the_table():
    [table] = tables(compared(IMP, LONGER, table="methods"))
    assert "width" not in table.columns
    assert "benchmark" not in table.columns
    assert table.title.endswith("each run's optimal level; lenet_300_100 on digits")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["pruning"] == "2.20 ± 0.28"
    assert (row["at % weights"], row["at epochs"]) == ("80.00", "8")
    assert row["pruning - dense"] == "-0.90 ± 0.14 [-2.17, +0.37] lower"


def test_methods_are_written_in_every_format():
    made = compared(IMP, LONGER, table="methods")
    written = {name: form(made, False) for name, form in FORMATS.items()}
    [found] = json.loads(written["json"])["methods"]
    assert (found["pruning"]["run"], found["pruning"]["density"], found["extended_training"]["spent"]) == (
        "imp",
        0.8,
        8,
    )
    assert found["pruning_minus_dense"]["difference"] == pytest.approx(-0.9)
    assert found["pruning_minus_width"]["n"] == 0
    assert json.loads(written["json"])["parts"] == []
    [row] = csv.DictReader(io.StringIO(written["csv"]))
    assert float(row["pruning_minus_dense_interval_low"]) == found["pruning_minus_dense"]["interval"][0]
    assert (row["pruning_run"], row["width_run"]) == ("imp", "")
    assert "pruning - extended" in written["md"]


def test_one_seed_has_differences_and_no_verdict():
    [table] = tables(
        compared(
            *(
                replace(run, seeds=(0,), metrics={"test_error": run.metrics["test_error"][:1]})
                for run in (IMP, LONGER)
            ),
            table="methods",
        )
    )
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["pruning - dense"] == "-1.00"


def test_a_run_that_shares_no_seed_has_one_note_of_it():
    other = replace(LONGER, seeds=(7, 8))
    found = compared(IMP, reference=Reference(summarize(other), "same"))
    notes = [note for table in tables(found) for note in table.notes if "seed" in note and "mean" not in note]
    assert "no seed in common with longer: nothing is compared" in notes
    assert not any("want of a partner" in note for note in notes)
    some = compared(IMP, reference=Reference(summarize(replace(LONGER, seeds=(1, 8))), "same"))
    said = " ".join(note for table in tables(some) for note in table.notes)
    assert "want of a partner: seeds 0, 8" in said
    assert "in common" not in said


CLEAN_LOSS, NOISY_LOSS = [[0.1, 0.2, 0.3], [0.1, 0.2, 0.5]], [[0.2, 1.2, 2.3], [0.3, 1.2, 2.7]]
NOISED = stored(
    "noised",
    [[9.0, 5.0, 6.0], [9.0, 5.0, 6.0]],
    labels=noise(0.3),
    train_loss_clean=CLEAN_LOSS,
    train_loss_noisy=NOISY_LOSS,
)


def test_the_gap_is_of_noisy_minus_original_and_paired_with_the_dense_level():
    dense, optimal, last = label_parts(compared(IMP, NOISED))
    assert dense.difference is None
    assert dense.gap.values == pytest.approx((0.1, 0.2))
    assert optimal.gap.mean == pytest.approx(1.0)
    assert (optimal.difference.mean, optimal.difference.std) == (
        pytest.approx(0.85),
        pytest.approx(0.05 * 2**0.5),
    )
    assert optimal.difference.verdict == "higher"
    assert last.difference.mean == pytest.approx((2.0 + 2.2 - 0.3) / 2)


def test_a_brief_table_of_parts_has_the_marked_levels():
    made = compared(IMP, NOISED, table="parts")
    for brief, levels in ((True, ["0", "1", "2"]), (False, ["0", "1", "2"])):
        assert [row[1] for row in tables(made, brief=brief)[0].rows] == levels
    worse = replace(NOISED, metrics={**NOISED.metrics, "test_error": np.array([[9.0, 5.0, 10.0]] * 2)})
    [table] = tables(compared(worse, table="parts"), brief=True)
    assert [row[-1] for row in table.rows] == [
        "dense",
        "optimal, sparsest better, sparsest corrected"[: len(table.rows[1][-1])],
    ]
    assert any("left out, of clean labels: imp" in note for note in tables(made)[0].notes)


def test_gaps_are_compared_with_another_run_where_it_is_named():
    other = summarize(replace(NOISED, name="other", path=Path("other")))
    parts = label_parts(compared(NOISED, reference=Reference(other, "same")))
    assert [one.difference.mean for one in parts] == [0, 0, 0]


def test_parts_are_written_in_every_format():
    made = compared(NOISED, table="parts")
    found = json.loads(FORMATS["json"](made, True))["parts"]
    assert [one["gap"]["mean"] for one in found] == pytest.approx([0.15, 1.0, 2.1])
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](made, True))))
    assert [float(row["gap_mean"]) for row in rows] == [one["gap"]["mean"] for one in found]
    assert rows[0]["gap_minus_reference_difference"] == ""
    assert "loss on noisy" in FORMATS["latex"](made, True)


def test_parts_need_a_run_with_noisy_labels():
    with pytest.raises(NotComparable, match="only runs with noisy labels do"):
        label_parts(compared(IMP))


def test_the_command_tabulates_what_it_is_asked_for(tmp_path):
    pruned = "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]"
    for stem, more in (("imp", [pruned]), ("longer", ["procedure=[train, rewind, train]"])):
        given = load_text(
            SMALL, "small.yaml", [*more, "seeds=[0, 1]", "labels={uniform: {fraction: 0.2}}"], stem=stem
        )
        carry_out_all(given, Settings(runs=tmp_path), lambda _event: None)
    command = ["compare", "--runs", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, [*command, "--table", "methods"])
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["methods"]
    assert row["extended_training"]["run"].startswith("longer")
    assert row["pruning_minus_extended_training"]["n"] == 2
    parts = json.loads(CliRunner().invoke(app, [*command, "--table", "parts"]).stdout)["parts"]
    assert len(parts) == 4
    for one in parts:
        noisy, clean = one["train_loss_noisy"]["mean"], one["train_loss_clean"]["mean"]
        assert one["gap"]["mean"] == pytest.approx(noisy - clean)
    refused = CliRunner().invoke(app, [*command, "--table", "methods", "--against", "imp"])
    assert (refused.exit_code, "leave one of them out" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("seed", "count", "message"),
    [
        (0, 5, "the scores are of 4 training examples; the run has 5"),
        (7, 4, "there are no scores of seed 7"),
        (1, 4, "the scores of seed 1 are of another label draw"),
    ],
)
def test_a_score_store_that_does_not_fit_is_said_of_runs_and_seed(seed, count, message):
    scores = store_of([[0, 1, 2, 3]] * 2, labels=np.array([[0, 1, 2, 3], [0, 1, 2, 9]]), clean=False)
    sides = [(Side(name, 0), {seed: seed_examples([0.0] * count)}) for name in ("one", "other")]
    with pytest.raises(NotComparable, match=f"^one and other, seed {seed}: {message}"):
        subgroups(*sides, scores, "el2n", 2)
