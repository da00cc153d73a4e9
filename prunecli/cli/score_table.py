"""Score stores for people and programs: each score's distribution over the examples, and its stability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.errors import shown

if TYPE_CHECKING:
    from prunecli.store.scores import Score, ScoreStore

QUANTILES = (5, 25, 50, 75, 95)


def table(store: ScoreStore) -> Iterator[str]:
    """Aligned lines: each score, or each seed of it, with its distribution over examples and its stability."""
    many = len(store.seeds) > 1
    head = ["score", *(["seed"] if many else []), "runs", "epoch", "mean", "sd"]
    grid = [[*head, *(f"{q}%" for q in QUANTILES), "stability"]]
    for row in _rows(store):
        seed = [str(row["seed"])] if many else []
        numbers = [row["mean"], row["std"], *row["quantiles"].values(), row["stability"]]
        cells = ["-" if number is None else f"{number:.4g}" for number in numbers]
        grid.append([row["score"], *seed, str(row["runs"]), f"{row['epoch']:g}", *cells])
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    for cells in grid:
        first, *rest = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield shown("  ".join((first, *rest)).rstrip())


def notes(store: ScoreStore) -> list[str]:
    """What a reader of the table should know."""
    found = [
        f"means and quantiles are over {store.labels.shape[1]:,} training examples; stability is the Spearman "
        "correlation between the scores of two halves of the runs"
    ]
    if any(score.runs < 2 for score in store.scores.values()):
        found.append("with one scoring run there is no stability: give --runs-per-seed 2 or more")
    return found


def as_json(store: ScoreStore, path: Path) -> dict[str, Any]:  # Any: what JSON holds
    """The scores' distributions as JSON holds them."""
    return {
        "schema": "prunecli/scores",
        "version": 1,
        "path": str(path),
        "recipe_digest": store.recipe_digest,
        "seeds": list(store.seeds),
        "examples": store.labels.shape[1],
        "scores": list(_rows(store)),
    }


def _rows(store: ScoreStore) -> Iterator[dict[str, Any]]:  # Any: what JSON holds
    for name, score in store.scores.items():
        for number, seed in enumerate(store.seeds):
            yield {"score": name, "seed": seed, **_row(score, number)}


def _row(score: Score, number: int) -> dict[str, Any]:  # Any: what JSON holds
    import numpy as np

    values = score.values[number]
    values = values[np.isfinite(values)]
    quantiles = (
        np.quantile(values, [q / 100 for q in QUANTILES]) if values.size else [math.nan] * len(QUANTILES)
    )
    return {
        "runs": score.runs,
        "epoch": score.epoch,
        "average": score.average,
        "mean": _number(values.mean() if values.size else math.nan),
        "std": _number(values.std(ddof=1) if values.size > 1 else math.nan),
        "quantiles": {str(q): _number(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "stability": _number(score.stability[number]),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
