"""YAML read event by event into nodes that know where they stand.

Scalars follow YAML 1.2's core schema: `1e-4` is a number, `no` and `on` are strings, `010` is ten. Keys given
twice, merge keys, tags, and documents that are too large, too deep or explode through aliases are mistakes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from prunecli.errors import Mistake, Place, RecipeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_MISTAKES = 50
MAX_MESSAGE = 480

_INTEGER = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

_Mark = Any  # Any: PyYAML's marks are of two classes that share no base
Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Scalar:
    """A single value."""

    value: Plain
    place: Place
    size: int = 1


@dataclass(frozen=True)
class Items:
    """A sequence."""

    items: tuple[Node, ...]
    place: Place
    size: int = 1


@dataclass(frozen=True)
class Table:
    """A mapping; `keys` has the place of each key."""

    pairs: Mapping[str, Node]
    keys: Mapping[str, Place]
    place: Place
    size: int = 1


Node = Scalar | Items | Table


def read(text: str, source: str, *, argument: str = "") -> tuple[Node, list[Mistake]]:
    """The document's root node and its mistakes.

    `argument` is the whole of an override `KEY=VALUE` whose value is read (its root may be anything) and
    shown with mistakes; otherwise the root is a mapping.

    Raises:
        RecipeError: the text is no YAML at all, or beyond a limit.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _one(Place(source), f"a recipe has at most {MAX_BYTES // 1024} KiB")
    text = text.removeprefix("\ufeff")
    shown = _shown(text)
    builder = _Builder(source, [one_line(argument)] if argument else shown.splitlines(), bool(argument))
    try:
        builder.visible(text, shown)
        root = builder.document(_events(shown))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = builder.place(mark) if mark else Place(source)
        raise builder.stop(place, _syntax(error)) from error
    except yaml.reader.ReaderError as error:
        place = builder.at(shown, error.position)
        raise builder.stop(place, f"the character {_code(error.character)} is not allowed") from error
    if not argument and not isinstance(root, Table):
        raise builder.stop(root.place, "a recipe is a mapping, such as `model: lenet_300_100`")
    return root, builder.mistakes


def plain(node: Node) -> Plain | list[object] | dict[str, object]:
    """The node's value without places."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return {key: plain(item) for key, item in node.pairs.items()}


def presentable(mistake: Mistake) -> Mistake:
    """The mistake with a message in one line: names in it may be as long as a recipe, and hold anything."""
    message, half = mistake.message, MAX_MESSAGE // 2
    if len(message) > MAX_MESSAGE:
        message = f"{message[:half]} … {message[-half:]}"
    return replace(mistake, message=one_line(message))


def one_line(text: str) -> str:
    """The text with a visible character for each that breaks lines, steers a terminal or cannot be seen."""
    return _shown(text).translate(dict.fromkeys(map(ord, "\n\r\t"), " "))


def _events(text: str) -> Iterator[yaml.Event]:
    loader = yaml.SafeLoader(text)
    while True:
        try:
            if not loader.check_event():
                return
            event: yaml.Event = loader.get_event()  # type: ignore[no-untyped-call]  # as its stubs have it
        except (ValueError, OverflowError) as error:
            # What int() and chr() say inside PyYAML of `%YAML 1.9999…` and "\UFFFFFFFF".
            problem = "an escape or a version is out of range"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=loader.get_mark()) from error
        yield event


@dataclass
class _Builder:
    source: str
    lines: list[str]
    is_value: bool
    """Whether the text is an override's value, which may be empty: then it is null."""
    mistakes: list[Mistake] = field(default_factory=list)
    anchors: dict[str, Node | None] = field(default_factory=dict)
    nodes: int = 0

    def document(self, events: Iterator[yaml.Event]) -> Node:
        next(events)
        event = next(events)
        if isinstance(event, yaml.StreamEndEvent):
            place = Place(self.source, 1, 1, self.line(0) if self.is_value else "")
            # `epochs=` is null, as `epochs:` is in a recipe; an empty recipe lacks all that is needed.
            return Scalar(None, place) if self.is_value else Table({}, {}, place)
        root = self.node(next(events), events, depth=0)
        next(events)
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.stop(self.place(after.start_mark), "a recipe is one document; `---` starts a second")
        return root

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        place = self.place(event.start_mark, event.end_mark)
        if depth > MAX_DEPTH:
            raise self.stop(place, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor or "", place)
        self.count(1, place)
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if tag is not None and tag != "!":
            self.wrong(place, f"the tag '{tag}' is not read; write the value without it")
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self.scalar(event, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.items(events, place, depth)
        else:
            node = self.table(events, place, depth)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def alias(self, name: str, place: Place) -> Node:
        node = self.anchors.get(name)
        if node is None:
            raise self.stop(place, f"the alias '*{name}' stands inside its own anchor or before it")
        self.count(node.size, place)
        return node

    def items(self, events: Iterator[yaml.Event], place: Place, depth: int) -> Items:
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.node(event, events, depth + 1))
        return Items(tuple(items), place, 1 + sum(item.size for item in items))

    def table(self, events: Iterator[yaml.Event], place: Place, depth: int) -> Table:
        pairs: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key_place = self.place(event.start_mark, event.end_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise self.stop(key_place, "a key is a word, not a list or a mapping")
            self.count(1, key_place)
            self.printable(event.value, key_place)
            value = self.node(next(events), events, depth + 1)
            if event.value == "<<" and event.style is None:
                self.wrong(key_place, "merge keys are not read; write the keys out")
            elif event.value in pairs:
                first = keys[event.value]
                self.wrong(
                    key_place, f"'{event.value}' is given twice (first at {first.line}:{first.column})"
                )
            else:
                pairs[event.value], keys[event.value] = value, key_place
        return Table(pairs, keys, place, 1 + sum(1 + item.size for item in pairs.values()))

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> Scalar:
        text = event.value
        self.printable(text, place)
        if event.style is not None:
            return Scalar(text, place)
        if text in _WORDS:
            return Scalar(_WORDS[text], place)
        if _INTEGER.fullmatch(text):
            return Scalar(self.integer(text, place), place)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isinf(value):
                self.wrong(place, f"the number {text} is too large")
            return Scalar(0.0 if math.isinf(value) else value, place)
        if _NOT_FINITE.fullmatch(text):
            self.wrong(place, f"{text} is not a number that a recipe can hold")
        return Scalar(text, place)

    def integer(self, text: str, place: Place) -> int:
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        value = int(text, base) if len(text) <= 20 else 2**63
        if abs(value) < 2**63:
            return value
        self.wrong(place, "a whole number has at most 63 bits")
        return 0

    def visible(self, text: str, shown: str) -> None:
        """Each character that cannot be seen is a mistake, in comments too."""
        if text != shown:
            for position, character in enumerate(text):
                if _is_hidden(character):
                    self.wrong(self.at(shown, position), f"the character {_code(character)} is not allowed")

    def printable(self, text: str, place: Place) -> None:
        for character in text:
            if _is_hidden(character) or character == "\r":
                self.wrong(place, f"the character {_code(character)} is not allowed")
                return

    def count(self, nodes: int, place: Place) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.stop(place, f"a recipe has at most {MAX_NODES:,} values, aliases counted in full")

    def wrong(self, place: Place, message: str) -> None:
        self.mistakes.append(presentable(Mistake(place, message)))
        if len(self.mistakes) >= MAX_MISTAKES:
            raise RecipeError(self.mistakes)

    def stop(self, place: Place, message: str) -> RecipeError:
        """The error that nothing can be read after, with the mistakes found so far."""
        return RecipeError([*self.mistakes, presentable(Mistake(place, message))])

    def at(self, text: str, position: int) -> Place:
        """The place of a character of the text."""
        before = (text[:position] + ".").splitlines()
        return Place(self.source, len(before), len(before[-1]), self.line(len(before) - 1))

    def place(self, start: _Mark, end: _Mark = None) -> Place:
        if start is None:
            return Place(self.source)
        same_line = end is not None and end.line == start.line
        length = end.column - start.column if same_line and end is not None else 1
        return Place(self.source, start.line + 1, start.column + 1, self.line(start.line), max(1, length))

    def line(self, number: int) -> str:
        return self.lines[number][:400].replace("\t", " ") if number < len(self.lines) else ""


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or "not YAML").split())
    hints = {
        "'\\t'": "; indent with spaces",
        "mapping values": "; is a line above it indented otherwise? a text that holds ': ' needs quotes",
    }
    hint = next((hint for sign, hint in hints.items() if sign in problem), "")
    return f"not YAML: {problem}{hint}"


def _is_hidden(character: str) -> bool:
    return (character > "~" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")) or (
        character < " " and character not in "\n\r\t"
    )


def _shown(text: str) -> str:
    """The text, a replacement character for each that cannot be seen or steers a terminal."""
    return "".join("\ufffd" if _is_hidden(character) else character for character in text)


def _code(character: str | int) -> str:
    return f"U+{(character if isinstance(character, int) else ord(character)):04X}"


def _one(place: Place, message: str) -> RecipeError:
    return RecipeError([Mistake(place, message)])
