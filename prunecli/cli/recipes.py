"""`prunecli ls`, `cp`, `show` and `schema`: what there is, and what a recipe means."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli.cli import output
from prunecli.errors import StorageError, UsageError

if TYPE_CHECKING:
    from prunecli.places import Places
    from prunecli.recipe.load import Point, Recipe
    from prunecli.runs import Settings


def places_of(runs: Path, data_root: str | None) -> Places:
    """Where a command line has what its recipe refers to looked for."""
    from prunecli.places import Places, roots

    return Places(runs, roots(data_root, False, os.environ))


def load_recipe(
    given: str,
    overrides: Sequence[str],
    seeds: str,
    places: Places,
    *,
    allow_code: bool,
    allow_download: bool = False,
) -> Recipe:
    """The recipe that a command line names, its overrides put in."""
    from prunecli.recipe.library import find

    path = find(given)
    chosen = [f"seeds={output.parse_seeds(seeds)}"] if seeds else []
    if allow_code:
        # An installed command does not look for modules in the folder that it is called from.
        sys.path.insert(0, str(Path.cwd()))
    import prunecli.catalog  # noqa: F401  (registers what recipes name)
    from prunecli.recipe.load import load

    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    return load(path, [*overrides, *chosen], places=places, **allowed)


def make_settings(
    runs: Path,
    device: str,
    data_root: str | None,
    *,
    download: bool,
    dense_only: bool = False,
    workers: int | None = None,
    source: str = "",
) -> Settings:
    """Where and how a command line asks for runs of the recipe in the file `source` to be carried out."""
    from prunecli.places import roots
    from prunecli.runs import Settings, choose_device

    if runs.exists() and not runs.is_dir():
        raise UsageError(f"--runs {runs}: is a file; give a folder")
    # A recipe that comes through a pipe has no folder of its own.
    folder = Path(source).parent if Path(source).is_file() else None
    found = replace(roots(data_root, download, os.environ), recipe=folder)
    return Settings(runs, choose_device(device), found, dense_only, workers)


def ls(
    kind: Annotated[str, typer.Argument(help="recipes, models, data, criteria, stages, schedules, …")] = "",
    pattern: Annotated[str, typer.Argument(help="Show names that contain this.")] = "",
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """List what there is: recipes, models, datasets, criteria, stages, schedules and so on."""
    del verbose
    from prunecli.cli.listing import listed

    rows = listed(kind, pattern)
    if json:
        output.print_json([{"name": name, "about": about} for name, about in rows])
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, about in rows:
        print(f"{name:<{width}}  {about}".rstrip())


def cp(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in recipe's name.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A file or a folder.")],
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a file that is there.")] = False,
    verbose: output.Verbose = False,
) -> None:
    """Copy a built-in recipe, to be changed."""
    del verbose
    from prunecli.recipe.library import path_of

    source = path_of(recipe)
    target = destination / source.name if destination.is_dir() else destination
    try:
        with target.open("wb" if force else "xb") as file:
            file.write(source.read_bytes())
    except FileExistsError as error:
        raise UsageError(f"{target}: is there already; give another name, or --force") from error
    except FileNotFoundError as error:
        raise UsageError(f"{target}: there is no folder {target.parent}") from error
    except OSError as error:
        raise StorageError(f"{target}: {(error.strerror or str(error)).lower()}") from error
    output.say(f"wrote {target}")


def show(
    recipe: output.RecipeArgument,
    overrides: output.Overrides = None,
    runs: output.Runs = Path("runs"),
    seeds: output.Seeds = "",
    data_root: output.DataRoot = None,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Show a recipe, or a run's, with every default and where each value comes from; or a label or score store."""
    del verbose
    from prunecli.cli.stores import is_store, print_store

    if is_store(Path(recipe)):
        print_store(Path(recipe), json=json)
        return
    from prunecli.recipe.writing import origins

    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    loaded = load_recipe(recipe, overrides or (), seeds, places_of(runs, data_root), **allowed)
    if json:
        output.print_json(
            [
                {"label": p.label, "recipe": p.experiment.plain(), "origins": origins(p.experiment, p.root)}
                for p in loaded.points
            ]
        )
        return
    for number, point in enumerate(loaded.points):
        print(f"---\n# {point.label}" if number else f"# {point.label}")
        print("\n".join(_commented(point)))


def schema(verbose: output.Verbose = False) -> None:
    """Print the JSON Schema of recipes, for editors."""
    del verbose
    import prunecli.catalog  # noqa: F401  (registers what recipes name)
    from prunecli.recipe.json_schema import json_schema

    output.print_json(json_schema())


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _commented(point: Point) -> Iterator[str]:
    """The resolved recipe as YAML, each value with its origin."""
    from prunecli.recipe.writing import origins

    found = origins(point.experiment, point.root)
    lines = list(_yaml_lines(point.experiment.plain(), "", 0))
    width = min(72, max(len(line) for line, _ in lines))
    for line, path in lines:
        yield f"{line:<{width}}  # {found[path]}" if path in found else line


def _yaml_lines(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:  # Any: a recipe's values
    """Block-style YAML lines with the dotted path of the value that each holds."""
    from prunecli.recipe.writing import inline

    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in pairs:
        here = f"{path}.{name}" if path else str(name)
        head = "  " * depth + (f"{name}:" if isinstance(value, dict) else "-")
        if isinstance(inner, (dict, list)) and inner and not _is_flat(inner):
            nested = _yaml_lines(inner, here, depth + 1)
            if isinstance(value, dict):
                yield head, here
            else:
                line, path_of_line = next(nested)
                yield f"{head} {line.strip()}", path_of_line
            yield from nested
        else:
            leaf = f"{here}.0" if isinstance(inner, list) and inner else here
            yield f"{head} {inline(inner)}", leaf


def _is_flat(value: Any) -> bool:  # Any: a recipe's values
    return isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)
