"""Which classes pruning harms: test errors class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prunecli.errors import NotComparable
from prunecli.statistics import Difference, Statistic, holm, paired, statistic
from prunecli.subgroups import Side

# What reads files needs h5py, which tables do not.
if TYPE_CHECKING:
    from prunecli.store.examples import SeedTests

Tests: TypeAlias = "Mapping[int, SeedTests]"


@dataclass(frozen=True)
class ClassHarm:
    """A class of `examples` test examples: its test errors in percent over seeds, `difference` in points.

    `p` is that of the difference's t test, corrected over the classes (Holm); None where there is no test.
    """

    number: int
    examples: int
    error: Statistic
    error_against: Statistic
    difference: Difference
    p: float | None = None

    @property
    def worth(self) -> float:
        """The points of error that one test example comes to."""
        return 100 / self.examples


@dataclass(frozen=True)
class Classes:
    """One model against another, class by class of the test set."""

    a: Side
    b: Side
    classes: tuple[ClassHarm, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many classes have which verdict."""
        found = [one.difference.verdict for one in self.classes]
        return {word: found.count(word) for word in ("lower", "match", "higher")}

    @property
    def worst(self) -> ClassHarm | None:
        """The class whose error rises most, ties to the first; None where none rises."""
        return next((one for one in self.by_harm if (one.difference.mean or 0) > 0), None)

    @property
    def by_harm(self) -> tuple[ClassHarm, ...]:
        """The classes from the most harmed to the most improved."""
        return tuple(sorted(self.classes, key=lambda one: -(one.difference.mean or 0)))


def harm_to_classes(a: tuple[Side, Tests], b: tuple[Side, Tests], confidence: float = 0.95) -> Classes:
    """The test error of each class that the test set has, of one model and of another.

    Raises:
        NotComparable: no seed has both levels, or the test sets differ.
    """
    (side_a, tests_a), (side_b, tests_b) = a, b
    mine, theirs = _at(side_a, tests_a), _at(side_b, tests_b)
    both = sorted(mine.keys() & theirs.keys())
    where = f"{side_a.run} level {side_a.level} and {side_b.run} level {side_b.level}"
    if not both:
        raise NotComparable(f"{where} have no seed in common")
    labels = mine[both[0]].label
    for seed in both:
        for other in (mine[seed], theirs[seed]):
            if other.fingerprint != mine[both[0]].fingerprint or not np.array_equal(other.label, labels):
                raise NotComparable(f"{where}: of other data, so their test examples are others too")
    found = []
    for number, examples in zip(*np.unique(labels, return_counts=True), strict=True):
        errors, others = (
            {seed: _error(one, side.level, number) for seed, one in tests.items()}
            for side, tests in ((side_a, mine), (side_b, theirs))
        )
        difference = paired(errors, others, confidence=confidence)
        error, against = (statistic(list(values.values())) for values in (errors, others))
        found.append(ClassHarm(int(number), int(examples), error, against, difference))
    return Classes(side_a, side_b, _corrected(found))


def _at(side: Side, tests: Tests) -> dict[int, SeedTests]:
    """The seeds that have the side's level, in order."""
    return {seed: tests[seed] for seed in sorted(tests) if side.level in tests[seed].correct}


def _error(tests: SeedTests, level: int, number: int) -> float:
    chosen = tests.correct[level][tests.label == number]
    # From the whole number of wrong ones: equal errors are equal to the last bit.
    return 100 * int(np.count_nonzero(~chosen)) / len(chosen)


def _corrected(found: list[ClassHarm]) -> tuple[ClassHarm, ...]:
    # A class whose differences are all equal has no test, and is one of those that were looked at all the same.
    tested = {one.number: one.difference.p for one in found if one.difference.std is not None}
    p = holm({number: 1.0 if one is None else one for number, one in tested.items()})
    return tuple(
        replace(one, p=p[one.number] if tested.get(one.number) is not None else None) for one in found
    )
