"""What Chang et al. (2021) claim of linear models and random features: when it pays to train large and prune."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prunecli.claims import answers
from prunecli.claims.answers import Answer, told
from prunecli.claims.descent_study import DescentStudy, Treated, first_minimum, nearest, widest
from prunecli.claims.registry import claim_of
from prunecli.double_descent import Point, Sweep
from prunecli.errors import NotComparable
from prunecli.statistics import Difference

MUCH = math.log(1.1)
"""How much lower a risk is that is far better."""
EQUAL = 0.05
FLAT = 0.25
USELESS = math.log(0.9)
"""What part of the risk of predicting 0 a useless model still has."""
LITTLE, LARGE = 0.2, 0.4
"""Correlations up to which retraining is to hurt, and from which on it is to help."""
Found = tuple[Answer, str]
claim = claim_of("chang2021")


@claim(
    "C1",
    "the risk of the pruned model descends twice: it falls, peaks at p = n, and ends below its first minimum",
    "log risk as pruned: narrowest minus first minimum (the lowest median below n), and peak (within 10% of n) minus "
    "that minimum, lie above 0; widest minus peak, and widest minus first minimum, below 0",
    "curve",
)
def pruned_risk_descends_twice(study: DescentStudy, treated: Treated) -> Found:
    return _descends_twice(study, treated.points(), treated.sweep.examples)


@claim(
    "C2",
    "training large and pruning beats training the known best s features",
    "log risk as pruned at the widest minus that of the dense model of s features lies below 0",
    "curve",
)
def large_then_prune_beats_small(study: DescentStudy, treated: Treated) -> Found:
    dense, kept = treated.sweep.treated(), treated.sweep.kept
    small = dense[0].at(kept) if len(dense) == 1 and kept is not None else None
    if small is None:
        raise NotComparable("no dense model of as many features as are kept, trained in one way")
    large = widest(treated.points(), treated.sweep.examples)
    found = study.apart(large, small)
    return answers.below(found), f"medians {_medians(large, small)}; {told(found)}"


@claim(
    "C3",
    "Hessian pruning is far better than magnitude where variances are unequal, and the same where they are equal",
    "log risk as pruned at the widest, magnitude minus Hessian, lies above 0.095 (10%), and within 0.05 where all "
    "variances are equal",
    "spectrum",
)
def hessian_beats_magnitude(study: DescentStudy, sweep: Sweep) -> Found:
    problem = sweep.problem
    if problem is None:
        raise NotComparable("its spectrum is not known from the recipe")
    magnitude, hessian = (
        widest(Treated(sweep, pruner).points(), sweep.examples) for pruner in ("magnitude", "hessian")
    )
    found = study.apart(magnitude, hessian)
    equal = bool(np.ptp(problem.spectrum) == 0)
    answer = answers.within(found, EQUAL) if equal else answers.above(found, MUCH)
    return (
        answer,
        f"{'equal' if equal else 'unequal'} variances: medians {_medians(magnitude, hessian)}; {told(found)}",
    )


@claim(
    "C4",
    "with uncorrelated features retraining hurts at p = d",
    "log risk at the widest, retrained minus as pruned, lies above 0",
    "curve",
)
def retraining_hurts_uncorrelated(study: DescentStudy, treated: Treated) -> Found:
    again, pruned = (widest(treated.points(retrained=how), treated.sweep.examples) for how in (True, False))
    found = study.apart(again, pruned)
    return answers.above(found), f"medians {_medians(again, pruned)}; {told(found)}"


@claim(
    "C5",
    "with correlated features retraining helps; it comes to help between correlations of 0.2 and 0.4",
    "log risk, retrained minus as pruned, lies above 0 at each correlation up to 0.2, and below 0 at each from 0.4 on",
    "correlated",
)
def retraining_helps_correlated(study: DescentStudy, treated: Treated) -> Found:
    pruned = {point.x: point for point in treated.points()}
    found = {
        again.x: study.apart(again, pruned[again.x])
        for again in treated.points(retrained=True)
        if again.x in pruned
    }
    low = [one for x, one in found.items() if x <= LITTLE]
    high = [one for x, one in found.items() if x >= LARGE]
    if not low or not high:
        raise NotComparable("needs correlations up to 0.2 and from 0.4 on")
    shown = ", ".join(f"{x:g}: {told(one)}" for x, one in found.items())
    return answers.all_of([*map(answers.above, low), *map(answers.below, high)]), shown


@claim(
    "C6",
    "with random features and retraining there is a sparse double descent: a minimum below n, a peak at k = n, and the "
    "global minimum at the largest k",
    "log risk retrained: narrowest minus first minimum (the lowest median below n), and peak (within 10% of n) minus "
    "that minimum, lie above 0; widest minus peak, and widest minus first minimum, below 0",
    "pruned_features",
)
def retrained_features_descend_twice(study: DescentStudy, treated: Treated) -> Found:
    return _descends_twice(study, treated.points(retrained=True), treated.sweep.examples)


@claim(
    "C7",
    "without retraining, pruning random features is useless at large k",
    "log risk as pruned at the widest minus that of predicting 0 lies above -0.105 (90% of it)",
    "pruned_features",
)
def pruned_features_are_useless(study: DescentStudy, treated: Treated) -> Found:
    last = widest(treated.points(), treated.sweep.examples)
    null = Point(last.x, last.total, last.kept, dict.fromkeys(last.values, treated.sweep.null))
    found = study.apart(last, null)
    shown = f"median {last.median:.3g}, null {treated.sweep.null:.3g}; {told(found)}"
    return answers.above(found, USELESS), shown


@claim(
    "C8",
    "a random support of random features, retrained, stays flat in k",
    "log risk retrained at each width beyond s minus that at the widest lies within 0.25",
    "random",
)
def random_support_is_flat(study: DescentStudy, treated: Treated) -> Found:
    points = [point for point in treated.points(retrained=True) if point.kept < point.total]
    if len(points) < 2:
        raise NotComparable("fewer than two widths beyond what is kept")
    last = widest(points, treated.sweep.examples)
    found = [study.apart(point, last) for point in points if point is not last]
    medians = [point.median for point in points]
    shown = (
        f"medians from {min(medians):.3g} to {max(medians):.3g}; {told(max(found, key=_size))} at the most"
    )
    return answers.all_of(answers.within(one, FLAT) for one in found), shown


def _descends_twice(study: DescentStudy, points: Sequence[Point], n: int | None) -> Found:
    low, peak, last = first_minimum(points, n), nearest(points, n), widest(points, n)
    first = points[0]
    if first is low:
        raise NotComparable("no width below that of the first minimum")
    parts = [
        answers.above(study.apart(first, low)),
        answers.above(study.apart(peak, low)),
        answers.below(study.apart(last, peak)),
        answers.below(study.apart(last, low)),
    ]
    places = ", ".join(f"{point.median:.3g} at {point.x:g}" for point in (first, low, peak, last))
    return answers.all_of(parts), f"medians {places}; end minus first minimum {told(study.apart(last, low))}"


def _size(found: Difference) -> float:
    return abs(found.mean or 0.0)


def _medians(a: Point, b: Point) -> str:
    return f"{a.median:.3g} against {b.median:.3g}"
