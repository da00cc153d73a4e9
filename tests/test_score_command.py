"""`prunecli score`: its store, going on after an interruption, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray
from click.testing import Result
from conftest import SMALL
from typer.testing import CliRunner

from prunecli.building import LEFT_OUT, TRAINING, make_targets
from prunecli.cli.app import app
from prunecli.errors import DamagedRun, NotComparable, Stopped, UsageError
from prunecli.lab import make_lab
from prunecli.progress import Said
from prunecli.recipe.load import load_text
from prunecli.registry import Choice
from prunecli.runs import Settings
from prunecli.score_checks import prepare_scoring
from prunecli.score_plan import Asked, Scoring
from prunecli.score_runs import EpochTrained, Event, RunScored
from prunecli.scoring import carry_out_scoring
from prunecli.store.inspection import check_file
from prunecli.store.scores import ScoreStore, read_scores, runs_of
from prunecli.store.sealing import record_of, record_path
from prunecli.store.sealing import replace as put

RECIPE = SMALL.replace("seeds: [0]", "seeds: [0, 1]").replace("epochs: 2", "epochs: 3")
NOISY = "labels={uniform: {fraction: 0.2}}"
FEW = "examples={first: {count: 300}}"
EL2N = Choice("scores", "el2n")
MEMORIZATION = Choice("scores", "memorization", {"runs": 4, "fraction": 0.5})
FORGETTING = Choice("scores", "forgetting")


def prepared(
    folder: Path,
    *overrides: str,
    scores: tuple[Choice, ...] = (EL2N,),
    every_seed: bool = False,
    output: str = "scores.h5",
    **asked: object,
) -> Scoring:
    recipe = load_text(RECIPE, "small.yaml", [FEW, *overrides], stem="small")
    settings = Settings(runs=folder / "runs")
    every = Asked(scores, **{"runs": 2, **asked})
    return prepare_scoring(recipe, every, settings, folder / output, every_seed=every_seed)


def scored(folder: Path, *overrides: str, heard: list[Event] | None = None, **asked: object) -> ScoreStore:
    return carry_out_scoring(
        prepared(folder, *overrides, **asked), [].append if heard is None else heard.append
    )


def command(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    return CliRunner().invoke(app, ["score", *arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a recipe."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder with a store of three scores of noisy labels, of two seeds."""
    path = tmp_path_factory.mktemp("made")
    scored(path, NOISY, scores=(EL2N, FORGETTING, MEMORIZATION))
    return path


@pytest.fixture
def store(made, tmp_path) -> Path:
    """A copy of its score store, to be changed."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made" / "scores.h5"


# --- The store


def test_a_store_has_every_run_and_their_means(made):
    found, data = read_scores(made / "scores.h5"), (made / "scores.h5").read_bytes()
    assert list(found.scores) == ["el2n", "forgetting", "memorization"]
    assert found.seeds == (0, 1)
    for name, runs in (("el2n", 2), ("forgetting", 2), ("memorization", 4)):
        one = runs_of(data, name, "it")
        assert one.shape == (2, runs, 1437)
        np.testing.assert_array_equal(one.mean(axis=1), found.scores[name].values)
        assert found.scores[name].runs == runs
    assert [score.epoch for score in found.scores.values()] == [1.0, 3.0, 3.0]


def test_a_store_is_labelled_for_its_readers(made):
    with h5py.File(made / "scores.h5") as file:
        about = dict(file.attrs)
        assert (about["prunecli_type"], about["format_version"], about["runs"]) == ("scores", 1, 4)
        assert about["epoch"] == 3.0
        assert {"dataset_fingerprint", "recipe_digest", "scoring_digest", "prunecli_version"} <= set(about)
        assert json.loads(file["scores/memorization"].attrs["options"]) == {
            "memorization": {"fraction": 0.5, "runs": 4}
        }
        assert json.loads(file["provenance/scoring"][()])["runs"] == 2
    tree = xarray.open_datatree(made / "scores.h5", engine="h5netcdf")
    assert tree["scores"]["el2n"].dims == ("seed", "example")
    assert tree["scores"]["memorization_runs"].dims == ("seed", "memorization_run", "example")
    assert tree["scores"]["el2n_stability"].dims == ("seed",)


def test_a_store_has_the_labels_that_every_run_of_the_seed_uses(made, digits):
    found = read_scores(made / "scores.h5")
    experiment = load_text(RECIPE, "r", [FEW, NOISY]).points[0].experiment
    for row, seed in enumerate((0, 1)):
        targets = make_targets(experiment, seed, digits)
        np.testing.assert_array_equal(found.labels[row], targets.used)
        np.testing.assert_array_equal(found.split[row], targets.split)
        assert found.row(seed, targets.used.numpy()) == row
    assert (found.labels[0] != found.labels[1]).any()
    np.testing.assert_array_equal(found.clean, digits.train.labels)


def test_memorization_is_defined_where_an_example_can_be_trained_on(made):
    found = read_scores(made / "scores.h5")
    np.testing.assert_array_equal(np.isnan(found.scores["memorization"].values), found.split == LEFT_OUT)


@pytest.mark.parametrize("overrides", [[], ["labels={uniform: {fraction: 0}}"]])
def test_where_labels_are_clean_one_row_serves_all_seeds(tmp_path, overrides):
    found = scored(tmp_path, *overrides)
    assert found.seeds == (0,)
    assert found.row(0, found.clean) == found.row(77, found.clean) == 0


def test_asked_for_seeds_have_rows_of_their_own(tmp_path):
    found = scored(tmp_path, every_seed=True)
    assert found.seeds == (0, 1)
    assert (found.scores["el2n"].values[0] != found.scores["el2n"].values[1]).any()
    with pytest.raises(NotComparable, match="no scores of seed 5"):
        found.row(5, found.clean)


def test_another_label_draw_is_refused(made):
    found = read_scores(made / "scores.h5")
    with pytest.raises(NotComparable, match=r"another label draw: [0-9,]+ of 1,437 labels differ"):
        found.row(0, found.labels[1])
    with pytest.raises(NotComparable, match="are of 1,437 training examples; the run has 3"):
        found.row(0, np.zeros(3, dtype=np.int64))


def test_two_commands_give_the_same_bytes(made, tmp_path):
    scored(tmp_path, NOISY, scores=(MEMORIZATION, EL2N, FORGETTING))
    assert (tmp_path / "scores.h5").read_bytes() == (made / "scores.h5").read_bytes()


def test_nothing_of_the_work_is_left(made):
    assert [path.name for path in (made / "runs").rglob("*")] == [".scores"]
    assert sorted(path.name for path in made.iterdir()) == ["runs", "scores.h5", "scores.h5.json"]


def test_procedure_observers_and_prunable_weights_change_no_score(tmp_path):
    first = prepared(tmp_path, "procedure=[train, {prune: {fraction: 0.5}}, rewind, train]", "observe=[]")
    second = prepared(tmp_path, "prunable={include: ['*weight']}")
    assert (first.recipe_digest, first.whole) == (second.recipe_digest, second.whole)
    for override in (
        "epochs=4",
        "optimizer=sgd",
        "batch_size=150",
        "examples=all",
        "model={mlp: {hidden: [9]}}",
    ):
        assert prepared(tmp_path, override).recipe_digest != first.recipe_digest


def test_a_training_stages_own_learning_rate_is_followed(tmp_path):
    asked = prepared(
        tmp_path, "procedure=[{train: {until: 2, learning_rate: 0.5}}, {prune: {fraction: 0.1}}, train]"
    )
    lab = asked.lab(asked.runs[0])
    assert [asked.rate_at(lab)(epoch) for epoch in (0, 1.9, 2)] == [0.5, 0.5, lab.rate_at()(2)]
    assert asked.recipe_digest != prepared(tmp_path).recipe_digest


# --- What scoring runs share, and what is their own


def test_scoring_runs_differ_from_each_other_and_from_every_evaluated_run(tmp_path, digits):
    asked = prepared(tmp_path, NOISY, scores=(EL2N, MEMORIZATION))
    labs = [asked.lab(run) for run in asked.runs]
    assert len({lab.drawing for lab in labs}) == len(labs) == 12
    assert all(lab.drawing >= 2**62 > 2**31 for lab in labs)
    evaluated = make_lab(asked.experiment, 0, digits, torch.device("cpu"))
    first = [next(iter(lab.initial().weights.values())) for lab in (evaluated, *labs)]
    assert not any(torch.equal(a, b) for n, a in enumerate(first) for b in first[:n])
    order = [next(lab._batches(0, 0, 1, 0, lab.rate_at())).labels for lab in (evaluated, labs[0], labs[1])]
    assert not torch.equal(order[0], order[1])
    assert not torch.equal(order[1], order[2])


def test_scoring_runs_share_their_seeds_labels_and_split(tmp_path, digits):
    asked = prepared(tmp_path, NOISY, "validation=0.1", scores=(EL2N, MEMORIZATION))
    for run in asked.runs:
        targets, lab = make_targets(asked.experiment, run.seed, digits), asked.lab(run)
        assert torch.equal(lab.targets.used, targets.used)
        if run.score is None:
            assert torch.equal(lab.targets.split, targets.split)
        else:
            inside = lab.targets.split == TRAINING
            assert torch.equal(inside | (targets.split == TRAINING), targets.split == TRAINING)
            assert 0 < int(inside.sum()) < int((targets.split == TRAINING).sum())
            assert torch.equal(lab.targets.split == 1, targets.split == 1)


# --- Going on


class Asking(list[Event]):
    """Remembers events, and has this process asked to stop at the one of a kind that is counted down to."""

    def __init__(self, kind: type, count: int) -> None:
        super().__init__()
        self.kind, self.left = kind, count

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, self.kind):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            self.left -= 1


@pytest.mark.parametrize(
    ("kind", "count", "safe"),
    [(EpochTrained, 0, 0), (RunScored, 0, 1), (EpochTrained, 10, 3), (RunScored, 6, 7)],
)
def test_a_command_that_was_stopped_goes_on_to_the_same_bytes(made, tmp_path, kind, count, safe):
    heard = Asking(kind, count)
    wanted = {"scores": (EL2N, FORGETTING, MEMORIZATION)}
    kept = r"(seed \d, scoring run \d of \d.* is kept up to epoch \d.*; )?"
    sealed = f"{safe} sealed before (is|are) safe" if safe else "none is sealed yet"
    with pytest.raises(
        Stopped, match=f"^stopped by SIGTERM: {kept}{sealed}; the same command goes on from there$"
    ):
        scored(tmp_path, NOISY, heard=heard, **wanted)
    assert sum(isinstance(event, RunScored) for event in heard) == safe
    assert not (tmp_path / "scores.h5").exists()
    again: list[Event] = []
    scored(tmp_path, NOISY, heard=again, **wanted)
    assert sum(isinstance(event, RunScored) for event in again) == 12 - safe
    assert (tmp_path / "scores.h5").read_bytes() == (made / "scores.h5").read_bytes()


def stopped_after(folder: Path, runs: int) -> Path:
    """The folder of parts of a command that was stopped after so many scoring runs."""
    with pytest.raises(Stopped):
        scored(folder, NOISY, heard=Asking(RunScored, runs - 1))
    (parts,) = (folder / "runs" / ".scores").iterdir()
    return parts


def test_a_command_deletes_no_parts_of_one_that_asked_for_more(tmp_path):
    scored(tmp_path, NOISY)
    with pytest.raises(Stopped):
        scored(tmp_path, NOISY, runs=5, output="more.h5", heard=Asking(RunScored, 3))
    there = sorted((tmp_path / "runs" / ".scores").glob("*/seed-*/*.h5"))
    assert len(there) == 4
    scored(tmp_path, NOISY)
    scored(tmp_path, NOISY, runs=1, output="fewer.h5")
    assert set(there) <= set((tmp_path / "runs" / ".scores").glob("*/seed-*/*.h5"))


def test_more_runs_go_on_from_fewer(tmp_path):
    stopped_after(tmp_path, 2)
    heard: list[Event] = []
    more = scored(tmp_path, NOISY, heard=heard, runs=3)
    assert sum(isinstance(event, RunScored) for event in heard) == 4
    other = tmp_path / "other"
    other.mkdir()
    np.testing.assert_array_equal(
        more.scores["el2n"].values, scored(other, NOISY, runs=3).scores["el2n"].values
    )


@pytest.mark.parametrize("which", ["part", "record"])
def test_a_damaged_part_is_set_aside_named_and_made_again(tmp_path, which):
    parts = stopped_after(tmp_path, 3)
    part = parts / "seed-0" / "run-00001.h5"
    spoiled = part if which == "part" else record_path(part)
    spoiled.write_bytes(spoiled.read_bytes()[:-5] + b"?????")
    heard: list[Event] = []
    found = scored(tmp_path, NOISY, heard=heard)
    said = "\n".join(event.message for event in heard if isinstance(event, Said))
    assert f"moved to quarantine: {record_path(part).name}.0, {part.name}.0; it is carried out again" in said
    assert sum(isinstance(event, RunScored) for event in heard) == 2
    assert len(list((parts / "quarantine").iterdir())) == 2
    other = tmp_path / "other"
    other.mkdir()
    np.testing.assert_array_equal(found.scores["el2n"].values, scored(other, NOISY).scores["el2n"].values)


def test_parts_of_other_conditions_are_told(tmp_path):
    parts = stopped_after(tmp_path, 1)
    part = parts / "seed-0" / "run-00000.h5"
    facts = json.loads(record_path(part).read_text())
    facts["conditions"]["device"] = "cuda abacus"
    put(record_path(part), record_of(part.read_bytes(), facts))
    heard: list[Event] = []
    scored(tmp_path, NOISY, heard=heard)
    assert any(isinstance(event, Said) and "on another device" in event.message for event in heard)


def test_a_process_that_died_before_it_wrote_the_record_is_gone_on_from(store):
    data = store.read_bytes()
    record_path(store).unlink()
    found = scored(store.parent, NOISY, scores=(EL2N, FORGETTING, MEMORIZATION))
    assert store.read_bytes() == data
    assert found.seeds == (0, 1)


def test_what_is_complete_is_not_done_again(store):
    heard: list[Event] = []
    scored(store.parent, NOISY, heard=heard, scores=(EL2N, FORGETTING, MEMORIZATION))
    assert [event.message for event in heard] == [f"{store}: complete; nothing to do"]


def test_another_process_at_the_same_scores_is_named(tmp_path):
    parts = stopped_after(tmp_path, 1)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib\nfrom prunecli.store.lock import locked\n"
         "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()", str(parts)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            Stopped, match=f"being written by process {holder.pid} .* the same scoring runs: wait"
        ):
            scored(tmp_path, NOISY)
    finally:
        holder.communicate()


def test_a_link_in_place_of_the_work_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".scores").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedRun, match="a symbolic link"):
        scored(tmp_path)


# --- Damaged and foreign stores


def changed(store: Path, change) -> None:
    """Change a store as a stranger would, who writes a record of it too."""
    facts = {
        k: v for k, v in json.loads(record_path(store).read_text()).items() if k not in ("size", "sha256")
    }
    with h5py.File(store, "r+") as file:
        change(file)
    put(record_path(store), record_of(store.read_bytes(), facts))


def reshaped(name: str, data: object):
    def change(file: h5py.File) -> None:
        del file[f"scores/{name}"]
        file["scores"].create_dataset(name, data=data)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.attrs.__setitem__("prunecli_type", "store"), "not a prunecli scores"),
        (lambda file: file.attrs.__setitem__("format_version", 99), "newer prunecli"),
        (lambda file: file.attrs.__setitem__("recipe_digest", "x"), "64 hexadecimal digits"),
        (lambda file: file["scores"].__delitem__("label"), "/scores/label: missing"),
        (reshaped("label", np.zeros((2, 3), np.int64)), r"/scores/label: its shape is \(2, 3\)"),
        (reshaped("seed", np.array([0, 0])), "distinct seeds"),
        (reshaped("seed", np.zeros((0,), np.int64)), "can be a row"),
        (reshaped("el2n_runs", np.zeros((2, 3, 1437))), "fits the rest"),
        (reshaped("label", np.full((2, 1437), b"x")), "not numbers"),
        (reshaped("el2n", np.zeros((2, 1437))), "its runs and average"),
        (lambda file: file["scores/el2n"].attrs.__setitem__("epoch", -1.0), "its epoch is -1.0"),
        (lambda file: file["scores/el2n"].__setitem__((0, 0), np.inf), "infinite"),
        (lambda file: [file["scores"].__delitem__(f"{n}_runs") for n in ("el2n", "forgetting", "memorization")], "no score"),
        (lambda file: [file["scores"].__delitem__("el2n"), file["scores"].__setitem__("el2n", h5py.ExternalLink("x", "y"))], "a link"),
    ],
)  # fmt: skip
def test_a_strangers_store_is_read_by_its_schema(store, change, said):
    changed(store, change)
    with pytest.raises(DamagedRun, match=said):
        read_scores(store)


def test_a_store_is_what_its_record_says_or_nothing(store):
    with pytest.raises(UsageError, match="no such score store"):
        read_scores(store.parent / "none.h5")
    data = store.read_bytes()
    store.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedRun, match="its content is not what"):
        read_scores(store)
    with pytest.raises(DamagedRun, match="its content is not what"):
        scored(store.parent, NOISY, scores=(EL2N, FORGETTING, MEMORIZATION))
    store.write_bytes(data)
    record_path(store).unlink()
    with pytest.raises(DamagedRun, match="no record beside it"):
        read_scores(store)


def test_check_finds_a_mean_that_is_none(store):
    assert check_file(store) == []
    changed(store, lambda file: file["scores/el2n"].__setitem__((0, 0), 0.123))
    assert check_file(store) == [f"{store}: /scores/el2n is not the mean of /scores/el2n_runs"]


def test_scores_are_read_without_torch(made):
    code = (
        "import sys, pathlib\nfrom prunecli.store.scores import read_scores\n"
        f"assert read_scores(pathlib.Path({str(made / 'scores.h5')!r})).seeds == (0, 1)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Refusals


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epoch": 3.5}, "--epoch 3.5: should be from 0 to 3, the recipe's epochs"),
        ({"epoch": float("nan")}, "should be from 0 to 3"),
        ({"epoch": 0.5, "scores": (FORGETTING,)}, "score 'forgetting' needs a training of 1 epoch or more"),
        ({"runs": 0}, "--runs-per-seed 0: should be from 1 to"),
        ({"runs": 100_000, "every_seed": True}, "a store has room for"),
        ({"scores": ()}, "no score is asked for"),
        ({"scores": (EL2N, EL2N)}, "--score el2n: is given twice"),
        ({"scores": (MEMORIZATION,), "average": "median"}, "needs --average mean"),
        ({"scores": (replace(MEMORIZATION, options={"runs": 3, "fraction": 0.1}),)}, "0.1 of 3 runs comes to 0"),
        ({"scores": (replace(MEMORIZATION, options={"runs": 3, "fraction": 0.9}),)}, "0.9 of 3 runs comes to 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_before_anything_is_trained(tmp_path, asked, said):
    with pytest.raises(UsageError, match=said):
        prepared(tmp_path, **asked)
    assert list(tmp_path.iterdir()) == []


def test_a_subset_without_examples_is_refused(tmp_path):
    with pytest.raises(UsageError, match="would train on none of the 2 training examples"):
        prepared(
            tmp_path,
            "examples={first: {count: 2}}",
            scores=(replace(MEMORIZATION, options={"runs": 9, "fraction": 0.1}),),
        )


def test_a_sweep_is_of_several_stores(folder):
    Path("swept.yaml").write_text(RECIPE + "sweep: {batch_size: [200, 300]}\n")
    done = command("swept.yaml")
    assert (done.exit_code, "sweep has 2 points" in done.stderr) == (2, True)
    done = command("swept.yaml", "batch_size=300", "--runs-per-seed", "1", "-q")
    assert (done.exit_code, done.stdout) == (0, "scores.h5\n")


def test_another_file_is_never_overwritten(folder, store):
    data = store.read_bytes()
    for arguments in (["--score", "loss"], ["epochs=2", NOISY], ["--runs-per-seed", "7", FEW, NOISY]):
        done = command("small.yaml", *arguments, "-o", str(store))
        assert (done.exit_code, "holds other scores" in done.stderr) == (2, True), done.stderr
    record_path(store).unlink()
    done = command("small.yaml", "-o", str(store))
    assert (done.exit_code, "is there already, and nothing is overwritten" in done.stderr) == (2, True)
    Path("notes.txt").write_text("mine")
    assert command("small.yaml", "-o", "notes.txt").exit_code == 2
    assert (store.read_bytes(), Path("notes.txt").read_text()) == (data, "mine")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--score el2m", "--score:1:1: unknown score 'el2m'; did you mean 'el2n'?"),
        (
            "--score {memorization:{rums:2}}",
            "score 'memorization' has no option 'rums'; did you mean 'runs'?",
        ),
        ("--score {memorization:{runs:1}}", "'runs' should be greater than or equal to 2; found 1"),
        ("--score python:os:getcwd", "'python:os:getcwd' runs code of its own; give --allow-code"),
        ("--runs-per-seed 0", "--runs-per-seed"),
        ("--epoch 9", "--epoch 9: should be from 0 to 3"),
        ("--seeds x", "--seeds x: should be like"),
        ("--mode test", "test"),
        ("--output no/scores.h5", "there is no folder no"),
        ("--output .", "is a folder; give a file"),
        ("--score grand --mode training", "it needs --mode evaluation"),
        ("procedure=[rewind,{rewind:{to:early}}]", "argument:1:"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_leaves_nothing(folder, arguments, said):
    words = [
        word.replace(":{", ": {").replace("s:", "s: ") if word.startswith("{") else word
        for word in arguments.split()
    ]
    done = command("small.yaml", *words)
    assert (done.exit_code, said in done.stderr, done.stdout) == (2, True, ""), done.stderr
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


def test_a_training_that_diverges_names_its_run(folder):
    done = command("small.yaml", "learning_rate=1e6", "--runs-per-seed", "2")
    assert done.exit_code == 7
    assert "seed 0, scoring run 1 of 2: epoch 1, step" in done.stderr
    assert not Path("scores.h5").exists()


# --- The command


def test_the_table_and_its_json_tell_the_same(folder):
    done = command(
        "small.yaml",
        FEW,
        NOISY,
        "--score",
        "el2n",
        "--score",
        "{memorization: {runs: 4}}",
        "--runs-per-seed",
        "3",
    )
    assert done.exit_code == 0, done.stderr
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == [
        "score",
        "seed",
        "runs",
        "epoch",
        "mean",
        "sd",
        "5%",
        "25%",
        "50%",
        "75%",
        "95%",
        "stability",
    ]
    assert [row[:4] for row in rows] == [
        ["el2n", "0", "3", "1"],
        ["el2n", "1", "3", "1"],
        ["memorization", "0", "4", "3"],
        ["memorization", "1", "4", "3"],
    ]
    told = json.loads(
        command(
            "small.yaml",
            FEW,
            NOISY,
            "--score",
            "el2n",
            "--score",
            "{memorization: {runs: 4}}",
            "--runs-per-seed",
            "3",
            "--json",
        ).stdout
    )
    assert (told["schema"], told["seeds"], told["examples"]) == ("prunecli/scores", [0, 1], 1437)
    for row, one in zip(rows, told["scores"], strict=True):
        numbers = [one["mean"], one["std"], *one["quantiles"].values(), one["stability"]]
        assert row[4:] == ["-" if number is None else f"{number:.4g}" for number in numbers]
    found = read_scores(Path("scores.h5")).scores["el2n"].values[0]
    assert told["scores"][0]["mean"] == pytest.approx(found.mean())
    assert told["scores"][0]["quantiles"]["95"] == pytest.approx(np.quantile(found, 0.95))


def test_one_run_has_no_stability_and_says_so(folder):
    done = command("small.yaml", "--runs-per-seed", "1")
    assert done.stdout.split()[-1] == "-"
    assert "with one scoring run there is no stability" in done.stderr
    told = json.loads(command("small.yaml", "--runs-per-seed", "1", "--json").stdout)
    assert told["scores"][0]["stability"] is None


def test_the_median_over_runs_can_be_asked_for(tmp_path):
    found = scored(tmp_path, runs=3, average="median")
    runs = runs_of((tmp_path / "scores.h5").read_bytes(), "el2n", "it")
    np.testing.assert_array_equal(found.scores["el2n"].values, np.median(runs, axis=1))
    assert check_file(tmp_path / "scores.h5") == []


def test_a_score_of_ones_own_is_one_function(folder, monkeypatch):
    Path("own_score.py").write_text(
        "from typing import Annotated\nfrom pydantic import Field\n\n"
        "def surest(logits, *, power: Annotated[float, Field(gt=0)] = 1.0):\n"
        "    return logits.softmax(1).amax(1) ** power\n"
    )
    score = "{'python:own_score:surest': {power: 2.0}}"
    done = command("small.yaml", "--score", score, "--runs-per-seed", "1", "--allow-code")
    assert done.exit_code == 0, done.stderr
    values = read_scores(Path("scores.h5")).scores["python:own_score:surest"].values
    assert ((values > 0) & (values <= 1)).all()


# --- A run's folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run."""
    path = tmp_path_factory.mktemp("trained")
    (path / "small.yaml").write_text(RECIPE)
    arguments = ["train", str(path / "small.yaml"), FEW, "--seeds", "0", "--runs", str(path / "runs"), "-q"]
    return Path(CliRunner().invoke(app, arguments).stdout.strip())


@pytest.fixture
def run(trained, folder) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained, folder / "runs" / trained.name))


def test_a_run_is_scored_by_its_recipe(run, folder):
    done = command(str(run), "--runs-per-seed", "1")
    assert done.exit_code == 0, done.stderr
    assert f"{run.name}: 1 scoring run, one row for all seeds" in done.stderr
    again = command("small.yaml", FEW, "--seeds", "0", "--runs-per-seed", "1", "-q")
    assert (again.exit_code, again.stdout) == (0, "scores.h5\n"), again.stderr


def spoilt(name: str, content: str):
    return lambda run: (run / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (spoilt("run.json", "{"), "run.json: cannot be read"),
        (lambda run: (run / "recipe.yaml").unlink(), "damaged: it has no recipe.yaml"),
        (spoilt("recipe.yaml", "model: {mlp"), "damaged: its recipe.yaml is no recipe"),
        (spoilt("recipe.yaml", "model: mpl\n"), "damaged: its recipe.yaml is no recipe"),
        (spoilt("recipe.yaml", RECIPE), "its recipe.yaml is not the recipe that the run was made by"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused(run, damage, said):
    damage(run)
    done = command(str(run))
    assert (done.exit_code, said in done.stderr) == (3, True), done.stderr
    assert not Path("scores.h5").exists()


def test_a_run_of_another_dataset_is_refused(run):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps({**content, "recipe_digest": "0" * 64, "dataset_fingerprint": "1" * 64})
    )
    done = command(str(run))
    assert (done.exit_code, "its dataset is another one than here" in done.stderr) == (3, True), done.stderr


def test_overrides_make_a_run_a_recipe(run):
    done = command(str(run), "batch_size=100", "--runs-per-seed", "1", "-q")
    assert done.exit_code == 0, done.stderr


# --- Signals, as a shell sends them


def test_sigterm_ends_with_75(folder):
    words = [
        sys.executable,
        "-m",
        "prunecli",
        "score",
        "small.yaml",
        "epochs=400",
        "--epoch",
        "400",
        "--runs-per-seed",
        "2",
    ]
    words += ["learning_rate=0.1", FEW]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " epoch " in line:
            process.send_signal(signal.SIGTERM)
            break
    said = process.stderr.read()
    assert process.wait() == 75, said
    assert "stopped by SIGTERM: seed 0, scoring run " in said
    assert not Path("scores.h5").exists()
