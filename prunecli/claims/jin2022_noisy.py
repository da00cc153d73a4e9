"""What Jin et al. (2022) claim of noisy labels: pruning is additional regularization."""

from __future__ import annotations

from prunecli.claims import answers
from prunecli.claims.answers import told
from prunecli.claims.measures import (
    Found,
    Ones,
    dense_of,
    extended_of,
    gain,
    loss_gap,
    number_of_the_paper,
    optima,
    optimal_of,
    pruning_of,
    range_of_the_paper,
    share_of_verdicts,
    slope,
    top_difference,
    width_of,
)
from prunecli.claims.registry import claim_of
from prunecli.claims.study import MARGIN, Study
from prunecli.errors import NotComparable

claim = claim_of("jin2022")


@claim(
    "N5",
    "with noise the optimal sparsity beats dense in 11 of 13 benchmarks, and matches it in the others",
    "lower by the paper's rule in at least 11/13 of the noisy benchmarks; undecided where it turns on matches",
    "all noisy",
)
def pruning_beats_dense(study: Study, ones: Ones) -> Found:
    found = [
        answers.difference(study.best(one.pruning), study.dense(one.pruning), study.confidence)
        for one in ones
        if one.pruning
    ]
    return share_of_verdicts(found, "lower", 11 / 13)


@claim(
    "N6",
    "the optimal sparsity is better than dense by 5.2, 16.1 and 34.6 points at 15, 30 and 60% noise (VGG-16)",
    "on VGG-16 and CIFAR-10 alone: the interval of the gain lies within 1 point of the paper's number",
    "noisy",
)
def gain_of_pruning(study: Study, ones: Ones) -> Found:
    found = answers.of_zero(gain(study, ones[0]), study.confidence)
    return number_of_the_paper(ones[0], {0.15: 5.2, 0.3: 16.1, 0.6: 34.6}, found, "cifar_vgg_16 on cifar10")


@claim(
    "N7",
    "the dense model fits noisy labels: their training loss minus that of the others is 0.03 to 0.13 (VGG-16)",
    "the interval of the gap lies at or below 0.13",
    "noisy",
)
def dense_memorizes(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    gap = answers.of_zero(loss_gap(study, pruning, dense_of(pruning)), study.confidence)
    return answers.at_most(gap, 0.13), f"gap {told(gap)}"


@claim(
    "N8",
    "at the optimal sparsity the same gap is 1.38 to 2.97 (VGG-16)",
    "the interval of the gap lies above 1.38",
    "noisy",
)
def pruning_does_not_memorize(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    gap = answers.of_zero(loss_gap(study, pruning, optimal_of(pruning)), study.confidence)
    return answers.above(gap, 1.38), f"gap {told(gap)}"


@claim(
    "N9",
    "pruning first lowers the loss on noisy examples below dense, and raises it when under 10% of the weights remain "
    "(ResNet-20)",
    "the mean over levels of the noisy examples' loss minus dense: its interval lies below 0 for levels with more than "
    "10% of the weights, and above 0 for those with less",
    "noisy",
)
def noisy_loss_dips(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    dense = study.at(pruning, dense_of(pruning), "train_loss_noisy")
    parts = {
        "above": [level for level in pruning.levels if 0.1 < level.density < 1],
        "below": [level for level in pruning.levels if level.density < 0.1],
    }
    found = {
        side: answers.difference(
            answers.mean_of([study.at(pruning, level, "train_loss_noisy") for level in levels]),
            dense,
            study.confidence,
        )
        for side, levels in parts.items()
    }
    each = [answers.below(found["above"]), answers.above(found["below"])]
    shown = f"{told(found['above'])} with over 10% of the weights, {told(found['below'])} with less"
    return answers.all_of(each), shown


@claim(
    "N10",
    "with noise the loss of the high-EL2N subgroups rises at the optimal sparsity (but where dense is optimal)",
    "the interval of the mean loss difference of the top 20% by EL2N lies above 0",
    "noisy",
)
def the_difficult_are_given_up(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    found = top_difference(study, pruning, optimal_of(pruning), pruning)
    return answers.above(found), told(found)


@claim(
    "N12",
    "with noise extended dense training is worse than pruning in 9 of 13 benchmarks",
    "higher by the paper's rule, optimum against optimum, in at least 9/13 of the noisy benchmarks",
    "all noisy",
)
def extended_is_worse(study: Study, ones: Ones) -> Found:
    found = [optima(study, one.extended, one.pruning) for one in ones if one.extended and one.pruning]
    return share_of_verdicts(found, "higher", 9 / 13)


@claim(
    "N13",
    "by 0 to 2.6 points (LeNet), 0.4 to 14.5 (ResNet-20), 3.6 to 34.2 (VGG-16), 0 to 4.8 (ResNet-32), -0.3 (ResNet-50)",
    "on the paper's own benchmarks alone: the interval lies in the paper's range, widened by 1 point",
    "noisy",
)
def extended_is_worse_by(study: Study, ones: Ones) -> Found:
    ranges = {
        "lenet_300_100 on mnist": (0, 2.6),
        "cifar_resnet_20 on cifar10": (0.4, 14.5),
        "cifar_vgg_16 on cifar10": (3.6, 34.2),
        "cifar_resnet_32 on cifar100": (0, 4.8),
        "torchvision:resnet50 on imagenet": (-0.3, -0.3),
    }
    found = optima(study, extended_of(ones[0]), pruning_of(ones[0]))
    return range_of_the_paper(ones[0], ranges, found)


@claim(
    "N15",
    "with noise the best width is at most 2.1 points worse than pruning",
    "the interval of the width's optimal error minus that of pruning lies at or below 2.1 points",
    "noisy",
)
def width_comes_close(study: Study, ones: Ones) -> Found:
    found = optima(study, width_of(ones[0]), pruning_of(ones[0]))
    return answers.at_most(found, 2.1), f"{told(found)} points"


@claim(
    "N17",
    "the gain of pruning grows with noise",
    "the slope over the noise fraction of dense error minus optimal error, of each seed: its interval lies above 0",
    "family",
)
def gain_grows(study: Study, ones: Ones) -> Found:
    rows = [(one.fraction, gain(study, one)) for one in ones if one.pruning and one.uniform]
    if len({fraction for fraction, _ in rows}) < 2:
        raise NotComparable("needs pruning at two levels of noise")
    seeds = set.intersection(*(set(row) for _, row in rows))
    slopes = {seed: slope([(fraction, row[seed]) for fraction, row in rows]) for seed in seeds}
    found = answers.of_zero(slopes, study.confidence)
    gains = ", ".join(
        f"{100 * fraction:g}%: {told(answers.of_zero(row, study.confidence))}" for fraction, row in rows
    )
    return answers.above(found), f"{told(found)} points for a noise of 1, extrapolated ({gains})"


@claim(
    "N18",
    "the gap between the losses on noisy and on the other examples finally shrinks as density falls further",
    "where the mean gap of the other seeds is largest each seed's gap is above that of dense, and at the last level it "
    "is below that again: the intervals lie above and below 0",
    "noisy",
)
def gap_shrinks_in_the_end(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    gaps = {level.level: loss_gap(study, pruning, level) for level in pruning.levels}
    seeds = set.intersection(*(set(gap) for gap in gaps.values()))
    if len(seeds) < 2:
        raise NotComparable("its levels have no train_loss_noisy of two seeds")
    last = max(gaps)

    def peak(among: set[int]) -> int:
        return max(gaps, key=lambda number: sum(gaps[number][seed] for seed in among))

    if peak(seeds) == last:
        return "does not hold", f"the gap is largest at the last level, {last}"
    # A peak that is chosen by the seeds that it is tried on is the largest by chance too.
    fall = {seed: gaps[last][seed] - gaps[peak(seeds - {seed})][seed] for seed in seeds}
    rise = {seed: gaps[peak(seeds - {seed})][seed] - gaps[0][seed] for seed in seeds}
    falls, rises = (answers.of_zero(one, study.confidence) for one in (fall, rise))
    shown = f"up by {told(rises)} to about level {peak(seeds)}, then {told(falls)} to level {last}"
    return answers.all_of([answers.above(rises), answers.below(falls)]), shown


@claim(
    "N19",
    "on noisy data leaving out the examples that the pruned model misclassifies helps like pruning",
    "the error without them lies below that of the same training with all, and within 1 point of the pruned optimum",
    "noisy",
)
def leaving_out_helps_like_pruning(study: Study, ones: Ones) -> Found:
    pruning = pruning_of(ones[0])
    if optimal_of(pruning).level == dense_of(pruning).level:
        raise NotComparable("the dense level is the optimal one")
    pairs = [
        (without, everything)
        for without in ones[0].again("without_misclassified")
        for everything in ones[0].again("all")
        if without.rest == everything.rest
    ]
    if not pairs:
        raise NotComparable("needs retraining without the misclassified examples, and with all")
    without, everything = pairs[0]
    error = study.dense(without.summary)
    helps = answers.difference(error, study.dense(everything.summary), study.confidence)
    like = answers.difference(error, study.best(pruning), study.confidence)
    shown = f"{told(helps)} points against all, {told(like)} against pruning"
    return answers.all_of([answers.below(helps), answers.within(like, MARGIN)]), shown


@claim(
    "N20",
    "width down-scaling has the same subgroup signature: on noisy data it gives the high-EL2N examples up",
    "the interval of the mean loss difference of the top 20% by EL2N, best width against full width, lies above 0",
    "noisy",
)
def width_gives_up_the_difficult(study: Study, ones: Ones) -> Found:
    width = width_of(ones[0])
    found = top_difference(study, width, optimal_of(width), width)
    return answers.above(found), told(found)
