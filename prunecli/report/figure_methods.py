"""Which runs of a figure share a panel, and which of them are of one method and so of one colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from prunecli.compare import Summary
from prunecli.methods import method
from prunecli.report.words import describe, differences
from prunecli.store.values import StoredRun

LONGEST_TITLE = 160
_OF_A_PANEL = ("model", "data", "labels")
_SAID = frozenset({"about", "seeds", "keep_weights"})


@dataclass(frozen=True)
class Setting:
    """What the runs of a panel share; the words `labels` are short where only they tell panels apart."""

    where: str
    labels: str

    @property
    def title(self) -> str:
        """`lenet_5 on mnist, clean labels`."""
        return f"{self.where}, {self.labels}"


def setting_of(run: StoredRun) -> Setting:
    """The run's model without its options, its data and its labels, in words."""
    recipe = run.recipe
    where = describe({"model": _name(recipe.get("model")), "data": recipe.get("data")})
    return Setting(_short(where), _short(_labels(recipe.get("labels", "clean"))))


def panels_of(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """The runs of one model, data and labels together, in the order in which they are first met."""
    found: dict[str, list[Summary]] = {}
    for summary in summaries:
        recipe = summary.run.recipe
        labels = recipe.get("labels", "clean")
        key = [
            _name(recipe.get("model")),
            recipe.get("data"),
            "clean" if _fraction(labels) == 0 else labels,
        ]
        found.setdefault(_key(key), []).append(summary)
    return list(found.values())


def methods_of(summaries: Sequence[Summary]) -> dict[str, str]:
    """Each run's method by the run's name; runs of one procedure in different panels are of one method.

    Where a panel has two runs whose procedures differ in numbers alone, methods are whole recipes but for model, data
    and labels; and where that does not tell the runs of a panel apart, each run is a method.
    """
    panels = panels_of(summaries)
    keys: tuple[Callable[[Summary], str], ...] = (_shape, _rest, lambda summary: summary.run.name)
    key = next(key for key in keys if all(_apart([key(one) for one in panel]) for panel in panels))
    groups: dict[str, list[StoredRun]] = {}
    for summary in summaries:
        groups.setdefault(key(summary), []).append(summary.run)
    names = _names(list(groups.values()))
    return {run.name: name for name, runs in zip(names, groups.values(), strict=True) for run in runs}


def _names(groups: Sequence[Sequence[StoredRun]]) -> list[str]:
    """What the runs of each group are called together: the beginning of their names, else their procedure."""
    candidates = (
        [_stem(runs) for runs in groups],
        [_stem(runs) or _procedure(runs[0]) for runs in groups],
        [_procedure(runs[0]) for runs in groups],
    )
    fitting = (names for names in candidates if all(names) and _apart(names))
    return next(fitting, [runs[0].name for runs in groups])


def _stem(runs: Sequence[StoredRun]) -> str:
    """`label_noise` of `label_noise-fraction-0-1b2c3d4e` and `label_noise-fraction-0.15-5f6a7b8c`."""
    split = [run.name.removesuffix(f"-{run.digest[:8]}").split("-") for run in runs]
    shared = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, zip(*split, strict=False))]
    swept = {path.rpartition(".")[2] for path in differences([run.recipe for run in runs])}
    # A sweep's points are called by the option and its value.
    if any(len(words) > len(shared) for words in split) and len(shared) > 1 and shared[-1] in swept:
        shared.pop()
    return "-".join(shared)


def _procedure(run: StoredRun) -> str:
    return _short(describe({"procedure": run.recipe.get("procedure", [])}).removeprefix(": "))


def _shape(summary: Summary) -> str:
    return _key([method(summary), _without_numbers(summary.run.recipe.get("procedure", []))])


def _rest(summary: Summary) -> str:
    recipe = summary.run.recipe
    rest = {key: value for key, value in recipe.items() if key not in (*_OF_A_PANEL, *_SAID)}
    return _key([rest, _options(recipe.get("model"))])


def _without_numbers(value: Any) -> Any:  # Any: a recipe's value
    if isinstance(value, Mapping):
        return {key: _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return None if isinstance(value, (int, float)) else value


def _labels(labels: Any) -> str:  # Any: a recipe's value
    fraction = _fraction(labels)
    if labels == "clean" or fraction == 0:
        return "clean labels"
    if fraction is not None:
        return f"{100 * fraction:.6g}% {_name(labels).replace('_', ' ')} label noise"
    return f"labels {describe({'model': labels})}"


def _fraction(labels: Any) -> float | None:  # Any: a recipe's value
    """The fraction of noise, where that is all that is said of it."""
    given = {key: value for key, value in _options(labels).items() if value is not None}
    fraction = given.get("fraction")
    # A stranger's integer may be no float.
    if isinstance(fraction, (int, float)) and 0 <= fraction <= 1 and len(given) == 1:
        return float(fraction)
    return None


def _name(choice: Any) -> str:  # Any: a recipe's value
    return str(next(iter(choice))) if isinstance(choice, Mapping) and len(choice) == 1 else str(choice)


def _options(choice: Any) -> Mapping[str, Any]:  # Any: a recipe's value
    options = next(iter(choice.values())) if isinstance(choice, Mapping) and len(choice) == 1 else {}
    return options if isinstance(options, Mapping) else {}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"


def _key(value: Any) -> str:  # Any: a recipe's value
    return json.dumps(value, sort_keys=True, default=str)


def _apart(keys: Sequence[str]) -> bool:
    return len(set(keys)) == len(keys)
