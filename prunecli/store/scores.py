"""Score stores: `scores.h5`, written from scoring runs, and read back for tables without torch."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prunecli
from prunecli.errors import DamagedRun, NotComparable, PrunecliError, UsageError
from prunecli.store.apart import read_apart
from prunecli.store.decoding import opened
from prunecli.store.guard import Array, Guarded, h5py
from prunecli.store.layout import FORMAT_VERSION
from prunecli.store.run_file import is_digest
from prunecli.store.sealing import read_record, read_sealed
from prunecli.store.values import MOST_SEEDS, Floats, is_name

KIND = "scores"
LIMIT = 2**31
"""Bytes that a score store's arrays come to at most."""
MOST_RUNS = 100_000
RESERVED = frozenset({"seed", "example", "label", "clean_label", "split"})
RUNS_OF, STABILITY_OF, _AXIS = "_runs", "_stability", "_run"
_AVERAGES = ("mean", "median")
CLEAN = '"clean"'


@dataclass(frozen=True)
class Score:
    """One score of N examples under S label draws.

    `values` (S, N) are means (or medians: `average`) over R = `runs` scoring runs, NaN where a score is not defined for
    an example. `stability` (S,) is the Spearman correlation between the halves of the runs; NaN where there is one run.
    `epoch` is the one at which, or up to which, the runs were looked at.
    """

    values: Floats
    stability: Floats
    runs: int
    epoch: float
    average: str = "mean"


@dataclass(frozen=True)
class ScoreStore:
    """The scores of N training examples, under the label draws of S seeds.

    `labels` (S, N) are those that the scoring runs used, `clean` (N,) the source's, `split` (S, N) is 0 for training,
    1 for validation and 2 for examples that were left out. `recipe_digest` names how the runs were trained, and
    `scoring_digest` all that was asked. `inputs` is the recipe's, as JSON; `own_inputs` says whether seeds differ in
    their examples' inputs, so that a row serves its own seed alone.
    """

    seeds: tuple[int, ...]
    labels: NDArray[np.int64]
    clean: NDArray[np.int64]
    split: NDArray[np.uint8]
    scores: Mapping[str, Score]
    recipe_digest: str
    scoring_digest: str
    fingerprint: str
    title: str = ""
    inputs: str = CLEAN
    own_inputs: bool = False

    def row(self, seed: int, labels: NDArray[Any]) -> int:  # Any: integers
        """The row that serves a seed whose training used these labels (N,).

        Raises:
            NotComparable: none does: there is none of the seed, or its labels are of another draw.
        """
        if len(labels) != self.labels.shape[1]:
            raise NotComparable(
                f"the scores are of {self.labels.shape[1]:,} training examples; the run has {len(labels):,}"
            )
        clean = len(self.seeds) == 1 and np.array_equal(self.labels[0], self.clean)
        if seed not in self.seeds and (self.own_inputs or not clean):
            known, own = ", ".join(map(str, self.seeds)), "inputs" if self.own_inputs else "labels"
            raise NotComparable(
                f"there are no scores of seed {seed}, which has {own} of its own; known: {known}"
            )
        row = self.seeds.index(seed) if seed in self.seeds else 0
        if differing := int((self.labels[row] != labels).sum()):
            raise NotComparable(
                f"the scores of seed {seed} are of another label draw: {differing:,} of {len(labels):,} labels differ; "
                "score the recipe with the labels of the run"
            )
        return row


@dataclass(frozen=True)
class Provenance:
    """What a score store tells of how it was made, as text; and each score's options."""

    texts: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)


def read_scores(path: Path) -> ScoreStore:
    """A score store, as its record vouches for it; read in a process of its own, since a stranger may have made it.

    Raises:
        UsageError: there is nothing at the path.
        DamagedRun: it is no score store, has no record, or is not what its record says.
        NewerFormat: a newer prunecli made it.
    """
    if not os.path.lexists(path):
        raise UsageError(f"{path}: no such score store; `prunecli score RECIPE --output {path}` makes one")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the score store's file, such as scores.h5")
    (found,) = read_apart([path], read_scores_here)
    if isinstance(found, PrunecliError):
        raise found
    return found


def read_scores_here(path: Path) -> ScoreStore:
    """As `read_scores`, in this process."""
    return decode_scores(vouched(path)[0], str(path))


def is_score_store(record: Mapping[str, Any]) -> bool:  # Any: what JSON holds
    """Whether a record is that of a score store."""
    return "scoring_digest" in record


def vouched(path: Path) -> tuple[bytes, dict[str, Any]]:  # Any: what JSON holds
    """A score store's bytes, checked against its record, and the record."""
    found = read_record(path)
    if found is None:
        raise DamagedRun(f"{path}: has no record beside it, so nothing vouches for its content")
    return read_sealed(path, found[0]), found[0]


def encode_scores(store: ScoreStore, runs: Mapping[str, Array], provenance: Provenance) -> bytes:
    """The bytes of `scores.h5`: equal scores give equal bytes. `runs` has each score of every run, (S, R, N)."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        _describe(file, store)
        group = file.create_group("scores", track_order=True)
        signal = next(iter(store.scores))
        group.attrs.update({"prunecli_type": "scores", "prunecli_version": prunecli.__version__})
        group.attrs.update({"NX_class": "NXdata", "signal": signal, "axes": ["seed", "example"]})
        scales = {
            "seed": _scale(group, "seed", np.array(store.seeds, dtype=np.int64)),
            "example": _scale(group, "example", np.arange(store.labels.shape[1], dtype=np.int64)),
        }
        for name, score in store.scores.items():
            _write_score(group, name, score, runs[name], scales, provenance.options.get(name, "{}"))
        _write(group, "label", store.labels, (scales["seed"], scales["example"]))
        _write(group, "clean_label", store.clean, (scales["example"],))
        _write(group, "split", store.split, (scales["seed"], scales["example"]))
        texts = file.create_group("provenance", track_order=True)
        texts.attrs.update({"prunecli_type": "provenance", "prunecli_version": prunecli.__version__})
        for name, text in sorted(provenance.texts.items()):
            texts.create_dataset(name, data=text, dtype=h5py.string_dtype(), track_times=False)
    return buffer.getvalue()


def decode_scores(data: bytes, where: str) -> ScoreStore:
    """The score store of these bytes; the scores of single runs are not unpacked.

    Raises:
        DamagedRun: they are not those of a score store.
        NewerFormat: a newer prunecli made it.
    """
    with opened(data, KIND, where) as file:
        seeds, examples = _seeds(file), _extent(file, "scores/example")
        shape = (len(seeds), examples)
        inside = set(file.names("scores"))
        names = [name for name in file.names("scores") if f"{name}{RUNS_OF}" in inside]
        if not names:
            raise file.damaged("scores", "holds no score")
        digests = [
            file.attribute("", name) for name in ("recipe_digest", "scoring_digest", "dataset_fingerprint")
        ]
        if not all(map(is_digest, digests)):
            raise file.damaged("", "its digests are not 64 hexadecimal digits")
        return ScoreStore(
            seeds,
            file.array("scores/label", shape, "iu").astype(np.int64),
            file.array("scores/clean_label", shape[1:], "iu").astype(np.int64),
            file.array("scores/split", shape, "u").astype(np.uint8),
            {name: _score(file, name, shape) for name in names},
            digests[0],
            digests[1],
            digests[2],
            str(file.attribute("", "title") or ""),
            str(file.attribute("", "inputs") or CLEAN),
            bool(file.attribute("", "own_inputs")),
        )


def runs_of(data: bytes, name: str, where: str) -> Floats:
    """A score of every run, (S, R, N).

    Raises:
        DamagedRun: these are not the bytes of a score store with such a score.
    """
    with opened(data, KIND, where) as file:
        shape = (
            len(_seeds(file)),
            *file.shape(f"scores/{name}{RUNS_OF}")[1:2],
            _extent(file, "scores/example"),
        )
        return file.array(f"scores/{name}{RUNS_OF}", shape, "f")


def same(found: ScoreStore, store: ScoreStore) -> bool:
    """Whether two score stores hold the same."""
    arrays = [
        (one.labels, one.clean, one.split, *(a for s in one.scores.values() for a in (s.values, s.stability)))
        for one in (found, store)
    ]
    facts = [
        (one.seeds, one.recipe_digest, one.scoring_digest, one.fingerprint, *_said(one), *one.scores)
        for one in (found, store)
    ]
    told = [[(s.runs, s.epoch, s.average) for s in one.scores.values()] for one in (found, store)]
    return (
        facts[0] == facts[1]
        and told[0] == told[1]
        and all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*arrays, strict=True))
    )


def clashing(names: Sequence[str]) -> str:
    """The first of the names that is none in a store, or stands for two things there; empty where all are fine."""
    used = set(RESERVED)
    for name in names:
        own = {name, *(f"{name}{ending}" for ending in (RUNS_OF, STABILITY_OF, _AXIS))}
        if own & used or not is_name(name):
            return name
        used |= own
    return ""


def size_of(rows: int, examples: int, runs: Mapping[str, int]) -> int:
    """Bytes that a store of so many rows comes to, each score with so many runs."""
    return rows * examples * sum(8 * (count + 1) + 17 for count in (*runs.values(), 0))


def _said(store: ScoreStore) -> tuple[object, ...]:
    return store.title, store.inputs, store.own_inputs


def _describe(file: h5py.File, store: ScoreStore) -> None:
    file.attrs.update(
        {
            "prunecli_type": KIND,
            "format_version": FORMAT_VERSION,
            "prunecli_version": prunecli.__version__,
            "recipe_digest": store.recipe_digest,
            "scoring_digest": store.scoring_digest,
            "dataset_fingerprint": store.fingerprint,
            "epoch": max(score.epoch for score in store.scores.values()),
            "runs": max(score.runs for score in store.scores.values()),
            "Conventions": "CF-1.11 NeXus",
            "NX_class": "NXroot",
            "default": "scores",
            "title": store.title,
        }
    )
    # Stores of examples that seeds share stay as they were.
    if store.own_inputs:
        file.attrs.update({"inputs": store.inputs, "own_inputs": 1})


def _write_score(
    group: h5py.Group, name: str, score: Score, runs: Array, scales: Mapping[str, h5py.Dataset], options: str
) -> None:
    axis = _scale(group, f"{name}{_AXIS}", np.arange(score.runs, dtype=np.int64))
    seed, example = scales["seed"], scales["example"]
    mean = _write(group, name, score.values, (seed, example))
    facts = {"epoch": score.epoch, "runs": score.runs, "average": score.average, "options": options}
    mean.attrs.update(facts)
    _write(group, f"{name}{RUNS_OF}", runs, (seed, axis, example))
    _write(group, f"{name}{STABILITY_OF}", score.stability, (seed,))


def _scale(group: h5py.Group, name: str, values: Array) -> h5py.Dataset:
    scale = _write(group, name, values, ())
    scale.make_scale(name)
    return scale


def _write(group: h5py.Group, name: str, array: Array, scales: tuple[h5py.Dataset, ...]) -> h5py.Dataset:
    """Write an array with its scales; a long one compressed, a row a chunk."""
    options: dict[str, Any] = {"track_times": False}  # Any: h5py's keywords
    if array.nbytes > 4096:
        options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        options["chunks"] = (1,) * (array.ndim - 1) + (min(array.shape[-1], 262_144),)
    dataset = group.create_dataset(name, data=array, **options)
    dataset.attrs["long_name"] = name.replace("_", " ")
    for axis, scale in enumerate(scales):
        dataset.dims[axis].attach_scale(scale)
    return dataset


def _seeds(file: Guarded) -> tuple[int, ...]:
    count = _extent(file, "scores/seed")
    if not 0 < count <= MOST_SEEDS:
        raise file.damaged("scores/seed", f"{count:,} seeds; there can be 1 to {MOST_SEEDS:,}")
    seeds = tuple(file.array("scores/seed", (count,), "iu").tolist())
    if len(set(seeds)) < count or not all(0 <= seed < 2**31 for seed in seeds):
        raise file.damaged("scores/seed", f"{str(seeds)[:80]} are not distinct seeds")
    return seeds


def _extent(file: Guarded, place: str) -> int:
    shape = file.shape(place)
    if len(shape) != 1 or not shape[0]:
        raise file.damaged(place, f"its shape is {shape}; it can be a row")
    return shape[0]


def _score(file: Guarded, name: str, shape: tuple[int, int]) -> Score:
    place = f"scores/{name}"
    runs, epoch, average = (file.attribute(place, fact) for fact in ("runs", "epoch", "average"))
    if type(runs) is not int or not 0 < runs <= MOST_RUNS or average not in _AVERAGES:
        raise file.damaged(place, f"its runs and average are {str((runs, average))[:80]}")
    if type(epoch) is not float or epoch < 0 or not math.isfinite(epoch):
        raise file.damaged(place, f"its epoch is {str(epoch)[:80]}")
    if (found := file.shape(f"{place}{RUNS_OF}")) != (shape[0], runs, shape[1]):
        raise file.damaged(
            f"{place}{RUNS_OF}", f"its shape is {found}; {(shape[0], runs, shape[1])} fits the rest"
        )
    if name in RESERVED or not is_name(name):
        raise file.damaged(place, "no name of a score")
    values, stability = file.array(place, shape, "f"), file.array(f"{place}{STABILITY_OF}", shape[:1], "f")
    if np.isinf(values).any():
        raise file.damaged(place, "holds infinite scores")
    return Score(values.astype(np.float64), stability.astype(np.float64), runs, epoch, average)
