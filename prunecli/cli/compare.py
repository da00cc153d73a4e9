"""`prunecli compare`: tabulate stored runs."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli import output
from prunecli.cli.claims import Claims, checked_paper, with_claims
from prunecli.cli.classes import PerClass, TableName, Tabulated, checked_table, with_classes
from prunecli.cli.correlate import Pairs, with_correlations, with_epochs
from prunecli.cli.finding import meant, path_of, paths_of
from prunecli.cli.groups import (
    AtLevels,
    Bins,
    Grouping,
    ScoreName,
    ScoreStores,
    checked_levels,
    checked_reference,
    with_subgroups,
)
from prunecli.cli.pictures import PicturesFile, Sheet, Top, checked_sheet, draw_pictures
from prunecli.cli.plots import (
    Figure,
    HtmlFiles,
    PlotFiles,
    Plotting,
    checked_plotting,
    write_plots,
)
from prunecli.cli.reading import Read, collecting_, metric_of, read_runs
from prunecli.errors import (
    EnvironmentMissing,
    NotComparable,
    PrunecliError,
    StorageError,
    UsageError,
    suggest,
)
from prunecli.expression import LEVELS, Expression, parse

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Reference, Summary
    from prunecli.store.values import StoredRun

_LEVELS = (*LEVELS, "same")


class Format(StrEnum):
    """How the comparison is printed."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"


@dataclass(frozen=True)
class Settings:
    """What to compare and how, as the command line says it; `brief` None is brief for several runs."""

    metric: str = ""
    against: str = ""
    gates: tuple[Expression, ...] = ()
    require_n: int = 0
    confidence: float = 0.95
    seeds: tuple[int, ...] = ()
    format: Format = Format.table
    files: tuple[Path, ...] = ()
    brief: bool | None = None
    root: Path = Path("runs")
    grouping: Grouping | None = None
    paper: str = ""
    plotting: Plotting | None = None
    table: TableName = TableName.levels
    classes: bool = False
    at: tuple[str, ...] = ()
    sheet: Sheet | None = None
    pairs: tuple[str, ...] = ()


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders or names; by default all in --runs.", show_default=False),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="The metric to compare by: test_error, or test_loss where labels are numbers.")
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            metavar="RUN[:LEVEL]",
            help="Compare with this run, at a level: a number, dense, optimal, sparsest_better, "
            "sparsest_better_corrected, last, or same for level by level. By default each run is compared with "
            "its own dense level.",
        ),
    ] = "",
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.table,
    json: output.AsJson = False,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Also write it: .txt .md .csv .json or .tex says how."
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR", help="Exit 5 where true, e.g. 'optimal.test_error > dense.test_error + 0.5'."
        ),
    ] = None,
    require_n: Annotated[int, typer.Option(min=0, help="Exit 4 where a level has fewer seeds.")] = 0,
    confidence: Annotated[float, typer.Option(help="Of the intervals, between 0 and 1.")] = 0.95,
    seeds: Annotated[str, typer.Option(help="Only these seeds, such as 0,1,2 or 0-2.")] = "",
    all_levels: Annotated[
        bool | None,
        typer.Option("--all-levels/--brief", help="Every level, or the marked ones; brief for several runs."),
    ] = None,
    groups: ScoreStores = None,
    score: ScoreName = "",
    bins: Bins = 20,
    level: AtLevels = None,
    claims: Claims = "",
    plot: PlotFiles = None,
    figure: Figure = None,
    html: HtmlFiles = None,
    table: Tabulated = TableName.levels,
    classes: PerClass = False,
    correlate: Pairs = None,
    pictures: PicturesFile = None,
    top: Top = 16,
    data_root: output.DataRoot = None,
    download: output.Download = False,
    allow_code: output.AllowCode = False,
    root: output.Runs = Path("runs"),
    verbose: output.Verbose = False,
) -> None:
    """Tabulate runs: each level against the dense one, with its verdict."""
    del verbose
    from prunecli.store.reading import read_run

    chosen = tuple(output.parse_seeds(seeds)) if seeds else ()
    at = checked_levels(level or ())
    if not groups and (score or (at and not classes and pictures is None and table is not TableName.layers)):
        raise UsageError(
            "--score and --level choose what is grouped: give --groups SCORES too; or --level --classes, "
            "--pictures or --table layers"
        )
    settings = Settings(
        metric=metric,
        against=against,
        gates=tuple(parse(text) for text in fail_if or ()),
        require_n=require_n,
        confidence=_checked_confidence(confidence),
        seeds=chosen,
        format=Format.json if json else format,
        files=_checked_files(files or ()),
        brief=None if all_levels is None else not all_levels,
        root=root,
        grouping=Grouping(tuple(groups), score, bins, at, chosen) if groups else None,
        paper=checked_paper(claims, metric, against),
        plotting=checked_plotting(
            plot or (), html or (), figure, grouped=bool(groups), correlated=bool(correlate)
        ),
        table=checked_table(table, against),
        classes=classes,
        at=at,
        pairs=tuple(correlate or ()),
        sheet=checked_sheet(Sheet(pictures, top, at, chosen, data_root, download, allow_code))
        if pictures
        else None,
    )
    compare_runs(runs or (), settings, read_run)


def compare_runs(texts: Sequence[str], settings: Settings, read: Read) -> None:
    """Print the runs' comparison; then raise what was wrong with any of them, all in one error."""
    errors: list[PrunecliError] = []
    with collecting_(errors):
        _compare_runs(texts, settings, read, errors)
    if errors:
        # What could not be read weighs more than what could not be compared, and that more than a failed gate.
        gravest = min(errors, key=lambda error: error.status)
        raise type(gravest)("\n".join(_told(error) for error in errors))


def _compare_runs(texts: Sequence[str], settings: Settings, read: Read, errors: list[PrunecliError]) -> None:
    runs = list(read_runs(paths_of(texts, settings.root), settings.seeds, read, errors))
    if not runs:
        return
    from prunecli.compare import check_gate, problems

    compared = _compared(runs, settings, read)
    if settings.grouping and (not settings.paper or settings.at or settings.plotting):
        # Beside claims, which have hundreds of groups of their own, only where they are to be seen.
        with collecting_(errors):
            compared = with_subgroups(compared, settings.grouping, errors)
    if settings.paper:
        with collecting_(errors):
            compared = with_claims(compared, settings.paper, settings.grouping, settings.seeds)
    if settings.classes:
        compared = with_classes(compared, settings.at, settings.seeds, errors)
    if settings.pairs:
        compared = with_correlations(compared, settings.pairs)
    compared = with_epochs(compared, settings.plotting, settings.seeds, errors)
    # A metric that no run knows is a slip of the pen: no table of dashes.
    if any(compared.metric in summary.run.metrics for summary in compared.summaries):
        _emit(compared, settings)
        if settings.plotting:
            write_plots(compared, settings.plotting, errors, brief=_brief(compared, settings))
    if settings.sheet:
        with collecting_(errors):
            _say(draw_pictures(compared, settings.sheet))
    errors += problems(compared, require_n=settings.require_n)
    for summary, gate in itertools.product(compared.summaries, settings.gates):
        with collecting_(errors):
            check_gate(gate, compared, summary)


def _compared(runs: Sequence[StoredRun], settings: Settings, read: Read) -> Compared:
    from prunecli.compare import Compared, summarize
    from prunecli.series import joined

    names = [run.name for run in runs]
    metric = settings.metric or metric_of(runs)
    # Two folders may hold runs of one name.
    distinct = (run if names.count(run.name) == 1 else replace(run, name=str(run.path)) for run in runs)
    summaries = tuple(map(summarize, joined(list(distinct))))
    reference = _reference(summaries, settings, read) if settings.against else None
    compared = Compared(summaries, metric, reference, settings.confidence, table=settings.table.value)
    return replace(compared, at=settings.at)


def _reference(summaries: Sequence[Summary], settings: Settings, read: Read) -> Reference:
    from prunecli.compare import Reference

    run, colon, word = settings.against.rpartition(":")
    if not (colon and run and (word in _LEVELS or re.fullmatch("[0-9]{1,6}", word))):
        run, word = settings.against, "dense"
    summary = _named(run, summaries, settings, read)
    if word != "same" and summary.pick(word) is None:
        has = f"levels 0 to {len(summary.levels) - 1}" if summary.levels else "no levels yet"
        raise NotComparable(
            f"--against {settings.against}: {summary.run.name} has no level '{word}'; it has {has}"
        )
    return checked_reference(Reference(summary, word), summaries, settings.against)


def _named(text: str, summaries: Sequence[Summary], settings: Settings, read: Read) -> Summary:
    from prunecli.compare import summarize

    named = {
        name: each for each in summaries for name in (str(each.run.path), each.run.path.name, each.run.name)
    }
    for names in meant(text, list(named)).values():
        found = {named[name].run.path: named[name] for name in names}
        if len(found) > 1:
            raise UsageError(
                f"--against '{text}' fits several runs: {', '.join(each.run.name for each in found.values())}"
            )
        return next(iter(found.values()))
    path = path_of(text, settings.root)
    if not path.exists():
        hint = suggest(text, [summary.run.name for summary in summaries])
        raise UsageError(
            f"--against '{text}': no such run{hint}; a level after ':' is a number, {', '.join(_LEVELS)}"
        )
    errors: list[PrunecliError] = []
    for run in read_runs([path], settings.seeds, read, errors):
        return summarize(run)
    raise errors[0]


def _emit(compared: Compared, settings: Settings) -> None:
    from prunecli import report

    brief = _brief(compared, settings)
    if settings.format is Format.table and output.decorated(sys.stdout):
        from rich.console import Console

        console = Console(highlight=False)
        console.print(*report.rich(compared, brief=brief, width=console.width), sep="\n")
    else:
        sys.stdout.write(report.FORMATS[settings.format](compared, brief))
    if settings.format in (Format.csv, Format.json):
        for summary in compared.summaries:
            for note in report.notes(compared, summary):
                _say(f"{summary.run.name}: {note}")
    for path in settings.files:
        _write(path, report.FORMATS[report.ENDINGS[path.suffix]](compared, brief))


def _brief(compared: Compared, settings: Settings) -> bool:
    several = len(compared.summaries) > 1 or settings.table in (TableName.parts, TableName.layers)
    return several if settings.brief is None else settings.brief


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    _say(f"wrote {path}")


def _say(text: str) -> None:
    output.say(_safe(text))


def _told(error: PrunecliError) -> str:
    # Where data was looked for is told line by line, and is of this machine alone.
    lines = str(error).split("\n") if isinstance(error, EnvironmentMissing) else [str(error)]
    return "\n".join(map(_safe, lines))


def _safe(text: str) -> str:
    from prunecli.report import shown

    return shown(text)


def _checked_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: should be between 0 and 1, such as 0.95")
    return confidence


def _checked_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    for path in paths:
        # Only where there is a file: what knows of them knows statistics too, and takes its time to import.
        from prunecli.report import ENDINGS

        if path.suffix not in ENDINGS:
            raise UsageError(f"--output {path}: unknown ending; known: {' '.join(ENDINGS)}")
    return tuple(paths)
