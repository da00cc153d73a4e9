"""What Bartoldson et al. (2020) claim: a tradeoff of generalization and stability in pruning during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from prunecli.claims import answers
from prunecli.claims.answers import FAILS, HOLDS, UNDECIDED, UNTESTED, Answer, told
from prunecli.claims.measures import Found, needed, spread_told
from prunecli.claims.registry import claim_of
from prunecli.claims.stability_study import Pruned, Setting, StabilityStudy
from prunecli.compare import Summary
from prunecli.correlations import Coefficient
from prunecli.errors import NotComparable
from prunecli.methods import name_of, options_of
from prunecli.stability import BySeed, correlated, quantity
from prunecli.statistics import Difference, statistic

ACCURACY, STABILITY = "best_test_accuracy", "mean_stability"
LATE = "late_test_accuracy"
CURVATURE, NOISE = "hessian_sum", "gradient_covariance_trace"
TARGETS = ("smallest", "random", "largest")
SIGNIFICANCE = 0.05
COARSE = 0.13
"""Of a layer at an event: the rate of the paper's main comparisons."""
MODERATE = (0.05, 0.2)
"""Rates at which its Figure 3 has the tradeoff."""
Ladder = tuple[Setting, Sequence[Pruned]]
claim = claim_of("bartoldson2020")


@claim(
    "A1",
    "pruning fewer filters at an event, more often, is more stable (Figure 2)",
    "of each target the mean stability at the finest rate minus that at each coarser one: the intervals lie above 0",
    "setting",
)
def finer_is_more_stable(study: StabilityStudy, setting: Setting) -> Found:
    found = []
    for target in TARGETS:
        runs = _by_rate(setting, target)
        found += [_difference(study, runs[0], one, STABILITY) for one in runs[1:]]
    if not found:
        raise NotComparable("no two runs of one target that prune at different rates")
    each = [answers.above(one) for one in found]
    shown = told(found[0]) if len(found) == 1 else spread_told(found)
    return answers.all_of(each), f"{each.count(HOLDS)} of {len(each)} lie above; {shown} points of stability"


@claim(
    "A2",
    "at one rate pruning the smallest filters is at least as stable as random ones, and those as the largest",
    "the mean stability of the smallest minus the largest: its interval lies above 0; and that of the smallest minus "
    "random, and of random minus the largest, does not lie below 0; at every rate that has all three",
    "setting",
)
def stability_by_target(study: StabilityStudy, setting: Setting) -> Found:
    triples = [row for row in _by_target(setting).values() if set(row) == set(TARGETS)]
    if not triples:
        raise NotComparable("no three runs that differ in target alone: smallest, random and largest")
    parts, shown = [], []
    for row in triples:
        smallest, drawn, largest = (row[target] for target in TARGETS)
        whole = _difference(study, smallest, largest, STABILITY)
        steps = [_difference(study, *pair, STABILITY) for pair in ((smallest, drawn), (drawn, largest))]
        parts += [answers.above(whole), *map(_not_below, steps)]
        shown.append(f"{_rate(smallest)}: {told(whole)}, by way of random {' and '.join(map(told, steps))}")
    return answers.all_of(parts), "; ".join(shown)


@claim(
    "A3",
    "less stable pruning generalizes better: over runs the two are anticorrelated (Figure 2)",
    "over the seeds of three runs, of the smallest filters at the finest rate and of the smallest and the largest at "
    "the rate nearest to 13%, Pearson's r of mean stability with accuracy has p < .05 and its interval below 0; and "
    "the accuracy of the largest minus the smallest, and of the coarse minus the fine, have theirs above 0",
    "setting",
)
def stability_against_accuracy(study: StabilityStudy, setting: Setting) -> Found:
    pairs = [row for row in _by_target(setting).values() if {"smallest", "largest"} <= set(row)]
    if not pairs:
        raise NotComparable("no two runs of the smallest and the largest filters at one rate")
    coarse = min(pairs, key=lambda row: _off(row["smallest"]))
    fine = _by_rate(setting, "smallest")[0]
    if fine.scheme.rate >= coarse["smallest"].scheme.rate:
        raise NotComparable("no run of the smallest filters at a finer rate")
    small, large = coarse["smallest"], coarse["largest"]
    over = _correlation(study, [fine, small, large], STABILITY, ACCURACY)
    ordered = [_difference(study, *pair, ACCURACY) for pair in ((large, small), (small, fine))]
    steps = f"largest - smallest {told(ordered[0])}, {_rate(small)} - {_rate(fine)} {told(ordered[1])}"
    shown = f"r {_told(over)}; {steps} points"
    return answers.all_of([_sign(over, -1), *map(answers.above, ordered)]), shown


@claim(
    "A4",
    "the tradeoff is there across pruning rates (Figure 3)",
    "over the seeds of the runs of several targets Pearson's r of mean stability with accuracy has p < .05 and its "
    "interval below 0, at every rate from 5% to 20% of a layer an event, of which there are two; others are told",
    "setting",
)
def tradeoff_across_rates(study: StabilityStudy, setting: Setting) -> Found:
    rows = sorted(
        (list(row.values()) for row in _by_target(setting).values() if len(row) > 1),
        key=lambda row: row[0].scheme.rate,
    )
    found = [(row[0], _correlation(study, row, STABILITY, ACCURACY)) for row in rows]
    moderate = [one for run, one in found if MODERATE[0] <= run.scheme.rate <= MODERATE[1]]
    if len(moderate) < 2:
        raise NotComparable("no two rates from 5% to 20% an event that have runs of several targets")
    shown = ", ".join(f"{_rate(run)}: {_told(one)}" for run, one in found)
    return answers.all_of([_sign(one, -1) for one in moderate]), f"r at {shown}"


@claim(
    "A5",
    "other networks, with SGD and weight decay: less stable pruning generalizes better and narrows the gap (Figure 4)",
    "where SGD with weight decay trains: over the seeds of the runs that remove the same fractions Pearson's r of mean "
    "stability with accuracy lies below 0, and that with the gap of training and test accuracy above 0, as in A3",
    "setting",
)
def other_networks(study: StabilityStudy, setting: Setting) -> Found:
    optimizer = setting.recipe.get("optimizer")
    if name_of(optimizer) != "sgd" or not options_of(optimizer).get("weight_decay"):
        raise NotComparable("not trained by SGD with weight decay")
    if len(setting.removing) < 2:
        raise NotComparable("no two runs that remove the same fractions in other ways")
    accuracy, gap = (
        _correlation(study, setting.removing, STABILITY, name) for name in (ACCURACY, "generalization_gap")
    )
    answer = answers.all_of([_sign(accuracy, -1), _sign(gap, 1)])
    return answer, f"r with accuracy {_told(accuracy)}, with the gap {_told(gap)}"


@claim(
    "A6",
    "noise suffices: filters that are zeroed for a while, or made noisy, and then regrow generalize as well (Figure 5)",
    "at the most batches of noise the accuracy minus that of removal for good has its interval above minus one sd of "
    "the latter, where removal itself gains on no pruning (of Gaussian noise: it gains on no pruning); no step to more "
    "batches has it below 0; and the gain of one batch does not lie outside one sd of no pruning",
    "noise",
)
def noise_suffices(study: StabilityStudy, subject: Ladder) -> Found:
    setting, ladder = subject
    unpruned, most = _unpruned(setting), ladder[-1]
    gains = {one.scheme.batches: _gain(study, one.summary, unpruned) for one in ladder}
    parts = [_not_below(_difference(study, more, less, ACCURACY)) for less, more in pairwise(ladder)]
    shown = ", ".join(f"{batches:g}: {told(found)}" for batches, found in gains.items())
    shown = f"gain at {shown} points"
    if ladder[0].scheme.batches == 1 and len(ladder) > 1:
        parts.append(_unless_failed(answers.within(gains[1], _sd(unpruned))))
    if most.scheme.effect == "gaussian":
        return answers.all_of([answers.above(gains[most.scheme.batches]), *parts]), shown
    removed = _removal_like(setting, most)
    gain, beside = _gain(study, removed.summary, unpruned), _difference(study, most, removed, ACCURACY)
    reached = answers.above(beside, -_sd(removed.summary))
    if reached == HOLDS and answers.above(gain) != HOLDS:
        reached = UNDECIDED  # To reach what gains nothing shows nothing.
    shown += f"; of removal {told(gain)}; the most minus removal {told(beside)}"
    return answers.all_of([reached, *parts]), shown


@claim(
    "A7",
    "less stable pruning finds flatter minima, and flatter minima generalize better (Figure 6)",
    "over the seeds of the runs that remove filters Pearson's r of mean stability with the sum of the largest Hessian "
    "eigenvalues and with the trace of the gradients' covariance lies above 0, and that of either with accuracy below "
    "0, as in A3",
    "setting",
)
def unstable_is_flatter(study: StabilityStudy, setting: Setting) -> Found:
    runs = [
        one for one in setting.removing if all(quantity(one.summary, name) for name in (CURVATURE, NOISE))
    ]
    if len(runs) < 2:
        raise NotComparable(f"no two runs with {CURVATURE} and {NOISE}; the observer flatness stores them")
    pairs = {
        "stability, curvature": (STABILITY, CURVATURE, 1),
        "stability, gradient noise": (STABILITY, NOISE, 1),
        "curvature, accuracy": (CURVATURE, ACCURACY, -1),
        "gradient noise, accuracy": (NOISE, ACCURACY, -1),
    }
    found = {name: (_correlation(study, runs, x, y), sign) for name, (x, y, sign) in pairs.items()}
    shown = "; ".join(f"{name} {_told(one)}" for name, (one, _) in found.items())
    return answers.all_of([_sign(one, sign) for one, sign in found.values()]), f"r of {shown}"


@claim(
    "A8",
    "unstable pruning generalizes better than no pruning, and than pruning before training (Figure 2)",
    "the accuracy of the run of the largest filters, at the rate nearest to 13%, minus that of no pruning, and minus "
    "that of pruning before training: the intervals lie above 0",
    "setting",
)
def better_than_none(study: StabilityStudy, setting: Setting) -> Found:
    runs = _by_rate(setting, "largest")
    if not runs:
        raise NotComparable("no run that prunes the largest filters")
    largest = min(runs, key=_off)
    others = {"no pruning": setting.unpruned, "pruning before training": setting.scratch}
    parts: list[Answer] = []
    shown = []
    for name, other in others.items():
        if other is None:
            parts.append(UNTESTED)
            shown.append(f"no run of {name}")
            continue
        best = _gain(study, largest.summary, other)
        late = answers.difference(quantity(largest.summary, LATE), quantity(other, LATE), study.confidence)
        parts.append(answers.above(best))
        shown.append(f"minus {name} {told(best)} points" + (f" (late {told(late)})" if late.n else ""))
    return answers.all_of(parts), f"{_rate(largest)}: {', '.join(shown)}"


def _by_rate(setting: Setting, target: str) -> list[Pruned]:
    """The runs that remove this target, the finest rate first."""
    found = [one for one in setting.removing if one.scheme.target == target]
    return sorted(found, key=lambda one: (one.scheme.rate, one.scheme.every))


def _by_target(setting: Setting) -> dict[tuple[float, int], dict[str, Pruned]]:
    """The runs that remove filters, by how often and by whom."""
    found: dict[tuple[float, int], dict[str, Pruned]] = {}
    for one in setting.removing:
        scheme = one.scheme
        found.setdefault((scheme.every, scheme.events), {}).setdefault(scheme.target, one)
    return found


def _off(one: Pruned) -> float:
    """How far a rate is from the paper's coarse one, in factors."""
    return abs(math.log(one.scheme.rate / COARSE))


def _rate(one: Pruned) -> str:
    return f"{100 * one.scheme.rate:.2g}%"


def _unpruned(setting: Setting) -> Summary:
    return needed(setting.unpruned, "no pruning")


def _removal_like(setting: Setting, disturbed: Pruned) -> Pruned:
    """The run that removes for good what another disturbs."""
    wanted = disturbed.scheme
    for one in setting.removing:
        scheme = one.scheme
        if (scheme.target, scheme.every, scheme.events) == (wanted.target, wanted.every, wanted.events):
            return one
    raise NotComparable("no run that removes the same filters for good")


def _values(summary: Summary, name: str) -> BySeed:
    """The quantity of each seed.

    Raises:
        NotComparable: no seed has it.
    """
    if found := quantity(summary, name):
        return found
    stored = "; a recipe with `observe: [epochs]` stores what it is made of" if name == ACCURACY else ""
    raise NotComparable(f"{summary.run.name}: has no {name}{stored}")


def _difference(study: StabilityStudy, a: Pruned, b: Pruned, name: str) -> Difference:
    return answers.difference(_values(a.summary, name), _values(b.summary, name), study.confidence)


def _gain(study: StabilityStudy, a: Summary, b: Summary) -> Difference:
    """The accuracy of a run minus that of another, in points."""
    return answers.difference(_values(a, ACCURACY), _values(b, ACCURACY), study.confidence)


def _sd(summary: Summary) -> float:
    """Of the accuracy over seeds; NotComparable where one seed has none."""
    std = statistic(list(_values(summary, ACCURACY).values())).std
    if std is None:
        raise NotComparable(f"{summary.run.name}: one seed has no sd")
    return std


def _not_below(found: Difference) -> Answer:
    """Fails where the interval lies below 0; holds otherwise."""
    return _unless_failed(answers.above(found))


def _unless_failed(answer: Answer) -> Answer:
    """Whether nothing speaks against it."""
    return answer if answer in (FAILS, UNTESTED) else HOLDS


def _correlation(study: StabilityStudy, runs: Sequence[Pruned], x: str, y: str) -> Coefficient:
    for one in runs:
        _values(one.summary, x), _values(one.summary, y)
    return correlated([one.summary for one in runs], x, y, study.confidence).pearson


def _sign(found: Coefficient, sign: int) -> Answer:
    """Whether a correlation has this sign, by its test and its interval; it does not hold where it has the other."""
    if found.value is None or found.p is None or found.interval is None:
        return UNTESTED
    low, high = sorted(sign * end for end in found.interval)
    if found.p >= SIGNIFICANCE or low <= 0 <= high:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS


def _told(found: Coefficient) -> str:
    if found.value is None:
        return "not known"
    ends = found.interval
    interval = f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends else ""
    return f"{found.value:+.2f}{interval} (p {found.p:.2g})"
