"""Runs that a recipe refers to: by their folder, by their name, or by their digest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from prunecli.errors import DamagedRun, EnvironmentMissing, UsageError, suggest
from prunecli.places import Places
from prunecli.store.naming import DIGEST
from prunecli.store.run_file import read_run_json


def find_run(run: str, digest: str | None, places: Places) -> tuple[Path, str]:
    """A run's folder and its digest: where the path leads, or in the folder of runs, by name, label or digest.

    Raises:
        UsageError: a label fits several runs, or a path leads out of the folders that a recipe may read.
        EnvironmentMissing: there is no such run.
        DamagedRun: what is there is no run.
    """
    found = _named(run, places) if digest is None else _of_digest(run, digest, places)
    if found is None:
        known = sorted({re.sub(DIGEST + "$", "", path.name) for path in _folders(places.runs)})
        wanted = f"'{run}'" if digest is None else f"'{run}' (digest {digest[:8]}…)"
        raise EnvironmentMissing(
            f"there is no run {wanted} in {places.runs}{suggest(run, known)}; carry out its recipe first, or name the "
            "folder that it is in with --runs"
        )
    return found, str(read_run_json(found)["recipe_digest"])


def _named(run: str, places: Places) -> Path | None:
    here = [path for path in _folders(places.runs) if path.name == run]
    labelled = [path for path in _folders(places.runs) if re.fullmatch(re.escape(run) + DIGEST, path.name)]
    if len(labelled) > 1 and not here:
        names = ", ".join(sorted(path.name for path in labelled))
        raise UsageError(f"'{run}' is the label of several runs: {names}; name one of them")
    inside = [*here, *labelled]
    return inside[0] if inside else _at(run, places)


def _of_digest(run: str, digest: str, places: Places) -> Path | None:
    """The run of this digest, wherever the path that once led to it leads now."""
    at = [path for path in [_at(run, places)] if path is not None] if _may_lead(run, places) else []
    candidates = [*at, *places.runs.glob(f"*-{digest[:8]}")]
    return next((path for path in candidates if _digest_in(path) == digest), None)


def _at(run: str, places: Places) -> Path | None:
    paths = places.roots.paths(run)
    return next((Path(os.path.realpath(path)) for path in paths if _is_run(path)), None)


def _may_lead(run: str, places: Places) -> bool:
    try:
        return bool(places.roots.paths(run))
    except UsageError:
        return False


def _folders(runs: Path) -> Iterator[Path]:
    return (path for path in runs.glob("[!.]*") if _is_run(path))


def _is_run(path: Path) -> bool:
    # Path.is_file raises where a recipe's name is longer than a file's may be.
    return os.path.isfile(path / "run.json")  # noqa: PTH113


def _digest_in(path: Path) -> str | None:
    try:
        return str(read_run_json(path)["recipe_digest"])
    except DamagedRun:
        return None
