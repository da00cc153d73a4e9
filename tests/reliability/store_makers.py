"""Small runs made by hand, whole and sealed as `prune` seals them, for the checks of those who read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import record_of, record_path
from prunecli.store.values import Header, Measured

HEADER = Header("d" * 64, "a title", "pruned_at", {"recipe": "{}", "versions": "{}"})
SEEDS, LEVELS = (0, 1), 3


def measured(seed: int, level: int, examples: int = 50) -> Measured:
    """A level as training would leave it, drawn at random."""
    draw = np.random.default_rng([seed, level])
    masks = {
        "fc.weight": np.arange(600).reshape(20, 30) >= level * 100,
        "head.weight": np.arange(10) >= level,
    }
    kept = np.array([int(mask.sum()) for mask in masks.values()])
    arrays = {
        "metrics/test_error": np.asarray(100 * draw.random()),
        "metrics/train_loss": np.asarray(draw.random()),
        "examples/loss": draw.random(examples, dtype=np.float32),
        "examples/correct": draw.integers(0, 2, examples).astype(np.uint8),
        "examples/label": np.arange(examples) % 10,
        "examples/clean_label": np.arange(examples) % 10,
        "examples/noisy": np.zeros(examples, np.uint8),
        "examples/split": np.zeros(examples, np.uint8),
        "test/label": np.arange(7) % 10,
        "test/loss": draw.random(7, dtype=np.float32),
        "test/correct": draw.integers(0, 2, 7).astype(np.uint8),
        "layers/name": np.array(list(masks), dtype=object),
        "layers/total": np.array([600, 10]),
        "layers/kept": kept,
        "observations/hessian/eigenvalues": draw.random(3),
    }
    return Measured(seed, level, int(kept.sum()) / 610, float(level + 1), arrays, masks)


def table(seeds: Sequence[int] = SEEDS, levels: int = LEVELS, examples: int = 50) -> list[Measured]:
    """All levels of all seeds."""
    return [measured(seed, level, examples) for seed in seeds for level in range(levels)]


def run_json(levels: int = LEVELS, digest: str = HEADER.digest, **more: Any) -> dict[str, Any]:  # Any: JSON
    """What `run.json` says of such a run."""
    recipe = {"model": "lenet_300_100", "data": "digits", "procedure": ["train"], "seeds": list(SEEDS)}
    spent = [float(level + 1) for level in range(levels)]
    return {
        "recipe_digest": digest,
        "label": "run",
        "recipe": recipe,
        "levels": levels,
        "spent": spent,
        "failures": {},
    } | more


def make_run(path: Path) -> RunFolder:
    """A run's folder with its `run.json` and nothing sealed yet."""
    path.mkdir(parents=True)
    content = {"schema": "prunecli/run", "version": 1, **run_json()}
    (path / "run.json").write_text(json.dumps(content))
    return RunFolder(path, HEADER.digest)


@cache
def store_bytes() -> bytes:
    """The store of such a run."""
    return codec.encode_store(table(), HEADER)


def make_complete(path: Path) -> RunFolder:
    """A run that is complete."""
    folder = make_run(path)
    put_store(folder, store_bytes())
    return folder


def make_parts(path: Path) -> RunFolder:
    """A run whose levels are sealed, and not merged."""
    folder = make_run(path)
    for seed in SEEDS:
        tip = ""
        for level in range(LEVELS):
            tip = folder.seal_level(measured(seed, level), HEADER, tip)
    return folder


def put_store(folder: RunFolder, data: bytes, seeds: Sequence[int] = SEEDS) -> None:
    """Put a store in place, with a record that vouches for it: what an author of a whole folder can do."""
    folder.store.write_bytes(data)
    facts: Mapping[str, Any] = {"recipe_digest": folder.digest, "seeds": list(seeds), "tips": {}}  # Any: JSON
    record_path(folder.store).write_bytes(record_of(data, facts))


def put_first_part(folder: RunFolder, data: bytes) -> None:
    """Put a part in place as the first seed's only level, with a record that vouches for it."""
    path = folder.part(SEEDS[0], 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    facts = {"recipe_digest": folder.digest, "seed": SEEDS[0], "level": 0, "previous": ""}
    record_path(path).write_bytes(record_of(data, facts))


def edit_json(path: Path, **changes: Any) -> None:  # Any: JSON
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
