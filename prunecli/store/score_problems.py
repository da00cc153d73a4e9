"""Whether a score store is sound: what it says of itself, and its scores as the averages of their runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunecli.store.scores import RUNS_OF, STABILITY_OF, decode_scores, runs_of, vouched


def score_problems(path: Path) -> list[str]:
    """What is wrong with a score store whose record vouches for it: scores have to be the averages of their runs.

    Raises:
        DamagedRun: see `read_scores`.
    """
    data, record = vouched(path)
    store = decode_scores(data, str(path))
    found = []
    for name in ("recipe_digest", "scoring_digest"):
        if record.get(name) != getattr(store, name):
            found.append(f"{path}: its {name} is not the one that its record names")
    if record.get("seeds") != list(store.seeds):
        found.append(
            f"{path}: has the seeds {str(list(store.seeds))[:80]}; its record says {str(record.get('seeds'))[:80]}"
        )
    for name, score in store.scores.items():
        runs = runs_of(data, name, str(path))
        average = np.median(runs, axis=1) if score.average == "median" else runs.mean(axis=1)
        if not np.allclose(average, score.values, equal_nan=True):
            found.append(f"{path}: /scores/{name} is not the {score.average} of /scores/{name}{RUNS_OF}")
        stable = score.stability[~np.isnan(score.stability)]
        if (np.abs(stable) > 1).any() or (score.runs == 1 and stable.size):
            found.append(f"{path}: /scores/{name}{STABILITY_OF} is no correlation between halves of its runs")
    return found
