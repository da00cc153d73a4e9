"""Every format holds what was found, parses back, and lets no hostile byte through."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from prunecli.cli.compare import Format
from prunecli.compare import Compared, summarize
from prunecli.report import CSV_COLUMNS, ENDINGS, FORMATS, describe, differences, rich, shown, tables
from prunecli.store.values import StoredRun

HOSTILE = (
    "=1+1",
    "@SUM(A1)",
    "\t=cmd",
    "\xa0=cmd",
    "-x",
    "a\x1b[31mred\x1b]8;;file:///etc/passwd\x07",
    "[/] [red]x[/red] [link=file:///etc/passwd]",
    "\x9bC1 \x00 NUL \x7f",
    "rtl \u202e mark \u200b zero \u2066 \ufeff",
    "line\nbreak\r\nand\u2028more",
    "lone \udcff surrogate",
    r"a|b `c` \d $e$ _f_ <script>&{g}%#~^",
    "[4pt] *",
)
RECIPE: dict[str, Any] = {  # Any: a recipe's values
    "about": "a recipe",
    "model": {"cifar_resnet_20": {"width": 0.8}},
    "data": "cifar10",
    "labels": {"uniform": {"fraction": 0.3}},
    "optimizer": {"sgd": {"momentum": 0.9}},
    "prunable": {"include": [], "exclude": []},
    "procedure": [
        "train",
        {
            "repeat": {
                "times": 16,
                "stages": [{"prune": {"criterion": "magnitude", "fraction": 0.2}}, "train"],
            }
        },
    ],
}


def stored(
    name: str = "imp", *, seeds: int = 3, recipe: dict[str, Any] = RECIPE, notes: tuple[str, ...] = ()
) -> StoredRun:  # Any: a recipe's values
    """A run of three levels, the optimum at level 1, NaN where the metric is not defined."""
    drift = 0.1 * np.arange(seeds)[:, None] ** 2
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest="0" * 64,
        status="complete",
        recipe=recipe,
        seeds=tuple(range(seeds)),
        density=np.array([1.0, 0.64, 0.0005]),
        spent=np.array([40.0, 120.0, 200.5]),
        metrics={
            "test_error": np.array([[2.0, 1.5, 3.0]]) + drift,
            "validation_error": np.array([[2.0, 1.4, 3.0]]) + drift,
            "instability": np.array([[math.nan, 0.1, 0.2]]) + drift,
        },
        units={"test_error": "percent", "validation_error": "percent"},
        total=1000,
        notes=notes,
    )


def compared(*runs: StoredRun) -> Compared:
    return Compared(tuple(map(summarize, runs or (stored(),))))


def printed(found: Compared, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, color_system=None)
    console.print(*rich(found, width=width), sep="\n")
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def unsafe(text: str) -> set[str]:
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.mark.parametrize("name", HOSTILE)
def test_shown_text_only_shows(name: str) -> None:
    assert not unsafe(shown(name))
    assert "\n" not in shown(name)
    assert shown(shown(name)) == shown(name)


def test_shown_leaves_other_text_alone() -> None:
    assert shown("Zoë's run, 日本語 ±0.1 [x]") == "Zoë's run, 日本語 ±0.1 [x]"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_format_lets_a_hostile_name_through(format: str, name: str) -> None:
    run = stored(name, notes=(name,), recipe={**RECIPE, "model": name, "data": {name: {name: name}}})
    other = stored("other")
    text = FORMATS[format](compared(run, other), False)
    assert not unsafe(text)
    text.encode("utf-8")
    assert text.count("\n") == FORMATS[format](
        compared(
            stored("x", notes=("x",), recipe={**RECIPE, "model": "x", "data": {"x": {"x": "x"}}}), other
        ),
        False,
    ).count("\n")


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_hostile_names_as_text(name: str, width: int) -> None:
    text = printed(compared(stored(name, notes=(name,)), stored("other")), width)
    assert not unsafe(text)
    assert re.sub(r"\s", "", shown(name)) in re.sub(r"\s", "", text)


def test_json_is_the_contracts() -> None:
    document = json.loads(FORMATS["json"](compared(), False), parse_constant=pytest.fail)
    keys = [
        "schema",
        "version",
        "criteria",
        "runs",
        "comparisons",
        "subgroups",
        "classes",
        "methods",
        "parts",
        "claims",
        "stability",
        "correlations",
        "layers",
        "thresholds",
        "theory",
    ]
    assert list(document) == keys
    assert (document["schema"], document["version"], document["subgroups"]) == ("prunecli/compare", 1, [])
    assert document["criteria"] == {
        "match": "|mean difference| < 1 sd of the seed-paired differences",
        "confidence": 0.95,
    }
    [run] = document["runs"]
    assert list(run) == [
        "name",
        "path",
        "digest",
        "seeds",
        "status",
        "members",
        "levels",
        "dense",
        "optimal",
        "sparsest_better",
        "sparsest_better_corrected",
        "area",
    ]
    assert (run["dense"], run["optimal"], run["sparsest_better"]) == (
        0,
        {"level": 1, "selected_by": "validation_error"},
        {"level": 1},
    )
    assert run["levels"][0]["metrics"]["test_error"]["values"] == pytest.approx([2.0, 2.1, 2.4])
    assert run["levels"][0]["metrics"]["instability"] == {
        "mean": None,
        "std": None,
        "n": 0,
        "values": [None] * 3,
    }
    first = document["comparisons"][0]
    assert list(first) == [
        "a",
        "level_a",
        "b",
        "level_b",
        "selected_by",
        "metric",
        "n",
        "difference",
        "std",
        "interval",
        "verdict",
        "effect",
        "p",
        "p_corrected",
    ]
    assert (first["a"], first["level_a"], first["level_b"], first["verdict"]) == ("imp", 1, 0, "lower")
    assert first["difference"] == pytest.approx(-0.5)


def test_a_density_that_is_no_number_is_null_in_json() -> None:
    run = replace(stored(), density=np.array([1.0, math.nan, math.inf]))
    document = json.loads(FORMATS["json"](compared(run), False), parse_constant=pytest.fail)
    assert [level["density"] for level in document["runs"][0]["levels"]] == [1.0, None, None]


def test_one_seed_is_null_in_json_and_never_0() -> None:
    document = json.loads(FORMATS["json"](compared(stored(seeds=1)), False))
    assert document["runs"][0]["levels"][0]["metrics"]["test_error"]["std"] is None
    assert {(each["std"], each["interval"], each["verdict"]) for each in document["comparisons"]} == {
        (None,) * 3
    }


def test_csv_has_a_row_for_each_run_level_and_metric() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](compared(stored("a"), stored("b")), False))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == 2 * 3 * 3
    row = next(row for row in rows if (row["run"], row["level"], row["metric"]) == ("b", "1", "test_error"))
    assert float(row["difference"]) == pytest.approx(-0.5)
    assert (row["verdict"], row["mark"], row["n"]) == ("lower", "optimal, sparsest better", "3")
    assert (row["effect"], row["p"], row["p_corrected"]) == ("", "", "")
    assert next(row for row in rows if row["metric"] == "instability")["mean"] == ""


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_row_of_csv_has_every_column(seeds: int) -> None:
    rows = csv.reader(io.StringIO(FORMATS["csv"](compared(stored(seeds=seeds)), False)))
    assert {len(row) for row in rows} == {len(CSV_COLUMNS)}


@pytest.mark.parametrize(
    ("name", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("-1.5e-3", "-1.5e-3"), ("a=b", "a=b")],
)
def test_csv_never_starts_a_formula(name: str, cell: str) -> None:
    rows = list(csv.reader(io.StringIO(FORMATS["csv"](compared(stored(name)), False))))
    assert rows[1][0] == cell
    assert float(rows[4][8]) == pytest.approx(-0.5)


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_rows_have_as_many_cells_as_the_header(name: str) -> None:
    text = FORMATS["md"](compared(stored(name), stored("other", recipe={**RECIPE, "epochs": name})), False)
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_rows_have_as_many_cells_as_the_form(name: str) -> None:
    text = FORMATS["latex"](compared(stored(name), stored("other")), False)
    for form, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert rows
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(form)}
        assert not any(row.startswith(("[", "*")) for row in rows)
    assert not re.search(r"(?<!\\)[#_](?!\w*\})", re.sub(r"^%.*", "", text, flags=re.MULTILINE))


def test_plain_text_is_aligned_and_holds_every_cell_uncut() -> None:
    found = compared(stored("a" * 300), stored("b"))
    text = FORMATS["table"](found, False)
    for table in tables(found):
        for cell in (
            table.title,
            *table.columns,
            *(cell for row in table.rows for cell in row),
            *table.notes,
        ):
            assert cell in text
    assert "…" not in text
    header, *rows = text.splitlines()[1:5]
    ends = [
        header.index(name) + len(name)
        for name in ("level", "weights %", "epochs", "test error %", "interval")
    ]
    assert all(row[end - 1] != " " and row[end] == " " for row in rows for end in ends)


def test_a_terminal_of_80_columns_cuts_no_cell() -> None:
    found = compared(stored("a" * 100), stored("b"))
    text = re.sub(r"\s", "", printed(found, 80))
    assert "…" not in text
    assert "a" * 100 in text
    for mark in (
        "optimal",
        "sparsestbetter",
        "leftoutforwantofwidth:validationerror%,effect,p(Holm),instability",
    ):
        assert mark in text


@pytest.mark.parametrize("width", range(77, 125))
def test_a_terminal_wide_enough_breaks_no_word(width: int) -> None:
    [table, _] = tables(compared())
    columns = [
        column for column in zip(table.columns, *table.rows, strict=True) if column[0] not in table.spare
    ]
    text = printed(compared(), width)
    assert [word for column in columns for cell in column for word in cell.split() if word not in text] == []


def test_a_wide_terminal_shows_every_column() -> None:
    text = printed(compared(), 200)
    assert "validation error %" in text
    assert "instability" in text
    assert "2.17 ± 0.21" in text


def test_brief_tables_keep_the_marked_levels_and_say_so() -> None:
    [table, _] = tables(compared(), brief=True)
    assert [row[0] for row in table.rows] == ["0", "1", "2"]
    run = stored()
    wide = {name: np.hstack([values, values[:, 2:] + 1]) for name, values in run.metrics.items()}
    run = replace(run, density=np.array([1, 0.64, 0.5, 0.4]), spent=np.arange(4.0), metrics=wide)
    [table, _] = tables(compared(run), brief=True)
    assert [row[0] for row in table.rows] == ["0", "1", "3"]
    assert "1 further levels; --all-levels shows them" in table.notes


def test_absent_columns_are_not_shown() -> None:
    run = stored()
    [table, _] = tables(compared(replace(run, metrics={"test_error": run.metrics["test_error"]})))
    assert "instability" not in table.columns
    assert "validation error %" not in table.columns
    assert "test error %" in table.columns


def test_a_level_is_a_row_of_what_was_found() -> None:
    [table, _] = tables(compared())
    dense, optimal, last = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (dense["difference"], dense["95% interval"], dense["verdict"]) == ("-", "-", "-")
    assert (last["difference"], last["95% interval"], last["verdict"]) == (
        "+1.00",
        "[+1.00, +1.00]",
        "higher",
    )
    assert optimal == {
        "level": "1",
        "weights %": "64.00",
        "epochs": "120",
        "validation error %": "1.57 ± 0.21",
        "test error %": "1.67 ± 0.21",
        "n": "3",
        "difference": "-0.50",
        "95% interval": "[-0.50, -0.50]",
        "verdict": "lower",
        "instability": "0.267 ± 0.208",
        "effect": "-",
        "p (Holm)": "-",
        "mark": "optimal, sparsest better",
    }


def test_the_marked_levels_are_summed_up() -> None:
    summary = tables(compared(stored("a"), stored("b", seeds=1)))[2]
    assert dict(zip(summary.columns, summary.rows[1], strict=True)) == {
        "run": "b",
        "seeds": "1",
        "weights in all": "1000",
        "dense": "2.00",
        "optimal at %": "64.00",
        "optimal": "1.50",
        "verdict": "-",
        "sparsest better at %": "-",
        "sparsest better": "-",
        "area": "2.22",
    }
    assert (
        summary.notes[0]
        == "optimal level against the run's own dense level: lower in 1, match in 0, higher in 0 of 1"
    )


def test_a_metric_shown_beside_can_be_the_one_asked_for() -> None:
    found = replace(compared(), metric="validation_error")
    assert tables(found)[0].columns.count("validation error %") == 1


def test_the_footnotes_are_honest() -> None:
    notes = tables(compared())[-1].notes
    assert any("with 3 seeds that rule calls a difference 22.5% of the time" in note for note in notes)
    assert "optimal: lowest mean validation error" in notes
    by_test = {"test_error": stored().metrics["test_error"]}
    assert (
        "optimal: lowest mean test error; chosen by the test set itself, so its value is optimistic"
        in tables(compared(replace(stored(), metrics=by_test)))[-1].notes
    )
    single = tables(compared(stored(seeds=1)))
    assert "n = 1: one seed has no sd, interval or verdict" in single[0].notes
    assert not any("that rule calls" in note for note in single[-1].notes)


def test_the_state_of_a_run_and_its_notes_are_told() -> None:
    run = replace(stored(notes=("seed 3 diverged",)), status="partial")
    notes = tables(compared(run))[0].notes
    assert "partial: shown are the levels sealed so far" in notes
    assert "seed 3 diverged" in notes


def test_seeds_and_levels_without_numbers_are_named() -> None:
    run = stored()
    holes = run.metrics["test_error"].copy()
    holes[2, 1] = holes[:, 2] = math.nan
    notes = tables(compared(replace(run, metrics={"test_error": holes})))[0].notes
    assert "left out of the difference, for want of a partner: seeds 2 at level 1" in notes
    assert "no test error at level 2" in notes


def test_a_run_without_levels_is_still_told_of() -> None:
    run = stored()
    bare = {name: values[:, :0] for name, values in run.metrics.items()}
    empty = replace(run, density=run.density[:0], spent=run.spent[:0], metrics=bare, status="running")
    for write in FORMATS.values():
        assert write(compared(empty, stored("other")), True)
    assert printed(compared(empty), 80)


def test_recipes_differ_at_paths_that_skip_the_chosen_names() -> None:
    other = {**RECIPE, "model": {"cifar_resnet_20": {"width": 0.5}}, "optimizer": {"sgd": {"momentum": 0.0}}}
    assert differences([RECIPE, other]) == {
        "model.width": ["0.8", "0.5"],
        "optimizer.momentum": ["0.9", "0.0"],
    }


def test_another_choice_is_one_difference_with_its_options_in_words() -> None:
    warm = {"warmup": {"over": 5.0, "then": {"steps": {"start": 0.4, "at": [30.0, 60.0]}}}}
    found = differences([{"learning_rate": {"constant": {"value": 0.1}}}, {"learning_rate": warm}, {}])
    assert found == {
        "learning_rate": [
            "constant (value 0.1)",
            "warmup (over 5.0, then steps (start 0.4, at [30.0, 60.0]))",
            "-",
        ]
    }


def test_procedures_of_the_same_stages_differ_inside_and_others_as_a_whole() -> None:
    def pruning(times: int) -> dict[str, Any]:  # Any: a recipe's values
        stages = [{"prune": {"criterion": "magnitude", "fraction": 0.2}}, "rewind", "train"]
        return {"procedure": ["train", {"repeat": {"times": times, "stages": stages}}]}

    assert differences([pruning(3), pruning(4)]) == {"procedure.1.times": ["3", "4"]}
    assert differences([pruning(3), {"procedure": ["train"]}]) == {
        "procedure": ["train, 3 x (prune by magnitude, rewind, train)", "train"]
    }


def test_what_is_the_same_is_not_listed() -> None:
    assert differences([RECIPE, RECIPE]) == {}


def test_only_what_differs_between_recipes_is_shown() -> None:
    other = {**RECIPE, "about": "another", "seeds": [1], "labels": {"uniform": {"fraction": 0.6}}}
    differs = tables(compared(stored("a"), stored("b", recipe=other)))[-2]
    assert differs.columns == ("run", "labels.fraction")
    assert differs.rows == (("a", "0.3"), ("b", "0.6"))
    assert len(tables(compared(stored("a"), stored("b")))) == 4


def test_where_many_values_differ_each_has_a_row() -> None:
    other = {
        **RECIPE,
        "model": {"cifar_resnet_20": {"width": 0.5}},
        "labels": {"uniform": {"fraction": 0.6}},
        "optimizer": {"sgd": {"momentum": 0.0}},
    }
    differs = tables(compared(stored("a"), stored("b", recipe=other)))[-2]
    assert differs.columns == ("run", "a", "b")
    assert differs.rows == (
        ("model.width", "0.8", "0.5"),
        ("labels.fraction", "0.3", "0.6"),
        ("optimizer.momentum", "0.9", "0.0"),
    )


def test_a_recipe_is_described_in_a_line() -> None:
    assert describe(RECIPE) == (
        "cifar_resnet_20 (width 0.8) on cifar10, labels uniform (fraction 0.3): "
        "train, 16 x (prune by magnitude, train)"
    )
    assert describe({}) == ""


def test_the_command_offers_every_format() -> None:
    assert set(Format) == set(FORMATS)


def test_every_ending_has_a_format() -> None:
    assert set(ENDINGS.values()) == set(FORMATS)


def _with_faults(name: str = "imp") -> StoredRun:
    """The run with a layer that is empty at level 2 for two seeds, and a seed that diverged there."""
    kept = np.full((3, 3, 2), 5)
    kept[:2, 2, 1] = 0
    kept[2, 2, :] = -1
    run = stored(name)
    diverged = np.array([[math.nan, 0.0, 1.0], [math.nan, 0.0, 0.0], [math.nan, 0.0, math.nan]])
    return replace(
        run, layers=("conv.weight", "fc_a.weight"), kept=kept, metrics={**run.metrics, "diverged": diverged}
    )


def test_a_level_that_collapsed_or_diverged_is_marked_in_every_format():
    compared = Compared((summarize(_with_faults()),))
    for form in ("table", "md", "latex"):
        text = FORMATS[form](compared, False).replace("\\", "")
        assert text.count("collapsed 2/3, diverged 1/3") == 1
        assert "collapsed at level 2: no weight is left in fc_a.weight (seeds 0, 1)" in text
        assert "diverged at level 2: seeds 0 have a training loss above" in text
    levels = json.loads(FORMATS["json"](compared, False))["runs"][0]["levels"]
    assert [level["collapsed"]["count"] for level in levels] == [0, 0, 1]
    assert levels[2]["collapsed"]["layers"] == {"fc_a.weight": [0, 1]}
    assert [level["diverged"] for level in levels][2] == {"count": 1, "seeds": [0]}
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](compared, False))))
    assert {(row["collapsed"], row["collapsed_layers"], row["diverged"]) for row in rows} == {
        ("0", "", "0"),
        ("1", "fc_a.weight", "1"),
    }
    assert "diverged" not in {row["metric"] for row in rows}


def test_a_run_without_counts_or_marks_has_no_faults():
    text = FORMATS["table"](Compared((summarize(stored()),)), False)
    assert "collapsed" not in text
    assert "diverged" not in text


def test_a_level_that_no_seed_has_yet_is_shown_without_numbers():
    run = replace(stored(), density=np.array([1.0, 0.64, math.nan]), spent=np.array([40.0, 120.0, math.nan]))
    compared = Compared((summarize(run),))
    assert "nan" not in FORMATS["table"](compared, False)
    assert "nan" not in FORMATS["csv"](compared, False)
