"""Reads every run below a folder with all that reads runs, and writes down what they gave and what they touched.

A process of its own, for an audit hook cannot be taken back: `python hostile_readers.py FOLDER RESULTS [READER…]`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.errors import PrunecliError
from prunecli.store.apart import Limits, read_apart
from prunecli.store.inspection import problems, standing
from prunecli.store.reading import read_run
from prunecli.store.values import StoredRun

BEGIN = "/the-reading-begins"
"""A path that nobody has: looked for where the reading begins, so that a trace shows the moment."""
_HARMLESS = (
    "object.",
    "import",
    "compile",
    "exec",
    "code.",
    "marshal.",
    "builtins.",
    "cpython.",
    "gc.",
    "sys.",
    "fcntl.",
    "os.fork",
)
_HARMLESS += ("os.listdir", "os.scandir", "glob.", "pathlib.", "array.", "pickle.", "shutil.get", "os.kill", "os.putenv", "os.unsetenv", "signal.", "tempfile.", "winreg.", "ctypes.", "mmap.", "resource.", "time.", "threading.", "_thread.")  # fmt: skip


READERS: dict[str, Callable[[Path], Any]] = {
    "read_run": lambda path: facts_of(read_run(path)),
    "standing": lambda path: list(standing(path).damage),
    "problems": problems,
}
COMMANDS = ("compare", "status", "check")


def main(folder: Path, results: Path, names: Sequence[str]) -> None:
    paths = sorted(folder.glob("case-*"), key=lambda path: int(path.name.removeprefix("case-")))
    # What is imported on the way is imported now.
    _read_all([folder / "honest"], names)
    _listen(results.with_suffix(".touched"))
    os.path.exists(BEGIN)  # noqa: PTH110  (a system call and no more)
    found = _read_all(paths, names)
    results.write_text(json.dumps(found))


def _listen(log: Path) -> None:
    """Write down all that Python opens, changes, connects to and starts, here and in what is forked."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith(_HARMLESS):
            what = json.dumps([event, *map(str, arguments[:3])])
            os.write(descriptor, (what + "\n").encode("utf-8", "backslashreplace"))

    sys.addaudithook(hook)


def _read_all(paths: list[Path], names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        if name in COMMANDS:
            stores = [path / "store.h5" for path in paths if (path / "store.h5").exists()]
            given = stores if name == "check" else paths
            done = CliRunner().invoke(app, [name, *map(str, given)])
            found[name] = {"status": done.exit_code, "output": done.stdout, "messages": done.stderr}
        else:
            read = read_apart(paths, READERS[name], Limits(2**30, seconds=1))
            found[name] = {path.name: _told(one) for path, one in zip(paths, read, strict=True)}
    return found


def facts_of(run: StoredRun) -> dict[str, Any]:
    """What tables are made of, as JSON gives it back."""
    metrics = {name: values.tolist() for name, values in sorted(run.metrics.items())}
    whole = {"seeds": run.seeds, "metrics": metrics, "kept": run.kept.tolist(), "layers": run.layers}
    return json.loads(
        json.dumps({**whole, "density": run.density.tolist(), "units": sorted(run.units.items())})
    )


def _told(found: Any) -> dict[str, Any]:
    if isinstance(found, PrunecliError):
        return {"error": str(found), "kind": type(found).__name__}
    return {"gave": found}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or [*READERS, *COMMANDS])
