"""The commands: what they print where, and how they end."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from conftest import FREE, SMALL
from typer.testing import CliRunner

import prunecli
from prunecli.cli import progress
from prunecli.cli.app import app
from prunecli.progress import EpochDone, EpochSeen, LevelDone, Planned
from prunecli.recipe import library
from prunecli.recipe.load import load, load_text
from prunecli.registry import Registry
from prunecli.store.lock import locked
from prunecli.store.sealing import record_path

RECIPE = SMALL.replace("epochs: 2", "epochs: 1").replace(
    "procedure: [train]", "procedure: [train, {prune: {fraction: 0.5}}, rewind, train]"
)
COMMANDS = [command.callback.__name__ for command in app.registered_commands]


def prunecli_(*arguments: str) -> Result:
    """A command line, carried out in this process."""
    return CliRunner().invoke(app, arguments)


def made(*arguments: str) -> Path:
    """The folder of the run that a command makes."""
    done = prunecli_("prune", "small.yaml", *arguments, "-q")
    assert done.exit_code == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The folder of runs with one complete run."""
    runs = tmp_path_factory.mktemp("stored") / "runs"
    (runs.parent / "small.yaml").write_text(RECIPE)
    done = prunecli_("prune", str(runs.parent / "small.yaml"), "--runs", str(runs), "--progress", "none")
    assert done.exit_code == 0, done.output
    return runs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a recipe."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(stored, folder) -> Path:
    """A complete run under runs/, to be changed."""
    shutil.copytree(stored, "runs")
    (path,) = Path("runs").glob("small-*")
    return path


# --- How commands end


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("prune smal.yaml", 2, "there is no recipe 'smal.yaml', neither a file nor a built-in one; did you mean 'small.yaml'?"),
        ("prune typo.yaml", 2, "typo.yaml:2:9: unknown model 'mpl'; did you mean 'mlp'?"),
        ("plan latin.yaml", 2, "latin.yaml: not UTF-8 text (byte 2)"),
        ("plan .", 2, "a folder that is no run"),
        ("plan no/such/file.yaml", 2, "there is no recipe 'no/such/file.yaml'"),
        ("prune small.yaml epochs=x", 2, "argument:1:8: 'epochs' should be a valid number; found 'x'"),
        ("prune small.yaml epohcs=1", 2, "argument:1:1: there is no 'epohcs' to set; did you mean 'epochs'?"),
        ("prune small.yaml --epochs 1", 2, "No such option: --epochs"),
        ("prune small.yaml --progress fast", 2, "fast"),
        ("prune", 2, "Missing argument"),
        ("prnue small.yaml", 2, "No such command 'prnue'"),
        ("prune small.yaml --seeds 0-", 2, "--seeds 0-: should be like 0,1,2 or 0-4; found '0-'"),
        ("prune small.yaml --seeds=-1", 2, "should be like 0,1,2 or 0-4; found '-1'"),
        ("prune small.yaml --seeds 0,,1", 2, "should be like 0,1,2 or 0-4; found ''"),
        ("prune small.yaml --seeds ²", 2, "should be like 0,1,2 or 0-4; found '²'"),
        (f"prune small.yaml --seeds {'1' * 5000}", 2, "should be like 0,1,2 or 0-4"),
        ("prune small.yaml --seeds 4-1", 2, "the range 4-1 should rise"),
        ("prune small.yaml --seeds 0-10000000", 2, "by less than 10,000"),
        ("prune small.yaml --seeds 4294967296", 2, "'seeds.0' should be less than 2147483648"),
        ("prune small.yaml model=python:os:getcwd", 2, "'python:os:getcwd' runs code of its own; give --allow-code"),
        ("prune small.yaml procedure=[rewind,{rewind:{to:early}}]", 2, "argument:1:"),
        ("prune small.yaml data=cifar10 --data-root there", 3, "looked in there/cifar-10-batches-py: no such folder"),
        ("prune small.yaml data=cifar10", 3, "--download"),
        ("prune small.yaml --device tpu", 3, "there is no device 'tpu' here; known: auto, cpu"),
        ("prune small.yaml --device cuda:99", 3, "there is no device 'cuda:99' here"),
        ("prune small.yaml learning_rate=1e6", 7, "every seed diverged:"),
        ("compare", 2, "runs: no runs there"),
        ("compare runs/none", 2, "runs/none: no such run"),
        ("compare .", 3, "not a run"),
        ("status", 2, "runs: no such folder"),
        ("status none", 2, "none: no such run"),
        ("check none", 2, "none: no such store"),
        ("show none", 2, "there is no recipe 'none'"),
        ("ls modles", 2, "there are no 'modles' to list; did you mean 'models'?"),
        ("cp imp_lr here.yaml", 2, "did you mean 'imp_lrr'?"),
        ("cp imp_lrr no/folder/here.yaml", 2, "there is no folder no/folder"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_ends_with_its_status_and_prints_nothing(folder, arguments, status, said):
    (folder / "typo.yaml").write_text(RECIPE.replace("mlp", "mpl"))
    (folder / "latin.yaml").write_bytes(b"# \xe9\n")
    done = prunecli_(*arguments.split())
    assert (done.exit_code, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
    if status != 7:
        assert done.stdout == ""
        assert not (folder / "runs").exists()


def test_every_mistake_is_told_with_its_line_in_one_go(folder):
    Path("typo.yaml").write_text(RECIPE.replace("mlp", "mpl").replace("epochs: 1", "epochs: true"))
    done = prunecli_("plan", "typo.yaml", "batch_size=0")
    (model,) = [line for line in RECIPE.splitlines() if line.startswith("model")]
    assert done.stderr.splitlines() == [
        "typo.yaml:2:9: unknown model 'mpl'; did you mean 'mlp'?",
        f"  2 | {model.replace('mlp', 'mpl')}",
        "    |         ^^^",
        "typo.yaml:6:9: 'epochs' should be a valid number; found True",
        "  6 | epochs: true",
        "    |         ^^^^",
        "argument:1:12: 'batch_size' should be greater than or equal to 1; found 0",
        "  1 | batch_size=0",
        "    |            ^",
    ]


def empty(run: Path) -> None:
    (run / "store.h5").unlink()
    record_path(run / "store.h5").unlink()


def damaged(run: Path) -> None:
    content = bytearray((run / "store.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "store.h5").write_bytes(content)


def of_a_newer_format(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "version": 99}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(empty, "empty: no level is sealed yet"), (damaged, "damaged"), (of_a_newer_format, "newer prunecli")],
)
def test_a_spoiled_run_is_told_and_the_others_are_compared(run, spoil, said):
    shutil.copytree(run, "runs/good-01234567")
    spoil(run)
    done = prunecli_("compare", str(run))
    assert (done.exit_code, done.stdout) == (3, "")
    assert said in done.stderr
    assert str(run) in done.stderr
    both = prunecli_("compare", "runs/good-01234567", str(run))
    assert both.exit_code == 3
    assert "good-01234567" in both.stdout
    assert said in both.stderr


def test_a_run_that_another_process_writes_is_left_to_it(run):
    done = prunecli_("prune", "small.yaml", "--seeds", "7", "--runs", "elsewhere", "-q")
    other = Path(done.stdout.strip())
    with locked(other):
        done = prunecli_("prune", "small.yaml", "--seeds", "8", "--runs", "elsewhere")
    assert (done.exit_code, done.stdout) == (75, "")
    assert f"{other}: being written by process {os.getpid()} on " in done.stderr
    assert prunecli_("prune", "small.yaml", "--seeds", "8", "--runs", "elsewhere").exit_code == 0


def test_seeds_that_diverge_leave_the_others_comparable(folder):
    """About half of the seeds draw weights that no training survives."""
    (folder / "unlucky_start.py").write_text(
        "import torch\n"
        "def unlucky(model):\n"
        "    if torch.rand(()) < 0.5:\n"
        "        for weight in model.parameters():\n"
        "            torch.nn.init.constant_(weight, 1e30)\n"
    )
    chosen = ("procedure=[train]", "initialization=python:unlucky_start:unlucky", "--allow-code")
    done = prunecli_("prune", "small.yaml", *chosen, "--seeds", "0-7", "--json")
    sys.modules.pop("unlucky_start")
    (row,) = json.loads(done.stdout)
    assert done.exit_code == 6
    assert 0 < len(row["failures"]) < 8
    assert row["status"] == "partial"
    assert "some seeds diverged; the others are done and comparable" in done.stderr
    assert prunecli_("compare", row["path"]).exit_code == 0


# --- What comes out where


def test_quiet_prints_run_folders_alone(folder):
    done = prunecli_("prune", "small.yaml", "-q")
    (path,) = (folder / "runs").glob("small-*")
    assert (done.stdout, done.stderr) == (f"runs/{path.name}\n", "")


def test_pruning_again_says_complete_and_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name != "lock"}
    done = prunecli_("prune", "small.yaml")
    assert (done.exit_code, done.stdout) == (0, f"{run}\n")
    assert f"{run}: complete; nothing to do" in done.stderr
    assert "epoch" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name != "lock"} == before


def test_train_stops_before_pruning_and_prune_goes_on(stored, folder):
    done = prunecli_("train", "small.yaml")
    assert done.exit_code == 0
    path = Path(done.stdout.strip())
    (standing,) = json.loads(prunecli_("status", "--json").stdout)
    assert (standing["status"], standing["levels"], standing["seeds"][0]["sealed"]) == ("partial", 2, 1)
    assert made() == path
    (reference,) = stored.glob("small-*")
    assert (path / "store.h5").read_bytes() == (reference / "store.h5").read_bytes()


@pytest.mark.parametrize("command", ["train", "prune"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_dry_run_shows_the_plan_and_writes_nothing(folder, command, more):
    done = prunecli_(command, "small.yaml", "--dry-run", *more)
    assert done.exit_code == 0
    assert "small" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        "plan small.yaml",
        "plan small.yaml data=cifar10 epochs=0.01",
        "prune small.yaml",
        "train small.yaml",
        "compare",
        "show small.yaml",
        "show small.yaml learning_rate=0.1 gradient_clipping=",
        "status",
        "status --states",
        "doctor",
        "ls",
        "ls recipes",
        "ls models timm",
    ],
)
def test_json_is_json(run, arguments):
    done = prunecli_(*arguments.split(), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_the_schema_is_json():
    assert json.loads(prunecli_("schema").stdout)["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("kind", ["", "recipes", *Registry.all])
def test_ls_lists_every_kind(kind):
    rows = json.loads(prunecli_("ls", *filter(None, [kind]), "--json").stdout)
    names = [row["name"] for row in rows]
    lines = prunecli_("ls", *filter(None, [kind])).stdout.splitlines()
    assert [line.split()[0] for line in lines] == names
    known = {"": ["recipes", *sorted(Registry.all)], "recipes": library.names()}
    assert names == known.get(kind, list(Registry.all.get(kind, ())))
    assert all(row["about"] for row in rows)


def test_ls_shows_names_that_hold_a_pattern():
    assert prunecli_("ls", "recipes", "imp_lrr").stdout.split()[0] == "imp_lrr"
    assert prunecli_("ls", "recipes", "no such").stdout == ""


@pytest.mark.parametrize("prefix", ["timm:", "torchvision:"])
def test_ls_lists_the_names_behind_a_prefix_that_contain_the_rest(prefix):
    every = Registry.all["models"][f"{prefix}resnet101"].traits["names"]()
    for rest in ("resnet10", "101", "no such", ""):
        rows = json.loads(prunecli_("ls", "models", f"{prefix}{rest}", "--json").stdout)
        assert [row["name"] for row in rows] == [f"{prefix}{name}" for name in every if rest in name]
    assert prunecli_("ls", "models", prefix[:4]).stdout.split()[0] == prefix
    assert prunecli_("ls", "recipes", prefix).stdout == ""


def test_cp_copies_a_recipe_and_overwrites_none(folder):
    original = (library.folder() / "imp_lrr.yaml").read_bytes()
    assert prunecli_("cp", "imp_lrr", ".").exit_code == 0
    assert Path("imp_lrr.yaml").read_bytes() == original
    Path("imp_lrr.yaml").write_text("mine")
    done = prunecli_("cp", "imp_lrr", "imp_lrr.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "imp_lrr.yaml: is there already; give another name, or --force" in done.stderr
    assert Path("imp_lrr.yaml").read_text() == "mine"
    assert prunecli_("cp", "imp_lrr", "imp_lrr.yaml", "--force").exit_code == 0
    assert Path("imp_lrr.yaml").read_bytes() == original


@pytest.mark.parametrize("name", FREE)
def test_what_show_prints_loads_as_the_same_experiments(name):
    documents = prunecli_("show", name).stdout.split("\n---\n")
    points = load(library.path_of(name)).points
    assert [load_text(text, "shown").points[0].experiment for text in documents] == [
        p.experiment for p in points
    ]


def test_show_takes_texts_of_any_form_and_tells_origins(folder):
    done = prunecli_("show", "small.yaml", r'about="a\n  b # c\n\n: d"', "epochs=3", "--seeds", "5,7-8")
    shown = load_text(done.stdout, "shown").points[0].experiment
    assert (shown.about, shown.epochs, shown.seeds) == ("a\n  b # c\n\n: d", 3, [5, 7, 8])
    origins = dict(re.findall(r"^(\w+):.*  # ([\w ]+)$", done.stdout, flags=re.MULTILINE))
    expected = {"about": "argument", "epochs": "argument", "batch_size": "line 7", "threads": "default"}
    assert expected.items() <= origins.items()


def test_show_of_a_run_is_its_recipe(run):
    shown = load_text(prunecli_("show", str(run)).stdout, "shown").points[0].experiment
    given = load(Path("small.yaml")).points[0].experiment
    # What the recipe leaves to us was chosen when the run began.
    assert shown == dataclasses.replace(given, precision="float32", memory_format="contiguous")


def test_check_tells_sound_from_damaged(run):
    done = prunecli_("check", str(run), str(run / "store.h5"))
    assert (done.exit_code, done.stdout) == (0, f"{run}: sound\n{run / 'store.h5'}: sound\n")
    damaged(run)
    done = prunecli_("check", str(run))
    assert (done.exit_code, done.stdout) == (3, f"{run}: damaged\n")
    assert f"{run / 'store.h5'}: damaged" in done.stderr


def test_states_are_listed_and_deleted(run):
    listed = json.loads(prunecli_("status", "--states", "--json").stdout)
    assert all(Path(state["path"]).stat().st_size == state["bytes"] for state in listed)
    assert listed
    assert prunecli_("status", "--states", "--prune").exit_code == 0
    assert json.loads(prunecli_("status", "--states", "--json").stdout) == []


def test_doctor_names_every_data_root(monkeypatch):
    monkeypatch.setenv("PRUNECLI_DATA", "elsewhere")
    rows = json.loads(prunecli_("doctor", "--data-root", "here", "--json").stdout)
    assert [rows[f"data root {n}"].partition(":")[0] for n in (1, 2)] == ["here", "elsewhere"]


# --- Help


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_plain_and_exits_0(command, word):
    done = prunecli_(*command, word)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
    assert "\x1b" not in done.stdout
    callbacks = {known.callback.__name__: known.callback for known in app.registered_commands}
    if command:
        first = callbacks[command[0]].__doc__.split(".")[0]
        assert " ".join(first.split()) in " ".join(done.stdout.split())


def test_the_version_is_printed():
    assert prunecli_("--version").stdout == f"prunecli {prunecli.__version__}\n"


def test_what_should_open_at_once_imports_no_torch(run):
    code = f"""
import sys
from typer.testing import CliRunner
from prunecli.cli.app import app
for line in ["--help", "compare --help", "prune --help", "compare {run}", "compare {run} --format json",
             "status", "status --json", "check {run}", "ls recipes", "cp imp_lrr there.yaml", "prune nothing"]:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == (2 if line == "prune nothing" else 0), (line, done.output)
    heavy = {{"torch", "timm", "torchvision", "sklearn"}} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_opens_without_what_reads_computes_or_draws():
    heavy = ["torch", "numpy", "pydantic", "h5py", "scipy", "matplotlib", "rich", "yaml", "prunecli.compare"]
    code = f"import sys, prunecli.cli.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- Progress


def epoch(number: int, loss: float = 0.5) -> EpochDone:
    return EpochDone("small-01234567", 0, 1, 2, EpochSeen(float(number), 1.0, loss, 25.0, 1000, 0.1))


LEVEL = LevelDone("small-01234567", 0, 1, 2, 0.5, 12.5, 0.4)


def log_of(capsys, *events: object) -> list[str]:
    """What the log shows of events that follow at once."""
    with progress.shown("log") as tell:
        for event in events:
            tell(event)
    return capsys.readouterr().err.splitlines()


def test_the_log_has_at_most_a_line_a_second_and_every_level(capsys):
    lines = log_of(capsys, Planned(1, 200.0), *map(epoch, range(1, 101)), LEVEL, LEVEL)
    assert len(lines) == 3
    assert lines[0].startswith("small-01234567 seed 0 level 1/1 epoch 1: loss 0.5000, error 25.00%")
    assert (
        lines[1:]
        == ["small-01234567 seed 0 level 1/1 sealed: 50.00% of weights remaining, test error 12.50%"] * 2
    )


def test_the_log_has_a_line_an_epoch_where_epochs_take_long(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert len(log_of(capsys, Planned(1, 5.0), *map(epoch, range(1, 6)), LEVEL)) == 6


def test_the_pace_is_that_of_the_epochs_done():
    now = itertools.chain([100.0], itertools.repeat(110.0))
    pace = progress.Pace(clock=lambda: next(now))
    pace.see(Planned(1, 367.0))
    assert pace.left == "-:--:--"
    for number in range(1, 3):
        pace.see(epoch(number))
    assert (pace.rate, pace.left) == (200.0, "0:30:25")


def test_json_progress_is_a_line_an_event(folder):
    done = prunecli_("prune", "small.yaml", "--progress", "json")
    lines = done.stderr.splitlines()
    assert lines.pop().startswith("next: prunecli compare runs/small-")
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["Planned", "RunStarted", "EpochDone", "LevelDone", "EpochDone", "LevelDone", "RunDone"]


def test_json_progress_writes_no_nan(capsys):
    with progress.shown("json") as tell:
        tell(epoch(1, loss=float("nan")))
    assert json.loads(capsys.readouterr().err)["seen"]["loss"] is None


@pytest.mark.parametrize("mode", ["auto", "bar", "log", "json", "none"])
def test_nothing_steers_a_terminal_that_is_none(folder, monkeypatch, mode):
    done = prunecli_("prune", "small.yaml", "--progress", mode)
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "\r" not in done.output


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("plain", "value"),
    [("NO_COLOR", "1"), ("TERM", "dumb"), (None, None)],
    ids=["no color", "dumb", "colours"],
)
def test_a_terminal_has_a_bar_unless_it_is_to_be_plain(monkeypatch, plain, value):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if plain is not None:
        monkeypatch.setenv(plain, value)
    with progress.shown("auto") as tell:
        tell(Planned(1, 2.0))
        tell(epoch(1))
    assert ("\x1b" in terminal.getvalue()) == (plain is None)
    assert "error 25.00%" in terminal.getvalue()


# --- What breaks on the way


def break_(monkeypatch, name: str, error: BaseException, after: int, times: int = 1) -> None:
    """Make a function of `os` fail after so many calls."""
    real, calls = getattr(os, name), itertools.count()

    def failing(*arguments: object, **options: object) -> object:
        if after <= next(calls) < after + times:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, failing)


def is_as(stored: Path, run: Path) -> bool:
    """Whether a run's store has the bytes of the one that nothing happened to."""
    (reference,) = stored.glob("small-*")
    return (run / "store.h5").read_bytes() == (reference / "store.h5").read_bytes()


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_interrupted_run_ends_with_75_and_goes_on(stored, folder, monkeypatch, after):
    break_(monkeypatch, "link", KeyboardInterrupt(), after)
    done = prunecli_("prune", "small.yaml")
    assert (done.exit_code, done.stdout) == (75, "")
    assert done.stderr.splitlines()[-1] == (
        "stopped; everything sealed is safe, and the same command goes on from there"
    )
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert is_as(stored, made())


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_full_disk_ends_with_74_and_the_run_goes_on(stored, folder, monkeypatch, after):
    break_(monkeypatch, "write", OSError(errno.ENOSPC, "No space left on device"), after, times=10**6)
    done = prunecli_("prune", "small.yaml", "--progress", "none", "--patience", "0")
    assert (done.exit_code, done.stdout) == (74, "")
    (line,) = done.stderr.splitlines()
    assert "the disk is full; " in line
    assert line.endswith("the same command goes on from there")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert is_as(stored, made())


def test_a_failing_file_system_ends_with_74_and_its_name(run, monkeypatch):
    break_(monkeypatch, "open", OSError(errno.EIO, "Input/output error", "runs/x"), 0, times=10**6)
    done = prunecli_("prune", "small.yaml", "--seeds", "0,7", "--progress", "none")
    where = Path("runs", run.name, "run.json")
    assert (done.exit_code, done.stdout) == (74, "")
    assert done.stderr == f"{where}: cannot be read: input/output error\n"


def test_a_defect_is_two_lines_and_a_traceback_where_it_is_asked_for(folder, monkeypatch):
    break_(monkeypatch, "link", RuntimeError("boom"), 0, times=10**6)
    done = prunecli_("prune", "small.yaml", "--progress", "none")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "a defect in prunecli: RuntimeError: boom",
        "(-v shows the traceback; please report it)",
    ]
    verbose = prunecli_("prune", "small.yaml", "--progress", "none", "-v")
    assert verbose.exit_code == 1
    assert "Traceback (most recent call last)" in verbose.stderr
    assert "RuntimeError: boom" in verbose.stderr


def started(*arguments: str, **options: object) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-m", "prunecli", *arguments], **pipes)


def until(stream: Iterator[str], word: str) -> str:
    """The first line that holds a word."""
    return next(line for line in stream if word in line)


def test_a_signal_ends_a_run_with_75_and_it_can_go_on(folder):
    # So long that it is still going when the signal comes.
    procedure = "procedure=[train, {repeat: {times: 99, stages: [{prune: {fraction: 0.01}}, rewind, train]}}]"
    process = started(
        "prune", "small.yaml", procedure, "--progress", "json", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert json.loads(until(process.stderr, "LevelDone"))["level"] == 0
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines()[-1].startswith("stopped by SIG")
    assert "Traceback" not in said
    (standing,) = json.loads(prunecli_("status", "--json").stdout)
    assert standing["status"] == "partial"
    assert 1 <= standing["seeds"][0]["sealed"] < 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_all_processes_ends_them_with_75_and_no_traceback(folder, number):
    procedure = "procedure=[train, {repeat: {times: 99, stages: [{prune: {fraction: 0.01}}, rewind, train]}}]"
    process = started(
        "prune",
        "small.yaml",
        procedure,
        "--seeds",
        "0,1",
        "--workers",
        "2",
        "--progress",
        "json",
        start_new_session=True,
    )
    until(process.stderr, "LevelDone")
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped by SIG")
    (standing,) = json.loads(prunecli_("status", "--json").stdout)
    assert standing["status"] == "partial"


def test_a_process_that_is_killed_leaves_what_is_sealed(folder):
    procedure = "procedure=[train, {repeat: {times: 99, stages: [{prune: {fraction: 0.01}}, rewind, train]}}]"
    process = started(
        "prune", "small.yaml", procedure, "--seeds", "0,1", "--workers", "2", "--progress", "json"
    )
    until(process.stderr, "LevelDone")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    worker = next(pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "a process was killed, perhaps for want of memory" in said.splitlines()[-1]


def test_a_reader_that_goes_away_is_no_error():
    process = started("ls", "recipes")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_output_ends_with_74():
    with Path("/dev/full").open("w") as full:
        process = started("ls", "recipes", stdout=full)
        assert process.communicate(timeout=60)[1] == "the disk is full\n"
    assert process.returncode == 74


def test_a_terminal_that_knows_little_is_written_to_all_the_same(folder):
    process = started("show", "small.yaml", "about=h…", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    shown, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert r"about: h\u2026" in shown


def test_a_metric_that_no_run_knows_is_an_error_alone(run):
    done = prunecli_("compare", str(run), "--metric", "accuracy")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "has no metric 'accuracy'" in done.stderr


def test_states_are_deleted_only_where_they_are_asked_for(run):
    done = prunecli_("status", "--prune")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--states" in done.stderr
    assert list(Path("runs/.states").rglob("*.safetensors"))


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="only Linux tells when a process that is not a child ends"
)
def test_processes_that_carry_seeds_out_end_with_their_parent(folder):
    procedure = "procedure=[train, {repeat: {times: 99, stages: [{prune: {fraction: 0.01}}, rewind, train]}}]"
    process = started(
        "prune", "small.yaml", procedure, "--seeds", "0,1", "--workers", "2", "--progress", "json"
    )
    until(process.stderr, "LevelDone")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    ends = [os.pidfd_open(int(child)) for child in children]
    process.kill()
    process.communicate(timeout=60)
    assert all(select.select([end], [], [], 60)[0] for end in ends)
    assert list(made_parts(folder))


def made_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/parts/seed-*/slot-*.json"))
