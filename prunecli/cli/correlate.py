"""`prunecli compare --correlate` and the courses of `--figure training`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.errors import PrunecliError

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Summary
    from prunecli.courses import Course

Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--correlate",
        metavar="X,Y",
        help="How two quantities go together over runs and seeds, such as mean_stability,best_test_accuracy; METRIC "
        "or METRIC:LEVEL; stability stands for the pairs of Bartoldson et al.; repeatable.",
    ),
]


def with_correlations(compared: Compared, texts: Sequence[str]) -> Compared:
    """The comparison with the correlations that are asked for, which are its table unless it has another.

    Raises:
        UsageError: a text is no pair of quantities, or no run knows one of them.
    """
    from prunecli.stability import correlated, pairs_of

    found = tuple(
        correlated(compared.summaries, x, y, compared.confidence)
        for x, y in pairs_of(texts, compared.summaries)
    )
    table = "correlations" if compared.table == "levels" else compared.table
    return replace(compared, correlations=found, table=table)


def with_courses(compared: Compared, seeds: Sequence[int], errors: list[PrunecliError]) -> Compared:
    """The comparison with each run's test accuracy after each epoch; runs that have none go to `errors`."""
    found: list[Course] = []
    for summary in compared.summaries:
        try:
            found.append(_course(summary, seeds))
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, courses=tuple(found))


def _course(summary: Summary, seeds: Sequence[int]) -> Course:
    from prunecli.courses import course_of
    from prunecli.stability import event_levels
    from prunecli.store.apart import read_apart
    from prunecli.store.observations import read_epochs

    run = summary.run
    (found,) = read_apart([run.path], lambda path: read_epochs(path, len(summary.levels)))
    if isinstance(found, PrunecliError):
        raise found
    chosen = {seed: one for seed, one in found.items() if not seeds or seed in seeds}
    events = {level for row in range(len(run.seeds)) for level in event_levels(summary, row)}
    # An event is where the level before it ends.
    return course_of(run.name, chosen, sorted(float(run.spent[level - 1]) for level in events))
