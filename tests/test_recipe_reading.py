"""Recipes: what YAML means here, and what is said of each mistake, where, and with what else."""

from __future__ import annotations

import json
import math
import time
import unicodedata
from pathlib import Path

import jsonschema
import pytest
from conftest import FREE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.errors import Mistake, Place, RecipeError, UsageError
from prunecli.experiment import Experiment
from prunecli.recipe import library
from prunecli.recipe.json_schema import json_schema
from prunecli.recipe.load import Point, load, load_text
from prunecli.recipe.nodes import plain, read
from prunecli.recipe.options import schema_of
from prunecli.recipe.writing import dump, inline, origins
from prunecli.registry import Entry, Registry
from prunecli.registry import plain as plain_value

BASE = """\
about: words
model: lenet_300_100
data: digits
labels: {uniform: {fraction: 0.1}}
optimizer: {sgd: {momentum: 0.9}}
learning_rate: {steps: {start: 0.1, at: [20, 30]}}
epochs: 40
batch_size: 128
seeds: [0, 1]
procedure:
  - train
  - repeat: {times: 2, stages: [{prune: {fraction: 0.2}}, rewind, train]}
"""
RECIPES = FREE
SCHEMA = json_schema()
DEFINED = [entry for registry in Registry.all.values() for entry in registry.entries()]


def experiment(*overrides: str, text: str = BASE) -> Experiment:
    """The single experiment of a text with overrides."""
    (point,) = load_text(text, "r.yaml", overrides).points
    return point.experiment


def said_of(text: str, *overrides: str) -> str:
    """All that is said of a recipe's mistakes."""
    with pytest.raises(RecipeError) as caught:
        load_text(text, "r.yaml", overrides)
    return str(caught.value)


def with_line(number: int, line: str) -> str:
    """The base recipe with one of its lines replaced."""
    lines = BASE.splitlines()
    return "\n".join([*lines[: number - 1], line, *lines[number:]]) + "\n"


# --- Scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        ("1E-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.5", -0.5),
        ("+1.5e+2", 150.0),
        ("3", 3),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("9223372036854775807", 2**63 - 1),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("True", True),
        ("false", False),
        ("tRuE", "tRuE"),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("=", "="),
        ("~", None),
        ("null", None),
        ("", None),
        ("'3'", "3"),
        ('"1e-4"', "1e-4"),
        ("'true'", "true"),
        ("''", ""),
        ("'<<'", "<<"),
        ("! 3", 3),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text, value):
    node, mistakes = read(f"x: {text}\n", "r.yaml")
    (found,) = plain(node).values()
    assert (found, type(found), mistakes) == (value, type(value), [])


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", ".NaN", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["epochs: {}", "x: [1, {}]"])
def test_numbers_that_are_not_finite_are_mistakes(text, place):
    line = place.format(text)
    column = line.index(text) + 1
    assert f"r.yaml:7:{column}: " in said_of(with_line(7, line))


@pytest.mark.parametrize("digits", ["9" * 5000, "9223372036854775808", "-" + "9" * 30, "0x" + "f" * 17])
def test_whole_numbers_beyond_63_bits_are_mistakes(digits):
    said = said_of(with_line(7, f"epochs: {digits}"))
    assert "r.yaml:7:9: a whole number has at most 63 bits" in said
    assert len(said) < 2000


# --- What YAML can do and a recipe cannot

REFUSED = [
    ("epochs: 1\nepochs: 2", "r.yaml:2:1: 'epochs' is given twice (first at 1:1)"),
    ("a: {b: 1, b: 2}", "r.yaml:1:11: 'b' is given twice (first at 1:5)"),
    ("a: &a {b: 1}\n<<: *a", "r.yaml:2:1: merge keys are not read"),
    ("a: !!python/object/apply:os.system [id]", "r.yaml:1:4: the tag"),
    ("a: !!int 3", "r.yaml:1:4: the tag"),
    ("a: !mine 3", "r.yaml:1:4: the tag '!mine' is not read; write the value without it"),
    ("? [1, 2]\n: 3", "r.yaml:1:3: a key is a word, not a list or a mapping"),
    ("{a: 1}: 3", "r.yaml:1:1: a key is a word"),
    ("a: 1\n---\nb: 2", "r.yaml:2:1: a recipe is one document; `---` starts a second"),
    ("a:\n\tb: 1", "r.yaml:2:1: not YAML"),
    ("a: [1, 2", "r.yaml:1:9: not YAML"),
    ("a: b: c", "r.yaml:1:5: not YAML"),
    ('a: "\\UFFFFFFFF"', "not YAML: an escape or a version is out of range"),
    ('a: "\\U00110000"', "not YAML: an escape or a version is out of range"),
    ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "not YAML: an escape or a version is out of range"),
    ("- a\n- b", "r.yaml:1:1: a recipe is a mapping"),
    ("word", "r.yaml:1:1: a recipe is a mapping"),
    ("a: *b", "r.yaml:1:4: the alias '*b' stands inside its own anchor or before it"),
    ("a: &a [1, *a]", "r.yaml:1:11: the alias '*a' stands inside its own anchor"),
    ("a: " + "[" * 500 + "]" * 500, "nested deeper than 32 levels"),
    ("a: " + "{a: " * 500 + "}" * 500, "nested deeper than 32 levels"),
    ("a: '\u202e'", "r.yaml:1:5: the character U+202E is not allowed"),
    ("a: 1  # \u202e", "r.yaml:1:9: the character U+202E is not allowed"),
    ("a: 1\nb: '\x1b[31m'", "r.yaml:2:5: the character U+001B is not allowed"),
    ("a: '\ud800'", "r.yaml:1:5: the character U+D800 is not allowed"),
    ("a: '\uffff'", "r.yaml:1:5: the character U+FFFF is not allowed"),
    ("a: '\x85'", "r.yaml:1:5: the character U+0085 is not allowed"),
    ('a: "\\e[31m"', "r.yaml:1:4: the character U+001B is not allowed"),
    ('a: "\\ud800"', "r.yaml:1:4: the character U+D800 is not allowed"),
    ('a: "\\u202e"', "r.yaml:1:4: the character U+202E is not allowed"),
    ('"\\0": 1', "r.yaml:1:1: the character U+0000 is not allowed"),
    ('a: "\\r"', "r.yaml:1:4: the character U+000D is not allowed"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[said[:50] for _, said in REFUSED])
def test_what_a_recipe_cannot_hold_is_said_with_its_place_and_line(text, said):
    found = said_of(text)
    assert said in found
    (mistake, *_) = [line for line in found.splitlines() if said in line]
    shown = found.splitlines()[found.splitlines().index(mistake) + 1 :]
    number = mistake.split(":")[1]
    assert shown[0].startswith(f"  {number} | ")
    assert shown[1].strip(" |^") == ""
    assert shown[1].endswith("^")
    assert not any(ord(character) < 32 for character in found.replace("\n", ""))
    assert "\u202e" not in found


def laughing(width: int, depth: int, word: str) -> str:
    """Aliases of aliases: width ** depth values from a few lines."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    for level in range(1, depth):
        aliases = ", ".join([word.format(level - 1)] * width)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughing(10, 10, "*a{}"),
        laughing(9, 30, "{{x: *a{}}}"),
        "a: &a [x]\n" + "".join(f"b{number}: *a\n" for number in range(7_000)),
        "a: [" + "x," * 20_001 + "]",
    ],
)
def test_a_recipe_that_explodes_is_refused_at_once(text):
    """In processor time, which other work on the machine does not lengthen; unbounded it would be hours."""
    start = time.process_time()
    assert "a recipe has at most 20,000 values" in said_of(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        BASE + "\n" * 200_000 + "x:\n" + "- a\n" * 9_000,
        BASE + "".join(f"key{number}: 1\n" for number in range(9_000)),
        with_line(2, "model: " + "x" * 200_000),
        BASE + "? " + "epochs" * 30_000 + "\n: 1\n",
        BASE + "#" + "\u202e" * 60_000,
    ],
)
def test_a_large_recipe_is_answered_soon_and_briefly(text):
    start = time.process_time()
    assert len(said_of(text)) < 80_000
    assert time.process_time() - start < 8


def test_aliases_and_a_byte_order_mark_are_read():
    text = BASE.replace("{prune: {fraction: 0.2}}", "&p {prune: {fraction: 0.2}}, *p")
    twice = experiment(text="\ufeff" + text)
    stages = twice.procedure[1].options["stages"]
    assert stages[0] == stages[1]
    assert stages[0] == experiment().procedure[1].options["stages"][0]


def test_an_empty_recipe_is_told_all_that_it_needs():
    said = said_of("# nothing\n")
    assert "r.yaml:1:1: a recipe needs 'model'" in said
    assert "r.yaml:1:1: a recipe needs 'procedure'" in said


# --- Files


def test_a_file_that_cannot_be_a_recipe_is_named(tmp_path):
    large, latin, loop = tmp_path / "large.yaml", tmp_path / "latin.yaml", tmp_path / "loop.yaml"
    large.write_text("#" * 262_145)
    latin.write_bytes(BASE.encode() + "# é".encode("latin-1"))
    loop.symlink_to(loop)
    said = {large: "at most 256 KiB", latin: f"not UTF-8 text (byte {len(BASE) + 2})", loop: "symbolic links"}
    for path, expected in {**said, tmp_path: "is a directory", Path("/dev/zero"): "256 KiB"}.items():
        with pytest.raises(UsageError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert expected in str(caught.value)


def test_a_file_of_just_the_largest_size_is_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(BASE + "#" * (262_144 - len(BASE)))
    assert load(path).points[0].experiment == experiment()


def test_a_recipe_is_found_by_a_built_in_name_a_path_and_a_runs_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built_in = library.folder() / "imp_lrr.yaml"
    for name in ("imp_lrr", "imp_lrr.yaml", "recipes/imp_lrr.yaml"):
        assert library.find(name) == built_in
    run = tmp_path / "runs" / "x-01234567"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(BASE)
    assert load(library.find("runs/x-01234567")).points[0].experiment == experiment()
    mine = tmp_path / "recipes" / "imp_lrr.yaml"
    mine.parent.mkdir()
    mine.write_text(BASE)
    assert library.find("recipes/imp_lrr.yaml") == Path("recipes/imp_lrr.yaml")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("imp_lr", "did you mean 'imp_lrr'?"),
        ("mine.yml", "did you mean 'mine.yaml'?"),
        (".", "a folder that is no run"),
        ("x" * 300, "file name too long"),
    ],
)
def test_a_recipe_that_is_not_there_gets_a_suggestion(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(BASE)
    with pytest.raises(UsageError) as caught:
        library.find(given)
    assert said in str(caught.value)


# --- Binding

WRONG = [
    (1, "abuot: x", 1, "a recipe has no option 'abuot'; did you mean 'about'?"),
    (1, "about: 3", 8, "'about' should be a valid string; found 3"),
    (2, "model: lenet_30_100", 8, "unknown model 'lenet_30_100'; did you mean 'lenet_300_100'?"),
    (2, "model: timm:resnet81", 8, "unknown model 'timm:resnet81'; did you mean 'timm:resnet18'?"),
    (2, "model: torchvision:vgg16_b", 8, "did you mean 'torchvision:vgg16_bn'?"),
    (
        2,
        "model: {lenet_300_100: {widht: 1}}",
        25,
        "model 'lenet_300_100' has no option 'widht'; did you mean",
    ),
    (2, "model: {lenet_300_100: {width: -1}}", 32, "'width' should be greater than 0; found -1"),
    (2, "model: {lenet_300_100: {width: '1'}}", 32, "'width' should be a valid number; found '1'"),
    (2, "model: {lenet_300_100: 3}", 24, "'lenet_300_100' takes options as a mapping, such as {lenet"),
    (2, "model: [lenet_300_100]", 8, "a model is a name, or one name with its options; found a list"),
    (2, "model: 3", 8, "a model is a name, or one name with its options; found 3"),
    (2, "model: {mlp: {}, lenet_5: {}}", 8, "found the keys 'mlp' and 'lenet_5' side by side"),
    (2, "model: python:os:system", 8, "'python:os:system' runs code of its own; give --allow-code"),
    (3, "data: 'digits '", 7, "unknown dataset 'digits '; did you mean 'digits'?"),
    (4, "labels: uniform", 9, "choice of labels 'uniform' needs 'fraction'"),
    (4, "labels: {uniform: {fraction: 1.5}}", 30, "'fraction' should be less than or equal to 1; found 1.5"),
    (6, "learning_rate: {steps: {start: 1, at: [3, x]}}", 43, "'at.1' should be a valid number; found 'x'"),
    (6, "learning_rate: {steps: {start: 1, at: [3, 2]}}", 39, "'at' should rise"),
    (6, "learning_rate: -1", 16, "'value' should be greater than or equal to 0; found -1"),
    (7, "epochs: true", 9, "'epochs' should be a valid number; found True"),
    (7, "epochs: '40'", 9, "'epochs' should be a valid number; found '40'"),
    (7, "epochs: no", 9, "'epochs' should be a valid number; found 'no'"),
    (7, "epochs:", 8, "'epochs' should be a valid number; found nothing"),
    (7, "epochs: [40]", 9, "'epochs' should be a valid number; found a list"),
    (8, "batch_size: 1.5", 13, "'batch_size' should be a valid integer; found 1.5"),
    (8, "batch_size: 0", 13, "'batch_size' should be greater than or equal to 1; found 0"),
    (9, "seeds: []", 8, "'seeds' should have at least 1 item, not 0"),
    (9, "seeds: [0, 0]", 8, "'seeds' should name each seed once"),
    (9, "seeds: [0, -1]", 12, "'seeds.1' should be greater than or equal to 0; found -1"),
    (9, "precision: float16", 12, "'precision' should be 'auto', 'float32' or 'bfloat16'; found 'float16'"),
    (
        9,
        "validation: 1.5",
        13,
        "'validation' should be a fraction below 1 or a whole number of examples; found",
    ),
    (9, "prunable: {exlude: []}", 12, "'prunable' has no option 'exlude'; did you mean 'exclude'?"),
    (9, "prunable: {exclude: [1]}", 22, "'prunable.0' should be a valid string; found 1"),
    (9, "observe: instability", 10, "'observe' is a list, such as ["),
    (11, "  - tran", 5, "unknown stage 'tran'; did you mean 'train'?"),
    (11, "  - prune: {fraction: 0.2, scope: gobal}", 35, "unknown scope 'gobal'; did you mean 'global'?"),
    (11, "  - prune: {fracton: 0.2}", 13, "stage 'prune' has no option 'fracton'; did you mean 'fraction'?"),
    (11, "  - prune: 0.2", 12, "'prune' takes options as a mapping, such as {prune: {"),
]


@pytest.mark.parametrize(("number", "line", "column", "said"), WRONG, ids=[line for _, line, _, _ in WRONG])
def test_a_mistake_names_its_place_what_was_found_and_what_would_work(number, line, column, said):
    found = said_of(with_line(number, line)).splitlines()
    (at,) = [n for n, each in enumerate(found) if f"r.yaml:{number}:{column}: " in each and said in each]
    head = f"  {number} | "
    assert found[at + 1] == head + line
    assert found[at + 2].index("^") == len(head) + column - 1


def test_all_mistakes_come_together_in_reading_order():
    text = BASE + "sweep: {labels.fracton: [0]}\nepochs: 1e999\n"
    for number, line, *_ in (WRONG[0], WRONG[2], WRONG[13]):
        text = text.replace(BASE.splitlines()[number - 1], line)
    said = said_of(text, "batch_size=x", "optimzer=sgd")
    places = [line.partition(": ")[0] for line in said.splitlines() if not line.startswith(" ")]
    recipe = [
        "r.yaml:1:1",
        "r.yaml:2:8",
        "r.yaml:3:7",
        "r.yaml:13:9",
        "r.yaml:14:1",
        "r.yaml:14:9",
    ]
    assert places == [*recipe, "argument:1:12", "argument:1:1"]


def test_a_mistake_that_ends_the_reading_does_not_hide_those_before_it():
    said = said_of("a: !mine 3\nb: [")
    assert said.index("r.yaml:1:4: the tag") < said.index("not YAML")


def test_a_mistake_in_a_shared_node_is_said_once():
    text = BASE.replace("{prune: {fraction: 0.2}}", "&p {prune: {fraction: 2}}, *p, *p")
    assert said_of(text + "sweep: {labels.fraction: [0, 0.1, 0.2]}\n").count("less than or equal to 1") == 1


def repeated(times: int) -> str:
    stage = "train"
    for _ in range(times):
        stage = f"{{repeat: {{times: 1, stages: [{stage}]}}}}"
    return with_line(11, f"  - {stage}")


def test_a_recipe_is_read_if_what_is_kept_of_it_can_be_read():
    deepest = experiment(text=repeated(9))
    assert experiment(text=dump(deepest)) == deepest
    assert "with its defaults the recipe cannot be kept: nested deeper than 32 levels" in said_of(
        repeated(10)
    )
    many = BASE.replace("  - train\n", "  - train\n" * 3_000)
    assert "with its defaults the recipe cannot be kept: a recipe has at most 20,000" in said_of(many)
    assert len(experiment(f"seeds={list(range(9_999))}").seeds) == 9_999


# --- Overrides and sweeps


@pytest.mark.parametrize(
    ("override", "line", "new"),
    [
        ("epochs=3", 7, "epochs: 3"),
        ("epochs=1e-1", 7, "epochs: 0.1"),
        ("model.width=0.5", 2, "model: {lenet_300_100: {width: 0.5}}"),
        ("model.lenet_300_100.width=0.5", 2, "model: {lenet_300_100: {width: 0.5}}"),
        ("model={mlp: {hidden: [3]}}", 2, "model: {mlp: {hidden: [3]}}"),
        ("labels.fraction=0.3", 4, "labels: {uniform: {fraction: 0.3}}"),
        ("labels.uniform.fraction=0.3", 4, "labels: {uniform: {fraction: 0.3}}"),
        ("labels=clean", 4, "labels: clean"),
        ("learning_rate.at.1=25", 6, "learning_rate: {steps: {start: 0.1, at: [20, 25]}}"),
        ("learning_rate=0.1", 6, "learning_rate: {constant: {value: 0.1}}"),
        ("gradient_clipping=", 1, "gradient_clipping: null"),
        ("prunable.exclude=[fc]", 1, "prunable: {exclude: [fc]}"),
        ("procedure.1.times=7", 12, BASE.splitlines()[11].replace("times: 2", "times: 7")),
        ("procedure.1.repeat.times=7", 12, BASE.splitlines()[11].replace("times: 2", "times: 7")),
        ("procedure.1.stages.0.fraction=0.5", 12, BASE.splitlines()[11].replace("0.2", "0.5")),
        ("procedure.1.stages.0.scope=layer", 12, BASE.splitlines()[11].replace("0.2", "0.2, scope: layer")),
        (
            "procedure.1.stages.1.what=weights",
            12,
            BASE.splitlines()[11].replace("rewind", "rewind: {what: weights}"),
        ),
    ],
)
def test_an_override_does_what_the_line_in_the_recipe_would(override, line, new):
    text = with_line(line, new)
    assert experiment(override).plain(results_only=True) == experiment(text=text).plain(results_only=True)
    assert experiment(override).about == "words"


def test_a_value_is_all_that_follows_the_first_equals_sign():
    assert experiment("about=a=b").about == "a=b"
    assert "'about' should be a valid string; found nothing" in said_of(BASE, "about=")


def test_later_overrides_build_on_earlier_ones():
    built = experiment("learning_rate=0.1", "learning_rate.value=0.2", "model=mlp", "model.hidden=[5]")
    assert built.learning_rate.plain() == {"constant": {"value": 0.2}}
    assert built.model.options["hidden"] == [5]


@pytest.mark.parametrize(
    ("override", "place", "said"),
    [
        ("epohcs=3", "1:1", "there is no 'epohcs' to set; did you mean 'epochs'?"),
        ("epochs=x", "1:8", "'epochs' should be a valid number; found 'x'"),
        ("epochs=[1", "1:10", "not YAML"),
        ("epochs=.nan", "1:8", ".nan is not a number that a recipe can hold"),
        ("epochs=!!int 3", "1:8", "the tag"),
        ("about='\u202e'", "1:8", "the character U+202E is not allowed"),
        ("epochs", "1:1", "'epochs' should be KEY=VALUE, such as epochs=10"),
        ("=3", "1:1", "'=3' should be KEY=VALUE"),
        ("model.widht=1", "1:1", "there is no 'widht' to set; did you mean 'width'?"),
        ("model.=1", "1:1", "there is no '' to set"),
        ("model.width.x=1", "1:1", "'width' should be a valid number; found a mapping"),
        ("labels.fraction=2", "1:17", "'fraction' should be less than or equal to 1; found 2"),
        ("model=timm:resnet81", "1:7", "did you mean 'timm:resnet18'?"),
        ("procedure.5=train", "1:1", "'5' should be a place in a list, 0 to 1"),
        ("procedure.-1=train", "1:1", "'-1' should be a place in a list, 0 to 1"),
        ("procedure.²=train", "1:1", "'²' should be a place in a list, 0 to 1"),
        ("procedure." + "1" * 5000 + "=train", "1:1", "should be a place in a list, 0 to 1"),
        ("prunable" + ".a" * 3000 + "=1", "1:1", "a path has at most 32 steps"),
        ("epochs.x=1", "1:1", "'x' leads nowhere: the recipe has a single value there"),
        ("sweep={epochs: [1]}", "1:1", "a sweep is set path by path, such as sweep.labels.fraction=[0, 0.3]"),
    ],
)
def test_a_wrong_override_points_at_the_argument(override, place, said):
    found = said_of(BASE, "about=fine", override).splitlines()
    assert found[0].startswith(f"argument:{place}: ")
    assert said in found[0]
    assert found[1].startswith("  1 | " + override[:60].replace("\u202e", "\ufffd"))


def labels_and(text: str, key: str, *overrides: str) -> dict[str, object]:
    """The labels of a sweep's points, and what each has under a key of the resolved recipe."""
    points = load_text(text, "r.yaml", overrides, stem="r").points
    return {point.label: point.experiment.plain()[key] for point in points}


def test_a_sweep_is_the_product_of_its_lists():
    swept = load_text(
        BASE + "sweep: {labels.fraction: [0, 0.3], model.width: [0.5, 1, 2]}\n", "r.yaml", stem="r"
    )
    pairs = [
        (p.experiment.labels.options["fraction"], p.experiment.model.options["width"]) for p in swept.points
    ]
    assert pairs == [(0, 0.5), (0, 1), (0, 2), (0.3, 0.5), (0.3, 1), (0.3, 2)]
    assert swept.points[0].label == "r-fraction-0-width-0.5"
    for point, (fraction, width) in zip(swept.points, pairs, strict=True):
        assert point.experiment == experiment(f"labels.fraction={fraction}", f"model.width={width}")


def test_an_argument_sets_what_a_path_is_swept_over():
    text = BASE + "sweep: {labels.fraction: [0, 0.3], epochs: [1, 2]}\n"
    swept = labels_and(text, "labels", "sweep.labels.fraction=[0.1]", "epochs=3")
    assert swept == {"r-fraction-0.1": {"uniform": {"fraction": 0.1}}}
    added = labels_and(BASE, "epochs", "sweep.epochs=[4, 5]")
    assert added == {"r-epochs-4": 4, "r-epochs-5": 5}
    for wrong in (
        "sweep.epochs=4",
        "sweep.epochs",
        "sweep.epochs=[]",
        "sweep.epohcs=[1]",
        "sweep.epochs=[x]",
    ):
        with pytest.raises(RecipeError):
            load_text(BASE, "r.yaml", [wrong])


def test_a_sweep_takes_whole_choices_and_paths_with_the_chosen_name():
    swept = labels_and(BASE + "sweep: {labels: [clean, {uniform: {fraction: 0.2}}]}\n", "labels")
    assert swept == {"r-labels-clean": "clean", "r-labels-uniform": {"uniform": {"fraction": 0.2}}}
    long = labels_and(BASE + "sweep: {labels.uniform.fraction: [0.2]}\n", "labels")
    assert list(long.values()) == [{"uniform": {"fraction": 0.2}}]


def test_an_argument_takes_the_place_of_a_swept_path():
    text = BASE + "sweep: {labels.fraction: [0, 0.3], epochs: [1, 2]}\n"
    swept = labels_and(text, "labels", "labels.fraction=0.5")
    assert swept == {f"r-epochs-{epochs}": {"uniform": {"fraction": 0.5}} for epochs in (1, 2)}


@pytest.mark.parametrize(
    ("sweep", "column", "said"),
    [
        ("3", 8, "'sweep' maps paths to lists of values"),
        ("[epochs]", 8, "'sweep' maps paths to lists of values"),
        ("{epochs: 3}", 17, "'sweep' maps paths to lists of values"),
        ("{epochs: []}", 17, "'epochs' has no values to sweep over"),
        ("{epohcs: [1]}", 9, "there is no 'epohcs' to set; did you mean 'epochs'?"),
        ("{labels.fracton: [1]}", 9, "there is no 'fracton' to set; did you mean 'fraction'?"),
        ("{labels.fraction: [0.1, 2]}", 32, "'fraction' should be less than or equal to 1; found 2"),
        ("{epochs: [1, 1.0]}", 8, "two points of the sweep give one experiment: "),
        ("{seeds: [[0], [1]]}", 8, "two points of the sweep give one experiment: "),
        (
            f"{{seeds: {list(range(32))}, epochs: {list(range(1, 33))}}}",
            8,
            "a sweep has at most 1,000 points; this has 1,024",
        ),
    ],
)
def test_a_wrong_sweep_is_said_with_its_place(sweep, column, said):
    found = said_of(BASE + f"sweep: {sweep}\n").splitlines()
    assert any(line.startswith(f"r.yaml:13:{column}: ") and said in line for line in found)


def test_a_long_recipe_is_swept_over_fewer_points():
    text = BASE.replace("  - train\n", "  - train\n" * 5_000) + f"sweep: {{epochs: {list(range(1, 900))}}}\n"
    start = time.process_time()
    assert "points where the recipe is so long; this has 899" in said_of(text)
    assert time.process_time() - start < 8


# --- Origins, and back to YAML


def test_every_value_tells_where_it_comes_from():
    overrides = ("model.width=0.5", "learning_rate=0.1", "procedure.1.times=9")
    (point,) = load_text(BASE, "r.yaml", overrides).points
    found = origins(point.experiment, point.root)
    expected = {
        "about": "line 1",
        "model.lenet_300_100.width": "argument",
        "data": "line 3",
        "labels.uniform.fraction": "line 4",
        "optimizer.sgd.momentum": "line 5",
        "optimizer.sgd.nesterov": "default",
        "learning_rate.constant.value": "argument",
        "threads": "default",
        "seeds.1": "line 9",
        "procedure.0.train.epochs": "default",
        "procedure.1.repeat.times": "argument",
        "procedure.1.repeat.stages.0.prune.fraction": "line 12",
        "procedure.1.repeat.stages.0.prune.scope": "default",
    }
    assert {path: found.get(path) for path in expected} == expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_dumped_recipe_loads_as_the_same_experiment(name):
    for point in load(library.path_of(name)).points:
        assert experiment(text=dump(point.experiment)) == point.experiment


TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")),
        st.sampled_from("\n\t 0123456789.:#-&*!|>'\"%@`{}[],?~=<eExX_"),
    ),
    max_size=40,
)
WORDS = st.sampled_from(
    [
        "no",
        "1e-4",
        "010",
        "~",
        "null",
        "1_000",
        "2024-01-01",
        ".inf",
        "+.inf",
        "<<",
        "=",
        "0x1",
        "- a",
        "a: b",
        "...",
    ]
)
SMALL = st.floats(0, 1000, allow_subnormal=False)
SCHEDULES = st.recursive(
    st.one_of(
        SMALL,
        SMALL.map(lambda start: {"cosine": {"start": start}}),
        st.lists(SMALL, max_size=3, unique=True).map(lambda at: {"steps": {"start": 0.1, "at": sorted(at)}}),
    ),
    lambda inner: st.builds(
        lambda then, over: {"warmup": {"over": over, "then": then}}, inner, st.floats(0.1, 5)
    ),
    max_leaves=3,
)
STAGES = st.recursive(
    st.one_of(
        st.sampled_from(
            ["train", "rewind", {"train": None}, {"rewind": {"to": 2}}, {"save": {"point": "early"}}]
        ),
        st.floats(0, 1).map(lambda fraction: {"prune": {"fraction": fraction}}),
        SCHEDULES.map(lambda rate: {"train": {"epochs": 1, "learning_rate": rate}}),
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda stages: {"repeat": {"times": 2, "stages": stages}}
    ),
    max_leaves=6,
)
CHOSEN = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["lenet_5", {"lenet_300_100": {"width": 0.5}}, {"mlp": {"hidden": [3, 4]}}]),
        "data": st.just("digits"),
        "optimizer": st.sampled_from(["sgd", {"sgd": {"weight_decay": 1e-4}}]),
        "learning_rate": SCHEDULES,
        "epochs": st.one_of(st.integers(1, 10**6), st.floats(1e-300, 1e6)),
        "batch_size": st.integers(1, 10**6),
        "procedure": st.lists(STAGES, min_size=1, max_size=4),
    },
    optional={
        "about": TEXT | WORDS,
        "labels": st.floats(0, 1).map(lambda fraction: {"uniform": {"fraction": fraction}}),
        "validation": st.one_of(st.integers(0, 100), st.floats(0, 0.99)),
        "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4, unique=True),
        "prunable": st.fixed_dictionaries({}, optional={"include": st.lists(TEXT | WORDS, max_size=3)}),
        "gradient_clipping": st.one_of(st.none(), st.floats(0.1, 9)),
    },
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(CHOSEN)
def test_what_is_loaded_is_valid_and_comes_back_from_its_dump(chosen):
    made = experiment(text=json.dumps(chosen, ensure_ascii=False))
    assert experiment(text=dump(made)) == made
    for form in (chosen, made.plain(), plain(read(dump(made), "dump")[0])):
        VALIDATOR.validate(form)


@QUICK
@given(TEXT | WORDS)
@example("a\nb")
@example("\xa0")
@example("-")
def test_a_text_written_in_a_line_is_read_as_it_was(text):
    line = inline(text)
    assert "\n" not in line
    assert plain(read(f"- x:\n    y: {line}  # why\n", "r.yaml", argument="a=b")[0]) == [{"x": {"y": text}}]


def test_what_changes_a_result_changes_the_plain_form_and_comments_do_not():
    assert experiment("epochs=41").plain() != experiment().plain()
    assert experiment(text=BASE + "# words\n") == experiment()
    assert experiment("about=x").plain(results_only=True) == experiment().plain(results_only=True)


# --- The JSON Schema

VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


@pytest.mark.parametrize("name", RECIPES)
def test_a_built_in_recipe_is_valid(name):
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    VALIDATOR.validate(plain(read(library.path_of(name).read_text(encoding="utf-8"), name)[0]))


UNSEEN = (
    "python:",
    "'at' should rise",
    "each seed once",
    "given twice",
    "resnet81",
    "vgg16_b",
    "below 1",
    "'seeds' should name",
)


@pytest.mark.parametrize(
    ("number", "line"),
    [(n, line) for n, line, _, said in WRONG if not any(word in line + said for word in UNSEEN)],
)
def test_a_recipe_that_is_refused_is_not_valid(number, line):
    assert not VALIDATOR.is_valid(plain(read(with_line(number, line), "r.yaml")[0]))
    assert VALIDATOR.is_valid(plain(read(BASE, "r.yaml")[0]))


@pytest.mark.parametrize(
    "missing", ["model", "data", "optimizer", "learning_rate", "epochs", "batch_size", "procedure"]
)
def test_what_a_recipe_needs_the_schema_needs(missing):
    content = plain(read(BASE, "r.yaml")[0])
    assert VALIDATOR.is_valid(content)
    del content[missing]
    assert not VALIDATOR.is_valid(content)
    assert f"a recipe needs '{missing}'" in said_of(json.dumps(content))


def within(kind: str) -> jsonschema.Draft7Validator:
    """The validator of the choices of a kind."""
    return jsonschema.Draft7Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})


@pytest.mark.parametrize("entry", DEFINED, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_registered_function_has_a_schema_that_takes_its_defaults(entry: Entry):
    assert set(schema_of(entry.function).model.model_json_schema().get("properties", {})) == set(
        entry.options
    )
    assert entry.summary
    defaults = {
        name: plain_value(option.default)
        for name, option in entry.options.items()
        if option.default is not option.empty
    }
    name = entry.name + "x" if entry.name.endswith(":") else entry.name
    validator = within(entry.kind)
    alone = len(defaults) == len(entry.options)
    assert validator.is_valid({name: defaults}) == alone
    assert validator.is_valid(name) == alone
    assert not validator.is_valid({name: {**defaults, "unheard_of": 1}})
    assert not validator.is_valid({name: defaults, "unheard_of": {}})


def test_every_reference_of_the_schema_leads_somewhere():
    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    found = references(SCHEMA)
    assert "#/$defs/models" in found
    assert {reference.removeprefix("#/$defs/") for reference in found} <= set(SCHEMA["$defs"])


# --- Fuzz

TOKENS = ["&a ", "*a", "!!int ", "!x ", "<<: ", "? ", ": ", "- ", "[", "]", "{", "}", ",", "'", '"', "|\n", ">\n", "#",
          "---\n", "...\n", "%YAML 1.1\n", "\t", "\\u202e", "\u202e", "\x00", "\x85", "1e999", ".nan", "~", "no", "²",
          "9" * 30, "sweep: {epochs: [1]}\n", "sweep: ", "timm:resnet18", "python:os:system", "\ud800", "\ufeff", "null",
          "repeat: ", "train", "prune", "\r", "\u2028", "é", "%ff", "\\UFFFFFFFF"]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["delete", "double", "insert", "line", "double line"]),
        st.floats(0, 1),
        st.integers(1, 30),
        st.sampled_from(TOKENS) | st.text(max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def read_or_told(text: str, *overrides: str) -> tuple[tuple[Point, ...], tuple[Mistake, ...]]:
    """The points of a text, or its mistakes; any other exception goes through."""
    try:
        return load_text(text, "r.yaml", overrides).points, ()
    except RecipeError as error:
        return (), error.mistakes


def edited(text: str, edits: list[tuple[str, float, int, str]]) -> str:
    """The text after random edits; places are fractions of its length."""
    for kind, where, length, token in edits:
        if kind in ("line", "double line"):
            lines = text.splitlines(keepends=True)
            at = math.floor(where * len(lines))
            lines[at : at + 1] = [] if kind == "line" else lines[at : at + 1] * 2
            text = "".join(lines)
        else:
            at = math.floor(where * len(text))
            middle = {
                "delete": "",
                "double": text[at : at + length] * 2,
                "insert": token + text[at : at + length],
            }
            text = text[:at] + middle[kind] + text[at + length :]
    return text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EDITS)
def test_an_edited_recipe_loads_or_its_mistakes_are_told(edits):
    text = edited((library.folder() / "imp_lrr.yaml").read_text(encoding="utf-8"), edits)
    points, mistakes = read_or_told(text)
    assert bool(points) != bool(mistakes)
    assert all(mistake.place is not None for mistake in mistakes)
    shown = "".join(map(str, mistakes)).replace("\n", "")
    assert not {"Cc", "Cf", "Cs"} & {unicodedata.category(character) for character in shown}
    for point in points:
        assert experiment(text=dump(point.experiment)) == point.experiment


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("epochsmodel.width0123=²:[]{}'\"*&!~ \t\n-"), max_size=30) | st.text(max_size=12)
)
def test_any_argument_is_taken_or_its_mistakes_are_told(override):
    points, mistakes = read_or_told(BASE, override)
    assert bool(points) != bool(mistakes)
    assert all(mistake.place.source == "argument" for mistake in mistakes)


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("../../x", "x"),
        ("-rf", "rf"),
        ("con", "recipe-con"),
        ("LPT1.a", "recipe-LPT1.a"),
        ("a..b", "a.b"),
        ("🙂", "recipe"),
        ("a\nb\x1b", "a_b_"),
        ("a" * 300, "a" * 54),
        ("confetti", "confetti"),
    ],
)
def test_a_label_is_a_folders_name_everywhere(stem: str, label: str) -> None:
    text = library.path_of("imp_lrr").read_text(encoding="utf-8")
    assert load_text(text, "r.yaml", stem=stem).points[0].label == label


def test_a_mistake_shows_nothing_that_steers_a_terminal() -> None:
    mistake = Mistake(Place("a\x1b[31m.yaml", 2, 3, "a\u202ebc", 1), "wrong")
    assert str(mistake).splitlines() == ["a\\x1b[31m.yaml:2:3: wrong", "  2 | a\\u202ebc", "    |        ^"]


def test_a_sweeps_procedures_are_counted_before_they_are_unrolled() -> None:
    text = library.path_of("imp_lrr").read_text(encoding="utf-8")
    times = ", ".join(map(str, range(30_000, 30_010)))
    with pytest.raises(RecipeError, match=r"unroll to 900,1\d\d stages together; at most 100,000"):
        load_text(f"{text}\nsweep: {{procedure.1.times: [{times}]}}\n", "r.yaml")


def test_a_schedule_that_rises_beyond_all_bounds_is_refused() -> None:
    from prunecli.procedure import foresee

    text = library.path_of("imp_lrr").read_text(encoding="utf-8")
    steps = f"learning_rate={{steps: {{start: 1, at: {list(range(1, 61))}, factor: 1e6}}}}"
    with pytest.raises(RecipeError, match="'steps' rises from 1 beyond 1e\\+06"):
        foresee(load_text(text, "r.yaml", [steps]).points[0].experiment)
