"""What a criterion may ask for by the names of its positional parameters, computed on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from prunecli.errors import UsageError, suggest
from prunecli.gradients import BatchSlopes
from prunecli.lab import Lab
from prunecli.linear_models import feature_deviations, saliencies
from prunecli.masks import Tensors
from prunecli.randomness import key
from prunecli.registry import Choice
from prunecli.state import State

Evidence = Callable[[State, Lab], Any]  # Any: tensors, generators: as the criterion's signature says


def weights(state: State, lab: Lab) -> Tensors:
    """The prunable weights."""
    return {name: state.weights[name] for name in lab.names}


def generator(state: State, lab: Lab) -> torch.Generator:
    """A random generator of this seed and moment."""
    made = torch.Generator()
    made.manual_seed(key("criterion", lab.drawing, state.spent, state.masks.kept))
    return made


def flow(state: State, lab: Lab) -> Tensors:
    """dR/d|w| of the prunable weights, R = sum of the outputs for an input of ones where all parameters and buffers
    are absolute values, in evaluation mode and float64: products over many layers leave float32 (Tanaka et al., 2020).
    """
    everything = {**state.weights, **state.buffers}
    absolute = {
        name: tensor.abs().to(torch.float64) if tensor.is_floating_point() else tensor
        for name, tensor in everything.items()
    }
    asked = {name: absolute[name].requires_grad_() for name in lab.names}
    ones = torch.ones(1, *lab.dataset.task.shape, dtype=torch.float64, device=lab.device)
    training = lab.model.training
    lab.gates.load_(state.masks)
    try:
        flowing = functional_call(lab.model.eval(), absolute, (ones,)).sum()
    finally:
        lab.model.train(training)
    gradients = torch.autograd.grad(flowing, list(asked.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(asked, gradients, strict=True))


def slopes(state: State, lab: Lab) -> BatchSlopes:
    """Derivatives of the training loss, see `criteria.Slopes`."""
    return BatchSlopes(state, lab)


def norms(state: State, lab: Lab) -> dict[str, tuple[Tensor, Tensor]]:
    """The scale and the shift (N,) of the BatchNorm that follows a layer, by the layer's weight."""
    return {
        name: (state.weights[f"{one.norm}.weight"], state.weights[f"{one.norm}.bias"])
        for name, one in lab.filters.items()
        if one.batch_norm
    }


def activations(state: State, _lab: Lab) -> Tensors:
    """The running means (N,) of how much filters fire, see `activations.Firing`.

    Raises:
        UsageError: nothing was trained yet.
    """
    if not state.activations:
        raise UsageError(
            "there are no activations before any training; train first, or choose another criterion"
        )
    return state.activations


EVIDENCE: dict[str, Evidence] = {
    "weights": weights,
    "generator": generator,
    "flow": flow,
    "slopes": slopes,
    "norms": norms,
    "activations": activations,
    "feature_deviations": feature_deviations,
    "saliencies": saliencies,
}


def check_needs(criterion: Choice) -> None:
    """Whether there is all the evidence that a criterion asks for.

    Raises:
        UsageError: there is not.
    """
    for name in criterion.entry.needs:
        if name not in EVIDENCE:
            raise UsageError(f"criterion '{criterion.name}' asks for '{name}'{suggest(name, EVIDENCE)}")


def gather(needs: tuple[str, ...], state: State, lab: Lab) -> list[Any]:  # Any: see Evidence
    """The pieces of evidence of these names, in order."""
    return [EVIDENCE[name](state, lab) for name in needs]
