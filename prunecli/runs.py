"""Runs before they are carried out: their datasets, folders, digests, and the files that describe them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

import prunecli
from prunecli.building import TRAINING, settled
from prunecli.datasets.values import Augment, Dataset, checked
from prunecli.errors import DamagedRun, EnvironmentMissing, NewerFormat, UsageError
from prunecli.experiment import Experiment, digest
from prunecli.fitting import cautions, check_examples, check_fits, check_problem
from prunecli.lab import Lab, make_lab
from prunecli.models.parameters import check_batches, excluded_weights
from prunecli.places import Roots
from prunecli.procedure import Foreseen, dense_end, foresee
from prunecli.recipe.load import Point, Recipe
from prunecli.recipe.writing import dump
from prunecli.registry import Choice
from prunecli.store.codec import FORMAT_VERSION, MAX_PRUNED_AT
from prunecli.store.folder import RunFolder
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import replace, set_aside
from prunecli.store.values import Header
from prunecli.trajectories import prefixes
from prunecli.widths import Widths

EXAMPLE_BYTES, STATE_BYTES, POINT_BYTES = 24, 13, 4
"""What a level takes for an example; what a state takes for a parameter with two optimizer slots, and for one of a
saved point."""
PACKAGES = ("torch", "torchvision", "timm", "numpy", "h5py")


@dataclass(frozen=True)
class Settings:
    """Where and how runs are carried out: nothing of it changes a result of equal machines."""

    runs: Path = Path("runs")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    roots: Roots = field(default_factory=Roots)
    dense_only: bool = False
    workers: int | None = None
    """How many seeds are carried out side by side; None is as many as `workers` chooses."""
    checkpoint: float = 300.0
    """Seconds between two states that are kept inside a level; 0 keeps one after each step."""
    patience: tuple[float, ...] = (60.0, 120.0, 240.0)
    """Seconds to wait before a write is tried again when the disk is full."""


@dataclass(frozen=True)
class Prepared:
    """A point of a recipe with its dataset, its folder, and what its levels come to."""

    point: Point
    dataset: Dataset
    folder: RunFolder
    foreseen: tuple[Foreseen, ...]
    limit: int
    """How many of its levels this call carries out."""
    level_bytes: int = 0
    """What a seed's level takes on the disk, before compression."""
    state_bytes: int = 0
    """What a seed's state takes."""
    steps_per_epoch: int = 0
    examples: int = 0
    """How many it trains on."""

    @cached_property
    def prefixes(self) -> list[str]:
        """Names of its levels by all that leads to their ends: those that another run has are its own."""
        return prefixes(self.experiment, self.dataset.fingerprint)

    @property
    def room(self) -> int:
        """Bytes that a seed needs on the disk to go on: three levels, two kept states, two resume slots."""
        return 3 * self.level_bytes + 4 * self.state_bytes

    @property
    def experiment(self) -> Experiment:
        """The point's experiment."""
        return self.point.experiment


def prepare(recipe: Recipe, settings: Settings) -> list[Prepared]:
    """Everything that can go wrong before training: the procedure, the dataset, the model.

    Raises:
        RecipeError: stages that cannot be carried out.
        EnvironmentMissing: the dataset is not on this machine.
        UsageError: labels, splits or patterns do not fit the dataset or the model.
    """
    for point in recipe.points:
        foresee(point.experiment)
    datasets: dict[str, Dataset] = {}
    prepared = [prepare_point(point, settings, datasets) for point in recipe.points]
    check_distinct(prepared)
    return prepared


def check_distinct(prepared: Sequence[Prepared]) -> None:
    """Raises UsageError where two points are one run, once it is settled what the recipe leaves to us."""
    seen: dict[str, str] = {}
    for run in prepared:
        if (other := seen.setdefault(run.folder.digest, run.point.label)) != run.point.label:
            raise UsageError(f"two points of the sweep give one experiment: {other} and {run.point.label}")


def prepare_point(point: Point, settings: Settings, datasets: dict[str, Dataset] | None = None) -> Prepared:
    """A point of a recipe, checked; see `prepare`. `datasets` are those read so far, by their recipe form."""
    datasets = {} if datasets is None else datasets
    name = json.dumps(point.experiment.data.plain(), sort_keys=True)
    if name not in datasets:
        datasets[name] = load_dataset(point.experiment.data, settings)
    dataset = datasets[name]
    point = dataclasses.replace(point, experiment=settled(point.experiment, dataset.task, settings.device))
    lab = fitting_lab(point.experiment, dataset)
    levels = levels_of(lab)
    folder = folder_of(point, dataset.fingerprint, settings.runs)
    limit = dense_end(point.experiment.procedure) if settings.dense_only else len(levels)
    sizes = _sizes(lab, levels)
    count = int((lab.targets.split == TRAINING).sum())
    return Prepared(point, dataset, folder, tuple(levels), limit, *sizes, lab.steps_per_epoch, count)


def levels_of(lab: Lab) -> list[Foreseen]:
    """What the levels of the lab's experiment come to, in whole steps and weights."""
    excluded = excluded_weights(lab.model, lab.names)
    shapes = {name: tuple(lab.model.get_parameter(name).shape) for name in lab.names}
    widths = Widths(lab.experiment, lab.dataset.task)
    return foresee(lab.experiment, lab.steps_per_epoch, lab.initial().masks.total, excluded, shapes, widths)


def fitting_lab(experiment: Experiment, dataset: Dataset) -> Lab:
    """The lab of an experiment's first seed, on the CPU, once it is sure that it can be carried out.

    Raises:
        RecipeError, UsageError: it cannot be, and why.
    """
    lab = make_lab(experiment, experiment.seeds[0], dataset, torch.device("cpu"))
    check_fits(experiment, lab.model, lab.names, dataset.task)
    count = int((lab.targets.split == TRAINING).sum())
    check_batches(experiment, lab.model, count)
    check_examples(experiment, {"train": count, "test": len(dataset.test)})
    check_problem(experiment, lab.model, lab.dataset.problem)
    first = lab.dataset.train.images.batches(
        [torch.arange(1)], Augment(tuple(experiment.augmentation)), lab.device
    )
    made = tuple(next(iter(first)).shape[1:])
    if made != dataset.task.shape:
        raise UsageError(
            f"the augmentations make images of shape {made}; the data's are {dataset.task.shape}"
        )
    return lab


def _sizes(lab: Lab, levels: Sequence[Foreseen]) -> tuple[int, int]:
    """Bytes of a level and of a state."""
    state = lab.initial()
    parameters = sum(tensor.numel() for tensor in state.weights.values())
    points = max(len(foreseen.outlook.points) for foreseen in levels)
    examples = len(lab.dataset.train) + len(lab.dataset.test)
    level = state.masks.total // 8 + EXAMPLE_BYTES * examples
    return level, parameters * (STATE_BYTES + POINT_BYTES * points)


def load_dataset(choice: Choice, settings: Settings) -> Dataset:
    """The dataset, its images on the device where they fit there."""
    dataset = checked(choice.name, choice(settings.roots))
    return dataset.to(settings.device)


def run_digest(experiment: Experiment, fingerprint: str) -> str:
    """Names a run by everything that can change its results."""
    plain = experiment.plain(results_only=True)
    return digest({"format": FORMAT_VERSION, "recipe": plain, "fingerprint": fingerprint})


def folder_of(point: Point, fingerprint: str, runs: Path) -> RunFolder:
    """The run's folder: the one with its digest, whatever its label; else a new one's name."""
    name = run_digest(point.experiment, fingerprint)
    for path in sorted(runs.glob(f"*-{name[:8]}")):
        if (path / "run.json").exists() and _digest_in(path, name) == name:
            return RunFolder(path, name)
    return RunFolder(runs / f"{point.label}-{name[:8]}", name)


def _digest_in(path: Path, name: str) -> str:
    """The digest that a run's folder is of; where its `run.json` is damaged, the one that its name is short for."""
    try:
        return str(read_run_json(path).get("recipe_digest"))
    except NewerFormat:
        raise
    except DamagedRun:
        return name


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device.

    Raises:
        EnvironmentMissing: there is no such device.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    numbers = [str(n) for n in range(available)]
    if kind == "cuda" and available and (not number or number in numbers):
        return torch.device(name)
    known = ["auto", "cpu", *(f"cuda:{n}" for n in numbers)]
    raise EnvironmentMissing(f"there is no device '{name}' here; known: {', '.join(known)}")


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    return dict(_versions())


@cache
def _versions() -> Mapping[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"prunecli": prunecli.__version__, "python": platform.python_version(), **found}


def header_of(run: Prepared) -> Header:
    """What the run's store says of itself: no time, host, path or original text, so equal runs give equal bytes."""
    experiment = run.experiment
    stages = [stage for foreseen in run.foreseen for stage in foreseen.level.stages]
    restores = any(stage.entry.traits.get("restores") for stage in stages)
    plain = experiment.plain(results_only=True)
    return Header(
        digest=run.folder.digest,
        title=f"{experiment.model.name} on {experiment.data.name}",
        encoding="packbits" if restores or len(run.foreseen) > MAX_PRUNED_AT else "pruned_at",
        provenance={
            "recipe": json.dumps(plain, sort_keys=True, indent=1),
            "versions": json.dumps(versions(), sort_keys=True),
            "dataset_fingerprint": run.dataset.fingerprint,
        },
    )


def write_run_files(
    run: Prepared, recipe: Recipe, settings: Settings, failures: Mapping[int, str], seeds: Sequence[int]
) -> list[str]:
    """Write `run.json` and `recipe.yaml`, with the seeds that the run has or is to have; gives what to say of it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path = run.folder.path
    before, said = _run_before(run)
    conditions = conditions_of(run.experiment, settings)
    how = {**conditions, "source": recipe.source, "overrides": list(recipe.overrides)}
    resumes = before.get("resumes", [])
    if before and not failures:
        differs = _differences(before, conditions)
        resumes = [*resumes, {"when": now, **how, "differs": differs}]
        if differs:
            said.append(
                f"{path}: goes on under other conditions than it began with ({'; '.join(differs)}): its numbers may "
                f"differ in their last digits from those of an undisturbed run"
            )
    first = {name: before.get(name, value) for name, value in {**how, "original": recipe.text}.items()}
    run.folder.write_run(
        {
            "recipe_digest": run.folder.digest,
            "dataset_fingerprint": run.dataset.fingerprint,
            "label": run.point.label,
            "recipe": {**run.experiment.plain(), "seeds": list(seeds)},
            "levels": len(run.foreseen),
            "prefixes": run.prefixes,
            "excluded": run.foreseen[0].outlook.excluded,
            "tests": len(run.dataset.test),
            "spent": [foreseen.outlook.spent for foreseen in run.foreseen],
            "host": platform.node(),
            "process": os.getpid(),
            **first,
            "started": before.get("started", now),
            "resumes": resumes,
            "failures": {str(seed): why for seed, why in failures.items()},
        }
    )
    said += _kept_labels(run.experiment.labels, settings.runs)
    said += cautions(run.foreseen, run.foreseen[0].outlook.total or 0, run.examples)
    resolved = dataclasses.replace(run.experiment, seeds=list(seeds))
    replace(path / "recipe.yaml", dump(resolved).encode())
    return said


def _kept_labels(choice: Choice, runs: Path) -> list[str]:
    """Keep what the labels are read from, where they are read from a file; gives what to say of it."""
    keep: Callable[[Choice, Path], list[str]] | None = choice.entry.traits.get("keep")
    return keep(choice, runs) if keep else []


def conditions_of(experiment: Experiment, settings: Settings) -> dict[str, Any]:  # Any: JSON
    """What equal bytes need to be equal, beside the recipe: versions, device, instruction set, threads."""
    device = (
        torch.cuda.get_device_name(settings.device)
        if settings.device.type == "cuda"
        else platform.processor()
    )
    return {
        "versions": versions(),
        "device": f"{settings.device.type} {device}".strip(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": experiment.threads,
        "determinism": experiment.determinism,
    }


def _run_before(run: Prepared) -> tuple[dict[str, Any], list[str]]:  # Any: JSON
    """What `run.json` says, and what to say where it is damaged: it is then moved to the quarantine."""
    path = run.folder.path / "run.json"
    if not os.path.lexists(path):
        return {}, []
    try:
        return read_run_json(run.folder.path), []
    except NewerFormat:
        raise
    except DamagedRun as error:
        return {}, [f"{error}; moved to quarantine: {set_aside(path, run.folder.quarantine)}"]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:  # Any: JSON
    """Where the conditions of now are not those that a run began under."""
    was, became = (
        {**side, **side["versions"]} if isinstance(side.get("versions"), dict) else dict(side)
        for side in (before, now)
    )
    names = [name for name in (*now["versions"], *now) if name != "versions"]
    return [
        f"{name} {was[name]}, now {became[name]}"
        for name in names
        if name in was and was[name] != became[name]
    ]
