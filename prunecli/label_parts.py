"""How far models learn noisy labels: training losses on original and noisy labels (Jin et al., 2022, section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from prunecli.compare import Compared, Level, Summary
from prunecli.errors import NotComparable
from prunecli.statistics import Difference, Statistic, paired, statistic

ORIGINAL, NOISY = "train_loss_clean", "train_loss_noisy"


@dataclass(frozen=True)
class LabelParts:
    """A level's training losses on the examples with their original labels and on those with noisy ones.

    `gap` is the loss on noisy labels minus that on original ones; `difference` the gap minus that of the level that
    this one is compared with, over the seeds that both have; None at that level itself.
    """

    summary: Summary
    level: Level
    original: Statistic
    noisy: Statistic
    gap: Statistic
    difference: Difference | None


def label_parts(compared: Compared) -> list[LabelParts]:
    """Every level of every run that has noisy labels.

    Raises:
        NotComparable: none has.
    """
    noisy = [summary for summary in compared.summaries if summary.has(NOISY)]
    if not noisy:
        raise NotComparable(
            f"no run has {NOISY}: only runs with noisy labels do, such as labels.fraction=0.3"
        )
    return [found for summary in noisy for found in _of_run(compared, summary)]


def _of_run(compared: Compared, summary: Summary) -> Iterator[LabelParts]:
    reference = compared.reference_of(summary)
    for level in summary.levels:
        gaps, other = _gaps(summary, level), reference.level(level.level)
        by_seed = [gaps.get(seed, math.nan) for seed in summary.run.seeds]
        difference = None
        if other and (summary.run.path, level.level) != (reference.summary.run.path, other.level):
            difference = paired(gaps, _gaps(reference.summary, other), confidence=compared.confidence)
        original, noisy = level.statistic(ORIGINAL), level.statistic(NOISY)
        yield LabelParts(summary, level, original, noisy, statistic(by_seed), difference)


def _gaps(summary: Summary, level: Level) -> dict[int, float]:
    """The gap of each seed that has both losses."""
    original, noisy = (summary.by_seed(level, name) for name in (ORIGINAL, NOISY))
    return {seed: noisy[seed] - original[seed] for seed in noisy if seed in original}
