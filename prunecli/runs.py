"""Runs before they are carried out: their datasets, folders, digests, and the files that describe them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import prunecli
from prunecli.datasets.values import Augment, Dataset, Roots, Split
from prunecli.errors import EnvironmentMissing, UsageError
from prunecli.experiment import Experiment, digest
from prunecli.lab import make_lab
from prunecli.procedure import Foreseen, check_fits, dense_end, foresee
from prunecli.recipe.load import Point, Recipe, dump
from prunecli.registry import Choice
from prunecli.store.codec import FORMAT_VERSION, MAX_PRUNED_AT
from prunecli.store.folder import RunFolder, read_run_json
from prunecli.store.sealing import replace
from prunecli.store.values import Header

PACKAGES = ("torch", "torchvision", "timm", "numpy", "h5py")


@dataclass(frozen=True)
class Settings:
    """Where and how runs are carried out: nothing of it changes a result of equal machines."""

    runs: Path = Path("runs")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    roots: Roots = field(default_factory=Roots)
    dense_only: bool = False
    workers: int = 1


@dataclass(frozen=True)
class Prepared:
    """A point of a recipe with its dataset, its folder, and what its levels come to."""

    point: Point
    dataset: Dataset
    folder: RunFolder
    foreseen: tuple[Foreseen, ...]
    limit: int
    """How many of its levels this call carries out."""

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
    return [prepare_point(point, settings, datasets) for point in recipe.points]


def prepare_point(point: Point, settings: Settings, datasets: dict[str, Dataset] | None = None) -> Prepared:
    """A point of a recipe, checked; see `prepare`. `datasets` are those read so far, by their recipe form."""
    datasets = {} if datasets is None else datasets
    name = json.dumps(point.experiment.data.plain(), sort_keys=True)
    if name not in datasets:
        datasets[name] = load_dataset(point.experiment.data, settings)
    dataset = datasets[name]
    levels = fitting_levels(point.experiment, dataset)
    folder = folder_of(point, dataset.fingerprint, settings.runs)
    limit = dense_end(point.experiment.procedure) if settings.dense_only else len(levels)
    return Prepared(point, dataset, folder, tuple(levels), limit)


def fitting_levels(experiment: Experiment, dataset: Dataset) -> list[Foreseen]:
    """The levels of an experiment that can be carried out on a dataset.

    Raises:
        RecipeError, UsageError: it cannot be, and why.
    """
    lab = make_lab(experiment, experiment.seeds[0], dataset, torch.device("cpu"))
    check_fits(experiment, lab.model, lab.names)
    first = lab.dataset.train.images.batches(
        [torch.arange(1)], Augment(tuple(experiment.augmentation)), lab.device
    )
    made = tuple(next(iter(first)).shape[1:])
    if made != dataset.task.shape:
        raise UsageError(
            f"the augmentations make images of shape {made}; the data's are {dataset.task.shape}"
        )
    return foresee(experiment, lab.steps_per_epoch, lab.initial().masks.total)


def load_dataset(choice: Choice, settings: Settings) -> Dataset:
    """The dataset, its images on the device where they fit there."""
    dataset: Dataset = choice(settings.roots)
    train, test = (
        Split(part.images.to(settings.device), part.labels) for part in (dataset.train, dataset.test)
    )
    return Dataset(dataset.task, train, test, dataset.fingerprint)


def run_digest(experiment: Experiment, fingerprint: str) -> str:
    """Names a run by everything that can change its results."""
    plain = experiment.plain(results_only=True)
    return digest({"format": FORMAT_VERSION, "recipe": plain, "fingerprint": fingerprint})


def folder_of(point: Point, fingerprint: str, runs: Path) -> RunFolder:
    """The run's folder: the one with its digest, whatever its label; else a new one's name."""
    name = run_digest(point.experiment, fingerprint)
    for path in sorted(runs.glob(f"*-{name[:8]}")):
        if (path / "run.json").exists() and read_run_json(path).get("recipe_digest") == name:
            return RunFolder(path, name)
    return RunFolder(runs / f"{point.label}-{name[:8]}", name)


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
) -> None:
    """Write `run.json` and `recipe.yaml`, with the seeds that the run has or is to have."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path = run.folder.path
    before: dict[str, Any] = read_run_json(path) if (path / "run.json").exists() else {}  # Any: JSON
    how = {"versions": versions(), "source": recipe.source, "overrides": list(recipe.overrides)}
    resumes = before.get("resumes", [])
    if before and not failures:
        resumes = [*resumes, {"when": now, **how}]
    first = {name: before.get(name, value) for name, value in {**how, "original": recipe.text}.items()}
    plain = {**run.experiment.plain(), "seeds": list(seeds)}
    device = (
        torch.cuda.get_device_name(settings.device)
        if settings.device.type == "cuda"
        else platform.processor()
    )
    run.folder.write_run(
        {
            "recipe_digest": run.folder.digest,
            "label": run.point.label,
            "recipe": plain,
            "levels": len(run.foreseen),
            "spent": [foreseen.outlook.spent for foreseen in run.foreseen],
            "device": f"{settings.device.type} {device}".strip(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": run.experiment.threads,
            "host": platform.node(),
            "process": os.getpid(),
            **first,
            "started": before.get("started", now),
            "resumes": resumes,
            "failures": {str(seed): why for seed, why in failures.items()},
        }
    )
    resolved = dataclasses.replace(run.experiment, seeds=list(seeds))
    replace(path / "recipe.yaml", dump(resolved).encode())
