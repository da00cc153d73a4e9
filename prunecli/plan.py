"""What a recipe will do: unrolled, checked and costed, without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from prunecli.batching import batches_in
from prunecli.building import (
    LEFT_OUT,
    TRAINING,
    VALIDATION,
    build,
    chosen_names,
    is_curved,
    make_targets,
    settled,
)
from prunecli.datasets.values import Dataset, Facts
from prunecli.errors import EnvironmentMissing
from prunecli.estimate import measure_cost
from prunecli.experiment import Experiment
from prunecli.fitting import check_fits
from prunecli.kept import dense_state
from prunecli.models.parameters import check_batches, excluded_weights
from prunecli.procedure import Foreseen, foresee
from prunecli.recipe.load import Point, Recipe
from prunecli.registry import Choice
from prunecli.reuse import Reused, common, reused
from prunecli.runs import Prepared, Settings, check_distinct, load_dataset, prepare_point
from prunecli.selections import lacking_classes
from prunecli.task import Task
from prunecli.widths import Widths
from prunecli.workers import Chosen, chosen

MASK_BYTES, OUTCOME_BYTES, STATE_BYTES, POINT_BYTES = 1, 5, 13, 4
"""What a store takes for a weight and seed, for an example, level and seed; what a state takes for a parameter
with two optimizer slots, and for one of a saved point."""


@dataclass(frozen=True)
class Counts:
    """Examples by what they are for; None where the dataset's size is not known."""

    train: int | None = None
    validation: int | None = None
    left_out: int | None = None
    test: int | None = None
    lacking: tuple[int, ...] = ()
    """Classes that no training example has."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a recipe; what needs the dataset is None where that is not on this machine.

    `seconds` is for what is left, one seed after another, reading of data left out, and `saved` for what is reused;
    `bytes` the store's size before compression, `state_bytes` and `weights_bytes` what is kept of all seeds takes.
    """

    point: Point
    levels: tuple[Foreseen, ...]
    task: Task | None
    parameters: int | None
    prunable: int | None
    excluded: int
    """Weights of linear and convolution layers that the recipe excludes from pruning, where the model is known."""
    tensors: int | None
    counts: Counts
    steps_per_epoch: int | None
    prepared: Prepared | None
    """The run as it would be carried out; None where its dataset is not on this machine."""
    reused: tuple[Reused, ...]
    """Levels that need no work, stored already or made by an earlier run of the same plan."""
    seconds: float | None
    saved: float | None
    store_bytes: int | None
    state_bytes: int | None
    weights_bytes: int | None
    missing: str
    split: str
    """How the dataset was split, where that is not its source's own split."""

    @property
    def epochs(self) -> float:
        """Epochs of a seed."""
        return self.levels[-1].outlook.spent

    @property
    def folder(self) -> Path | None:
        """Where the run would lie."""
        return self.prepared.folder.path if self.prepared else None

    @property
    def left_by_seed(self) -> list[float]:
        """The epochs that each seed still has to be trained for."""
        whole = self.levels[(self.prepared.limit if self.prepared else len(self.levels)) - 1].outlook.spent
        return [
            max(0.0, whole - sum(one.epochs for one in self.reused if one.seed == seed))
            for seed in self.point.experiment.seeds
        ]


def make_plan(recipe: Recipe, settings: Settings, *, timed: bool = True) -> list[PlannedRun]:
    """The recipe's runs as they would be carried out; every mistake is found here.

    Raises:
        RecipeError: stages that cannot be carried out.
        UsageError: labels, splits or patterns do not fit the dataset or the model.
    """
    foreseen = [foresee(point.experiment) for point in recipe.points]
    datasets: dict[str, tuple[Dataset | None, Facts, str]] = {}
    plans: list[PlannedRun] = []
    earlier: list[Prepared] = []
    for point, levels in zip(recipe.points, foreseen, strict=True):
        name = repr(point.experiment.data.plain())
        if name not in datasets:
            datasets[name] = _dataset(point.experiment.data, settings)
        plans.append(_planned(point, levels, *datasets[name], settings, earlier, timed=timed))
        earlier += [one for one in (plans[-1].prepared,) if one is not None]
        check_distinct(earlier)
    return plans


def workers_of(plans: Sequence[PlannedRun], settings: Settings) -> Chosen | None:
    """How many of all runs' seeds would go on side by side; None where that is not known, or nothing is left."""
    ahead = [
        (plan.prepared, left) for plan in plans if plan.prepared for left in plan.left_by_seed if left > 0
    ]
    return chosen(ahead, settings) if ahead and all(plan.prepared for plan in plans) else None


def _dataset(choice: Choice, settings: Settings) -> tuple[Dataset | None, Facts, str]:
    try:
        dataset = load_dataset(choice, settings)
        return dataset, Facts(dataset.task, len(dataset.train), len(dataset.test)), ""
    except EnvironmentMissing as error:
        return None, choice.entry.traits.get("facts", Facts()), str(error)


def _planned(
    point: Point,
    levels: Sequence[Foreseen],
    dataset: Dataset | None,
    facts: Facts,
    missing: str,
    settings: Settings,
    earlier: Sequence[Prepared],
    *,
    timed: bool,
) -> PlannedRun:
    experiment = point.experiment
    if facts.task is not None:
        experiment = settled(experiment, facts.task, settings.device)
        point = replace(point, experiment=experiment)
    counts = _counts(experiment, dataset, facts)
    model = None if facts.task is None else build(experiment, facts.task, 0, torch.device("cpu"))
    sizes = {name: p.numel() for name, p in model.named_parameters()} if model is not None else None
    names = chosen_names(experiment, model) if model is not None else ()
    if model is not None and counts.train is not None:
        check_batches(experiment, model, counts.train)
    steps = None if counts.train is None else batches_in(_seen(counts, experiment), experiment.batch_size)
    prepared = None
    if dataset is not None:
        read = {json.dumps(experiment.data.plain(), sort_keys=True): dataset}
        prepared = prepare_point(point, settings, read)
        levels = prepared.foreseen
    elif model is not None:
        levels = _levels_without_data(experiment, model, steps, facts)
    reuse = () if prepared is None else _reused(prepared, settings, earlier)
    seconds = saved = None
    if timed and facts.task is not None and steps is not None:
        limit = prepared.limit if prepared else len(levels)
        seconds, saved = _seconds(experiment, levels[:limit], facts, steps, settings, reuse)
    prunable = sum(sizes[name] for name in names) if sizes is not None else None
    states, weights = _kept_bytes(experiment, levels, model)
    return PlannedRun(
        point=point,
        levels=tuple(levels),
        task=facts.task,
        parameters=sum(sizes.values()) if sizes is not None else None,
        prunable=prunable,
        excluded=levels[0].outlook.excluded,
        tensors=len(names) if sizes is not None else None,
        counts=counts,
        steps_per_epoch=steps,
        prepared=prepared,
        reused=reuse,
        seconds=seconds,
        saved=saved,
        store_bytes=_store_bytes(len(experiment.seeds), len(levels), prunable, facts),
        state_bytes=states,
        weights_bytes=weights,
        missing=missing,
        split="" if dataset is None else dataset.said,
    )


def _store_bytes(seeds: int, levels: int, prunable: int | None, facts: Facts) -> int | None:
    if prunable is None or facts.train is None or facts.test is None:
        return None
    return seeds * (prunable * MASK_BYTES + OUTCOME_BYTES * (facts.train + facts.test) * levels)


def _kept_bytes(
    experiment: Experiment, levels: Sequence[Foreseen], model: nn.Module | None
) -> tuple[int, int] | tuple[None, None]:
    if model is None:
        return None, None
    per_parameter = STATE_BYTES + POINT_BYTES * len(levels[-1].outlook.points)
    state = per_parameter * sum(parameter.numel() for parameter in model.parameters())
    held = sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, Tensor))
    kept = {"none": 0, "ends": min(2, len(levels)), "all": len(levels)}[experiment.keep_weights]
    return 2 * len(experiment.seeds) * state, len(experiment.seeds) * kept * held


def _levels_without_data(
    experiment: Experiment, model: nn.Module, steps: int | None, facts: Facts
) -> list[Foreseen]:
    """What the levels come to by the model, which is known before its data is there."""
    names = chosen_names(experiment, model)
    assert facts.task is not None
    check_fits(experiment, model, names, facts.task)
    shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
    total = sum(map(math.prod, shapes.values()))
    widths = Widths(experiment, facts.task)
    return foresee(experiment, steps, total, excluded_weights(model, names), shapes, widths)


def _counts(experiment: Experiment, dataset: Dataset | None, facts: Facts) -> Counts:
    if dataset is not None:
        targets = make_targets(experiment, experiment.seeds[0], dataset)
        split = targets.split
        train, validation, left = (int((split == part).sum()) for part in (TRAINING, VALIDATION, LEFT_OUT))
        lacking = lacking_classes(targets.used, split == TRAINING, dataset.task.classes)
        return Counts(train, validation, left, len(dataset.test), lacking)
    if facts.train is None:
        return Counts()
    if experiment.examples.entry.needs != ("size",):
        # Which are left out is known where the data is.
        return Counts(test=facts.test)
    amount = experiment.validation
    validation = round(amount * facts.train) if isinstance(amount, float) else amount
    left_out = facts.train - int(experiment.examples(facts.train).sum())
    if validation and left_out:
        # How many of those left out are in the validation split depends on the data.
        return Counts(None, validation, left_out, facts.test)
    return Counts(facts.train - validation - left_out, validation, left_out, facts.test)


def _seen(counts: Counts, experiment: Experiment) -> int:
    """Examples that an epoch takes steps of."""
    return (counts.train or 0) + ((counts.left_out or 0) if experiment.equal_steps else 0)


def _seconds(
    experiment: Experiment,
    levels: Sequence[Foreseen],
    facts: Facts,
    steps: int,
    settings: Settings,
    reuse: Sequence[Reused],
) -> tuple[float, float]:
    """Seconds of all seeds' levels that are left, and of those that are reused."""
    assert facts.task is not None
    cost = measure_cost(experiment, facts.task, settings.device)
    seeds = len(experiment.seeds)
    # A level whose state alone is kept is looked at again.
    counts = [one for one in reuse if not one.source.startswith("state ")]
    stored = [level for one in counts for level in levels[one.first : one.last + 1]]

    def evaluated(those: Sequence[Foreseen]) -> float:
        events = sum(1 for foreseen in those if foreseen.level.event)
        return len(those) * ((facts.train or 0) + (facts.test or 0)) + events * (facts.test or 0)

    epochs, saved = (levels[-1].outlook.spent if levels else 0.0), sum(one.epochs for one in reuse)
    looks, seen = seeds * evaluated(levels), evaluated(stored)
    # An observer may look at the test set at each epoch's end.
    epoch = steps * cost.step + is_curved(experiment) * (facts.test or 0) * cost.evaluated_image
    whole, less = (
        seeds * epochs * epoch + looks * cost.evaluated_image,
        saved * epoch + seen * cost.evaluated_image,
    )
    return max(0.0, whole - less), less


def _reused(run: Prepared, settings: Settings, earlier: Sequence[Prepared]) -> tuple[Reused, ...]:
    """What no seed of a run needs to do, since it is stored or an earlier run of the plan makes it."""
    found: list[Reused] = []
    dense = dense_state(run, settings) if earlier else ""
    shared = [
        (max(common(run, other), int(dense == dense_state(other, settings))), other) for other in earlier
    ]
    ends = [0.0, *(foreseen.outlook.spent for foreseen in run.foreseen)]
    for seed in run.experiment.seeds:
        stored = reused(run, seed, settings)
        have = sum(one.levels for one in stored)
        with_seed = [pair for pair in shared if seed in pair[1].experiment.seeds]
        levels, other = max(with_seed, key=lambda pair: pair[0], default=(0, run))
        if min(levels, run.limit) > have:
            source = f"{other.point.label}, which comes before"
            epochs = ends[levels] - ends[have]
            stored.append(Reused(seed, have, levels - 1, source, epochs))
        found += stored
    return tuple(found)
