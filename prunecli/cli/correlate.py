"""`prunecli compare --correlate`, and what `--figure training`, `learned` and `--table thresholds` show of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli.plots import FigureName, Plotting
from prunecli.errors import NotComparable, PrunecliError

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Summary
    from prunecli.courses import Course, Learned

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


def with_epochs(
    compared: Compared, plotting: Plotting | None, seeds: Sequence[int], errors: list[PrunecliError]
) -> Compared:
    """The comparison with what its table or figure shows of each run's epochs; what is not there goes to `errors`."""
    figure = plotting.figure if plotting else ""
    if figure == FigureName.training:
        compared = _with_courses(compared, seeds, errors)
    if compared.table == "thresholds" or figure == FigureName.learned:
        compared = _with_learned(compared, seeds, errors)
    return compared


def _with_courses(compared: Compared, seeds: Sequence[int], errors: list[PrunecliError]) -> Compared:
    """The comparison with each run's test accuracy after each epoch; runs that have none go to `errors`."""
    found: list[Course] = []
    for summary in compared.summaries:
        try:
            found.append(_course(summary, seeds))
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, courses=tuple(found))


def _with_learned(compared: Compared, seeds: Sequence[int], errors: list[PrunecliError]) -> Compared:
    """The comparison with what runs learned of signal and noise, of those that have it observed."""
    found: list[Learned] = []
    for summary in compared.summaries:
        try:
            levels = [one.level for one in summary.levels if one.statistic("signal_learned").n]
            found += [_learned(summary, level, seeds) for level in levels]
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, learned=tuple(found))


def _learned(summary: Summary, level: int, seeds: Sequence[int]) -> Learned:
    from prunecli.courses import learned_of
    from prunecli.store.apart import read_apart
    from prunecli.store.observations import read_learned

    path, number = summary.run.source(level)
    (found,) = read_apart([path], lambda path: read_learned(path, number))
    if isinstance(found, PrunecliError):
        raise found
    chosen = {seed: one for seed, one in found.items() if not seeds or seed in seeds}
    if not chosen:
        raise NotComparable(f"{summary.run.name}: no seed of --seeds has signal and noise observed")
    return learned_of(summary.run.name, level, chosen)


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
