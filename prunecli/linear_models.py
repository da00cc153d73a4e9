"""Models that are linear in their parameters: their design matrix, and whether a model is one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from prunecli.building import TRAINING
from prunecli.datasets.values import Augment
from prunecli.errors import UsageError
from prunecli.lab import Lab
from prunecli.masks import Tensors
from prunecli.memory import allocating
from prunecli.models.linear import LinearModel
from prunecli.randomness import key
from prunecli.state import State
from prunecli.task import Task
from prunecli.theory import CorrelatedProblem, LinearProblem, RandomFeatures

Floats = NDArray[np.float64]
_WEIGHTS = "fc.weight"
"""What `model: linear` calls its weights."""
_TOLERANCE = 1e-9
"""Of the largest output, what rounding may set a sum of outputs and the output of a sum apart, in float64."""


def check_linear(what: str, model: nn.Module, task: Task) -> None:
    """Whether a model of a regression is linear in its parameters.

    Raises:
        UsageError: it is not; names `what` asks for it.
    """
    if not task.is_regression:
        raise UsageError(
            f"{what} minimizes squared errors, and these data are told apart as classes; it goes with a regression, "
            "such as data: linear_gaussian"
        )
    first, second = (_drawn(model, number) for number in (1, 2))
    inputs = _standard((8, *task.shape), key("linear", 0))
    one, other = (_outputs(model, parameters, inputs) for parameters in (first, second))
    both = _outputs(model, {name: first[name] + second[name] for name in first}, inputs)
    size = float(torch.stack([one, other]).abs().max())
    if not bool(((one + other - both).abs() <= _TOLERANCE * max(size, 1.0)).all()):
        raise UsageError(
            f"{what} needs a model that is linear in its parameters, and {type(model).__name__.lstrip('_')} is not; "
            "use model: linear"
        )


def check_first_features(
    what: str, model: nn.Module, problem: Any
) -> None:  # Any: data's problems are its own
    """Whether a model is one of the first features of a problem whose risk is known.

    Raises:
        UsageError: it is not; names `what` asks for it.
    """
    if not isinstance(problem, (LinearProblem, CorrelatedProblem, RandomFeatures)):
        raise UsageError(
            f"{what} needs data whose problem is known, such as linear_gaussian or random_features"
        )
    if not isinstance(model, LinearModel) or model.fc.out_features != 1:
        raise UsageError(f"{what} needs a model of the problem's first features: model: linear")


def check_saliencies(what: str, model: nn.Module, problem: Any) -> None:  # Any: as above
    """Whether a model is one of the first features of a problem, and each of these has a saliency.

    Raises:
        UsageError: it is not; names `what` asks for it.
    """
    check_first_features(what, model, problem)
    try:
        problem.first(model.features).saliencies  # noqa: B018  (it is what raises)
    except UsageError as error:
        raise UsageError(
            f"{what} needs features that have saliencies, and these have not: {error}"
        ) from error


def examples(lab: Lab) -> tuple[Tensor, Tensor]:
    """The training examples (n, C, H, W) without augmentation, and their targets (n,), in float64."""
    rows = (lab.targets.split == TRAINING).nonzero().squeeze(1)
    inputs = torch.cat(list(lab.dataset.train.images.batches([rows], Augment(), lab.device)))
    return inputs.double(), lab.targets.used[rows].double()


def design(lab: Lab, state: State, inputs: Tensor) -> Mapping[str, Tensor]:
    """What outputs rise by with each parameter (n, *shape), in float64; that of a weight is its feature."""
    zeros = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in state.weights.items()}
    lab.gates.load_(state.masks)
    training = lab.model.training
    try:
        of_one = jacrev(partial(_output, lab.model.eval(), _doubled(state.buffers)))
        with allocating(f"the design matrix of {len(inputs)} examples"):
            return vmap(of_one, in_dims=(None, 0))(zeros, inputs)  # type: ignore[no-any-return]  # torch leaves it open
    finally:
        lab.model.train(training)


def feature_deviations(state: State, lab: Lab) -> Tensors:
    """The sample's standard deviation of each prunable weight's feature, in float64."""
    inputs, _ = examples(lab)
    columns = design(lab, state, inputs)
    return {name: columns[name].std(0, correction=0) for name in lab.names}


def saliencies(state: State, lab: Lab) -> Tensors:
    """lam_i beta_i^2 of the data's problem as the model sees it, for each of its weights, in float64."""
    check_first_features("what ranks by saliencies", lab.model, lab.dataset.problem)
    shape = state.weights[_WEIGHTS].shape
    known = lab.dataset.problem.first(math.prod(shape)).saliencies
    return {name: torch.tensor(known, dtype=torch.float64).view(shape) for name in lab.names}


def first_weights(state: State) -> Floats:
    """The weights (p,) of the problem's first p features, whether they can be pruned or not."""
    return state.weights[_WEIGHTS].double().flatten().numpy(force=True)


def _output(model: nn.Module, buffers: Tensors, parameters: Tensors, image: Tensor) -> Tensor:
    outputs: Tensor = functional_call(model, {**parameters, **buffers}, (image.unsqueeze(0),))
    return outputs[0, 0]


@torch.no_grad()
def _outputs(model: nn.Module, parameters: Tensors, inputs: Tensor) -> Tensor:
    """Outputs (B, 1) in float64 and evaluation mode."""
    training = model.training
    everything = {**parameters, **_doubled(dict(model.named_buffers()))}
    try:
        outputs: Tensor = functional_call(model.eval(), everything, (inputs,))
    finally:
        model.train(training)
    return outputs


def _drawn(model: nn.Module, number: int) -> dict[str, Tensor]:
    """Parameters of N(0, 1) in float64."""
    return {
        name: _standard(tuple(one.shape), key("linear", number, name))
        for name, one in model.named_parameters()
    }


def _standard(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _doubled(tensors: Tensors) -> dict[str, Tensor]:
    return {name: one.double() if one.is_floating_point() else one for name, one in tensors.items()}
