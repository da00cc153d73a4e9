"""What Jin et al. (2022) claim of clean data: pruning is better training."""

from __future__ import annotations

from prunecli.claims import answers
from prunecli.claims.answers import Answer, told
from prunecli.claims.measures import (
    Found,
    Ones,
    against_control,
    algorithms_of,
    dense_of,
    extended_of,
    groups_against_dense,
    harmed,
    harms_none,
    highest,
    level_of,
    optima,
    optimal_of,
    pruning_of,
    share_of_verdicts,
    spread_told,
    verdicts_told,
)
from prunecli.claims.registry import claim_of
from prunecli.claims.study import MARGIN, Study
from prunecli.errors import NotComparable

claim = claim_of("jin2022")


@claim(
    "N1",
    "pruned VGG-16 with more than 1% of the weights is indistinguishable from extended dense training (no noise)",
    "at every level with more than 1% of the weights the error of pruning minus that of extended training of equal "
    "epochs lies within 1 point",
    "clean",
)
def pruned_is_extended(study: Study, ones: Ones) -> Found:
    pruning, extended = pruning_of(ones[0]), extended_of(ones[0])
    by_epochs = {level.spent: level for level in extended.levels}
    levels = [level for level in pruning.levels[1:] if level.density > 0.01]
    found = [
        answers.difference(
            study.at(pruning, level), study.at(extended, by_epochs[level.spent]), study.confidence
        )
        for level in levels
        if level.spent in by_epochs
    ]
    if len(found) < len(levels):
        raise NotComparable(f"extended training has levels of equal epochs for {len(found)} of {len(levels)}")
    each = [answers.within(one, MARGIN) for one in found]
    shown = f"{each.count('holds')} of {len(each)} levels lie within it; {spread_told(found)}"
    return answers.all_of(each), shown


@claim(
    "N2",
    "at the optimal sparsity every subgroup's training loss matches or improves on dense (5 benchmarks, no noise)",
    "the loss difference of each of 20 EL2N bins lies at or below 0.01; it does not hold where one lies above",
    "clean",
)
def no_subgroup_is_harmed(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    found = groups_against_dense(study, pruning, optimal_of(pruning), pruning)
    return harms_none(found), f"{verdicts_told(found)} by the paper's rule; {highest(found)}"


@claim(
    "N3",
    "there the mean absolute difference of the top 20% EL2N is 3.5 to 71 times that of the others (no noise)",
    "the ratio of the mean absolute bin differences is at least 3.5, and that of two dense trainings (a replicate) is "
    "not; undecided where that is, or where there is no replicate",
    "clean",
)
def the_difficult_are_affected_most(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    found = groups_against_dense(study, pruning, optimal_of(pruning), pruning)
    if found.ratio is None:
        raise NotComparable("nothing differs in the lower 80%")
    again = next(ones[0].again("all"), None)
    null = (
        None
        if again is None
        else groups_against_dense(study, again.summary, again.summary.levels[0], pruning).ratio
    )
    shown = (
        f"ratio {found.ratio:.3g}; of two dense trainings {'not known' if null is None else f'{null:.3g}'}"
    )
    if found.ratio < 3.5:
        return "does not hold", shown
    return "holds" if null is not None and null < 3.5 else "undecided", shown


@claim(
    "N4",
    "at the sparsest level better than dense most subgroups' training loss is worse (ResNet-20 at 83.22%, VGG-16 at "
    "99.08% of sparsity)",
    "more than half of 20 EL2N bins are higher by the paper's rule; it does not hold where more than half are lower",
    "clean",
)
def the_sparsest_harms_most(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    level = level_of(pruning, "sparsest_better", "no level is better than dense")
    found = groups_against_dense(study, pruning, level, pruning)
    higher, lower = found.counts["higher"], found.counts["lower"]
    half = len(found.groups) / 2
    answer: Answer = (
        "holds" if higher > half else "undecided" if len(found.groups) - lower > half else "does not hold"
    )
    return answer, f"level {level.level} ({100 * level.density:.3g}% of the weights): {verdicts_told(found)}"


@claim(
    "N11",
    "without noise extended dense training matches pruning, or is better (5 benchmarks)",
    "the interval of its optimal error minus that of pruning lies at or below 1 point",
    "clean",
)
def extended_is_as_good(study: Study, ones: Ones) -> Found:
    found = optima(study, extended_of(ones[0]), pruning_of(ones[0]))
    return answers.at_most(found, MARGIN), f"{told(found)} points"


@claim(
    "N14",
    "without noise width down-scaling is worse than pruning in 4 of 5 benchmarks",
    "higher by the paper's rule, optimum against optimum, in at least 4/5 of the clean benchmarks",
    "all clean",
)
def width_is_worse(study: Study, ones: Ones) -> Found:
    if not any(one.width for one in ones):
        raise NotComparable("no run of width down-scaling")
    found = [optima(study, one.width, one.pruning) for one in ones if one.width and one.pruning]
    return share_of_verdicts(found, "higher", 4 / 5)


@claim(
    "N16",
    "leaving out the 20% of the examples that pruning improves most hurts more than leaving out a random 20%",
    "the error without them minus that of the control, the mean over the levels tried: its interval lies above 0",
    "clean",
)
def improved_examples_matter(study: Study, ones: Ones) -> Found:
    found = against_control(study, ones[0], "without_improved")
    return answers.above(found), f"{told(found)} points"


@claim(
    "N21",
    "longer training is better training: extended training lowers the training loss and harms no subgroup",
    "the training loss at its last level minus dense lies below 0, and each of 20 EL2N bins' at or below 0.01",
    "clean",
)
def longer_is_better_training(study: Study, ones: Ones) -> Found:
    extended = extended_of(ones[0])
    last = extended.levels[-1]
    loss = answers.difference(
        study.at(extended, last, "train_loss"),
        study.at(extended, dense_of(extended), "train_loss"),
        study.confidence,
    )
    groups = groups_against_dense(study, extended, last, extended)
    answer = answers.all_of([answers.below(loss), harms_none(groups)])
    return answer, f"loss {told(loss)}; {verdicts_told(groups)} by the paper's rule; {highest(groups)}"


@claim(
    "N22",
    "each design choice of the pruning algorithm that is ablated contributes little alone",
    "the optimal error of each other algorithm minus that of IMP with learning-rate rewinding lies within 1 point",
    "clean",
)
def choices_contribute_little(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    found = [optima(study, one, pruning) for one in algorithms_of(ones[0])]
    each = [answers.within(one, MARGIN) for one in found]
    return answers.all_of(each), f"{each.count('holds')} of {len(each)} lie within it; {spread_told(found)}"


@claim(
    "N23",
    "only a low density harms any subgroup",
    "levels where the loss difference of some of 20 EL2N bins lies above 0.01 have at most half of the weights",
    "clean",
)
def only_low_density_harms(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    harmful = [
        level
        for level in pruning.levels
        if level.density < 1 and harmed(groups_against_dense(study, pruning, level, pruning))
    ]
    if not harmful:
        raise NotComparable("no level harms any subgroup")
    densest = max(harmful, key=lambda level: level.density)
    answer: Answer = "holds" if densest.density <= 0.5 else "does not hold"
    return (
        answer,
        f"the densest of {len(harmful)} such levels has {100 * densest.density:.3g}% of the weights",
    )


@claim(
    "N24",
    "other pruning algorithms too are matched by extended dense training (Figure 1a, appendix C)",
    "the optimal error of extended training minus that of each other algorithm lies at or below 1 point",
    "clean",
)
def extended_matches_other_algorithms(study: Study, ones: Ones) -> Found:
    found = [optima(study, extended_of(ones[0]), one) for one in algorithms_of(ones[0])]
    each = [answers.at_most(one, MARGIN) for one in found]
    return answers.all_of(each), f"{each.count('holds')} of {len(each)} lie there; {spread_told(found)}"
