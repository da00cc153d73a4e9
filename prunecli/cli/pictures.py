"""`prunecli compare --pictures`: the training images that pruning changes most."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecli.cli.groups import examples_of, pairs_of
from prunecli.errors import EnvironmentMissing, RecipeError, StorageError, UsageError, shown

# What reads and computes is imported inside functions, so that `--help` opens at once.
if TYPE_CHECKING:
    from prunecli.changed_examples import ChangedExamples
    from prunecli.compare import Compared
    from prunecli.datasets.values import Dataset
    from prunecli.registry import Choice, Registry
    from prunecli.report.pictures import Pixels
    from prunecli.store.values import StoredRun

PicturesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Draw the training images that change most to a .png file; needs the data."
    ),
]
Top = Annotated[int, typer.Option(min=1, max=200, help="How many images of each kind --pictures draws.")]
LEVEL = "optimal"


@dataclass(frozen=True)
class Sheet:
    """Where to draw, how many images of each kind, at which level, and where the dataset is."""

    file: Path
    top: int = 16
    levels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    data_root: str | None = None
    download: bool = False
    allow_code: bool = False


def checked_sheet(sheet: Sheet) -> Sheet:
    """The sheet, once it is sure that it can be asked for.

    Raises:
        UsageError: it cannot.
    """
    if sheet.file.suffix != ".png":
        raise UsageError(f"--pictures {sheet.file}: should be a .png file")
    if len(sheet.levels) > 1:
        raise UsageError(f"--pictures draws one level; found --level {' --level '.join(sheet.levels)}")
    return sheet


def draw_pictures(compared: Compared, sheet: Sheet) -> str:
    """Write the sheet of pictures; gives what to say of it.

    Raises:
        UsageError: there are several runs.
        NotComparable: the run has no such level, or none to compare with.
        EnvironmentMissing: the dataset is not on this machine, or is another one.
        StorageError: the file cannot be written.
    """
    if len(compared.summaries) != 1:
        names = ", ".join(summary.run.name for summary in compared.summaries)
        raise UsageError(f"--pictures draws one run; found {len(compared.summaries)}: {shown(names)}")
    found, fingerprint = _found(compared, sheet)
    dataset = _dataset(compared.summaries[0].run, sheet)
    if dataset.fingerprint != fingerprint:
        raise EnvironmentMissing(
            f"{compared.summaries[0].run.name}: the dataset here is another one than the run's (fingerprint "
            f"{dataset.fingerprint[:12]} and {fingerprint[:12]}); --data-root DIR names another place"
        )
    from prunecli.report.pictures import draw, png

    found, dataset = _of_a_seed(compared, sheet, found, dataset)
    positions = [one.position for one in (*found.improved, *found.harmed)]
    source = {place: int(dataset.train.labels[place]) for place in positions}
    content = png(draw(found, images_at(dataset, positions), source))
    try:
        sheet.file.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{sheet.file}: cannot be written: {error.strerror}") from None
    own = "inputs" if found.alike else "labels"
    alone = f"; {own} differ between seeds: ranked within seed {found.seeds[0]}"
    if found.alike and not _own_inputs(compared.summaries[0].run, dataset):
        alone = ""
    return f"wrote {sheet.file}: {len(found.improved)} improved and {len(found.harmed)} harmed images{alone}"


def images_at(dataset: Dataset, positions: Sequence[int]) -> dict[int, Pixels]:
    """The images at these positions as they are drawn, without augmentation and normalization."""
    import torch

    from prunecli.datasets.values import Augment, Normalization
    from prunecli.inputs import NoisyImages
    from prunecli.report.pictures import shades

    if not positions:
        return {}
    train = dataset.train.images
    plain = train.images if isinstance(train, NoisyImages) else train
    images = next(iter(train.batches([torch.tensor(positions)], Augment(), torch.device("cpu"))))
    normalize = getattr(plain, "normalize", None)
    if isinstance(normalize, Normalization):
        std, mean = (torch.tensor(one).view(-1, 1, 1) for one in (normalize.std, normalize.mean))
        images = images * std + mean
    return dict(zip(positions, shades(images.numpy()), strict=True))


def _found(compared: Compared, sheet: Sheet) -> tuple[ChangedExamples, str]:
    """The examples, and the fingerprint of their dataset."""
    from prunecli.changed_examples import changed_examples
    from prunecli.subgroups import Side

    (summary,) = compared.summaries
    reference = compared.reference_of(summary)
    [(level, other)] = pairs_of(compared, summary, sheet.levels or (LEVEL,), "draw pictures at")
    mine = examples_of(summary.run, [level], sheet.seeds)
    theirs = examples_of(reference.summary.run, [other], sheet.seeds)
    a, b = Side(summary.run.name, level), Side(reference.summary.run.name, other)
    found = changed_examples((a, mine), (b, theirs), sheet.top)
    return found, mine[found.seeds[0]].fingerprint


def _own_inputs(run: StoredRun, dataset: Dataset) -> bool:
    """Whether each seed's examples have inputs of their own."""
    return dataset.drawn is not None or run.recipe.get("inputs", "clean") != "clean"


def _of_a_seed(
    compared: Compared, sheet: Sheet, found: ChangedExamples, dataset: Dataset
) -> tuple[ChangedExamples, Dataset]:
    """The examples and the dataset of the first seed alone, where seeds have other inputs; else as they are."""
    import torch

    from prunecli.inputs import with_inputs
    from prunecli.registry import inputs

    (summary,) = compared.summaries
    if not _own_inputs(summary.run, dataset):
        return found, dataset
    seed = found.seeds[0]
    found, _ = _found(compared, replace(sheet, seeds=(seed,)))
    choice = _bound(summary.run, sheet, "inputs", inputs, "clean")
    return found, with_inputs(dataset.of(seed, torch.device("cpu")), choice, seed)


def _dataset(run: StoredRun, sheet: Sheet) -> Dataset:
    """The dataset that the run's recipe names; of the recipe no more is read, so that no model need be here."""
    from prunecli.cli.recipes import make_settings
    from prunecli.registry import data
    from prunecli.runs import load_dataset

    choice = _bound(run, sheet, "data", data)
    settings = make_settings(
        run.path.parent,
        "cpu",
        sheet.data_root,
        download=sheet.download,
        source=str(run.path / "recipe.yaml"),
    )
    return load_dataset(choice, settings)


def _bound(run: StoredRun, sheet: Sheet, key: str, registry: Registry, default: str = "") -> Choice:
    """What the run's recipe chooses under a key, made ready to be called."""
    import prunecli.catalog  # noqa: F401  (registers what recipes name)
    from prunecli.recipe.bind import Binder
    from prunecli.recipe.nodes import Table, read
    from prunecli.recipe.writing import inline
    from prunecli.registry import Choice

    if sheet.allow_code:
        # An installed command does not look for modules in the folder that it is called from.
        sys.path.insert(0, str(Path.cwd()))
    source = run.path / "recipe.yaml"
    root, mistakes = read(f"{key}: {inline(run.recipe.get(key, default))}", str(source))
    binder = Binder(allow_code=sheet.allow_code, mistakes=mistakes)
    choice = binder.choice(root.pairs[key], registry) if isinstance(root, Table) and not mistakes else None
    if not isinstance(choice, Choice):
        raise RecipeError(binder.mistakes)
    return choice
