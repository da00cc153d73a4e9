"""What was measured, as a table, as JSON and as a page."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Spread
from benchmarks.registry import Circumstances
from benchmarks.rows import Row, Target

PACKAGES = ("prunecli", "torch", "torchvision", "numpy", "h5py")
COLUMNS = ("id", "what", "against", "found (quartiles)", "CPU seconds", "target", "reached", "note")
QUICK = "QUICK: tiny sizes, to try the suite out; these figures say nothing and are never to be quoted"
Json = dict[str, Any]  # Any: what JSON holds


def machine(at: Circumstances) -> Json:
    """What the figures are taken on, how busy it is before they are, and with how many threads."""
    found = {
        "taken": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "device": str(at.device),
        "load before": round(os.getloadavg()[0], 2),
        "threads": at.threads,
        "rounds": at.rounds,
        "subnormal numbers": "flushed to 0 on both sides",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    if at.device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(at.device)
    return found


def content(rows: Sequence[Row], before: Json, at: Circumstances) -> Json:
    """Everything that was found, for JSON."""
    how = {**before, "load after": round(os.getloadavg()[0], 2)}
    shown = [{**asdict(row), "reached": "" if at.quick else row.reached} for row in rows]
    return {"quick": QUICK if at.quick else "", "machine": how, "rows": shown}


def printed(found: Json, console: Console) -> None:
    """Print the table."""
    table = Table(*COLUMNS, title=found["quick"] or None, show_lines=False)
    for row in found["rows"]:
        table.add_row(*cells(row))
    console.print(table)


def page(found: Json) -> str:
    """The page of the results, in Markdown.

    Raises:
        ValueError: they are of a quick run.
    """
    if found["quick"]:
        raise ValueError("a quick run makes no page of results: run the suite without --quick")
    lines = [
        "# What was measured",
        "",
        "Written by `python -m benchmarks --results benchmarks/RESULTS.md`. A ratio is the peer's time divided by "
        "prunecli's, above 1 prunecli is quicker: medians of each round's ratio and, in brackets, its quartiles, by "
        "the wall and then by CPU seconds of all processes. A target is judged by the median by the wall. Figures are "
        "measured on this machine; those that are not say `estimate` in their note.",
        "",
        *(f"- {name}: {value}" for name, value in found["machine"].items()),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in found["rows"]),
    ]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:  # Any: what JSON holds
    """A row's cells, in the order of the columns."""
    found = _spread(row["found"], row["unit"]) if row["found"] else "not there"
    cpu = _spread(row["cpu"], "times") if row["cpu"] else ""
    target = Target(**row["target"]) if row["target"] else None
    bound = f"{target.kind} {_number(target.bound)} {row['unit']}".strip() if target else ""
    note = row["absent"] or row["note"]
    return (row["id"], row["what"], row["against"], found, cpu, bound, row["reached"], note)


def read(path: Path) -> Json:
    """What an earlier run wrote."""
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def written(found: Json, path: Path) -> None:
    """Write everything that was found as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _spread(found: Mapping[str, float], unit: str) -> str:
    spread = Spread(**found)
    text = _number(spread.median)
    if spread.low != spread.high:
        text += f" [{_number(spread.low)}, {_number(spread.high)}]"
    return f"{text} {unit}".strip()


def _number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()
