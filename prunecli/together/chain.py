"""Chains: models whose input passes one layer after another, as the layers that many models of one shape share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from prunecli.errors import Mistake, UsageError
from prunecli.experiment import Experiment
from prunecli.masks import Tensors
from prunecli.training import Manner

Layer = Callable[[Tensor, Tensors], Tensor]
"""From values (K, B, ...) and the parameters (K, ...) of K models to values (K, B, ...)."""

ELEMENTWISE = (
    nn.Identity,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
)
FUNCTIONS = (
    *(torch.relu, torch.tanh, torch.sigmoid, functional.relu, functional.relu6, functional.leaky_relu),
    *(functional.elu, functional.selu, functional.gelu, functional.silu, functional.mish),
    *(functional.softplus, functional.tanh, functional.sigmoid),
)
METHODS = ("relu", "tanh", "sigmoid")
WORKS = (
    "'batched_seeds' takes a chain of nn.Flatten, nn.Linear and activations without parameters, such as the models "
    "lenet_300_100 and mlp; another model trains with 'batched_seeds: false'"
)


def check_together(experiment: Experiment, model: nn.Module, manner: Manner) -> None:
    """Whether the seeds of an experiment can train together.

    Raises:
        UsageError: they cannot, and what would work.
    """
    try:
        chain_of(model)
    except UsageError as error:
        message = f"model '{experiment.model.name}': {error}"
        raise UsageError(str(Mistake(experiment.model.place, message))) from error
    if manner.autocast is not None:
        raise UsageError("'batched_seeds' trains with 'precision: float32' alone; set one of the two so")


def chain_of(model: nn.Module) -> list[Layer]:
    """The model's layers in their order.

    Raises:
        UsageError: it is no chain of layers that are known here; names the first other one.
    """
    for name, part in model.named_modules():
        if _has_hooks(part):
            where = f"layer '{name}'" if name else "it"
            raise UsageError(f"{where} has hooks, which see one model at a time; {WORKS}")
        if fx.Tracer().is_leaf_module(part, name) and not _is_known(part):
            raise UsageError(f"layer '{name}' is {type(part).__qualname__}; {WORKS}")
    layers, flat = list[Layer](), False
    for node in _nodes(model):
        if _is_flatten(node, model):
            layers.append(lambda values, _parameters: values.flatten(2))
            flat = True
            continue
        layer = _layer(node, model)
        if layer is None or (_is_linear(node, model) and not flat):
            raise UsageError(f"{_named(node, model)}{'' if layer is None else ' before nn.Flatten'}; {WORKS}")
        layers.append(layer)
    return layers


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _is_known(module: nn.Module) -> bool:
    """Whether a module can be a layer here, or holds layers."""
    return type(module) in (nn.Linear, nn.Flatten, *ELEMENTWISE) or any(True for _ in module.children())


def _nodes(model: nn.Module) -> Iterator[fx.Node]:
    """What the model does to its input, step by step, each to what the one before made.

    Raises:
        UsageError: it does something to another value, or what it does depends on values.
    """
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise UsageError(f"what it does cannot be read from its forward ({first}); {WORKS}") from error
    before = nodes[0]
    for node in nodes[1:]:
        if node.op == "output":
            if node.args == (before,):
                return
            raise UsageError(f"it gives something else than what its last layer makes; {WORKS}")
        if node.all_input_nodes != [before] or not node.args or node.args[0] is not before:
            raise UsageError(f"{_named(node, model)}, which is no step of a chain; {WORKS}")
        yield node
        before = node


def _named(node: fx.Node, model: nn.Module) -> str:
    if node.op == "call_module":
        return f"layer '{node.target}' is {type(model.get_submodule(str(node.target))).__qualname__}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"its forward has '{name}'"


def _is_linear(node: fx.Node, model: nn.Module) -> bool:
    return node.op == "call_module" and type(model.get_submodule(str(node.target))) is nn.Linear


def _is_flatten(node: fx.Node, model: nn.Module) -> bool:
    """Whether a step flattens all but the batch."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    return node.target in ("flatten", torch.flatten) and _ends(*node.args[1:], **node.kwargs) == (1, -1)


def _ends(start_dim: Any = 0, end_dim: Any = -1) -> tuple[Any, Any]:  # Any: what fx found
    return start_dim, end_dim


def _layer(node: fx.Node, model: nn.Module) -> Layer | None:
    """A step but flattening, as it is for many models; None where it is none that is known here."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if type(module) is nn.Linear:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            return partial(_linear, names[id(module.weight)], names.get(id(module.bias), ""))
        return partial(_applied, module, (), {}) if type(module) in ELEMENTWISE else None
    if node.op == "call_function" and node.target in FUNCTIONS:
        return partial(_applied, node.target, node.args[1:], node.kwargs)
    if node.op == "call_method" and node.target in METHODS:
        return partial(_applied, getattr(Tensor, str(node.target)), node.args[1:], node.kwargs)
    return None


def _applied(
    function: Any,  # Any: a module or function of values and options
    options: tuple[Any, ...],  # Any: as the model's forward gives them
    named: Mapping[str, Any],  # Any: as the model's forward gives them
    values: Tensor,
    _parameters: Tensors,
) -> Tensor:
    done: Tensor = function(values, *options, **named)
    return done


def _linear(weight: str, bias: str, values: Tensor, parameters: Tensors) -> Tensor:
    made: Tensor = _Linear.apply(values, parameters[weight], parameters.get(bias))
    return made


class _Linear(torch.autograd.Function):
    """K linear layers: values (K, B, in), weights (K, out, in) and biases (K, out) to values (K, B, out).

    Written out for its backward pass: torch's own makes the weights' gradients (K, in, out) and then turns each round
    in memory, which takes as long as a third of the step. This one does what `nn.Linear` does in each.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:  # Any: torch's
        ctx.save_for_backward(values, weights)
        turned = weights.transpose(1, 2)
        if biases is None:
            return torch.bmm(values, turned)
        return torch.baddbmm(biases.unsqueeze(1), values, turned)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # Any: torch's
        values, weights = ctx.saved_tensors
        of_values, of_weights, of_biases = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weights) if of_values else None,
            torch.bmm(gradient.transpose(1, 2), values) if of_weights else None,
            gradient.sum(1) if of_biases else None,
        )
