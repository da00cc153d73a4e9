"""Which training examples pruning changes most, for better and for worse (Jin et al., 2022, appendix K.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prunecli.errors import NotComparable
from prunecli.store.values import Floats
from prunecli.subgroups import TRAINING, Side

# What reads files needs h5py, which tables do not.
if TYPE_CHECKING:
    from prunecli.store.examples import SeedExamples

Examples: TypeAlias = "Mapping[int, SeedExamples]"


@dataclass(frozen=True)
class Changed:
    """A training example by its position in the source: the label used, and its losses, means over seeds."""

    position: int
    label: int
    before: float
    after: float


@dataclass(frozen=True)
class ChangedExamples:
    """The examples whose loss falls most and rises most from `b` to `a`, the most changed first.

    `alike` is whether the seeds share their labels: where they do not, `seeds` is the first of them alone.
    """

    a: Side
    b: Side
    seeds: tuple[int, ...]
    alike: bool
    improved: tuple[Changed, ...]
    harmed: tuple[Changed, ...]


def changed_examples(a: tuple[Side, Examples], b: tuple[Side, Examples], top: int) -> ChangedExamples:
    """The `top` examples of each kind, of those that both models were trained on in every seed; ties go by position.

    Raises:
        NotComparable: no seed has both levels, or labels or data differ.
    """
    (side_a, mine), (side_b, theirs) = a, b
    where = f"{side_a.run} level {side_a.level} and {side_b.run} level {side_b.level}"
    seeds = [
        seed
        for seed in sorted(mine.keys() & theirs.keys())
        if side_a.level in mine[seed].loss and side_b.level in theirs[seed].loss
    ]
    if not seeds:
        raise NotComparable(f"{where} have no seed in common")
    for seed in seeds:
        _check_alike(f"{where}, seed {seed}", mine[seed], theirs[seed])
    alike = all(np.array_equal(mine[seed].label, mine[seeds[0]].label) for seed in seeds)
    seeds = seeds if alike else seeds[:1]
    after = _mean([mine[seed].loss[side_a.level].astype(np.float64) for seed in seeds])
    before = _mean([theirs[seed].loss[side_b.level].astype(np.float64) for seed in seeds])
    splits = [one.split for seed in seeds for one in (mine[seed], theirs[seed])]
    trained = np.all([split == TRAINING for split in splits], axis=0)
    if not np.isfinite(after - before)[trained].all():
        raise NotComparable(f"{where}: losses that are NaN or infinite are stored there")
    change = np.where(trained, after - before, 0.0)

    def most(sign: float) -> tuple[Changed, ...]:
        order = np.argsort(-sign * change, kind="stable")[:top].tolist()
        labels = mine[seeds[0]].label
        return tuple(
            Changed(place, int(labels[place]), float(before[place]), float(after[place]))
            for place in order
            if sign * change[place] > 0
        )

    return ChangedExamples(side_a, side_b, tuple(seeds), alike, most(-1.0), most(1.0))


def _check_alike(where: str, mine: SeedExamples, theirs: SeedExamples) -> None:
    if mine.fingerprint != theirs.fingerprint or len(mine.label) != len(theirs.label):
        raise NotComparable(f"{where}: of other data")
    if different := int((mine.label != theirs.label).sum()):
        raise NotComparable(
            f"{where}: of other label draws ({different:,} of {len(mine.label):,} labels differ); compare runs whose "
            "labels are drawn alike"
        )


def _mean(rows: Sequence[Floats]) -> Floats:
    return np.asarray(np.mean(rows, axis=0))
