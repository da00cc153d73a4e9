"""A stored run's networks at its levels: from the weights that it keeps, else from states kept to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from prunecli.connectivity import Network
from prunecli.datasets.values import Dataset
from prunecli.determinism import held
from prunecli.errors import DamagedRun, EnvironmentMissing, NotComparable
from prunecli.kept import Kept, misfit
from prunecli.lab import Lab, make_lab
from prunecli.masks import Masks, Tensors
from prunecli.recipe.load import Point
from prunecli.runs import Prepared, Settings, prepare_point
from prunecli.state import State
from prunecli.store.folder import RunFolder
from prunecli.store.level_masks import StoredMasks
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import MOST_OF_A_STATE, read_record, read_sealed
from prunecli.store.states import decode
from prunecli.store.weight_files import weights_path
from prunecli.store.weights import load_weights, parts_of
from prunecli.training import denormals_flushed


def opened(path: Path, point: Point, settings: Settings, datasets: dict[str, Dataset]) -> Prepared:
    """The run in a folder, with the dataset and the model of its recipe; `datasets` are those read so far.

    Raises:
        EnvironmentMissing: its dataset is not on this machine, or what its recipe names here is another run.
    """
    content = read_run_json(path)
    run = prepare_point(point, settings, datasets)
    if run.folder.digest != content["recipe_digest"]:
        was, now = str(content.get("dataset_fingerprint")), run.dataset.fingerprint
        what = f"the dataset here is another one (fingerprint {now[:12]}; its own is {was[:12]})"
        if was == now:
            what = "its recipe.yaml was changed, or code that it names was"
        raise EnvironmentMissing(f"{path}: its networks cannot be built: {what}")
    return replace(run, folder=RunFolder(path, run.folder.digest))


def check_alike(a: Prepared, b: Prepared) -> None:
    """Whether there is a line between the networks of two runs.

    Raises:
        NotComparable: they are of other models or data.
    """
    for what, mine, theirs in (
        ("models", a.experiment.model.plain(), b.experiment.model.plain()),
        ("data", a.experiment.data.plain(), b.experiment.data.plain()),
        ("data", a.dataset.fingerprint[:12], b.dataset.fingerprint[:12]),
    ):
        if mine != theirs:
            raise NotComparable(
                f"{a.folder.path.name} and {b.folder.path.name} are of other {what}: {mine} and {theirs}; a line "
                "needs two networks of one model, and one test set"
            )


def networks(
    run: Prepared, level: int, labs: Mapping[int, Lab], stored: Mapping[int, StoredMasks], settings: Settings
) -> dict[int, Network]:
    """The networks at a level of the seeds that there are labs for; `stored` are its masks by seed.

    Raises:
        EnvironmentMissing: nothing keeps the weights of a seed.
        DamagedRun: what keeps them is damaged, or has not the masks that are stored.
    """
    found = {seed: _network(run, level, lab, stored.get(seed, {}), settings) for seed, lab in labs.items()}
    if lacking := [str(seed) for seed, network in found.items() if network is None]:
        raise EnvironmentMissing(
            f"{run.folder.path}: no weights are kept of level {level}, seed{'s' * (len(lacking) > 1)} "
            f"{', '.join(lacking)}: neither in its weights/ nor as a state in {settings.runs / '.states'} made on such "
            f"a device. A run that is complete is not made again: prunecli prune {run.folder.path} keep_weights="
            f"{_enough(run, level)} --runs OTHER makes one that keeps them"
        )
    return {seed: network for seed, network in found.items() if network is not None}


def labs_of(run: Prepared, seeds: Sequence[int], settings: Settings) -> dict[int, Lab]:
    """By seed what the run's networks are looked at with."""
    return {seed: make_lab(run.experiment, seed, run.dataset, settings.device) for seed in seeds}


@contextmanager
def measuring(lab: Lab) -> Iterator[None]:
    """While the block lasts, arithmetic is as it was when the lab's experiment was carried out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(lab.experiment.threads)
    try:
        with denormals_flushed(), held(lab.experiment.determinism):
            yield
    finally:
        torch.set_num_threads(threads)


def _enough(run: Prepared, level: int) -> str:
    """What `keep_weights` has to be for a level's weights to be kept."""
    return "ends" if level in (0, len(run.foreseen) - 1) else "all"


def _network(run: Prepared, level: int, lab: Lab, stored: StoredMasks, settings: Settings) -> Network | None:
    where = weights_path(run.folder, lab.seed, level)
    tensors = load_weights(run.folder, lab.seed, level)
    if tensors is not None:
        weights, buffers = parts_of(lab.model, tensors, lab.initial().buffers, str(where))
    else:
        state, where = _kept_state(run, level, lab, settings)
        if state is None:
            return None
        weights, buffers = dict(state.weights), dict(state.buffers)
    masks = _checked_masks(weights, stored, lab, str(where))
    device = {
        kind: {name: tensor.to(lab.device) for name, tensor in part.items()}
        for kind, part in (("weights", weights), ("buffers", buffers), ("masks", masks))
    }
    return Network(lab.seed, device["weights"], device["buffers"], Masks(device["masks"], masks.beside))


def _kept_state(run: Prepared, level: int, lab: Lab, settings: Settings) -> tuple[State | None, Path]:
    """The state that is kept of a level's end, if there is one, and where; nothing is moved or said."""
    kept = Kept(run, lab.seed, settings, lambda _message: None)
    name = kept.name(level)
    path = kept.states.path(name, lab.seed)
    found = read_record(path)
    if found is None:
        return None, path
    if found[0].get("prefix") != name or found[0].get("seed") != lab.seed:
        raise DamagedRun(f"{path}: its record belongs to another state")
    state = decode(read_sealed(path, found[0], MOST_OF_A_STATE), str(path))[0]
    if wrong := misfit(state, lab):
        raise DamagedRun(f"{path}: has {wrong}")
    return state, path


def _checked_masks(weights: Tensors, stored: StoredMasks, lab: Lab, where: str) -> Masks:
    """The masks that are stored of a level, once it is sure that the weights are 0 where they drop."""
    full = lab.initial().masks
    for name, kept in stored.items():
        if name not in weights or tuple(weights[name].shape) != kept.shape:
            raise DamagedRun(f"{lab.experiment.model.name} has no weights like those masked as '{name}'")
        if bool(weights[name][~torch.from_numpy(kept)].count_nonzero()):
            raise DamagedRun(
                f"{where}: has weights in '{name}' that are dropped at this level of the run's store"
            )
    found = {name: torch.from_numpy(kept) for name, kept in stored.items()}
    return Masks(
        {**{name: mask.cpu() for name, mask in full.items()}, **found},
        full.beside | (set(found) - set(lab.names)),
    )
