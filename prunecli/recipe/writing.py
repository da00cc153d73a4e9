"""Recipes written out: as YAML that reads back as the same, and with where each value comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from prunecli.errors import RecipeError
from prunecli.experiment import Experiment
from prunecli.recipe.nodes import Items, Node, Scalar, Table, plain, read


def dump(experiment: Experiment) -> str:
    """The resolved recipe as YAML, which loads as the same experiment."""
    values = {name: value for name, value in experiment.plain().items() if value not in ("", None)}
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def inline(value: Any) -> str:  # Any: a recipe's value
    """A value as YAML writes it in one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=100_000)
    return text.removesuffix("\n").removesuffix("...").strip("\n ")


def origins(experiment: Experiment, root: Table) -> dict[str, str]:
    """For each dotted path of the resolved recipe, where its value comes from: a place, or `default`.

    `root` are the nodes that the experiment was read from.
    """
    return dict(_origins(experiment.plain(), root, ""))


def _origins(value: Any, node: Node | None, path: str) -> Iterator[tuple[str, str]]:  # Any: a recipe's value
    if isinstance(value, Mapping) and value:
        given = node if isinstance(node, Table) else None
        named = isinstance(node, Scalar) and list(value) == [node.value]
        # A bare number is short for one option of one name: `0.1` for `{constant: {value: 0.1}}`.
        number = node if isinstance(node, Scalar) and not isinstance(node.value, str) else None
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            if named and node is not None:
                yield here, _origin(node)
            if number is not None:
                given = Table({name: number}, {}, number.place)
            yield from _origins(inner, given.pairs.get(name) if given else None, here)
    elif isinstance(value, list) and value:
        items = node.items if isinstance(node, Items) else ()
        for position, inner in enumerate(value):
            yield from _origins(
                inner, items[position] if position < len(items) else None, f"{path}.{position}"
            )
    else:
        yield path, _origin(node)


def _origin(node: Node | None) -> str:
    if node is None:
        return "default"
    return "argument" if node.place.source == "argument" else f"line {node.place.line}"


class _Dumper(yaml.SafeDumper):
    """Writes strings that our reader would take for something else in quotes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # Any: as PyYAML declares it
        return True


def _quoted(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _bare(value) else '"')


@cache
def _bare(value: str) -> bool:
    """Whether PyYAML may choose how to write a string: our reader takes it for one, and it has one line."""
    # Lines would be written one below the other, and `show` puts each value's origin beside it.
    if not re.fullmatch(r"[\w.+-]*", value):
        return "\n" not in value
    try:
        node, mistakes = read(f"x: {value}", "dump")
    except RecipeError:  # such as `-`, which begins a list
        return False
    return not mistakes and isinstance(node, Table) and plain(node) == {"x": value}


_Dumper.add_representer(str, _quoted)
