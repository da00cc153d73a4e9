"""Kept weights, and what lies on the line between two networks."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, same
from safetensors.torch import load, load_file, save
from torch.nn import functional
from typer.testing import CliRunner

from prunecli.building import build
from prunecli.cli.app import app
from prunecli.connectivity import (
    Network,
    between,
    check_same_examples,
    line_between,
    strays,
    union,
    with_statistics_anew,
)
from prunecli.engine import carry_out_all
from prunecli.errors import DamagedRun, NotComparable, StorageError
from prunecli.masks import Masks
from prunecli.plan import make_plan
from prunecli.progress import Event, Said
from prunecli.recipe.load import load_text
from prunecli.runs import Settings
from prunecli.store.folder import RunFolder
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import record_of, record_path
from prunecli.store.weight_files import metadata_of, weights_path
from prunecli.store.weights import load_weights, parts_of, save_weights, state_dict_of
from prunecli.training import copied

PRUNING = "procedure=[train, {repeat: {times: 2, stages: [{prune: {fraction: 0.5}}, rewind, train]}}]"
OVERRIDES = [PRUNING, "epochs=1", "learning_rate=0.1", "examples={first: {count: 300}}", "seeds=[0, 1]"]
PLACES = [0, 0.25, 0.5, 0.75, 1]
BATCH_NORMED = ("model={cifar_resnet_20: {width: 0.25}}", "examples={first: {count: 90}}", "batch_size=40")


def recipe(*overrides: str):
    return load_text(SMALL, "small.yaml", [*OVERRIDES, *overrides], stem="small")


def carried_out(runs: Path, *overrides: str, **wanted: object) -> tuple[Path, str]:
    heard: list[Event] = []
    wanted = {"workers": 1, "patience": (), **wanted}
    (finished,) = carry_out_all(recipe(*overrides), Settings(runs=runs, **wanted), heard.append)
    return finished.folder.path, "\n".join(event.message for event in heard if isinstance(event, Said))


def folder_of(path: Path) -> RunFolder:
    return RunFolder(path, read_run_json(path)["recipe_digest"])


def kept_by(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted((path / "weights").glob("*"))}


def levels_kept(path: Path, seed: int = 0) -> list[int]:
    names = [one.name for one in (path / "weights").glob(f"seed-{seed}-level-*.safetensors")]
    return sorted(int(name.split("-")[3].partition(".")[0]) for name in names)


def connect(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["connect", *map(str, words)])
    assert done.exit_code != 1, done.output
    return done.exit_code, done.output


def reported(*words: object) -> dict:
    done = CliRunner().invoke(app, ["connect", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A run of two seeds and three levels that keeps all weights."""
    return carried_out(tmp_path_factory.mktemp("kept"), "keep_weights=all")[0]


@pytest.fixture
def run(kept, tmp_path) -> Path:
    """A copy of it, with its states."""
    shutil.copytree(kept.parent, tmp_path / "runs")
    return tmp_path / "runs" / kept.name


@pytest.fixture
def stateless(run) -> Path:
    """A copy of it without states: its weights alone."""
    shutil.rmtree(run.parent / ".states")
    return run


def network(lab, seed: int = 0, draw: int = 0, steps: int = 0) -> Network:
    state = replace(lab.initial(), weights=lab.initialized(draw)[0])
    state = lab.train(state, steps, lambda _epoch: 0.05) if steps else state
    return Network(seed, state.weights, state.buffers, state.masks)


# Lines


def test_along_the_line_of_a_linear_model_the_loss_is_that_of_the_equation(lab_of):
    lab = lab_of("model={mlp: {hidden: []}}")
    a, b = network(lab, 0, 0, steps=10), network(lab, 1, 1)
    line = line_between(lab, a, b, PLACES, ["test", "train"], "interpolate")
    images = next(iter(lab.dataset.test.images.batches([torch.arange(360)], _plain(), lab.device))).flatten(1)
    for place, loss, error in zip(PLACES, line.metrics["test_loss"], line.metrics["test_error"], strict=True):
        weight, bias = ((1 - place) * a.weights[n] + place * b.weights[n] for n in a.weights)
        logits = images @ weight.T + bias
        assert loss == pytest.approx(
            float(functional.cross_entropy(logits, lab.dataset.test.labels)), rel=1e-5
        )
        wrong = (logits.argmax(1) != lab.dataset.test.labels).double().mean()
        assert error == pytest.approx(100 * float(wrong))
    for metric in ("test_loss", "train_loss"):
        values = line.metrics[metric]
        assert np.diff(values, 2).min() > 0, "the loss of a linear model is convex"
        assert line.barrier(metric) == pytest.approx(abs(values[0] - values[-1]) / 2)
        assert line.highest(metric) == 1


def _plain():
    from prunecli.datasets.values import Augment

    return Augment()


@pytest.mark.parametrize("batch_norm", ["interpolate", "recompute"])
def test_between_a_network_and_itself_there_is_no_barrier(lab_of, batch_norm):
    lab = lab_of(*BATCH_NORMED)
    one = network(lab, steps=2)
    line = line_between(lab, one, one, PLACES, ["test", "train"], batch_norm)
    assert [line.barrier(metric) for metric in line.metrics] == [0.0] * 4


def test_a_permuted_copy_is_the_same_network_beyond_a_barrier(lab_of):
    lab = lab_of()
    a = network(lab, steps=100)
    order = torch.arange(16).roll(5)
    first, bias, last, _ = a.weights
    moved = {first: a.weights[first][order], bias: a.weights[bias][order], last: a.weights[last][:, order]}
    b = replace(a, seed=1, weights={**a.weights, **moved})
    line = line_between(lab, a, b, PLACES, ["test"], "interpolate")
    errors = line.metrics["test_error"]
    assert errors[0] == errors[-1] < 20
    assert line.metrics["test_loss"][0] == pytest.approx(line.metrics["test_loss"][-1], rel=1e-5)
    assert line.barrier("test_error") == max(errors) - errors[0] > 10
    assert 0 < line.highest("test_error") < 1


def test_the_ends_are_the_networks_to_the_bit(lab_of):
    lab = lab_of(*BATCH_NORMED)
    a, b = network(lab, steps=2), network(lab, 1, 1)
    for place, end in ((0, a), (1, b)):
        state = between(a, b, place)
        assert same(state.weights, end.weights)
        assert same(state.buffers, end.buffers)
    half = between(a, b, 0.5)
    counted = next(name for name in a.buffers if name.endswith("num_batches_tracked"))
    assert (half.buffers[counted], between(a, b, 0.4).buffers[counted]) == (0, 2)
    mean = next(name for name in a.buffers if name.endswith("running_mean"))
    assert torch.allclose(half.buffers[mean], (a.buffers[mean] + b.buffers[mean]) / 2)


def test_statistics_taken_anew_are_those_of_the_training_split(lab_of):
    """The mean over equal batches is that over the examples, for the first norm, before any nonlinearity."""
    lab = lab_of(*BATCH_NORMED)
    one = network(lab, steps=2)
    state = between(one, one, 0)
    modes = [module.training for module in lab.model.modules()]
    before, drawn = copied(dict(lab.model.named_buffers())), torch.get_rng_state()
    anew = with_statistics_anew(lab, state)
    assert same(dict(lab.model.named_buffers()), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    examples = (lab.targets.split == 0).nonzero().squeeze(1)
    assert len(examples) == 90
    images = next(iter(lab.dataset.train.images.batches([examples], _plain(), lab.device)))
    names = [name for name in dict(lab.model.named_modules()) if f"{name}.running_mean" in anew.buffers]
    seen: list[torch.Tensor] = []
    hook = lab.model.get_submodule(names[0]).register_forward_pre_hook(
        lambda _m, given: seen.append(given[0])
    )
    lab.model(images)
    hook.remove()
    found = anew.buffers[f"{names[0]}.running_mean"]
    assert torch.allclose(found, seen[0].mean((0, 2, 3)), atol=1e-5)
    assert not torch.allclose(found, state.buffers[f"{names[0]}.running_mean"], atol=1e-3)
    assert same(anew.weights, state.weights)
    assert modes == [module.training for module in lab.model.modules()]
    assert same(with_statistics_anew(lab, anew).buffers, anew.buffers), "what they were before plays no part"


def test_interpolated_statistics_are_not_those_of_the_network_between(lab_of):
    lab = lab_of(*BATCH_NORMED)
    a, b = network(lab, 0, 0, steps=12), network(lab, 1, 1, steps=12)
    lines = {how: line_between(lab, a, b, PLACES, ["train"], how) for how in ("interpolate", "recompute")}
    assert lines["interpolate"].metrics["train_loss"][2] != lines["recompute"].metrics["train_loss"][2]
    half = between(a, b, 0.5)
    name = [name for name in half.buffers if name.endswith("running_var")][-1]
    ratio = half.buffers[name] / with_statistics_anew(lab, half).buffers[name]
    assert ratio.mean() > 1.2, (
        "between two networks activations vary less than at its ends (Jordan et al., 2022)"
    )


def test_a_network_between_keeps_what_either_keeps(lab_of):
    lab = lab_of()
    full = network(lab)
    name = lab.names[0]
    size = full.masks[name].numel()

    def keeping(first: int, last: int, seed: int) -> Network:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[first:last] = True
        masks = Masks({**full.masks, name: mask.view_as(full.masks[name])})
        return Network(seed, masks.apply(full.weights), full.buffers, masks)

    a, b = keeping(0, 600, 0), keeping(400, 1000, 1)
    both = union(a.masks, b.masks)
    assert int(both[name].sum()) == 1000
    state = between(a, b, 0.5)
    assert same(state.masks, both)
    assert not state.weights[name].flatten()[1000:].any()
    line = line_between(lab, a, b, PLACES, ["test"], "interpolate")
    assert line.density == (1000 + full.masks.total - size) / full.masks.total
    without = Masks({other: mask for other, mask in a.masks.items() if other != name})
    assert union(a.masks, without)[name].all(), "what one of them has no mask of is kept"


def test_a_loss_that_is_not_finite_is_no_barrier(lab_of):
    lab = lab_of()
    a = network(lab)
    b = replace(a, weights={name: torch.full_like(one, torch.nan) for name, one in a.weights.items()})
    with pytest.raises(
        NotComparable, match="from seed 0 to seed 0 the test loss is nan: there is no barrier"
    ):
        line_between(lab, a, b, [0, 1], ["test"], "interpolate")


def test_a_training_split_is_one_only_where_both_ends_were_trained_on_it(lab_of):
    noisy, other = (lab_of("labels={uniform: {fraction: 0.2}}", seed=seed) for seed in (0, 1))
    with pytest.raises(NotComparable, match="other labels"):
        check_same_examples(noisy, other, labels=True)
    check_same_examples(noisy, other, labels=False)
    fewer = lab_of("examples={first: {count: 300}}")
    with pytest.raises(NotComparable, match="other examples"):
        check_same_examples(noisy, fewer, labels=False)


def test_ends_that_stray_from_what_is_stored_are_seen(lab_of):
    lab = lab_of()
    line = line_between(lab, network(lab), network(lab, 1, 1), PLACES, ["test"], "interpolate")
    losses = line.metrics["test_loss"]
    assert not strays(line, [{"test_loss": losses[0]}, {"test_loss": losses[-1]}])
    assert not strays(line, [{}, {}])
    assert strays(line, [{"test_loss": losses[0]}, {"test_loss": losses[-1] + 0.1}])


# Kept weights


def test_kept_weights_change_nothing_else(kept, tmp_path):
    plain, _ = carried_out(tmp_path / "runs")
    assert plain.name == kept.name
    assert (plain / "store.h5").read_bytes() == (kept / "store.h5").read_bytes()
    assert not (plain / "weights").exists()
    assert [levels_kept(kept, seed) for seed in (0, 1)] == [[0, 1, 2]] * 2
    ends, _ = carried_out(tmp_path / "ends", "keep_weights=ends")
    assert [levels_kept(ends, seed) for seed in (0, 1)] == [[0, 2]] * 2
    assert kept_by(ends).items() <= kept_by(kept).items()


def test_a_fresh_model_with_kept_weights_gives_the_stored_numbers(kept, digits, lab_of):
    with h5py.File(kept / "store.h5") as file:
        losses, masks = file["metrics/test_loss"][()], {n: file[f"masks/{n}"][()] for n in file["masks"]}
    for seed in (0, 1):
        for level in (0, 1, 2):
            tensors = load_file(kept / "weights" / f"seed-{seed}-level-{level:02d}.safetensors")
            lab = lab_of(*OVERRIDES, seed=seed)
            model = build(lab.experiment, digits.task, 99, torch.device("cpu"))
            model.load_state_dict(tensors)
            state = replace(
                lab.initial(), weights=dict(model.named_parameters()), buffers=dict(model.named_buffers())
            )
            seen = lab.outcomes(state, digits.test, digits.test.labels)
            assert seen.loss.numpy().mean(dtype=np.float64) == losses[seed, level]
            for name, pruned_at in masks.items():
                assert not tensors[name].numpy()[pruned_at[seed] <= level].any()


def test_weights_say_whose_they_are(kept):
    run = folder_of(kept)
    data = weights_path(run, 1, 2).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said = json.loads(header["__metadata__"]["prunecli"])
    assert said == {"type": "weights", "version": 1, "recipe_digest": run.digest, "seed": 1, "level": 2}


def test_norms_and_tied_parameters_come_back(lab_of):
    lab = lab_of(*BATCH_NORMED)
    state = between(network(lab, steps=2), network(lab, steps=2), 0)
    tensors = state_dict_of(lab.model, state.weights, state.buffers)
    assert list(tensors) == list(lab.model.state_dict())
    weights, buffers = parts_of(lab.model, tensors, state.buffers, "here")
    assert same(weights, state.weights)
    assert same(buffers, state.buffers)
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    tied.register_buffer("unsaved", torch.ones(2), persistent=False)
    given = {name: one.detach() + 1 for name, one in tied.named_parameters()}
    told = state_dict_of(tied, given, dict(tied.named_buffers()))
    tied.load_state_dict(told)
    assert same(dict(tied.named_parameters()), given)
    assert same(parts_of(tied, told, dict(tied.named_buffers()), "here")[1], dict(tied.named_buffers()))


def test_a_complete_run_asked_again_makes_no_weights(run):
    shutil.rmtree(run / "weights")
    assert "not made again" not in carried_out(run.parent)[1]
    _, said = carried_out(run.parent, "keep_weights=all")
    assert not (run / "weights").exists()
    assert (
        "not all weights that keep_weights asks for are there of seeds 0, 1: what is complete is not made again"
        in said
    )


def test_more_seeds_keep_theirs(run):
    before = kept_by(run)
    carried_out(run.parent, "keep_weights=ends", "seeds=[2]")
    assert levels_kept(run, 2) == [0, 2]
    assert before.items() <= kept_by(run).items()


class Killed(BaseException):
    """What a process that is killed does not come back from."""


@pytest.mark.parametrize(
    "place", ["seed-0-level-01.safetensors", "seed-0-level-01.safetensors.json", "level-01.h5"]
)
def test_a_level_has_its_weights_before_it_is_sealed(kept, tmp_path, monkeypatch, place):
    link = os.link

    def until(source, target, **how):
        if Path(target).name == place:
            raise Killed
        link(source, target, **how)

    monkeypatch.setattr(os, "link", until)
    with pytest.raises(Killed):
        carried_out(tmp_path / "runs", "keep_weights=all")
    monkeypatch.undo()
    (path,) = (tmp_path / "runs").glob("small-*")
    sealed = len(folder_of(path).chain(0).parts)
    assert sealed == 1
    assert all(load_weights(folder_of(path), 0, level) is not None for level in range(sealed))
    carried_out(tmp_path / "runs", "keep_weights=all")
    assert kept_by(path) == kept_by(kept)
    assert not list((path / "weights").glob(".tmp-*"))


def test_a_full_disk_is_told_and_gone_on_from(kept, tmp_path, monkeypatch):
    opened, write, where = os.open, os.write, {}

    def remembered(path, *rest, **how):
        descriptor = opened(path, *rest, **how)
        where[descriptor] = str(path)
        return descriptor

    def full(descriptor, data):
        if "seed-0-level-01.safetensors" in where.get(descriptor, ""):
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data)

    monkeypatch.setattr(os, "open", remembered)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"seed 0, level 1, epoch 2: .*the disk is full; level 0 is safe"):
        carried_out(tmp_path / "runs", "keep_weights=all")
    monkeypatch.undo()
    path, _ = carried_out(tmp_path / "runs", "keep_weights=all")
    assert kept_by(path) == kept_by(kept)


def test_weights_asked_for_halfway_are_kept_as_far_as_states_are(kept, tmp_path, monkeypatch):
    link = os.link

    def until(source, target, **how):
        if Path(target).name == "level-02.h5":
            raise Killed
        link(source, target, **how)

    monkeypatch.setattr(os, "link", until)
    with pytest.raises(Killed):
        carried_out(tmp_path / "runs", "seeds=[0]")
    monkeypatch.undo()
    path, _ = carried_out(tmp_path / "runs", "seeds=[0]", "keep_weights=all")
    assert kept_by(path).items() <= kept_by(kept).items()
    assert levels_kept(path) == [0, 1, 2], "both sealed levels have states to take them from"


def test_levels_of_another_run_have_the_weights_that_it_kept(kept, run):
    path, said = carried_out(
        run.parent, PRUNING.replace("times: 2", "times: 3"), "keep_weights=all", "seeds=[0]"
    )
    assert path != run
    assert "levels 0 to 2 are those of" in said
    assert levels_kept(path) == [0, 1, 2, 3]
    for level in (0, 1, 2):
        mine, theirs = (load_weights(folder_of(one), 0, level) for one in (path, run))
        assert same(mine, theirs)
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0


def test_levels_of_another_run_that_kept_none_are_named(run):
    shutil.rmtree(run / "weights")
    path, said = carried_out(
        run.parent, PRUNING.replace("times: 2", "times: 3"), "keep_weights=all", "seeds=[0]"
    )
    assert levels_kept(path) == [0, 2, 3], "the first and the last have states"
    assert f"seed 0: weights of level 1 are not kept: the levels are those of {run.name}" in said
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0


def test_a_level_made_again_has_its_own_weights(run):
    """What a process left under other conditions is set aside, and not taken for the level's."""
    folder = folder_of(run)
    tensors = load_weights(folder, 0, 1)
    assert save_weights(folder, 0, 1, tensors) == []
    others = {name: one + 1 for name, one in tensors.items()}
    (moved,) = save_weights(folder, 0, 1, others)
    assert "with other weights; moved to quarantine" in moved
    assert same(load_weights(folder, 0, 1), others)
    assert len(list((run / "quarantine").iterdir())) == 2


def test_a_plan_tells_what_weights_take(kept, tmp_path):
    (plan,) = make_plan(recipe("keep_weights=all"), Settings(runs=tmp_path), timed=False)
    files = list((kept / "weights").glob("*.safetensors"))
    assert plan.weights_bytes == sum(one.nbytes for file in files for one in load_file(file).values())
    sizes = [
        make_plan(recipe(f"keep_weights={how}"), Settings(runs=tmp_path), timed=False)[0].weights_bytes
        for how in ("none", "ends")
    ]
    assert sizes == [0, plan.weights_bytes * 2 // 3]


# Damage


def rewritten(path: Path, change: Callable[[bytes], bytes], **facts: object) -> None:
    """A file with other content and a record that vouches for it."""
    record = json.loads(record_path(path).read_text())
    told = {name: record[name] for name in ("recipe_digest", "seed", "level")} | facts
    data = change(path.read_bytes())
    path.write_bytes(data)
    record_path(path).write_bytes(record_of(data, told))


def forged_header(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    header[first]["data_offsets"] = [0, 2**40]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def of_level_two(run: Path) -> Callable[[bytes], bytes]:
    return lambda _data: weights_path(folder_of(run), 0, 2).read_bytes()


def revived(run: Path) -> Callable[[bytes], bytes]:
    """The level's weights with those back that its masks drop."""
    folder = folder_of(run)
    return lambda data: save(
        {name: one + 1 for name, one in load(data).items()}, metadata=metadata_of(folder, 0, 1)
    )


DAMAGE = {
    "a byte": (lambda path, run: path.write_bytes(path.read_bytes()[:-1] + b"?"), "is not what"),
    "cut short": (lambda path, run: path.write_bytes(path.read_bytes()[:99]), "is not what"),
    "gone": (lambda path, run: path.unlink(), "no such file"),
    "record of another level": (
        lambda path, run: rewritten(path, bytes, level=2),
        "belongs to another run, seed or level",
    ),
    "another level": (lambda path, run: rewritten(path, of_level_two(run)), "by its own words"),
    "no safetensors": (lambda path, run: rewritten(path, lambda _: b"\x89HDF" * 9), "not weights"),
    "huge header": (lambda path, run: rewritten(path, lambda d: b"\xff" * 8 + d[8:]), "not weights"),
    "forged header": (lambda path, run: rewritten(path, forged_header), "not weights"),
    "newer": (
        lambda path, run: rewritten(path, lambda d: d.replace(rb"\"version\": 1", rb"\"version\": 2")),
        "newer prunecli",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_weights_are_named_and_not_used(stateless, what):
    path = weights_path(folder_of(stateless), 0, 1)
    damage, message = DAMAGE[what]
    damage(path, stateless)
    status, printed = connect(f"{stateless}:1", f"{stateless}:2")
    assert (status, message in printed, str(path) in printed) == (3, True, True), printed
    done = CliRunner().invoke(app, ["check", str(stateless)])
    assert (done.exit_code, message in done.output) == (3, True), done.output
    assert connect(f"{stateless}:0", f"{stateless}:2")[0] == 0, "the others are as good as ever"


def test_weights_that_are_not_the_levels_own_are_refused(stateless):
    path = weights_path(folder_of(stateless), 0, 1)
    rewritten(path, revived(stateless))
    status, printed = connect(f"{stateless}:1", f"{stateless}:2")
    assert status == 3
    assert "that are dropped at this level of the run's store" in printed


def test_weights_of_another_model_are_refused(stateless):
    path = weights_path(folder_of(stateless), 0, 1)
    metadata = metadata_of(folder_of(stateless), 0, 1)
    rewritten(path, lambda _: save({"fc.weight": torch.zeros(2, 2)}, metadata=metadata))
    status, printed = connect(f"{stateless}:1", f"{stateless}:2")
    assert (status, "other tensors than the recipe's model" in printed) == (3, True)


def test_a_file_without_a_record_is_not_there(stateless):
    record_path(weights_path(folder_of(stateless), 0, 1)).unlink()
    status, printed = connect(f"{stateless}:1", f"{stateless}:2")
    assert (status, "no weights are kept of level 1, seed 0" in printed) == (3, True), printed
    done = CliRunner().invoke(app, ["check", str(stateless)])
    assert (done.exit_code, "has no record beside it" in done.output) == (3, True)


def test_a_linked_folder_of_weights_is_refused(stateless, tmp_path):
    (stateless / "weights").rename(tmp_path / "elsewhere")
    (stateless / "weights").symlink_to(tmp_path / "elsewhere")
    status, printed = connect(f"{stateless}:1", f"{stateless}:2")
    assert (status, "symbolic link" in printed) == (3, True)
    with pytest.raises(DamagedRun, match="a symbolic link, which is not followed"):
        save_weights(folder_of(stateless), 0, 1, {})


# The command


def test_the_ends_of_a_line_are_the_runs_own_numbers(kept):
    found = reported(f"{kept}:dense", kept, "--of", "both", "--points", 3)
    with h5py.File(kept / "store.h5") as file:
        for name in ("test_error", "test_loss", "train_error", "train_loss"):
            stored = file[f"metrics/{name}"][()]
            for row, pair in enumerate(found["pairs"]):
                values = pair["metrics"][name]
                assert [values[0], values[-1]] == [stored[row, 0], stored[row, 2]]
                assert pair["barriers"][name] == max(values) - (values[0] + values[-1]) / 2
            barriers = [pair["barriers"][name] for pair in found["pairs"]]
            told = found["barriers"][name]
            assert told["mean"] == pytest.approx(np.mean(barriers))
            assert told["std"] == pytest.approx(np.std(barriers, ddof=1))
    assert [(pair["seed_a"], pair["seed_b"]) for pair in found["pairs"]] == [(0, 0), (1, 1)]
    assert (found["a"]["level"], found["b"]["level"], found["notes"]) == (0, 2, [])
    assert [pair["density"] for pair in found["pairs"]] == [1.0, 1.0]


def test_states_stand_in_for_weights(kept, run):
    shutil.rmtree(run / "weights")
    words = ("--of", "both", "--points", 3)
    with_weights, with_states = (reported(f"{one}:0", one, *words) for one in (kept, run))
    assert with_weights["pairs"] == with_states["pairs"]
    status, printed = connect(f"{run}:1", run)
    assert status == 3
    assert "no weights are kept of level 1, seeds 0, 1" in printed
    assert "keep_weights=all --runs OTHER" in printed


def test_pairs_of_seeds_are_not_taken_for_independent(run):
    carried_out(run.parent, "keep_weights=ends", "seeds=[2]")
    found = reported(run, "--between", "seeds", "--points", 3, "--batch-norm", "recompute")
    assert [(pair["seed_a"], pair["seed_b"]) for pair in found["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert all(0.25 < pair["density"] < 0.5 for pair in found["pairs"])
    _, printed = connect(run, "--between", "seeds", "--points", 3)
    assert "3 pairs of 3 seeds share seeds and are not independent" in printed
    status, printed = connect(run, "--between", "seeds", "--seeds", 1)
    assert (status, "pairs need two" in printed) == (4, True)


def test_two_runs_are_joined_seed_by_seed(kept, tmp_path):
    other, _ = carried_out(tmp_path / "runs", "learning_rate=0.05", "keep_weights=ends", "seeds=[1, 2]")
    found = reported(kept, other, "--points", 3)
    assert [(pair["seed_a"], pair["seed_b"]) for pair in found["pairs"]] == [(1, 1)]
    assert found["notes"] == ["seeds that not both ends have, left out: 0, 2"]
    assert found["barriers"]["test_loss"]["std"] is None
    assert found["a"]["run"] != found["b"]["run"]
    status, printed = connect(kept, other, "--seeds", 0)
    assert status == 4
    assert "has no seed of --seeds" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model={mlp: {hidden: [12]}}", "are of other models"),
        ("labels={uniform: {fraction: 0.3}}", "other labels"),
        ("examples={first: {count: 200}}", "other examples"),
    ],
)
def test_what_no_line_joins_is_refused(kept, tmp_path, change, message):
    other, _ = carried_out(tmp_path / "runs", change, "keep_weights=ends", "seeds=[0]")
    status, printed = connect(kept, other, "--of", "train", "--points", 3)
    assert (status, message in printed) == (4, True), printed


def test_other_data_than_the_runs_own_is_no_ground_to_measure_on(run):
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("batch_size: 200", "batch_size: 100"))
    status, printed = connect(f"{run}:0", run)
    assert (status, "its recipe.yaml was changed" in printed) == (3, True)


def test_a_run_without_its_recipe_is_damaged(run):
    (run / "recipe.yaml").unlink()
    status, printed = connect(f"{run}:0", run)
    assert (status, "it has no recipe.yaml" in printed) == (3, True)


def test_channels_that_dropped_filters_close_open_along_the_line(tmp_path):
    """Shortcuts' channels are closed at one end and open at the other: both ends are what was stored."""
    pruned = "{prune_layers: {criterion: l2_norm, layers: {'blocks.*': {fraction: 0.3}}}}"
    stages = f"procedure=[{{train: {{until: 1}}}}, {pruned}, {{train: {{until: 2}}}}]"
    wanted = (*BATCH_NORMED, stages, "epochs=2", "keep_weights=ends", "seeds=[0]")
    path, _ = carried_out(tmp_path / "runs", *wanted)
    with h5py.File(path / "store.h5") as file:
        stored = file["metrics/test_loss"][0]
        assert file["metrics/density"][1] < 1
    losses = reported(f"{path}:0", path, "--points", 3)["pairs"][0]["metrics"]["test_loss"]
    assert [losses[0], losses[-1]] == list(stored)
    again = reported(path, path, "--points", 3)["pairs"][0]
    assert set(again["metrics"]["test_loss"]) == {stored[1]}
    # A run that drops no filters has no channels to close: from it, too, the other end is what was stored.
    open_, _ = carried_out(tmp_path / "runs", *BATCH_NORMED, "epochs=2", "keep_weights=ends", "seeds=[0]")
    for ends, place in (((open_, path), -1), ((path, open_), 0)):
        assert reported(*ends, "--points", 3)["pairs"][0]["metrics"]["test_loss"][place] == stored[1]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["{run}"], 2, "a line has two ends"),
        (["{run}", "{run}", "--between", "seeds"], 2, "takes one RUN[:LEVEL]"),
        (["{run}:7", "{run}"], 4, "has no level '7'; it has levels 0 to 2"),
        (["{run}:first", "{run}"], 2, "no such run; a level after ':' is a number, dense"),
        (["nowhere", "{run}"], 2, "no such run"),
        (["{run}:0", "{run}", "--confidence", "1"], 2, "should be between 0 and 1"),
        (["{run}:0", "{run}", "--points", "2"], 2, "--points"),
        (["{run}:0", "{run}", "--plot", "a.gif"], 2, "unknown ending; known: .png .svg .pdf"),
        (["{run}:0", "{run}", "-o", "a.tex"], 2, "unknown ending; known: .txt .md .csv .json"),
        (["{run}:0", "{run}", "--device", "tpu"], 3, "there is no device 'tpu'"),
    ],
)
def test_what_cannot_be_asked_for(kept, words, status, message):
    found, printed = connect(*(word.format(run=kept) for word in words))
    assert (found, message in printed) == (status, True), printed


def test_it_is_written_in_every_form(kept, tmp_path):
    files = {ending: tmp_path / f"found{ending}" for ending in (".txt", ".md", ".csv", ".json")}
    plots = [tmp_path / "found.png", tmp_path / "found.svg"]
    words = [word for file in files.values() for word in ("-o", file)]
    status, printed = connect(
        f"{kept}:0", kept, "--points", 3, *words, *(w for p in plots for w in ("--plot", p))
    )
    assert status == 0
    assert files[".txt"].read_text() in printed
    assert files[".md"].read_text().count("### ") == 3
    rows = list(csv.DictReader(io.StringIO(files[".csv"].read_text())))
    document = json.loads(files[".json"].read_text())
    assert (document["schema"], document["version"], len(rows)) == ("prunecli/connect", 1, 6)
    for row, value in zip(rows[:3], document["pairs"][0]["metrics"]["test_loss"], strict=True):
        assert float(row["test_loss"]) == value
        assert float(row["test_loss_barrier"]) == document["pairs"][0]["barriers"]["test_loss"]
    assert plots[0].read_bytes().startswith(b"\x89PNG")
    assert "loss (nats)" in plots[1].read_text()
    assert connect(f"{kept}:0", kept, "--points", 3, "--plot", tmp_path / "no" / "a.png")[0] == 74
