"""The code's shape: imports go down, one part prints, functions stay small and say their types."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "prunecli"

LAYERS = """
    prunecli errors progress randomness task determinism store.values
    gaussian
    theory
    stopping
    patience
    own_code memory cores eligible trained_weights
    registry
    places
    experiment
    recipe
    store
    expression statistics series tabulated
    claims.answers
    subgroups
    classes changed_examples correlations courses
    compare
    masks augmentations initializations labels optimizers schedules selections
    injection
    folding memory_formats batching losses
    state training criteria filter_criteria scopes scores models datasets
    inputs
    filters
    activations
    underway
    stored_labels run_references
    run_examples
    store.states store.weights
    store.slots
    captured
    building seeded
    widths
    machinery
    together.chain
    lab
    gradients linear_models
    evidence linear_criteria example_evidence observers estimate
    flatness signal_noise
    outlook layer_parts ranking
    stages measuring
    events during budgets at_random solving
    procedure
    trajectories
    risks
    fitting
    catalog
    runs
    kept
    kept_weights connectivity
    networks
    reuse
    workers
    seeds placing plan score_plan
    plan_told
    order
    together
    score_checks score_runs
    score_outlook
    scoring
    noise
    engine
    methods label_parts stability
    thresholds
    swept
    double_descent
    claims
    report
    cli
    __main__
"""
"""From bottom to top: a module imports what is in lines above its own, and its own package."""

LONGEST_BODY, LONGEST_FILE = 45, 350
LONG_FILES: dict[str, str] = {}


def name_of(path: Path) -> str:
    """A file's module, without `prunecli.` before it; the package itself is `prunecli`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "prunecli"


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
RANKS = {name: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {module for module in found if module.partition(".")[0] == "prunecli"}
    known = {module.removeprefix("prunecli.") for module in ours} & set(MODULES) - {name}
    # A package's own name stands beside what is imported from it.
    return {module for module in known if not any(other.startswith(f"{module}.") for other in known)}


def layer_of(name: str) -> str:
    """The entry of LAYERS that a module belongs to: its own, or its package's."""
    package = name.rpartition(".")[0]
    return package if name not in RANKS and package in RANKS else name


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """All functions, methods and functions inside functions."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_module_has_its_place_and_every_place_a_module():
    assert {layer_of(name) for name in MODULES} == set(RANKS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    own = layer_of(name)
    for module in imported(name):
        other = layer_of(module)
        assert other == own or RANKS[other] < RANKS[own], f"{name} imports {module}, which is not below it"


def test_no_imports_go_round():
    graph = {name: imported(name) for name in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) not in ("cli", "__main__")])
def test_only_the_command_line_prints_or_exits(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Name):
            assert node.id not in ("print", "exit", "quit", "SystemExit", "input"), f"{name}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = f"{node.value.id}.{node.attr}"
            assert used not in ("sys.exit", "sys.stdout", "sys.stderr"), f"{name}:{node.lineno}: {used}"


@pytest.mark.parametrize("name", MODULES)
def test_every_function_is_fully_annotated(name):
    for function in functions(TREES[name]):
        where, given = f"{name}:{function.lineno}: {function.name}", function.args
        assert function.returns is not None, where
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [one.arg for one in every if one is not None and one.annotation is None]
        assert bare in ([], ["self"], ["cls"]), where


@pytest.mark.parametrize("name", MODULES)
def test_a_function_fits_in_a_glance(name):
    """Its body; a signature is documentation, and as long as a command has options."""
    for function in functions(TREES[name]):
        first = function.body[1] if ast.get_docstring(function) and function.body[1:] else function.body[0]
        length = (function.end_lineno or 0) - first.lineno + 1
        assert length <= LONGEST_BODY, f"{name}:{function.lineno}: {function.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_a_file_is_read_in_one_go(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    long = str(path.relative_to(ROOT)) in LONG_FILES
    assert (lines > LONGEST_FILE) == long, f"{path} has {lines} lines"


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_is_for_is_its_first_sentence(name):
    assert (ast.get_docstring(TREES[name]) or "").strip()


def test_nothing_is_left_for_later():
    # Turned round, so that this file does not hold them.
    words = re.compile(rf"\b({'|'.join(word[::-1] for word in ('ODOT', 'EMXIF'))}|X{{3}})\b")
    folders = ("prunecli", "tests", "recipes", "docs", "examples", "benchmarks")
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml")
    ]
    assert len(files) > 50
    found = [
        f"{path}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if words.search(line)
    ]
    assert found == []
