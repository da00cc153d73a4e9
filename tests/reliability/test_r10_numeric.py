"""R10: numeric faults, made to happen by real means, are named where they happen; what was sealed before stays."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from scale import SHORT, Figures, Scale
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.store.reading import read_run
from prunecli.store.values import StoredRun

NAME = "R10 numeric faults"

CODE = '''
import torch
from torch import nn

from prunecli.datasets.values import Dataset, InMemory, Normalization, Split
from prunecli.task import Task


class Faulty(nn.Module):
    """A linear model that goes wrong in the training step `at`, for those draws of it that are poisoned."""

    def __init__(self, task, at, share):
        super().__init__()
        self.fc = nn.Linear(task.shape[1] * task.shape[2], task.classes)
        self.at = at
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        self.register_buffer("poisoned", torch.rand(()) < share)

    def forward(self, images):
        logits = self.fc(images.flatten(1))
        if self.training:
            if self.poisoned and self.taken == self.at:
                logits = logits * float("nan")
            self.taken += 1
        return logits


def faulty(task, *, at: int, share: float = 1.0):
    return Faulty(task, at, share)


class Hungry(Faulty):
    """It asks for more memory than there is for batches beyond a size."""

    most = {True: 10**9, False: 10**9}

    def forward(self, images):
        if len(images) > self.most[self.training]:
            torch.empty(len(images) * 2**46)
        return super().forward(images)


def hungry(task, *, training: int = 10**9, evaluation: int = 10**9):
    model = Hungry(task, -1, 0.0)
    model.most = {True: training, False: evaluation}
    return model


def _scores(weights, change):
    return {name: change(weight.abs()) for name, weight in weights.items()}


def nan_scores(weights):
    def change(score):
        score.view(-1)[:3] = float("nan")
        return score
    return _scores(weights, change)


def infinite_scores(weights):
    def change(score):
        score.view(-1)[:3], score.view(-1)[3:5] = float("inf"), -float("inf")
        return score
    return _scores(weights, change)


def equal_scores(weights):
    return _scores(weights, torch.ones_like)


def whole_scores(weights):
    return _scores(weights, lambda score: (1000 * score).long())


def masks_for_scores(weights):
    return _scores(weights, lambda score: score > 0)


def flat_scores(weights):
    return _scores(weights, torch.flatten)


def no_scores(weights):
    return None


def text_scores(weights):
    return dict.fromkeys(weights, "high")


def in_place(weights):
    return {name: weight.abs_() for name, weight in weights.items()}


class Reviving(torch.optim.SGD):
    """It decays towards 1 what it is given, dropped weights too."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter += 1e-3 * (1 - parameter)


def reviving(parameters):
    return Reviving(list(parameters.values()), lr=0.0)


def _data(train=60, test=20, low=0, kind=torch.int64, classes=3):
    splits = []
    for count in (train, test):
        pixels = torch.arange(count * 16, dtype=torch.float32).view(count, 1, 4, 4) % 7
        labels = (torch.arange(count) % 3 + low).to(kind)
        splits.append(Split(InMemory(pixels, Normalization(7, (0.5,), (0.3,))), labels))
    return Dataset(Task((1, 4, 4), classes), *splits, fingerprint=f"{train}{test}{low}{kind}{classes}")


def data(roots, *, train: int = 60, test: int = 20, low: int = 0, classes: int = 3):
    return _data(train, test, low, classes=classes)


def data_of_floats(roots):
    return _data(kind=torch.float32)


def no_data(roots):
    return None


def _labels(labels, change):
    used = labels.clone()
    used[5] = change
    return used


def labels_beyond(labels, changeable, classes, key):
    return _labels(labels, classes)


def labels_ignored(labels, changeable, classes, key):
    return _labels(labels, -100)


def labels_of_floats(labels, changeable, classes, key):
    return labels.float()


def labels_short(labels, changeable, classes, key):
    return labels[:-1]


def labels_none(labels, changeable, classes, key):
    return None


def odd_numbers(train):
    import numpy as np
    return {"metrics/odd": np.asarray(float("nan")), "metrics/vast": np.asarray(1.7e308)}
'''
RECIPE = """model: {mlp: {hidden: [16]}}
data: digits
optimizer: {sgd: {momentum: 0.9}}
learning_rate: 0.1
epochs: 2
batch_size: 479
seeds: [0]
procedure: [train, {prune: {fraction: 0.5}}, rewind, train]
"""
"""Three steps an epoch, six a level."""


@dataclass(frozen=True)
class Case:
    """Overrides of the recipe, how the command ends, and what it says."""

    overrides: tuple[str, ...]
    status: int = 0
    says: str = ""
    look: Callable[[StoredRun], None] | None = None


def own(name: str, **options: object) -> str:
    """A function of the module above, as a recipe names it."""
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{{'python:faults_of_r10:{name}': {{{text}}}}}"


def pruned_by(criterion: str) -> str:
    """The procedure with another criterion."""
    return f"procedure=[train, {{prune: {{criterion: {criterion}, fraction: 0.5}}}}, rewind, train]"


def check(scale: Scale, folder: Path) -> Figures:
    """Every fault: how the command ends, what it says, and that earlier levels and other seeds are there."""
    for name in CASES:
        carry_out(name, folder / re.sub("[^a-z]", "-", name), scale.of(1, 3))
    return {"faults": len(CASES), "levels lost": 0, "unnamed": 0}


def carry_out(name: str, folder: Path, turns: int = 1) -> None:
    """A case, with so many sets of seeds."""
    case = CASES[name]
    for turn in range(turns):
        here = folder / str(turn)
        with _module(here):
            seeds = [] if any(text.startswith("seeds=") for text in case.overrides) else [f"seeds=[{turn}]"]
            done = prunecli("prune", "recipe.yaml", *case.overrides, *seeds, "--progress", "log")
            said = " ".join(done.output.split())
            assert done.exit_code == case.status, (
                f"'{name}' ends with {done.exit_code}: {done.output[-2000:]}"
            )
            assert re.search(case.says, said, re.IGNORECASE), f"'{name}' says {said[-2000:]!r}"
            if case.look is not None:
                (run,) = Path("runs").glob("[a-z]*")
                case.look(read_run(run))


def prunecli(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    allow = ["--allow-code"] if arguments[0] != "compare" else []
    return CliRunner().invoke(app, [*arguments, *allow])


@contextmanager
def _module(folder: Path) -> Iterator[None]:
    """A working directory with the recipe and the module of faults."""
    folder.mkdir(parents=True)
    (folder / "faults_of_r10.py").write_text(CODE, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    before, threads = list(sys.path), torch.get_num_threads()
    try:
        with chdir(folder):
            yield
    finally:
        sys.path[:] = before
        sys.modules.pop("faults_of_r10", None)
        torch.set_num_threads(threads)


def _level_0_alone(run: StoredRun) -> None:
    assert run.status == "partial"
    assert np.isfinite(run.metrics["test_error"][:, 0]).all()
    assert not np.isfinite(run.metrics["test_error"][:, 1:]).any()


def _some_seeds(run: StoredRun) -> None:
    """Every seed has level 0, and some have all levels; the table says so."""
    complete = np.isfinite(run.metrics["test_error"]).all(axis=1)
    assert run.status == "partial"
    assert len(run.seeds) == 6
    assert 0 < complete.sum() < 6
    assert np.isfinite(run.metrics["test_error"][:, 0]).all()
    document = compared(run)
    assert [level["metrics"]["test_error"]["n"] for level in document["levels"]] == [6, complete.sum()]


def _diverged(run: StoredRun) -> None:
    """The useless level is marked wherever it is shown, and its losses are finite."""
    assert np.isfinite(run.metrics["train_loss"]).all()
    marks = run.metrics["diverged"] == 1
    assert (marks == (run.metrics["train_loss"] > 1.01 * np.log(10))).all()
    assert marks.all()
    _shown(run, "diverged", "diverged 1/1", levels=(0, 1))


def _fine(run: StoredRun) -> None:
    assert (run.metrics["diverged"] == 0).all()
    assert "diverged" not in prunecli("compare", str(run.path)).output


def _collapsed(run: StoredRun) -> None:
    assert run.kept[0].tolist() == [[1024, 160], [0, 160]]
    _shown(run, "collapsed", "collapsed 1/1", levels=(1,))
    assert compared(run)["levels"][1]["collapsed"] == {"count": 1, "layers": {"fc_layers.0.weight": [0]}}


def _shown(run: StoredRun, word: str, mark: str, *, levels: tuple[int, ...]) -> None:
    document = compared(run)
    assert [level["level"] for level in document["levels"] if level[word]["count"]] == list(levels)
    for form in ("table", "md", "latex"):
        output = prunecli("compare", str(run.path), "--format", form).stdout
        assert output.count(mark) == len(levels), output
        assert f"{word} at level" in output, output
    written = io.StringIO(prunecli("compare", str(run.path), "--format", "csv").stdout)
    assert {row["level"] for row in csv.DictReader(written) if row[word] != "0"} == set(map(str, levels))


def _half(run: StoredRun) -> None:
    assert run.kept[0].sum(axis=1).tolist() == [1184, 592]


def _as_magnitude(run: StoredRun) -> None:
    """What a criterion does to the weights that it is given changes none: the run is magnitude pruning's."""
    done = prunecli("prune", "recipe.yaml", f"seeds={list(run.seeds)}", "--runs", "plain", "-q")
    assert done.exit_code == 0, done.output
    plain = read_run(Path(done.stdout.strip()))
    for name in ("test_loss", "train_loss"):
        assert np.array_equal(run.metrics[name], plain.metrics[name])


def _one_seed(run: StoredRun) -> None:
    """Numbers that there are not are null in JSON, and said in words in a table."""
    document = compared(run)
    for level in document["levels"]:
        assert level["metrics"]["test_error"]["std"] is None
        assert level["metrics"]["odd"] == {"mean": None, "std": None, "n": 0, "values": [None]}
    whole = json.loads(prunecli("compare", str(run.path), "--format", "json").stdout, parse_constant=_refused)
    assert [pair["interval"] for pair in whole["comparisons"]] == [None]
    assert [pair["verdict"] for pair in whole["comparisons"]] == [None]
    assert "n = 1: one seed has no sd, interval or verdict" in prunecli("compare", str(run.path)).output


def _wide(run: StoredRun) -> None:
    """Several seeds with numbers whose squares are no floats: still valid, and the sd is missing, not 0."""
    for level in compared(run)["levels"]:
        assert level["metrics"]["vast"]["mean"] is not None
        assert level["metrics"]["vast"]["std"] in (None, 0.0)


def _all_epochs(run: StoredRun) -> None:
    assert run.spent.tolist() == [2.0, 4.0]


def compared(run: StoredRun) -> dict[str, Any]:  # Any: JSON
    """The run as `compare --format json` has it."""
    done = prunecli("compare", str(run.path), "--format", "json")
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout, parse_constant=_refused)["runs"][0]
    return document


def _refused(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


FEW = "data=" + own("data")
CASES: dict[str, Case] = {
    "nan loss in one step": Case(
        ("model=" + own("faulty", at=8),),
        7,
        r"seed \d, level 1, epoch 3, step 3: the loss is nan \(learning rate 0\.1, gradient norm nan, "
        r"first [^:()]*:? ?fc\.weight\); level 0 is safe",
        _level_0_alone,
    ),
    "nan loss at the very first step": Case(
        ("model=" + own("faulty", at=0),), 7, r"level 0, epoch 1, step 1: the loss is nan .*no level is sealed yet"
    ),
    "nan loss of some seeds": Case(
        ("model=" + own("faulty", at=8, share=0.5), "seeds=[0, 1, 2, 3, 4, 5]"),
        6,
        r"some seeds .*others are done and comparable.*level 1, epoch 3, step 3: the loss is nan",
        _some_seeds,
    ),
    "a rate that blows up": Case(
        ("learning_rate=1e6",), 7, r"seed \d, level \d, epoch \d, step \d: the loss is (nan|inf) \(learning rate 1e\+06"
    ),
    "a rate that makes it useless": Case(
        ("learning_rate=3", "optimizer=sgd", "model={mlp: {hidden: [64, 64]}}"), 0, "", _diverged
    ),
    "nothing wrong": Case((), 0, "", _fine),
    "nan scores": Case(
        (pruned_by(own("nan_scores")),),
        7,
        r"seed \d, level 1[:,] criterion 'python:faults_of_r10:nan_scores': 3 of 1,024 scores of "
        r"'fc_layers\.0\.weight', 3 of 160 scores of 'fc\.weight' are nan.*level 0 is safe",
        _level_0_alone,
    ),
    "infinite scores": Case((pruned_by(own("infinite_scores")),), 0, "", _half),
    "equal scores": Case((pruned_by(own("equal_scores")),), 0, "", _half),
    "scores made in place": Case((pruned_by(own("in_place")),), 0, "", _as_magnitude),
    "whole numbers for scores": Case((pruned_by(own("whole_scores")),), 2, "whole_scores' gives scores of type torch.int64", _level_0_alone),
    "masks for scores": Case((pruned_by(own("masks_for_scores")),), 2, "gives scores of type torch.bool", _level_0_alone),
    "scores of another shape": Case((pruned_by(own("flat_scores")),), 2, r"gives scores of shape \(1024,\) for 'fc_layers", _level_0_alone),
    "no scores": Case((pruned_by(own("no_scores")),), 2, "no_scores' returned NoneType, not a mapping", _level_0_alone),
    "text for scores": Case((pruned_by(own("text_scores")),), 2, "gives scores of type str", _level_0_alone),
    "a collapsed layer": Case(
        (
            "procedure=[train, {prune: {fraction: 0, scope: {policy: {amounts: {fc_layers.0.weight: 1}}}}}, rewind, train]",
            "seeds=[0]",
        ),
        0,
        "",
        _collapsed,
    ),
    "an optimizer that revives": Case(
        ("optimizer=" + own("reviving"),), 2, r"optimizer 'python:faults_of_r10:reviving' changed weights of 'fc_layers\.0\.weight'", _level_0_alone
    ),
    "batches of one under BatchNorm": Case(
        ("model={cifar_resnet_20: {width: 0.1}}", "batch_size=1"), 2, r"'batch_size' is 1, but model 'cifar_resnet_20' has BatchNorm \(bn\)"
    ),
    "one example under BatchNorm": Case(
        ("model={cifar_resnet_20: {width: 0.1}}", "examples={first: {count: 1}}"), 2, "there is one training example, but model"
    ),
    "a fault in the last of batches of one": Case(
        ("model=" + own("faulty", at=4), "batch_size=1", "examples={first: {count: 5}}"), 7, "epoch 1, step 5: the loss is nan"
    ),
    "one example": Case(("examples={first: {count: 1}}",), 0, "", _all_epochs),
    "a class without examples": Case(("examples={only: {indices: [0, 1, 2]}}",), 0, "no training example of classes "),
    "no test example": Case(("data=" + own("data", test=0),), 2, "python:faults_of_r10:data raised .*the test split has 0 images"),
    "no training example": Case(("data=" + own("data", train=0),), 2, "the training split has 0 images"),
    "labels of data beyond": Case(("data=" + own("data", classes=2),), 2, "labels 0 to 2, not within 0 to 1"),
    "labels of data below": Case(("data=" + own("data", low=-1),), 2, "labels -1 to 1, not within 0 to 2"),
    "labels of data as floats": Case(("data=" + own("data_of_floats"),), 2, r"labels torch\.float32 .* not torch\.int64"),
    "no data": Case(("data=" + own("no_data"),), 2, "no_data' returned NoneType"),
    "noise beyond the classes": Case((FEW, "labels=" + own("labels_beyond")), 2, "labels are from 0 to 2; found 3 at example 5"),
    "noise of ignored labels": Case((FEW, "labels=" + own("labels_ignored")), 2, "found -100 at example 5"),
    "noise of floats": Case((FEW, "labels=" + own("labels_of_floats")), 2, "torch.float32"),
    "noise for some": Case((FEW, "labels=" + own("labels_short")), 2, r"\(60,\); found \(59,\)"),
    "noise that is none": Case((FEW, "labels=" + own("labels_none")), 2, "found NoneType"),
    "one seed and odd metrics": Case(("observe=[" + own("odd_numbers") + "]",), 0, "", _one_seed),
    "vast metrics": Case(("observe=[" + own("odd_numbers") + "]", "seeds=[0, 1, 2]"), 0, "", _wide),
    "no memory to train": Case(
        ("model=" + own("hungry", training=100),), 3, "out of memory in a training step of batch_size 479"
    ),
    "little memory to evaluate": Case(
        ("model=" + own("hungry", evaluation=40),), 0, "out of memory in the evaluation of 128 examples.*evaluated 64 at a time.*evaluated 32 at a time"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_named_where_it_happens(name: str, tmp_path: Path) -> None:
    carry_out(name, tmp_path / "case", SHORT.of(1, 3))


def test_what_is_said_of_a_level_is_the_same_once_it_was_gone_on_with(tmp_path: Path) -> None:
    stores = []
    for verbs in (("prune",), ("train", "prune")):
        with _module(tmp_path / verbs[0]):
            for verb in verbs:
                done = prunecli(verb, "recipe.yaml", "learning_rate=3", "optimizer=sgd", "-q")
                assert done.exit_code == 0, done.output
            (run,) = Path("runs").glob("[a-z]*")
            stores.append((run / "store.h5").read_bytes())
    assert stores[0] == stores[1]


@pytest.mark.parametrize(
    ("size", "said"), [(4, "the last of 5: one example left over is joined to it"), (3, "")]
)
def test_a_plan_says_where_a_single_example_is_joined(size: int, said: str, tmp_path: Path) -> None:
    with _module(tmp_path / "case"):
        steps = next(
            line
            for line in prunecli("plan", "recipe.yaml", f"batch_size={size}").stdout.splitlines()
            if "steps" in line
        )
    assert said in steps
    assert ("joined" in steps) is bool(said)


def test_a_plan_says_which_classes_have_no_example(tmp_path: Path) -> None:
    with _module(tmp_path / "case"):
        planned = prunecli("plan", "recipe.yaml", "examples={only: {indices: [0, 1, 2]}}").stdout
        assert "lacking     no training example of classes " in planned
        assert "lacking" not in prunecli("plan", "recipe.yaml").stdout
