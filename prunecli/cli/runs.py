"""`prunecli train` and `prunecli prune`: carry recipes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.cli.planned import print_plan
from prunecli.cli.recipes import load_recipe, make_settings, places_of
from prunecli.errors import Diverged, SomeFailed

if TYPE_CHECKING:
    from prunecli.engine import Finished
    from prunecli.recipe.load import Recipe
    from prunecli.runs import Settings


class Progress(StrEnum):
    """How progress is shown."""

    auto = "auto"
    bar = "bar"
    log = "log"
    json = "json"
    none = "none"


ProgressOption = Annotated[Progress, typer.Option("--progress", help="auto is bar on a terminal, else log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]


def _verb(name: str, about: str, *, dense_only: bool) -> Callable[..., None]:
    """A command that carries a recipe out: its dense training alone, or all of it."""

    def carry_out(
        recipe: output.RecipeArgument,
        overrides: output.Overrides = None,
        runs: output.Runs = Path("runs"),
        seeds: output.Seeds = "",
        device: output.Device = "auto",
        workers: output.Workers = None,
        data_root: output.DataRoot = None,
        download: output.Download = False,
        checkpoint: output.Checkpoint = 300,
        patience: output.Patience = 420,
        allow_code: output.AllowCode = False,
        allow_download: output.AllowDownload = False,
        progress: ProgressOption = Progress.auto,
        dry_run: DryRun = False,
        quiet: output.Quiet = False,
        verbose: output.Verbose = False,
        json: output.AsJson = False,
    ) -> None:
        del verbose
        loaded = load_recipe(
            recipe,
            overrides or (),
            seeds,
            places_of(runs, data_root),
            allow_code=allow_code,
            allow_download=allow_download,
        )
        settings = make_settings(
            runs,
            device,
            data_root,
            download=download,
            dense_only=dense_only,
            workers=workers,
            source=loaded.source,
        )
        settings = replace(settings, checkpoint=checkpoint, patience=_waits(patience))
        if dry_run:
            print_plan(loaded, settings, as_json=json)
        else:
            _carry_out(loaded, settings, progress, quiet=quiet, json=json)

    carry_out.__name__, carry_out.__doc__ = name, about
    return carry_out


train = _verb(
    "train",
    "Train a recipe's dense models: its procedure up to the first pruning, or all of it where it has none.",
    dense_only=True,
)
prune = _verb(
    "prune",
    """Carry a recipe's whole procedure out, for every seed and every point of its sweep.

    What is stored already is not done again: the same command continues a run that was stopped.
    """,
    dense_only=False,
)


def _waits(patience: float) -> tuple[float, ...]:
    """Waits of 1, 2, 4 … minutes that come to so many seconds."""

    def waits(wait: float, left: float) -> Iterator[float]:
        while left > 0:
            yield min(wait, left)
            wait, left = 2 * wait, left - wait

    return tuple(waits(60.0, min(patience, 7 * 24 * 3600)))


def _carry_out(recipe: Recipe, settings: Settings, progress: Progress, *, quiet: bool, json: bool) -> None:
    from prunecli.cli.progress import shown
    from prunecli.engine import carry_out_all

    with shown(Progress.none if quiet else progress) as tell:
        finished = carry_out_all(recipe, settings, tell)
    if json:
        output.print_json([_row(run) for run in finished])
    else:
        for run in finished:
            print(run.folder.path)
    _raise_failures(recipe, finished)
    if finished and not json and not quiet:
        names = " ".join(str(run.folder.path) for run in finished)
        output.say(f"next: prunecli compare {names}")


def _row(run: Finished) -> dict[str, object]:
    return {
        "path": str(run.folder.path),
        "digest": run.folder.digest,
        "status": "complete" if run.complete else "partial",
        "failures": {str(seed): why for seed, why in run.failures.items()},
    }


def _raise_failures(recipe: Recipe, finished: Sequence[Finished]) -> None:
    failures = [why for run in finished for why in run.failures.values()]
    asked = sum(len(point.experiment.seeds) for point in recipe.points)
    if failures and len(failures) == asked:
        raise Diverged("every seed diverged:\n" + "\n".join(failures))
    if failures:
        raise SomeFailed("some seeds diverged; the others are done and comparable:\n" + "\n".join(failures))
