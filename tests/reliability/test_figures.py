"""The page says what was counted."""

from __future__ import annotations

from long import ABOUT, HERE, PAGE, page, stored


def test_the_page_is_written_from_the_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(stored()), (
        "python tests/reliability/long.py --page writes it anew"
    )


def test_every_check_is_on_the_page() -> None:
    assert {path.stem for path in HERE.glob("test_r[0-9]*.py")} == set(ABOUT)
