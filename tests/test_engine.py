"""Whole runs: the same bytes however they were come by, and nothing lost on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import SMALL

from prunecli import placing
from prunecli.engine import carry_out_all
from prunecli.errors import DamagedRun, EnvironmentMissing, SomeFailed
from prunecli.plan import make_plan
from prunecli.progress import EpochDone, Event, LevelDone, RunStarted, Said, SeedFailed
from prunecli.recipe.load import Recipe, load_text
from prunecli.runs import Settings
from prunecli.stopping import Stop
from prunecli.store.reading import read_run

PRUNING = "procedure=[train, {repeat: {times: 2, stages: [{prune: {fraction: 0.5}}, rewind, train]}}]"


def recipe(*overrides: str) -> Recipe:
    return load_text(SMALL, "small.yaml", [PRUNING, *overrides], stem="small")


class Heard(list[Event]):
    """Remembers events; raises KeyboardInterrupt at the one that `stop` counts down to."""

    def __init__(self, stop: int = -1, kind: type = LevelDone) -> None:
        super().__init__()
        self.stop, self.kind = stop, kind

    def __call__(self, event: Event) -> None:
        self.append(event)
        if isinstance(event, self.kind):
            if self.stop == 0:
                raise KeyboardInterrupt
            self.stop -= 1

    def of(self, kind: type) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


def carried_out(runs: Path, *overrides: str, dense_only: bool = False, heard: Heard | None = None) -> Path:
    settings = Settings(runs=runs, dense_only=dense_only)
    (finished,) = carry_out_all(recipe(*overrides), settings, heard if heard is not None else Heard())
    return finished.folder.path


def bytes_of(run: Path) -> bytes:
    return (run / "store.h5").read_bytes()


def test_a_run_whose_levels_are_not_whole_at_its_end_stops_no_other(tmp_path):
    def spoil(event: Event) -> None:
        if isinstance(event, LevelDone) and event.run.startswith("a-batch_size-200"):
            (part,) = tmp_path.glob("a-batch_size-200-*/parts/seed-0/level-00.h5")
            part.write_bytes(b"?")

    given = load_text(SMALL + "sweep: {batch_size: [200, 300]}", "x", stem="a")
    with pytest.raises(DamagedRun, match=r"a-batch_size-200-.* the same command makes the others again"):
        carry_out_all(given, Settings(runs=tmp_path), spoil)
    assert len(list(tmp_path.glob("a-*/store.h5"))) == 1


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> Path:
    """A run of two seeds, carried out without interruption."""
    return carried_out(tmp_path_factory.mktemp("once"), "seeds=[0, 1]")


def test_two_runs_of_a_recipe_give_the_same_bytes(two_seeds, tmp_path):
    assert bytes_of(carried_out(tmp_path, "seeds=[0, 1]")) == bytes_of(two_seeds)


def test_train_then_prune_gives_the_bytes_of_prune_alone(two_seeds, tmp_path):
    dense = carried_out(tmp_path, "seeds=[0, 1]", dense_only=True)
    assert read_run(dense).density.tolist() == [1.0]
    heard = Heard()
    run = carried_out(tmp_path, "seeds=[0, 1]", heard=heard)
    assert run == dense
    assert bytes_of(run) == bytes_of(two_seeds)
    assert min(event.level for event in heard.of(EpochDone)) == 1


def test_a_recipe_that_prunes_first_has_no_dense_training(tmp_path):
    heard = Heard()
    first = recipe("procedure=[{prune: {fraction: 0.5}}, train]")
    assert carry_out_all(first, Settings(runs=tmp_path, dense_only=True), heard) == []
    assert "no dense model to train" in heard[0].message
    assert list(tmp_path.iterdir()) == []


def test_seeds_added_later_give_the_bytes_of_all_at_once(two_seeds, tmp_path):
    first = carried_out(tmp_path, "seeds=[1]")
    assert carried_out(tmp_path, "seeds=[0, 1]") == first
    assert bytes_of(first) == bytes_of(two_seeds)


@pytest.mark.parametrize(
    ("kind", "count"), [(LevelDone, 0), (LevelDone, 1), (LevelDone, 3), (EpochDone, 3), (EpochDone, 8)]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(two_seeds, tmp_path, kind, count):
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path, "seeds=[0, 1]", heard=Heard(count, kind))
    heard = Heard()
    run = carried_out(tmp_path, "seeds=[0, 1]", heard=heard)
    assert bytes_of(run) == bytes_of(two_seeds)
    before = count + 1 if kind is LevelDone else count // 2
    assert len(heard.of(LevelDone)) == 6 - before
    assert len(heard.of(EpochDone)) == 12 - 2 * before


def test_a_run_goes_on_without_its_states_too(two_seeds, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path, "seeds=[0, 1]", heard=Heard(1))
    for path in (tmp_path / ".states").rglob("*.*"):
        path.unlink()
    heard = Heard()
    assert bytes_of(carried_out(tmp_path, "seeds=[0, 1]", heard=heard)) == bytes_of(two_seeds)
    assert len(heard.of(EpochDone)) == 12


def test_a_damaged_level_is_set_aside_and_made_again(two_seeds, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path, "seeds=[0, 1]", heard=Heard(2))
    (part,) = tmp_path.glob("small-*/parts/seed-0/level-01.h5")
    part.write_bytes(b"damage")
    heard = Heard()
    run = carried_out(tmp_path, "seeds=[0, 1]", heard=heard)
    assert bytes_of(run) == bytes_of(two_seeds)
    assert any("quarantine" in getattr(event, "message", "") for event in heard)
    moved = sorted(path.name for path in (run / "quarantine").iterdir())
    assert moved == ["level-01.h5.0", "level-01.h5.json.0"]


def test_a_complete_run_is_left_alone(two_seeds):
    before = {path: path.stat().st_mtime_ns for path in two_seeds.rglob("*") if path.is_file()}
    heard = Heard()
    carried_out(two_seeds.parent, "seeds=[0, 1]", heard=heard)
    (started,) = heard.of(RunStarted)
    assert started.done == 6
    assert not heard.of(EpochDone)
    assert {path: path.stat().st_mtime_ns for path in two_seeds.rglob("*") if path.is_file()} == before


def test_the_resolved_recipe_of_a_run_is_a_no_op_to_run(two_seeds):
    text = (two_seeds / "recipe.yaml").read_text()
    heard = Heard()
    (finished,) = carry_out_all(load_text(text, "recipe.yaml"), Settings(runs=two_seeds.parent), heard)
    assert finished.folder.path == two_seeds
    assert not heard.of(EpochDone)


def test_a_dense_training_is_shared_among_recipes(two_seeds):
    heard = Heard()
    other = "procedure=[train, {prune: {fraction: 0.9, criterion: random}}, rewind, train]"
    run = carried_out(two_seeds.parent, other, "seeds=[0]", heard=heard)
    assert run != two_seeds
    assert {event.level for event in heard.of(EpochDone)} == {1}
    with h5py.File(run / "store.h5") as mine, h5py.File(two_seeds / "store.h5") as theirs:
        assert (mine["examples/loss"][0, 0] == theirs["examples/loss"][0, 0]).all()


def test_what_changes_no_result_changes_no_digest(two_seeds):
    heard = Heard()
    assert carried_out(two_seeds.parent, "about=words", "seeds=[1]", heard=heard) == two_seeds
    assert not heard.of(EpochDone)


def test_a_sweep_is_a_run_a_point_with_names_for_people(tmp_path):
    text = SMALL + "sweep: {labels.fraction: [0, 0.3]}\nlabels: {uniform: {fraction: 0}}\n"
    finished = carry_out_all(load_text(text, "x", stem="noise"), Settings(runs=tmp_path), Heard())
    assert [f.folder.path.name.rpartition("-")[0] for f in finished] == [
        "noise-fraction-0",
        "noise-fraction-0.3",
    ]
    runs = [read_run(f.folder.path) for f in finished]
    assert "train_loss_noisy" not in runs[0].metrics
    assert runs[1].metrics["train_loss_noisy"] > runs[1].metrics["train_loss_clean"]
    with h5py.File(finished[1].folder.store) as store:
        noisy = store["examples/noisy"][0].astype(bool)
        assert noisy.sum() == round(0.3 * 1437)
        assert (store["examples/label"][0] != store["examples/clean_label"][()])[noisy].all()


def test_noise_of_fraction_0_gives_the_results_of_clean_labels(tmp_path):
    clean, none = (
        carried_out(tmp_path, "labels=clean"),
        carried_out(tmp_path, "labels={uniform: {fraction: 0}}"),
    )
    with h5py.File(clean / "store.h5") as first, h5py.File(none / "store.h5") as second:
        for place in ("examples/loss", "test/loss", "metrics/train_loss", "masks/fc.weight"):
            assert np.array_equal(first[place][()], second[place][()])


def test_metrics_are_means_over_the_stored_examples(tmp_path):
    run = carried_out(tmp_path, "validation=0.1", "examples={first: {count: 1000}}")
    with h5py.File(run / "store.h5") as store:
        split, loss = store["examples/split"][0], store["examples/loss"][0].astype(np.float64)
        correct, test = store["examples/correct"][0], store["test/correct"][0]
        assert np.allclose(store["metrics/train_loss"][0], loss[:, split == 0].mean(axis=1), rtol=1e-12)
        assert np.allclose(
            store["metrics/validation_error"][0], 100 * (1 - correct[:, split == 1].mean(axis=1))
        )
        assert np.allclose(store["metrics/test_error"][0], 100 * (1 - test.mean(axis=1)))
        before, after = (store[f"metrics/test_error_{when}_pruning"][0] for when in ("before", "after"))
        assert np.isnan(before[0])
        assert np.allclose(before[1:], store["metrics/test_error"][0, :-1])
        expected = ((100 - before) - (100 - after)) / (100 - before)
        assert np.allclose(store["metrics/instability"][0], expected, equal_nan=True)
        assert sorted(np.unique(split).tolist()) == [0, 1, 2]
        assert (split == 1).sum() == 144


def test_masks_and_weights_of_every_level_agree_with_the_counts(two_seeds):
    with h5py.File(two_seeds / "store.h5") as store:
        names = [name.decode() for name in store["layers/name"][()]]
        expected = store["layers/total"][()].sum()
        for level in range(3):
            kept = [(store[f"masks/{name}"][0] > level).sum() for name in names]
            assert kept == store["layers/kept"][0, level].tolist()
            assert sum(kept) == expected
            expected = sum(kept) - round(0.5 * int(sum(kept)))


def test_a_seed_that_diverges_leaves_the_others_comparable(tmp_path, monkeypatch):
    """A learning rate at which some seeds diverge and some do not cannot be relied on: make one seed's loss NaN."""
    from prunecli import seeds

    carry_out = seeds.carry_out

    def poisoned(level, state, lab, *rest):
        if lab.seed == 1 and level.number == 1:
            state = state.with_weights({n: w * float("nan") for n, w in state.weights.items()}, state.buffers)
        return carry_out(level, state, lab, *rest)

    monkeypatch.setattr(seeds, "carry_out", poisoned)
    heard = Heard()
    (finished,) = carry_out_all(
        recipe("seeds=[0, 1]", "procedure=[train, rewind, train]"), Settings(runs=tmp_path), heard
    )
    assert set(finished.failures) == {1}
    why = finished.failures[1]
    assert why.startswith(
        "seed 1, level 1, epoch 3, step 1: the loss is nan (learning rate 0.1, gradient norm nan"
    )
    assert why.endswith("level 0 is safe")
    assert not finished.complete
    run = read_run(finished.folder.path)
    assert (run.status, run.seeds) == ("partial", (0, 1))
    assert any("seed 1 failed" in note for note in run.notes)
    assert np.isfinite(run.metrics["test_error"][0]).all()
    assert len(heard.of(SeedFailed)) == 1
    monkeypatch.undo()
    (finished,) = carry_out_all(
        recipe("seeds=[0, 1]", "procedure=[train, rewind, train]"), Settings(runs=tmp_path), Heard()
    )
    assert finished.complete
    assert read_run(finished.folder.path).notes == ()


def test_missing_data_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(EnvironmentMissing, match="cifar10"):
        carried_out(tmp_path / "runs", "data=cifar10")
    assert not (tmp_path / "runs").exists()


def test_the_run_file_says_where_and_how(two_seeds):
    content = json.loads((two_seeds / "run.json").read_text())
    assert content["original"] == SMALL
    assert content["overrides"] == [PRUNING, "seeds=[0, 1]"]
    assert {"torch", "torchvision", "timm", "numpy", "h5py", "python", "prunecli"} == set(content["versions"])
    assert content["spent"] == [2.0, 4.0, 6.0]


def test_the_log_tells_people_what_happened(two_seeds):
    lines = [json.loads(line) for line in (two_seeds / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines[:8]] == ["RunStarted", *["LevelDone"] * 6, "RunDone"]
    assert all(line["time"] for line in lines)


def test_a_plan_foresees_the_run(two_seeds, tmp_path):
    (plan,) = make_plan(recipe("seeds=[0, 1]"), Settings(runs=two_seeds.parent), timed=False)
    assert plan.folder == two_seeds
    assert [(one.seed, one.levels, one.source) for one in plan.reused] == [
        (0, 3, "sealed already"),
        (1, 3, "sealed already"),
    ]
    run = read_run(two_seeds)
    assert [f.outlook.density for f in plan.levels] == pytest.approx(run.density, abs=1e-3)
    assert [f.outlook.spent for f in plan.levels] == run.spent.tolist()
    assert plan.prunable == run.total
    (fresh,) = make_plan(recipe("seeds=[0, 1]"), Settings(runs=tmp_path), timed=False)
    assert fresh.reused == ()


def killed_with_the_queue(prepared, seed, settings, tell, stop) -> str:
    """A seed whose process is killed while it tells something, and another that then cannot tell anything."""
    other, turn = settings.runs / "other", placing._events._wlock
    if seed == 0:
        while not other.exists():
            pass
        turn.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    other.touch()
    while turn.acquire(block=False):
        turn.release()
    tell(Said("never heard"))
    return ""


def test_a_process_that_is_killed_with_the_queue_stops_no_other_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "SECONDS_TO_KEEP", 1.0)
    points, settings = load_text(SMALL, "x").points, Settings(runs=tmp_path, workers=2)
    with pytest.raises(SomeFailed, match="a process was killed"):
        list(placing.side_by_side(points, [(0, 0), (0, 1)], settings, killed_with_the_queue, Heard(), Stop()))


def test_seeds_side_by_side_give_the_bytes_of_one_after_the_other(two_seeds, tmp_path):
    heard = Heard()
    settings = Settings(runs=tmp_path, workers=2)
    (finished,) = carry_out_all(recipe("seeds=[0, 1]"), settings, heard)
    assert bytes_of(finished.folder.path) == bytes_of(two_seeds)
    assert {(event.seed, event.level) for event in heard.of(LevelDone)} == {
        (s, v) for s in (0, 1) for v in range(3)
    }


def test_a_seed_that_fails_in_a_process_of_its_own_is_named(tmp_path):
    settings = Settings(runs=tmp_path, workers=2)
    diverging = "learning_rate={linear: {start: 1e6, end: 1e6}}"
    (finished,) = carry_out_all(
        recipe(diverging, "seeds=[0, 1]", "model={mlp: {hidden: [9, 9, 9]}}"), settings, Heard()
    )
    assert set(finished.failures) == {0, 1}
    assert all("level 0, epoch 1, step" in why for why in finished.failures.values())
