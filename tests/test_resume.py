"""Going on: what a stopped, damaged or otherwise found folder comes to, and what is said of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import typer
from conftest import SMALL, small

from prunecli.cli.output import command
from prunecli.cli.runs import _waits
from prunecli.determinism import held
from prunecli.engine import carry_out_all
from prunecli.errors import DamagedRun, EnvironmentMissing, Stopped, StorageError, UsageError
from prunecli.kept import dense_state
from prunecli.progress import EpochDone, Event, LevelDone, Said
from prunecli.recipe.load import load, load_text
from prunecli.runs import Settings, header_of, prepare, run_digest
from prunecli.state import Midway, Outcomes
from prunecli.stopping import Aborted
from prunecli.store import codec
from prunecli.store.lock import locked
from prunecli.store.sealing import record_of, record_path, seal
from prunecli.store.slots import Slots
from prunecli.store.states import decode, encode

PRUNING = "procedure=[train, {repeat: {times: 2, stages: [{prune: {fraction: 0.5}}, rewind, train]}}]"
OVERRIDES = [PRUNING, "epochs=1", "learning_rate=0.1", "examples={first: {count: 300}}"]


def recipe(*overrides: str):
    return load_text(SMALL, "small.yaml", [*OVERRIDES, *overrides], stem="small")


def carried_out(runs: Path, *overrides: str, **wanted: object) -> tuple[Path, list[Event]]:
    heard: list[Event] = []
    (finished,) = carry_out_all(recipe(*overrides), Settings(runs=runs, **wanted), heard.append)
    return finished.folder.path, heard


def said(heard: list[Event]) -> str:
    return "\n".join(event.message for event in heard if isinstance(event, Said))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of one seed and three levels that nothing disturbed."""
    return carried_out(tmp_path_factory.mktemp("whole"))[0]


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of it, with its states."""
    shutil.copytree(whole.parent, tmp_path / "runs")
    return tmp_path / "runs" / whole.name


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run whose first level is sealed, stopped inside its second."""
    runs = tmp_path / "stopped"

    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(
        Stopped, match=r"stopped by SIGTERM: seed 0, level 1 is kept up to epoch 1; level 0 is safe"
    ):
        carry_out_all(recipe(), Settings(runs=runs), interrupt)
    (path,) = runs.glob("small-*")
    return path


def test_a_signal_is_obeyed_where_the_work_can_be_gone_on_with(stopped, whole):
    path, heard = carried_out(stopped.parent)
    assert path == stopped
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
    assert {event.level for event in heard if isinstance(event, EpochDone)} == {1, 2}
    assert not (path / "parts").exists()


def slots_of(path: Path) -> Slots:
    (run,) = prepare(recipe(), Settings(runs=path.parent))
    return Slots(path / "parts" / "seed-0", run.folder.digest)


def contents(slots: Slots) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.exists() else b"" for path in slots.paths}


def test_slots_take_turns_and_the_newest_whole_one_counts(stopped, lab_of):
    slots, state = slots_of(stopped), lab_of().initial()
    for path in slots.paths:
        path.unlink(missing_ok=True)
        record_path(path).unlink(missing_ok=True)
    for steps in range(1, 6):
        before = contents(slots)
        slots.keep(Midway(0, 0, steps), state, "")
        assert slots.latest(())[0][0].steps == steps
        assert sum(contents(slots)[path] != before[path] for path in slots.paths) == 1
    newest = max(slots.paths, key=lambda path: json.loads(record_path(path).read_text())["number"])
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    found, damage = slots.latest(())
    assert found[0].steps == 4
    assert len(damage) == 1
    assert "moved to quarantine" in damage[0]
    assert len(list((stopped / "quarantine").iterdir())) == 2


def test_a_slot_of_another_chain_or_run_is_not_gone_on_with(stopped, lab_of):
    slots = slots_of(stopped)
    assert slots.latest(("another tip",))[0] is None
    found, damage = replace(slots, digest="0" * 64).latest(())
    assert found is None
    assert "belongs to another run" in damage[0]


@pytest.mark.parametrize(
    ("spot", "said_of_it"),
    [
        (Midway(1, 99), "a spot that the procedure has not"),
        (Midway(1, 0, 10**9), "more steps taken than its clocks say"),
        (Midway(1), "other weights than the recipe's model"),
    ],
)
def test_a_slot_that_does_not_fit_is_set_aside(stopped, whole, lab_of, spot, said_of_it):
    slots = slots_of(stopped)
    (run,) = prepare(recipe(), Settings(runs=stopped.parent))
    tip = run.folder.chain(0).tip
    for _ in range(2):
        slots.keep(spot, lab_of("model={mlp: {hidden: [3]}}").initial(), tip)
    path, heard = carried_out(stopped.parent)
    assert f"a resume slot has {said_of_it}; moved to quarantine: " in said(heard)
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_a_level_that_changed_after_it_was_sealed_is_not_merged(tmp_path, whole):
    """A disk that loses a byte while the run goes on: what is whole is kept, and the same command mends it."""
    runs = tmp_path / "runs"

    def spoil(event: Event) -> None:
        if isinstance(event, LevelDone) and event.level == 2:
            (part,) = runs.glob("small-*/parts/seed-0/level-01.h5")
            part.write_bytes(part.read_bytes()[:-1] + b"?")

    with pytest.raises(
        DamagedRun, match=r"seed 0 has 1 of 3 levels that are whole; the same command makes the others"
    ):
        carry_out_all(recipe(), Settings(runs=runs), spoil)
    path, _ = carried_out(runs)
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
    assert (path / "quarantine" / "level-01.h5.0").exists()


def test_a_level_that_cannot_be_made_again_as_it_was_stops_and_keeps_it(tmp_path):
    """Its state is gone, and what is sealed was made elsewhere: here its numbers are changed, its records honest."""
    runs = tmp_path / "runs"

    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(), Settings(runs=runs), interrupt)
    shutil.rmtree(runs / ".states")
    (run,) = prepare(recipe(), Settings(runs=runs))
    part = run.folder.part(0, 0)
    found = codec.decode_level(part.read_bytes(), "part")
    part.unlink()
    record_path(part).unlink()
    other = {**found.arrays, "test/loss": found.arrays["test/loss"] + 1}
    run.folder.seal_level(replace(found, arrays=other), header_of(run), "")
    with pytest.raises(
        EnvironmentMissing, match="seed 0, level 0: made again it has other numbers than the sealed one"
    ):
        carried_out(runs)
    assert part.exists()


def test_a_strangers_file_among_the_states_is_set_aside(tmp_path):
    (run,) = prepare(recipe(), Settings(runs=tmp_path))
    name = dense_state(run, Settings())
    path = tmp_path / ".states" / name / "seed-0.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    _, heard = carried_out(tmp_path)
    assert (path.parent / "quarantine" / "seed-0.safetensors.0").read_text() == "mine"
    assert "has no record beside it; moved to" in said(heard)


@pytest.mark.parametrize("name", ["run.json", "store.h5"])
def test_a_disk_that_is_full_at_the_beginning_or_at_the_merge_is_waited_for(
    tmp_path, whole, monkeypatch, name
):
    replace_file, failed = os.replace, []

    def full(source, target):
        if Path(target).name == name and not failed:
            failed.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    path, heard = carried_out(tmp_path, patience=(0.0,))
    assert f"{name}: the disk is full; " in said(heard)
    assert "trying again in 0 s" in said(heard)
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_nothing_is_written_or_deleted_through_a_linked_folder_of_states(tmp_path):
    (run,) = prepare(recipe(), Settings(runs=tmp_path))
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ".tmp-seed-0.safetensors-1-ab").write_text("precious")
    (tmp_path / ".states").mkdir()
    name = dense_state(run, Settings())
    (tmp_path / ".states" / name).symlink_to(victim)
    with pytest.raises(DamagedRun, match="a symbolic link, which is not followed"):
        carried_out(tmp_path)
    assert [path.name for path in victim.iterdir()] == [".tmp-seed-0.safetensors-1-ab"]


def test_a_record_that_names_two_stores_is_settled(run):
    store = run / "store.h5"
    whole_record = record_path(store).read_bytes()
    record = json.loads(whole_record)
    record_path(store).write_text(json.dumps({**record, "replaces": None}))
    carried_out(run.parent)
    assert record_path(store).read_bytes() == whole_record


def test_a_state_reads_back_as_it_was_with_its_spot(lab_of):
    state = lab_of().initial()
    seen = Outcomes(torch.rand(5), torch.rand(5) > 0.5)
    spot = Midway(3, 2, 17, {"before": seen})
    back, found = decode(encode(state, spot), "x")
    assert (found.level, found.stage, found.steps, set(found.around)) == (3, 2, 17, {"before"})
    assert torch.equal(found.around["before"].loss, seen.loss)
    assert torch.equal(found.around["before"].correct, seen.correct)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in state.weights.items())


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (2**62).to_bytes(8, "little") + b"{}", b"[" * 100_000])
def test_bytes_that_are_no_state_are_told(data):
    with pytest.raises(DamagedRun, match="not a state"):
        decode(data, "x")


def test_a_damaged_store_is_set_aside_and_made_again(run, whole):
    store = run / "store.h5"
    data = bytearray(store.read_bytes())
    data[len(data) // 2] ^= 1
    store.write_bytes(data)
    _, heard = carried_out(run.parent)
    assert "damaged" in said(heard)
    assert "moved to quarantine: store.h5.json.0, store.h5.0" in said(heard)
    assert store.read_bytes() == (whole / "store.h5").read_bytes()
    assert (run / "quarantine" / "store.h5.0").read_bytes() == data


def test_a_damaged_run_file_is_set_aside_and_written_again(run, whole):
    (run / "run.json").write_text("[" * 5000)
    (run / "store.h5").unlink()
    record_path(run / "store.h5").unlink()
    path, heard = carried_out(run.parent)
    assert path == run
    assert "moved to quarantine: run.json.0" in said(heard)
    assert json.loads((run / "run.json").read_text())["levels"] == 3
    assert (run / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_a_damaged_state_is_set_aside_and_made_again(stopped, whole):
    (state,) = (stopped.parent / ".states").glob("*/seed-0.safetensors")
    good = state.read_bytes()
    state.write_bytes(good[:-1])
    for slot in (stopped / "parts" / "seed-0").glob("slot-*"):
        slot.unlink()
    path, heard = carried_out(stopped.parent)
    assert f"moved to {state.parent / 'quarantine'}: seed-0.safetensors.json.0, seed-0.safetensors.0" in said(
        heard
    )
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_levels_behind_a_damaged_one_join_the_chain_again(tmp_path, whole):
    """Stopped with all three levels sealed, the first damaged: only what is needed for it is trained again."""
    runs = tmp_path / "runs"

    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone) and event.level == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(), Settings(runs=runs), interrupt)
    (part,) = runs.glob("small-*/parts/seed-0/level-01.h5")
    part.write_bytes(b"damage")
    path, heard = carried_out(runs)
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
    assert [event.level for event in heard if isinstance(event, LevelDone)] == [1]


def test_what_is_left_behind_goes_and_what_is_not_ours_is_kept(run):
    parts = run / "parts" / "seed-0"
    parts.mkdir(parents=True)
    for name in ("level-02.h5", "level-02.h5.json", "slot-a.safetensors", ".tmp-level-02.h5-1-ab"):
        (parts / name).write_bytes(b"ours")
    (parts / "notes.txt").write_bytes(b"mine")
    (run / ".tmp-store.h5-1-ab").write_bytes(b"half")
    _, heard = carried_out(run.parent)
    assert "moved to quarantine: notes.txt.0" in said(heard)
    assert (run / "quarantine" / "notes.txt.0").read_bytes() == b"mine"
    assert not (run / "parts").exists()
    assert not list(run.rglob(".tmp-*"))


def test_a_part_without_a_record_is_taken_over_or_set_aside(stopped, whole):
    """It was linked before its process died; the record that would vouch for it was not written."""
    folder = stopped / "parts" / "seed-0"
    (folder / "level-01.h5").write_bytes(b"something else")
    path, _ = carried_out(stopped.parent)
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()
    assert (path / "quarantine" / "level-01.h5.0").read_bytes() == b"something else"


def test_sealing_the_same_bytes_again_is_no_error_and_other_bytes_are(tmp_path):
    seal(tmp_path / "a", b"one")
    seal(tmp_path / "a", b"one")
    with pytest.raises(StorageError, match="sealed already with other content"):
        seal(tmp_path / "a", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_resume_under_other_conditions_is_said_and_recorded(stopped):
    content = json.loads((stopped / "run.json").read_text())
    content["versions"]["torch"], content["cpu_capability"] = "1.0.0", "NONE"
    (stopped / "run.json").write_text(json.dumps(content))
    path, heard = carried_out(stopped.parent)
    assert f"torch 1.0.0, now {version('torch')}; cpu_capability NONE, now " in said(heard)
    after = json.loads((path / "run.json").read_text())
    assert after["versions"]["torch"] == "1.0.0"
    assert after["resumes"][-1]["differs"][0].startswith("torch 1.0.0, now")


OTHER = "procedure=[train, {prune: {fraction: 0.9}}, rewind, train]"


def trained(heard: list[Event]) -> set[int]:
    return {event.level for event in heard if isinstance(event, EpochDone)}


def test_a_dense_training_under_other_conditions_is_not_shared(run, monkeypatch):
    """Its numbers may be others: it is trained again, and both are kept."""
    assert trained(carried_out(run.parent, OTHER)[1]) == {1}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NONE")
    assert trained(carried_out(run.parent, OTHER.replace("0.9", "0.8"))[1]) == {0, 1}
    assert len(list((run.parent / ".states").glob("*/seed-0.safetensors"))) >= 2


def test_a_run_goes_on_from_its_own_dense_training_under_other_conditions(stopped, monkeypatch):
    for slot in slots_of(stopped).paths:
        record_path(slot).unlink(missing_ok=True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NONE")
    path, heard = carried_out(stopped.parent)
    assert trained(heard) == {1, 2}
    assert "cpu_capability" in said(heard)
    assert (path / "store.h5").exists()


def test_the_name_of_a_state_that_is_no_name_is_not_followed(stopped, whole):
    """A stranger's record: where its state would be is where the run's own would be."""
    part = stopped / "parts" / "seed-0" / "level-00.h5"
    record = json.loads(record_path(part).read_text())
    record_path(part).write_text(json.dumps({**record, "state": "../../elsewhere"}))
    for slot in slots_of(stopped).paths:
        record_path(slot).unlink(missing_ok=True)
    path, heard = carried_out(stopped.parent)
    assert trained(heard) == {1, 2}
    assert (path / "store.h5").read_bytes() == (whole / "store.h5").read_bytes()


def test_a_runs_own_recipe_on_other_data_is_refused(run, tmp_path):
    given = load(run / "recipe.yaml")
    content = json.loads((run / "run.json").read_text())
    assert carry_out_all(given, Settings(runs=run.parent), lambda _event: None)[0].complete
    (run / "run.json").write_text(
        json.dumps({**content, "recipe_digest": "0" * 64, "dataset_fingerprint": "f" * 64})
    )
    with pytest.raises(EnvironmentMissing, match=r"the dataset is another one \(fingerprint f{12}, now "):
        carry_out_all(given, Settings(runs=tmp_path), lambda _event: None)
    (run / "run.json").write_text(json.dumps({**content, "recipe_digest": "0" * 64}))
    with pytest.raises(EnvironmentMissing, match=r"its recipe\.yaml was changed"):
        carry_out_all(given, Settings(runs=tmp_path), lambda _event: None)


def test_too_little_room_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    """What the system says of its disk is replaced: no test can fill one."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StorageError, match=r"0\.0 MB are free, and the next levels need [0-9.]+ MB"):
        carried_out(tmp_path)


def test_a_level_that_does_not_read_back_ends_the_run(tmp_path):
    """A disk that loses what it has just synced: nothing is made on it for ever."""
    done: list[int] = []

    def spoil(event: Event) -> None:
        if isinstance(event, LevelDone):
            done.append(event.level)
            (first,) = tmp_path.glob("small-*/parts/seed-0/level-00.h5")
            if event.level == len(done) - 1 == 1:
                raise KeyboardInterrupt
            if len(done) > 2:
                first.write_bytes(b"?")

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(), Settings(runs=tmp_path), spoil)
    (first,) = tmp_path.glob("small-*/parts/seed-0/level-00.h5")
    first.write_bytes(b"?")
    with pytest.raises(StorageError, match=r"level-00\.h5: does not read back as it was written"):
        carry_out_all(recipe(), Settings(runs=tmp_path), spoil)
    assert done == [0, 1, 0]


def test_a_folder_that_others_may_write_to_is_said(tmp_path):
    (run,) = prepare(recipe(), Settings(runs=tmp_path))
    run.folder.path.mkdir()
    run.folder.path.chmod(0o777)
    assert "others may write to it" in said(carried_out(tmp_path)[1])


def test_room_that_may_not_reach_to_the_end_is_said(tmp_path, monkeypatch):
    room = prepare(recipe(), Settings(runs=tmp_path))[0].room
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, room))
    heard = carried_out(tmp_path, "seeds=[0, 1, 2]")[1]
    assert "levels and stores may come to 0.8 MB in the end, before compression" in said(heard)


def test_a_complete_run_that_another_process_clears_is_complete(run):
    (run / "parts" / "seed-0").mkdir(parents=True)
    with locked(run):
        (finished,) = carry_out_all(recipe(), Settings(runs=run.parent), lambda _event: None)
    assert finished.complete
    assert (run / "parts").exists()
    carry_out_all(recipe(), Settings(runs=run.parent), lambda _event: None)
    assert not (run / "parts").exists()


def test_a_lock_names_its_holder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(Stopped, match=f"process {os.getpid()} on {socket.gethostname()}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_refused_and_its_target_left_alone(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock = tmp_path / "run" / "lock"
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(StorageError), locked(lock.parent):
        pass
    assert victim.read_text() == "precious"


def test_a_log_that_is_a_link_is_not_written_through(stopped, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (stopped / "log.jsonl").unlink()
    (stopped / "log.jsonl").symlink_to(victim)
    carried_out(stopped.parent)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", [".", "parts", "parts/seed-0", "quarantine"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(stopped, tmp_path, name):
    folder, elsewhere = stopped / name, tmp_path / "elsewhere"
    if folder.exists():
        folder.rename(elsewhere)
    else:
        elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(DamagedRun, match="symbolic link"):
        carried_out(stopped.parent)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_record_of_a_newer_prunecli_stops_and_moves_nothing(run):
    store = run / "store.h5"
    record_path(store).write_bytes(record_of(store.read_bytes(), {"version": 99}))
    with pytest.raises(DamagedRun, match="made by a newer prunecli"):
        carried_out(run.parent)
    assert not (run / "quarantine").exists()


@pytest.mark.parametrize("level", ["exact", "seeded", "fast"])
def test_determinism_is_held_and_given_back(level):
    def asked() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            cudnn.benchmark,
            cudnn.deterministic,
            torch.backends.cuda.matmul.allow_tf32,
        )

    before = asked()
    with held(level):
        expected = {
            "exact": (True, False, True, False),
            "seeded": (False,) * 4,
            "fast": (False, True, False, True),
        }
        assert asked() == expected[level]
    assert asked() == before


def test_determinism_names_another_run_and_gives_the_same_numbers_on_a_cpu(tmp_path, whole):
    digests = {run_digest(small(f"determinism={level}"), "f") for level in ("exact", "seeded", "fast")}
    assert len(digests) == 3
    path, _ = carried_out(tmp_path, "determinism=exact")
    assert json.loads((path / "run.json").read_text())["determinism"] == "exact"
    import h5py

    with h5py.File(path / "store.h5") as exact, h5py.File(whole / "store.h5") as seeded:
        assert (exact["examples/loss"][()] == seeded["examples/loss"][()]).all()


def test_an_optimizer_that_keeps_more_than_tensors_is_refused(lab_of, tmp_path, monkeypatch):
    (tmp_path / "keeping_numbers.py").write_text(
        "import torch\n"
        "class Counting(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        super().step(closure)\n"
        "        for group in self.param_groups:\n"
        "            for p in group['params']:\n"
        "                self.state[p]['steps'] = self.state[p].get('steps', 0) + 1\n"
        "def counting(parameters):\n"
        "    return Counting(parameters.values(), lr=0.1, momentum=0.9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    experiment = (
        load_text(
            SMALL,
            "x",
            ["optimizer=python:keeping_numbers:counting", "precision=float32", "memory_format=contiguous"],
            allow_code=True,
        )
        .points[0]
        .experiment
    )
    lab = replace(lab_of(), experiment=experiment)
    with pytest.raises(UsageError, match="keeps 'steps' as int: only tensors can be stored"):
        lab.train(lab.initial(), 2, lab.rate_at())


def test_a_second_ctrl_c_ends_the_command_with_130(capsys):
    @command
    def pressed_twice() -> None:
        raise Aborted

    with pytest.raises(typer.Exit) as ended:
        pressed_twice()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == (
        "ended at once; everything sealed is safe, and the same command goes on from there\n"
    )


@pytest.mark.parametrize(
    ("patience", "waits"), [(0, ()), (30, (30,)), (420, (60, 120, 240)), (200, (60, 120, 20))]
)
def test_patience_is_spent_in_growing_waits(patience, waits):
    assert _waits(patience) == waits


def test_a_store_that_would_not_hold_its_parts_is_not_written(tmp_path, monkeypatch):
    """A fault of our own, put in by hand: a store that loses a metric on its way."""
    encode = codec.encode_store

    def forgetful(levels, header):
        forgotten = "metrics/train_loss"
        return encode(
            [
                replace(
                    one, arrays={place: array for place, array in one.arrays.items() if place != forgotten}
                )
                for one in levels
            ],
            header,
        )

    monkeypatch.setattr(codec, "encode_store", forgetful)
    with pytest.raises(StorageError, match="would not read back as it was made; its parts are kept"):
        carried_out(tmp_path)
    (path,) = tmp_path.glob("small-*")
    assert not (path / "store.h5").exists()
    assert len(list((path / "parts" / "seed-0").glob("level-*.h5"))) == 3


def test_a_signal_after_the_end_does_not_hide_the_status():
    """Python gives signals their defaults back while it ends, which takes torch a while."""
    code = (
        "import signal\n"
        "from prunecli.cli.app import main\n"
        "from prunecli.stopping import SIGNALS\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert all(signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
