"""What `compare` found as one page: tables, and figures as inline SVG, with nothing to fetch and nothing that runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from prunecli.report.cells import Table
from prunecli.report.words import shown

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 75rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #222; } td { border-bottom: 1px solid #ddd; }
.words { text-align: left; white-space: normal; }
.lower { color: #00664b; } .higher { color: #a33c00; } .match { color: #666; }
ul { font-size: 0.875rem; color: #444; } figure { margin: 1rem 0; } figcaption { font-size: 0.875rem; color: #444; }
svg { max-width: 100%; height: auto; }
"""
_VERDICTS = frozenset({"lower", "higher", "match"})


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, what it is, and what it leaves out."""

    title: str
    svg: str
    notes: tuple[str, ...] = ()


def page(title: str, tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """A page that stands alone: every foreign word is escaped, and the browser is told to fetch and run nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    drawn = (part for number, picture in enumerate(pictures) for part in _picture(number, picture))
    lines = (
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{_text(title)}</h1>",
        *drawn,
        *(part for table in tables for part in _table(table)),
        "</body>",
        "</html>",
    )
    return "\n".join(lines) + "\n"


def _picture(number: int, picture: Picture) -> Iterator[str]:
    yield f"<figure>\n{_inline(picture.svg, f'figure{number}-')}"
    yield f"<figcaption>{_text(picture.title)}</figcaption>\n</figure>"
    yield from _notes(picture.notes)


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"<h2>{_text(table.title)}</h2>"
    if table.columns:
        forms = ["words" if name in table.words else "" for name in table.columns]
        yield '<div class="wide"><table>'
        yield f"<thead><tr>{''.join(map(_cell, ['th'] * len(forms), table.columns, forms))}</tr></thead>"
        yield "<tbody>"
        yield from (f"<tr>{''.join(map(_cell, ['td'] * len(forms), row, forms))}</tr>" for row in table.rows)
        yield "</tbody>\n</table></div>"
    yield from _notes(table.notes)


def _cell(tag: str, text: str, form: str) -> str:
    classes = " ".join(filter(None, (form, text if text in _VERDICTS else "")))
    return f'<{tag} class="{classes}">{_text(text)}</{tag}>' if classes else f"<{tag}>{_text(text)}</{tag}>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>"


def _inline(svg: str, prefix: str) -> str:
    """The drawing without the head of a file, its names made those of one figure on a page of several."""
    drawing = svg[svg.index("<svg") :].rstrip()
    names = r'(?<= id=")|(?<=url\(#)|(?<=href="#)'
    # Angle brackets stand nowhere but round tags, since text and attributes are escaped.
    return re.sub(r"<[^>]+>", lambda tag: re.sub(names, prefix, tag[0]), drawing)


def _text(text: str) -> str:
    return escape(shown(text))
