"""What a model's parameters are: how many, and which of them can be pruned."""

from __future__ import annotations

from torch import nn

from prunecli.initializations import LINEAR_OR_CONVOLUTION


def count(model: nn.Module) -> int:
    """How many numbers the model's parameters hold, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def prunable_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the weights of linear and convolution layers, in the model's order, shared ones once."""
    layers = [module for module in model.modules() if isinstance(module, LINEAR_OR_CONVOLUTION)]
    # By identity, since a shared weight goes by its first owner's name, which may be no such layer.
    # Through named_parameters: under a parametrization `layer.weight` is a passing tensor, no parameter.
    own = (dict(layer.named_parameters(recurse=False)) for layer in layers)
    weights = {id(parameters["weight"]) for parameters in own if "weight" in parameters}
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in weights)
