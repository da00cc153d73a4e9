"""The examples run as they say."""

from __future__ import annotations

import importlib.util
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


def test_the_gate_passes(tmp_path):
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "prunecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m prunecli "$@"\n')
    (scripts / "prunecli").chmod(0o755)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / "examples/gate.sh"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "one_shot" in done.stdout


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
