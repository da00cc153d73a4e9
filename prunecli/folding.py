"""BatchNorm folded into the convolution or linear layer before it, for evaluation: one pass over memory the less.

The folded network is the same function in other arithmetic: losses differ by rounding. Whoever uses it compares
the two on some examples first, see `agree`.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from prunecli.masks import Tensors

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ALLOWED = 1e-4
"""How far a loss may be from that of the network as it is, as a part of 1 + the loss."""


@dataclass(frozen=True)
class Pair:
    """The names of a layer and of the BatchNorm that follows it, and what that adds to the variance."""

    layer: str
    norm: str
    epsilon: float


@dataclass(frozen=True)
class Folded:
    """A copy of a model in evaluation mode without the BatchNorms that were folded, and which those are."""

    module: nn.Module
    pairs: tuple[Pair, ...]

    @torch.no_grad()
    def load_(self, weights: Tensors, buffers: Tensors) -> None:
        """Take the weights and statistics of the model's state."""
        tensors = {**weights, **buffers}
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for pair in self.pairs:
            weight, bias = _folded(pair, tensors)
            own.pop(f"{pair.layer}.weight").copy_(weight)
            own.pop(f"{pair.layer}.bias").copy_(bias)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def fold(model: nn.Module) -> Folded | None:
    """The model with every BatchNorm folded that follows one layer and nothing else; None where there is none such.

    A model that cannot be copied or that torch.fx cannot trace, such as one whose work depends on what it sees, is left
    as it is.
    """
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return None
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).eval())
        pairs = _pairs(traced)
        for pair in pairs:
            _drop(traced, pair)
        traced.graph.lint()
        traced.recompile()
        folded = Folded(traced, tuple(pairs))
        folded.load_(dict(model.named_parameters()), dict(model.named_buffers()))
    except Exception:  # noqa: BLE001  (a stranger's forward may raise anything; the model is evaluated as it is)
        return None
    return folded if pairs else None


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two networks' losses (N,) on the same examples are the same but for rounding."""
    return bool(((one - other).abs() <= ALLOWED * (1 + other.abs())).all())


def _pairs(traced: fx.GraphModule) -> list[Pair]:
    """Layers whose only reader is a BatchNorm, each called once, with that."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    found = []
    for node in traced.graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer, norm = (traced.get_submodule(str(called.target)) for called in (before, node))
        once = calls[str(before.target)] == calls[str(node.target)] == 1
        # Without running statistics a BatchNorm looks at the batch, in evaluation too. Subclasses, such as timm's with
        # an activation, are traced into and so are not found here.
        if once and type(layer) in LAYERS and isinstance(norm, NORMS) and norm.running_mean is not None:
            found.append(Pair(str(before.target), str(node.target), norm.eps))
    return found


def _drop(traced: fx.GraphModule, pair: Pair) -> None:
    """Take the BatchNorm out of the graph, and give its layer a bias."""
    (node,) = (node for node in traced.graph.nodes if node.op == "call_module" and node.target == pair.norm)
    node.replace_all_uses_with(node.args[0])
    traced.graph.erase_node(node)
    traced.delete_submodule(pair.norm)
    layer = traced.get_submodule(pair.layer)
    if layer.bias is None:
        weight = traced.get_parameter(f"{pair.layer}.weight")
        layer.bias = nn.Parameter(weight.new_zeros(len(weight)))


def _folded(pair: Pair, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """The layer's weight and bias that do what the two did."""
    mean, variance = tensors[f"{pair.norm}.running_mean"], tensors[f"{pair.norm}.running_var"]
    scale, shift = tensors.get(f"{pair.norm}.weight"), tensors.get(f"{pair.norm}.bias")
    weight, bias = tensors[f"{pair.layer}.weight"], tensors.get(f"{pair.layer}.bias")
    return fuse_conv_bn_weights(weight, bias, mean, variance, pair.epsilon, scale, shift)
