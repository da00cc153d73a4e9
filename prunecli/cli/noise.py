"""`prunecli noise`: draw a recipe's noisy labels, and show and store them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.cli.recipes import load_recipe, make_settings, places_of

# What draws and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.noise import Counts, Drawn

SHOWN_CLASSES = 12
"""Classes up to which the table of true classes and labels used is shown whole."""
SHOWN_LARGEST = 20

Grid = list[tuple[str, ...]]


def noise(
    recipe: output.RecipeArgument,
    overrides: output.Overrides = None,
    runs: output.Runs = Path("runs"),
    seeds: output.Seeds = "",
    store: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The label store; a folder for a sweep. Else in --runs, in .labels.",
        ),
    ] = None,
    data_root: output.DataRoot = None,
    download: output.Download = False,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Draw a recipe's noisy labels, one draw a seed, and write them to a label store.

    Runs of these seeds draw the same labels by themselves. A store shows them, and hands them to other recipes:
    labels={file: {path: FILE}}.
    """
    del verbose
    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    loaded = load_recipe(recipe, overrides or (), seeds, places_of(runs, data_root), **allowed)
    settings = make_settings(runs, "cpu", data_root, download=download, source=loaded.source)
    from prunecli.noise import as_json, draw, keep

    drawn = draw(loaded, settings)
    paths = keep(drawn, store, runs)
    if json:
        output.print_json([as_json(one, path) for one, path in zip(drawn, paths, strict=True)])
        return
    for one, path in zip(drawn, paths, strict=True):
        print(path)
        print(f"  {_in_a_line(one)}")
        for title, grid in _tables(one):
            _print_table(title, grid)
    output.say(f"next: prunecli prune RECIPE 'labels={{file: {{path: {paths[0]}}}}}'")


def _in_a_line(one: Drawn) -> str:
    held_out = len(one.store.clean) - one.examples
    clean = f"; {held_out:,} of the validation split stay clean" if held_out else ""
    return f"{one.store.title}: {one.examples:,} examples of {one.store.classes} classes{clean}"


def _tables(one: Drawn) -> Iterator[tuple[str, Grid]]:
    """Titles and rows, the first row being the head."""
    from prunecli.noise import changes, per_class

    seeds, classes, found = one.store.seeds, one.store.classes, one.transitions()
    rows = [
        (str(seed), f"{count:,}", f"{100 * count / one.examples:.2f}")
        for seed, count in zip(seeds, one.changed.tolist(), strict=True)
    ]
    yield "changed labels", [("seed", "changed", "%"), *rows]
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds together"
    sums, moved = per_class(found, classes), changes(found)
    if classes <= SHOWN_CLASSES:
        yield f"true classes (rows) and labels used (columns), {over}", _whole(found, sums)
        return
    order = (-sums[:, 1]).argsort(kind="stable")[:SHOWN_LARGEST].tolist()
    most = [(str(number), *_sums(sums, number)) for number in order]
    yield f"classes{_shown_of(most, classes)}, {over}", [("class", "examples", "changed", "%"), *most]
    largest = [(str(i), str(j), f"{count:,}") for i, j, count in moved[:SHOWN_LARGEST].tolist()]
    head = ("true class", "label used", "examples")
    yield f"changes{_shown_of(largest, len(moved))}, {over}", [head, *largest]


def _whole(found: Counts, sums: Counts) -> Grid:
    """The whole table, with each class's examples and how many of them are changed."""
    table = [["0"] * len(sums) for _ in sums]
    for true, used, count in found.tolist():
        table[true][used] = f"{count:,}"
    head = ("class", *map(str, range(len(sums))), "examples", "changed", "%")
    return [head, *((str(number), *row, *_sums(sums, number)) for number, row in enumerate(table))]


def _sums(sums: Counts, number: int) -> tuple[str, str, str]:
    """A class's examples, and how many of them have another label."""
    examples, changed = sums[number].tolist()
    return f"{examples:,}", f"{changed:,}", f"{100 * changed / examples:.2f}" if examples else "-"


def _shown_of(shown: Sequence[object], count: int) -> str:
    return "" if len(shown) == count else f" (the {len(shown)} largest of {count:,}; --json has them all)"


def _print_table(title: str, grid: Sequence[tuple[str, ...]]) -> None:
    """A table: rich's on a terminal, aligned text elsewhere, never cut."""
    head, *rows = grid
    if output.decorated(sys.stdout):
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in head:
            table.add_column(name, justify="right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    print(f"\n{title}")
    for row in grid:
        print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
