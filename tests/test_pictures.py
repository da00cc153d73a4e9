"""Which training images pruning changes most: known answers, the sheet that is drawn, and what is refused."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import SMALL
from matplotlib.image import imread
from typer.testing import CliRunner

from prunecli.changed_examples import Changed, changed_examples
from prunecli.cli.app import app
from prunecli.cli.pictures import images_at
from prunecli.datasets.values import InMemory, Normalization, Split
from prunecli.engine import carry_out_all
from prunecli.errors import NotComparable
from prunecli.recipe.load import load_text
from prunecli.report.pictures import draw, png, shades
from prunecli.runs import Settings
from prunecli.store.examples import SeedExamples
from prunecli.subgroups import Side

DENSE, SPARSE = Side("run", 0), Side("run", 3)


def examples(
    loss: list[float], *, level: int = 0, labels: list[int] | None = None, split: list[int] | None = None
) -> SeedExamples:
    n = len(loss)
    values = np.array(loss, dtype=np.float32)
    used = np.array(labels or list(range(n)))
    return SeedExamples(
        used, np.array(split or [0] * n, np.uint8), {level: values}, {level: values < 1}, "2" * 64
    )


def by_hand(top: int = 2, **more):
    """Means over seeds: example 0 falls by 2, 1 rises by 1, 2 is as it was, 3 falls by 3, 4 rises by 2."""
    dense = {0: examples([4, 0, 1, 4, 1], **more), 1: examples([2, 0, 1, 4, 1], **more)}
    sparse = {seed: examples([1, 1, 1, 1, 3], level=3, **more) for seed in (0, 1)}
    return changed_examples((SPARSE, sparse), (DENSE, dense), top)


def test_examples_are_ranked_by_how_their_mean_loss_changes():
    found = by_hand()
    assert found.improved == (Changed(3, 3, 4.0, 1.0), Changed(0, 0, 3.0, 1.0))
    assert found.harmed == (Changed(4, 4, 1.0, 3.0), Changed(1, 1, 0.0, 1.0))
    assert (found.seeds, found.alike) == ((0, 1), True)
    assert [one.position for one in by_hand(1).improved] == [3]


def test_what_does_not_change_is_neither():
    found = by_hand(5)
    assert {one.position for one in (*found.improved, *found.harmed)} == {0, 1, 3, 4}


def test_only_what_both_were_trained_on_in_every_seed_is_ranked():
    found = by_hand(5, split=[0, 1, 0, 2, 0])
    assert {one.position for one in (*found.improved, *found.harmed)} == {0, 4}


def test_where_labels_differ_between_seeds_the_first_is_ranked_alone():
    dense = {0: examples([4, 1]), 1: examples([0, 9], labels=[1, 0])}
    sparse = {0: examples([1, 1], level=3), 1: examples([9, 0], level=3, labels=[1, 0])}
    found = changed_examples((SPARSE, sparse), (DENSE, dense), 2)
    assert (found.seeds, found.alike) == ((0,), False)
    assert (found.improved, found.harmed) == ((Changed(0, 0, 4.0, 1.0),), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: {1: one}, "have no seed in common"),
        (lambda one: {0: replace(one, label=one.label + 1)}, "of other label draws"),
        (lambda one: {0: replace(one, fingerprint="3" * 64)}, "of other data"),
        (lambda one: {0: examples([np.inf, 1], level=3)}, "NaN or infinite"),
    ],
)
def test_what_cannot_be_compared_is_named(change, message):
    with pytest.raises(NotComparable, match=message):
        changed_examples((SPARSE, change(examples([1, 1], level=3))), (DENSE, {0: examples([2, 2])}), 2)


def test_pixels_are_drawn_as_they_are_where_they_can_be():
    colours = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    assert np.array_equal(shades(colours), colours.transpose(0, 2, 3, 1))
    assert shades(colours[:, :2]).shape == (2, 4, 5)
    wide = shades(colours[:, :1] * 40 - 20)
    assert (wide.min(), wide.max()) == (0, 1)


def test_the_sheet_shows_each_image_with_its_labels_and_losses():
    found = by_hand()
    pixels = {place: np.full((8, 8), place / 5, dtype=np.float32) for place in range(5)}
    figure = draw(found, pixels, {0: 0, 1: 1, 3: 7, 4: 4})
    axes = [one for part in figure.subfigs for one in part.axes]
    assert [one.get_title() for one in axes] == [
        "#3\nlabel 3, source 7",
        "#0\nlabel 0",
        "#4\nlabel 4",
        "#1\nlabel 1",
    ]
    assert [one.get_xlabel() for one in axes] == ["4.00 → 1.00", "3.00 → 1.00", "1.00 → 3.00", "0 → 1.00"]
    assert [float(one.images[0].get_array().mean()) for one in axes] == pytest.approx([0.6, 0, 0.8, 0.2])
    assert [part.get_suptitle() for part in figure.subfigs] == ["most improved (2)", "most harmed (2)"]
    assert png(figure) == png(draw(found, pixels, {0: 0, 1: 1, 3: 7, 4: 4}))


def test_a_kind_without_images_is_said():
    found = replace(by_hand(), harmed=())
    figure = draw(found, dict.fromkeys(range(5), np.zeros((2, 2))), dict.fromkeys(range(5), 0))
    assert figure.subfigs[1].get_suptitle() == "most harmed: none"


def test_a_name_from_a_stranger_is_no_formula():
    figure = draw(
        replace(by_hand(), a=Side("$\\frac{$\x1b", 3)),
        dict.fromkeys(range(5), np.zeros((2, 2))),
        dict.fromkeys(range(5), 0),
    )
    assert png(figure).startswith(b"\x89PNG")
    assert "\x1b" not in figure.get_suptitle()


NOISY = "labels={uniform: {fraction: 0.2}}"
PRUNED = "procedure=[train, {prune: {fraction: 0.9}}, rewind, train]"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two seeds on noisy labels, each seed's own."""
    runs = tmp_path_factory.mktemp("runs")
    given = load_text(SMALL, "small.yaml", [PRUNED, NOISY, "seeds=[0, 1]"], stem="small")
    (finished,) = carry_out_all(given, Settings(runs=runs), lambda _event: None)
    return finished.folder.path


def compared(run: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["compare", str(run), *more])


def test_compare_draws_the_images_of_a_stored_run(run, tmp_path):
    file = tmp_path / "sheet.png"
    done = compared(run, "--pictures", str(file), "--level", "1", "--top", "3")
    assert done.exit_code == 0, done.output
    assert "3 improved and 3 harmed images; labels differ between seeds: ranked within seed 0" in done.stderr
    assert imread(io.BytesIO(file.read_bytes())).shape[2] == 4


def test_what_is_drawn_is_the_source_s_own_image(digits):
    """Without the normalization, and where it has few shades too."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(50, 100, (6, 3, 4, 4), dtype=np.uint8))
    normalized = InMemory(pixels, Normalization(255, (0.2, 0.3, 0.4), (0.1, 0.2, 0.3)))
    drawn = images_at(replace(digits, train=Split(normalized, digits.train.labels[:6])), [5, 2])
    assert list(drawn) == [5, 2]
    for place, image in drawn.items():
        assert image * 255 == pytest.approx(pixels[place].permute(1, 2, 0).numpy(), abs=1e-3)


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--pictures", "sheet.jpg"], 2, "should be a .png file"),
        (["--pictures", "s.png", "--level", "0", "--level", "1"], 2, "draws one level"),
        (["--pictures", "s.png", "--level", "0"], 4, "has no level to draw pictures at (0)"),
        (["--pictures", "s.png", "--level", "1", "--top", "0"], 2, "--top"),
        (["--pictures", "nowhere/s.png", "--level", "1"], 74, "nowhere/s.png: cannot be written"),
    ],
)
def test_bad_questions_are_answered_in_a_line(run, tmp_path, monkeypatch, more, status, message):
    monkeypatch.chdir(tmp_path)
    done = compared(run, *more)
    assert done.exit_code == status, done.output
    assert message in " ".join(done.stderr.split())


def test_several_runs_are_refused(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    done = compared(run, str(other), "--pictures", str(tmp_path / "s.png"), "--level", "1")
    assert (done.exit_code, "draws one run; found 2" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def of_arrays(tmp_path_factory) -> Path:
    """A folder with a dataset of colours, and a run on it."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{split}": rng.integers(0, 256, (40, 3, 6, 6), dtype=np.uint8) for split in ("train", "test")
    }
    np.savez(folder / "data.npz", y_train=np.arange(40) % 4, y_test=np.arange(40) % 4, **arrays)
    (folder / "small.yaml").write_text(
        SMALL.replace("data: digits", "data: {arrays: {path: data.npz}}").replace(
            "batch_size: 200", "batch_size: 20"
        ),
        encoding="utf-8",
    )
    done = CliRunner().invoke(
        app,
        [
            "prune",
            str(folder / "small.yaml"),
            PRUNED,
            "--runs",
            str(folder / "runs"),
            "--data-root",
            str(folder),
        ],
    )
    assert done.exit_code == 0, done.output
    return folder


def test_the_dataset_is_looked_for_where_it_is_said_to_be(of_arrays, tmp_path):
    (run,) = (of_arrays / "runs").glob("small-*")
    file = tmp_path / "sheet.png"
    missing = compared(run, "--pictures", str(file), "--level", "1")
    assert missing.exit_code == 3, missing.output
    assert not file.exists()
    done = compared(run, "--pictures", str(file), "--level", "1", "--data-root", str(of_arrays))
    assert done.exit_code == 0, done.output
    assert file.exists()


def test_another_dataset_is_refused(of_arrays, tmp_path):
    (run,) = (of_arrays / "runs").glob("small-*")
    with np.load(of_arrays / "data.npz") as found:
        np.savez(tmp_path / "data.npz", **{**found, "x_train": 255 - found["x_train"]})
    done = compared(run, "--pictures", str(tmp_path / "s.png"), "--level", "1", "--data-root", str(tmp_path))
    assert done.exit_code == 3, done.output
    assert "the dataset here is another one than the run's" in done.stderr
