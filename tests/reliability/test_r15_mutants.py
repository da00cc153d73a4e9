"""R15: the checks notice when a protection is taken out of the code."""

from __future__ import annotations

import compileall
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant
from scale import SHORT, Figures, Scale
from small_run import environment

import prunecli

NAME = "R15 mutants"
PACKAGE = Path(prunecli.__file__).parent


def check(scale: Scale, folder: Path) -> Figures:
    """Try on each mutant the check that must notice, and each check on the code as it is."""
    checks = sorted({one.check for one in MUTANTS}, key=lambda name: name != "resumed_inside_levels")
    whole = folder / "whole"
    shutil.copytree(PACKAGE, whole / "prunecli")
    # Copies of what is compiled are compiled, but for the file that is changed.
    assert compileall.compile_dir(whole, quiet=1)
    jobs = [(str(whole), name) for name in checks]
    jobs += [(str(mutated(one, whole, folder / f"mutant-{n}")), one.check) for n, one in enumerate(MUTANTS)]
    outcomes = tried(jobs, folder / "jobs")
    for name, outcome in zip(checks, outcomes, strict=False):
        assert outcome == "green", f"{name} on the code as it is: {outcome}"
    survived = [
        f"{one.name} ({one.check}): {outcome}"
        for one, outcome in zip(MUTANTS, outcomes[len(checks) :], strict=True)
        if not outcome.startswith("red")
    ]
    assert not survived, f"{len(survived)} of {len(MUTANTS)} mutants survived:\n" + "\n".join(survived)
    return {"mutants": len(MUTANTS), "killed": len(MUTANTS), "checks that notice them": len(checks)}


def mutated(one: Mutant, whole: Path, folder: Path) -> Path:
    """A copy without one protection."""
    shutil.copytree(whole, folder)
    for file, text in changed(one, folder / "prunecli").items():
        (folder / "prunecli" / file).write_text(text, encoding="utf-8")
    return folder


def changed(one: Mutant, package: Path) -> dict[str, str]:
    """The files that a mutant changes, with its changes."""
    texts: dict[str, str] = {}
    for file, old, new in one.changes:
        text = texts.get(file) or (package / file).read_text(encoding="utf-8")
        count = text.count(old)
        assert count == 1, f"mutant '{one.name}': {file} has this {count} times, not once: {old!r}"
        texts[file] = text.replace(old, new)
    return texts


def tried(jobs: list[tuple[str, str]], folder: Path) -> list[str]:
    """What became of checks on copies, in a process that imports each copy in a fork."""
    folder.mkdir()
    (folder / "jobs").write_text(json.dumps(jobs))
    program = Path(__file__).with_name("mutants.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(folder / "jobs"), str(folder)],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    outcomes: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_a_mutant_still_finds_what_it_takes_out(one: Mutant) -> None:
    assert changed(one, PACKAGE)


def test_every_mutant_is_noticed(tmp_path: Path) -> None:
    check(SHORT, tmp_path)
