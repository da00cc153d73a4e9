"""`prunecli compare --groups`: training losses by percentiles of a score."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from prunecli.errors import NotComparable, PrunecliError, UsageError, shown, suggest
from prunecli.expression import LEVELS

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.compare import Compared, Reference, Summary
    from prunecli.store.examples import SeedExamples, SeedTests
    from prunecli.store.scores import ScoreStore
    from prunecli.store.values import StoredRun
    from prunecli.subgroups import Examples, Subgroups

ScoreStores = Annotated[
    list[Path] | None,
    typer.Option(
        "--groups",
        metavar="SCORES",
        help="Also training losses by percentiles of a score store's score; repeatable: a run takes the store "
        "of its labels and model.",
    ),
]
ScoreName = Annotated[str, typer.Option("--score", help="The score to group by; el2n by default.")]
Bins = Annotated[int, typer.Option("--bins", min=1, max=1000, help="How many groups of equal size.")]
AtLevels = Annotated[
    list[str] | None,
    typer.Option(
        "--level",
        metavar="LEVEL",
        help="A level to group at; optimal and sparsest_better by default; repeatable.",
    ),
]
PerSeed = TypeVar("PerSeed", "SeedExamples", "SeedTests")
DEFAULT_SCORE = "el2n"
DEFAULT_LEVELS = ("optimal", "sparsest_better")


@dataclass(frozen=True)
class Grouping:
    """By what to group examples, into how many groups, and which levels of each run to look at."""

    stores: tuple[Path, ...]
    score: str = ""
    bins: int = 20
    levels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def checked_levels(words: Sequence[str]) -> tuple[str, ...]:
    """The levels that `--level` names."""
    for word in words:
        if word not in LEVELS and not (word.isascii() and word.isdigit()):
            raise UsageError(
                f"--level {word}: unknown; known: a number, {', '.join(LEVELS)}{suggest(word, LEVELS)}"
            )
    return tuple(words)


def is_regression(summary: Summary) -> bool:
    """Whether a run's labels are numbers: its losses are squared errors, and nothing is right or wrong."""
    return "test_loss" in summary.run.metrics and "test_error" not in summary.run.metrics


def checked_reference(reference: Reference, summaries: Sequence[Summary], against: str) -> Reference:
    """What runs are set against, once it is sure that their losses are of one kind.

    Raises:
        NotComparable: they are squared errors here and cross-entropies there.
    """
    kind = is_regression(reference.summary)
    if other := next((one for one in summaries if is_regression(one) != kind), None):
        kinds = {True: "squared errors", False: "cross-entropies"}
        raise NotComparable(
            f"--against {against}: the losses of {reference.summary.run.name} are {kinds[kind]}, and those of "
            f"{other.run.name} are {kinds[not kind]}; compare runs on labels of one kind"
        )
    return reference


def pairs_of(
    compared: Compared, summary: Summary, asked: Sequence[str], purpose: str
) -> list[tuple[int, int]]:
    """The run's levels that are asked for, else the default ones, each with the level that it is compared with.

    Raises:
        NotComparable: the run has no such level, or none beside the one that it is compared with.
    """
    if lacking := [word for word in asked if summary.pick(word) is None]:
        last = len(summary.levels) - 1
        raise NotComparable(
            f"{summary.run.name}: --level {lacking[0]}: it has no such level; it has levels 0 to {last}"
        )
    reference, words = compared.reference_of(summary), asked or DEFAULT_LEVELS
    pairs = [
        (level.level, other.level)
        for word in words
        if (level := summary.pick(word)) is not None
        and (other := reference.level(level.level)) is not None
        and (summary.run.path, level.level) != (reference.summary.run.path, other.level)
    ]
    if not pairs:
        raise NotComparable(
            f"{summary.run.name}: has no level to {purpose} ({', '.join(words)}) beside the one that it is "
            "compared with; name one with --level"
        )
    return list(dict.fromkeys(pairs))


def examples_of(run: StoredRun, levels: Sequence[int], seeds: Sequence[int]) -> Examples:
    """The training examples of a run's seeds, or of those of them that are asked for, at these levels."""
    from prunecli.store.examples import read_examples

    return read_levels(run, levels, seeds, read_examples)


def read_levels(
    run: StoredRun,
    levels: Sequence[int],
    seeds: Sequence[int],
    read: Callable[[Path, Sequence[int]], dict[int, PerSeed]],
) -> dict[int, PerSeed]:
    """What `read` gives of the run's seeds, or of those asked for, at these levels: of a series from each member."""
    numbers: dict[Path, dict[int, int]] = {}
    for level in levels:
        folder, number = run.source(level)
        numbers.setdefault(folder, {})[number] = level
    found: dict[int, PerSeed] = {}
    for folder, inside in numbers.items():
        for seed, one in _read_apart(folder, sorted(inside), read).items():
            if not seeds or seed in seeds:
                named = one.numbered(inside)
                found[seed] = found[seed].beside(named) if seed in found else named
    return found


def _read_apart(
    folder: Path, levels: Sequence[int], read: Callable[[Path, Sequence[int]], dict[int, PerSeed]]
) -> dict[int, PerSeed]:
    from prunecli.store.apart import read_apart

    (found,) = read_apart([folder], lambda path: read(path, levels))
    if isinstance(found, PrunecliError):
        raise found
    return found


def with_subgroups(compared: Compared, grouping: Grouping, errors: list[PrunecliError]) -> Compared:
    """The comparison with the groups of each run's levels; what cannot be compared goes to `errors`.

    Raises:
        UsageError, DamagedRun: there is no such score store, or no such score in it.
    """
    for path in grouping.stores:
        _chosen(path, grouping)
    found: list[Subgroups] = []
    for summary in compared.summaries:
        try:
            found += _of_run(compared, summary, grouping)
        except PrunecliError as error:
            errors.append(error)
    return replace(compared, subgroups=tuple(found))


def scores_for(
    run: StoredRun, examples: Examples, grouping: Grouping, *, own_model: bool = False
) -> tuple[ScoreStore, str]:
    """The score store for a run, and the score to group by; of several stores the one of its labels and its model.

    Raises:
        NotComparable: none of several has scores of these labels; under `own_model`, none is of this model.
    """
    from prunecli.methods import name_of

    stores = {path: _read_store(path) for path in grouping.stores}
    title = f"{name_of(run.recipe.get('model'))} on {name_of(run.recipe.get('data'))}"
    own = {path: store for path, store in stores.items() if store.title == title}
    if own_model and not own:
        raise NotComparable(f"{run.name}: no scores of its model: --groups has {_titles(stores.values())}")
    stores = own or stores
    if len(stores) > 1:
        stores = {path: store for path, store in stores.items() if _fits(run, store, examples)}
        if not stores:
            raise NotComparable(
                f"{run.name}: none of {len(grouping.stores)} --groups has scores of its labels"
            )
    path, store = next(iter(stores.items()))
    _check_inputs(run, store)
    return store, _chosen(path, grouping)


def _titles(stores: Iterable[ScoreStore]) -> str:
    return ", ".join(sorted({store.title or "no title" for store in stores}))


def _inputs_of(store: ScoreStore) -> Any:  # Any: a recipe's value
    try:
        return json.loads(store.inputs)
    except ValueError:  # a stranger may have written it
        return store.inputs


def _check_inputs(run: StoredRun, store: ScoreStore) -> None:
    """Raises NotComparable unless the scores are of examples with the run's inputs."""
    from prunecli.methods import equal_key
    from prunecli.report.words import choice_in_words

    mine, theirs = run.recipe.get("inputs", "clean"), _inputs_of(store)
    if equal_key(mine) != equal_key(theirs):
        raise NotComparable(
            f"{run.name}: its inputs are {shown(choice_in_words(mine))}, and the scores are of inputs "
            f"{shown(choice_in_words(theirs))}; score the run's own recipe"
        )


def _fits(run: StoredRun, store: ScoreStore, examples: Examples) -> bool:
    try:
        _check_inputs(run, store)
        for seed, one in examples.items():
            store.row(seed, one.label)
    except NotComparable:
        return False
    return all(one.fingerprint == store.fingerprint for one in examples.values())


@lru_cache(maxsize=64)
def _read_store(path: Path) -> ScoreStore:
    from prunecli.store.scores import read_scores

    return read_scores(path)


def _chosen(path: Path, grouping: Grouping) -> str:
    known = sorted(_read_store(path).scores)
    wanted = grouping.score or (DEFAULT_SCORE if DEFAULT_SCORE in known or len(known) > 1 else known[0])
    if wanted not in known:
        given = f"--score {wanted}" if grouping.score else "name one with --score"
        raise UsageError(f"{path}: {given}: it has {', '.join(known)}{suggest(wanted, known)}")
    return wanted


def _of_run(compared: Compared, summary: Summary, grouping: Grouping) -> Iterator[Subgroups]:
    from prunecli.subgroups import Side, subgroups

    reference = compared.reference_of(summary)
    pairs = pairs_of(compared, summary, grouping.levels, f"group by {_chosen(grouping.stores[0], grouping)}")
    mine = examples_of(summary.run, [level for level, _ in pairs], grouping.seeds)
    theirs = examples_of(reference.summary.run, [other for _, other in pairs], grouping.seeds)
    store, score = scores_for(summary.run, mine, grouping)
    for one, another in pairs:
        a, b = Side(summary.run.name, one), Side(reference.summary.run.name, another)
        yield subgroups((a, mine), (b, theirs), store, score, grouping.bins, compared.confidence)
