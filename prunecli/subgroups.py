"""Whom pruning helps and harms: training losses by percentiles of a score (Jin et al., 2022, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prunecli.errors import NotComparable
from prunecli.statistics import Difference, paired
from prunecli.store.values import Floats

# What reads files needs h5py, which tables do not.
if TYPE_CHECKING:
    from prunecli.store.examples import SeedExamples
    from prunecli.store.scores import ScoreStore

TOP = 0.2
"""The share of the examples with the highest scores, whose differences are set against those of the others."""
TRAINING = 0


@dataclass(frozen=True)
class Group:
    """The examples from percentile `lo` to `hi` of the score, `size` of them for each seed.

    `difference` is over seeds, of the mean training loss of one model minus that of the other.
    """

    lo: float
    hi: float
    size: int
    difference: Difference


@dataclass(frozen=True)
class Side:
    """A run at a level."""

    run: str
    level: int


@dataclass(frozen=True)
class Subgroups:
    """One model against another, group by group from the lowest scores to the highest.

    `ratio` is the mean absolute difference of the groups in the top 20% over that of the others; `ratio_by_example` the
    same of single examples, whose differences are means over seeds first. None where nothing differs in the others.
    """

    a: Side
    b: Side
    score: str
    groups: tuple[Group, ...]
    ratio: float | None
    ratio_by_example: float | None

    @property
    def counts(self) -> dict[str, int]:
        """How many groups have which verdict."""
        found = [group.difference.verdict for group in self.groups]
        return {word: found.count(word) for word in ("lower", "match", "higher")}


Examples: TypeAlias = "Mapping[int, SeedExamples]"


def subgroups(
    a: tuple[Side, Examples],
    b: tuple[Side, Examples],
    scores: ScoreStore,
    score: str,
    bins: int = 20,
    confidence: float = 0.95,
) -> Subgroups:
    """The training examples that both models were trained on, in `bins` groups of equal size by the score.

    Sizes differ by one at most where the examples cannot be shared out evenly; ties go by position in the source.

    Raises:
        NotComparable: no seed has both levels, or the label draws differ.
    """
    (side_a, examples_a), (side_b, examples_b) = a, b
    seeds = [
        seed
        for seed in sorted(examples_a.keys() & examples_b.keys())
        if side_a.level in examples_a[seed].loss and side_b.level in examples_b[seed].loss
    ]
    if not seeds:
        raise NotComparable(
            f"{side_a.run} level {side_a.level} and {side_b.run} level {side_b.level} have no seed in common"
        )
    each = {
        seed: _of_seed(seed, (side_a, examples_a[seed]), (side_b, examples_b[seed]), scores, score, bins)
        for seed in seeds
    }
    edges = np.linspace(0, 100, bins + 1).tolist()
    groups = tuple(
        Group(
            edges[number],
            edges[number + 1],
            len(each[seeds[0]].groups[number]),
            paired(
                {seed: each[seed].means[number] for seed in seeds},
                dict.fromkeys(seeds, 0.0),
                confidence=confidence,
            ),
        )
        for number in range(bins)
    )
    heights = np.abs([group.difference.mean or 0.0 for group in groups])
    top = len(groups) - round(TOP * bins)
    ratio = _over(heights[top:], heights[:top])
    return Subgroups(side_a, side_b, score, groups, ratio, _by_example(list(each.values())))


@dataclass(frozen=True)
class _OfSeed:
    """A seed's groups as positions in the source, lowest scores first; the mean difference of each, and all (N,)."""

    groups: Sequence[NDArray[np.int64]]
    means: Sequence[float]
    differences: Floats


def groups_of(values: Floats, which: NDArray[np.bool_], bins: int) -> list[NDArray[np.int64]]:
    """The positions of the marked examples, in groups of equal size by their values (N,), lowest first."""
    positions = which.nonzero()[0]
    order = positions[np.argsort(values[positions], kind="stable")]
    return [np.asarray(group) for group in np.array_split(order, bins)]


def _of_seed(
    seed: int,
    a: tuple[Side, SeedExamples],
    b: tuple[Side, SeedExamples],
    scores: ScoreStore,
    name: str,
    bins: int,
) -> _OfSeed:
    (side_a, mine), (side_b, theirs) = a, b
    where = f"{side_a.run} and {side_b.run}, seed {seed}"
    if len(mine.label) != len(theirs.label):
        raise NotComparable(
            f"{where}: {len(mine.label):,} and {len(theirs.label):,} training examples; they are of other data"
        )
    if different := int((mine.label != theirs.label).sum()):
        raise NotComparable(
            f"{where}: of other label draws ({different:,} of {len(mine.label):,} labels differ); compare runs whose "
            "labels are drawn alike"
        )
    for what, fingerprint in ((side_b.run, theirs.fingerprint), ("the scores", scores.fingerprint)):
        if fingerprint != mine.fingerprint:
            raise NotComparable(
                f"{side_a.run} and {what}: of other data (fingerprint {mine.fingerprint[:12]} and {fingerprint[:12]})"
            )
    try:
        row = scores.row(seed, mine.label)
    except NotComparable as error:
        raise NotComparable(f"{where}: {error}") from error
    values = scores.scores[name].values[row]
    both = (mine.split == TRAINING) & (theirs.split == TRAINING) & np.isfinite(values)
    if int(both.sum()) < bins:
        raise NotComparable(
            f"{where}: {int(both.sum())} examples that both were trained on make no {bins} groups"
        )
    differences = mine.loss[side_a.level].astype(np.float64) - theirs.loss[side_b.level]
    if not np.isfinite(differences[both]).all():
        raise NotComparable(f"{where}: losses that are NaN or infinite are stored there")
    groups = groups_of(values, both, bins)
    return _OfSeed(groups, [float(differences[group].mean()) for group in groups], differences)


def _by_example(each: Sequence[_OfSeed]) -> float | None:
    """The ratio of single examples: where seeds share their groups, differences are means over seeds first."""
    alike = all(_same(one.groups, each[0].groups) for one in each)
    rows = (
        [np.mean([one.differences for one in each], axis=0)] if alike else [one.differences for one in each]
    )
    sides: tuple[list[Floats], list[Floats]] = ([], [])
    for row, one in zip(rows, each, strict=False):
        top = len(one.groups) - round(TOP * len(one.groups))
        for number, group in enumerate(one.groups):
            sides[number < top].append(np.abs(row[group]))
    return _over(*(np.concatenate(side) if side else np.zeros(0) for side in sides))


def _same(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def _over(top: Floats, rest: Floats) -> float | None:
    """The mean of the one over that of the other; None where there is nothing to divide by."""
    below = float(rest.mean()) if len(rest) else 0.0
    return float(top.mean()) / below if len(top) and below > 0 else None
