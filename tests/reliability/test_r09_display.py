"""R9: text of strangers reaches tables, files, logs and errors without a byte that steers what shows it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from scale import SHORT, Figures, Scale

from prunecli.cli.progress import shown as progress
from prunecli.compare import Compared, summarize
from prunecli.errors import Mistake, Place
from prunecli.progress import EpochDone, EpochSeen, LevelDone, Planned, RunDone, RunStarted, Said, SeedFailed
from prunecli.report import FORMATS, rich, shown
from prunecli.store.values import StoredRun

NAME = "R9 display"
STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
BLANK = "\u034f\u115f\u1160\u3164"
FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the wide forms too
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)

PIECES = (
    *(
        "=1+1",
        "@SUM(A1)",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "\t=1",
        "\xa0=1",
        "\r=1",
        "\uff1d1",
        "\u200b=1",
        "=HYPERLINK()",
    ),
    *("[red]", "[/]", "[/red]", "[link=file:///etc/passwd]", "[bold", "]", "[[", "\\[", "{task.description}"),
    *(
        "\x1b[31m",
        "\x1b]8;;file:///etc/passwd\x07",
        "\x9b2J",
        "\x90q",
        "\x00",
        "\x07",
        "\x08",
        "\x7f",
        "\r",
        "\n",
    ),
    *(
        "\u202e",
        "\u2066",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u2028",
        "\u2029",
        "\u3164",
        "\u034f",
        "\ud800",
        "\udcff",
    ),
    *(
        "|",
        "`",
        "``",
        "<script>alert(1)</script>",
        "](x)",
        "![x](y)",
        "\\",
        "\\input{/etc/passwd}",
        "\\write18{id}",
    ),
    *(
        "$",
        "%",
        "#",
        "&",
        "^^5cinput",
        "~",
        "_",
        "{",
        "}",
        '"',
        "'",
        ",",
        ";",
        "\x85",
        "\u00ad",
        "é",
        "日本",
        "🙂",
    ),
)


def check(scale: Scale, folder: Path) -> Figures:
    """Puts hostile strings wherever foreign text can be; gives how many, and the bytes that came through: none."""
    del folder
    count, batch = scale.of(3_000, 50_000), 30
    outputs = 0
    for number in range(0, count, batch):
        draw = random.Random(f"R9 {scale.seed} {number}")
        texts = [hostile(draw) for _ in range(batch)]
        where = f"strings {number} of seed {scale.seed}: {texts!r}"
        compared = _compared(texts)
        written = {name: form(compared, False) for name, form in FORMATS.items()}
        for name, output in (*written.items(), *_shown(compared, texts), *_told(texts)):
            outputs += 1
            steering = [
                c for c in output if c != "\n" and (c in BLANK or unicodedata.category(c) in STEERING)
            ]
            assert not steering, f"{name} lets {steering[0]!r} through; {where}"
            assert output.encode("utf-8"), where
        _check_csv(written["csv"], where)
        _check_markup(written["md"], written["latex"], where)
        json.loads(written["json"], parse_constant=_refused)
    return {"strings": count, "outputs": outputs, "control bytes": 0, "exceptions": 0, "formulas": 0}


def hostile(draw: random.Random) -> str:
    """A string of pieces that steer terminals, tables, spreadsheets and typesetters, and of any characters."""
    pieces = [
        draw.choice(PIECES) if draw.random() < 0.8 else chr(draw.randrange(0x110000))
        for _ in range(draw.randrange(1, 7))
    ]
    return "".join(pieces)


def _compared(texts: list[str]) -> Compared:
    """Two runs, with the strings as names, folders, notes, metrics, layers and values of the recipe."""
    name, other, note, value, key, metric, layer, unit, label, status, *more = texts
    recipe = {
        "model": {value: {key: label}},
        "data": other,
        "labels": {name: {key: value}},
        "about": note,
        **dict.fromkeys(more[16:], label),
        "procedure": [value, {"prune": {"criterion": name}}, {key: {"times": other, "stages": [label]}}],
    }
    values = np.array([[2.0, np.nan, 3.0], [np.nan, 1e308, -1e308], [0.1, -0.5, 1e300]])
    run = StoredRun(
        name=name,
        path=Path("runs") / other.replace("\0", ""),
        digest=note,
        status="partial",
        recipe=recipe,
        seeds=(0, 1, 2),
        density=np.array([1.0, np.nan, 0.0]),
        spent=np.array([1.0, np.nan, np.inf]),
        metrics={
            "test_error": values,
            metric: values,
            "validation_error": values,
            "diverged": values * 0 + 1,
        },
        units={"test_error": unit, metric: unit},
        total=10,
        notes=(note, status, *more[:8]),
        layers=(layer, *more[8:16]),
        kept=np.repeat([[[0], [1], [-1]], [[0], [0], [0]], [[5], [-1], [0]]], 1 + len(more[8:16]), axis=2),
    )
    second = replace(run, name=label, recipe={**recipe, "data": key, other: note}, seeds=(0, 5, 6))
    return Compared((summarize(run), summarize(second)))


def _shown(compared: Compared, texts: list[str]) -> Iterator[tuple[str, str]]:
    """What a terminal gets, with what it is."""
    for width in (60, 200):
        console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
        console.print(*rich(compared, width=width), sep="\n")
        yield "rich", console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    for text in texts:
        mistake = Mistake(Place(text, 3, 2, text, 4), shown(text))
        yield "a mistake", str(mistake)


def _told(texts: list[str]) -> Iterator[tuple[str, str]]:
    """What is said of a run's progress, in every way of saying it."""
    run, why, path, message, *_ = texts
    seen = EpochSeen(1.0, 1.0, float("nan"), 50.0, 100, 0.1)
    events = (
        Planned(1, 2.0),
        RunStarted(run, Path(path.replace("\0", "")), (0,), 2, 0),
        EpochDone(run, 0, 0, 2, seen),
        LevelDone(run, 0, 0, 2, 1.0, 2.0, 0.1),
        SeedFailed(run, 0, why),
        Said(message),
        RunDone(run, Path(path.replace("\0", "")), "partial"),
    )
    for mode in ("log", "json", "none", "bar"):
        told = io.StringIO()
        with redirect_stderr(told), progress(mode) as tell:
            for event in events:
                tell(event)
        # The bar moves the cursor up over its own lines; it is only drawn on a terminal.
        yield mode, told.getvalue()


def _check_csv(text: str, where: str) -> None:
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            assert NUMBER.fullmatch(cell) or not FORMULA.match(cell), f"the formula {cell!r}; {where}"


def _check_markup(markdown: str, latex: str, where: str) -> None:
    """Nothing of a string is Markdown, HTML or a LaTeX command; a row has as many cells as its table."""
    lines = markdown.split("\n")
    for line in lines:
        bare = re.sub(r"\\.", "", line)
        assert not re.search(r"[`<>\[\]]", bare), f"Markdown {line!r}; {where}"
    for above, line in itertools.pairwise(lines):
        cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", one)) for one in (above, line)]
        assert not (above.startswith("|") and line.startswith("|")) or cells[0] == cells[1], (
            f"{line!r}; {where}"
        )
    latex = re.sub(r"^%.*", "", latex, flags=re.MULTILINE)
    commands = set(re.findall(r"\\([A-Za-z]+)", latex))
    assert commands <= KNOWN, f"LaTeX commands {commands - KNOWN}; {where}"
    assert not re.search(r"(?<!\\)[#%]", latex), f"LaTeX comments or parameters; {where}"


KNOWN = {
    *("begin", "end", "toprule", "midrule", "bottomrule", "centering", "caption", "pm"),
    *(
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textbar",
        "textless",
        "textgreater",
        "textquotedbl",
    ),
}
"""The LaTeX commands that tables are made of."""


def _refused(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


def test_hostile_text_steers_nothing(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


def test_what_is_shown_can_be_told_apart() -> None:
    texts = ["a\u200bb", "ab", "a\u3164b", "a\x1bb", "a\ud800b"]
    assert len({shown(text) for text in texts}) == len(texts)
    assert all(shown(text).isprintable() for text in texts)
    assert not any(character in shown(text) for text in texts for character in BLANK)
