"""What a lab is made of: the model, the labels and splits, the prunable parameters, the manner of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from prunecli.datasets.values import Dataset
from prunecli.errors import Mistake, UsageError, suggest
from prunecli.experiment import Experiment
from prunecli.labels import check_labels
from prunecli.memory_formats import FORMATS, laid_out, quickest
from prunecli.models.parameters import prunable_names
from prunecli.randomness import key
from prunecli.registry import Choice
from prunecli.selections import validation_split
from prunecli.task import Task
from prunecli.training import Manner, seed_, seed_python_

TRAINING, VALIDATION, LEFT_OUT = 0, 1, 2


@dataclass(frozen=True)
class Targets:
    """The training set's labels as used (N,), the source's, which were changed, and each example's split."""

    used: Tensor
    clean: Tensor
    split: Tensor

    @property
    def noisy(self) -> Tensor:
        """Whether a label was changed (N,)."""
        return self.used != self.clean


def settled(experiment: Experiment, task: Task, device: torch.device) -> Experiment:
    """The experiment with memory format and precision chosen where the recipe leaves them to us.

    Networks with 2-d convolutions train in bfloat16 on a GPU, everything else in float32; for the memory format see
    `memory_formats.quickest`. What is chosen becomes a part of the recipe, and so of the run's name.
    """
    if "auto" not in (experiment.precision, experiment.memory_format):
        return experiment
    model = build(
        replace(experiment, precision="float32", memory_format="contiguous"), task, 0, torch.device("cpu")
    )
    memory_format = quickest(model, task, device)
    if experiment.memory_format == "auto":
        experiment = replace(experiment, memory_format=memory_format)
    if experiment.precision == "auto":
        low = device.type == "cuda" and memory_format != "contiguous"
        experiment = replace(experiment, precision="bfloat16" if low else "float32")
    return experiment


def manner_of(experiment: Experiment) -> Manner:
    """How an experiment takes its steps."""
    return Manner(
        experiment.label_smoothing,
        experiment.gradient_clipping,
        torch.bfloat16 if experiment.precision == "bfloat16" else None,
        FORMATS[experiment.memory_format],
        bool(experiment.own_code),
    )


def criteria_of(experiment: Experiment) -> list[Choice]:
    """The criteria that the recipe's stages choose."""
    chosen = (inner for stage in experiment.procedure for inner in stage.named())
    return [choice for choice in chosen if choice.kind == "criteria"]


def drops_filters(experiment: Experiment) -> bool:
    """Whether a stage chooses whole filters."""
    return any(choice.entry.traits.get("filters") for choice in criteria_of(experiment))


def asks_for_firing(experiment: Experiment) -> bool:
    """Whether a criterion asks for running means of activations."""
    return any("activations" in choice.entry.needs for choice in criteria_of(experiment))


def along(experiment: Experiment) -> list[Choice]:
    """The observers that look at each epoch's end."""
    return [choice for choice in experiment.observe if choice.entry.traits.get("along")]


def ends_early(experiment: Experiment) -> bool:
    """Whether a training ends at a loss, so that what was seen of an epoch has to be known whatever comes between."""
    chosen = (inner for stage in experiment.procedure for inner in stage.named())
    return any(stage.options.get("until_loss") is not None for stage in chosen)


def is_curved(experiment: Experiment) -> bool:
    """Whether an observer asks for what each epoch's end makes of examples that are not trained on."""
    inside = (inner for stage in experiment.procedure for inner in stage.named() if inner.kind == "observers")
    return any(choice.entry.traits.get("curved") for choice in (*experiment.observe, *inside))


def make_targets(experiment: Experiment, seed: int, dataset: Dataset) -> Targets:
    """Labels and splits: validation first, then noise outside it, then what is left out (see the contract).

    Raises:
        UsageError: the labels do not fit the dataset, or change those of validation examples; or no example is
            left to train on.
        EnvironmentMissing, DamagedRun: the file that the labels are in is missing, or not what it has to be.
    """
    clean = dataset.train.labels
    validation = validation_split(clean, experiment.validation, key("validation", dataset.fingerprint))
    used = _labels(experiment, seed, dataset, ~validation)
    chosen = _chosen(experiment, seed, dataset, used, validation)
    split = torch.where(chosen, TRAINING, LEFT_OUT).to(torch.uint8)
    split[validation] = VALIDATION
    if not bool((split == TRAINING).any()):
        raise UsageError("no training example is left: 'validation' and 'examples' take all of them")
    return Targets(used, clean, split)


def _chosen(experiment: Experiment, seed: int, dataset: Dataset, used: Tensor, validation: Tensor) -> Tensor:
    """Which examples (N,) the recipe's choice trains on, but for those of the validation split."""
    choice = experiment.examples
    evidence = {
        "size": len(used),
        "labels": used,
        "changeable": ~validation,
        "seed": seed,
        "key": key("examples", seed, dataset.fingerprint),
        "fingerprint": dataset.fingerprint,
        "found": choice.found,
    }
    chosen: Tensor = choice(*(evidence[name] for name in choice.entry.needs))
    return chosen


def _labels(experiment: Experiment, seed: int, dataset: Dataset, changeable: Tensor) -> Tensor:
    """The labels (N,) that the recipe's choice makes of what it asks for by its positional parameters."""
    choice, clean = experiment.labels, dataset.train.labels
    if dataset.task.is_regression:
        if choice.name != "clean":
            message = f"labels '{choice.name}' changes classes, and those of data '{experiment.data.name}' are numbers"
            raise UsageError(str(Mistake(choice.place, message)))
        return clean.clone()
    evidence = {
        "labels": clean,
        "changeable": changeable,
        "classes": dataset.task.classes,
        "key": key("labels", seed, dataset.fingerprint),
        "seed": seed,
        "seeds": tuple(experiment.seeds),
        "fingerprint": dataset.fingerprint,
        "found": choice.found,
    }
    where = f"labels '{choice.name}'"
    try:
        for name in choice.entry.needs:
            if name not in evidence:
                raise UsageError(f"asks for '{name}'{suggest(name, evidence)}")
        used: Tensor = choice(*(evidence[name] for name in choice.entry.needs))
        check_labels(used, dataset.task.classes, where, count=len(clean))
        changed = int((used != clean)[~changeable].sum())
        if changed:
            raise UsageError(
                f"{changed:,} of {int((~changeable).sum()):,} validation examples have other labels than the "
                "source's, and validation keeps clean labels; draw them outside it, with this 'validation'"
            )
    except UsageError as error:
        message = str(error).removeprefix(f"{where}: ")
        raise UsageError(str(Mistake(choice.place, f"{where}: {message}"))) from error
    return used


def build(experiment: Experiment, task: Task, key: int, device: torch.device) -> nn.Module:
    """The experiment's model, initialized by the key, on the device.

    Raises:
        UsageError: the model does not turn such images into such logits.
    """
    with torch.random.fork_rng(devices=[]):
        seed_(torch.device("cpu"), key)
        if experiment.own_code:
            seed_python_(key)
        model: nn.Module = experiment.model(task)
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"{experiment.model.name} returned {type(model).__qualname__}, not a torch.nn.Module"
            )
        experiment.initialization(model)
        _check_shapes(experiment.model.name, model, task)
        return laid_out(model, experiment.memory_format, task, device)


@torch.no_grad()
def _check_shapes(name: str, model: nn.Module, task: Task) -> None:
    training = model.training
    try:
        logits = model.eval()(torch.zeros(2, *task.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"model '{name}' does not take images of {_by(task.shape)}: {first}") from error
    finally:
        model.train(training)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, task.classes):
        raise UsageError(
            f"model '{name}' gives {found} for two images; it should give (2, {task.classes}) logits"
        )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def chosen_names(experiment: Experiment, model: nn.Module) -> tuple[str, ...]:
    """The prunable parameters, in the model's order."""
    parameters = dict(model.named_parameters())
    include, exclude = experiment.prunable.include, experiment.prunable.exclude
    names: Sequence[str] = prunable_names(model)
    if include:
        names = [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in include)]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise UsageError(f"the pattern '{pattern}' matches no parameter{suggest(pattern, parameters)}")
    return tuple(name for name in names if not any(fnmatchcase(name, pattern) for pattern in exclude))
