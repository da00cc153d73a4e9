"""Label stores: what `prunecli noise` writes, what a run takes from one, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from prunecli.building import VALIDATION, make_targets
from prunecli.cli import noise
from prunecli.cli.app import app
from prunecli.errors import DamagedRun, EnvironmentMissing, NewerFormat, PrunecliError, UsageError
from prunecli.noise import changes, per_class
from prunecli.recipe.load import load, load_text
from prunecli.runs import run_digest
from prunecli.store import labels as label_stores
from prunecli.store.labels import LabelStore, decode_labels, encode_labels, facts_of, read_labels, seal_labels
from prunecli.store.sealing import read_record, record_of, record_path, sha256

RECIPE = SMALL.replace("epochs: 2", "epochs: 1").replace("seeds: [0]", "seeds: [0, 1]") + (
    "validation: 0.2\nlabels: {uniform: {fraction: 0.3}}\n"
)
FILE = "labels={file: {path: labels.h5}}"


def prunecli_(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a recipe, and no data root of the machine's."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PRUNECLI_DATA", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    """A label store and its record, of the small recipe."""
    path = tmp_path_factory.mktemp("sealed") / "labels.h5"
    (path.parent / "small.yaml").write_text(RECIPE)
    done = prunecli_("noise", str(path.parent / "small.yaml"), "--output", str(path))
    assert done.exit_code == 0, done.stderr
    return path


@pytest.fixture
def store(sealed, folder) -> Path:
    """The label store in the working folder, to be changed."""
    for path in (sealed, record_path(sealed)):
        shutil.copy(path, folder)
    return Path(sealed.name)


def remade(path: Path, change: Callable[[h5py.File], object], **facts: object) -> None:
    """Change a label store and have its record vouch for it."""
    buffer = io.BytesIO(path.read_bytes())
    with h5py.File(buffer, "r+") as file:
        change(file)
    put(path, buffer.getvalue(), **facts)


def put(path: Path, data: bytes, **facts: object) -> None:
    found = read_record(path)
    kept = {name: found[0][name] for name in ("kind", "dataset_fingerprint", "seeds")} if found else {}
    path.write_bytes(data)
    record_path(path).write_bytes(record_of(data, {**kept, **facts}))


# --- What is written


def test_a_store_holds_the_labels_that_each_seed_trains_with(store, digits):
    experiment = load(Path("small.yaml")).points[0].experiment
    with h5py.File(store) as file:
        group = file["labels"]
        assert {name: (item.shape, item.dtype.str) for name, item in group.items()} == {
            "seed": ((2,), "<i8"),
            "example": ((1437,), "<i8"),
            "clean": ((1437,), "<i8"),
            "used": ((2, 1437), "<i8"),
            "noisy": ((2, 1437), "|u1"),
        }
        assert (group["used"].compression, group["used"].shuffle) == ("gzip", True)
        assert group["seed"][()].tolist() == [0, 1]
        assert np.array_equal(group["clean"], digits.train.labels.numpy())
        for row, seed in enumerate((0, 1)):
            targets = make_targets(experiment, seed, digits)
            assert np.array_equal(group["used"][row], targets.used.numpy())
            assert np.array_equal(group["noisy"][row], targets.noisy.numpy())
            assert not group["noisy"][row][(targets.split == VALIDATION).numpy()].any()
        attributes = dict(file.attrs)
        assert attributes["prunecli_type"] == "labels"
        assert attributes["format_version"] == 1
        assert attributes["dataset_fingerprint"] == digits.fingerprint
        assert attributes["classes"] == 10
        assert attributes["title"] == "labels of digits, uniform(fraction=0.3)"
        drawn_by = json.loads(file["provenance/recipe"].asstr()[()])
        assert drawn_by == {"data": "digits", "validation": 0.2, "labels": {"uniform": {"fraction": 0.3}}}
    record, _ = read_record(store) or ({}, "")
    facts = {"kind": "labels", "dataset_fingerprint": digits.fingerprint, "seeds": [0, 1]}
    assert facts.items() <= record.items()


def test_xarray_opens_it_with_labelled_axes(store):
    import xarray

    with xarray.open_datatree(store) as tree:
        used = tree["labels"]["used"]
        assert used.dims == ("seed", "example")
        assert used.sel(seed=1, example=3).item() in range(10)


def test_drawing_again_gives_the_same_bytes_and_changes_nothing(store):
    before = (store.read_bytes(), store.stat().st_mtime_ns, store.stat().st_ino)
    done = prunecli_("noise", "small.yaml", "--output", str(store))
    assert done.exit_code == 0, done.stderr
    assert (store.read_bytes(), store.stat().st_mtime_ns, store.stat().st_ino) == before
    assert prunecli_("noise", "small.yaml", "--output", "again.h5").exit_code == 0
    assert Path("again.h5").read_bytes() == store.read_bytes()
    assert record_path(Path("again.h5")).read_bytes() == record_path(store).read_bytes()


def test_a_store_that_lost_its_record_in_a_crash_gets_it_again(store):
    record = record_path(store).read_bytes()
    record_path(store).unlink()
    assert prunecli_("noise", "small.yaml", "--output", str(store)).exit_code == 0
    assert record_path(store).read_bytes() == record


@pytest.mark.parametrize("there", ["labels.h5", "labels.h5.json"])
def test_another_file_is_never_overwritten(folder, there):
    Path(there).write_bytes(b"mine")
    done = prunecli_("noise", "small.yaml", "--output", "labels.h5")
    assert done.exit_code == 2
    assert f"{there}: is there already with other content" in done.stderr
    assert "--output" in done.stderr
    assert Path(there).read_bytes() == b"mine"
    assert done.stdout == ""


def test_without_an_output_stores_are_named_for_people_in_a_hidden_folder_of_runs(folder):
    done = prunecli_("noise", "small.yaml", "--runs", "studies")
    (path,) = Path("studies/.labels").glob("*.h5")
    assert done.stdout.splitlines()[0] == str(path)
    assert path.name == f"small-{sha256(path.read_bytes())[:8]}.h5"
    assert f"labels={{file: {{path: {path}}}}}" in done.stderr


def sweep() -> None:
    Path("small.yaml").write_text(RECIPE + "sweep: {labels.fraction: [0, 0.15, 0.3]}\n")


def test_a_sweep_gives_a_store_a_point(folder):
    sweep()
    done = prunecli_("noise", "small.yaml", "--output", "draws", "--json")
    found = json.loads(done.stdout)
    assert [one["label"] for one in found] == [f"small-fraction-{value}" for value in ("0", "0.15", "0.3")]
    assert [one["seeds"][0]["changed"] for one in found] == [0, round(0.15 * 1150), round(0.3 * 1150)]
    for one in found:
        assert sha256(Path(one["path"]).read_bytes()) == one["sha256"]
        assert one["path"].startswith(f"draws/{one['label']}-")


def test_a_sweep_is_not_one_file(folder):
    sweep()
    done = prunecli_("noise", "small.yaml", "--output", "labels.h5")
    assert (done.exit_code, "3 points gives as many label stores; give a folder" in done.stderr) == (2, True)
    assert not Path("labels.h5").exists()


def test_one_store_goes_into_a_folder_that_is_there(folder):
    Path("draws").mkdir()
    assert prunecli_("noise", "small.yaml", "--output", "draws").exit_code == 0
    assert [path.name[:6] for path in Path("draws").glob("*.h5")] == ["small-"]


# --- What is told


def test_json_tells_counts_that_agree_with_the_store(store):
    (told,) = json.loads(prunecli_("noise", "small.yaml", "--output", str(store), "--json").stdout)
    found, digest = read_labels(store)
    assert (told["sha256"], told["dataset_fingerprint"]) == (digest, found.fingerprint)
    assert (told["examples"], told["validation"], told["classes"]) == (1437, 287, 10)
    for row, one in enumerate(told["seeds"]):
        noisy = found.noisy[row]
        assert (one["seed"], one["changed"]) == (row, int(noisy.sum()))
        assert one["fraction"] == pytest.approx(noisy.sum() / 1150)
        assert [c["changed"] for c in one["per_class"]] == [
            int(noisy[found.clean == c].sum()) for c in range(10)
        ]
        assert sum(c["examples"] for c in one["per_class"]) == 1150
        for change in one["transitions"]:
            pairs = (found.clean == change["from"]) & (found.used[row] == change["to"])
            assert change["examples"] == int(pairs.sum()) > 0
            assert change["from"] != change["to"]
        assert sum(change["examples"] for change in one["transitions"]) == one["changed"]


def test_the_table_shows_each_seed_and_the_transitions(store):
    done = prunecli_("noise", "small.yaml", "--output", str(store))
    lines = done.stdout.splitlines()
    assert lines[0] == "labels.h5"
    assert lines[1] == (
        "  labels of digits, uniform(fraction=0.3): 1,150 examples of 10 classes; 287 of the validation split stay clean"
    )
    assert lines[4:7] == ["  seed  changed      %", "     0      345  30.00", "     1      345  30.00"]
    found, _ = read_labels(store)
    rows = [line.split() for line in lines[10:]]
    assert len(rows) == 10
    for number, row in enumerate(rows):
        drawn = found.used[:, found.clean == number]
        clean = 2 * int((found.clean == number).sum())
        cells = list(map(int, row[1:11]))
        assert [cells[c] for c in range(10) if c != number] == [
            int((drawn == c).sum()) for c in range(10) if c != number
        ]
        assert sum(cells) == int(row[11]) < clean
        assert int(row[12]) == sum(cells) - cells[number]


def arrays_of(classes: int, path: str = "many.npz", seed: int = 0) -> None:
    """A dataset of five tiny images a class, in a file."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), 5)
    x = rng.integers(0, 255, (len(y), 4, 4), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x[::5], y_test=y[::5])


def test_of_many_classes_the_largest_changes_are_shown(folder):
    arrays_of(30)
    done = prunecli_(
        "noise", "small.yaml", "data={arrays: {path: many.npz}}", "validation=0", "labels.fraction=0.5"
    )
    assert done.exit_code == 0, done.stderr
    assert "classes (the 20 largest of 30; --json has them all), 2 seeds together" in done.stdout
    assert "changes (the 20 largest of" in done.stdout


def test_the_largest_changes_come_first_and_ties_by_class():
    table = np.array([[9, 2, 1], [2, 9, 0], [5, 1, 9]])
    transitions = np.array([(i, j, table[i, j]) for i, j in np.ndindex(3, 3) if table[i, j]])
    assert changes(transitions).tolist() == [[2, 0, 5], [0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 1]]
    assert per_class(transitions, 4).tolist() == [[12, 3], [11, 2], [15, 6], [0, 0]]


def test_a_million_classes_make_no_table_of_a_million_by_a_million(folder):
    arrays_of(30)
    data = "data={arrays: {path: many.npz, classes: 1000000}}"
    done = prunecli_("noise", "small.yaml", data, "validation=0", "--seeds", "0")
    assert done.exit_code == 0, done.stderr
    assert "classes (the 20 largest of 1,000,000; --json has them all), seed 0" in done.stdout


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    noise._print_table("a title", [("seed", "changed"), ("0", "345")])
    assert "a title" in sys.stdout.getvalue()
    assert "───" in sys.stdout.getvalue()
    assert "345" in sys.stdout.getvalue()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("labels=clean", "labels 'clean' are the source's: there is nothing to draw"),
        (FILE, "labels 'file' are those of a store already: there is nothing to draw"),
    ],
)
def test_where_nothing_is_drawn_nothing_is_written(store, labels, told):
    done = prunecli_("noise", "small.yaml", labels, "--output", "out.h5")
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert done.stdout == ""
    assert not Path("out.h5").exists()


def test_a_dataset_that_is_not_here_is_told(folder):
    done = prunecli_("noise", "small.yaml", "data=cifar10", "--data-root", "there")
    assert (done.exit_code, "looked in there/cifar-10-batches-py" in done.stderr) == (3, True)


# --- What a run takes from one


def digest_of(*overrides: str, recipe: str = "small.yaml") -> str:
    return run_digest(load(Path(recipe), overrides).points[0].experiment, "f" * 64)


def test_a_run_with_a_store_is_the_run_that_draws(store):
    """The same results to the bit, under another digest: labels of a file are another recipe."""
    for number, labels in enumerate(([], [FILE])):
        done = prunecli_("prune", "small.yaml", *labels, "--runs", f"runs{number}", "-q")
        assert done.exit_code == 0, done.stderr
    (drawn,), (given,) = (list(Path(f"runs{number}").glob("small-*/store.h5")) for number in (0, 1))
    with h5py.File(drawn) as first, h5py.File(given) as second:
        places = [f"{group}/{name}" for group in ("metrics", "examples", "test") for name in first[group]]
        assert "metrics/train_loss_noisy" in places
        for place in places:
            assert np.array_equal(first[place][()], second[place][()], equal_nan=True), place
        assert first.attrs["recipe_digest"] != second.attrs["recipe_digest"]


def test_the_digest_covers_what_the_store_holds_and_not_where_it_lies(store):
    Path("elsewhere").mkdir()
    for path in (store, record_path(store)):
        shutil.copy(path, "elsewhere")
    here = digest_of(FILE)
    assert digest_of("labels={file: {path: elsewhere/labels.h5}}") == here
    done = prunecli_("noise", "small.yaml", "labels.fraction=0.31", "--output", "other.h5")
    assert done.exit_code == 0
    assert digest_of("labels={file: {path: other.h5}}") != here


def test_the_resolved_recipe_pins_the_store_and_needs_it_only_to_train(store):
    done = prunecli_("prune", "small.yaml", FILE, "-q")
    run = done.stdout.strip()
    assert f"sha256: {sha256(store.read_bytes())}" in Path(run, "recipe.yaml").read_text()
    assert prunecli_("prune", run, "-q").stdout.strip() == run
    assert prunecli_("noise", "small.yaml", "labels.fraction=0.31", "--output", "other.h5").exit_code == 0
    shutil.copy("other.h5", store)
    shutil.copy("other.h5.json", record_path(store))
    done = prunecli_("prune", run)
    assert done.exit_code == 3
    assert "another label store than the recipe asks for" in done.stderr
    store.unlink()
    shutil.rmtree("runs/.labels")
    assert prunecli_("show", run).exit_code == 0
    done = prunecli_("prune", run, "--seeds", "0")
    assert done.exit_code == 3
    assert "labels 'labels.h5' is not on this machine" in done.stderr
    assert "looked for labels.h5" in done.stderr


def test_a_point_that_goes_to_another_process_keeps_its_labels(store, digits):
    experiment = load(Path("small.yaml"), [FILE]).points[0].experiment
    sent = pickle.loads(pickle.dumps(experiment))
    assert sent == experiment
    assert make_targets(sent, 1, digits).used.equal(make_targets(experiment, 1, digits).used)


def kept_of(store: Path, runs: str = "runs") -> Path:
    """The copy that runs keep of a label store."""
    return Path(runs, ".labels", f"{sha256(store.read_bytes())}.h5")


def test_runs_keep_one_copy_of_the_labels_that_they_were_trained_on(store):
    assert prunecli_("prune", "small.yaml", FILE, "-q").exit_code == 0
    copy = kept_of(store)
    assert copy.read_bytes() == store.read_bytes()
    assert record_path(copy).read_bytes() == record_path(store).read_bytes()
    before = (copy.stat().st_mtime_ns, copy.stat().st_ino)
    assert prunecli_("train", "small.yaml", FILE, "batch_size=100", "-q").exit_code == 0
    assert (copy.stat().st_mtime_ns, copy.stat().st_ino) == before
    assert sorted(path.name for path in copy.parent.iterdir()) == [copy.name, record_path(copy).name]
    assert prunecli_("train", "small.yaml", "--runs", "drawn", "-q").exit_code == 0
    assert not Path("drawn/.labels").exists()


def test_a_plan_keeps_nothing(store):
    assert prunecli_("plan", "small.yaml", FILE).exit_code == 0
    assert prunecli_("prune", "small.yaml", FILE, "--dry-run").exit_code == 0
    assert not Path("runs").exists()


@pytest.mark.parametrize("runs", [[], ["--runs", "."], ["--runs", "elsewhere"]])
def test_a_run_that_is_run_again_from_elsewhere_finds_its_labels(store, tmp_path, monkeypatch, runs):
    """Seeds are added from another folder, by the copy beside the runs: `--runs` or the run's own."""
    done = prunecli_("prune", "small.yaml", FILE, "--seeds", "0", "-q")
    run, used = tmp_path / done.stdout.strip(), read_labels(store)[0].used
    for path in (store, record_path(store)):
        path.unlink()
    home = tmp_path / "runs" if "." in runs else tmp_path / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.chdir(home)
    done = prunecli_("prune", str(run), "--seeds", "0,1", "-q", *runs)
    assert done.exit_code == 0, done.stderr
    with h5py.File(Path(done.stdout.strip(), "store.h5")) as file:
        assert np.array_equal(file["examples/label"][()], used)


def test_a_copy_is_of_no_use_to_who_does_not_ask_for_its_content(store):
    assert prunecli_("train", "small.yaml", FILE, "-q").exit_code == 0
    for path in (store, record_path(store)):
        path.unlink()
    done = prunecli_("train", "small.yaml", FILE)
    assert (done.exit_code, "labels 'labels.h5' is not on this machine" in done.stderr) == (3, True)


def test_a_damaged_copy_is_set_aside_and_made_again(store):
    copy = kept_of(store)
    assert prunecli_("train", "small.yaml", FILE, "-q").exit_code == 0
    damaged_byte(copy)
    done = prunecli_("train", "small.yaml", FILE, "batch_size=100", "-v")
    assert done.exit_code == 0, done.stderr
    assert f"{copy}: damaged; moved to quarantine: {copy.name}.0; it is made again" in done.stderr
    assert copy.read_bytes() == store.read_bytes()
    assert (copy.parent / "quarantine" / f"{copy.name}.0").exists()


def test_a_damaged_copy_is_no_labels(store):
    run = prunecli_("train", "small.yaml", FILE, "-q").stdout.strip()
    copy = kept_of(store)
    for path in (store, record_path(store)):
        path.unlink()
    damaged_byte(copy)
    done = prunecli_("train", run, "--seeds", "0", "batch_size=100")
    assert (done.exit_code, f"{copy.name}: damaged: its content is not what" in done.stderr) == (3, True)


def test_a_process_that_died_while_it_kept_the_copy_is_gone_on_from(store):
    copy = kept_of(store)
    copy.parent.mkdir(parents=True)
    shutil.copy(store, copy)
    assert prunecli_("train", "small.yaml", FILE, "-q").exit_code == 0
    assert read_labels(copy)[1] == copy.stem
    assert not (copy.parent / "quarantine").exists()


def test_no_copy_is_written_through_a_link(store, tmp_path):
    (tmp_path / "mine").mkdir()
    Path("runs").mkdir()
    Path("runs/.labels").symlink_to(tmp_path / "mine")
    done = prunecli_("train", "small.yaml", FILE)
    assert (done.exit_code, "runs/.labels: a symbolic link" in done.stderr) == (3, True)
    assert list((tmp_path / "mine").iterdir()) == []


def misnamed(copy: Path) -> None:
    for path in (copy, record_path(copy)):
        path.rename(path.with_name(path.name.replace(copy.stem, "0" * 64)))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda copy: damaged_byte(copy), "damaged: its content is not what"),
        (lambda copy: record_path(copy).unlink(), "has no record beside it"),
        (lambda copy: copy.unlink(), "the record of a label store that is not there"),
        (misnamed, "is named for another content than it has"),
    ],
)
def test_check_and_status_know_the_folder_of_labels(store, spoil, told):
    assert prunecli_("train", "small.yaml", FILE, "-q").exit_code == 0
    done = prunecli_("check", "runs/.labels")
    assert (done.exit_code, done.stdout) == (0, "runs/.labels: sound\n"), done.stderr
    done = prunecli_("status", "--json")
    assert [one["name"] for one in json.loads(done.stdout)] == [
        path.name for path in Path("runs").glob("small-*")
    ]
    done = prunecli_("status", "runs/.labels")
    assert (done.exit_code, "holds label stores, not a run; `prunecli check" in done.stderr) == (2, True)
    spoil(kept_of(store))
    done = prunecli_("check", "runs/.labels")
    assert (done.exit_code, done.stdout, told in done.stderr) == (3, "runs/.labels: damaged\n", True), (
        done.stderr
    )


@pytest.mark.parametrize("verb", ["train", "plan", "show", "score"])
def test_every_command_looks_under_its_data_root(store, verb, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for path in (store, record_path(store)):
        path.rename(tmp_path / "data" / path.name)
    (tmp_path / "work").mkdir()
    shutil.move("small.yaml", "work")
    monkeypatch.chdir(tmp_path / "work")
    few = ["--runs-per-seed", "1"] if verb == "score" else []
    assert prunecli_(verb, "small.yaml", FILE, *few).exit_code == 3
    done = prunecli_(verb, "small.yaml", FILE, *few, "--data-root", str(tmp_path / "data"))
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("where", ["beside the recipe", "data root"])
def test_a_store_is_looked_for_beside_the_recipe_and_under_data_roots(store, where, tmp_path, monkeypatch):
    studies, elsewhere = tmp_path / "studies", tmp_path / "elsewhere"
    for folder in (studies, elsewhere):
        folder.mkdir()
    (studies / "small.yaml").write_text(RECIPE)
    home = studies if where == "beside the recipe" else elsewhere
    for path in (store, record_path(store)):
        path.rename(home / path.name)
    if where == "data root":
        monkeypatch.setenv("PRUNECLI_DATA", str(elsewhere))
    experiment = load(studies / "small.yaml", [FILE]).points[0].experiment
    assert experiment.labels.options["sha256"] == sha256((home / store.name).read_bytes())


def test_a_link_inside_the_folder_is_followed_and_one_out_of_it_is_not(store, tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    for path in (store, record_path(store)):
        path.rename(tmp_path / "inside" / path.name)
    store.symlink_to(tmp_path / "inside" / store.name)
    assert digest_of(FILE)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("small.yaml").write_text(RECIPE)
    Path("labels.h5").symlink_to(tmp_path / "inside" / "labels.h5")
    out = r"not labels\.h5, which leads out of the folders that a recipe may read: to /.*/inside/labels\.h5"
    with pytest.raises(EnvironmentMissing, match=out):
        load(Path("small.yaml"), [FILE])
    with pytest.raises(UsageError, match=r"which is outside .*; --data-root DIR allows another folder"):
        load(Path("small.yaml"), ["labels={file: {path: ../inside/labels.h5}}"])


# --- What is refused before anything is trained


def damaged_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def half_written(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def by_another_program(path: Path) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["labels"] = np.arange(10)
    put(path, buffer.getvalue())


def no_record(path: Path) -> None:
    record_path(path).unlink()


def record_of_a_run(path: Path) -> None:
    put(path, path.read_bytes(), kind="run")


def newer(path: Path) -> None:
    remade(path, lambda file: file.attrs.__setitem__("format_version", 2))


def other_dataset(path: Path) -> None:
    remade(
        path,
        lambda file: file.attrs.__setitem__("dataset_fingerprint", "e" * 64),
        dataset_fingerprint="e" * 64,
    )


def other_source(path: Path) -> None:
    """Of the dataset by its own words, with other labels."""

    def change(file: h5py.File) -> None:
        file["labels/clean"][0] = (file["labels/clean"][0] + 1) % 10
        file["labels/noisy"][:, 0] = file["labels/used"][:, 0] != file["labels/clean"][0]

    remade(path, change)


def removed(path: Path) -> None:
    path.unlink()
    record_path(path).unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a damaged byte": (damaged_byte, 3, "damaged: its content is not what labels.h5.json says"),
    "half-written": (half_written, 3, "damaged: its content is not what labels.h5.json says"),
    "no record": (no_record, 3, "has no record beside it"),
    "another record": (record_of_a_run, 3, "not the record of a label store"),
    "another program's": (by_another_program, 3, "not a prunecli labels"),
    "no HDF5": (lambda path: put(path, b"text"), 3, "not an HDF5 file"),
    "a newer prunecli's": (newer, 3, "made by a newer prunecli"),
    "another dataset's": (other_dataset, 2, "is of another dataset (fingerprint eeeeeeeeeeee…"),
    "other labels of the source": (other_source, 2, "has other labels of the source"),
    "not there": (removed, 3, "labels 'labels.h5' is not on this machine"),
    "a folder": (a_folder, 3, "labels.h5"),
    "a record that is no JSON": (lambda path: record_path(path).write_text("{"), 3, "not a record"),
    "other seeds than its record says": (lambda path: put(path, path.read_bytes(), seeds=[0]), 3, "its seeds is [0, 1]; its record says [0]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", ["prune", "plan"])
def test_a_store_that_does_not_fit_is_refused_before_training(store, case, command):
    change, status, told = REFUSED[case]
    change(store)
    done = prunecli_(command, "small.yaml", FILE)
    assert (done.exit_code, told in done.stderr) == (status, True), done.stderr
    assert "argument:1:" in done.stderr
    assert done.stdout == ""
    assert not Path("runs").exists()


def test_a_seed_that_the_store_lacks_is_told_before_the_first_is_trained(store):
    done = prunecli_("prune", "small.yaml", FILE, "--seeds", "0,1,7")
    assert done.exit_code == 2
    assert (
        "'labels.h5' has no labels for seed 7; it has those of 0, 1: choose among them with --seeds"
        in done.stderr
    )
    assert not Path("runs").exists()


def test_labels_of_another_validation_split_are_refused(store):
    done = prunecli_("prune", "small.yaml", FILE, "validation=0.4")
    assert done.exit_code == 2
    assert "validation examples have other labels than the source's" in done.stderr
    assert prunecli_("plan", "small.yaml", FILE, "validation=0").exit_code == 0


def test_a_store_of_another_size_is_refused(store, digits):
    arrays_of(10)
    assert (
        prunecli_("noise", "small.yaml", "data={arrays: {path: many.npz}}", "--output", "many.h5").exit_code
        == 0
    )
    done = prunecli_("plan", "small.yaml", "labels={file: {path: many.h5}}")
    assert (done.exit_code, "is of another dataset" in done.stderr) == (2, True)
    (found, _), size = read_labels(Path("many.h5")), "has 50 examples of 10 classes; the data has 1,437 of 10"
    claimed = replace(found, fingerprint=digits.fingerprint)
    seal_labels(Path("claimed.h5"), encode_labels(claimed), claimed)
    done = prunecli_("plan", "small.yaml", "labels={file: {path: claimed.h5}}")
    assert (done.exit_code, size in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("{path: labels.h5, sha256: abc}", "'sha256' string should match pattern"),
        ("{path: 3}", "'path' should be a valid string; found 3"),
        ("{}", "choice of labels 'file' needs 'path'"),
        ("{path: labels.h5, seed: 3}", "has no option 'seed'"),
    ],
)
def test_wrong_options_are_told_with_their_place(store, options, told):
    with pytest.raises(UsageError, match=f"^argument:1:[0-9]+: .*{told}"):
        load_text(RECIPE, "small.yaml", [f"labels={{file: {options}}}"])


# --- Hostile files


def _replaced(file: h5py.File, name: str, data: Any, **options: Any) -> None:  # Any: h5py's
    del file[f"labels/{name}"]
    file["labels"].create_dataset(name, data=data, **options)


def _linked(file: h5py.File) -> None:
    del file["labels/used"]
    file["labels/used"] = h5py.ExternalLink("/etc/passwd", "/used")


def _external(file: h5py.File) -> None:
    del file["labels/used"]
    file["labels"].create_dataset("used", (2, 1437), "i8", external=[("/etc/passwd", 0, 2 * 1437 * 8)])


def _bomb(file: h5py.File) -> None:
    del file["labels/used"]
    file["labels"].create_dataset("used", (10_000, 10_000_000), "i8", chunks=(1, 100_000), compression="gzip")


HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "a link to another file": (_linked, "a link, which is not followed"),
    "external storage": (_external, "other files"),
    "a bomb": (_bomb, r"its shape is \(10000, 10000000\)"),
    "a virtual row": (lambda f: _replaced(f, "used", np.zeros((2, 1437), "i8"), maxshape=(None, 1437), chunks=(1, 100)), "fixed size"),
    "floats": (lambda f: _replaced(f, "used", f["labels/used"][()].astype("f8")), "not numbers"),
    "a label beyond the classes": (lambda f: f["labels/used"].__setitem__((1, 3), 10), r"/labels/used: labels are from 0 to 9; found 10 at \(1, 3\)"),
    "a label below 0": (lambda f: f["labels/clean"].__setitem__(2, -1), r"found -1 at \(2,\)"),
    "unsigned labels past int64": (lambda f: _replaced(f, "used", np.full((2, 1437), 2**64 - 1, "u8")), "found 18446744073709551615"),
    "marks that are wrong": (lambda f: f["labels/noisy"].__setitem__((0, 0), 1 - f["labels/noisy"][0, 0]), "does not mark"),
    "another order": (lambda f: f["labels/example"].__setitem__(0, 7), "not the positions"),
    "a seed twice": (lambda f: f["labels/seed"].__setitem__(1, 0), "not seeds that rise"),
    "a seed below 0": (lambda f: f["labels/seed"].__setitem__(0, -1), "not seeds that rise"),
    "a seed too many": (lambda f: _replaced(f, "seed", np.arange(3)), r"\(2,\) fits"),
    "no seed": (lambda f: f["labels"].__delitem__("seed"), "/labels/seed: missing"),
    "fewer true labels": (lambda f: _replaced(f, "clean", np.zeros(1436, "i8")), r"\(1437,\) fits"),
    "no labels": (lambda f: f.__delitem__("labels"), "missing"),
    "an empty table": (lambda f: _replaced(f, "used", np.zeros((0, 1437), "i8")), "its shape is"),
    "one row": (lambda f: _replaced(f, "used", np.zeros(1437, "i8")), "its shape is"),
    "classes as text": (lambda f: f.attrs.__setitem__("classes", "10"), "its number of classes is '10'"),
    "no classes": (lambda f: f.attrs.__delitem__("classes"), "its number of classes"),
    "a thousand million classes": (lambda f: f.attrs.__setitem__("classes", 10**9), "its number of classes"),
    "a fingerprint that is none": (lambda f: f.attrs.__setitem__("dataset_fingerprint", "../x"), "its dataset fingerprint"),
    "a run's store": (lambda f: f.attrs.__setitem__("prunecli_type", "store"), "not a prunecli labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_its_record_vouches_for_is_still_read_as_a_strangers(store, case):
    change, told = HOSTILE[case]
    remade(store, change)
    with pytest.raises(DamagedRun, match=told):
        read_labels(store)
    done = prunecli_("check", str(store))
    assert (done.exit_code, done.stdout) == (3, "labels.h5: damaged\n")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_bytes_are_changed_nothing_but_an_error_or_a_sound_store_comes_of_it(sealed, data):
    """Under a record that vouches for it: what the guard lets through obeys the laws of a label store."""
    content = bytearray(sealed.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_labels(bytes(content), "it.h5")
    except PrunecliError:
        return
    assert found.used.shape == (len(found.seeds), len(found.clean))
    assert ((found.used >= 0) & (found.used < found.classes)).all()


def test_check_knows_a_label_store(store):
    done = prunecli_("check", str(store))
    assert (done.exit_code, done.stdout) == (0, "labels.h5: sound\n")
    damaged_byte(store)
    assert prunecli_("check", str(store)).exit_code == 3


# --- The layout by itself


def made(seeds: int = 2, examples: int = 600, classes: int = 5, seed: int = 0) -> LabelStore:
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, classes, examples)
    used = np.where(rng.random((seeds, examples)) < 0.3, rng.integers(0, classes, (seeds, examples)), clean)
    return LabelStore(tuple(range(seeds)), clean, used, classes, "f" * 64, "labels")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 900), st.integers(1, 300), st.integers(0, 99))
def test_what_is_encoded_is_decoded(seeds: int, examples: int, classes: int, seed: int) -> None:
    store = made(seeds, examples, classes, seed)
    data = encode_labels(store)
    found = decode_labels(data, "it.h5")
    assert (found.seeds, found.classes, found.fingerprint) == (store.seeds, store.classes, store.fingerprint)
    assert np.array_equal(found.clean, store.clean)
    assert np.array_equal(found.used, store.used)
    assert encode_labels(store) == data


def test_nothing_is_written_that_could_not_be_read_again(monkeypatch) -> None:
    monkeypatch.setattr(label_stores, "MOST", 20_000)
    assert decode_labels(encode_labels(made(1, 600)), "it.h5").seeds == (0,)
    with pytest.raises(UsageError, match="draw fewer seeds at once"):
        encode_labels(made(3, 600))


def test_labels_that_do_not_compress_are_read(folder) -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 1_000_000, 20_000)
    store = LabelStore((3,), clean, rng.integers(0, 1_000_000, (1, 20_000)), 1_000_000, "a" * 64)
    seal_labels(Path("random.h5"), encode_labels(store), store)
    found, digest = read_labels(Path("random.h5"))
    assert np.array_equal(found.used, store.used)
    assert digest == sha256(Path("random.h5").read_bytes())
    assert facts_of(found) == facts_of(store)


def test_stores_are_read_without_torch() -> None:
    code = "import prunecli.store.labels, sys; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_newer_store_is_told_as_newer(store) -> None:
    newer(store)
    with pytest.raises(NewerFormat):
        read_labels(store)


def test_a_store_that_is_not_there_is_told(folder) -> None:
    with pytest.raises(DamagedRun, match=r"none\.h5: no such file"):
        read_labels(Path("none.h5"))
    Path("small.yaml").write_text(RECIPE.replace("{uniform: {fraction: 0.3}}", "{file: {path: none.h5}}"))
    with pytest.raises(EnvironmentMissing, match=r"small\.yaml:[0-9]+:[0-9]+: labels 'none\.h5' is not"):
        load(Path("small.yaml"))
