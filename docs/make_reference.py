"""Write docs/reference.md and recipes/recipe.schema.json from the code; --check fails when they are stale.

python docs/make_reference.py [--check]
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer

import prunecli.catalog  # noqa: F401  (registers what there is)
from prunecli.claims.papers import claims_of
from prunecli.cli.app import app
from prunecli.experiment import Experiment
from prunecli.recipe.json_schema import json_schema
from prunecli.recipe.options import among, among_items
from prunecli.registry import Choice, Entry, Registry, options_of, plain

ROOT = Path(__file__).parent.parent
PAPERS = {
    "jin2022": "Jin et al. (2022), Pruning's Effect on Generalization Through the Lens of Training and Regularization",
    "bartoldson2020": "Bartoldson et al. (2020), The Generalization-Stability Tradeoff in Neural Network Pruning",
    "yang2023": "Yang et al. (2023), Pruning Before Training May Improve Generalization, Provably",
    "chang2021": "Chang et al. (2021), Provable Benefits of Overparameterization in Model Compression",
}
SCOPES = {
    "clean": "each benchmark without noise",
    "noisy": "each benchmark with noise",
    "all clean": "all benchmarks without noise together",
    "all noisy": "all benchmarks with noise together",
    "family": "each model and data, over noise",
    "setting": "each model, data, training and criterion, with the same fractions of the same layers",
    "noise": "each of these with its runs of one effect",
    "patches": "each sweep over densities on two patches",
    "noisy inputs": "each sweep over densities on inputs with noise",
    "curve": "each sweep over the features of a linear problem without correlation, and pruner",
    "spectrum": "each sweep over the features of a linear problem without correlation",
    "correlated": "each sweep over the correlation of features, and pruner",
    "pruned_features": "each sweep over random features, and pruner but a random one",
    "random": "each sweep over random features with random pruning",
    "network": "each sweep over the width of a network",
}
CLAIMS = """
`prunecli compare RUN… --claims jin2022 --groups SCORES…` sets each claim beside what the runs show: *holds*, *does not
hold*, *undecided* or *cannot be tested*. The first rules were written down before any run; what was changed after a
first reading of runs is told in [the study on digits](jin2022_digits.md). Nothing is tuned to make one hold.

- Runs are sorted into benchmarks by model, data and labels. On each there may be IMP with learning-rate rewinding,
  extended dense training, a width series, other pruning algorithms, and retrainings that leave examples out.
- A claim about a difference holds where the interval over the seed-paired differences (Student's t, 95% unless
  `--confidence` says otherwise) lies wholly on its side; it does not hold where the interval lies wholly on the other;
  else it is undecided. A *match* holds only if the interval lies inside the margin of 1 percentage point of test error.
- A claim that counts benchmarks uses the paper's own rule for each (|mean difference| of at least one sd), and the
  paper's share; where matches could tip it, it is undecided.
- An optimum is the level of the least mean validation error, the dense level among them; without a validation split it
  is chosen by test error, and is optimistic.
- Numbers of a benchmark of the paper are tested on that benchmark alone. With one seed nothing can be tested.
- Subgroups are those of the score store of the same model, data and labels, EL2N unless `--score` says otherwise.

`prunecli compare RUN… --claims bartoldson2020` does so for pruning during training. Its rules were written down
before any run was looked at.

- A run is told from its recipe: `prune_during_training` says target, rate (of the layer that loses most, the fraction
  chosen at an event), effect and batches; with `start: 0, end: 0` it prunes before training; a recipe that trains
  alone does not prune. Runs that prune in another way are left out, and named.
- Stability is the mean over events of 100 (1 - instability), 100 without any; accuracy is `best_test_accuracy`, the
  highest at an epoch's end of the last level, as in the paper. The test set chooses that epoch: the number is
  optimistic, and the more so the more epochs there are. `--table stability` has `late_test_accuracy` and
  `selected_test_accuracy` beside it.
- A difference is decided by Student's interval over the seeds that both runs have, as above. A correlation is
  Pearson's, over seeds of runs as in the paper; its interval is that of 10,000 resamples of these points, and its p
  value that of points which are independent, which seeds of one run are not: both flatter it. `--correlate` tells the
  interval over runs.

`prunecli compare RUN… --claims chang2021` does so for linear problems and random features, of which theory and earlier
trials were known when the rules were written, but no run of the recipes.

- Runs are sorted into sweeps that differ by one option, `model.features` or `data.correlation`, and by their pruning.
- Risks are exact population risks. A difference is one of their logarithms, over the seeds that both models have, and
  is decided by Student's interval as above: near p = n risks have heavy tails, logarithms have not. C9 to C13, of
  networks, are decided by test errors, in points.
- Where the first minimum or the curve's ends are is told by medians over seeds.

`prunecli compare RUN… --claims yang2023` does so for pruning before training. B1, B2, B3 and B5 are checks that were
written down before any run. B6 and B7 are the abstract's sentences, put into rules when runs on two patches had been
seen; B8 to B10 those on images, when one seed of twelve points with noise on the inputs had been.

- Runs that differ in their densities, and in the learning rate that goes with them, are a sweep; a level is a point.
- Accuracy in percent of the test examples; with few seeds that keep a signal a mean says little of the excessive
  regime, so medians over five seeds at least are looked at there.
- B4 has no statement in these checks. The proofs are of upper bounds: the loss itself need not fall.
"""
TITLES = {
    "models": "Models",
    "initializations": "Initializations",
    "data": "Data",
    "examples": "Choices of examples",
    "labels": "Labels",
    "inputs": "Inputs",
    "augmentations": "Augmentations",
    "optimizers": "Optimizers",
    "schedules": "Schedules",
    "stages": "Stages",
    "criteria": "Criteria",
    "scopes": "Scopes",
    "observers": "Observers",
    "scores": "Scores",
}


def reference() -> str:
    """The reference page."""
    return "\n".join(_lines()).rstrip() + "\n"


def schema() -> str:
    """The JSON Schema of recipes."""
    return json.dumps(json_schema(), indent=1) + "\n"


def claims() -> str:
    """The page of the papers' claims and the rules that decide them."""
    return "\n".join(_claims()).rstrip() + "\n"


def _claims() -> Iterator[str]:
    yield "# The papers' claims, and the rules that decide them"
    yield ""
    yield "Made from the code by `python docs/make_reference.py`; a test fails when it is stale."
    yield ""
    yield from CLAIMS.strip().splitlines()
    for paper, title in PAPERS.items():
        yield ""
        yield f"## {title}"
        yield ""
        yield "| claim | the paper says | tested on | it holds where |"
        yield "| --- | --- | --- | --- |"
        for one in claims_of(paper):
            yield f"| {one.number} | {_cell(one.text)} | {SCOPES[one.scope]} | {_cell(one.rule)} |"


def _lines() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the code by `python docs/make_reference.py`; a test fails when it is stale."
    yield ""
    yield "## Commands"
    for command in _commands():
        yield from _command(command)
    yield "## A recipe's keys"
    yield ""
    yield from _options(options_of(Experiment))
    yield "`sweep` maps dotted paths to lists of values: one run a point, lists multiply. Paths with a comma between"
    yield "them take their values together, a list of them each time."
    yield ""
    for kind, registry in Registry.all.items():
        yield f"## {TITLES[kind]}"
        yield ""
        for entry in registry.entries():
            yield from _entry(entry)


def _commands() -> Iterator[typer.core.TyperCommand]:
    group = typer.main.get_command(app)
    context = typer.Context(group)
    for name in group.list_commands(context):
        yield group.get_command(context, name)


def _command(command: typer.core.TyperCommand) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = [f"{p.metavar or p.name.upper()}{'…' if p.nargs == -1 else ''}" for p in arguments]
    yield ""
    yield f"### prunecli {' '.join([command.name, *words])}"
    yield ""
    yield inspect.cleandoc(command.help or "")
    yield ""
    if options:
        yield "| option | meaning |"
        yield "| --- | --- |"
        for option in options:
            names = ", ".join(f"`{name}`" for name in option.opts)
            metavar = f" `{option.metavar}`" if option.metavar else ""
            yield f"| {names}{metavar} | {_cell(option.help or '')} |"
        yield ""


def _entry(entry: Entry) -> Iterator[str]:
    name = f"{entry.name}NAME" if entry.name.endswith(":") else entry.name
    yield f"### {name}"
    yield ""
    yield inspect.getdoc(entry.function) or ""
    yield ""
    if entry.kind == "criteria":
        yield f"Asks for: {', '.join(entry.needs)}."
        yield ""
    yield from _options(entry.options)


def _options(options: dict[str, inspect.Parameter]) -> Iterator[str]:
    if not options:
        return
    yield "| option | values | default |"
    yield "| --- | --- | --- |"
    for name, option in options.items():
        default = "needed" if option.default is option.empty else f"`{_shown(option.default)}`"
        yield f"| `{name}` | {_cell(_values(option.annotation))} | {_cell(default)} |"
    yield ""


def _values(annotation: object) -> str:
    """What an option takes, in words."""
    if mark := among(annotation):
        return f"one of [{TITLES[mark.kind].lower()}](#{TITLES[mark.kind].lower().replace(' ', '-')})"
    if mark := among_items(annotation):
        return f"a list of [{TITLES[mark.kind].lower()}](#{TITLES[mark.kind].lower().replace(' ', '-')})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [_bound(mark) for mark in annotation.__metadata__]
        return _values(arguments[0]) + "".join(bound for bound in bounds if bound)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"a list: {_values(arguments[0])}"
    if origin is dict:
        return f"a mapping from names: {_values(arguments[1])}"
    if arguments:
        return " or ".join(_values(argument) for argument in arguments)
    words = {
        float: "a number",
        int: "a whole number",
        str: "text",
        bool: "`true`, `false`",
        type(None): "`null`",
    }
    return words.get(annotation, "a mapping: `include`, `exclude`, lists of name patterns")


def _bound(mark: object) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [mark, *getattr(mark, "metadata", [])]
    found = [
        f"{signs[name]} {getattr(b, name):g}"
        for b in bounds
        for name in signs
        if getattr(b, name, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def _shown(value: object) -> str:
    if isinstance(value, Choice):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if hasattr(value, "model_dump"):
        return str(plain(value.model_dump()))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages, or check them."""
    pages = {
        ROOT / "docs/reference.md": reference(),
        ROOT / "docs/claims.md": claims(),
        ROOT / "recipes/recipe.schema.json": schema(),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run python docs/make_reference.py", file=sys.stderr)
        raise SystemExit(bool(stale))
    for path in stale:
        path.write_text(pages[path])


if __name__ == "__main__":
    main()
