"""`run.json`, read as a stranger's: typed and bounded, or a DamagedRun."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.store.sealing import read_file
from prunecli.store.values import MOST_LEVELS, MOST_SEEDS

RUN_VERSION = 1
MOST = 16 * 2**20
DEEPEST = 64
LONGEST_FAILURE = 65_536


def read_run_json(path: Path) -> dict[str, Any]:  # Any: what JSON holds
    """A run folder's `run.json`; what it lacks but for the digest has its empty value.

    Raises:
        DamagedRun: it is missing, or not what we write.
        NewerFormat: a newer prunecli wrote it.
    """
    where = path / "run.json"
    if not os.path.lexists(where):
        raise DamagedRun(f"{path}: not a run: it has no run.json")
    content = _parsed(where)
    if not isinstance(content, dict) or content.get("schema") != "prunecli/run":
        raise DamagedRun(f"{where}: not a prunecli run")
    version = content.get("version")
    if type(version) is not int:
        raise DamagedRun(f"{where}: not a prunecli run (it has no version)")
    if version > RUN_VERSION:
        raise NewerFormat(
            f"{where}: made by a newer prunecli (version {version}; this reads up to {RUN_VERSION}); "
            "upgrade prunecli"
        )
    content = {
        "label": "",
        "levels": 0,
        "excluded": 0,
        "tests": 0,
        "spent": [],
        "failures": {},
        "recipe": {},
        "resumes": [],
        "prefixes": [],
        **content,
    }
    for name, (fits, what) in _FIELDS.items():
        if not fits(content.get(name)):
            found = json.dumps(content.get(name), default=str)[:80]
            raise DamagedRun(f"{where}: damaged: {name} is {found}; it should be {what}")
    return content


def check_folders(path: Path) -> None:
    """Refuse a run whose folders are links: what they lead to is not the run's.

    Raises:
        DamagedRun: one of them is.
    """
    parts = path / "parts"
    inside = sorted(parts.glob("seed-*")) if parts.is_dir() and not parts.is_symlink() else []
    for folder in (parts, path / "quarantine", path / "weights", *inside):
        if folder.is_symlink():
            raise DamagedRun(f"{folder}: damaged: a symbolic link; a run's folders are its own")


def part_seeds(path: Path) -> list[int]:
    """The seeds that have a folder of parts."""
    names = [folder.name.removeprefix("seed-") for folder in (path / "parts").glob("seed-*")]
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,9}", name))


def _parsed(where: Path) -> Any:  # Any: what JSON holds
    def refused(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        content = json.loads(read_file(where, MOST), parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise DamagedRun(f"{where}: cannot be read ({error or 'too deep'})") from error
    if _deeper(content, DEEPEST):
        raise DamagedRun(f"{where}: cannot be read (more than {DEEPEST} levels deep)")
    return content


def _deeper(value: Any, depth: int) -> bool:  # Any: what JSON holds
    """Whether lists and mappings are nested deeper than this."""
    layer = [value]
    for _ in range(depth):
        nested = [
            one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list))
        ]
        layer = [item for items in nested for item in items]
    return any(isinstance(one, (dict, list)) for one in layer)


def is_digest(value: object) -> bool:
    """Whether a value is a SHA-256 in hexadecimal, as we write it."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _are_digests(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST_LEVELS and all(map(is_digest, value))


def _is_label(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z0-9._-]{0,255}", value) is not None


def _is_clock(value: object) -> bool:
    """A list of finite numbers that do not fall: a stage may train without spending epochs."""
    if not isinstance(value, list) or len(value) > MOST_LEVELS:
        return False
    numbers = all(type(one) in (int, float) and 0 <= one < 1e12 and math.isfinite(one) for one in value)
    return numbers and all(earlier <= later for earlier, later in pairwise(value))


def _are_failures(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_SEEDS
        and all(re.fullmatch("[0-9]{1,10}", seed) for seed in value)
        and all(isinstance(why, str) and len(why) <= LONGEST_FAILURE for why in value.values())
    )


def _is_recipe(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    seeds, procedure = value.get("seeds", []), value.get("procedure", [])
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    return whole and len(seeds) == len(set(seeds)) <= MOST_SEEDS and isinstance(procedure, list)


_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "recipe_digest": (is_digest, "64 hexadecimal digits"),
    "label": (_is_label, "at most 255 letters, digits, dots, dashes and underscores"),
    "levels": (
        lambda value: type(value) is int and 0 <= value <= MOST_LEVELS,
        f"a number from 0 to {MOST_LEVELS:,}",
    ),
    "excluded": (lambda value: type(value) is int and 0 <= value < 2**53, "a number of weights"),
    "tests": (lambda value: type(value) is int and 0 <= value < 2**53, "a number of examples"),
    "spent": (_is_clock, "numbers of epochs that rise"),
    "failures": (_are_failures, "seeds, each with the reason in words"),
    "resumes": (lambda value: isinstance(value, list), "a list"),
    "prefixes": (_are_digests, "a row of 64 hexadecimal digits for each level"),
    "recipe": (_is_recipe, "a recipe, whose seeds are distinct whole numbers"),
}
