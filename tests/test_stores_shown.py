"""`prunecli show` and `prunecli check` of label stores and score stores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import Result
from conftest import SMALL
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.store.labels import read_labels
from prunecli.store.scores import read_scores
from prunecli.store.sealing import read_record, record_of, record_path

RECIPE = SMALL.replace("seeds: [0]", "seeds: [0, 1]")
NOISY = "labels={uniform: {fraction: 0.3}}"


def prunecli_(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a label store and a score store."""
    path = tmp_path_factory.mktemp("made")
    (path / "small.yaml").write_text(RECIPE)
    recipe, runs = str(path / "small.yaml"), ["--runs", str(path / "runs")]
    assert prunecli_("noise", recipe, NOISY, "--output", str(path / "labels.h5")).exit_code == 0
    done = prunecli_("score", recipe, NOISY, "--runs-per-seed", "2", "-o", str(path / "scores.h5"), *runs)
    assert done.exit_code == 0, done.stderr
    return path


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, to be changed, as the working folder."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def changed(store: str, change, **facts: object) -> None:
    """Change a store as a stranger would, who writes a record of it too."""
    path = Path(store)
    kept = {k: v for k, v in (read_record(path) or ({}, ""))[0].items() if k not in ("size", "sha256")}
    with h5py.File(path, "r+") as file:
        change(file)
    record_path(path).write_bytes(record_of(path.read_bytes(), {**kept, **facts}))


def test_a_label_store_is_shown_by_what_it_holds(folder):
    store, sha256 = read_labels(Path("labels.h5"))
    done = prunecli_("show", "labels.h5")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "labels.h5: label store"
    assert f"  dataset     {store.fingerprint}" in lines
    assert f"  sha256      {sha256}" in lines
    assert "  examples    1,437 of 10 classes" in lines
    counts = [int(noisy.sum()) for noisy in store.noisy]
    assert [line.split() for line in lines[-2:]] == [
        [str(seed), str(count), f"{100 * count / 1437:.2f}"]
        for seed, count in zip((0, 1), counts, strict=True)
    ]
    told = json.loads(prunecli_("show", "labels.h5", "--json").stdout)
    assert (told["kind"], told["sha256"], told["classes"]) == ("label", sha256, 10)
    assert told["seeds"] == [{"seed": seed, "changed": count} for seed, count in enumerate(counts)]


def test_a_score_store_is_shown_as_it_was_when_it_was_made(folder):
    """The same table, runs and stability that `score` prints of what is complete."""
    made = prunecli_("score", str(folder / "small.yaml"), NOISY, "--runs-per-seed", "2", "-o", "scores.h5")
    done = prunecli_("show", "scores.h5")
    assert (made.exit_code, done.exit_code) == (0, 0), done.stderr
    store, lines = read_scores(Path("scores.h5")), done.stdout.splitlines()
    assert lines[0] == "scores.h5: score store"
    assert f"  dataset     {store.fingerprint}" in lines
    assert f"  recipe      {store.recipe_digest}" in lines
    assert "  seeds       0 (431 labels changed), 1 (431 labels changed)" in lines
    assert made.stdout in done.stdout
    told = json.loads(prunecli_("show", "scores.h5", "--json").stdout)
    assert (told["kind"], told["dataset_fingerprint"]) == ("score", store.fingerprint)
    assert [one["stability"] for one in told["scores"]] == store.scores["el2n"].stability.tolist()


def test_what_a_stranger_wrote_into_a_store_is_escaped(folder):
    changed("labels.h5", lambda file: file.attrs.__setitem__("title", "a\x1b[31mb"))
    done = prunecli_("show", "labels.h5")
    assert "  title       a\\x1b[31mb" in done.stdout.splitlines()


@pytest.mark.parametrize("name", ["labels.h5", "scores.h5"])
def test_a_damaged_store_is_neither_shown_nor_sound(folder, name):
    data = Path(name).read_bytes()
    assert prunecli_("check", name).stdout == f"{name}: sound\n"
    Path(name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for verb in ("show", "check"):
        done = prunecli_(verb, name)
        assert (done.exit_code, "its content is not what" in done.stderr) == (3, True), done.stderr
    Path(name).write_bytes(data)
    record_path(Path(name)).unlink()
    for verb in ("show", "check"):
        done = prunecli_(verb, name)
        assert (done.exit_code, "has no record beside it" in done.stderr) == (3, True), done.stderr


def moved_mean(file: h5py.File) -> None:
    file["scores/el2n"][0, 0] = 0.5


def impossible_stability(file: h5py.File) -> None:
    file["scores/el2n_stability"][0] = 2.0


def unmarked(file: h5py.File) -> None:
    file["labels/noisy"][:] = np.zeros_like(file["labels/noisy"])


@pytest.mark.parametrize(
    ("name", "change", "facts", "told"),
    [
        ("scores.h5", moved_mean, {}, "/scores/el2n is not the mean of /scores/el2n_runs"),
        ("scores.h5", impossible_stability, {}, "/scores/el2n_stability is no correlation"),
        ("scores.h5", len, {"seeds": [0]}, "has the seeds [0, 1]; its record says [0]"),
        ("scores.h5", len, {"recipe_digest": "0" * 64}, "its recipe_digest is not the one"),
        ("labels.h5", unmarked, {}, "does not mark the labels that differ"),
        ("labels.h5", len, {"seeds": [0]}, "its seeds is [0, 1]; its record says [0]"),
    ],
)
def test_check_finds_what_an_honest_looking_record_hides(folder, name, change, facts, told):
    changed(name, change, **facts)
    done = prunecli_("check", name)
    assert (done.exit_code, done.stdout, told in done.stderr) == (3, f"{name}: damaged\n", True), done.stderr


def test_the_store_of_a_run_is_shown_elsewhere(folder):
    run = Path(prunecli_("train", "small.yaml", "epochs=1", "--seeds", "0", "-q").stdout.strip())
    done = prunecli_("show", str(run / "store.h5"))
    assert (done.exit_code, f"`prunecli show {run}` shows its recipe" in done.stderr) == (2, True)


def test_stores_are_shown_without_torch(folder):
    code = (
        "import sys\nfrom prunecli.cli.app import app\n"
        "for name in ('labels.h5', 'scores.h5'):\n    app(['show', name], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.count(" store\n") == 2
