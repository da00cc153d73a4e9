"""What `compare` found, as tables in every format, and as data."""

from __future__ import annotations

from prunecli.report.data import CSV_COLUMNS
from prunecli.report.formats import ENDINGS, FORMATS, rich
from prunecli.report.table import notes, tables
from prunecli.report.words import describe, differences, shown

__all__ = ["CSV_COLUMNS", "ENDINGS", "FORMATS", "describe", "differences", "notes", "rich", "shown", "tables"]
