"""What stored recipes say of a sweep: the option that was swept, how they prune, the problem that they describe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from prunecli.errors import UsageError
from prunecli.methods import name_of, options_of
from prunecli.store.values import StoredRun
from prunecli.theory import LinearProblem, of_saliencies, of_setting

Recipe = Mapping[str, Any]  # Any: a recipe's values
Path = tuple[str, str]
"""`model` or `data`, and an option of it."""
FEATURES: Path = ("model", "features")
LINEAR = ("linear_gaussian", "linear_gaussian_of", "linear_gaussian_file", "random_features")
"""Data whose option `examples` says how many a model is trained on."""
_SAID = frozenset({"about", "seeds", "keep_weights", "procedure", "observe"})
_TRAINS = frozenset({"train", "solve"})
_MOST = 100_000
"""Features of a stored recipe's problem that theory is asked about."""


@dataclass(frozen=True)
class Way:
    """What tells models of one treatment apart, in words: options of the pruning, and the stages before and after it.

    A model that nothing was done to after the stages before its pruning has no `options` and no `after`.
    """

    options: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The three, in the order of the procedure."""
        return self.before, self.options, self.after

    @property
    def is_solved(self) -> bool:
        """Whether models come from least squares alone."""
        return {*self.before, *self.after} == {"solve"}


@dataclass(frozen=True)
class Pruning:
    """A procedure's one pruning, by a criterion; `pruner` is "" where it never prunes.

    `before` and `after` say whether it trains on that side; the ways are of models that are `dense`, `pruned`, and
    carried on to the end, `again`.
    """

    pruner: str
    before: bool
    after: bool
    dense: Way = Way()
    pruned: Way = Way()
    again: Way = Way()


def pruning_of(recipe: Recipe) -> Pruning | None:
    """How a recipe prunes; None where it prunes more than once, or trains at no time."""
    procedure = recipe.get("procedure")
    stages = procedure if isinstance(procedure, list) else []
    names = [name_of(stage) for stage in stages]
    places = [number for number, name in enumerate(names) if name.startswith("prune")]
    if len(places) > 1 or {"repeat", "prune_during_training"} & set(names) or not _TRAINS & set(names):
        return None
    if not places:
        return Pruning("", before=True, after=False, dense=Way(before=_told_stages(stages)))
    place = places[0]
    before, after = (bool(_TRAINS & set(part)) for part in (names[:place], names[place + 1 :]))
    stage, first, rest = stages[place], _told_stages(stages[:place]), _told_stages(stages[place + 1 :])
    if "rewind" in names[place + 1 :]:
        # Where a point was saved decides what is rewound to.
        rest = (*_told_stages(stages[:place], saves=True), *rest)
    options = _pruning_words(stage)
    pruned = Way(options, first, () if after else rest)
    return Pruning(_pruner_of(stage), before, after, Way(before=first), pruned, Way(options, first, rest))


def _pruner_of(stage: Any) -> str:  # Any: a recipe's value
    options = options_of(stage)
    name = name_of(options.get("criterion", "magnitude"))
    return f"inverted {name}" if options.get("invert") else name


def _pruning_words(stage: Any) -> tuple[str, ...]:  # Any: a recipe's value
    options = dict(options_of(stage))
    chosen = options_of(options.pop("criterion", {}))
    options.pop("invert", None)
    inner = {f"criterion's {name}": value for name, value in chosen.items()}
    return tuple(f"{name} {_short(value)}" for name, value in sorted({**options, **inner}.items()))


def _told_stages(stages: Sequence[Any], *, saves: bool = False) -> tuple[str, ...]:  # Any: a recipe's values
    """Stages in words, without those that change nothing."""
    return tuple(
        " ".join([name_of(stage), *(f"{key} {_short(value)}" for key, value in options.items())])
        for stage in stages
        if name_of(stage) != "observe" and (saves or name_of(stage) != "save")
        for options in [dict(sorted(options_of(stage).items()))]
    )


def _short(value: Any) -> str:  # Any: a recipe's value
    return _json(value) if isinstance(value, (list, Mapping)) else str(value)


def families(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """The runs that are alike but for numbers of model and data, and for their pruning."""
    found: dict[str, list[StoredRun]] = {}
    for run in runs:
        words = {part: _words(run.recipe.get(part)) for part in ("model", "data")}
        rest = {key: value for key, value in run.recipe.items() if key not in _SAID}
        found.setdefault(_json({**rest, **words}), []).append(run)
    return list(found.values())


def swept_by(runs: Sequence[StoredRun]) -> Path:
    """The option of the model, or else of the data, that runs which are alike otherwise differ in."""
    paths = dict.fromkeys(
        (part, name)
        for part in ("model", "data")
        for run in runs
        for name in sorted(options_of(run.recipe.get(part)))
        if value_of(run.recipe, (part, name)) is not None
    )
    for path in paths:
        groups: dict[str, set[float | None]] = {}
        for run in runs:
            groups.setdefault(key_without(run.recipe, path), set()).add(value_of(run.recipe, path))
        if any(len(values) > 1 for values in groups.values()):
            return path
    return FEATURES if FEATURES in paths else next(iter(paths), FEATURES)


def key_without(recipe: Recipe, path: Path) -> str:
    """Equal for recipes that differ by this option, or by their pruning."""
    part, option = path
    rest = {key: value for key, value in recipe.items() if key not in _SAID}
    if isinstance(rest.get(part), Mapping):
        options = {name: value for name, value in options_of(rest[part]).items() if name != option}
        rest[part] = {name_of(rest[part]): options}
    return _json(rest)


def value_of(recipe: Recipe, path: Path) -> float | None:
    """The number that an option is."""
    value = options_of(recipe.get(path[0])).get(path[1])
    return float(value) if _is_number(value) else None


def title_of(recipe: Recipe, path: Path) -> str:
    """`linear on linear_gaussian (examples 300, setting spiked)`, without what was swept."""
    # Test examples play no part in a population risk, nor blocks without a correlation.
    idle = {"test"} if name_of(recipe.get("data")) in LINEAR else set()
    if not options_of(recipe.get("data")).get("correlation") and path[1] != "correlation":
        idle |= {"correlation", "block"}
    return " on ".join(
        _told(recipe.get(part), {path[1]} if part == path[0] else set(), idle if part == "data" else set())
        for part in ("model", "data")
    )


def problem_of(recipe: Recipe) -> LinearProblem | None:
    """The problem of independent features that a recipe describes; None where it describes another.

    What a stranger's recipe says wrong describes none.
    """
    name, options = name_of(recipe.get("data")), options_of(recipe.get("data"))
    noise = options.get("noise", 0.1)
    try:
        if name == "linear_gaussian" and not options.get("correlation"):
            size = options.get("features")
            if not is_count(size) or size > _MOST:
                return None
            problem = of_setting(str(options.get("setting")), size, noise=noise)
            return problem if isinstance(problem, LinearProblem) else None
        if name == "linear_gaussian_of":
            signal = options.get("signal", 1.0)
            return of_saliencies(options["spectrum"], options["saliencies"], noise=noise, signal=signal)
    except (UsageError, TypeError, KeyError):
        return None
    return None


def is_count(value: Any) -> TypeGuard[int]:  # Any: a recipe's value
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> TypeGuard[int | float]:  # Any: a recipe's value
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _words(choice: Any) -> Any:  # Any: a recipe's value
    """A choice with those of its options that are no numbers."""
    options = {name: value for name, value in options_of(choice).items() if value and not _is_number(value)}
    return {name_of(choice): options}


def _told(choice: Any, swept: set[str], idle: set[str]) -> str:  # Any: a recipe's value
    options = {
        name: value
        for name, value in sorted(options_of(choice).items())
        if name not in swept | idle and value is not None and not isinstance(value, (list, dict))
    }
    inside = ", ".join(f"{name} {value}" for name, value in options.items())
    return f"{name_of(choice)} ({inside})" if inside else name_of(choice)


def _json(value: Any) -> str:  # Any: a recipe's values
    return json.dumps(value, sort_keys=True, default=str)
