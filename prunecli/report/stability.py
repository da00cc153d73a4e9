"""Stability, generalization and flatness run by run, in a table and as data (Bartoldson et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prunecli.compare import Compared
from prunecli.report.cells import NONE, Table
from prunecli.report.numbers import statistic_json
from prunecli.report.words import differences
from prunecli.stability import PERCENT, Quantified, quantified
from prunecli.statistics import Statistic


def stability_table(compared: Compared) -> Table:
    """A row a run: mean and sd over seeds of every quantity that some run has."""
    found = quantified(compared)
    names = [name for name in found[0].quantities if any(one.quantities[name].n for one in found)]
    rows = tuple(
        (
            one.summary.run.name,
            str(len(one.summary.run.seeds)),
            *(_cell(one.quantities[name], _decimals(compared, name)) for name in names),
        )
        for one in found
    )
    columns = ("run", "seeds", *(heading(compared, name) for name in names))
    title = "stability, generalization and flatness by run, mean ± sd over seeds"
    return Table(title, columns, rows, tuple(_notes(compared, found, names)), frozenset({"run"}))


def stability_records(compared: Compared) -> list[dict[str, Any]]:  # Any: JSON
    """A mapping a run, with all digits; what is not there is null."""
    return [
        {
            "run": one.summary.run.name,
            "status": one.summary.run.status,
            "seeds": len(one.summary.run.seeds),
            **{name: statistic_json(value) for name, value in one.quantities.items()},
        }
        for one in quantified(compared)
    ]


def heading(compared: Compared, name: str) -> str:
    """`mean stability %`."""
    metric = name.partition(":")[0]
    units = {unit for one in compared.summaries if (unit := one.run.units.get(metric))}
    return name.replace("_", " ") + (" %" if name in PERCENT or units & {"percent", "%"} else "")


def _cell(found: Statistic, decimals: str) -> str:
    if found.mean is None:
        return NONE
    return f"{found.mean:{decimals}}" + (f" ± {found.std:{decimals}}" if found.std is not None else "")


def _decimals(compared: Compared, name: str) -> str:
    if name == "events":
        return ".3g"
    return ".2f" if heading(compared, name).endswith("%") else ".4g"


def _notes(compared: Compared, found: Sequence[Quantified], names: Sequence[str]) -> Iterator[str]:
    for one in found:
        if one.summary.run.status != "complete":
            yield f"{one.summary.run.name}: {one.summary.run.status}: shown are the levels sealed so far"
    if "mean_stability" in names:
        yield (
            "stability: 100 (1 - instability), the test accuracy after pruning in percent of that before it, mean over "
            "events; a run that never prunes trained weights is assigned 100 (Bartoldson et al., 2020)"
        )
    if "best_test_accuracy" in names:
        yield (
            "best test accuracy: the highest at an epoch's end of the last level, so after the last event; chosen by "
            "the test set itself, it is optimistic, and more so the more epochs there are to choose from"
        )
        others = [name for name in ("late_test_accuracy", "selected_test_accuracy") if name in names]
        if others:
            told = {
                "late_test_accuracy": "late: mean of the last epochs",
                "selected_test_accuracy": "selected: at the epoch of the lowest validation error",
            }
            yield f"chosen without it: {'; '.join(told[name] for name in others)}"
    elif compared.table == "stability":
        yield "no best test accuracy: a recipe with `observe: [epochs]` stores what it is made of"
    if "generalization_gap" in names:
        yield "generalization gap: training accuracy minus test accuracy at that epoch, in points"
    yield from _recipes(compared)


def _recipes(compared: Compared) -> Iterator[str]:
    """What differs between the recipes, run by run, where that is short."""
    said = frozenset({"about", "seeds", "observe"})
    recipes = [
        {key: value for key, value in one.run.recipe.items() if key not in said} for one in compared.summaries
    ]
    places = differences(recipes) if len(recipes) > 1 else {}
    shared = {
        key for key in ("model", "data", "labels") if any(place.split(".")[0] == key for place in places)
    }
    if shared:
        yield f"the runs are not of one {', '.join(sorted(shared))}: compare what is alike"
