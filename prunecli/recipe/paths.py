"""Dotted paths, as overrides and sweeps write them: `model.width` skips the name that was chosen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prunecli import own_code
from prunecli.errors import Mistake, Place, RecipeError, suggest
from prunecli.recipe.bind import in_full
from prunecli.recipe.nodes import MAX_DEPTH, Items, Node, Scalar, Table
from prunecli.recipe.options import among, among_items, schema_of
from prunecli.registry import Choice, Registry

Parameters = Mapping[str, inspect.Parameter]


def placed(table: Table, parameters: Parameters, path: str, value: Node, place: Place) -> Table:
    """The table with the value put where the path leads.

    Raises:
        RecipeError: the path leads nowhere; the error's place is `place`.
    """
    steps = path.split(".")
    if len(steps) > MAX_DEPTH:
        raise RecipeError([Mistake(place, f"a path has at most {MAX_DEPTH} steps; found {len(steps):,}")])
    return _in_table(table, parameters, steps, value, place)


def _in_table(
    table: Table, known: Parameters | None, steps: Sequence[str], value: Node, place: Place
) -> Table:
    key, rest = steps[0], steps[1:]
    if known is not None and key not in known:
        raise RecipeError([Mistake(place, f"there is no '{key}' to set{suggest(key, known)}")])
    current = table.pairs.get(key)
    if rest:
        parameter = None if known is None else known[key]
        current = _in_value(current, parameter, rest, value, place)
    else:
        current = value
    return replace(table, pairs={**table.pairs, key: current}, keys={**table.keys, key: place})


def _in_value(
    node: Node | None, parameter: inspect.Parameter | None, steps: Sequence[str], value: Node, place: Place
) -> Node:
    annotation = None if parameter is None else parameter.annotation
    if mark := among(annotation):
        default: Any = None if parameter is None else parameter.default  # Any: a default's value
        chosen = node or Scalar(default.name if isinstance(default, Choice) else None, place)
        return _in_choice(chosen, Registry.all[mark.kind], steps, value, place)
    if isinstance(node, Items):
        mark = among_items(annotation)
        return _in_items(node, Registry.all[mark.kind] if mark else None, steps, value, place)
    if node is None or isinstance(node, Table):
        return _in_table(node or Table({}, {}, place), None, steps, value, place)
    raise RecipeError([Mistake(place, f"'{steps[0]}' leads nowhere: the recipe has a single value there")])


def _in_items(
    items: Items, registry: Registry | None, steps: Sequence[str], value: Node, place: Place
) -> Items:
    if not re.fullmatch("[0-9]{1,6}", steps[0]) or int(steps[0]) >= len(items.items):
        last = len(items.items) - 1
        raise RecipeError([Mistake(place, f"'{steps[0]}' should be a place in a list, 0 to {last}")])
    position, rest = int(steps[0]), steps[1:]
    current = items.items[position]
    if not rest:
        current = value
    elif registry is not None:
        current = _in_choice(current, registry, rest, value, place)
    else:
        current = _in_value(current, None, rest, value, place)
    return replace(items, items=(*items.items[:position], current, *items.items[position + 1 :]))


def _in_choice(node: Node, registry: Registry, steps: Sequence[str], value: Node, place: Place) -> Node:
    node = in_full(registry, node)
    if isinstance(node, Table) and len(node.pairs) == 1:
        ((name, given),) = node.pairs.items()
        options = given if isinstance(given, Table) else Table({}, {}, given.place)
        name_place = node.keys[name]
    elif isinstance(node, Scalar) and isinstance(node.value, str):
        name, options, name_place = node.value, Table({}, {}, node.place), node.place
    else:
        raise RecipeError([Mistake(place, f"'{steps[0]}' leads nowhere: no {registry.one} is chosen there")])
    if name.startswith(own_code.PREFIX):
        parameters = None  # The user's code is not looked at before it is allowed.
    elif name in registry:
        parameters = schema_of(registry[name].function).parameters
        if len(steps) > 1 and steps[0] == name and name not in parameters:
            steps = steps[1:]
    else:
        return node  # Binding says what is wrong with the name.
    return Table({name: _in_table(options, parameters, steps, value, place)}, {name: name_place}, node.place)
