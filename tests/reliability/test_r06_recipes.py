"""R6: whatever text is given as a recipe, what comes out is experiments or an error that a person can read."""

from __future__ import annotations

import json
import random
import resource
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from scale import SHORT, Figures, Scale

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.errors import PrunecliError
from prunecli.experiment import Experiment
from prunecli.procedure import foresee
from prunecli.recipe.library import folder as built_in
from prunecli.recipe.load import load_text
from prunecli.recipe.options import among, among_items
from prunecli.recipe.writing import dump
from prunecli.registry import Registry, options_of

NAME = "R6 recipes"
SECONDS, MEGABYTES = 2.0, 600
"""What a recipe may take: time of the processor, and memory beyond what the libraries take."""

NUMBERS = (
    "0",
    "1",
    "-1",
    "0.5",
    "1e-3",
    "1e308",
    "-1e308",
    "1e400",
    "9223372036854775807",
    "9" * 400,
    "5e-324",
)
SCALARS = (
    *NUMBERS,
    *(
        ".nan",
        "-.inf",
        "0x7fffffffffffffff",
        "0o17",
        "010",
        "1_000",
        "1:30",
        "2024-13-45",
        "no",
        "on",
        "~",
        "true",
    ),
    *(
        '""',
        '"\\e[31m"',
        '"\\u202e"',
        '"\\ud800"',
        "!!int abc",
        "!!python/object/apply:os.system [id]",
        "*a",
        "&a x",
    ),
    *(
        "&a [*a]",
        "<<",
        "...",
        "---",
        "? x",
        "|\n  x",
        ">-",
        "{",
        "[",
        "}",
        "]",
        ",",
        ": ",
        "- ",
        "#",
        "%YAML 1.1",
    ),
    *(
        "python:os:system",
        "timm:hf-hub:a/b",
        "timm:local-dir:/etc",
        "../../etc/passwd",
        "~/x",
        "$HOME",
        "a" * 5000,
    ),
)
BYTES = "\x00\x07\x1b\x7f\x85\x9b\u200b\u202e\u2028\ufeff\ud800\U0010ffff\t\r\n '\"{}[]:,&*!|>%@`#?-"


def check(scale: Scale, folder: Path) -> Figures:
    """Reads fuzzed recipes; gives how many, how many were accepted, and the slowest."""
    del folder
    count = scale.of(4_000, 100_000)
    if scale.name == "long":
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            halves = list(
                pool.map(_read_all, (range(0, count, 2), range(1, count, 2)), (scale.seed, scale.seed))
            )
    else:
        halves = [_read_all(range(count), scale.seed)]
    accepted, slowest = sum(half[0] for half in halves), max(half[1] for half in halves)
    kinds = sum((half[3] for half in halves), Counter[str]())
    assert 0.01 < accepted / count < 0.9, (
        f"{accepted} of {count} recipes accepted: the fuzz is too tame or too wild"
    )
    return {
        "recipes": count,
        "tracebacks": 0,
        "accepted": f"{100 * accepted / count:.1f}%",
        "slowest (ms)": round(1000 * slowest),
        "memory (MB)": round(max(half[2] for half in halves)),
        **{f"of these {kind}": number for kind, number in sorted(kinds.items())},
    }


def _read_all(numbers: range, seed: int) -> tuple[int, float, float, Counter[str]]:
    """Accepted, the slowest in seconds, megabytes beyond the start's, and how many of each kind."""
    recipes = [path.read_text(encoding="utf-8") for path in sorted(built_in().rglob("*.yaml"))]
    accepted, slowest, kinds = 0, 0.0, Counter[str]()
    for library in ("timm", "torchvision"):  # their import takes seconds, once
        load_text(recipes[0], "warm.yaml", [f"model={library}:resnet18"])
    before = _megabytes()
    for number in numbers:
        draw = random.Random(f"R6 {seed} {number}")
        (kind,) = draw.choices(tuple(KINDS), weights=(5, 3, 4, 1))
        text = KINDS[kind](draw, recipes)
        kinds[kind] += 1
        began = time.process_time()
        said = _said(text, draw, _reproduced(seed, number, text))
        accepted += said is None
        assert said != "", f"an error without words; {_reproduced(seed, number, text)}"
        assert _is_plain(said or ""), f"control characters in an error; {_reproduced(seed, number, text)}"
        took = time.process_time() - began
        slowest = max(slowest, took)
        assert took < SECONDS, f"took {took:.1f} s; {_reproduced(seed, number, text)}"
    grown = _megabytes() - before
    assert grown < MEGABYTES, f"{grown:.0f} MB more after {len(numbers)} recipes of seed {seed}"
    return accepted, slowest, grown, kinds


def _said(text: str, draw: random.Random, reproduced: str) -> str | None:
    """What is said against a text, None where it is a recipe; anything but a PrunecliError is a defect."""
    try:
        _read(text, draw)
    except PrunecliError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}; {reproduced}") from error
    return None


def _is_plain(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in text if c != "\n")


def _read(text: str, draw: random.Random) -> None:
    """What `plan` and `check` do with a text before the dataset: read it, foresee every point, tell the rate."""
    overrides = [_override(draw) for _ in range(draw.choice((0,) * 9 + (1, 2)))]
    recipe = load_text(text, "fuzz.yaml", overrides)
    for point in recipe.points:
        levels = foresee(point.experiment)
        assert levels[-1].outlook.spent >= 0
        rate, epochs = point.experiment.learning_rate(point.experiment.epochs), point.experiment.epochs
        assert all(rate(epochs * part / 20) >= 0 for part in range(21))
    if draw.random() < 0.1:
        again = load_text(dump(recipe.points[0].experiment), "again.yaml")
        assert again.points[0].experiment.plain() == recipe.points[0].experiment.plain()


def _mutated(draw: random.Random, recipes: list[str]) -> str:
    """A built-in recipe with tokens swapped, left out, doubled or replaced."""
    tokens = [part for part in _tokens(draw.choice(recipes)) if part]
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 8))):
        place, other = draw.randrange(len(tokens)), draw.randrange(len(tokens))
        match draw.randrange(5):
            case 0:
                tokens[place], tokens[other] = tokens[other], tokens[place]
            case 1 if len(tokens) > 1:
                del tokens[place]
            case 2:
                tokens.insert(place, tokens[other])
            case 3:
                tokens[place] = draw.choice(SCALARS)
            case _:
                numbers = [number for number, token in enumerate(tokens) if token[0].isdigit()] or [place]
                tokens[draw.choice(numbers)] = draw.choice((*NUMBERS, "2", "3", "0.1", "7"))
    return "".join(tokens)


def _noisy(draw: random.Random, recipes: list[str]) -> str:
    """A built-in recipe with characters changed, put in, or cut off."""
    text = list(draw.choice(recipes))
    for _ in range(draw.choice((1, 1, 1, 2, 8, 64))):
        text[draw.randrange(len(text))] = draw.choice((draw.choice(BYTES), chr(draw.randrange(0x110000))))
    return "".join(text[: draw.choice((len(text), len(text), draw.randrange(len(text))))])


def _generated(draw: random.Random, recipes: list[str]) -> str:
    """A recipe by the grammar that the registries are, now and then with a value of another kind."""
    del recipes
    parameters = options_of(Experiment)
    chosen = {name: p for name, p in parameters.items() if p.default is p.empty or draw.random() < 0.2}
    lines = [f"{name}: {_value(draw, p.annotation, 3)}" for name, p in chosen.items()]
    if draw.random() < 0.2:
        path = draw.choice(
            ("epochs", "model.width", "procedure.0.times", "labels.fraction", "nowhere.at.all")
        )
        lines.append(f"sweep: {{{path}: [{', '.join(draw.choices(NUMBERS, k=draw.randrange(1, 5)))}]}}")
    draw.shuffle(lines)
    return "\n".join(lines) + "\n"


def _deep(draw: random.Random, recipes: list[str]) -> str:
    """Nesting, aliases and repetition, far beyond what a recipe needs."""
    many = draw.choice((5, 31, 33, 500, 20_000))
    start = "\n".join(line for line in draw.choice(recipes).splitlines() if not line.startswith("procedure"))
    inner = draw.choice(("[", "{a: ", "- ", "? ", "&a [", "[*a, "))
    turns = draw.choice((3, 28, 300))
    nested = "{repeat: {times: 2, stages: [" * turns + "train" + "]}}" * turns
    bombs = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, draw.choice((4, 30)))]
    return draw.choice(
        (
            inner * many,
            f"{start}\nprocedure: {inner * many}",
            f"{start}\nprocedure: [{nested}]",
            f"{start}\nprocedure: [train, {{repeat: {{times: {many * 5}, stages: [rewind, train]}}}}]",
            f"{start}\nprocedure: [{', '.join(['train'] * min(many, 3000))}]",
            "\n".join(["a0: &a0 lol", *bombs]),
            f"{start}\nsweep: {{epochs: [{', '.join(map(str, range(1, many)))}], seeds: [[0], [1]]}}",
            "\n".join(f"key{n}: {n}" for n in range(many)),
        )
    )


KINDS: dict[str, Callable[[random.Random, list[str]], str]] = {
    "mutated": _mutated,
    "with noise": _noisy,
    "by the grammar": _generated,
    "deep or repeated": _deep,
}


def _value(draw: random.Random, annotation: Any, depth: int) -> str:  # Any: a type
    """A value that an annotation asks for, in YAML's flow style; one in twenty is of another kind."""
    if draw.random() < 0.02 or depth < 0:
        return draw.choice(SCALARS[: len(NUMBERS) + 12])
    if mark := among(annotation):
        return _choice(draw, Registry.all[mark.kind], depth)
    if mark := among_items(annotation):
        return f"[{', '.join(_choice(draw, Registry.all[mark.kind], depth) for _ in range(draw.randrange(1, 4)))}]"
    kinds = [kind for kind in _flat(annotation) if kind is not type(None)] or [int]
    kind = draw.choice(kinds)
    if get_origin(kind) is list:
        return f"[{', '.join(_value(draw, get_args(kind)[0], depth - 1) for _ in range(draw.randrange(4)))}]"
    if get_origin(kind) is dict:
        return f"{{'*': {_value(draw, get_args(kind)[1], depth - 1)}}}"
    if isinstance(kind, str):
        return json.dumps(kind)
    if kind is str:
        return draw.choice(("early", "x", '"a b"', draw.choice(SCALARS[-8:])))
    if kind is bool:
        return draw.choice(("true", "false"))
    whole = str(draw.choice((0, 1, 2, 3, 10, 200)))
    return whole if kind is int else draw.choice((whole, "0.1", "0.5", "1e-4", "0.999"))


def _flat(annotation: Any) -> Iterator[Any]:  # Any: types
    """The plain types and literal words in an annotation."""
    if hasattr(annotation, "__metadata__"):
        yield from _flat(get_args(annotation)[0])
    elif get_origin(annotation) in (list, dict):
        yield annotation
    elif arguments := get_args(annotation):
        for argument in arguments:
            yield from (argument,) if isinstance(argument, str) else _flat(argument)
    else:
        yield annotation


def _choice(draw: random.Random, registry: Registry, depth: int) -> str:
    name = draw.choice(list(registry))
    entry = registry.entries()[list(registry).index(name)]
    if name.endswith(":"):
        name += draw.choice(("resnet18", "no_such", "hf-hub:a/b"))
    given = {
        option: p
        for option, p in entry.options.items()
        if (p.default is p.empty and draw.random() < 0.97) or draw.random() < 0.3
    }
    if not given:
        return f'"{name}"' if ":" in name else name
    options = ", ".join(f"{option}: {_value(draw, p.annotation, depth - 1)}" for option, p in given.items())
    return f'{{"{name}": {{{options}}}}}'


def _override(draw: random.Random) -> str:
    path = draw.choice(
        ("epochs", "model.width", "procedure.1.times", "labels", "a.b.c", "", "seeds", "x" * 3000)
    )
    return draw.choice((f"{path}={draw.choice(SCALARS)}", path, f"{path}={draw.choice(BYTES)}"))


def _tokens(text: str) -> list[str]:
    tokens, word = [], ""
    for character in text:
        if character.isalnum() or character in "_.":
            word += character
        else:
            tokens += [word, character]
            word = ""
    return [*tokens, word]


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _reproduced(seed: int, number: int, text: str) -> str:
    return f"recipe {number} of seed {seed}: {text[:2000]!r}"


def test_every_text_is_read_or_explained(tmp_path: Path) -> None:
    check(SHORT, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_recipes(kind: str) -> None:
    recipes = [path.read_text(encoding="utf-8") for path in sorted(built_in().rglob("*.yaml"))]
    assert KINDS[kind](random.Random("a"), recipes) == KINDS[kind](random.Random("a"), recipes)
