"""What a claim comes to: intervals set against bounds, counts against shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prunecli.statistics import Difference, paired

Answer = Literal["holds", "does not hold", "undecided", "cannot be tested"]
HOLDS: Answer = "holds"
FAILS: Answer = "does not hold"
UNDECIDED: Answer = "undecided"
UNTESTED: Answer = "cannot be tested"
BySeed = Mapping[int, float]
FEWEST = 4
"""Benchmarks that a share is told of."""


@dataclass(frozen=True)
class Finding:
    """What a claim comes to on a benchmark, and the numbers that say so."""

    benchmark: str
    answer: Answer
    measured: str


@dataclass(frozen=True)
class Tested:
    """A paper's claim, the rule that decides, and what it came to."""

    number: str
    text: str
    rule: str
    findings: tuple[Finding, ...]


def above(found: Difference, bound: float = 0.0) -> Answer:
    """Whether the interval lies above the bound; it does not hold where it lies below."""
    if found.interval is None:
        return UNTESTED
    low, high = found.interval
    if low == high:
        return (
            UNDECIDED  # Equal differences in a few seeds are rounding, such as that of so many test images.
        )
    return HOLDS if low > bound else FAILS if high < bound else UNDECIDED


def below(found: Difference, bound: float = 0.0) -> Answer:
    """Whether the interval lies below the bound; it does not hold where it lies above."""
    opposite = {HOLDS: FAILS, FAILS: HOLDS}
    answer = above(found, bound)
    return opposite.get(answer, answer)


def within(found: Difference, margin: float) -> Answer:
    """Whether the interval lies inside the margin on both sides of 0: a match; a failure where it lies outside."""
    if found.interval is None:
        return UNTESTED
    low, high = found.interval
    if low == high:
        return HOLDS if low == 0 else UNDECIDED  # What is exactly equal is one and the same model.
    if -margin <= low and high <= margin:
        return HOLDS
    return FAILS if low > margin or high < -margin else UNDECIDED


def at_most(found: Difference, margin: float) -> Answer:
    """Whether the interval lies at or below the margin; it does not hold where it lies above."""
    if found.interval is None:
        return UNTESTED
    low, high = found.interval
    if low == high:
        return HOLDS if low == 0 else UNDECIDED
    return HOLDS if high <= margin else FAILS if low > margin else UNDECIDED


def all_of(answers: Iterable[Answer]) -> Answer:
    """Whether all hold: a single failure fails, and with a part that cannot be tested it never holds."""
    known = list(answers)
    if FAILS in known:
        return FAILS
    if not known or UNTESTED in known:
        return UNTESTED
    return UNDECIDED if UNDECIDED in known else HOLDS


def share(answers: Sequence[Answer], least: float) -> Answer:
    """Whether it holds in at least this share of those that can be tested, however the undecided ones turn out.

    Of fewer than four nothing is said of a share such as 9 in 13.
    """
    known = [answer for answer in answers if answer != UNTESTED]
    if not known:
        return UNTESTED
    if len(known) < FEWEST:
        return UNDECIDED
    sure, possible = known.count(HOLDS) / len(known), 1 - known.count(FAILS) / len(known)
    return HOLDS if sure >= least else FAILS if possible < least else UNDECIDED


def difference(a: BySeed, b: BySeed, confidence: float) -> Difference:
    """a - b over the seeds that both have."""
    return paired(a, b, confidence=confidence)


def of_zero(values: BySeed, confidence: float) -> Difference:
    """The values as differences to 0."""
    return paired(values, dict.fromkeys(values, 0.0), confidence=confidence)


def mean_of(rows: Sequence[BySeed]) -> dict[int, float]:
    """The mean of each seed over the rows, of the seeds that all of them have."""
    seeds = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {seed: sum(row[seed] for row in rows) / len(rows) for seed in sorted(seeds)}


def minus(a: BySeed, b: BySeed) -> dict[int, float]:
    """a - b of each seed that both have."""
    return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}


def told(found: Difference, unit: str = "") -> str:
    """`-0.42 [-0.61, -0.23]`: the mean and its interval, `n = 1` where there is none."""
    if found.mean is None:
        return "no seed in common"
    if found.interval is None:
        return f"{found.mean:+.3g}{unit} (n = {found.n})"
    return f"{found.mean:+.3g} [{found.interval[0]:+.3g}, {found.interval[1]:+.3g}]{unit}"
