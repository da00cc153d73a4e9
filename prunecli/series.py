"""A sweep over widths as one run: dense models of falling width are its levels (Jin et al., 2022, section 5.2)."""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prunecli.store.values import Floats, Status, StoredRun

_SAID = frozenset({"about", "seeds", "keep_weights"})
_WORST: Sequence[Status] = ("running", "partial", "complete")


def joined(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs, those of dense models that differ by their width alone put together as one run each.

    Its level k is the k-th widest; its density the prunable weights over those of the widest model of that kind among
    all `runs`, so that a series which lacks the reference width is counted against it all the same.
    """
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(_series_key(run), []).append(run)
    found = []
    for group in groups.values():
        widths = {_width(run.recipe) for run in group}
        if len(widths) > 1 and len(widths) == len(group):
            found.append(_together(group, max(run.total for run in runs if _kind(run) == _kind(group[0]))))
        else:
            found += group
    return found


def _together(runs: Sequence[StoredRun], reference: int) -> StoredRun:
    members = sorted(runs, key=lambda run: -run.total)
    first = members[0]
    seeds = tuple(sorted({seed for run in members for seed in run.seeds}))
    names = sorted({name for run in members for name in run.metrics})
    return StoredRun(
        name=_name([run.name for run in members]),
        path=first.path,
        digest=hashlib.sha256("".join(run.digest for run in members).encode()).hexdigest(),
        status=min((*(run.status for run in members), *_of_seeds(members, seeds)), key=_WORST.index),
        recipe={**_with_width(first.recipe, [_width(run.recipe) for run in members]), "seeds": list(seeds)},
        seeds=seeds,
        density=np.array([run.total / reference for run in members]),
        spent=np.array([float(run.spent[0]) for run in members]),
        metrics={name: np.stack([_column(run, name, seeds) for run in members], axis=1) for name in names},
        units={name: unit for run in members for name, unit in run.units.items()},
        total=reference,
        notes=tuple(_notes(members, seeds)),
        members=tuple(members),
    )


def _column(run: StoredRun, metric: str, seeds: Sequence[int]) -> Floats:
    """The metric (S,) of the run's one level."""
    values = run.metrics.get(metric)
    rows = {seed: row for row, seed in enumerate(run.seeds)}
    known = [
        float(values[rows[seed], 0]) if values is not None and seed in rows else np.nan for seed in seeds
    ]
    return np.array(known)


def _of_seeds(members: Sequence[StoredRun], seeds: Sequence[int]) -> list[Status]:
    """Partial where a width lacks a seed."""
    return ["partial"] if any(set(run.seeds) != set(seeds) for run in members) else []


def _notes(members: Sequence[StoredRun], seeds: Sequence[int]) -> Iterator[str]:
    widths = ", ".join(f"{number}: {_width(run.recipe)}" for number, run in enumerate(members))
    yield f"one series of {len(members)} runs; the width at each level is {widths}"
    for run in members:
        if lacking := ", ".join(str(seed) for seed in seeds if seed not in run.seeds):
            yield f"{run.name}: has not the seeds {lacking}, which other widths have"
        yield from (f"{run.name}: {note}" for note in run.notes)


def _name(names: Sequence[str]) -> str:
    """What the members' names begin with alike."""
    common = os.path.commonprefix(list(names))  # noqa: RUF071  (characters are meant: names, not paths)
    return common.rstrip("-.0123456789").removesuffix("-width") or "widths"


def _series_key(run: StoredRun) -> str:
    """Equal for runs that one series may have; that of a run by itself is its path."""
    if len(run.density) != 1 or run.density[0] != 1 or _width(run.recipe) is None:
        return str(run.path)
    rest = {key: value for key, value in run.recipe.items() if key not in _SAID}
    return json.dumps(_with_width(rest, None), sort_keys=True, default=str)


def _kind(run: StoredRun) -> str:
    kind = {key: run.recipe.get(key) for key in ("model", "data", "prunable")}
    return json.dumps(_with_width(kind, None), sort_keys=True, default=str)


def _width(recipe: Mapping[str, Any]) -> Any:  # Any: a recipe's values
    return _options(recipe).get("width")


def _with_width(recipe: Mapping[str, Any], width: Any) -> dict[str, Any]:  # Any: a recipe's values
    model = recipe.get("model")
    if not isinstance(model, Mapping) or len(model) != 1 or "width" not in _options(recipe):
        return dict(recipe)
    return {**recipe, "model": {next(iter(model)): {**_options(recipe), "width": width}}}


def _options(recipe: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: a recipe's values
    model = recipe.get("model")
    options = next(iter(model.values()), None) if isinstance(model, Mapping) else None
    return options if isinstance(options, Mapping) else {}
