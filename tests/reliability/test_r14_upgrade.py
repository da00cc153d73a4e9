"""R14: what every released prunecli stored is read by today's, with the numbers that were in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scale import SHORT, Figures, Scale

from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.inspection import problems, standing
from prunecli.store.reading import read_run
from prunecli.store.values import Measured

NAME = "R14 upgrade"
RELEASED = Path(__file__).parent / "stores"
"""A folder for each released format, with runs as that release left them, and what they held in expected.json."""


def check(scale: Scale, folder: Path) -> Figures:
    """Every stored run of every format, read, inspected and decoded from a copy, which stays as it is."""
    del scale  # Few and small: all are read at every scale.
    runs = levels = 0
    for release in sorted(RELEASED.iterdir()):
        expected = json.loads((release / "expected.json").read_text(encoding="utf-8"))
        for name, numbers in expected.items():
            copy = folder / release.name / name
            shutil.copytree(release / name, copy)
            _check_run(copy, numbers)
            assert {path.name for path in copy.iterdir()} == {
                path.name for path in (release / name).iterdir()
            }
            runs += 1
            levels += len(numbers["levels"])
    return {"formats": len(list(RELEASED.iterdir())), "runs read": runs, "levels read": levels}


def test_what_was_released_is_read_for_ever(tmp_path: Path) -> None:
    assert check(SHORT, tmp_path)["runs read"] == 2


def _check_run(path: Path, expected: Mapping[str, Any]) -> None:
    run = read_run(path)
    found = {
        "status": run.status,
        "digest": run.digest,
        "seeds": list(run.seeds),
        "density": run.density.tolist(),
        "spent": run.spent.tolist(),
        "total": run.total,
        "units": {**expected["units"], **run.units},
        "metrics": {
            name: [[None if np.isnan(value) else value for value in row] for row in values.tolist()]
            for name, values in run.metrics.items()
        },
        "levels": [_level(one) for one in _decoded(path, run.digest)],
    }
    for name, numbers in expected.items():
        assert found[name] == numbers, f"{path}: {name}"
    for one in found["levels"]:
        kept = run.kept[run.seeds.index(one["seed"]), one["level"]]
        assert dict(zip(run.layers, kept.tolist(), strict=True)) == one["kept"]
    assert problems(path) == []
    assert standing(path).status == run.status


def _decoded(path: Path, digest: str) -> Iterator[Measured]:
    folder = RunFolder(path, digest)
    yield from folder.stored()
    for part in sorted(path.glob("parts/*/*.h5")):
        yield codec.decode_level(part.read_bytes(), str(part))


def _level(one: Measured) -> dict[str, Any]:
    return {
        "seed": one.seed,
        "level": one.level,
        "density": one.density,
        "spent": one.spent,
        "kept": {name: int(mask.sum()) for name, mask in one.masks.items()},
        "masks": {name: hashlib.sha256(mask.tobytes()).hexdigest() for name, mask in one.masks.items()},
        "arrays": {
            place: f"{array.dtype} {list(array.shape)} {_sha256(array)}"
            for place, array in one.arrays.items()
        },
    }


def _sha256(array: np.ndarray[Any, Any]) -> str:
    text = array.dtype == object
    return hashlib.sha256("\n".join(array).encode() if text else array.tobytes()).hexdigest()
