"""Label stores and score stores, shown: what they are of, and what they hold in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.cli import output
from prunecli.errors import UsageError, shown

# What reads HDF5 is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.store.labels import LabelStore
    from prunecli.store.scores import ScoreStore


def is_store(path: Path) -> bool:
    """Whether a path is that of an HDF5 file, which is no recipe."""
    return path.suffix in (".h5", ".hdf5") and path.is_file()


def print_store(path: Path, *, json: bool) -> None:
    """Print what a label store or a score store holds.

    Raises:
        UsageError: it is a store of something else.
        DamagedRun: it has no record, or is not what its record says.
    """
    from prunecli.store.labels import is_label_store, read_labels
    from prunecli.store.scores import is_score_store, read_scores
    from prunecli.store.sealing import read_record

    found = read_record(path)
    if found and not is_label_store(found[0]) and not is_score_store(found[0]):
        raise UsageError(
            f"{path}: the store of a run's levels; `prunecli show {path.parent}` shows its recipe, and `prunecli "
            f"compare {path.parent}` what it holds"
        )
    if found and is_score_store(found[0]):
        scores = read_scores(path)
        told, lines = _scores_as_json(scores, path), _score_lines(scores)
    else:
        # What has no record is read as the one or the other, to be told so.
        labels, sha256 = read_labels(path)
        told, lines = _labels_as_json(labels, sha256, path), _label_lines(labels, sha256)
    if json:
        output.print_json(told)
        return
    print(shown(f"{path}: {told['kind']} store"))
    for line in lines:
        print(shown(line))


def _label_lines(store: LabelStore, sha256: str) -> Iterator[str]:
    examples, changed = len(store.clean), store.noisy.sum(axis=1).tolist()
    yield f"  title       {store.title}"
    yield f"  dataset     {store.fingerprint}"
    yield f"  sha256      {sha256}"
    yield f"  examples    {examples:,} of {store.classes:,} classes"
    yield f"  seeds       {len(store.seeds):,}"
    rows = [("seed", "changed", "%")]
    for seed, count in zip(store.seeds, changed, strict=True):
        rows.append((str(seed), f"{count:,}", f"{100 * count / examples:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _score_lines(store: ScoreStore) -> Iterator[str]:
    from prunecli.cli.score_table import notes, table

    yield f"  title       {store.title}"
    yield f"  dataset     {store.fingerprint}"
    yield f"  recipe      {store.recipe_digest}"
    yield f"  examples    {len(store.clean):,}"
    noisy = [int((row != store.clean).sum()) for row in store.labels]
    seeds = (f"{seed} ({count:,} labels changed)" for seed, count in zip(store.seeds, noisy, strict=True))
    yield f"  seeds       {', '.join(seeds)}"
    yield from table(store)
    yield from notes(store)


def _labels_as_json(store: LabelStore, sha256: str, path: Path) -> dict[str, Any]:  # Any: what JSON holds
    changed = store.noisy.sum(axis=1).tolist()
    return {
        "schema": "prunecli/labels",
        "version": 1,
        "kind": "label",
        "path": str(path),
        "sha256": sha256,
        "title": store.title,
        "dataset_fingerprint": store.fingerprint,
        "classes": store.classes,
        "examples": len(store.clean),
        "seeds": [{"seed": seed, "changed": count} for seed, count in zip(store.seeds, changed, strict=True)],
    }


def _scores_as_json(store: ScoreStore, path: Path) -> dict[str, Any]:  # Any: what JSON holds
    from prunecli.cli.score_table import as_json

    facts = {"kind": "score", "title": store.title, "dataset_fingerprint": store.fingerprint}
    return {**as_json(store, path), **facts, "scoring_digest": store.scoring_digest}
