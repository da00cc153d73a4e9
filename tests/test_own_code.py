"""A user's own functions: of every kind, asked for, checked, and part of the digest."""

from __future__ import annotations

import sys

import pytest
from conftest import small

from prunecli.engine import carry_out_all
from prunecli.errors import RecipeError, UsageError
from prunecli.plan import make_plan
from prunecli.recipe.load import load_text
from prunecli.registry import Registry, models
from prunecli.runs import Settings, run_digest

CODE = """
from torch import nn

SIZE = 3

def linear(task, *, bias: bool = True):
    return nn.Sequential(nn.Flatten(), nn.Linear(task.shape[1] * task.shape[2], task.classes, bias=bias))

def number(task):
    return 3

def failing(task):
    return 3 / 0

def largest(weights):
    return {name: -weight.abs() for name, weight in weights.items()}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's on the path."""
    (tmp_path / "own_models.py").write_text(CODE)
    (tmp_path / "own_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_models.py"
    for name in ("own_models", "own_broken"):
        sys.modules.pop(name, None)


def loaded(*overrides: str, allow_code: bool = True):
    from conftest import SMALL

    return load_text(SMALL, "small.yaml", overrides, allow_code=allow_code)


def test_no_code_is_imported_that_is_not_allowed(own):
    for overrides in (
        ["model=python:own_models:linear"],
        ["model=python:own_models:linear", "model.bias=false"],
    ):
        with pytest.raises(RecipeError, match="runs code of its own; give --allow-code"):
            loaded(*overrides, allow_code=False)
    assert "own_models" not in sys.modules


def test_a_model_and_a_criterion_of_the_user_run(own, tmp_path):
    procedure = "procedure=[train, {prune: {fraction: 0.5, criterion: 'python:own_models:largest'}}]"
    recipe = loaded("model=python:own_models:linear", "model.bias=false", procedure)
    assert recipe.points[0].experiment.model.options == {"bias": False}
    (finished,) = carry_out_all(recipe, Settings(runs=tmp_path), lambda _event: None)
    assert finished.complete


def test_options_are_checked_like_any_others(own):
    with pytest.raises(RecipeError, match=r"'bias' should be a valid boolean"):
        loaded("model={'python:own_models:linear': {bias: 3}}")


def test_an_option_without_a_type_is_explained(own):
    own.write_text(CODE + "def bare(task, *, width=8): ...\n")
    with pytest.raises(UsageError, match="'width' of bare needs a type annotation"):
        loaded("model=python:own_models:bare")


def test_a_criterion_that_asks_for_what_there_is_not_is_found_before(own):
    own.write_text(CODE + "def curvature(hessian): ...\n")
    procedure = "procedure=[train, {prune: {fraction: 0.5, criterion: 'python:own_models:curvature'}}]"
    with pytest.raises(RecipeError, match="asks for 'hessian'"):
        make_plan(loaded(procedure), Settings(), timed=False)


def test_later_code_does_not_change_what_led_to_a_level(own):
    from prunecli.trajectories import prefix_digest

    pruning = "procedure=[train, {{prune: {{fraction: 0.5, criterion: {}}}}}]"
    first = loaded(pruning.format("magnitude")).points[0].experiment
    second = loaded(pruning.format("'python:own_models:largest'")).points[0].experiment
    assert prefix_digest(first, "f", 0) == prefix_digest(second, "f", 0)
    assert prefix_digest(first, "f", 1) != prefix_digest(second, "f", 1)


def test_other_code_is_another_experiment(own):
    first = run_digest(loaded("model=python:own_models:linear").points[0].experiment, "f")
    own.write_text(CODE + "# changed\n")
    assert run_digest(loaded("model=python:own_models:linear").points[0].experiment, "f") != first
    assert run_digest(small(), "f") == run_digest(small(), "f")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_models", "write 'python:pkg.module:function'"),
        ("own_models:", "write 'python:pkg.module:function'"),
        (".own_models:linear", "write 'python:pkg.module:function'"),
        ("own_model:linear", "No module named 'own_model'"),
        ("own_broken:linear", "No module named 'a_package_that_is_not_there'"),
        ("own_models:liner", "has no 'liner'; did you mean 'linear'"),
        ("own_models:SIZE", "is of type int"),
    ],
)
def test_a_name_that_leads_to_no_function_is_a_mistake_with_its_place(own, path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        loaded(f"model=python:{path}")
    assert "argument:1:7" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"), [("number", "returned int"), ("failing", "raised ZeroDivisionError")]
)
def test_code_that_gives_no_model_is_explained(own, path, message):
    with pytest.raises(UsageError, match=message):
        make_plan(loaded(f"model=python:own_models:{path}"), Settings(), timed=False)


@pytest.mark.parametrize("kind", Registry.all)
def test_every_kind_takes_own_functions(own, kind):
    assert Registry.all[kind]["python:own_models:linear"].kind == kind


def test_own_functions_are_not_listed():
    assert not any(name.startswith("python:") for name in models)
