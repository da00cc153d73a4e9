"""Measure prunecli's speed beside a bare loop and an OpenLTH-style one, and print one table.

python -m benchmarks [--only P1,P4] [--rounds 7] [--device cuda] [--out FILE] [--results benchmarks/RESULTS.md]
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import benchmarks
from benchmarks import registry, table
from benchmarks.measure import timed
from benchmarks.rows import Row
from prunecli.determinism import prepare_workspace
from prunecli.memory import keep_freed


def main(words: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 2 where that makes no sense, else 0."""
    options = _parser().parse_args(words)
    # Threads inherit this when they start, so it comes before torch's first operation.
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    prepare_workspace()
    keep_freed()
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"benchmarks.{module.name}")
    chosen = options.only.split(",") if options.only else registry.ids()
    if wrong := _wrong(options, chosen):
        print(wrong, file=sys.stderr)
        return 2
    if options.read:
        found = table.read(options.read)
    else:
        with tempfile.TemporaryDirectory() as folder:
            at = registry.Circumstances(
                options.rounds, torch.device(options.device), options.threads, Path(folder), options.quick
            )
            found = measured(chosen, at)
    table.printed(found, Console(width=None if sys.stdout.isatty() else 240))
    if options.out:
        table.written(found, options.out)
    if options.results:
        options.results.write_text(table.page(found), encoding="utf-8")
    return 0


def measured(chosen: Sequence[str], at: registry.Circumstances) -> table.Json:
    """The rows of the chosen ids, with what they were taken on."""
    before = table.machine(at)
    rows: list[Row] = []
    for id, function in sorted(registry.BENCHMARKS, key=lambda pair: int(pair[0].removeprefix("P"))):
        if id in chosen:
            taken = timed(lambda: rows.extend(function(at)), at.device)  # noqa: B023  (called at once)
            print(f"{id} {function.__name__}: {taken.wall:.1f} s, {taken.cpu:.1f} CPU s", file=sys.stderr)
    return table.content(rows, before, at)


def _wrong(options: argparse.Namespace, chosen: Sequence[str]) -> str:
    """Why what was asked for makes no sense; empty where it does."""
    if unknown := sorted(set(chosen) - set(registry.ids())):
        return f"there is no benchmark {', '.join(unknown)}; known: {', '.join(registry.ids())}"
    if options.results and options.quick:
        return "--results does not go with --quick: a quick run's figures are never to be quoted"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return f"there is no device '{options.device}' here; known: cpu"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="IDS", help="such as P1,P4; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="of each comparison; the long ones take fewer")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the suite out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="of each side's arithmetic")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the page of the results")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show what --out wrote; measures nothing")
    return parser


if __name__ == "__main__":
    # Processes that a benchmark starts import this module again.
    raise SystemExit(main())
