"""A recipe file, overrides and a sweep become experiments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunecli.errors import Mistake, Place, RecipeError, UsageError, suggest
from prunecli.experiment import Experiment
from prunecli.places import Places
from prunecli.recipe.bind import Binder
from prunecli.recipe.label import folder_name
from prunecli.recipe.nodes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_MISTAKES,
    MAX_NODES,
    Table,
    one_line,
    presentable,
    read,
)
from prunecli.recipe.options import schema_of
from prunecli.recipe.paths import placed
from prunecli.recipe.sweeps import sweep_with, swept, without_sweep
from prunecli.recipe.trained import lost_weights
from prunecli.recipe.writing import dump
from prunecli.registry import Choice

MAX_STAGES = 100_000
"""Stages of all points of a sweep together, written out."""


@dataclass(frozen=True)
class Point:
    """One point of a recipe's sweep; `label` is for people."""

    label: str
    experiment: Experiment
    root: Table = field(repr=False, compare=False)
    """The nodes that the experiment was read from, overrides and sweep values put in."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was given, and the experiments that it asks for."""

    source: str
    text: str
    overrides: tuple[str, ...]
    points: tuple[Point, ...]


def load(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    allow_code: bool = False,
    allow_download: bool = False,
    places: Places | None = None,
) -> Recipe:
    """The recipe in a file, with overrides `KEY=VALUE`; `places` are where what it refers to is looked for.

    Raises:
        UsageError: the file cannot be read.
        RecipeError: all of the recipe's mistakes.
    """
    allowed = {"allow_code": allow_code, "allow_download": allow_download}
    return load_text(_text_of(path), str(path), overrides, stem=path.stem, places=places, **allowed)


def load_text(
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    *,
    stem: str = "recipe",
    allow_code: bool = False,
    allow_download: bool = False,
    places: Places | None = None,
) -> Recipe:
    """The recipe in a text; see `load`."""
    root, mistakes = read(text, source)
    assert isinstance(root, Table)
    root, sweep = without_sweep(root, overrides, mistakes)
    for override in overrides:
        if override.startswith("sweep."):
            sweep = sweep_with(sweep, override, root.place, mistakes)
        else:
            root = _overridden(root, override, mistakes)
    points, known = [], set(mistakes)
    for suffix, point in swept(root, sweep, mistakes):
        binder = Binder(allow_code=allow_code, allow_download=allow_download)
        bound = binder.options(Experiment, point, "a recipe", Place(source))
        # The points of a sweep share most of their nodes, and so their mistakes.
        mistakes += [mistake for mistake in binder.mistakes if mistake not in known]
        known.update(binder.mistakes)
        if isinstance(bound, dict):
            experiment = Experiment(**bound)
            # Of a recipe with mistakes nothing is looked for: they are what has to be told.
            found = experiment if mistakes else experiment.pinned(places or Places())
            points.append(Point(folder_name(stem + suffix), found, point))
    if not mistakes:
        mistakes += _twice(points, sweep) + _too_long(points, sweep)
    mistakes += [mistake for point in points for mistake in lost_weights(point.experiment)]
    if points and not mistakes:
        mistakes += _unreadable(points[0])
    if mistakes:
        raise RecipeError(_in_reading_order(mistakes, overrides))
    return Recipe(source, text, tuple(overrides), tuple(points))


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # Not the size that the file system tells: a pipe or a device has none.
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{path}: a recipe has at most {MAX_BYTES // 1024} KiB")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        near = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UsageError(
            f"{path}: no such recipe{suggest(str(path), near)} (`prunecli ls recipes` lists the built-in ones)"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


def _overridden(root: Table, override: str, mistakes: list[Mistake]) -> Table:
    key, equals, value = override.partition("=")
    place = Place("argument", 1, 1, one_line(override[:400]), len(key))
    if not equals or not key:
        mistakes.append(Mistake(place, f"'{override}' should be KEY=VALUE, such as epochs=10"))
        return root
    if key.partition(".")[0] == "sweep":
        mistakes.append(Mistake(place, "a sweep is set path by path, such as sweep.labels.fraction=[0, 0.3]"))
        return root
    try:
        node, found = read(" " * (len(key) + 1) + value, "argument", argument=override)
        mistakes += found
        return placed(root, schema_of(Experiment).parameters, key, node, place)
    except RecipeError as error:
        mistakes += error.mistakes
        return root


def _unreadable(point: Point) -> list[Mistake]:
    """What hinders the resolved recipe, which a run keeps, from being read: defaults make it larger."""
    form = point.experiment.plain()
    if (size := _size(form)) > MAX_NODES:
        # To write so much down only to read that it is too much would take seconds.
        most = f"a recipe has at most {MAX_NODES:,} values; this has {size:,}"
        return [Mistake(point.root.place, f"with its defaults the recipe cannot be kept: {most}")]
    if len(json.dumps(form)) < MAX_BYTES // 16 and _depth(form) < MAX_DEPTH:
        return []
    try:
        read(dump(point.experiment), "resolved")
    except RecipeError as error:
        why = f"with its defaults the recipe cannot be kept: {error.mistakes[0].message}"
        return [Mistake(point.root.place, why)]
    return []


def _depth(value: Any) -> int:  # Any: a recipe's value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _size(value: Any) -> int:  # Any: a recipe's value
    """Values and keys, as the reader counts them."""
    if isinstance(value, Mapping):
        return 1 + sum(1 + _size(inner) for inner in value.values())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _too_long(points: Sequence[Point], sweep: Table | None) -> list[Mistake]:
    """A sweep whose procedures are, written out, too long to be gone through, or cannot be written out."""
    stages, wrong = 0, list[Mistake]()
    for stage in (one for point in points for one in point.experiment.procedure):
        try:
            stages += unrolled(stage)
        except UsageError as error:
            wrong.append(Mistake(stage.place, str(error)))
    if wrong:
        return wrong
    if sweep is None or stages <= MAX_STAGES:
        return []  # A single procedure's length is told where it is unrolled.
    message = f"the sweep's procedures unroll to {stages:,} stages together; at most {MAX_STAGES:,}"
    return [Mistake(sweep.place, message)]


def unrolled(stage: Choice) -> int:
    """How many stages a stage stands for, without writing them out."""
    count: Callable[..., int] | None = stage.entry.traits.get("count")
    return count(**stage.options) if count else 1


def _twice(points: Sequence[Point], sweep: Table | None) -> list[Mistake]:
    """Points of a sweep that would be one run."""
    seen: dict[str, str] = {}
    for point in points if sweep is not None else ():
        key = json.dumps(point.experiment.plain(results_only=True), sort_keys=True)
        if key in seen and sweep is not None:
            message = f"two points of the sweep give one experiment: {seen[key]} and {point.label}"
            return [Mistake(sweep.place, message)]
        seen[key] = point.label
    return []


def _in_reading_order(mistakes: Sequence[Mistake], overrides: Sequence[str]) -> list[Mistake]:
    """Each mistake once, the recipe's before the arguments', and no more than a person reads."""
    position = {one_line(override[:400]): number for number, override in reversed([*enumerate(overrides, 1)])}

    def order(mistake: Mistake) -> tuple[int, int, int]:
        place = mistake.place or Place("")
        argument = position.get(place.text, 1) if place.source == "argument" else 0
        return argument, place.line, place.column

    ordered = [presentable(mistake) for mistake in sorted(dict.fromkeys(mistakes), key=order)]
    more = len(ordered) - MAX_MISTAKES
    rest = [Mistake(None, f"… and {more:,} mistakes more")] if more > 0 else []
    return [*ordered[:MAX_MISTAKES], *rest]
