"""The folders of runs that a command line names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prunecli.cli import output
from prunecli.errors import UsageError, shown
from prunecli.store.naming import DIGEST

_RUN_FILES = ("recipe.yaml", "run.json", "store.h5", "parts")


def paths_of(texts: Sequence[str], root: Path) -> list[Path]:
    """The folders of the runs that a command line names; all of `root` where it names none."""
    if not texts:
        every = sorted(path for path in root.glob("*") if is_run(path)) if root.is_dir() else []
        if not every:
            raise UsageError(f"{root}: no runs there; name some, or set --runs")
        return every
    paths = [path_of(text, root) for text in texts]
    runs = [path for path in paths if is_run(path) or not path.exists()]
    if any(map(is_run, runs)):
        for path in paths:
            if path not in runs:
                output.say(shown(f"{path}: not a run's folder, left out"))
        paths = runs
    return list({path.resolve(): path for path in paths}.values())


def path_of(text: str, root: Path) -> Path:
    """The folder that a path, or a run's name or the unique beginning of one, stands for."""
    path = Path(text).parent if Path(text).name == "store.h5" else Path(text)
    if path.exists() or not root.is_dir():
        return path
    runs = {run.name: run for run in root.iterdir()}
    for what, names in meant(text, list(runs)).items():
        if len(names) > 1:
            raise UsageError(f"'{text}' {what} several runs: {', '.join(sorted(names))}")
        return runs[names[0]]
    return path


def meant(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The names of runs that a text may mean: a name, else a label, else the beginning of names; by how it fits."""
    fits = {
        "names": [name for name in names if name == text],
        "is the label of": [name for name in names if re.fullmatch(re.escape(text) + DIGEST, name)],
        "begins": [name for name in names if name.startswith(text)],
    }
    return next(({what: found} for what, found in fits.items() if found), {})


def is_run(path: Path) -> bool:
    """Whether this is a run's folder, whole or not."""
    return path.is_dir() and any((path / name).exists() for name in _RUN_FILES)
