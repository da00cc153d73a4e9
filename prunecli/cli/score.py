"""`prunecli score`: score training examples, and tabulate the scores."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.cli.recipes import duration, load_recipe, make_settings, places_of, size
from prunecli.cli.score_table import as_json, notes, table
from prunecli.errors import DamagedRun, Place, RecipeError, shown

if TYPE_CHECKING:
    from prunecli.places import Places
    from prunecli.recipe.load import Recipe
    from prunecli.registry import Choice
    from prunecli.score_outlook import Outlook
    from prunecli.score_plan import Scoring
    from prunecli.score_runs import Event

SECONDS_BETWEEN_LINES = 1.0


class Mode(StrEnum):
    """How BatchNorm and dropout work while examples are looked at."""

    evaluation = "evaluation"
    training = "training"


class Average(StrEnum):
    """How the scores of several runs become one."""

    mean = "mean"
    median = "median"


ScoreOption = Annotated[
    list[str],
    typer.Option(
        "--score",
        metavar="SCORE",
        help="el2n, grand, forgetting …, or {memorization: {runs: 50}}; several times for several.",
    ),
]
RunsPerSeed = Annotated[
    int, typer.Option("--runs-per-seed", min=1, metavar="R", help="Scoring runs to average, for each seed.")
]
EpochOption = Annotated[
    float | None,
    typer.Option(
        "--epoch",
        metavar="T",
        help="Look at runs at this epoch, or at each up to it. By default the recipe's rewinding or saved point, or a "
        "tenth of its epochs; the whole training for scores over epochs or runs.",
        show_default=False,
    ),
]

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Scoring runs carried out side by side, in processes; else by cores, memory and work.",
        show_default=False,
    ),
]
CheckpointOption = Annotated[
    float,
    typer.Option(
        "--checkpoint", min=0, metavar="SECONDS", help="Keep training inside a scoring run this often."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and stop.")]


def score(
    recipe: output.RecipeArgument,
    overrides: output.Overrides = None,
    scores: ScoreOption = ["el2n"],  # noqa: B006  (it is only read)
    runs_per_seed: RunsPerSeed = 10,
    epoch: EpochOption = None,
    seeds: output.Seeds = "",
    mode: Annotated[
        Mode, typer.Option("--mode", help="Whether BatchNorm and dropout work as in evaluation or training.")
    ] = Mode.evaluation,
    average: Annotated[
        Average, typer.Option("--average", help="What to take over the scoring runs.")
    ] = Average.mean,
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The score store to write.")
    ] = Path("scores.h5"),
    runs: output.Runs = Path("runs"),
    device: output.Device = "auto",
    workers: WorkersOption = None,
    data_root: output.DataRoot = None,
    download: output.Download = False,
    checkpoint: CheckpointOption = 300,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    dry_run: DryRun = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Score a recipe's training examples, or a run's, by short trainings of its dense model.

    Scoring runs share a seed's labels and split, and differ in initialization and order from each other and from every
    evaluated run. Where labels are clean and inputs the same for all seeds one row of scores serves them all, unless
    --seeds asks for more. What is sealed already is not done again: the same command continues one that was stopped.
    """
    del verbose
    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    loaded = _load(recipe, overrides or (), seeds, places_of(runs, data_root), **allowed)
    settings = make_settings(
        runs, device, data_root, download=download, workers=workers, source=loaded.source
    )
    from prunecli.score_checks import prepare_scoring
    from prunecli.score_plan import Asked
    from prunecli.scoring import carry_out_scoring

    chosen = tuple(choose(text, allow_code=allow_code) for text in scores)
    asked = Asked(chosen, runs_per_seed, epoch, mode.value, average.value)
    settings = replace(settings, checkpoint=checkpoint)
    prepared = prepare_scoring(loaded, asked, settings, out, every_seed=bool(seeds))
    if dry_run:
        _print_outlook(prepared, json=json)
        return
    store = carry_out_scoring(prepared, _quiet if quiet else _log(prepared.label))
    if json:
        output.print_json(as_json(store, out))
    elif quiet:
        print(out)
    else:
        for line in table(store):
            print(line)
        for note in notes(store):
            output.say(note)
        output.say(f"wrote {out}")


def choose(text: str, *, allow_code: bool) -> Choice:
    """The score that an argument names, its options bound by the rules of recipes.

    Raises:
        RecipeError: its mistakes.
    """
    from prunecli.recipe.bind import Binder
    from prunecli.recipe.nodes import read
    from prunecli.registry import Choice, scores

    node, mistakes = read(text, "--score", argument=text or " ")
    binder = Binder(allow_code=allow_code)
    found = binder.choice(node, scores)
    if mistakes or binder.mistakes or not isinstance(found, Choice):
        raise RecipeError([*mistakes, *binder.mistakes])
    return found


def outlook_lines(outlook: Outlook) -> Iterator[str]:
    """What scoring would do, for people."""
    from prunecli.plan_told import described
    from prunecli.score_plan import runs_of
    from prunecli.scoring import row_in_words

    scoring, left = outlook.scoring, outlook.missing
    experiment = scoring.experiment
    yield f"{scoring.label}: {described(experiment.model)} on {described(experiment.data)}"
    for one in scoring.asked.scores:
        runs = runs_of(one, scoring.asked)
        yield f"  score       {described(one)}, epoch {scoring.epochs[one.name]:g}, {runs} runs a seed"
    if len(scoring.seeds) == 1:
        yield f"  seeds       {row_in_words(scoring)}"
    standing: dict[tuple[int, str], list[bool]] = {}
    for run, sealed in outlook.standing:
        standing.setdefault((run.seed, run.score.name if run.score else ""), []).append(sealed)
    for (seed, kind), done in standing.items():
        on = f" on subsets for {kind}" if kind else ""
        yield f"  seed {seed:<6} {len(done)} scoring runs{on}, {sum(done)} sealed already"
    yield f"  in all      {len(left)} scoring runs, {outlook.epochs:g} epochs to train"
    if left:
        yield f"  time        about {duration(outlook.seconds)} for all of it on this machine (steps timed now)"
        parts, store = size(outlook.bytes_of_parts), size(outlook.bytes_of_store)
        yield f"  disk        {parts} of parts in {scoring.parts.path} while it lasts, at most {store} of store"
    yield f"  output      {scoring.output}{', complete: nothing to do' if outlook.complete else ''}"


def _print_outlook(scoring: Scoring, *, json: bool) -> None:
    from prunecli import score_outlook

    outlook = score_outlook.foresee_scoring(scoring)
    if json:
        output.print_json(score_outlook.as_json(outlook))
        return
    for line in outlook_lines(outlook):
        print(shown(line))


def _load(
    given: str,
    overrides: Sequence[str],
    seeds: str,
    places: Places,
    *,
    allow_code: bool,
    allow_download: bool,
) -> Recipe:
    """The recipe that is named, or a run's, whose folder has to be whole."""
    folder = Path(given)
    is_run = os.path.lexists(folder / "run.json")
    if is_run and not (folder / "recipe.yaml").is_file():
        raise DamagedRun(f"{folder}: damaged: it has no recipe.yaml, so nobody knows what to score")
    try:
        allowed = {"allow_code": allow_code, "allow_download": allow_download}
        return load_recipe(given, overrides, seeds, places, **allowed)
    except RecipeError as error:
        mistake = error.mistakes[0]
        own = (mistake.place or Place("")).source == str(folder / "recipe.yaml")
        if not is_run or not own or "--allow-" in mistake.message:
            raise
        raise DamagedRun(f"{folder}: damaged: its recipe.yaml is no recipe: {mistake.message}") from error


def _log(label: str) -> Callable[[Event], None]:
    """A line a scoring run, and one an epoch, at most one a second."""
    begun, last, first = time.monotonic(), [-math.inf], list[int]()

    def listen(event: Event) -> None:
        from prunecli.progress import Said
        from prunecli.score_runs import EpochTrained

        if isinstance(event, Said):
            output.say(shown(event.message))
            return
        run, now = event.run, time.monotonic()
        what = f"{label} seed {run.seed} {run.told}"
        if isinstance(event, EpochTrained):
            if now - last[0] >= SECONDS_BETWEEN_LINES:
                last[0] = now
                seen = event.seen
                output.say(
                    shown(f"{what} epoch {seen.spent:g}: loss {seen.loss:.4f}, error {seen.error:.2f}%")
                )
            return
        first.append(event.done)
        seconds = (now - begun) / len(first) * (event.total - event.done)
        left = f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
        output.say(shown(f"{what} sealed ({event.done} of {event.total}), {left} left"))

    return listen


def _quiet(_event: Event) -> None:
    """Nothing is said but errors."""
