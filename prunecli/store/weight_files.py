"""Where a run keeps weights, and whether what lies there is sound; without torch.

`weights/seed-0-level-00.safetensors` has a model's state dict and is sealed as levels are: see `sealing`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import MOST_OF_A_STATE, read_record, read_sealed, record_path

FOLDER = "weights"
KIND = "weights"
WEIGHTS_VERSION = 1
_NAME = re.compile(r"seed-(0|[1-9][0-9]{0,9})-level-([0-9]{2,6})\.safetensors")
_LENGTH = 8
"""Bytes that tell the length of a safetensors header."""


def weights_path(run: RunFolder, seed: int, level: int) -> Path:
    """Where the weights at a level's end are kept.

    Raises:
        DamagedRun: the folder is a link to another place.
    """
    folder = run.path / FOLDER
    if folder.is_symlink():
        raise DamagedRun(f"{folder}: a symbolic link, which is not followed; move it away")
    return folder / f"seed-{seed}-level-{level:02d}.safetensors"


def facts_of(run: RunFolder, seed: int, level: int) -> dict[str, Any]:  # Any: what JSON holds
    """What weights and their record say that they are of."""
    return {"recipe_digest": run.digest, "seed": seed, "level": level}


def metadata_of(run: RunFolder, seed: int, level: int) -> dict[str, str]:
    """What a file of weights notes of itself, as safetensors has it."""
    said = {"type": KIND, "version": WEIGHTS_VERSION, **facts_of(run, seed, level)}
    # One entry: safetensors writes several in any order, and equal runs are to give equal bytes.
    return {"prunecli": json.dumps(said, sort_keys=True)}


def read_weights_file(run: RunFolder, seed: int, level: int) -> bytes | None:
    """The bytes that are kept of a level's weights, checked against their record; None where none are kept.

    Raises:
        DamagedRun: they are not what the record says, or of another run, seed or level.
        NewerFormat: a newer prunecli made them.
    """
    path = weights_path(run, seed, level)
    found = read_record(path)
    if found is None:
        return None
    expected = facts_of(run, seed, level)
    if any(found[0].get(name) != value for name, value in expected.items()):
        raise DamagedRun(f"{record_path(path)}: belongs to another run, seed or level")
    data = read_sealed(path, found[0], MOST_OF_A_STATE)
    _check_header(data, expected, str(path))
    return data


def weight_problems(run: RunFolder, stored: Collection[int]) -> Iterator[str]:
    """What is wrong with the weights that a run keeps; `stored` are the seeds whose levels are all sealed."""
    folder = run.path / FOLDER
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        yield f"{folder}: not a folder of the run's own"
        return
    names = {path.name.removesuffix(".json") for path in folder.iterdir()}
    for name in sorted(names):
        if (match := _NAME.fullmatch(name)) is None:
            continue
        seed, level = int(match[1]), int(match[2])
        try:
            data = read_weights_file(run, seed, level)
            if data is not None:
                deserialize(data)  # type: ignore[no-untyped-call]  # safetensors leaves it untyped
            elif seed in stored:
                yield f"{folder / name}: has no record beside it, so nothing vouches for its content"
        except NewerFormat:
            raise
        except DamagedRun as error:
            yield str(error)
        except SafetensorError as error:
            yield f"{folder / name}: not weights ({error})"


def _check_header(data: bytes, expected: Mapping[str, Any], where: str) -> None:  # Any: what JSON holds
    try:
        header = json.loads(data[_LENGTH : _LENGTH + int.from_bytes(data[:_LENGTH], "little")])
        said = json.loads(header["__metadata__"]["prunecli"])
        version = said["version"]
        fits = all(said[name] == value for name, value in {"type": KIND, **expected}.items())
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRun(f"{where}: not weights that prunecli kept ({error or 'too deep'})") from error
    if type(version) is int and version > WEIGHTS_VERSION:
        raise NewerFormat(
            f"{where}: made by a newer prunecli (version {version}; this reads up to {WEIGHTS_VERSION}); "
            "upgrade prunecli"
        )
    if version != WEIGHTS_VERSION or not fits:
        raise DamagedRun(f"{where}: by its own words the weights of another run, seed or level")
