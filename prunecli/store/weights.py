"""A level's weights as files that any model library loads: a model's state dict as safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from prunecli.errors import DamagedRun, NewerFormat
from prunecli.masks import Tensors
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import commit, holds, make_folder, record_path, remove, set_aside
from prunecli.store.weight_files import facts_of, metadata_of, read_weights_file, weights_path


def save_weights(run: RunFolder, seed: int, level: int, tensors: Tensors) -> list[str]:
    """Seal a level's weights and their record; gives what was moved to the quarantine.

    What is there already stays where it has the same bytes: a level that is made again is the level of now.

    Raises:
        StorageError: the disk is full, read-only or failing.
        DamagedRun: the folder is a link to another place.
    """
    path = weights_path(run, seed, level)
    make_folder(path.parent)
    for left in path.parent.glob(f".tmp-{path.name}*"):
        remove(left)
    # safetensors refuses tensors that share memory: clone.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    data = save(own, metadata=metadata_of(run, seed, level))
    moved = _cleared(run, seed, level, data)
    commit(path, data, facts_of(run, seed, level))
    return moved


def load_weights(run: RunFolder, seed: int, level: int) -> dict[str, Tensor] | None:
    """A level's weights as they are kept, by their names in the state dict; None where none are kept.

    Raises:
        DamagedRun: they are not what they should be.
    """
    data = read_weights_file(run, seed, level)
    if data is None:
        return None
    try:
        return load(data)
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise DamagedRun(f"{weights_path(run, seed, level)}: not weights ({error})") from error


def state_dict_of(model: nn.Module, weights: Tensors, buffers: Tensors) -> dict[str, Tensor]:
    """The model's state dict with other parameters and buffers in it."""
    given = {**buffers, **weights}
    return {name: given[own] for name, own in _names(model)}


def parts_of(
    model: nn.Module, tensors: Tensors, buffers: Tensors, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and buffers that a state dict of the model holds; `buffers` has those that it leaves out.

    Raises:
        DamagedRun: it is of another model.
    """
    own = dict(_names(model))
    places = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    shapes = {name: (places[name_of].shape, places[name_of].dtype) for name, name_of in own.items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != shapes:
        wrong = min(name for name in {*own, *tensors} if _differs(name, tensors, shapes))
        raise DamagedRun(f"{where}: has other tensors than the recipe's model ('{wrong}')")
    held = {own[name]: tensor for name, tensor in tensors.items()}
    weights = {name: held[name] for name, _ in model.named_parameters()}
    return weights, {name: held.get(name, buffers[name]) for name, _ in model.named_buffers()}


def _differs(name: str, tensors: Tensors, shapes: Mapping[str, tuple[object, object]]) -> bool:
    return name not in tensors or shapes.get(name) != (tensors[name].shape, tensors[name].dtype)


def _names(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Each name in the model's state dict, and the parameter or buffer that it is of: tied ones have several."""
    first: dict[int, str] = {}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        first.setdefault(id(tensor), name)
    for name, value in model.state_dict(keep_vars=True).items():
        # Beside tensors of its own a module may add what no weight is.
        if id(value) in first:
            yield name, first[id(value)]


def _cleared(run: RunFolder, seed: int, level: int, data: bytes) -> list[str]:
    """Move what lies in the place of these bytes and is something else to the quarantine; gives what to say."""
    path = weights_path(run, seed, level)
    try:
        found = read_weights_file(run, seed, level)
        if found == data or (found is None and (not os.path.lexists(path) or holds(path, data))):
            return []
        why = f"{path}: " + (
            "has no record beside it"
            if found is None
            else "of a level that is made again, with other weights"
        )
    except NewerFormat:
        raise
    except DamagedRun as error:
        why = str(error)
    there = [one for one in (record_path(path), path) if os.path.lexists(one)]
    moved = ", ".join(set_aside(one, run.quarantine) for one in there)
    return [f"{why}; moved to quarantine: {moved}"]
