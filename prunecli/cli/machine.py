"""`prunecli status`, `check` and `doctor`: how runs stand, whether stores are sound, what this machine has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.errors import DamagedRun, EnvironmentMissing, PrunecliError, UsageError

if TYPE_CHECKING:
    from prunecli.store.inspection import Standing

RunFolders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RUN", help="Run folders; by default all in --runs.", show_default=False),
]


def status(
    folders: RunFolders = None,
    runs: output.Runs = Path("runs"),
    states: Annotated[bool, typer.Option("--states", help="List the stored states to go on from.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="With --states: delete them.")] = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Show how runs stand: sealed levels, time left, failures."""
    del verbose
    if prune and not states:
        raise UsageError("--prune deletes the stored states that --states lists: give both")
    if states:
        _states(runs, prune=prune, json=json)
        return
    from prunecli.report import shown
    from prunecli.store.inspection import standing

    found, errors = [], []
    for path in folders or run_folders(runs):
        try:
            found.append(standing(path))
        except PrunecliError as error:
            errors.append(error)
    if json:
        _print_ascii([_standing_row(one) for one in found])
    else:
        for one in found:
            print("\n".join(map(shown, _standing_lines(one))))
    if errors:
        raise type(errors[0])("\n".join(shown(str(error)) for error in errors))


def check(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE", help="Run folders or store.h5 files.")],
    verbose: output.Verbose = False,
) -> None:
    """Check stores: records, hashes, format, and that masks, counts and numbers agree."""
    del verbose
    from prunecli.report import shown
    from prunecli.store.apart import read_apart
    from prunecli.store.inspection import check_file, problems

    for path in stores:
        if not path.exists():
            raise UsageError(f"{shown(str(path))}: no such store")
    wrong: list[str] = []
    checked = read_apart(stores, lambda path: problems(path) if path.is_dir() else check_file(path))
    for path, found in zip(stores, checked, strict=True):
        if isinstance(found, PrunecliError) and not isinstance(found, DamagedRun):
            raise type(found)(shown(str(found)))
        damage = [str(found)] if isinstance(found, DamagedRun) else found
        print(f"{shown(str(path))}: {'damaged' if damage else 'sound'}")
        wrong += damage
    if wrong:
        raise DamagedRun("\n".join(map(shown, wrong)))


def doctor(
    runs: output.Runs = Path("runs"),
    data_root: output.DataRoot = None,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Show versions, whether torch and torchvision fit each other, devices, data roots and disk space."""
    del verbose
    rows, wrong = _examined(runs, data_root)
    if json:
        output.print_json({**dict(rows), "problems": wrong})
    else:
        width = max(len(name) for name, _ in rows)
        for name, what in rows:
            print(f"{name:<{width}}  {what}")
    if wrong:
        raise EnvironmentMissing("\n".join(wrong))


def run_folders(runs: Path) -> list[Path]:
    """The runs in a folder.

    Raises:
        UsageError: there is no such folder, or no run in it.
    """
    found = sorted(path.parent for path in runs.glob("*/run.json"))
    if not found:
        raise UsageError(
            f"{runs}: {'holds no run yet' if runs.is_dir() else 'no such folder'}; `prunecli prune` makes one"
        )
    return found


def _states(runs: Path, *, prune: bool, json: bool) -> None:
    from prunecli.cli.recipes import size
    from prunecli.report import shown
    from prunecli.store.inspection import drop_states, stored_states

    found = stored_states(runs / ".states")
    if json:
        _print_ascii([{"path": str(s.path), "seed": s.seed, "bytes": s.size} for s in found])
    else:
        for state in found:
            print(f"{shown(str(state.path))}  {size(state.size)}")
    if prune:
        drop_states(found)
    total = size(sum(state.size for state in found))
    output.say(f"{len(found)} states, {total}" + (", deleted" if prune else "; --prune deletes them"))


def _print_ascii(value: object) -> None:
    """JSON in which a stranger's names are as they are for a program, and escaped for a terminal."""
    print(dumps(value, indent=1, allow_nan=False))


def _standing_lines(one: Standing) -> list[str]:
    from prunecli.cli.recipes import duration

    left = "" if one.seconds is None else f", about {duration(one.seconds)} left at its last pace"
    lines = [f"{one.path}: {one.status}{left}"]
    for seed in one.seeds:
        failure = f"; failed: {seed.failure}" if seed.failure else ""
        lines.append(f"  seed {seed.seed}: {seed.sealed} of {one.levels} levels sealed{failure}")
    return [*lines, *(f"  {damage}" for damage in one.damage)]


def _standing_row(one: Standing) -> dict[str, object]:
    return {
        "name": one.name,
        "path": str(one.path),
        "status": one.status,
        "levels": one.levels,
        "seeds": [{"seed": s.seed, "sealed": s.sealed, "failure": s.failure or None} for s in one.seeds],
        "seconds_left": one.seconds,
        "damage": list(one.damage),
    }


def _examined(runs: Path, data_root: str | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Rows of what was found, and what is wrong."""
    import h5py
    import torch

    from prunecli.cli.recipes import size
    from prunecli.places import roots
    from prunecli.runs import versions

    rows, wrong = list(versions().items()), _mismatch()
    rows.append(("torchvision fits torch", "no" if wrong else "yes"))
    rows.append(("HDF5", h5py.version.hdf5_version + _hdf5_warning(h5py.version.hdf5_version_tuple)))
    devices = [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    rows.append(
        (
            "devices",
            ", ".join([f"cpu ({os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()})", *devices]),
        )
    )
    for number, folder in enumerate(roots(data_root, False, os.environ).search(""), 1):
        inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
        rows.append(
            (
                f"data root {number}",
                f"{folder}: " + ("not there" if inside is None else ", ".join(inside) or "empty"),
            )
        )
    there = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.exists())
    rows.append(("disk", f"{size(shutil.disk_usage(there).free)} free for {runs}"))
    if not os.access(there, os.W_OK):
        wrong.append(f"{there}: cannot be written to")
    return rows, wrong


def _mismatch() -> list[str]:
    try:
        import torchvision.ops

        torchvision.ops.nms  # noqa: B018  (loading it is the test)
    except (ImportError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        return [
            f"torchvision does not load beside this torch ({first}); "
            "install the two together: pip install torch torchvision"
        ]
    return []


def _hdf5_warning(version: Sequence[int]) -> str:
    if tuple(version) >= (2, 2, 0):
        return ""
    return " (before 2.2.0 crafted files can crash it: open only stores that you trust)"
