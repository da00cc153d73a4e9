"""Labels that a label store has: found where a recipe's paths may lead, and pinned by their SHA-256."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunecli.errors import DamagedRun, EnvironmentMissing, NewerFormat, PrunecliError, UsageError
from prunecli.places import PathInRecipe, Places
from prunecli.registry import Choice, labels
from prunecli.store.labels import LabelStore, copy_of, keep_copy, read_labels
from prunecli.store.sealing import record_path

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def pinned(choice: Choice, places: Places) -> Choice:
    """The choice with the SHA-256 of the store that its path leads to, where the recipe does not give it.

    What a file holds changes results and where it lies does not: so it is the SHA-256 that a run's digest covers,
    and a run goes on with the very labels that it began with: where its path leads nowhere, with the copy of them that
    is kept beside the runs.

    Raises:
        UsageError, EnvironmentMissing, DamagedRun, StorageError: see `file`; the message begins with the place.
    """
    path, known = choice.options["path"], choice.options.get("sha256")
    try:
        found = _located(path, places)
        sha256 = known or _read(path, found)[1]
    except PrunecliError as error:
        if known and (copy := _kept_copy(known, places)):
            return replace(choice, found=copy)
        if known and isinstance(error, EnvironmentMissing):
            # What is asked for is known; who reads the recipe only to show it needs no more.
            return choice
        raise type(error)(f"{choice.place}: {error}" if choice.place else str(error)) from error
    return replace(choice, options={**choice.options, "sha256": sha256}, found=found)


def keep(choice: Choice, runs: Path) -> list[str]:
    """Keep a copy of the choice's label store beside the runs, see `keep_copy`; gives what to say of it."""
    path, sha256 = choice.options["path"], choice.options["sha256"]
    return keep_copy(choice.found or _located(path, Places()), str(sha256), runs)


@labels(draws=False, pinned=pinned, keep=keep)
def file(
    labels: Tensor,
    classes: int,
    seed: int,
    seeds: Sequence[int],
    fingerprint: str,
    found: Path | None,
    *,
    path: PathInRecipe,
    sha256: Sha256 | None = None,
) -> Tensor:
    """The labels that a label store has for the run's seed; `prunecli noise` writes one.

    The store is of the same dataset and has all the run's seeds. Its path is looked for under --data-root,
    PRUNECLI_DATA and ~/.cache/prunecli/data, in the working directory, and beside the recipe. `sha256` is that of
    the store; where a recipe leaves it out it is put in when the recipe is read, so that a run's own recipe asks
    for the labels that it was trained on. A run keeps a copy of them in .labels, beside the runs: it is taken where
    the path of a recipe with a `sha256` leads nowhere.

    Raises:
        EnvironmentMissing: there is no such store, or it is another one than the recipe asks for.
        DamagedRun: it is not what its record says, or no label store.
        UsageError: it is of another dataset, or lacks a seed.
    """
    store, read = _read(path, found or _located(path, Places()))
    if sha256 not in (None, read):
        raise EnvironmentMissing(
            f"labels '{path}': another label store than the recipe asks for (SHA-256 {read[:12]}…, not "
            f"{str(sha256)[:12]}…); get that one, or take this one with labels.sha256=null, which makes another run"
        )
    _check_fits(store, path, labels, classes, fingerprint)
    lacking = [number for number in (seed, *seeds) if number not in store.seeds]
    if lacking:
        raise UsageError(
            f"'{path}' has no labels for seed {lacking[0]}; it has those of {_in_words(store.seeds)}: choose among "
            "them with --seeds, or draw a store of all seeds with `prunecli noise RECIPE --seeds …`"
        )
    return torch.from_numpy(store.used[store.seeds.index(seed)])


def _check_fits(store: LabelStore, path: str, labels: Tensor, classes: int, fingerprint: str) -> None:
    if store.fingerprint != fingerprint:
        raise UsageError(
            f"'{path}' is of another dataset (fingerprint {store.fingerprint[:12]}…; the recipe's data has "
            f"{fingerprint[:12]}…); draw labels for this one with `prunecli noise`"
        )
    if len(store.clean) != len(labels) or store.classes != classes:
        raise UsageError(
            f"'{path}' has {len(store.clean):,} examples of {store.classes} classes; the data has {len(labels):,} "
            f"of {classes}"
        )
    if not torch.equal(torch.from_numpy(store.clean), labels):
        raise UsageError(f"'{path}' has other labels of the source than the data has")


def _read(path: str, found: Path) -> tuple[LabelStore, str]:
    try:
        return read_labels(found)
    except NewerFormat:
        raise
    except DamagedRun as error:
        raise DamagedRun(f"labels '{path}': {error}") from error


def _kept_copy(sha256: str, places: Places) -> Path | None:
    """The copy of a label store that these runs keep, or those that the recipe is one of."""
    folder = places.roots.recipe
    own = [folder.absolute().parent] if folder and os.path.lexists(folder / "run.json") else []
    copies = [copy_of(runs, sha256) for runs in (places.runs, *own)]
    return next((copy for copy in copies if os.path.lexists(record_path(copy))), None)


def _located(path: str, places: Places) -> Path:
    """The recipe's label store, links inside the allowed folders followed."""
    allowed = places.roots
    looked = allowed.paths(path)
    found = next((one for one in looked if os.path.lexists(one)), None)
    if found is None:
        tried = "".join(f"\n  looked for {candidate}" for candidate in looked)
        others = [one / path for one in allowed.allowed if one / path not in looked]
        tried += "".join(
            f"\n  not {one}, which leads out of the folders that a recipe may read: to {os.path.realpath(one)}"
            for one in others
            if os.path.lexists(one)
        )
        raise EnvironmentMissing(
            f"labels '{path}' is not on this machine{tried}"
            "\n  draw it with `prunecli noise`, or give its path, or the folder it is in with --data-root"
        )
    return Path(os.path.realpath(found))


def _in_words(seeds: Sequence[int]) -> str:
    """`0, 1, 2`: the first ten are named."""
    more = f" and {len(seeds) - 10:,} more" if len(seeds) > 10 else ""
    return ", ".join(map(str, seeds[:10])) + more
