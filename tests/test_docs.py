"""The documents tell the truth: pages are fresh, commands run, recipes plan, figures of the README are of this code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FREE
from typer.testing import CliRunner

from prunecli.cli.app import app
from prunecli.places import Roots
from prunecli.plan import make_plan
from prunecli.recipe.library import folder, path_of
from prunecli.recipe.load import load, load_text
from prunecli.runs import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = [path_of(name) for name in FREE]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.partition("prunecli ")[2] for line in lines if line.startswith("prunecli ")]


def test_reference_and_schema_are_fresh():
    done = subprocess.run(
        [sys.executable, "docs/make_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(folder()).as_posix())
def test_every_recipe_plans(path):
    for plan in make_plan(load(path), Settings(roots=Roots()), timed=False):
        assert plan.levels
        assert plan.point.experiment.about


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_the_documents_plan(page):
    for text in blocks(page, "yaml"):
        if "procedure:" in text:
            assert make_plan(load_text(text, page.name), Settings(), timed=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        words = [word for part in shlex.split(line) for word in _expanded(part)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"prunecli {line}\n{done.output}"


def test_there_are_commands_to_run():
    assert sum(len(commands(page)) for page in PAGES) > 10


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_ci_runs_the_command_of_the_readme():
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"<!-- test command -->\n```sh\n(.*)\n```", text)
    assert command.endswith(".venv/bin/python -m pytest -n 2")
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text()


def test_versions_agree():
    import prunecli

    assert f"version: {prunecli.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def _expanded(word: str) -> list[str]:
    """A word as the shell hands it on."""
    found = sorted(str(path) for path in Path().glob(word) if not path.name.startswith("."))
    return found if "*" in word else [word]


def test_there_are_recipes_in_the_documents():
    assert any("procedure:" in text for page in PAGES for text in blocks(page, "yaml"))
