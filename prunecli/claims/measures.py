"""What claims are decided by: optima, gains, gaps and groups of runs, and the numbers in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunecli.claims import answers
from prunecli.claims.answers import Answer, BySeed, told
from prunecli.claims.study import MARGIN, Benchmark, Retraining, Study
from prunecli.compare import Level, Summary
from prunecli.errors import NotComparable
from prunecli.statistics import Difference, Verdict
from prunecli.subgroups import Subgroups

LOSS_MARGIN = 0.01
"""Of a mean training loss, in nats, within which two models match: one point of the true label's probability."""
BINS = 20
Found = tuple[Answer, str]
"""An answer, and the numbers that say so."""
Ones = Sequence[Benchmark]


def needed(summary: Summary | None, what: str) -> Summary:
    """The run; NotComparable says what is missing."""
    if summary is None:
        raise NotComparable(f"no run of {what}")
    return summary


def pruning_of(one: Benchmark) -> Summary:
    """The benchmark's run of IMP with learning-rate rewinding."""
    return needed(one.pruning, "IMP with learning-rate rewinding")


def extended_of(one: Benchmark) -> Summary:
    """The benchmark's run of extended dense training."""
    return needed(one.extended, "extended dense training")


def width_of(one: Benchmark) -> Summary:
    """The benchmark's width series."""
    return needed(one.width, "width down-scaling")


def algorithms_of(one: Benchmark) -> Sequence[Summary]:
    """The benchmark's runs of other pruning algorithms."""
    if not one.algorithms:
        raise NotComparable("no run of another pruning algorithm")
    return one.algorithms


def level_of(summary: Summary, word: str, without: str) -> Level:
    """The level that a word stands for; NotComparable says why there is none."""
    level = summary.pick(word)
    if level is None:
        raise NotComparable(without)
    return level


def optimal_of(summary: Summary) -> Level:
    """The optimal level."""
    return level_of(summary, "optimal", f"{summary.run.name} has no optimal level")


def dense_of(summary: Summary) -> Level:
    """The dense level."""
    return level_of(summary, "dense", f"{summary.run.name} has no dense level")


def optima(study: Study, a: Summary | None, b: Summary | None) -> Difference:
    """The error at the optimum of one run minus that of another."""
    return answers.difference(
        study.best(needed(a, "its kind")), study.best(needed(b, "its kind")), study.confidence
    )


def gain(study: Study, one: Benchmark) -> BySeed:
    """What pruning takes off the dense error, of each seed."""
    pruning = pruning_of(one)
    return answers.minus(study.dense(pruning), study.best(pruning))


def loss_gap(study: Study, summary: Summary, level: Level) -> BySeed:
    """The training loss on noisy labels minus that on the others, of each seed."""
    noisy, clean = (study.at(summary, level, f"train_loss_{part}") for part in ("noisy", "clean"))
    return answers.minus(noisy, clean)


def groups_against_dense(study: Study, a: Summary, level: Level, b: Summary, bins: int = BINS) -> Subgroups:
    """The groups by score of a level of `a` against the dense level of `b`."""
    dense = dense_of(b)
    if a is b and level.level == dense.level:
        raise NotComparable("the dense level is the optimal one")
    found = study.grouper(a, level.level, b, dense.level, bins)
    if any(group.difference.interval is None for group in found.groups):
        raise NotComparable("one seed has no interval")
    return found


def top_difference(study: Study, a: Summary, level: Level, b: Summary) -> Difference:
    """The mean loss difference of the top 20% by score, which is the last of five bins."""
    return groups_against_dense(study, a, level, b, 5).groups[-1].difference


def harmed(found: Subgroups) -> int:
    """How many groups have a loss that is higher by more than the margin: the interval lies above it."""
    return sum(answers.above(group.difference, LOSS_MARGIN) == "holds" for group in found.groups)


def harms_none(found: Subgroups) -> Answer:
    """Whether every group's loss matches or is lower: its interval lies at or below the margin."""
    return answers.all_of([answers.at_most(group.difference, LOSS_MARGIN) for group in found.groups])


def highest(found: Subgroups) -> str:
    """The group whose loss rises most."""
    worst = max(found.groups, key=lambda group: group.difference.mean or 0.0)
    return f"the highest is {told(worst.difference)} at percentiles {worst.lo:g} to {worst.hi:g}"


def verdicts_told(found: Subgroups) -> str:
    """`lower in 3, match in 15, higher in 2`."""
    return ", ".join(f"{word} in {count}" for word, count in found.counts.items())


def share_of_verdicts(found: Sequence[Difference], word: Verdict, least: float) -> Found:
    """Whether at least this share has the verdict by the paper's rule; undecided where it turns on matches."""
    verdicts = [one.verdict for one in found if one.verdict]
    if not verdicts:
        raise NotComparable("no two runs to compare, or of one seed alone")
    meaning: dict[str, Answer] = {"lower": "does not hold", "higher": "does not hold", "match": "undecided"}
    meaning[word] = "holds"
    names: tuple[Verdict, ...] = ("lower", "match", "higher")
    told_counts = ", ".join(f"{name} in {verdicts.count(name)}" for name in names)
    sure = sum(
        answers.above(one) == "holds" if word == "higher" else answers.below(one) == "holds" for one in found
    )
    shown = f"{told_counts} of {len(verdicts)}; in {sure} the interval says so"
    return answers.share([meaning[name] for name in verdicts], least), shown


def number_of_the_paper(one: Benchmark, numbers: dict[float, float], found: Difference, family: str) -> Found:
    """Whether the interval lies within the margin of the paper's number, on the paper's own benchmark."""
    number = numbers.get(one.fraction)
    if number is None:
        return "cannot be tested", f"{told(found)} points; the paper's numbers are of {family}"
    return range_of_the_paper(one, {family: (number, number)}, found)


def range_of_the_paper(one: Benchmark, ranges: dict[str, tuple[float, float]], found: Difference) -> Found:
    """Whether the interval lies in the paper's range, widened by the margin, on the paper's own benchmark."""
    shown = f"{told(found)} points"
    if one.family not in ranges or not one.uniform or found.interval is None:
        return "cannot be tested", f"{shown}; the paper's numbers are of {', '.join(ranges)}"
    low, high = ranges[one.family]
    inside = low - MARGIN <= found.interval[0] and found.interval[1] <= high + MARGIN
    outside = found.interval[1] < low - MARGIN or found.interval[0] > high + MARGIN
    answer: Answer = "holds" if inside else "does not hold" if outside else "undecided"
    return answer, f"{shown}; the paper has {low:g}{f' to {high:g}' if high > low else ''}"


def against_control(study: Study, one: Benchmark, name: str) -> Difference:
    """The error of dense models without some examples minus that without as many random ones, over all such pairs.

    A control is of the same recipe but for its examples; where there are several, such as a stratified one, their mean.
    """
    pairs = []
    for first in one.again(name):
        controls = [other for other in one.again("without_random") if other.like == first.like]
        if controls:
            pairs.append((_error(study, first), answers.mean_of([_error(study, each) for each in controls])))
    if not pairs:
        raise NotComparable(f"no retraining '{name}' with its control")
    without, control = (answers.mean_of([pair[side] for pair in pairs]) for side in (0, 1))
    return answers.difference(without, control, study.confidence)


def _error(study: Study, which: Retraining) -> BySeed:
    return study.dense(which.summary)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    above = math.fsum((a - x) * (b - y) for a, b in points)
    return above / math.fsum((a - x) ** 2 for a, _ in points)


def spread_told(found: Sequence[Difference]) -> str:
    """The smallest and the largest mean difference."""
    means = [one.mean for one in found if one.mean is not None]
    return f"differences from {min(means):+.3g} to {max(means):+.3g}" if means else "no differences"
