"""Tables as plain text, Markdown, LaTeX and, for terminals, rich's renderables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from prunecli.compare import Compared
from prunecli.report.cells import Table
from prunecli.report.data import as_csv, as_json
from prunecli.report.table import tables
from prunecli.report.words import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMATS: Mapping[str, Callable[[Compared, bool], str]] = {
    "table": lambda compared, brief: _each(plain, compared, brief),
    "md": lambda compared, brief: _each(markdown, compared, brief),
    "csv": lambda compared, _brief: as_csv(compared),
    "json": lambda compared, _brief: as_json(compared),
    "latex": lambda compared, brief: _each(latex, compared, brief),
}
"""How each format is written; a true second argument leaves out the unmarked levels, but for csv and json."""
ENDINGS = {".txt": "table", ".md": "md", ".csv": "csv", ".json": "json", ".tex": "latex"}


def plain(table: Table) -> str:
    """Aligned text without boxes, however wide it gets."""
    grid = [[shown(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(_width, column)) for column in zip(*grid, strict=True)]
    lines = [shown(table.title)] if table.title else []
    for row in grid if table.columns else []:
        gaps = [" " * (width - _width(cell)) for width, cell in zip(widths, row, strict=True)]
        lefts = [name in table.words for name in table.columns]
        cells = [cell + gap if left else gap + cell for cell, gap, left in zip(row, gaps, lefts, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join((*lines, *(f"  * {shown(note)}" for note in table.notes)))


def markdown(table: Table) -> str:
    """Markdown with a pipe table."""
    lines = [f"### {_markdown(table.title)}", ""] if table.title else []
    if table.columns:
        rule = [":---" if name in table.words else "---:" for name in table.columns]
        rows = [[_markdown(cell) for cell in row] for row in (table.columns, *table.rows)]
        lines += [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
        lines += [""] if table.notes else []
    return "\n".join((*lines, *(f"- {_markdown(note)}" for note in table.notes)))


def latex(table: Table) -> str:
    r"""A LaTeX table for `\usepackage{booktabs}`, its notes as comments."""
    notes = [f"% {_latex(note)}" for note in table.notes]
    if not table.columns:
        return "\n".join(notes)
    rows = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (table.columns, *table.rows)]
    form = "".join("l" if name in table.words else "r" for name in table.columns)
    body = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    head = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(table.title)}}}"]
    return "\n".join((*notes, *head, *body, r"\end{tabular}", r"\end{table}"))


def rich(compared: Compared, *, brief: bool = False, width: int = 80) -> list[RenderableType]:
    """Renderables for a terminal of `width` columns; cells are folded where it is narrow, never cut."""
    return [part for table in tables(compared, brief=brief) for part in _rich_table(table, width)]


def _each(form: Callable[[Table], str], compared: Compared, brief: bool) -> str:
    return "\n\n".join(form(table) for table in tables(compared, brief=brief)) + "\n"


def _rich_table(table: Table, width: int) -> Iterator[RenderableType]:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    styles = {"lower": "green", "higher": "red", "match": "dim"}
    if table.spare and not _fits(table, width):
        table = _without_spare(table)
    if table.title:
        yield Text(shown(table.title), style="bold")
    if table.columns:
        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        # Rich breaks words although lines could break between them, and cuts what it may not break.
        widths = _widths(table, width) if _fits(table, width) else [None] * len(table.columns)
        for name, column in zip(table.columns, widths, strict=True):
            justify: Literal["left", "right"] = "left" if name in table.words else "right"
            drawn.add_column(Text(shown(name)), justify=justify, overflow="fold", width=column)
        for row in table.rows:
            drawn.add_row(*(Text(shown(cell), style=styles.get(cell, "")) for cell in row))
        yield drawn
    yield from (Text(f"* {shown(note)}", style="dim") for note in table.notes)


def _fits(table: Table, width: int) -> bool:
    return _drawn(_longest_words(table)) <= width


def _drawn(widths: Sequence[int]) -> int:
    """The width of a table with columns of these widths: two more for each column and the edges."""
    return sum(widths) + 2 * len(widths) + 2


def _widths(table: Table, width: int) -> list[int]:
    """Of columns as wide as their cells, but never wider together than `width`, nor narrower than a word."""
    least = _longest_words(table)
    columns = zip(table.columns, *table.rows, strict=True)
    widths = [max(_width(shown(cell)) for cell in column) for column in columns]
    while _drawn(widths) > width:
        spare = [wide - longest for wide, longest in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _longest_words(table: Table) -> list[int]:
    columns = zip(table.columns, *table.rows, strict=True)
    return [
        max(_width(word) for cell in column for word in shown(cell).split() or [""]) for column in columns
    ]


def _without_spare(table: Table) -> Table:
    stays = [place for place, name in enumerate(table.columns) if name not in table.spare]
    left_out = ", ".join(name for name in table.columns if name in table.spare)
    note = f"left out for want of width: {left_out}; a wider terminal or -o FILE shows them"
    columns, *rows = (tuple(row[place] for place in stays) for row in (table.columns, *table.rows))
    return replace(table, columns=columns, rows=tuple(rows), notes=(*table.notes, note), spare=frozenset())


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|`*_{}\[\]<>#~&$])", r"\\\1", shown(text))


def _latex(text: str) -> str:
    escaped = re.sub(
        r'[\\&%$#_{}~^\[\]*<>|"±]', lambda found: _LATEX.get(found[0], "\\" + found[0]), shown(text)
    )
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", escaped)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    # A row's end takes what follows in brackets, or a star, as its own.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
