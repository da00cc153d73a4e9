"""What commands share: options, how errors end a command, and where words go."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import typer

from prunecli.errors import PrunecliError, StorageError, UsageError, shown
from prunecli.stopping import Aborted

F = TypeVar("F", bound=Callable[..., None])
INTERRUPTED = 130
STOPPED = 75

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, a built-in recipe's name, or a run's folder.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values to put into the recipe: epochs=10 model.width=0.5"),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of runs.")]
Seeds = Annotated[
    str, typer.Option("--seeds", metavar="SEEDS", help="0,1,2 or 0-4, in place of the recipe's.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Seeds carried out side by side, in processes; else by cores, memory and work.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    float,
    typer.Option("--checkpoint", min=0, metavar="SECONDS", help="Keep training inside a level this often."),
]
Patience = Annotated[
    float,
    typer.Option(
        "--patience", min=0, metavar="SECONDS", help="Wait so long for room on a full disk, then stop."
    ),
]
DataRoot = Annotated[
    str | None, typer.Option("--data-root", metavar="DIR", help="Where datasets are (else PRUNECLI_DATA).")
]
Download = Annotated[bool, typer.Option("--download", help="Download a dataset that is not there.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the recipe run python: models.")]
AllowDownload = Annotated[
    bool, typer.Option("--allow-download", help="Let the recipe fetch weights of timm:hf-hub: models.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors; print run folders only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(message: str) -> None:
    """A message, to standard error."""
    print(message, file=sys.stderr)


def decorated(stream: TextIO) -> bool:
    """Whether colours and live bars are for this stream: a terminal, and nobody asked for plain text."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_json(value: Any) -> None:  # Any: what JSON holds
    """JSON, to standard output."""
    print(json.dumps(value, indent=1, allow_nan=False))


def command(function: F) -> F:
    """A command whose errors become one or two lines and the contract's exit codes."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:  # Any: whatever the command takes
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except PrunecliError as error:
            _explain(error, str(error), verbose=bool(kwargs.get("verbose")))
            raise typer.Exit(error.status) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(0) from None
        except OSError as error:
            _explain(error, _failure_of(error), verbose=bool(kwargs.get("verbose")))
            _silence_stdout()
            raise typer.Exit(StorageError.status) from None
        except Aborted:
            say("ended at once; everything sealed is safe, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
        except KeyboardInterrupt:
            say("stopped; everything sealed is safe, and the same command goes on from there")
            raise typer.Exit(STOPPED) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001  (the one place where a defect becomes a message)
            _explain(
                error,
                f"a defect in prunecli: {type(error).__name__}: {error}\n(-v shows the traceback; please report it)",
                verbose=bool(kwargs.get("verbose")),
            )
            raise typer.Exit(1) from None

    return guarded  # type: ignore[return-value]  # wraps keeps the signature, which mypy cannot see


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` or `0-4` or both as a list.

    Raises:
        UsageError: it is neither.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not re.fullmatch("[0-9]{1,10}(-[0-9]{1,10})?", part.strip()):
            raise UsageError(f"--seeds {text}: should be like 0,1,2 or 0-4; found '{part.strip()}'")
        end = int(last) if dash else int(first)
        if not int(first) <= end < int(first) + 10_000:
            raise UsageError(f"--seeds {text}: the range {part.strip()} should rise, by less than 10,000")
        seeds += range(int(first), end + 1)
    return list(dict.fromkeys(seeds))


def _failure_of(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error)).lower()
    return f"{where}{what}"


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere: its reader has gone, or its disk is full."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # It is no file, as in tests.


def _explain(error: Exception, message: str, *, verbose: bool) -> None:
    if verbose:
        traceback.print_exception(error)
    for line in message.splitlines():
        say(shown(line))


def write(path: Path, content: bytes) -> None:
    """Write a file that was asked for, and say so.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    say(shown(f"wrote {path}"))
