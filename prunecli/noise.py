"""The noisy labels that a recipe draws, one draw a seed, as label stores and in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunecli.building import VALIDATION, make_targets
from prunecli.datasets.values import Dataset
from prunecli.errors import StorageError, UsageError
from prunecli.experiment import Experiment
from prunecli.plan_told import described
from prunecli.recipe.load import Point, Recipe
from prunecli.runs import Settings, load_dataset
from prunecli.store.labels import FOLDER, LabelStore, decode_labels, encode_labels, seal_labels
from prunecli.store.sealing import sha256

Counts = NDArray[np.int64]
DRAWN_BY = ("data", "validation", "labels")
"""The recipe's keys that a draw depends on, beside the seed."""


@dataclass(frozen=True)
class Drawn:
    """A point's draws: the store, its bytes, and which examples are outside the validation split (N,)."""

    point: Point
    store: LabelStore
    data: bytes
    changeable: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """The file's name for people: the point's, and what its content's SHA-256 begins with."""
        return f"{self.point.label}-{sha256(self.data)[:8]}.h5"

    @property
    def changed(self) -> Counts:
        """How many labels each seed's draw changed (S,)."""
        return np.asarray(self.store.noisy.sum(axis=1))

    @property
    def examples(self) -> int:
        """How many examples noise could change: those outside the validation split."""
        return int(self.changeable.sum())

    def transitions(self, row: int | None = None) -> Counts:
        """Which labels the examples outside validation have, of one of the seeds or of all together.

        Rows (K, 3): a true class, a label used, and how many have both; only what occurs, in order.
        """
        classes, clean = self.store.classes, self.store.clean[self.changeable]
        used = self.store.used if row is None else self.store.used[row]
        pairs, counts = np.unique(clean * classes + used[..., self.changeable], return_counts=True)
        return np.stack([pairs // classes, pairs % classes, counts], axis=1)


def draw(recipe: Recipe, settings: Settings) -> list[Drawn]:
    """The labels of each point of a recipe, for each of its seeds; nothing is written.

    Raises:
        UsageError: the recipe draws no labels, or they do not fit the dataset.
        EnvironmentMissing: the dataset is not on this machine.
    """
    for point in recipe.points:
        _check_draws(point.experiment)
    datasets: dict[str, Dataset] = {}
    drawn = []
    for point in recipe.points:
        choice = point.experiment.data
        name = json.dumps(choice.plain(), sort_keys=True)
        if name not in datasets:
            datasets[name] = load_dataset(choice, settings)
        drawn.append(_drawn(point, datasets[name]))
    return drawn


def keep(drawn: Sequence[Drawn], output: Path | None, runs: Path) -> list[Path]:
    """Seal the stores; gives their files, in order.

    Without an `output` they are in `runs/.labels`, named for people as runs are; an `output` is a file for one
    store, and a folder for those of a sweep.

    Raises:
        UsageError: a file of another content is there, or several stores would be one file.
        StorageError: they cannot be written.
    """
    is_file = output is not None and (output.suffix in (".h5", ".hdf5") or output.is_file())
    if is_file and len(drawn) > 1:
        raise UsageError(
            f"--output {output}: a sweep of {len(drawn)} points gives as many label stores; give a folder"
        )
    folder = output or runs / FOLDER
    one_file = output is not None and len(drawn) == 1 and not output.is_dir()
    paths = [output] if one_file and output is not None else [folder / one.name for one in drawn]
    for path, one in zip(paths, drawn, strict=True):
        seal_labels(path, one.data, one.store)
    return paths


def as_json(one: Drawn, path: Path) -> dict[str, Any]:  # Any: what JSON holds
    """A label store in numbers; counts are of the examples outside the validation split."""
    return {
        "path": str(path),
        "sha256": sha256(one.data),
        "label": one.point.label,
        "labels": one.point.experiment.labels.plain(results_only=True),
        "dataset_fingerprint": one.store.fingerprint,
        "classes": one.store.classes,
        "examples": len(one.store.clean),
        "validation": len(one.store.clean) - one.examples,
        "seeds": [_seed_as_json(one, row) for row in range(len(one.store.seeds))],
    }


def changes(transitions: Counts) -> Counts:
    """The transitions (K, 3) to another label, the largest first, then by class."""
    found = transitions[transitions[:, 0] != transitions[:, 1]]
    return np.asarray(found[np.argsort(-found[:, 2], kind="stable")])


def per_class(transitions: Counts, classes: int) -> Counts:
    """How many examples each class has, and how many of them have another label (C, 2)."""
    found = np.zeros((classes, 2), dtype=np.int64)
    np.add.at(found[:, 0], transitions[:, 0], transitions[:, 2])
    moved = changes(transitions)
    np.add.at(found[:, 1], moved[:, 0], moved[:, 2])
    return found


def _seed_as_json(one: Drawn, row: int) -> dict[str, Any]:  # Any: what JSON holds
    transitions, changed = one.transitions(row), int(one.changed[row])
    classes = per_class(transitions, one.store.classes).tolist()
    return {
        "seed": one.store.seeds[row],
        "changed": changed,
        "fraction": changed / one.examples,
        "per_class": [
            {"class": number, "examples": examples, "changed": moved}
            for number, (examples, moved) in enumerate(classes)
        ],
        "transitions": [
            {"from": true, "to": used, "examples": count}
            for true, used, count in changes(transitions).tolist()
        ],
    }


def _check_draws(experiment: Experiment) -> None:
    choice = experiment.labels
    if not choice.entry.traits.get("draws", True):
        why = "are the source's" if choice.name == "clean" else "are those of a store already"
        raise UsageError(
            f"labels '{choice.name}' {why}: there is nothing to draw; choose a noise, such as "
            "'labels={uniform: {fraction: 0.3}}'"
        )


def _drawn(point: Point, dataset: Dataset) -> Drawn:
    experiment = point.experiment
    seeds = tuple(sorted(experiment.seeds))
    targets = [make_targets(experiment, seed, dataset) for seed in seeds]
    form = experiment.plain(results_only=True)
    store = LabelStore(
        seeds,
        dataset.train.labels.numpy().astype(np.int64),
        np.stack([one.used.numpy() for one in targets]).astype(np.int64),
        dataset.task.classes,
        dataset.fingerprint,
        f"labels of {experiment.data.name}, {described(experiment.labels)}"[:1000],
        json.dumps({name: form[name] for name in DRAWN_BY}, sort_keys=True, indent=1),
    )
    data = encode_labels(store)
    back = decode_labels(data, "the label store")
    if not (np.array_equal(back.used, store.used) and np.array_equal(back.clean, store.clean)):
        raise StorageError("the label store would not read back as it was made; nothing is written")
    return Drawn(point, store, data, (targets[0].split != VALIDATION).numpy())
