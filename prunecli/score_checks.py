"""A recipe made ready to be scored: everything that can go wrong is found before anything is trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from prunecli.building import TRAINING, make_targets, settled
from prunecli.datasets.values import Dataset
from prunecli.errors import DamagedRun, EnvironmentMissing, Mistake, StorageError, UsageError
from prunecli.example_evidence import check_scores, over
from prunecli.experiment import Experiment, Prunable, digest
from prunecli.lab import Lab
from prunecli.models.parameters import check_batches
from prunecli.outlook import Outlook
from prunecli.procedure import foresee, levels, unroll
from prunecli.recipe.load import Recipe
from prunecli.registry import Choice
from prunecli.runs import Settings, fitting_lab, load_dataset, run_digest
from prunecli.score_plan import Asked, Piece, Scoring, runs_of, subsets
from prunecli.scores import EPOCH, RUNS
from prunecli.store.run_file import read_run_json
from prunecli.store.scores import LIMIT, MOST_RUNS, clashing, decode_scores, read_scores, size_of
from prunecli.store.sealing import read_file, read_record


def prepare_scoring(
    recipe: Recipe, asked: Asked, settings: Settings, output: Path, *, every_seed: bool = False
) -> Scoring:
    """Everything that can go wrong before training; `every_seed` gives each seed a row, though labels are clean.

    Raises:
        RecipeError: the recipe cannot be carried out.
        EnvironmentMissing: its dataset is not on this machine.
        DamagedRun: the recipe is a run's, which is damaged, or the output is a store that is.
        UsageError: the scores cannot be taken of it, or the output is a file of something else.
    """
    if len(recipe.points) != 1:
        raise UsageError(
            f"{recipe.source}: the recipe's sweep has {len(recipe.points)} points, and a score store is of one; set "
            "what is swept to one value, such as labels.fraction=0.3"
        )
    (point,) = recipe.points
    foresee(point.experiment)
    _check_asked(asked)
    asked = replace(asked, scores=tuple(sorted(asked.scores, key=lambda score: score.name)))
    dataset = load_dataset(point.experiment.data, settings)
    if dataset.task.is_regression:
        message = f"data '{point.experiment.data.name}' has numbers for labels, and scores are of examples of classes"
        raise UsageError(str(Mistake(point.experiment.data.place, message)))
    experiment = settled(point.experiment, dataset.task, settings.device)
    _check_run(recipe, run_digest(experiment, dataset.fingerprint), dataset)
    experiment, pieces = _dense(experiment)
    lab = fitting_lab(experiment, dataset)
    epochs = {score.name: epoch_of(score, asked, point.experiment, lab) for score in asked.scores}
    check_scores(lab, asked.scores, asked.mode)
    seeds = _rows(experiment, dataset, every_seed=every_seed)
    source = Path(recipe.source)
    label = source.resolve().parent.name if _is_run(source) else point.label
    found = Scoring(label, experiment, pieces, dataset, asked, epochs, seeds, settings, output)
    _check_size(found)
    _check_subsets(found, lab)
    check_output(found)
    return found


def epoch_of(score: Choice, asked: Asked, experiment: Experiment, lab: Lab) -> float:
    """The epoch at which, or up to which, a score looks at a run.

    Where none is asked for, a score over epochs or runs takes the whole training, as its paper does; one at an epoch
    the place that the recipe rewinds to, or else the first that it saves, if that is past 0; else a tenth of the
    training, in whole epochs.

    Raises:
        UsageError: it is past the recipe's end, or leaves nothing to look at.
    """
    last = experiment.epochs
    if asked.epoch is None:
        return float(_early(experiment, lab) if over(score) == EPOCH else last)
    if not 0 <= asked.epoch <= last:
        raise UsageError(f"--epoch {asked.epoch:g}: should be from 0 to {last:g}, the recipe's epochs")
    if over(score) != EPOCH and asked.epoch < 1:
        raise UsageError(
            f"--epoch {asked.epoch:g}: score '{score.name}' needs a training of 1 epoch or more; leave it "
            "out, or train longer"
        )
    return float(asked.epoch)


def _dense(experiment: Experiment) -> tuple[Experiment, tuple[Piece, ...]]:
    """The recipe's dense training: what it does before it prunes or rewinds, the masks left full."""
    outlook, pieces = Outlook(experiment.epochs), []
    for stage in levels(experiment.procedure)[0].stages:
        before, foresight = outlook.step, stage.entry.traits.get("foresee")
        outlook = foresight(outlook, **stage.options) if foresight else outlook
        if schedule := stage.options.get("learning_rate"):
            pieces.append(Piece(before, outlook.step, schedule))
    train = Choice("stages", "train", {"epochs": None, "until": None, "learning_rate": None})
    dense = replace(experiment, procedure=[train], observe=[], prunable=Prunable())
    return dense, tuple(pieces)


def _early(experiment: Experiment, lab: Lab) -> float:
    """The epoch that the recipe itself takes for early in training, or a tenth of it."""
    outlook, rewound = Outlook(experiment.epochs, lab.steps_per_epoch), list[float]()
    for stage in unroll(experiment.procedure):
        foresight = stage.entry.traits.get("foresee")
        outlook = foresight(outlook, **stage.options) if foresight else outlook
        if stage.entry.traits.get("rewinds"):
            rewound.append(outlook.step)
    places = [place for place in (*rewound, *outlook.points.values()) if 0 < place <= experiment.epochs]
    return places[0] if places else min(experiment.epochs, max(1, round(experiment.epochs / 10)))


def _rows(experiment: Experiment, dataset: Dataset, *, every_seed: bool) -> tuple[int, ...]:
    """The seeds that have scores of their own: all, or the first where they share examples and labels."""
    seeds = tuple(experiment.seeds)
    own = dataset.drawn is not None or experiment.inputs.name != "clean"
    if every_seed or own or any(bool(make_targets(experiment, seed, dataset).noisy.any()) for seed in seeds):
        return seeds
    return seeds[:1]


def _check_asked(asked: Asked) -> None:
    if not asked.scores:
        raise UsageError("no score is asked for; such as --score el2n")
    names = [score.name for score in asked.scores]
    if clash := clashing(names):
        raise UsageError(f"--score {clash}: is given twice, or has a name that a score store uses itself")
    if not 1 <= asked.runs <= MOST_RUNS:
        raise UsageError(f"--runs-per-seed {asked.runs}: should be from 1 to {MOST_RUNS:,}")
    for score in asked.scores:
        if over(score) != RUNS:
            continue
        if asked.average != "mean":
            raise UsageError(
                f"score '{score.name}' is a difference of means over runs: it needs --average mean"
            )
        runs, fraction = int(score.options["runs"]), float(score.options["fraction"])
        if not 0 < round(fraction * runs) < runs:
            raise UsageError(
                f"score '{score.name}': each example has to be in some of the runs and out of some; a fraction of "
                f"{fraction:g} of {runs} runs comes to {round(fraction * runs)}"
            )


def _is_run(source: Path) -> bool:
    """Whether a recipe is the one that a run's folder keeps."""
    return source.name == "recipe.yaml" and os.path.lexists(source.parent / "run.json")


def _check_run(recipe: Recipe, name: str, dataset: Dataset) -> None:
    """Whether a run's own recipe still means that run."""
    folder = Path(recipe.source).parent
    results = [override for override in recipe.overrides if not override.startswith("seeds=")]
    if not _is_run(Path(recipe.source)):
        return
    content = read_run_json(folder)
    if results or content.get("recipe_digest") == name:
        return
    was, now = content.get("dataset_fingerprint"), dataset.fingerprint
    if was != now:
        raise EnvironmentMissing(
            f"{folder}: its dataset is another one than here (fingerprint {str(was)[:12]}, here {now[:12]}); "
            "--data-root DIR says where the run's own is"
        )
    raise DamagedRun(
        f"{folder}: its recipe.yaml is not the recipe that the run was made by; copy it elsewhere to score it as a "
        "recipe"
    )


def _check_size(scoring: Scoring) -> None:
    runs = {score.name: runs_of(score, scoring.asked) for score in scoring.asked.scores}
    size = size_of(len(scoring.seeds), len(scoring.dataset.train), runs)
    if size > LIMIT:
        raise UsageError(
            f"the scores of {len(scoring.dataset.train):,} examples come to {size:,} bytes, and a store has room for "
            f"{LIMIT:,}; ask for fewer runs, scores or seeds at once"
        )


def _check_subsets(scoring: Scoring, lab: Lab) -> None:
    """Whether every subset of every score over runs can be trained on."""
    chosen = [score for score in scoring.asked.scores if over(score) == RUNS]
    for seed in scoring.seeds if chosen else ():
        training = make_targets(scoring.experiment, seed, scoring.dataset).split == TRAINING
        for score in chosen:
            fewest = int((subsets(seed, score, len(training)) & training).sum(1).min())
            if not fewest:
                raise UsageError(
                    f"score '{score.name}': one of its runs of seed {seed} would train on none of the "
                    f"{int(training.sum())} training examples; give a larger fraction"
                )
            check_batches(scoring.experiment, lab.model, fewest)


def is_complete(scoring: Scoring) -> bool:
    """Whether the output is there, with a record of these scores."""
    found = read_record(scoring.output) if os.path.lexists(scoring.output) else None
    return found is not None and found[0].get("scoring_digest") == digest(scoring.whole)


def check_output(scoring: Scoring) -> None:
    """Whether the output can be written, or is these scores already.

    Raises:
        UsageError: it is a folder, a file of something else, or in a folder that is not there.
        DamagedRun: it is a store of these scores, which is damaged.
        StorageError: it cannot be written.
    """
    path, name = scoring.output, digest(scoring.whole)
    if path.is_dir():
        raise UsageError(f"--output {path}: is a folder; give a file, such as {path / 'scores.h5'}")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"{path.parent}: cannot be written to; choose another place with --output FILE")
    found = read_record(path)
    there = os.path.lexists(path)
    if found is None and not there:
        return
    if found is None:
        _check_unrecorded(path, name)
    elif found[0].get("scoring_digest") != name:
        asked = found[0].get("asked")
        was = asked if isinstance(asked, dict) else {}
        differs = ", ".join(key for key, value in scoring.whole.items() if was.get(key) != value)
        raise UsageError(
            f"{path}: holds other scores ({differs or 'of something else'}), and nothing is overwritten; give another "
            "--output FILE, or move it and its record away"
        )
    elif there:
        read_scores(path)


def _check_unrecorded(path: Path, name: str) -> None:
    """A file without a record may be ours, left by a process that died before it wrote the record."""
    try:
        found = decode_scores(read_file(path), str(path)).scoring_digest
    except DamagedRun:
        found = ""
    if found != name:
        raise UsageError(
            f"{path}: is there already, and nothing is overwritten; give another --output FILE, or move it away"
        )
