"""A sweep over widths is one series: its levels, densities and seeds, and what is not put together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.compare import summarize
from prunecli.engine import carry_out_all
from prunecli.recipe.load import load
from prunecli.runs import Settings
from prunecli.series import joined
from prunecli.store.values import StoredRun

ROOT = Path(__file__).parents[1]


def run(
    width: float | None, total: int, errors: dict[int, float], name: str = "", **recipe: object
) -> StoredRun:
    options = {"lenet_300_100": {"width": width}} if width is not None else "mine"
    name = name or f"w-width-{width}-0123abcd"
    return StoredRun(
        name=name,
        path=Path("runs") / name,
        digest=name,
        status="complete",
        recipe={"about": name, "model": options, "data": "digits", "procedure": ["train"], **recipe},
        seeds=tuple(errors),
        density=np.array([1.0]),
        spent=np.array([40.0]),
        metrics={"test_error": np.array([[value] for value in errors.values()])},
        units={"test_error": "percent"},
        total=total,
    )


def test_widths_are_levels_from_the_widest_with_weights_counted_against_it():
    narrow, wide, middle = (
        run(0.5, 300, {0: 3, 1: 5}),
        run(1, 1000, {0: 2, 1: 3}),
        run(0.8, 650, {0: 1, 1: 2}),
    )
    (series,) = joined([narrow, wide, middle])
    assert series.members == (wide, middle, narrow)
    assert series.density.tolist() == [1, 0.65, 0.3]
    assert series.spent.tolist() == [40, 40, 40]
    assert series.metrics["test_error"].tolist() == [[2, 1, 3], [3, 2, 5]]
    assert (series.name, series.total, series.status) == ("w", 1000, "complete")
    assert [series.source(level) for level in range(3)] == [(one.path, 0) for one in (wide, middle, narrow)]
    found = summarize(series)
    assert (found.dense, found.optimal.level, found.sparsest_better) == (0, 1, 1)


def test_a_seed_that_a_width_lacks_is_missing_there_alone():
    (series,) = joined([run(1, 100, {0: 2, 1: 3}), run(0.5, 30, {1: 4, 2: 5})])
    assert series.seeds == (0, 1, 2)
    assert series.status == "partial"
    assert series.notes[1:] == (
        "w-width-1-0123abcd: has not the seeds 2, which other widths have",
        "w-width-0.5-0123abcd: has not the seeds 0, which other widths have",
    )
    values = series.metrics["test_error"].tolist()
    assert [[None if math.isnan(value) else value for value in row] for row in values] == [
        [2, None],
        [3, 4],
        [None, 5],
    ]


def test_a_series_without_the_reference_width_is_counted_against_the_run_that_has_it():
    levels = {"density": np.array([1.0, 0.5]), "spent": np.array([40.0, 80.0])}
    values = {"test_error": np.array([[2.0, 3.0]])}
    from dataclasses import replace

    pruned = replace(run(1, 1000, {0: 2}, "pruned", procedure=["train", "prune"]), metrics=values, **levels)
    both = joined([run(0.8, 650, {0: 2}), run(0.5, 300, {0: 3}), pruned])
    assert [one.name for one in both] == ["w", "pruned"]
    assert both[0].density.tolist() == [0.65, 0.3]
    assert summarize(both[0]).dense is None


@pytest.mark.parametrize(
    "others",
    [
        [run(0.8, 650, {0: 1}, data="mnist")],
        [run(0.8, 650, {0: 1}, labels={"uniform": {"fraction": 0.3}})],
        [run(None, 650, {0: 1})],
        [run(1, 1000, {0: 1}, name="again")],
        [run(1, 1000, {0: 1}, name="again"), run(0.8, 650, {0: 1})],
        [],
    ],
)
def test_other_runs_stay_by_themselves(others):
    runs = [run(1, 1000, {0: 2}), *others]
    assert joined(runs) == runs


def test_a_status_is_the_worst_of_the_members_and_notes_are_named():
    from dataclasses import replace

    partial = replace(run(0.5, 30, {0: 1}), status="partial", notes=("seed 1 failed: x",))
    (series,) = joined([run(1, 100, {0: 2}), partial])
    assert series.status == "partial"
    assert "w-width-0.5-0123abcd: seed 1 failed: x" in series.notes


def test_compare_tabulates_a_width_sweep_as_one(tmp_path):
    recipe = load(ROOT / "recipes/width.yaml", ["epochs=1", "seeds=[0]"])
    runs = tmp_path / "runs"
    carry_out_all(recipe, Settings(runs), lambda _event: None)
    done = CliRunner().invoke(app, ["compare", "--runs", str(runs), "--json"])
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["runs"]
    densities = [level["density"] for level in found["levels"]]
    assert (len(densities), densities[0]) == (8, 1)
    assert densities == sorted(densities, reverse=True)
    assert [member.rpartition("-")[0] for member in found["members"]][:2] == [
        "width-width-1",
        "width-width-0.8",
    ]
