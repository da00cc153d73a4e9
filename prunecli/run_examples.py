"""Training examples left out by what a stored run made of them (Jin et al., 2022, appendices D, E and K)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prunecli.compare import summarize
from prunecli.errors import EnvironmentMissing, PrunecliError, UsageError, suggest
from prunecli.expression import LEVELS
from prunecli.places import PathInRecipe, Places
from prunecli.randomness import bits
from prunecli.registry import Choice, ExamplesChoice, examples
from prunecli.run_references import find_run
from prunecli.store.apart import read_apart
from prunecli.store.examples import SeedExamples, read_examples
from prunecli.store.reading import read_run
from prunecli.store.values import Floats, StoredRun

TRAINING = 0
By = Literal["mean", "seed"]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
LevelOfRun = Annotated[int, Field(ge=0)] | Annotated[str, Field(max_length=40)]
SeedsOfRun = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def pinned(choice: Choice, places: Places) -> Choice:
    """The choice with the run that it refers to, and with what of that run it asks for filled in.

    That is the run's digest, the numbers of the levels that words stand for, whether to go by seed, and the seeds of
    the mean: so a recipe goes on with the examples that it began with when the other run gets more seeds.

    Raises:
        UsageError, EnvironmentMissing, DamagedRun: see `without_improved`; the message begins with the place.
    """
    digest = choice.options.get("digest")
    try:
        path, found = find_run(choice.options["run"], digest, places)
        given = choice.options
        options = _filled({**given, "digest": found}, path) if _is_open(given) else given
        return replace(choice, options=options, found=path)
    except PrunecliError as error:
        if isinstance(error, EnvironmentMissing) and not _is_open(choice.options):
            # What is asked for is known; who reads the recipe only to show it needs no more.
            return choice
        raise type(error)(f"{choice.place}: {error}" if choice.place else str(error)) from error


def pinned_inside(choice: Choice, places: Places) -> Choice:
    """The choice with the one inside it pinned."""
    like = choice.options["like"]
    pin: Callable[[Choice, Places], Choice] | None = like.entry.traits.get("pinned")
    return replace(choice, options={**choice.options, "like": pin(like, places)}) if pin else choice


@dataclass(frozen=True)
class Asked:
    """What is asked of a run: two of its levels, and the seeds whose mean counts; None for each seed's own."""

    run: str
    digest: str | None
    level: int
    against: int
    seeds: tuple[int, ...] | None


@examples(pinned=pinned)
def without_improved(
    labels: Tensor,
    seed: int,
    fingerprint: str,
    found: Path | None,
    *,
    run: PathInRecipe,
    fraction: Share = 0.2,
    level: LevelOfRun = "optimal",
    against: LevelOfRun = "dense",
    by: By | None = None,
    digest: Digest | None = None,
    seeds: SeedsOfRun | None = None,
) -> Tensor:
    """Without the training examples whose loss pruning improves most (Jin et al., 2022, appendix D).

    `run` is a run's folder, its name in --runs, or the label that only one run there has. Left out is the `fraction` of
    its training examples whose loss falls most from the level `against` to the level `level`: of a seed-mean difference
    `by: mean`, or of each seed's own `by: seed`; where the recipe says nothing, by seed where the seeds' labels differ.
    `digest` and `seeds` are filled in when the recipe is read.

    Raises:
        EnvironmentMissing: there is no such run.
        UsageError: it lacks a level or a seed, or is of other data or labels.
    """
    asked = _asked(run, digest, level, against, by, seeds)
    return _without_most(_improvement(asked, labels, seed, fingerprint, found), fraction)


@examples(pinned=pinned)
def without_harmed(
    labels: Tensor,
    seed: int,
    fingerprint: str,
    found: Path | None,
    *,
    run: PathInRecipe,
    fraction: Share = 0.2,
    level: LevelOfRun = "sparsest_better",
    against: LevelOfRun = "dense",
    by: By | None = None,
    digest: Digest | None = None,
    seeds: SeedsOfRun | None = None,
) -> Tensor:
    """Without the training examples whose loss pruning harms most (Jin et al., 2022, appendix K).

    The options are those of `without_improved`.
    """
    asked = _asked(run, digest, level, against, by, seeds)
    return _without_most(-_improvement(asked, labels, seed, fingerprint, found), fraction)


@examples(pinned=pinned)
def without_misclassified(
    labels: Tensor,
    seed: int,
    fingerprint: str,
    found: Path | None,
    *,
    run: PathInRecipe,
    level: LevelOfRun = "optimal",
    by: By | None = None,
    digest: Digest | None = None,
    seeds: SeedsOfRun | None = None,
) -> Tensor:
    """Without the training examples that a run's pruned model misclassifies (Jin et al., 2022, appendix E).

    `by: seed` by the same seed's model; `by: mean` by those of more than half of the seeds. The other options are
    those of `without_improved`.
    """
    asked = _asked(run, digest, level, level, by, seeds)
    rows = _rows(asked, labels, seed, fingerprint, found)
    wrong = np.mean([~one.correct[asked.level] for one in rows.values()], axis=0) > 0.5
    trained = next(iter(rows.values())).split == TRAINING
    return torch.from_numpy(~(wrong & trained))


@examples(pinned=pinned_inside)
def without_random(
    labels: Tensor,
    changeable: Tensor,
    seed: int,
    key: int,
    fingerprint: str,
    *,
    like: ExamplesChoice,
    stratified: bool = False,
) -> Tensor:
    """Without as many random training examples as `like` leaves out, drawn anew for each seed: its control.

    `stratified` draws as many of each class, by the labels used, as `like` leaves out of it.
    """
    evidence = {
        "size": len(labels),
        "labels": labels,
        "changeable": changeable,
        "seed": seed,
        "key": key,
        "fingerprint": fingerprint,
        "found": like.found,
    }
    left_out = ~like(*(evidence[name] for name in like.entry.needs)) & changeable
    kept = torch.ones(len(labels), dtype=torch.bool)
    order = bits(key, torch.arange(len(labels))).argsort(stable=True)
    groups = labels if stratified else torch.zeros_like(labels)
    for group in range(int(groups.max()) + 1):
        inside = (groups == group) & changeable
        members = order[inside[order]]
        kept[members[: int((left_out & inside).sum())]] = False
    return kept


def _improvement(asked: Asked, labels: Tensor, seed: int, fingerprint: str, found: Path | None) -> Floats:
    """How far each example's loss falls (N,), the mean over the seeds that count; NaN where it was not trained on."""
    rows = _rows(asked, labels, seed, fingerprint, found)
    falls = [one.loss[asked.against].astype(np.float64) - one.loss[asked.level] for one in rows.values()]
    trained = next(iter(rows.values())).split == TRAINING
    mean: Floats = np.where(trained, np.mean(falls, axis=0), np.nan)
    if not np.isfinite(mean[trained]).all():
        raise UsageError(f"run '{asked.run}': losses that are NaN or infinite are stored there")
    return mean


def _without_most(values: Floats, fraction: float) -> Tensor:
    """All (N,) but the fraction of those with a value that has the highest ones; ties by position."""
    there = np.isfinite(values).nonzero()[0]
    most = there[np.argsort(-values[there], kind="stable")][: round(fraction * len(there))]
    kept = torch.ones(len(values), dtype=torch.bool)
    kept[torch.from_numpy(most)] = False
    return kept


def _rows(
    asked: Asked, labels: Tensor, seed: int, fingerprint: str, found: Path | None
) -> dict[int, SeedExamples]:
    """What the run made of the examples at the two levels, of each seed that counts."""
    if found is None:
        raise EnvironmentMissing(
            f"the run '{asked.run}' is not on this machine; name the folder that it is in with --runs"
        )
    every = _read(found, (asked.level, asked.against))
    wanted = (seed,) if asked.seeds is None else asked.seeds
    rows = {one: every[one] for one in wanted if one in every and _has(every[one], asked)}
    if lacking := [one for one in wanted if one not in rows]:
        levels = " and ".join(map(str, sorted({asked.level, asked.against})))
        numbers = ", ".join(map(str, sorted(every)))
        raise UsageError(
            f"run '{asked.run}' has no seed {lacking[0]} at level {levels}; it has seeds {numbers}"
        )
    for one, row in rows.items():
        _check_alike(f"run '{asked.run}'", one, row, labels, fingerprint)
    return rows


def _check_alike(run: str, seed: int, row: SeedExamples, labels: Tensor, fingerprint: str) -> None:
    if row.fingerprint != fingerprint:
        raise UsageError(
            f"{run} is of other data (fingerprint {row.fingerprint[:12]}…, not {fingerprint[:12]}…)"
        )
    # What a stranger's run.json says of its data need not be so.
    if len(row.label) != len(labels):
        raise UsageError(
            f"{run} is of other data (seed {seed} has {len(row.label):,} training examples, not {len(labels):,})"
        )
    if different := int((torch.from_numpy(row.label) != labels).sum()):
        raise UsageError(
            f"{run}, seed {seed}: of another label draw ({different:,} of {len(labels):,} labels differ); take the "
            "run's own 'labels' and seeds, and `replicate: 1` for another initialization"
        )


def _has(row: SeedExamples, asked: Asked) -> bool:
    return asked.level in row.loss and asked.against in row.loss


def _read(path: Path, levels: tuple[int, ...]) -> Mapping[int, SeedExamples]:
    store = path / "store.h5"
    return _read_as_of(path, levels, store.stat().st_mtime_ns if store.is_file() else 0)


@lru_cache(maxsize=4)
def _read_as_of(path: Path, levels: tuple[int, ...], _moment: int) -> Mapping[int, SeedExamples]:
    """What is stored; each seed asks for the same."""
    (found,) = read_apart([path], partial(read_examples, levels=sorted(set(levels))))
    if isinstance(found, PrunecliError):
        raise found
    return found


def _asked(
    run: str, digest: str | None, level: int | str, against: int | str, by: By | None, seeds: list[int] | None
) -> Asked:
    if not isinstance(level, int) or not isinstance(against, int):
        raise UsageError(f"run '{run}': what its levels' words stand for is found out when a recipe is read")
    return Asked(run, digest, level, against, None if by == "seed" else tuple(seeds or ()))


def _is_open(options: Mapping[str, Any]) -> bool:  # Any: a choice's options
    """Whether the run still has to say something of what is asked of it."""
    words = any(isinstance(options.get(name), str) for name in ("level", "against"))
    by = options["by"]
    return words or not options["digest"] or by is None or (by == "mean" and not options["seeds"])


def _filled(options: Mapping[str, Any], path: Path) -> dict[str, Any]:  # Any: a choice's options
    """The options with levels as numbers, and with what is left open decided by the run."""
    (run,) = read_apart([path], read_run)
    if isinstance(run, PrunecliError):
        raise run
    if run.status == "running":
        raise UsageError(
            f"run '{options['run']}' is not done yet: what it says of its examples may still change"
        )
    summary = summarize(run)
    filled = dict(options)
    for name in ("level", "against"):
        if name in options:
            level = summary.pick(str(options[name]))
            if level is None:
                raise UsageError(_no_level(run, str(options[name]), len(summary.levels)))
            filled[name] = level.level
    levels = [filled[name] for name in ("level", "against") if name in filled]
    if len(levels) > len(set(levels)):
        raise UsageError(
            f"run '{options['run']}': level '{options['level']}' is level {levels[0]}, and so is "
            f"'{options['against']}': between them nothing changed; name another level"
        )
    rows = _read(path, tuple(levels))
    alike = len({row.label.tobytes() for row in rows.values()}) == 1
    filled["by"] = options["by"] or ("mean" if alike else "seed")
    if filled["by"] == "mean":
        if not alike:
            raise UsageError(f"run '{options['run']}': its seeds have other labels each; rank `by: seed`")
        # Of a run that is not whole, a seed may not have come to the levels.
        there = sorted(seed for seed, row in rows.items() if row.loss.keys() >= set(levels))
        filled["seeds"] = options["seeds"] or there
    elif options["seeds"]:
        raise UsageError("'seeds' are those of the mean; `by: seed` goes by each seed's own model")
    return filled


def _no_level(run: StoredRun, word: str, count: int) -> str:
    if word in LEVELS:
        return f"run '{run.name}' has no level '{word}': none of its levels is; name one of 0 to {count - 1}"
    words = f"{', '.join(LEVELS)}{suggest(word, LEVELS)}"
    return f"run '{run.name}' has no level '{word}'; it has 0 to {count - 1}; words for them are {words}"
