"""What a two-layer network learns of signal and noise, and how much signal pruning leaves it (Yang et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from prunecli.building import TRAINING
from prunecli.datasets.two_patches import TwoPatches
from prunecli.datasets.values import Augment
from prunecli.errors import UsageError
from prunecli.lab import Lab
from prunecli.models.two_layer import TwoLayer
from prunecli.observers import Arrays
from prunecli.registry import observers
from prunecli.state import State
from prunecli.underway import ALONG

_SEEN = f"{ALONG}signal_noise/"
_GRID = [
    *(0, 1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 160, 220, 320, 450, 640),
    *(900, 1280, 1800, 2560, 3600, 5000),
]


def _rising(epochs: list[int]) -> list[int]:
    if sorted(set(epochs)) != epochs:
        raise ValueError("should rise")
    return epochs


Grid = Annotated[
    list[Annotated[int, Field(ge=0, le=1_000_000)]],
    Field(min_length=1, max_length=10_000),
    AfterValidator(_rising),
]


def _check_problem(model: nn.Module, problem: object) -> None:
    """Raises UsageError unless data and model are of two patches and two layers."""
    wanted = "observer 'signal_noise' looks at the model two_layer on the data two_patches"
    if not isinstance(problem, TwoPatches):
        raise UsageError(f"{wanted}; this data has no signal that is known")
    if not isinstance(model, TwoLayer):
        raise UsageError(f"{wanted}; this model is another")


def _look(state: State, lab: Lab, *, at: list[int]) -> Mapping[str, NDArray[np.float64]] | None:
    """Signal and noise learned (K,), at the epochs that are asked for."""
    epoch, rest = divmod(state.spent, lab.steps_per_epoch)
    if rest or epoch not in at:
        return None
    signal, noise = _learned(state, lab)
    return {"epoch": np.asarray(float(epoch)), "signal": signal, "noise": noise}


def _rows_fit(rows: Mapping[str, Tensor], lab: Lab, *, at: list[int]) -> bool:
    """Whether a stored state's rows are of the epochs that are asked for, each once, and of the problem's classes."""
    if rows.keys() != {"epoch", "signal", "noise"}:
        return False
    epochs, (_, problem) = rows["epoch"], _of(lab)
    shapes = {tuple(rows[name].shape) for name in ("signal", "noise")}
    if epochs.dim() != 1 or shapes != {(len(epochs), problem.classes)}:
        return False
    found = epochs.tolist()
    return found == [epoch for epoch in at if epoch in found]


@observers(along=_look, problem_fits=_check_problem, rows_fit=_rows_fit)
def signal_noise(
    state: State,
    lab: Lab,
    *,
    at: Grid = _GRID,
) -> Arrays:
    """Which neurons keep a class's signal, and how much of signal and noise has been learned (Yang et al., 2023).

    For head j, with K classes in R^d, m neurons a head and density p: `kept` is how many of its neurons keep the
    edge to e_j; `signal` the largest <w_jr, mu e_j> over neurons r; `noise` the largest <w_jr, xi_i> over r, mean
    over the training examples i of label j, xi_i their noise patch. Both are what the activation gets, so they can be
    compared. They are stored (K,) at the epochs `at`, counted over the whole run, NaN where a training had ended
    before; and as metrics `signal_learned` and `noise_learned`, means over heads at the level's end. `p_mild` is
    ln d / m, `p_excessive` 1 / (K m ln d), `classes_kept` how many heads keep their signal in some neuron, and
    `head_without_signal` (1 - p)^m, the probability that one does not.
    """
    model, problem = _of(lab)
    kept, density = _kept(state, lab), state.masks.density
    signal, noise = _learned(state, lab)
    scalars = {
        "p_mild": math.log(problem.dimension) / model.neurons,
        "p_excessive": 1 / (problem.classes * model.neurons * math.log(problem.dimension)),
        "head_without_signal": (1 - density) ** model.neurons,
        "classes_kept": float(np.count_nonzero(kept)),
        "signal_learned": float(signal.mean()),
        "noise_learned": float(noise.mean()),
    }
    grid = np.asarray(at, dtype=np.float64)
    return {
        **{f"metrics/{name}": np.asarray(value) for name, value in scalars.items()},
        "kept": kept,
        "epoch": grid,
        **{name: _on_grid(state, name, grid, problem.classes) for name in ("signal", "noise")},
    }


def _of(lab: Lab) -> tuple[TwoLayer, TwoPatches]:
    model, problem = lab.model, lab.dataset.problem
    assert isinstance(model, TwoLayer)
    assert isinstance(problem, TwoPatches)
    return model, problem


def _kept(state: State, lab: Lab) -> NDArray[np.float64]:
    """How many neurons of each head keep the edge to its class's coordinate (K,)."""
    model, problem = _of(lab)
    mask = state.masks.get("first.weight")
    if mask is None:
        return np.full(problem.classes, float(model.neurons))
    own = _own_coordinates(mask.to(torch.float64), model)
    return np.asarray(own.sum(1).numpy(force=True))


def _own_coordinates(weights: Tensor, model: TwoLayer) -> Tensor:
    """(K, m): of each neuron's row that of its head's coordinate."""
    heads = torch.arange(model.classes, device=weights.device)
    return weights.view(model.classes, model.neurons, -1)[heads, :, heads]


def _learned(state: State, lab: Lab) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signal and noise learned by each head (K,); of a head without training examples the noise is NaN."""
    model, problem = _of(lab)
    weights = state.weights["first.weight"]
    signal = problem.mu * _own_coordinates(weights, model).amax(1)
    rows = (lab.targets.split == TRAINING).nonzero().squeeze(1)
    (images,) = lab.dataset.train.images.batches([rows], Augment(), lab.device)
    noise = problem.noise_in(images, lab.targets.clean[rows].to(images.device))
    heads = lab.targets.used[rows].to(images.device)
    seen = (noise @ weights.T).view(-1, model.classes, model.neurons).amax(2)
    own = seen.gather(1, heads.unsqueeze(1)).squeeze(1).double()
    means = torch.stack([own[heads == head].mean() for head in range(model.classes)])
    return signal.double().numpy(force=True), means.numpy(force=True)


def _on_grid(state: State, name: str, grid: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """What was seen along the level (G, K), NaN where nobody looked."""
    values = np.full((len(grid), classes), np.nan)
    if (epochs := state.observed.get(f"{_SEEN}epoch")) is not None:
        values[np.searchsorted(grid, epochs.numpy())] = state.observed[_SEEN + name].numpy()
    return values
