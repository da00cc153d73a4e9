"""What Yang et al. (2023) claim: mild pruning before training generalizes better, excessive pruning memorizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from prunecli.claims import answers
from prunecli.claims.answers import FAILS, HOLDS, UNDECIDED, Answer, difference, told
from prunecli.claims.density_study import DensityStudy, spot_at
from prunecli.claims.registry import claim_of
from prunecli.errors import NotComparable
from prunecli.methods import options_of
from prunecli.statistics import Difference, holm
from prunecli.thresholds import ACCURACY, DensitySweep, Spot

TARGET = 0.01
"""The training loss that the runs are trained to."""
FEWEST_SEEDS = 5
SIGNIFICANCE = 0.05
COLLAPSE = 10.0
"""Points of test error that a collapse costs at least."""
Found = tuple[Answer, str]
claim = claim_of("yang2023")


@claim(
    "B1",
    "at every density gradient descent drives the training loss to a small target",
    "every seed of every run has a training loss of at most .01 at its end",
    "patches",
)
def trains_to_the_target(_study: DensityStudy, sweep: DensitySweep) -> Found:
    losses = {spot.level.density: list(spot.by_seed("train_loss").values()) for spot in sweep.spots}
    every = [loss for values in losses.values() for loss in values]
    high = [f"{density:.3g}" for density, values in losses.items() if any(one > TARGET for one in values)]
    above = f"; above it at p {', '.join(high)}" if high else ""
    return _whether(not high), f"largest of {len(every)} seeds of {len(losses)} runs: {max(every):.4f}{above}"


@claim(
    "B2",
    "with the square for activation mild pruning generalizes better, down to ln d / m",
    "at power 2, of the test losses at p 1 minus .5 and .5 minus .2 the intervals lie above 0; the mean accuracy is at "
    "least 99% at .2 and at most 60% at 1",
    "patches",
)
def mild_pruning_helps_the_square(study: DensityStudy, sweep: DensitySweep) -> Found:
    if options_of(sweep.recipe.get("model")).get("power") != 2:
        raise NotComparable("the activation is not the square")
    dense, half, fifth = (spot_at(sweep, density) for density in (1, 0.5, 0.2))
    steps = [_difference(study, *pair, "test_loss") for pair in ((dense, half), (half, fifth))]
    best, first = fifth.mean(ACCURACY), dense.mean(ACCURACY)
    parts = [*map(answers.above, steps), _whether(best >= 99), _whether(first <= 60)]
    shown = f"test loss falls by {told(steps[0])}, then {told(steps[1])}; accuracy {first:.1f}% at 1, {best:.1f}% at .2"
    return answers.all_of(parts), shown


@claim(
    "B3",
    "at p = 1 / (K m ln d) the network guesses, whatever the activation",
    "over the seeds of the run at that density, five at least, the median accuracy is within 5 points of 1 / K and the "
    "median test loss at least ln K",
    "patches",
)
def excessive_pruning_guesses(_study: DensityStudy, sweep: DensitySweep) -> Found:
    classes = _classes(sweep)
    spot = spot_at(sweep, sweep.excessive or math.nan)
    accuracy, loss = (_median(spot, name) for name in (ACCURACY, "test_loss"))
    near, high = abs(accuracy - 100 / classes) <= 5, loss >= math.log(classes)
    shown = f"median accuracy {accuracy:.1f}%, chance {100 / classes:.3g}%; median test loss {loss:.2f}"
    return _whether(near and high), f"{shown}, ln K {math.log(classes):.2f}"


@claim(
    "B5",
    "what is learned of the signal is what pruning leaves: C classes whose head keeps its coordinate",
    "of every seed of every run: where C is 0 the accuracy is within 4 points of 1 / K, and it is never above "
    "(C + 1) / K by more than 5 points",
    "patches",
)
def accuracy_by_classes_kept(_study: DensityStudy, sweep: DensitySweep) -> Found:
    classes, wrong, none, count = _classes(sweep), list[str](), 0, 0
    for spot in sweep.spots:
        kept, accuracy = spot.by_seed("classes_kept"), spot.by_seed(ACCURACY)
        for seed in sorted(kept.keys() & accuracy.keys()):
            count, none = count + 1, none + (kept[seed] == 0)
            guesses = abs(accuracy[seed] - 100 / classes) <= 4 or kept[seed] > 0
            if not guesses or accuracy[seed] > 100 * (kept[seed] + 1) / classes + 5:
                wrong.append(
                    f"p {spot.level.density:.3g} seed {seed}: C {kept[seed]:g}, {accuracy[seed]:.1f}%"
                )
    return _whether(not wrong), f"{count} seeds, {none} with C = 0; {'; '.join(wrong) or 'none breaks it'}"


@claim(
    "B6",
    "as the pruning fraction increases, up to a threshold, generalization improves (abstract)",
    "from p 1 down to the least density that is not below ln d / m the test loss falls at each step, and from first to "
    "last the accuracy rises: the intervals of these differences lie above 0",
    "patches",
)
def mild_pruning_improves(study: DensityStudy, sweep: DensitySweep) -> Found:
    spots = [spot for spot in sweep.spots if spot.level.density >= (sweep.mild or math.inf)]
    if len(spots) < 2 or spots[0].level.density != 1:
        raise NotComparable("no dense run, or none that is mildly pruned")
    falls = [_difference(study, *pair, "test_loss") for pair in pairwise(spots)]
    rise = _difference(study, spots[-1], spots[0], ACCURACY)
    steps = ", ".join(told(one) for one in falls)
    shown = f"test loss falls by {steps} to p {spots[-1].level.density:.2g}; accuracy by {told(rise)} points"
    return answers.all_of([*map(answers.above, falls), answers.above(rise)]), shown


@claim(
    "B7",
    "a larger fraction: training fits the noise, and testing is no better than guessing (abstract)",
    "at the least density, not above twice 1 / (K m ln d): every seed's training loss is at most .01, the median "
    "accuracy of five at least is within 5 points of 1 / K, and noise minus signal learned has its interval above 0",
    "patches",
)
def excessive_pruning_memorizes(study: DensityStudy, sweep: DensitySweep) -> Found:
    classes, spot = _classes(sweep), sweep.spots[-1]
    if spot.level.density > 2 * (sweep.excessive or 0):
        raise NotComparable("no run that is excessively pruned")
    trained = max(spot.by_seed("train_loss").values(), default=math.inf)
    accuracy = _median(spot, ACCURACY)
    more = difference(spot.by_seed("noise_learned"), spot.by_seed("signal_learned"), study.confidence)
    parts = [_whether(trained <= TARGET), _whether(abs(accuracy - 100 / classes) <= 5), answers.above(more)]
    shown = (
        f"p {spot.level.density:.2g}: training loss at most {trained:.4f}, median accuracy {accuracy:.1f}%"
    )
    return answers.all_of(parts), f"{shown}, noise minus signal learned {told(more)}"


@claim(
    "B8",
    "with noise on the inputs a moderate density is (slightly) the best",
    "some density below 1 has a lower test error than density 1 by Student's t test, corrected over the densities "
    "(Holm, p at most .05), and the least density does not; it does not hold where all have intervals above 0",
    "noisy inputs",
)
def moderate_density_is_best(study: DensityStudy, sweep: DensitySweep) -> Found:
    dense, rest = _against_dense(sweep)
    found = {number: _difference(study, spot, dense, "test_error") for number, spot in enumerate(rest)}
    family = {number: 1.0 if one.p is None else one.p for number, one in found.items()}
    corrected = holm(family)
    better = [n for n, one in found.items() if (one.mean or 0) < 0 and corrected[n] <= SIGNIFICANCE]
    worse = all(answers.above(one) == HOLDS for one in found.values())
    best = min(found, key=lambda number: found[number].mean or 0)
    shown = f"p {rest[best].level.density:.2g}: {told(found[best])} points of error, Holm's p {corrected[best]:.2g}"
    answer = FAILS if worse else HOLDS if better and better[-1] != len(rest) - 1 else UNDECIDED
    return answer, shown


@claim(
    "B9",
    "training reaches no error at the density that is best",
    "every seed's training error is 0 at density 1 and at the density of the least mean test error",
    "noisy inputs",
)
def training_error_is_zero(_study: DensityStudy, sweep: DensitySweep) -> Found:
    dense, rest = _against_dense(sweep)
    best = min((dense, *rest), key=lambda spot: spot.mean("test_error"))
    errors = [max(spot.by_seed("train_error").values(), default=math.inf) for spot in (dense, best)]
    shown = f"largest training error {errors[0]:.2f}% at 1, {errors[1]:.2f}% at p {best.level.density:.2g}"
    return _whether(errors == [0, 0]), shown


@claim(
    "B10",
    "accuracy collapses at extreme sparsity",
    "the test error at the least density minus that at density 1 has its interval above 10 points",
    "noisy inputs",
)
def accuracy_collapses(study: DensityStudy, sweep: DensitySweep) -> Found:
    dense, rest = _against_dense(sweep)
    found = _difference(study, rest[-1], dense, "test_error")
    return answers.above(found, COLLAPSE), f"p {rest[-1].level.density:.2g}: {told(found)} points"


def _whether(true: bool) -> Answer:
    return HOLDS if true else FAILS


def _difference(study: DensityStudy, a: Spot, b: Spot, name: str) -> Difference:
    return difference(a.by_seed(name), b.by_seed(name), study.confidence)


def _classes(sweep: DensitySweep) -> int:
    if sweep.classes is None:
        raise NotComparable("the number of classes is not known")
    return sweep.classes


def _median(spot: Spot, name: str) -> float:
    values = list(spot.by_seed(name).values())
    if len(values) < FEWEST_SEEDS:
        raise NotComparable(f"{len(values)} seeds at p {spot.level.density:.2g}; {FEWEST_SEEDS} are needed")
    return median(values)


def _against_dense(sweep: DensitySweep) -> tuple[Spot, Sequence[Spot]]:
    """The dense level, and those of lower densities."""
    dense, *rest = sweep.spots
    if dense.level.density != 1 or not rest:
        raise NotComparable("no dense run, or none that is pruned")
    return dense, rest
