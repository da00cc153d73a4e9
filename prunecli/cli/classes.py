"""`prunecli compare --table`, and `--classes`: test errors class by class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli.groups import is_regression, pairs_of, read_levels
from prunecli.errors import NotComparable, PrunecliError, UsageError

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.classes import Classes
    from prunecli.compare import Compared, Summary


class TableName(StrEnum):
    """What is tabulated."""

    levels = "levels"
    methods = "methods"
    parts = "parts"
    stability = "stability"
    theory = "theory"
    thresholds = "thresholds"
    layers = "layers"


Tabulated = Annotated[
    TableName,
    typer.Option(
        "--table",
        help="Each run's levels; methods by benchmark; losses on original and noisy labels; stability and "
        "generalization by run; what each layer keeps, at --level; theory beside experiment "
        "by width; or a sweep over densities, with the thresholds of Yang et al.",
    ),
]
PerClass = Annotated[bool, typer.Option("--classes", help="Also test errors class by class, at --level.")]


def checked_table(table: TableName, against: str) -> TableName:
    """The table, once it is sure that it can be asked for.

    Raises:
        UsageError: it cannot.
    """
    if table is TableName.methods and against:
        raise UsageError(
            f"--against {against}: --table methods sets pruning against each other method; leave one of them out"
        )
    return table


def with_classes(
    compared: Compared, levels: Sequence[str], seeds: Sequence[int], errors: list[PrunecliError]
) -> Compared:
    """The comparison with the classes of each run's levels; what cannot be compared goes to `errors`."""
    found: list[Classes] = []
    for summary in compared.summaries:
        try:
            found += _of_run(compared, summary, levels, seeds)
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, classes=tuple(found))


def _of_run(
    compared: Compared, summary: Summary, levels: Sequence[str], seeds: Sequence[int]
) -> Iterator[Classes]:
    from prunecli.classes import harm_to_classes
    from prunecli.store.examples import read_tests
    from prunecli.subgroups import Side

    if is_regression(summary):
        raise NotComparable(f"{summary.run.name}: its labels are numbers, so there are no classes to look at")
    reference = compared.reference_of(summary)
    pairs = pairs_of(compared, summary, levels, "look at class by class")
    mine = read_levels(summary.run, [level for level, _ in pairs], seeds, read_tests)
    theirs = read_levels(reference.summary.run, [other for _, other in pairs], seeds, read_tests)
    for one, another in pairs:
        a, b = Side(summary.run.name, one), Side(reference.summary.run.name, another)
        yield harm_to_classes((a, mine), (b, theirs), compared.confidence)
