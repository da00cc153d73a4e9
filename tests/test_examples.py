"""The examples run as they say."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunecli.cli.app import app

ROOT = Path(__file__).parent.parent


def run(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


def test_a_criterion_of_your_own_and_a_store_read_by_hand(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        run("prune", "examples/own_criterion.yaml", "epochs=2", "learning_rate=0.05", "--allow-code")
    finally:
        for name in ("examples", "examples.own_criterion"):
            sys.modules.pop(name, None)
    (folder,) = Path("runs").glob("own_criterion-*")
    spec = importlib.util.spec_from_file_location("read_store", "examples/read_store.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hurt = module.most_hurt(folder)
    assert len(hurt) == 5
    assert hurt[0][1] >= hurt[-1][1]


def script(name: str, folder: Path, *words: str, **environment: str) -> str:
    """What an example's shell script prints, with this installation's command on its path."""
    scripts = folder / "bin"
    scripts.mkdir()
    (scripts / "prunecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m prunecli "$@"\n')
    (scripts / "prunecli").chmod(0o755)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "examples" / name, *words],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_gate_passes(tmp_path):
    assert "one_shot" in script("gate.sh", tmp_path)


def test_the_study_on_digits_makes_every_run_figure_table_and_claim(tmp_path):
    short = {"LEVELS": "8", "NOISE": "0 0.3", "RUNS": "2", "SEEDS": "0-1", "WORKERS": "1"}
    printed = script("jin2022_digits.sh", tmp_path, "lenet", "out", "epochs=2", "seeds=[0,1]", **short)
    out = tmp_path / "out"
    figures = {path.name for path in (out / "figures").iterdir()}
    drawn = {f"lenet-{name}.svg" for name in ("error", "width", "epochs", "subgroups", "parts")}
    assert figures == drawn | {"lenet-pictures.png"}
    assert all(
        (out / f"lenet-{name}.md").stat().st_size
        for name in ("methods", "levels", "parts", "classes", "claims")
    )
    claims = json.loads((out / "lenet-claims.json").read_text())["claims"]
    assert {one["claim"] for one in claims} == {f"N{number}" for number in range(1, 25)}
    # All that digits can test is tested: the others are numbers of the paper's own benchmarks.
    untested = {one["claim"] for one in claims if one["answer"] == "cannot be tested"}
    assert untested <= {"N2", "N3", "N4", "N6", "N10", "N13", "N20", "N23"}
    assert "360 test examples, one of them 0.28 points" in printed


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, "", ""), (75, "", "requeue 12\n"), (75, "99", "requeue 12\n"), (75, "100", ""), (74, "", "")],
)
def test_a_job_is_requeued_when_it_was_stopped_and_only_then(tmp_path, status, restarts, requeued):
    """Slurm's own commands are stood in for: srun ends as prunecli would."""
    scripts = {
        "srun": f'echo "$@" > {tmp_path}/asked; exit {status}',
        "scontrol": f'echo "$@" >> {tmp_path}/told',
    }
    for name, line in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    environment |= {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    command = ["bash", ROOT / "examples/slurm.sbatch", "recipes/imp_lrr.yaml", "--workers", "2"]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == status
    assert (tmp_path / "asked").read_text() == (
        "--cpus-per-task=1 prunecli prune recipes/imp_lrr.yaml --workers 2 --progress log\n"
    )
    told = tmp_path / "told"
    assert (told.read_text() if told.exists() else "") == requeued
