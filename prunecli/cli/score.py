"""`prunecli score`: score training examples, and tabulate the scores."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli.cli import output
from prunecli.cli.recipes import load_recipe, make_settings
from prunecli.errors import DamagedRun, Place, RecipeError, shown

if TYPE_CHECKING:
    from prunecli.recipe.load import Recipe
    from prunecli.registry import Choice
    from prunecli.scoring import Event
    from prunecli.store.scores import Score, ScoreStore

QUANTILES = (5, 25, 50, 75, 95)
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
    data_root: output.DataRoot = None,
    download: output.Download = False,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    quiet: output.Quiet = False,
    verbose: output.Verbose = False,
    json: output.AsJson = False,
) -> None:
    """Score a recipe's training examples, or a run's, by short trainings of its dense model.

    Scoring runs share a seed's labels and split, and differ in initialization and order from each other and from every
    evaluated run. Where labels are clean one row of scores serves all seeds, unless --seeds asks for more. What is
    sealed already is not done again: the same command continues one that was stopped.
    """
    del verbose
    loaded = _load(recipe, overrides or (), seeds, allow_code=allow_code, allow_download=allow_download)
    settings = make_settings(runs, device, data_root, download=download, source=loaded.source)
    from prunecli.score_checks import prepare_scoring
    from prunecli.score_plan import Asked
    from prunecli.scoring import carry_out_scoring

    chosen = tuple(choose(text, allow_code=allow_code) for text in scores)
    asked = Asked(chosen, runs_per_seed, epoch, mode.value, average.value)
    prepared = prepare_scoring(loaded, asked, settings, out, every_seed=bool(seeds))
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


def table(store: ScoreStore) -> Iterator[str]:
    """Aligned lines: each score, or each seed of it, with its distribution over examples and its stability."""
    many = len(store.seeds) > 1
    head = ["score", *(["seed"] if many else []), "runs", "epoch", "mean", "sd"]
    grid = [[*head, *(f"{q}%" for q in QUANTILES), "stability"]]
    for row in _rows(store):
        seed = [str(row["seed"])] if many else []
        numbers = [row["mean"], row["std"], *row["quantiles"].values(), row["stability"]]
        cells = ["-" if number is None else f"{number:.4g}" for number in numbers]
        grid.append([row["score"], *seed, str(row["runs"]), f"{row['epoch']:g}", *cells])
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    for cells in grid:
        first, *rest = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield shown("  ".join((first, *rest)).rstrip())


def notes(store: ScoreStore) -> list[str]:
    """What a reader of the table should know."""
    found = [
        f"means and quantiles are over {store.labels.shape[1]:,} training examples; stability is the Spearman "
        "correlation between the scores of two halves of the runs"
    ]
    if any(score.runs < 2 for score in store.scores.values()):
        found.append("with one scoring run there is no stability: give --runs-per-seed 2 or more")
    return found


def as_json(store: ScoreStore, path: Path) -> dict[str, Any]:  # Any: what JSON holds
    """The scores' distributions as JSON holds them."""
    return {
        "schema": "prunecli/scores",
        "version": 1,
        "path": str(path),
        "recipe_digest": store.recipe_digest,
        "seeds": list(store.seeds),
        "examples": store.labels.shape[1],
        "scores": list(_rows(store)),
    }


def _rows(store: ScoreStore) -> Iterator[dict[str, Any]]:  # Any: what JSON holds
    for name, score in store.scores.items():
        for number, seed in enumerate(store.seeds):
            yield {"score": name, "seed": seed, **_row(score, number)}


def _row(score: Score, number: int) -> dict[str, Any]:  # Any: what JSON holds
    import numpy as np

    values = score.values[number]
    values = values[np.isfinite(values)]
    quantiles = (
        np.quantile(values, [q / 100 for q in QUANTILES]) if values.size else [math.nan] * len(QUANTILES)
    )
    return {
        "runs": score.runs,
        "epoch": score.epoch,
        "average": score.average,
        "mean": _number(values.mean() if values.size else math.nan),
        "std": _number(values.std(ddof=1) if values.size > 1 else math.nan),
        "quantiles": {str(q): _number(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "stability": _number(score.stability[number]),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _load(
    given: str, overrides: Sequence[str], seeds: str, *, allow_code: bool, allow_download: bool
) -> Recipe:
    """The recipe that is named, or a run's, whose folder has to be whole."""
    folder = Path(given)
    is_run = os.path.lexists(folder / "run.json")
    if is_run and not (folder / "recipe.yaml").is_file():
        raise DamagedRun(f"{folder}: damaged: it has no recipe.yaml, so nobody knows what to score")
    try:
        return load_recipe(given, overrides, seeds, allow_code=allow_code, allow_download=allow_download)
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
        from prunecli.scoring import EpochTrained

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
