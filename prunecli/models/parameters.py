"""What a model's parameters are: how many, and which of them can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunecli.errors import OutOfMemory, UsageError
from prunecli.experiment import Experiment
from prunecli.initializations import LINEAR_OR_CONVOLUTION
from prunecli.memory import check_fits, in_words, memory


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


def excluded_weights(model: nn.Module, names: Collection[str]) -> int:
    """How many weights of linear and convolution layers are not among the prunable parameters of these names."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(sizes[name] for name in prunable_names(model) if name not in names)


def check_batches(experiment: Experiment, model: nn.Module, examples: int) -> None:
    """Whether the model can be trained in the recipe's batches of so many training examples.

    Raises:
        UsageError: BatchNorm would see one example at a time.
    """
    norms = [name for name, part in model.named_modules() if isinstance(part, _BatchNorm)]
    if norms and 1 in (experiment.batch_size, examples):
        found = "'batch_size' is 1" if experiment.batch_size == 1 else "there is one training example"
        raise UsageError(
            f"{found}, but model '{experiment.model.name}' has BatchNorm ({norms[0]}), which needs batches of "
            "two examples at least; give more, or a model without BatchNorm"
        )


def fitting(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The model that `make` makes, once its parameters are found to fit into memory.

    Raises:
        OutOfMemory: they do not; says how many there are.
    """
    # On the meta device tensors have shapes alone; torch's generator is not to notice.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        sketch = make()
    size = sum(parameter.nbytes for parameter in sketch.parameters())
    check_fits(f"model '{name}' has {count(sketch):,} parameters, which", size)
    return allocated(name, make)


def allocated(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The model that `make` makes; no memory for it is an error that says how much there is.

    Raises:
        OutOfMemory: there is no memory for it.
    """
    try:
        return make()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        first = str(error).strip().partition("\n")[0]
        have = in_words(memory())
        raise OutOfMemory(f"model '{name}' does not fit into this machine's {have}: {first}") from error
