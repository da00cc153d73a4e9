"""`prunecli connect`: errors and losses on the lines between trained networks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from prunecli.cli import output
from prunecli.cli.finding import path_of
from prunecli.cli.plots import PICTURES, PlotFiles
from prunecli.errors import DamagedRun, NotComparable, PrunecliError, UsageError, shown
from prunecli.expression import LEVELS

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Level, Summary
    from prunecli.connectivity import Line, Network
    from prunecli.lab import Lab
    from prunecli.report.connectivity import Connected, Side
    from prunecli.runs import Prepared, Settings
    from prunecli.store.level_masks import StoredMasks

T = TypeVar("T")
OUTPUTS = (".txt", ".md", ".csv", ".json")
FEWEST_POINTS, MOST_POINTS = 3, 1001


class Between(StrEnum):
    """What the lines are between."""

    levels = "levels"
    seeds = "seeds"


class Of(StrEnum):
    """What is measured on a line."""

    test = "test"
    train = "train"
    both = "both"


class BatchNorm(StrEnum):
    """What becomes of BatchNorm's running statistics between two networks."""

    interpolate = "interpolate"
    recompute = "recompute"


class Format(StrEnum):
    """How it is printed."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"


@dataclass(frozen=True)
class Asked:
    """What to measure and how, as the command line says it."""

    between: Between
    points: int
    of: Of
    batch_norm: BatchNorm
    seeds: tuple[int, ...]
    confidence: float
    allow_code: bool
    allow_download: bool


@dataclass(frozen=True)
class _End:
    """A run's level, as far as it is read without torch: the masks of its seeds, and their stored numbers."""

    summary: Summary
    level: Level
    masks: Mapping[int, StoredMasks]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.masks)

    @property
    def side(self) -> Side:
        from prunecli.report.connectivity import Side

        run = self.summary.run
        return Side(run.name, run.path, run.digest, self.level.level)

    def stored(self, seed: int) -> dict[str, float]:
        """The metrics that the run stored of a seed at the level."""
        of_seed = {name: self.summary.by_seed(self.level, name) for name in self.level.metrics}
        return {name: values[seed] for name, values in of_seed.items() if seed in values}


def connect(
    a: Annotated[
        str, typer.Argument(metavar="RUN[:LEVEL]", help="A number, dense, optimal or last (default).")
    ],
    b: Annotated[str, typer.Argument(metavar="[RUN[:LEVEL]]", help="The other end, but for seeds.")] = "",
    between: Annotated[
        Between, typer.Option(help="The same seed's levels A and B, or all pairs of seeds at one level.")
    ] = Between.levels,
    points: Annotated[
        int, typer.Option(min=FEWEST_POINTS, max=MOST_POINTS, help="Places on a line, its ends among them.")
    ] = 11,
    of: Annotated[Of, typer.Option(help="Measure on the test split, the training split, or both.")] = Of.test,
    batch_norm: Annotated[
        BatchNorm, typer.Option(help="Interpolate running statistics, or take them anew at each place.")
    ] = BatchNorm.interpolate,
    seeds: Annotated[str, typer.Option(help="Only these seeds, such as 0,1,2 or 0-2.")] = "",
    confidence: Annotated[float, typer.Option(help="Of the intervals, between 0 and 1.")] = 0.95,
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.table,
    json: output.AsJson = False,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Also write it: .txt .md .csv or .json says how."
        ),
    ] = None,
    plot: PlotFiles = None,
    root: output.Runs = Path("runs"),
    device: output.Device = "auto",
    data_root: output.DataRoot = None,
    download: output.Download = False,
    allow_code: output.AllowCode = False,
    allow_download: output.AllowDownload = False,
    verbose: output.Verbose = False,
) -> None:
    """Measure error and loss on the straight line between networks, and its barrier: linear mode connectivity.

    Networks are those of a run's weights, which the recipe's keep_weights has kept, or of states that are kept to go on
    from: level 0 and the last level have them as a rule.
    """
    del verbose
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: should be between 0 and 1, such as 0.95")
    _check_ends(a, b, between)
    files, plot = _checked("--output", files, OUTPUTS), _checked("--plot", plot, PICTURES)
    chosen = tuple(output.parse_seeds(seeds)) if seeds else ()
    asked = Asked(between, points, of, batch_norm, chosen, confidence, allow_code, allow_download)

    def settings(runs: Path, source: Path) -> Settings:
        from prunecli.cli.recipes import make_settings

        return make_settings(runs, device, data_root, download=download, source=str(source))

    first, second = (_read(text, root, chosen) for text in (a, b or a))
    _emit(_connected(first, second, asked, settings), Format.json if json else format, files, plot)


def _check_ends(a: str, b: str, between: Between) -> None:
    if between is Between.seeds and b:
        raise UsageError(f"--between seeds takes one RUN[:LEVEL], whose seeds it pairs; found {a} and {b}")
    if between is Between.levels and not b:
        raise UsageError(
            f"a line has two ends: give two RUN[:LEVEL], such as {a.partition(':')[0]}:0 {a.partition(':')[0]}:last, "
            "or --between seeds for all pairs of seeds of one"
        )


def _checked(option: str, paths: Sequence[Path] | None, endings: Sequence[str]) -> list[Path]:
    for path in paths or ():
        if path.suffix not in endings:
            raise UsageError(f"{option} {path}: unknown ending; known: {' '.join(endings)}")
    return list(paths or ())


def _read(text: str, root: Path, seeds: Sequence[int]) -> _End:
    """A run's level that a text names."""
    from prunecli.cli.reading import read_runs
    from prunecli.compare import summarize
    from prunecli.store.apart import read_apart
    from prunecli.store.level_masks import read_masks
    from prunecli.store.reading import read_run

    run, colon, word = text.rpartition(":")
    if not (colon and run and (word in LEVELS or re.fullmatch("[0-9]{1,6}", word))):
        run, word = text, "last"
    path = path_of(run, root)
    if not path.exists():
        raise UsageError(f"{text}: no such run; a level after ':' is a number, {', '.join(LEVELS)}")
    errors: list[PrunecliError] = []
    summaries = [summarize(found) for found in read_runs([path], seeds, read_run, errors)]
    if errors:
        raise type(errors[0])(shown(str(errors[0])))
    summary = summaries[0]
    level = summary.pick(word)
    if level is None:
        raise NotComparable(
            f"{text}: {summary.run.name} has no level '{word}'; it has levels 0 to {len(summary.levels) - 1}"
        )
    (masks,) = read_apart([path], lambda one: read_masks(one, level.level))
    if isinstance(masks, PrunecliError):
        raise masks
    return _End(summary, level, {seed: one for seed, one in masks.items() if seed in summary.run.seeds})


def _connected(a: _End, b: _End, asked: Asked, settings: Callable[[Path, Path], Settings]) -> Connected:
    from prunecli.report.connectivity import Connected

    pairs, notes = _pairs(a, b, asked)
    lines = tuple(_lines(a, b, pairs, asked, settings, notes))
    sides = a.side, b.side
    return Connected(
        *sides, asked.between.value, asked.batch_norm.value, lines, asked.confidence, tuple(notes)
    )


def _pairs(a: _End, b: _End, asked: Asked) -> tuple[list[tuple[int, int]], list[str]]:
    """The seeds that each line leads from and to, and what is to be said of others."""
    if asked.between is Between.seeds:
        pairs = list(combinations(a.seeds, 2))
        if not pairs:
            raise NotComparable(
                f"{a.side}: has {len(a.seeds)} seed{'s' * (len(a.seeds) != 1)}; pairs need two"
            )
        return pairs, []
    both = sorted(set(a.seeds) & set(b.seeds))
    if not both:
        raise NotComparable(
            f"{a.side} has seeds {_listed(a.seeds)}, and {b.side} {_listed(b.seeds)}: none is the same"
        )
    unpaired = sorted({*a.seeds, *b.seeds, *asked.seeds} - set(both))
    notes = [f"seeds that not both ends have, left out: {_listed(unpaired)}"] if unpaired else []
    return [(seed, seed) for seed in both], notes


def _lines(
    a: _End,
    b: _End,
    pairs: Sequence[tuple[int, int]],
    asked: Asked,
    settings: Callable[[Path, Path], Settings],
    notes: list[str],
) -> Iterator[Line]:
    """The lines, measured one after the other; what a reader should know of them goes to `notes`."""
    from prunecli.connectivity import SPLITS, check_same_examples, line_between, strays
    from prunecli.networks import measuring

    (labs, mine), (other, theirs) = _networks(a, b, pairs, asked, settings)
    places = [number / (asked.points - 1) for number in range(asked.points)]
    astray: list[str] = []
    for number, (first, second) in enumerate(pairs, 1):
        # Where only one of them dropped filters, its model alone closes their channels.
        lab = max(labs[first], other[second], key=lambda one: len(one.gates.layers))
        if asked.of is not Of.test or asked.batch_norm is BatchNorm.recompute:
            check_same_examples(labs[first], other[second], labels=asked.of is not Of.test)
        with measuring(lab):
            line = line_between(
                lab, mine[first], theirs[second], places, SPLITS[asked.of], asked.batch_norm.value
            )
        if asked.batch_norm is BatchNorm.interpolate and strays(line, (a.stored(first), b.stored(second))):
            astray.append(f"{first} to {second}")
        if len(pairs) > 1:
            output.say(f"seed {first} to {second}: pair {number} of {len(pairs)}")
        yield line
    if astray:
        notes.append(
            f"losses at the ends are not those stored (pairs {', '.join(astray)}): other devices make a little of "
            "it, other weights the rest"
        )


_OfEnd = tuple[dict[int, "Lab"], dict[int, "Network"]]


def _networks(
    a: _End,
    b: _End,
    pairs: Sequence[tuple[int, int]],
    asked: Asked,
    settings: Callable[[Path, Path], Settings],
) -> tuple[_OfEnd, _OfEnd]:
    """For each end the labs and the networks of the seeds that are paired."""
    from prunecli.networks import check_alike, labs_of, networks

    runs, found = _opened(a, b, asked, settings), list[_OfEnd]()
    (first, here), (second, there) = runs
    check_alike(first, second)
    for end, run, how, seeds in (
        (a, first, here, {s for s, _ in pairs}),
        (b, second, there, {s for _, s in pairs}),
    ):
        labs = labs_of(run, sorted(seeds), how)
        found.append((labs, networks(run, end.level.level, labs, end.masks, how)))
    return found[0], found[1]


def _opened(
    a: _End, b: _End, asked: Asked, settings: Callable[[Path, Path], Settings]
) -> list[tuple[Prepared, Settings]]:
    """The two runs with their datasets and models, which are read once where they are the same."""
    from prunecli.cli.recipes import load_recipe
    from prunecli.datasets.values import Dataset
    from prunecli.networks import opened
    from prunecli.places import Places

    datasets: dict[str, Dataset] = {}
    allowed = {"allow_code": asked.allow_code, "allow_download": asked.allow_download}
    found: dict[Path, tuple[Prepared, Settings]] = {}
    for path in (a.summary.run.path, b.summary.run.path):
        if path in found:
            continue
        if not (path / "recipe.yaml").is_file():
            raise DamagedRun(f"{path}: damaged: it has no recipe.yaml, so nobody knows its model")
        how = settings(path.absolute().parent, path / "recipe.yaml")
        recipe = load_recipe(str(path), (), "", Places(how.runs, how.roots), **allowed)
        found[path] = opened(path, recipe.points[0], how, datasets), how
    return [found[end.summary.run.path] for end in (a, b)]


def _emit(found: Connected, format: Format, files: Iterable[Path], plots: Iterable[Path]) -> None:
    from prunecli.report.connectivity import ENDINGS, FORMATS, drawing

    sys.stdout.write(FORMATS[format](found))
    for path in files:
        output.write(path, FORMATS[ENDINGS[path.suffix]](found).encode())
    for path in plots:
        # Matplotlib takes a second to import.
        from prunecli.report.figures import draw, rendered

        content, messages = rendered(draw(drawing(found)), path.suffix)
        for message in messages:
            output.say(shown(f"{path}: {message}"))
        output.write(path, content)


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
