"""Nothing is computed twice: what another run has made already is taken over, and no byte tells."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from prunecli import building
from prunecli.engine import carry_out_all
from prunecli.kept import dense_state, last_state, own_state
from prunecli.lab import make_lab
from prunecli.order import Order, waits
from prunecli.plan import make_plan
from prunecli.progress import EpochDone, Event, LevelDone, Said
from prunecli.recipe.load import Recipe, load_text
from prunecli.reuse import Source, _run_json, reused, source
from prunecli.runs import Prepared, Settings, header_of, prepare
from prunecli.seeds import Seed
from prunecli.stopping import Stop
from prunecli.store.codec import decode_level, decode_store, encode_level
from prunecli.store.folder import Chain
from prunecli.store.merging import as_made
from prunecli.store.sealing import read_sealed, record_path
from prunecli.store.states import States
from prunecli.trajectories import prefixes, trajectory_digest

FEW = ["epochs=2", "examples={first: {count: 300}}"]
TURN = "[{prune: {fraction: 0.3}}, rewind, train]"
LEARNING_RATE = f"procedure=[train, {{repeat: {{times: 2, stages: {TURN}}}}}]"
LONGER = LEARNING_RATE.replace("times: 2", "times: 3")
OTHERWISE = LEARNING_RATE.replace("0.3", "0.9")
AND_MORE = LEARNING_RATE[:-1] + ", rewind, {train: {epochs: 1}}]"
WEIGHTS = (
    "procedure=[{train: {until: 0.5}}, {save: {point: early}}, train, "
    "{repeat: {times: 2, stages: [{prune: {fraction: 0.3}}, {rewind: {what: weights, to: early}}, train]}}]"
)
EXTENDED = (
    f"procedure=[train, {{repeat: {{times: 2, stages: {TURN.replace('{prune: {fraction: 0.3}}, ', '')}}}}}]"
)


def recipe(*overrides: str) -> Recipe:
    return load_text(SMALL, "small.yaml", [*FEW, *overrides], stem="small")


def carried_out(runs: Path, *overrides: str, **wanted: object) -> tuple[Path, list[Event]]:
    heard: list[Event] = []
    (finished,) = carry_out_all(recipe(*overrides), Settings(runs=runs, **wanted), heard.append)
    return finished.folder.path, heard


def trained(heard: Iterable[Event]) -> float:
    return round(sum(event.seen.epochs for event in heard if isinstance(event, EpochDone)), 6)


def said(heard: Iterable[Event]) -> str:
    return "\n".join(event.message for event in heard if isinstance(event, Said))


def bytes_of(run: Path) -> bytes:
    return (run / "store.h5").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """The stores of recipes that found nothing to take over."""
    recipes = (LEARNING_RATE, LONGER, OTHERWISE, AND_MORE, WEIGHTS, EXTENDED)
    return {one: bytes_of(carried_out(tmp_path_factory.mktemp("alone"), one)[0]) for one in recipes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder of runs in which one run of learning-rate rewinding is done."""
    return carried_out(tmp_path_factory.mktemp("finished"), LEARNING_RATE)[0].parent


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("other", "epochs"),
    [(OTHERWISE, 4), (EXTENDED, 4), (WEIGHTS, 0.5 + 2 * 1.5), (LONGER, 2), (AND_MORE, 1)],
    ids=["another fraction", "no pruning", "weight rewinding", "more turns", "more stages"],
)
def test_what_another_run_has_made_is_not_made_again(runs, alone, other, epochs):
    """The dense training; its part up to a point; levels, and the state after them."""
    run, heard = carried_out(runs, other)
    assert trained(heard) == epochs
    assert bytes_of(run) == alone[other]


def test_learning_rate_rewinding_reads_the_dense_training_of_weight_rewinding(tmp_path, alone):
    assert trained(carried_out(tmp_path, WEIGHTS)[1]) == 5
    run, heard = carried_out(tmp_path, LEARNING_RATE)
    assert trained(heard) == 4
    assert bytes_of(run) == alone[LEARNING_RATE]


def test_a_point_is_kept_once_and_found_by_the_next(runs):
    carried_out(runs, WEIGHTS)
    _, heard = carried_out(runs, WEIGHTS.replace("0.3", "0.8"))
    assert trained(heard) == 3


def test_a_run_that_is_the_beginning_of_another_trains_nothing(tmp_path, alone):
    carried_out(tmp_path, LONGER)
    run, heard = carried_out(tmp_path, LEARNING_RATE)
    assert trained(heard) == 0
    assert bytes_of(run) == alone[LEARNING_RATE]
    assert "seed 0: levels 0 to 2 are those of small-" in said(heard)


def test_levels_of_a_run_that_was_stopped_are_taken_over(tmp_path, alone):
    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone) and event.level == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(LEARNING_RATE), Settings(runs=tmp_path), interrupt)
    run, heard = carried_out(tmp_path, LONGER)
    assert trained(heard) == 4
    assert bytes_of(run) == alone[LONGER]
    run, heard = carried_out(tmp_path, LEARNING_RATE)
    assert trained(heard) == 0
    assert bytes_of(run) == alone[LEARNING_RATE]


@pytest.mark.parametrize("stopped_at", [1, 2])
def test_a_run_that_was_stopped_while_it_took_levels_over_goes_on(runs, alone, stopped_at):
    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone) and event.level == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(LONGER), Settings(runs=runs), interrupt)
    run, heard = carried_out(runs, LONGER)
    assert trained(heard) == 2
    assert bytes_of(run) == alone[LONGER]


def damage_store(runs: Path) -> None:
    (store,) = runs.glob("*/store.h5")
    store.write_bytes(store.read_bytes()[:-1] + b"?")


def lie_in_store(runs: Path) -> None:
    """An honest record of a store that holds something else than it should."""
    (store,) = runs.glob("*/store.h5")
    (other,) = (runs / "elsewhere").glob("*/store.h5")
    record = json.loads(record_path(store).read_text())
    theirs = json.loads(record_path(other).read_text())
    record |= {name: theirs[name] for name in ("size", "sha256", "tips")}
    store.write_bytes(other.read_bytes())
    record_path(store).write_text(json.dumps(record))


def damage_states(runs: Path) -> None:
    for path in runs.glob(".states/*/*.safetensors"):
        path.write_bytes(b"?")


def forget_states(runs: Path) -> None:
    shutil.rmtree(runs / ".states")


def other_conditions(runs: Path) -> None:
    (path,) = runs.glob("*/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 7}))


def gone_on_under_others(runs: Path) -> None:
    (path,) = runs.glob("*/run.json")
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "resumes": [{"differs": ["torch 1, now 2"]}]})
    )


@pytest.mark.parametrize(
    ("spoil", "epochs"),
    [
        (damage_store, 6),
        (lie_in_store, 6),
        (damage_states, 8),
        (forget_states, 8),
        (other_conditions, 6),
        (gone_on_under_others, 6),
    ],
)
def test_what_is_damaged_or_was_made_otherwise_is_made_again(runs, alone, spoil, epochs):
    if spoil is lie_in_store:
        carried_out(runs / "elsewhere", LEARNING_RATE, "examples={first: {count: 200}}")
    spoil(runs)
    run, heard = carried_out(runs, LONGER)
    assert trained(heard) == epochs
    assert bytes_of(run) == alone[LONGER]


def test_other_observations_are_made_again(runs):
    _, heard = carried_out(runs, LONGER, "observe=[example_losses]")
    assert trained(heard) == 6


def test_another_seed_is_trained_again(runs):
    assert trained(carried_out(runs, LONGER, "seeds=[1]")[1]) == 8


def named(*overrides: str) -> str:
    (run,) = prepare(recipe(*overrides), Settings())
    return trajectory_digest(
        run.experiment, run.dataset.fingerprint, run.steps_per_epoch, run.foreseen[0].level.stages
    )


@pytest.mark.parametrize(
    "first",
    [
        "[{train: {until: 1}}, train]",
        "[{train: {until: 1}}, {save: {point: a}}, {train: {until: 2}}]",
        "[{train: {epochs: 1}}, {save: {point: a}}, {train: {epochs: 1}}, {save: {point: b}}]",
        "[{save: {point: a}}, train]",
    ],
)
def test_a_trajectory_is_the_same_however_it_is_cut(first):
    assert named(f"procedure={first}") == named("procedure=[train]")


@pytest.mark.parametrize(
    "first",
    [
        "[{train: {until: 1}}]",
        "[{train: {until: 1}}, {train: {learning_rate: 0.5}}]",
        "[{train: {learning_rate: 0.5}}]",
        "[{prune: {fraction: 0.1}}, train]",
        "[reinitialize, train]",
        "[{train: {until: 1}}, reinitialize, train]",
    ],
)
def test_another_trajectory_has_another_name(first):
    assert named(f"procedure={first}") != named("procedure=[train]")


def test_trainings_by_different_schedules_are_not_joined():
    own = named("procedure=[{train: {learning_rate: 0.5}}]")
    assert named("procedure=[{train: {until: 1}}, {train: {learning_rate: 0.5}}]") != own


def test_steps_count_in_a_trajectory_and_not_the_epochs_that_are_rounded_to_them():
    """Two steps an epoch: a quarter of an epoch is none, or half a step that is rounded to even."""
    halves = "procedure=[{train: {epochs: 0.8}}, {train: {epochs: 0.8}}]"
    assert named(halves) != named("procedure=[{train: {epochs: 1.6}}]")


def test_prefixes_are_equal_as_far_as_the_levels_are():
    short, long = (prefixes(recipe(one).points[0].experiment, "f") for one in (LEARNING_RATE, LONGER))
    assert long[:3] == short
    assert len(set(long)) == 4
    other = prefixes(recipe(OTHERWISE).points[0].experiment, "f")
    assert (other[0], other[1] == short[1]) == (short[0], False)
    assert prefixes(recipe(LONGER).points[0].experiment, "g")[0] != long[0]


def test_what_fills_a_store_up_is_left_out_of_levels_that_go_into_another(runs):
    (run,) = prepare(recipe(LEARNING_RATE), Settings(runs=runs))
    levels = decode_store(run.folder.store.read_bytes(), "x")
    made = as_made(levels)
    assert "metrics/instability" in levels[0].arrays
    assert "metrics/instability" not in made[0].arrays
    assert made[1].arrays.keys() == levels[1].arrays.keys()
    again = decode_level(encode_level(made[0], header_of(run)), "x")
    assert again.arrays.keys() == made[0].arrays.keys()


SWEEP = SMALL.replace("procedure: [train]", "procedure: [train, {prune: {fraction: 0.5}}, rewind, train]") + (
    "sweep: {procedure.1.prune.fraction: [0.2, 0.5, 0.8]}\n"
)


def swept(*overrides: str) -> Recipe:
    return load_text(SWEEP, "sweep.yaml", [*FEW, *overrides], stem="sweep")


def test_the_points_of_a_sweep_wait_for_the_dense_training_that_they_share(tmp_path):
    settings = Settings(runs=tmp_path)
    prepared = prepare(swept("seeds=[0, 1]"), settings)
    tasks = [(number, seed) for number in range(3) for seed in (0, 1)]
    found = waits(prepared, tasks, settings)
    assert {task: (wait.task, wait.levels) for task, wait in found.items()} == {
        (number, seed): ((0, seed), 1) for number in (1, 2) for seed in (0, 1)
    }
    order = Order(prepared, tasks, settings)
    assert [task for task in tasks if order.may_begin(task)] == [(0, 0), (0, 1)]
    hear = order.hearing(lambda _event: None)
    hear(LevelDone(prepared[0].folder.path.name, 1, 0, 2, 1.0, 0.0, 0.0))
    assert [task for task in tasks if order.may_begin(task)] == [(0, 0), (0, 1), (1, 1), (2, 1)]
    order.ended.add((0, 0))
    assert all(map(order.may_begin, tasks))


def test_nobody_waits_for_what_is_stored(runs):
    settings = Settings(runs=runs)
    prepared = [prepare(recipe(one), settings)[0] for one in (LEARNING_RATE, OTHERWISE, LONGER)]
    assert waits(prepared, [(1, 0), (2, 0)], settings) == {}
    fresh = Settings(runs=runs / "fresh")
    prepared = [prepare(recipe(one), fresh)[0] for one in (LEARNING_RATE, OTHERWISE, LONGER)]
    found = waits(prepared, [(0, 0), (1, 0), (2, 0)], fresh)
    assert {task[0]: (wait.task[0], wait.levels) for task, wait in found.items()} == {1: (0, 1), 2: (0, 3)}


def test_a_sweep_side_by_side_trains_the_shared_beginning_once(tmp_path):
    heard: list[Event] = []
    done = carry_out_all(swept(), Settings(runs=tmp_path / "two", workers=2), heard.append)
    assert trained(heard) == 2 + 3 * 2
    alone = carry_out_all(swept(), Settings(runs=tmp_path / "one", workers=1), lambda _event: None)
    assert [bytes_of(one.folder.path) for one in done] == [bytes_of(one.folder.path) for one in alone]


def test_a_plan_says_what_is_reused_and_from_where(runs):
    (plan,) = make_plan(recipe(LONGER), Settings(runs=runs))
    (name,) = (path.parent.name for path in runs.glob("*/run.json"))
    assert [(one.first, one.last, one.source, one.epochs) for one in plan.reused] == [
        (0, 2, f"run {name}", 6.0)
    ]
    assert plan.left_by_seed == [2.0]
    assert plan.saved > plan.seconds > 0
    (plan,) = make_plan(recipe(WEIGHTS), Settings(runs=runs), timed=False)
    (one,) = plan.reused
    assert (one.levels, one.source.partition(" ")[0], one.epochs) == (1, "state", 1.5)


def test_a_plan_counts_what_points_of_a_sweep_share_once(tmp_path):
    plans = make_plan(swept(), Settings(runs=tmp_path), timed=False)
    assert [plan.left_by_seed for plan in plans] == [[4.0], [2.0], [2.0]]
    assert "which comes before" in plans[1].reused[0].source


def test_the_state_after_a_run_is_kept_under_a_name_that_other_recipes_find(runs):
    settings = Settings(runs=runs)
    (run,) = prepare(recipe(LONGER), settings)
    (found,) = reused(run, 0, settings)
    assert (found.first, found.last) == (0, 2)
    states = States(runs / ".states")
    assert states.size(dense_state(run, settings), 0) is not None
    assert len(list((runs / ".states").iterdir())) == 2


def test_a_state_of_another_model_is_not_gone_on_from(runs, alone, lab_of):
    """Its record is honest: what it holds is looked at before anything is sealed."""
    settings = Settings(runs=runs)
    (run,) = prepare(recipe(LONGER), settings)
    name, states = last_state(run, 2, settings), States(runs / ".states")
    states.drop(name, 0)
    states.save(name, 0, lab_of("model={mlp: {hidden: [3]}}").initial())
    path, heard = carried_out(runs, LONGER)
    assert "the state after its level 2 has other weights than the recipe's model" in said(heard)
    assert trained(heard) == 6
    assert bytes_of(path) == alone[LONGER]


def test_levels_of_others_are_not_put_behind_own_ones_that_differ(tmp_path, monkeypatch):
    """The own ones are of older versions, which gave other numbers."""

    def interrupt(event: Event) -> None:
        if isinstance(event, LevelDone) and event.level == 1:
            raise KeyboardInterrupt

    drawn = building.seed_
    monkeypatch.setattr(building, "seed_", lambda device, key: drawn(device, key + 1))
    with pytest.raises(KeyboardInterrupt):
        carry_out_all(recipe(LEARNING_RATE), Settings(runs=tmp_path), interrupt)
    monkeypatch.undo()
    (path,) = tmp_path.glob("*/run.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "versions": {**content["versions"], "torch": "1"}}))
    (tmp_path / ".states").rename(tmp_path / "aside")
    carried_out(tmp_path, LONGER)
    shutil.copytree(tmp_path / "aside", tmp_path / ".states", dirs_exist_ok=True)
    run, heard = carried_out(tmp_path, LEARNING_RATE)
    assert run == path.parent
    assert "seed 0: its sealed levels are not those of small-" in said(heard)
    assert trained(heard) == 2
    levels = decode_store((run / "store.h5").read_bytes(), "x")
    for before, after in pairwise(levels):
        assert not any((after.masks[name] & ~mask).any() for name, mask in before.masks.items())


SAVED_FIRST = "procedure=[{save: {point: a}}, reinitialize, {rewind: {what: weights, to: a}}, train]"
SAVED_LATER = "procedure=[reinitialize, {save: {point: a}}, {rewind: {what: weights, to: a}}, train]"


def test_what_a_point_holds_that_is_gone_back_to_makes_another_trajectory(tmp_path):
    assert named(SAVED_FIRST) != named(SAVED_LATER)
    own = bytes_of(carried_out(tmp_path / "alone", SAVED_LATER)[0])
    carried_out(tmp_path / "both", SAVED_FIRST)
    assert bytes_of(carried_out(tmp_path / "both", SAVED_LATER)[0]) == own


def watched(*overrides: str) -> Recipe:
    return load_text(
        SMALL,
        "small.yaml",
        [*FEW, "observe=['python:mine:watch']", *overrides],
        stem="small",
        allow_code=True,
    )


LATER = {
    "a number of its own": '{"x": np.asarray(np.nan if lab.epoch(state.spent) < 7 else 1.0)}',
    "no number yet": '{} if lab.epoch(state.spent) < 7 else {"x": np.asarray(1.0)}',
    "whole numbers": '{} if lab.epoch(state.spent) < 7 else {"examples/x": np.ones(len(lab.targets.used), np.uint8)}',
}


@pytest.mark.parametrize("given", LATER.values(), ids=LATER)
def test_what_a_store_does_not_tell_of_its_first_levels_is_made_again(tmp_path, monkeypatch, given):
    """Whether they have NaN or nothing: the store has both as one."""
    code = f"import numpy as np\ndef watch(state, lab):\n    return {given}\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    stores = []
    for runs in (tmp_path / "alone", tmp_path / "both"):
        if runs.name == "both":
            carry_out_all(watched(LONGER), Settings(runs=runs), lambda _event: None)
        (done,) = carry_out_all(watched(LEARNING_RATE), Settings(runs=runs), lambda _event: None)
        stores.append(bytes_of(done.folder.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert stores[0] == stores[1]


@pytest.mark.parametrize("refused", ["store.h5.json", "store.h5", "run.json", ".safetensors"])
def test_what_another_run_has_and_cannot_be_read_is_passed_over(runs, alone, monkeypatch, refused):
    others = [path for path in (*runs.glob("*/*"), *runs.glob(".states/*/*")) if path.name.endswith(refused)]
    really = os.open

    def no_right(path, *given, **also):
        if Path(path) in others:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, *given, **also)

    (prepared,) = prepare(recipe(LONGER), Settings(runs=runs))
    _run_json.cache_clear()
    monkeypatch.setattr(os, "open", no_right)
    if refused == ".safetensors":
        # They cannot be read by whoever wants to go on from them either: only the levels are passed over.
        _, heard = watching_others(prepared)
        assert "cannot be read: permission denied; what it has is carried out again" in said(heard)
        return
    assert [one.levels for one in reused(prepared, 0, Settings(runs=runs))] == [1]
    run, heard = carried_out(runs, LONGER)
    assert trained(heard) == 6
    assert bytes_of(run) == alone[LONGER]


def watching_others(run: Prepared) -> tuple[Chain, list[Event]]:
    """What a seed's chain is when it has looked for levels of others, and what was said."""
    heard: list[Event] = []
    settings = Settings(runs=run.folder.path.parent)
    seed = Seed(run, 0, settings, heard.append, Stop())
    lab = make_lab(run.experiment, 0, run.dataset, torch.device("cpu"))
    return seed._with_levels_of_others(run.folder.chain(0), lab), heard


@pytest.mark.parametrize("there", [True, False], ids=["one level further", "nothing is left"])
def test_a_run_that_goes_on_while_its_levels_are_read_is_looked_at_again(runs, monkeypatch, there):
    """It drops the state that was seen."""
    settings = Settings(runs=runs)
    (run,) = prepare(recipe(LONGER), settings)
    name, states = last_state(run, 2, settings), States(runs / ".states")
    looked: list[int] = []

    def seen(*given: object) -> Source | None:
        found = source(*given)
        looked.append(0)
        if len(looked) == 1:
            kept, _ = states.load(name, 0)
            states.drop(name, 0)
            if there:
                states.save(own_state(run, 2, found.folder.digest), 0, kept)
        return found

    monkeypatch.setattr("prunecli.seeds.source", seen)
    chain, heard = watching_others(run)
    assert len(looked) == 2
    assert len(chain.parts) == (3 if there else 0)
    assert "carried out again" not in said(heard)


def test_a_state_that_is_dropped_while_it_is_read_is_not_damaged(runs, monkeypatch):
    settings = Settings(runs=runs)
    (run,) = prepare(recipe(LONGER), settings)
    name, states = last_state(run, 2, settings), States(runs / ".states")

    def too_late(path: Path, *given: object) -> bytes:
        states.drop(name, 0)
        return read_sealed(path, *given)

    monkeypatch.setattr("prunecli.store.states.read_sealed", too_late)
    assert states.load(name, 0) == (None, [])
