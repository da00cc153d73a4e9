"""`prunecli compare --groups`: training losses by percentiles of a score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import NotComparable, PrunecliError, UsageError, suggest
from prunecli.expression import LEVELS

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Summary
    from prunecli.store.scores import ScoreStore
    from prunecli.subgroups import Examples, Subgroups

DEFAULT_SCORE = "el2n"
DEFAULT_LEVELS = ("optimal", "sparsest_better")


@dataclass(frozen=True)
class Grouping:
    """By what to group examples, into how many groups, and which levels of each run to look at."""

    store: Path
    score: str = ""
    bins: int = 20
    levels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def checked_levels(words: Sequence[str]) -> tuple[str, ...]:
    """The levels that `--level` names."""
    for word in words:
        if word not in LEVELS and not (word.isascii() and word.isdigit()):
            raise UsageError(
                f"--level {word}: unknown; known: a number, {', '.join(LEVELS)}{suggest(word, LEVELS)}"
            )
    return tuple(words)


def with_subgroups(compared: Compared, grouping: Grouping, errors: list[PrunecliError]) -> Compared:
    """The comparison with the groups of each run's levels; what cannot be compared goes to `errors`.

    Raises:
        UsageError, DamagedRun: there is no such score store, or no such score in it.
    """
    from prunecli.store.scores import read_scores

    store = read_scores(grouping.store)
    score = _chosen(store, grouping)
    found: list[Subgroups] = []
    for summary in compared.summaries:
        try:
            found += _of_run(compared, summary, store, score, grouping)
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, subgroups=tuple(found))


def _chosen(store: ScoreStore, grouping: Grouping) -> str:
    known = sorted(store.scores)
    wanted = grouping.score or (DEFAULT_SCORE if DEFAULT_SCORE in known or len(known) > 1 else known[0])
    if wanted not in known:
        given = f"--score {wanted}" if grouping.score else "name one with --score"
        raise UsageError(f"{grouping.store}: {given}: it has {', '.join(known)}{suggest(wanted, known)}")
    return wanted


def _of_run(
    compared: Compared, summary: Summary, store: ScoreStore, score: str, grouping: Grouping
) -> Iterator[Subgroups]:
    from prunecli.subgroups import Side, subgroups

    reference = compared.reference_of(summary)
    words = grouping.levels or DEFAULT_LEVELS
    chosen = [level for word in words if (level := summary.pick(word)) is not None]
    if lacking := [word for word in grouping.levels if summary.pick(word) is None]:
        last = len(summary.levels) - 1
        raise NotComparable(
            f"{summary.run.name}: --level {lacking[0]}: it has no such level; it has levels 0 to {last}"
        )
    pairs = [
        (level.level, other.level)
        for level in chosen
        if (other := reference.level(level.level)) is not None
        and (summary.run.path, level.level) != (reference.summary.run.path, other.level)
    ]
    if not pairs:
        raise NotComparable(
            f"{summary.run.name}: has no level to group by {score} ({', '.join(words)}) beside the one that it is "
            "compared with; name one with --level"
        )
    mine = _examples(summary.run.path, [level for level, _ in pairs], grouping.seeds)
    theirs = _examples(reference.summary.run.path, [other for _, other in pairs], grouping.seeds)
    for one, another in dict.fromkeys(pairs):
        a, b = Side(summary.run.name, one), Side(reference.summary.run.name, another)
        yield subgroups((a, mine), (b, theirs), store, score, grouping.bins, compared.confidence)


def _examples(path: Path, levels: Sequence[int], seeds: Sequence[int]) -> Examples:
    from prunecli.store.apart import read_apart
    from prunecli.store.examples import read_examples

    (found,) = read_apart([path], partial(read_examples, levels=sorted(set(levels))))
    if isinstance(found, PrunecliError):
        raise found
    return {seed: one for seed, one in found.items() if not seeds or seed in seeds}
