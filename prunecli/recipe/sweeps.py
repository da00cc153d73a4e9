"""A recipe's sweep: paths and the values that they take, each alone or several together; lists multiply."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prunecli.errors import Mistake, Place, RecipeError
from prunecli.experiment import Experiment
from prunecli.recipe.nodes import Items, Node, Scalar, Table, one_line, read
from prunecli.recipe.options import schema_of
from prunecli.recipe.paths import placed

MAX_POINTS = 1_000
MAX_SWEPT = 200_000
"""Values in all points of a sweep together."""
_WRONG = "'sweep' maps paths to lists of values, such as {labels.fraction: [0, 0.15]}"


@dataclass(frozen=True)
class _Axis:
    """Paths that take their values together, one value each a step."""

    paths: tuple[str, ...]
    place: Place
    steps: tuple[tuple[Node, ...], ...]


def without_sweep(
    root: Table, overrides: Sequence[str], mistakes: list[Mistake]
) -> tuple[Table, Table | None]:
    """The recipe without its sweep, and the sweep without the paths that an argument sets to one value."""
    sweep = root.pairs.get("sweep")
    if sweep is None:
        return root, None
    pairs = {name: node for name, node in root.pairs.items() if name != "sweep"}
    rest = replace(root, pairs=pairs, size=root.size - 1 - sweep.size)
    if not isinstance(sweep, Table):
        mistakes.append(Mistake(sweep.place, _WRONG))
        return rest, None
    mistakes += [Mistake(node.place, _WRONG) for node in sweep.pairs.values() if not isinstance(node, Items)]
    given = {override.partition("=")[0]: override for override in overrides}
    left = {}
    for key, node in sweep.pairs.items():
        set_alone = [path for path in paths_of(key) if path in given]
        if isinstance(node, Items) and len(set_alone) < len(paths_of(key)):
            left[key] = node
            mistakes += [_torn(key, path, given[path]) for path in set_alone]
    return rest, replace(sweep, pairs=left)


def sweep_with(sweep: Table | None, override: str, place: Place, mistakes: list[Mistake]) -> Table | None:
    """The sweep with the values that an argument `sweep.PATH=[…]` gives a path, or `sweep.PATH,PATH=[[…]]` several."""
    key, equals, value = override.partition("=")
    path, here = key.removeprefix("sweep."), _argument(override)
    try:
        node, found = read(" " * (len(key) + 1) + value, "argument", argument=override)
        mistakes += found
    except RecipeError as error:
        mistakes += error.mistakes
        return sweep
    if not equals or not isinstance(node, Items):
        mistakes.append(Mistake(here, f"'{key}' is a list of values, such as {key}=[0, 0.3]"))
        return sweep
    before = sweep or Table({}, {}, place)
    path = next((known for known in before.pairs if paths_of(known) == paths_of(path)), path)
    pairs, keys = {**before.pairs, path: node}, {**before.keys, path: here}
    return replace(before, pairs=pairs, keys=keys)


def swept(root: Table, sweep: Table | None, mistakes: list[Mistake]) -> Iterator[tuple[str, Table]]:
    """Each point's label and nodes; lists multiply."""
    axes = [] if sweep is None else _axes(root, sweep, mistakes)
    for positions in itertools.product(*(range(len(axis.steps)) for axis in axes)):
        point, suffix = root, ""
        for axis, position in zip(axes, positions, strict=True):
            for path, value in zip(axis.paths, axis.steps[position], strict=True):
                try:
                    point = placed(point, schema_of(Experiment).parameters, path, value, axis.place)
                except RecipeError as error:
                    mistakes += error.mistakes
                suffix += f"-{path.rpartition('.')[2]}-{_short(value, position)}"
        yield suffix, point


def paths_of(key: str) -> tuple[str, ...]:
    """The paths of a sweep's key: several, with commas between them, take their values together."""
    return tuple(path.strip() for path in key.split(","))


def _axes(root: Table, sweep: Table, mistakes: list[Mistake]) -> list[_Axis]:
    """What the sweep goes through; nothing where that would be too much, or is not as it should be."""
    given = [(key, node) for key, node in sweep.pairs.items() if isinstance(node, Items)]
    wrong = [
        Mistake(node.place, f"'{key}' has no values to sweep over") for key, node in given if not node.items
    ]
    every = [path for key, _ in given for path in paths_of(key)]
    for key, node in given:
        paths = paths_of(key)
        again = next((path for path in paths if every.count(path) > 1), None)
        if again is not None:
            wrong.append(Mistake(sweep.keys[key], f"'{again}' is swept over twice; leave one of them out"))
        wrong += [
            _unequal(key, item) for item in node.items if len(paths) > 1 and not _fits(item, len(paths))
        ]
    count = math.prod(len(node.items) for _, node in given)
    most = min(MAX_POINTS, MAX_SWEPT // max(1, root.size))
    if count > most:
        of_this = "" if most == MAX_POINTS else " where the recipe is so long"
        message = f"a sweep has at most {most:,} points{of_this}; this has {count:,}"
        wrong.append(Mistake(sweep.place, message))
    mistakes += wrong
    return [] if wrong else [_Axis(paths_of(key), sweep.keys[key], _steps(key, node)) for key, node in given]


def _steps(key: str, node: Items) -> tuple[tuple[Node, ...], ...]:
    if len(paths_of(key)) == 1:
        return tuple((item,) for item in node.items)
    return tuple(item.items for item in node.items if isinstance(item, Items))


def _fits(item: Node, count: int) -> bool:
    return isinstance(item, Items) and len(item.items) == count


def _unequal(key: str, item: Node) -> Mistake:
    paths = paths_of(key)
    example = ", ".join(f"VALUE_{number}" for number in range(1, len(paths) + 1))
    return Mistake(item.place, f"'{key}' takes lists of {len(paths)} values, one for each path: [{example}]")


def _torn(key: str, path: str, override: str) -> Mistake:
    others = ", ".join(f"'{other}'" for other in paths_of(key) if other != path)
    message = f"'{path}' takes its values together with {others} in the sweep; set these too"
    return Mistake(_argument(override), message)


def _argument(override: str) -> Place:
    return Place("argument", 1, 1, one_line(override[:400]), len(override.partition("=")[0]))


def _short(node: Node, position: int) -> str:
    """A sweep's value in a label: itself, the name that is chosen, or the how-manieth it is."""
    if isinstance(node, Table) and len(node.pairs) == 1:
        return next(iter(node.pairs))
    return str(node.value) if isinstance(node, Scalar) else str(position)
