"""The mutants of the code, each without one protection; and a process that tries checks on copies of the package.

As a program it reads jobs, `[copy's folder, check]` in JSON, from a file and prints what became of each. It has
loaded everything but prunecli, so that a copy can be imported and tried in a fork within a second or two.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SIDE_BY_SIDE = 2
HEAVY = ("torch", "torchvision.models", "timm", "h5py", "sklearn.datasets", "scipy.stats", "pydantic", "yaml")
"""What the package imports and takes seconds."""


@dataclass(frozen=True)
class Mutant:
    """What is taken out of the package: files with texts, each found exactly once; and the check that must notice."""

    name: str
    check: str
    changes: tuple[tuple[str, str, str], ...]


def mutant(name: str, file: str, check: str, *texts: str) -> Mutant:
    """A mutant of one file; `texts` are the old and the new ones by turns."""
    return Mutant(name, check, tuple((file, *pair) for pair in zip(texts[::2], texts[1::2], strict=True)))


SEALING, FOLDER, STATES = "store/sealing.py", "store/folder.py", "store/states.py"
ZEROS = "{name: tensor * 0 for name, tensor in %s.items()}"
MUTANTS = (
    mutant(
        "a file is not synced before it gets its name",
        SEALING,
        "crash_points",
        "view[os.write(descriptor, view) :]\n            os.fsync(descriptor)\n",
        "view[os.write(descriptor, view) :]\n",
    ),
    mutant(
        "a folder is not synced after a file got its name",
        SEALING,
        "crash_points",
        "    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)\n",
        "    del folder\n",
    ),
    mutant(
        "a new folder's parent is not synced",
        SEALING,
        "crash_points",
        "                os.mkdir(folder)  # noqa: PTH102\n            sync_folder(folder.parent)\n",
        "                os.mkdir(folder)\n",
    ),
    mutant(
        "a sealed file can be replaced",
        SEALING,
        "sealed_once",
        "            os.link(temporary, path)\n",
        "            os.replace(temporary, path)\n",
        "        os.unlink(temporary)  # noqa: PTH108  (see the module)\n",
        "",
    ),
    mutant(
        "a temporary file may be there already",
        SEALING,
        "temporary_is_new",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL |",
        "os.O_WRONLY | os.O_CREAT |",
    ),
    mutant(
        "parts are not checked against their records",
        SEALING,
        "damage_is_found",
        '    if size != record.get("size") or hashed.hexdigest() != record.get("sha256"):\n',
        "    if not record:\n",
    ),
    mutant(
        "the store is not checked against its record",
        FOLDER,
        "damage_is_found",
        "                if vouches(facts, data):\n",
        "                if facts:\n",
    ),
    mutant(
        "a part left without a record stops the next start",
        SEALING,
        "goes_on_after_kills",
        "            if read_file(path) != data:\n                raise\n",
        "            raise\n",
    ),
    mutant(
        "what a killed process left half-written stays",
        FOLDER,
        "goes_on_after_kills",
        '            for path in folder.glob(".tmp-*"):\n',
        "            for path in ():\n",
    ),
    mutant(
        "a level may follow any other",
        FOLDER,
        "chain_is_checked",
        '"previous": chain.tip, "seed": seed}',
        '"seed": seed}',
    ),
    mutant(
        "a level may be of another recipe",
        FOLDER,
        "digest_is_checked",
        '{"recipe_digest": self.digest, "previous": chain.tip',
        '{"previous": chain.tip',
    ),
    mutant(
        "the store is not compared with the parts",
        FOLDER,
        "store_is_verified",
        "        if not same(",
        "        if False and not same(",
    ),
    Mutant(
        # It is done twice, by the merge and before the parts are dropped.
        "the store is not read back",
        "written_store_is_read_back",
        (
            (FOLDER, "        if read_file(self.store) != data:\n", "        if not data:\n"),
            ("engine.py", "    folder.settle()\n    moved = ", "    moved = "),
        ),
    ),
    mutant(
        "the store's record names one file only while it is replaced",
        FOLDER,
        "crash_points",
        '{**facts, "replaces": old}',
        "facts",
    ),
    mutant(
        "gradients of dropped weights are not zeroed",
        "training.py",
        "dropped_stay_dropped",
        "    if alive:\n",
        "    if False:\n",
    ),
    *(
        mutant(f"resuming forgets {what}", STATES, "resumed_inside_levels", old, new)
        for what, old, new in (
            ("momentum", '("optimizer", state.optimizer)', f'("optimizer", {ZEROS % "state.optimizer"})'),
            ("buffers", '("buffers", state.buffers)', f'("buffers", {ZEROS % "state.buffers"})'),
            (
                "masks",
                '("masks", state.masks)',
                '("masks", {n: mask | True for n, mask in state.masks.items()})',
            ),
            ("the step clock", '"step": state.step,', '"step": 0,'),
            ("the spent clock", '"spent": state.spent,', '"spent": 0,'),
            ("saved weights", '/weights", point.weights)', f'/weights", {ZEROS % "point.weights"})'),
            ("saved buffers", '/buffers", point.buffers)', f'/buffers", {ZEROS % "point.buffers"})'),
            ("saved clocks", "{name: point.step for", "{name: 0 for"),
            ("outcomes before pruning", 'clocks["around"] = sorted(around)', 'clocks["around"] = []'),
            ("how far a training was", '"steps": midway.steps}', '"steps": 0}'),
        )
    ),
)


def serve(jobs: Sequence[tuple[str, str]], folder: Path) -> list[str]:
    """Try each check on its copy: `green`, `red …`, or `broken …` where the copy does not work at all."""
    for name in HEAVY:
        importlib.import_module(name)
    outcomes: dict[int, str] = {}
    running: dict[int, int] = {}
    for number, (copy, check) in enumerate(jobs):
        place = folder / f"job-{number}"
        place.mkdir()
        pid = os.fork()
        if not pid:
            _try(copy, check, place)
        running[pid] = number
        if len(running) == SIDE_BY_SIDE:
            _reap(running, outcomes, folder)
    while running:
        _reap(running, outcomes, folder)
    return [outcomes[number] for number in range(len(jobs))]


def _try(copy: str, check: str, place: Path) -> None:
    outcome = "broken: nothing was tried"
    try:
        sys.path[:0] = [copy, str(HERE)]
        checks = importlib.import_module("quick_checks")
        errors = importlib.import_module("prunecli.errors")
        assert Path(str(errors.__file__)).is_relative_to(copy), errors.__file__
        try:
            getattr(checks, check)(place)
            outcome = "green"
        except (AssertionError, errors.PrunecliError) as error:
            outcome = f"red: {type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  (nothing may leave the fork)
        outcome = f"broken: {traceback.format_exc()}"
    finally:
        (place / "outcome").write_text(outcome)
        os._exit(0)


def _reap(running: dict[int, int], outcomes: dict[int, str], folder: Path) -> None:
    pid, _ = os.wait()
    number = running.pop(pid)
    path = folder / f"job-{number}" / "outcome"
    outcomes[number] = path.read_text() if path.exists() else "broken: died"


if __name__ == "__main__":
    print(json.dumps(serve(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
