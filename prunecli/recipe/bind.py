"""Nodes and signatures become values; every mistake is kept with its place, and the rest is read on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from prunecli import own_code
from prunecli.errors import Mistake, Place, UsageError, suggest
from prunecli.recipe.nodes import Items, Node, Scalar, Table, plain
from prunecli.recipe.options import among, among_items, optional, schema_of
from prunecli.registry import Choice, Entry, Registry


class _Wrong:
    """Stands for a value whose mistake has been noted."""


WRONG = _Wrong()
Bound = Any  # Any: whatever the option's annotation says


@dataclass
class Binder:
    """Reads nodes as values of annotations; `mistakes` fills up."""

    allow_code: bool = False
    allow_download: bool = False
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, place: Place | None, message: str) -> _Wrong:
        """Note a mistake."""
        self.mistakes.append(Mistake(place, message))
        return WRONG

    def value(self, node: Node, annotation: Any, name: str) -> Bound:  # Any: a type
        """The node as a value of the annotation, or WRONG."""
        if isinstance(node, Scalar) and node.value is None and optional(annotation):
            return None
        if mark := among(annotation):
            return self.choice(node, Registry.all[mark.kind])
        if mark := among_items(annotation):
            return self.choices(node, Registry.all[mark.kind], name)
        try:
            return _adapter(annotation).validate_python(plain(node), strict=True)
        except ValidationError as error:
            for detail in _one_per_place(error.errors(include_url=False)):
                if detail["type"] == "extra_forbidden":
                    self.unknown(node, detail["loc"], name, getattr(annotation, "model_fields", {}))
                else:
                    self.wrong(_place(node, detail["loc"]), _said(name, detail))
            return WRONG

    def unknown(self, node: Node, path: Sequence[int | str], owner: str, known: Iterable[str]) -> None:
        """Note a key that a mapping inside an option does not have."""
        inside, key = _node(node, path[:-1]), str(path[-1])
        place = inside.keys.get(key, inside.place) if isinstance(inside, Table) else inside.place
        self.wrong(place, f"'{owner}' has no option '{key}'{suggest(key, known)}")

    def choices(self, node: Node, registry: Registry, name: str) -> list[Bound] | _Wrong:
        """A list of choices."""
        if not isinstance(node, Items):
            return self.wrong(node.place, f"'{name}' is a list, such as [{next(iter(registry))}]")
        return [self.choice(item, registry) for item in node.items]

    def choice(self, node: Node, registry: Registry) -> Choice | _Wrong:
        """A registered name, or a one-key mapping from the name to its options."""
        node = in_full(registry, node)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            name, place, options = node.value, node.place, Table({}, {}, node.place)
        elif isinstance(node, Table) and len(node.pairs) == 1:
            ((name, given),) = node.pairs.items()
            place = node.keys[name]
            if isinstance(given, Scalar) and given.value is None:
                given = Table({}, {}, place)
            if not isinstance(given, Table):
                return self.wrong(
                    given.place, f"'{name}' takes options as a mapping{self.like(registry, name)}"
                )
            options = given
        else:
            return self.wrong(
                node.place, f"a {registry.one} is a name, or one name with its options{_hint(node)}"
            )
        entry = self.entry(registry, name, place)
        if entry is None:
            return WRONG
        bound = self.options(entry.function, options, f"{registry.one} '{name}'", place)
        return bound if isinstance(bound, _Wrong) else Choice(registry.kind, name, bound, place)

    def entry(self, registry: Registry, name: str, place: Place) -> Entry | None:
        """The registered function of this name; a mistake where there is none."""
        if name.startswith(own_code.PREFIX) and not self.allow_code:
            self.wrong(place, f"'{name}' runs code of its own; give --allow-code if you trust it")
            return None
        try:
            entry = registry[name]
            remote = entry.remote
        except UsageError as error:
            self.wrong(place, str(error))
            return None
        except KeyError:
            self.wrong(place, f"unknown {registry.one} '{name}'{suggest(name, registry)}")
            return None
        if remote:
            if self.allow_download:
                return entry
            self.wrong(place, f"'{name}' is fetched from the network; give --allow-download if you trust it")
            return None
        if entry.rest is not None and "names" in entry.traits:
            known = entry.traits["names"]()
            if entry.rest not in known:
                prefix = name.removesuffix(entry.rest)
                hint = suggest(entry.rest, known).replace(" '", f" '{prefix}")
                self.wrong(place, f"unknown {registry.one} '{name}'{hint}")
                return None
        return entry

    def options(
        self, function: Callable[..., Any], table: Table, owner: str, place: Place | None
    ) -> dict[str, Bound] | _Wrong:
        """The function's options, defaults filled in; unknown and missing keys are mistakes."""
        before = len(self.mistakes)
        parameters = schema_of(function).parameters
        for key in table.pairs:
            if key not in parameters:
                self.wrong(table.keys[key], f"{owner} has no option '{key}'{suggest(key, parameters)}")
        bound: dict[str, Bound] = {}
        for name, parameter in parameters.items():
            if name in table.pairs:
                bound[name] = self.value(table.pairs[name], parameter.annotation, name)
            elif parameter.default is parameter.empty:
                self.wrong(place, f"{owner} needs '{name}'")
            else:
                bound[name] = self.default(parameter)
        return self.together(function, bound, table) if len(self.mistakes) == before else WRONG

    def together(self, function: Callable[..., Any], bound: dict[str, Bound], table: Table) -> Any:
        """The bound options as the function's pydantic model has them, or WRONG."""
        try:
            model = schema_of(function).model.model_validate(bound)
        except ValidationError as error:
            for detail in _one_per_place(error.errors(include_url=False)):
                self.wrong(_place(table, detail["loc"]), _said(str(detail["loc"][0]), detail))
            return WRONG
        return {name: getattr(model, name) for name in bound}

    def default(self, parameter: inspect.Parameter) -> Bound:
        """A parameter's default; a default choice gets its own options' defaults."""
        value = parameter.default
        if isinstance(value, Choice):
            return self.choice(Scalar(value.name, Place("default")), Registry.all[value.kind])
        if isinstance(value, list):
            return [
                self.choice(Scalar(item.name, Place("default")), Registry.all[item.kind])
                if isinstance(item, Choice)
                else item
                for item in value
            ]
        return value

    def like(self, registry: Registry, name: str) -> str:
        """`, such as {prune: {fraction: …}}` for the name's options."""
        try:
            options = registry[name].options
        except KeyError:
            return ""
        return f", such as {{{name}: {{{next(iter(options))}: …}}}}" if options else "; it has none"


def in_full(registry: Registry, node: Node) -> Node:
    """A bare number as the name and the option that it is short for, where the registry has such a name."""
    if registry.number is None or not _is_number(node):
        return node
    option = next(iter(registry[registry.number].options))
    options = Table({option: node}, {option: node.place}, node.place)
    return Table({registry.number: options}, {registry.number: node.place}, node.place)


# By identity, as annotations hold what has no hash; each is kept here, so that no other takes its identity.
_adapters: dict[int, tuple[Any, TypeAdapter[Any]]] = {}  # Any: a type, and its values


def _adapter(annotation: Any) -> TypeAdapter[Any]:  # Any: see above
    """The annotation's validator, made once: a long recipe has thousands of values of few annotations."""
    if id(annotation) not in _adapters:
        _adapters[id(annotation)] = (annotation, TypeAdapter(annotation))
    return _adapters[id(annotation)][1]


def _is_number(node: Node) -> bool:
    return (
        isinstance(node, Scalar) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    )


def _hint(node: Node) -> str:
    if isinstance(node, Table) and len(node.pairs) > 1:
        first, second, *_ = node.pairs
        return f"; found the keys '{first}' and '{second}' side by side (is one indented too little?)"
    if isinstance(node, Items):
        return "; found a list"
    return f"; found {plain(node)!r}"


def _place(node: Node, path: Sequence[int | str]) -> Place:
    return _node(node, path).place


def _node(node: Node, path: Sequence[int | str]) -> Node:
    """The innermost node that the path leads to."""
    for step in path:
        if isinstance(node, Table) and step in node.pairs:
            node = node.pairs[str(step)]
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
    return node


def _one_per_place(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """A union's branches each complain: keep what the last branch says."""
    places: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        places[tuple(step for step in detail["loc"] if step not in ("int", "float", "str", "bool"))] = detail
    return list(places.values())


def _said(name: str, detail: ErrorDetails) -> str:
    message = re.sub("^(Input|List) should", "should", detail["msg"]).removeprefix("Value error, ")
    message = message.replace(" after validation", "")
    inner = "".join(f".{step}" for step in detail["loc"] if isinstance(step, int))
    found = detail["input"]
    if isinstance(found, (str, int, float, bool, type(None))):
        shown = "nothing" if found is None else f"{found!r}"
        return f"'{name}{inner}' {message[:1].lower()}{message[1:]}; found {shown}"
    kind = "a mapping" if isinstance(found, dict) else "a list" if isinstance(found, list) else ""
    return f"'{name}{inner}' {message[:1].lower()}{message[1:]}" + (f"; found {kind}" if kind else "")
