"""The application: one place that names the commands."""

from __future__ import annotations

import io
import signal
import sys
from typing import Annotated

import typer

import prunecli
from prunecli.cli.compare import compare
from prunecli.cli.connect import connect
from prunecli.cli.machine import check, doctor, status
from prunecli.cli.noise import noise
from prunecli.cli.output import INTERRUPTED, command
from prunecli.cli.planned import plan
from prunecli.cli.recipes import cp, ls, schema, show
from prunecli.cli.runs import prune, train
from prunecli.cli.score import score
from prunecli.stopping import SIGNALS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Shows what neural-network pruning does to generalization: recipes in, tables with honest statistics out.\n\n"
    "Start with: prunecli prune recipes/imp_lrr.yaml, then prunecli compare runs/*",
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"prunecli {prunecli.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    del version


STUDY, RECIPES, MACHINE = "Study", "Recipes", "Runs and the machine"
for panel, commands in (
    (STUDY, (train, prune, noise, score, compare, connect)),
    (RECIPES, (plan, ls, cp, show, schema)),
    (MACHINE, (status, check, doctor)),
):
    for function in commands:
        app.command(rich_help_panel=panel)(command(function))


def main() -> None:
    """Run the command line."""
    # While runs are carried out a signal sets a flag; before that each ends the command as Ctrl-C does.
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows only ASCII shows `\u2026` for `…`, and does not stop the command.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        # The work is over, and its status stands: a signal while Python puts itself away would only hide it.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
