"""Scoring runs side by side, kept midway, foreseen, and each at one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from conftest import SMALL
from test_score_command import EL2N, FEW, FORGETTING, MEMORIZATION, NOISY, Asking, prepared, scored
from typer.testing import CliRunner

from prunecli import score_outlook, score_runs
from prunecli.cli.app import app
from prunecli.errors import Diverged, Stopped, UsageError
from prunecli.progress import Said
from prunecli.registry import Choice
from prunecli.score_outlook import foresee_scoring
from prunecli.score_plan import Scoring
from prunecli.score_runs import EpochTrained, Event, RunScored
from prunecli.scoring import carry_out_scoring
from prunecli.store import lock
from prunecli.store.lock import locked_while_held
from prunecli.store.scores import ScoreStore
from prunecli.store.sealing import record_path

RECIPE = SMALL.replace("seeds: [0]", "seeds: [0, 1]").replace("epochs: 2", "epochs: 3")
EVERY = (EL2N, FORGETTING, MEMORIZATION)


def with_settings(asked: Scoring, **settings: object) -> Scoring:
    from dataclasses import replace

    return replace(asked, settings=replace(asked.settings, **settings))


def carried_out(folder: Path, *, heard: list[Event] | None = None, **settings: object) -> ScoreStore:
    """Three scores of two seeds' noisy labels, under these settings."""
    asked = with_settings(prepared(folder, NOISY, scores=EVERY), **settings)
    return carry_out_scoring(asked, ([] if heard is None else heard).append)


def command(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    return CliRunner().invoke(app, ["score", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> bytes:
    """The bytes of an undisturbed command's store."""
    path = tmp_path_factory.mktemp("made")
    carried_out(path)
    return (path / "scores.h5").read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a recipe."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- Side by side


def test_scoring_runs_side_by_side_give_the_bytes_of_one_after_the_other(made, folder):
    scores = [
        "--score",
        "el2n",
        "--score",
        "forgetting",
        "--score",
        "{memorization: {runs: 4, fraction: 0.5}}",
    ]
    done = command("small.yaml", FEW, NOISY, *scores, "--runs-per-seed", "2", "--workers", "2")
    assert done.exit_code == 0, done.stderr
    assert Path("scores.h5").read_bytes() == made
    sealed = [line for line in done.stderr.splitlines() if " sealed (" in line]
    assert [line.partition(" sealed (")[2].partition(")")[0] for line in sealed] == [
        f"{number} of 12" for number in range(1, 13)
    ]
    assert len({line.partition(" sealed")[0] for line in sealed}) == 12
    assert "epoch 1: loss" in done.stderr


def test_a_signal_ends_those_side_by_side_and_the_same_command_goes_on(made, tmp_path):
    processes = []

    class Counting(Asking):
        def append(self, event: Event) -> None:
            processes.append(len(multiprocessing.active_children()))
            super().append(event)

    with pytest.raises(Stopped, match="the same command goes on from there"):
        carried_out(tmp_path, workers=2, heard=Counting(RunScored, 1))
    assert max(processes) == 2
    assert not (tmp_path / "scores.h5").exists()
    again: list[Event] = []
    carried_out(tmp_path, heard=again)
    assert 0 < sum(isinstance(event, RunScored) for event in again) <= 10
    assert (tmp_path / "scores.h5").read_bytes() == made


def test_a_scoring_run_that_diverges_in_a_process_of_its_own_is_named(tmp_path):
    asked = with_settings(prepared(tmp_path, "learning_rate=1e6", "examples=all", epoch=3.0), workers=2)
    with pytest.raises(Diverged, match=r"seed 0, scoring run \d of 2: epoch \d, step"):
        carry_out_scoring(asked, [].append)


# --- Kept midway


def stopped_inside(folder: Path, epochs: int, **settings: object) -> Path:
    """The folder of what is kept of the scoring run that was stopped after so many epochs."""
    heard = Asking(EpochTrained, epochs - 1)
    with pytest.raises(Stopped, match=rf"scoring run 1 of 2 is kept up to epoch {epochs}"):
        carried_out(folder, heard=heard, **settings)
    (kept,) = (folder / "runs" / ".scores").glob("*/seed-0/run-00000")
    return kept


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_scoring_run_goes_on_inside_to_the_same_bytes(made, tmp_path, epochs):
    """Two kinds of scores look at it after each epoch, and one at its first."""
    kept = stopped_inside(tmp_path, epochs)
    assert {path.name for path in kept.glob("*.safetensors")} == {"slot-a.safetensors"}
    again: list[Event] = []
    carried_out(tmp_path, heard=again)
    trained = [event for event in again if isinstance(event, EpochTrained)]
    seen = [event.seen.spent for event in trained if event.run == trained[0].run]
    assert max(seen) == 3.0
    assert min(seen) > epochs
    assert (tmp_path / "scores.h5").read_bytes() == made
    assert not list((tmp_path / "runs").rglob("slot*"))


def test_a_run_on_a_subset_goes_on_inside_too(made, tmp_path):
    asked = {"scores": (MEMORIZATION,), "output": "some.h5"}
    scored(tmp_path, NOISY, **asked)
    data = (tmp_path / "some.h5").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Stopped, match="on a subset for memorization is kept up to epoch 2"):
        scored(other, NOISY, heard=Asking(EpochTrained, 0), **asked)
    again: list[Event] = []
    scored(other, NOISY, heard=again, **asked)
    assert next(event.seen.spent for event in again if isinstance(event, EpochTrained)) > 2
    assert (other / "some.h5").read_bytes() == data


def test_what_is_kept_at_every_step_changes_no_byte(made, tmp_path):
    carried_out(tmp_path, checkpoint=0)
    assert (tmp_path / "scores.h5").read_bytes() == made
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == [".scores"]


def test_of_a_sealed_scoring_run_nothing_is_kept_midway(tmp_path):
    with pytest.raises(Stopped, match="2 sealed before are safe"):
        carried_out(tmp_path, checkpoint=0, heard=Asking(RunScored, 1))
    names = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert sorted(names) == [f"run-{number:05d}.h5{end}" for number in (0, 1) for end in ("", ".json")]


def spoiled_look(kept: Path) -> None:
    look = min(kept.glob("look-*.h5"))
    data = look.read_bytes()
    look.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lost_look(kept: Path) -> None:
    look = min(kept.glob("look-*.h5"))
    look.unlink()
    record_path(look).unlink()


def spoiled_slot(kept: Path) -> None:
    (kept / "slot-a.safetensors").write_bytes(b"")


@pytest.mark.parametrize("damage", [spoiled_look, lost_look, spoiled_slot])
def test_where_what_is_kept_is_damaged_the_scoring_run_begins_anew(made, tmp_path, damage):
    damage(stopped_inside(tmp_path, 2))
    again: list[Event] = []
    carried_out(tmp_path, heard=again)
    assert next(event.seen.spent for event in again if isinstance(event, EpochTrained)) == 1.0
    said = "\n".join(event.message for event in again if isinstance(event, Said))
    assert "begins anew" in said or "moved to quarantine: slot-a" in said
    assert (tmp_path / "scores.h5").read_bytes() == made


def test_what_was_kept_under_other_conditions_is_not_gone_on_from(made, tmp_path, monkeypatch):
    conditions = score_runs.conditions_of
    monkeypatch.setattr(
        score_runs, "conditions_of", lambda *given: {**conditions(*given), "device": "abacus"}
    )
    stopped_inside(tmp_path, 2)
    monkeypatch.undo()
    again: list[Event] = []
    carried_out(tmp_path, heard=again)
    assert next(event.seen.spent for event in again if isinstance(event, EpochTrained)) == 1.0
    assert (tmp_path / "scores.h5").read_bytes() == made


def test_a_killed_command_goes_on_from_what_it_kept(folder):
    """What a process leaves that could not clear up: its locks, half-written files, and slots."""
    words = [sys.executable, "-m", "prunecli", "score", "small.yaml", FEW, "epochs=400", "--epoch", "400"]
    words += ["--runs-per-seed", "1", "learning_rate=0.01"]
    process = subprocess.Popen([*words, "--checkpoint", "0"], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " epoch " in line and int(line.rpartition(" epoch ")[2].partition(":")[0]) > 1:
            process.kill()
            break
    process.wait()
    process.stderr.close()
    assert list(Path("runs/.scores").glob("*/lock"))
    assert Path(".scores.h5.lock").exists()
    done = command(*words[4:])
    assert done.exit_code == 0, done.stderr
    epochs = [line for line in done.stderr.splitlines() if " epoch " in line]
    assert int(epochs[0].rpartition(" epoch ")[2].partition(":")[0]) > 1
    assert command(*words[4:], "-o", "undisturbed.h5", "--runs", "other").exit_code == 0
    assert Path("undisturbed.h5").read_bytes() == Path("scores.h5").read_bytes()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


# --- Foreseen


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(folder):
    arguments = ["small.yaml", FEW, NOISY, "--score", "el2n", "--score", "{memorization: {runs: 4}}"]
    arguments += ["--runs-per-seed", "2"]
    done = command(*arguments, "--dry-run")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "small: mlp(hidden=[16]) on digits"
    assert "  seed 1      4 scoring runs on subsets for memorization, 0 sealed already" in lines
    assert "  in all      12 scoring runs, 28 epochs to train" in lines
    assert lines[-1] == "  output      scores.h5"
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


def test_a_dry_run_knows_what_is_sealed_and_what_is_complete(tmp_path):
    with pytest.raises(Stopped):
        carried_out(tmp_path, heard=Asking(RunScored, 2))
    before = sorted(tmp_path.rglob("*"))
    found = foresee_scoring(prepared(tmp_path, NOISY, scores=EVERY))
    assert (found.complete, len(found.missing), found.epochs) == (False, 9, 9 * 3)
    assert found.seconds > 0
    told = score_outlook.as_json(found)
    assert [one["sealed"] for one in told["scoring_runs"]] == [True] * 3 + [False] * 9
    assert sorted(tmp_path.rglob("*")) == before
    carried_out(tmp_path)
    found = foresee_scoring(prepared(tmp_path, NOISY, scores=EVERY))
    assert (found.complete, found.missing, found.epochs, found.seconds) == (True, (), 0, 0)


def test_a_dry_run_counts_a_damaged_part_as_none_and_leaves_it(tmp_path):
    with pytest.raises(Stopped):
        carried_out(tmp_path, heard=Asking(RunScored, 0))
    (part,) = (tmp_path / "runs/.scores").glob("*/seed-0/run-00000.h5")
    part.write_bytes(b"spoiled")
    assert len(foresee_scoring(prepared(tmp_path, NOISY, scores=EVERY)).missing) == 12
    assert part.read_bytes() == b"spoiled"


def test_the_bytes_foreseen_are_enough(made, tmp_path):
    found = foresee_scoring(prepared(tmp_path, NOISY, scores=EVERY))
    with pytest.raises(Stopped):
        carried_out(tmp_path, heard=Asking(RunScored, 10))
    parts = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in parts) < found.bytes_of_parts
    assert len(made) < found.bytes_of_store


def test_json_of_a_dry_run(folder):
    done = command("small.yaml", FEW, "--runs-per-seed", "3", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert (told["schema"], told["path"], told["complete"]) == ("prunecli/scoring", "scores.h5", False)
    assert (told["epochs"], len(told["scoring_runs"])) == (3.0, 3)
    assert told["scores"] == [{"score": "el2n", "epoch": 1.0, "runs": 3}]


# --- Room


def test_a_disk_without_room_is_found_before_anything_is_trained(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    done = command("small.yaml", FEW)
    assert done.exit_code == 74
    said = "runs: 0.0 MB are free, and the scoring runs and the store need"
    assert said in done.stderr
    assert " epoch " not in done.stderr
    assert not list(Path("runs").rglob("*.h5"))


def test_room_is_needed_for_what_is_not_sealed_alone(tmp_path):
    asked = prepared(tmp_path, NOISY, scores=EVERY)
    needed: list[int] = []

    def check(there: Path, named: Path, bytes_: int, what: str, option: str) -> None:
        needed.append(bytes_)

    before, score_outlook._check_free = score_outlook._check_free, check
    try:
        for count in (12, 5, 0):
            score_outlook.check_room(asked, asked.runs[:count])
    finally:
        score_outlook._check_free = before
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == foresee_scoring(asked).bytes_of_store


# --- One process at a time


@contextmanager
def held(path: Path):
    """Another process that holds a lock until the block ends."""
    code = (
        "import sys, pathlib\nfrom prunecli.store.lock import locked_while_held\n"
        "path = pathlib.Path(sys.argv[1])\nwith locked_while_held(path, path):\n"
        "    print('held', flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.communicate()


def test_another_process_at_the_same_output_is_named_and_the_command_ends_with_75(folder):
    with held(folder / ".scores.h5.lock") as process:
        done = command("small.yaml", FEW, "--score", "loss")
        assert done.exit_code == 75
        assert f"scores.h5: being written by process {process.pid} on " in done.stderr
        assert "wait for it, or stop it first; or give another --output FILE" in done.stderr
        assert not Path("runs").exists()
    assert not (folder / ".scores.h5.lock").exists()
    assert command("small.yaml", FEW, "--score", "loss", "--runs-per-seed", "1").exit_code == 0


def test_what_another_process_wrote_meanwhile_is_not_overwritten(folder, monkeypatch):
    first, second = prepared(folder), prepared(folder, scores=(Choice("scores", "loss"),))
    carry_out_scoring(first, [].append)
    with pytest.raises(UsageError, match="holds other scores"):
        carry_out_scoring(second, [].append)
    heard: list[Event] = []
    carry_out_scoring(prepared(folder), heard.append)
    assert [event.message for event in heard] == [f"{folder / 'scores.h5'}: complete; nothing to do"]


def test_a_lock_is_there_while_it_is_held_and_no_longer(tmp_path):
    path = tmp_path / "inside" / "lock"
    with locked_while_held(path, tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()
        with (
            pytest.raises(
                Stopped, match=rf"{tmp_path}: being written by process {os.getpid()} on .*; or else"
            ),
            locked_while_held(path, tmp_path, otherwise="or else"),
        ):
            raise AssertionError
        assert path.exists()
    assert not path.exists()


def test_a_lock_whose_name_went_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """Its holder removes it, and perhaps its folder, between the other's opening and its taking of it."""
    path, taken, take = tmp_path / "inside" / "lock", [], lock._take

    def slow(descriptor: int, *given: object) -> None:
        if not taken:
            path.unlink()
            path.parent.rmdir()
        taken.append(os.fstat(descriptor).st_ino)
        take(descriptor, *given)

    monkeypatch.setattr(lock, "_take", slow)
    with locked_while_held(path, tmp_path):
        assert len(taken) == 2
        assert path.stat().st_ino == taken[1]
