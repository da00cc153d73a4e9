"""Filters: which parameters make one up, and which sums its output goes into.

A filter is a row of a convolution's or linear layer's weight. It is dropped with its bias and with the scale and shift
of the norm that follows, so that its output is exactly 0; where that is added to a shortcut, the sum's channel is
closed as well (Bartoldson et al., 2020, section 3). What follows what is found by watching the model work on two blank
images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from prunecli.errors import UsageError
from prunecli.masks import Tensors
from prunecli.task import Task
from prunecli.training import undisturbed

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (_BatchNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Modules whose scale and shift, where they have any, are a channel's own."""
SUMS = (
    *(torch.add, Tensor.add, Tensor.add_),
    *(getattr(Tensor, name) for name in ("__add__", "__radd__", "__iadd__")),
)
"""How torch is asked to add."""


@dataclass(frozen=True)
class Filters:
    """A layer's filters: the names of its weight, its bias, and the norm and the module whose output they end in.

    `norm` directly follows the layer; `gate` is the innermost module that adds the filters' output to something else,
    and can be `closed` where it ends with that. `last` says that channels are an output's last axis, not its second;
    `shared` that the layer works more than once, or that its weight is another one's too.
    """

    weight: str
    bias: str | None
    norm: str | None
    batch_norm: bool
    gate: str | None
    closed: bool
    last: bool
    shared: bool

    @property
    def beside(self) -> tuple[str, ...]:
        """The parameters that a filter is dropped with, beside its weights."""
        of_norm = () if self.norm is None else (f"{self.norm}.weight", f"{self.norm}.bias")
        return (*(() if self.bias is None else (self.bias,)), *of_norm)

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.weight.rpartition(".")[0]


def filters_of(model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, Filters]:
    """The filters of each of the named weights that belongs to a linear or convolution layer."""
    layers = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, LAYERS)}
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    owners = Counter(id(one) for part in model.modules() for one in part.parameters(recurse=False))
    with watched(model, layers) as watch:
        _work(model, task)
    found = {}
    for name in (one for one in names if one in layers):
        norm, gate = watch.norms.get(name), watch.gates.get(name)
        bias = name.removesuffix("weight") + "bias"
        found[name] = Filters(
            name,
            bias if bias in parameters else None,
            norm,
            norm is not None and isinstance(modules[norm], _BatchNorm),
            gate,
            gate is not None and name not in watch.inside and watch.ends.get(gate) == watch.sums[name],
            isinstance(layers[name], nn.Linear),
            watch.runs.get(name, 0) != 1 or owners[id(layers[name].weight)] != 1,
        )
    return found


def beside_of(filters: Mapping[str, Filters]) -> list[str]:
    """The parameters that filters of these layers are dropped with, in the layers' order."""
    return [name for one in filters.values() for name in one.beside]


def check_droppable(filters: Filters) -> None:
    """Raises UsageError where a dropped filter's channel could not be kept at 0."""
    if filters.shared:
        raise UsageError(
            f"'{filters.weight}' is used in several places, or in none, so what a dropped filter comes to could not be "
            "kept at 0; drop filters of other layers"
        )
    if filters.gate is not None and not filters.closed:
        inside = f"'{filters.gate}'" if filters.gate else "the model itself"
        raise UsageError(
            f"the output of '{filters.weight}' is added to a shortcut inside {inside}, which does not end with that "
            "sum, so the channel of a dropped filter could not be kept at 0; drop filters of other layers"
        )


@dataclass
class Gates:
    """Modules whose output's channels are closed where a filter that ends in them is dropped."""

    layers: Mapping[str, Sequence[str]]
    """For each gate the weights whose filters end in it."""
    open: dict[str, Tensor]
    """For each gate 1 where a channel is open, else 0 (C,)."""

    @classmethod
    def on(cls, model: nn.Module, filters: Mapping[str, Filters]) -> Gates:
        """The gates of the model, which from now on close what `load_` says."""
        layers: dict[str, list[str]] = {}
        for one in filters.values():
            if one.gate is not None and one.closed:
                layers.setdefault(one.gate, []).append(one.weight)
        parameters = dict(model.named_parameters())
        gates = cls(layers, {})
        for gate, weights in layers.items():
            weight = parameters[weights[0]]
            gates.open[gate] = torch.ones(len(weight), dtype=weight.dtype, device=weight.device)
            close = _closing(gates.open[gate], last=filters[weights[0]].last)
            model.get_submodule(gate).register_forward_hook(close)
        return gates

    @torch.no_grad()
    def load_(self, masks: Tensors) -> None:
        """Close the channels of the filters that the masks drop, and open the others."""
        for gate, weights in self.layers.items():
            kept = torch.stack([units_kept(masks[name]) for name in weights]).all(0)
            self.open[gate].copy_(kept)


def units_kept(mask: Tensor) -> Tensor:
    """Which filters (N,) a weight's mask (N, ...) keeps anything of."""
    return mask.flatten(1).any(1)


def _closing(channels: Tensor, *, last: bool) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def close(_module: nn.Module, _given: object, made: Tensor) -> Tensor:
        return made * (channels if last else channels.view(-1, *(1,) * (made.dim() - 2)))

    return close


Seen = Callable[[str, Tensor], None]
"""Told of a layer's name and what its output has become: after the layer, after its norm, after a sum."""


@dataclass(eq=False)
class Watch(TorchFunctionMode):
    """Follows the outputs of layers through the norm and the sum that directly follow them."""

    seen: Seen
    norms: dict[str, str] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    sums: dict[str, torch.Size] = field(default_factory=dict)
    ends: dict[str, torch.Size] = field(default_factory=dict)
    """What a module's output last had as its shape."""
    runs: dict[str, int] = field(default_factory=dict)
    """How often a layer has worked."""
    inside: set[str] = field(default_factory=set)
    """Layers after whose sum there is more to be done in the module that adds."""
    _inside: list[str] = field(default_factory=list)
    _tracked: dict[int, tuple[Tensor, int, str]] = field(default_factory=dict)
    """By identity a tensor, its version and the layer: one that was changed in place is no layer's output any more."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's
        added = [self.of(one) for one in args if isinstance(one, Tensor)] if func in SUMS else []
        made = func(*args, **(kwargs or {}))
        if func in SUMS:
            self.goes_on()
        # A layer outside the module that adds is what a shortcut begins with: the sum is not its output.
        for layer in (one for one in added if one is not None and one.startswith(self._prefix)):
            self.gates[layer], self.sums[layer] = self._inside[-1], made.shape
            self._forget(layer)
            self.seen(layer, made)
        return made

    @property
    def _prefix(self) -> str:
        """How the names of what is in the innermost module at work begin."""
        return f"{self._inside[-1]}." if self._inside[-1] else ""

    def of(self, tensor: Tensor) -> str | None:
        """The layer that a tensor is the output of, if it is as the layer or its norm left it."""
        found = self._tracked.get(id(tensor))
        if found is None or found[0] is not tensor or found[1] != tensor._version:
            return None
        return found[2]

    def track(self, layer: str, tensor: Tensor) -> None:
        """From now on this tensor is the layer's output."""
        self._forget(layer)
        self._tracked[id(tensor)] = (tensor, tensor._version, layer)
        self.seen(layer, tensor)

    def goes_on(self) -> None:
        """The modules that are at work do something after whatever they have added."""
        self.inside |= {layer for layer, gate in self.gates.items() if gate in self._inside}

    def _forget(self, layer: str) -> None:
        self._tracked = {place: one for place, one in self._tracked.items() if one[2] != layer}

    def enter(self, name: str) -> None:
        """A module's work begins."""
        self._inside.append(name)

    def leave(self, name: str, made: object) -> None:
        """A module's work is done."""
        self._inside.pop()
        if isinstance(made, Tensor):
            self.ends[name] = made.shape


@contextmanager
def watched(
    model: nn.Module, layers: Mapping[str, nn.Module], seen: Seen = lambda _layer, _tensor: None
) -> Iterator[Watch]:
    """While the block lasts, what the model does to the outputs of these layers, by the names of their weights."""
    watch, named = Watch(seen), {id(layer): name for name, layer in layers.items()}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            for hook in _hooks(watch, name, module, named.get(id(module))):
                stack.callback(hook.remove)
        stack.enter_context(watch)
        yield watch


def _hooks(watch: Watch, name: str, module: nn.Module, weight: str | None) -> Iterator[RemovableHandle]:
    def before(_module: nn.Module, given: tuple[object, ...]) -> None:
        watch.enter(name)
        if weight is not None:
            watch.goes_on()
            watch.runs[weight] = watch.runs.get(weight, 0) + 1
        layer = watch.of(given[0]) if given and isinstance(given[0], Tensor) else None
        if layer is not None and _is_norm(module, watch, layer):
            followed.append(layer)

    def after(_module: nn.Module, _given: object, made: object) -> None:
        watch.leave(name, made)
        if not isinstance(made, Tensor):
            followed.clear()
            return
        for layer in (*followed, *([] if weight is None else [weight])):
            watch.track(layer, made)
        watch.norms |= dict.fromkeys(followed, name)
        followed.clear()

    followed: list[str] = []
    yield module.register_forward_pre_hook(before)
    yield module.register_forward_hook(after)


def _is_norm(module: nn.Module, watch: Watch, layer: str) -> bool:
    """Whether a module has a scale and a shift for each channel, and is the first such that follows a layer."""
    scale, shift = (getattr(module, name, None) for name in ("weight", "bias"))
    both = isinstance(scale, nn.Parameter) and isinstance(shift, nn.Parameter)
    return both and isinstance(module, NORMS) and layer not in watch.norms


def _work(model: nn.Module, task: Task) -> None:
    """Have the model work on two blank images, and leave it as it was."""
    one = next(model.parameters())
    with undisturbed(model), torch.no_grad():
        model.eval()(torch.zeros(2, *task.shape, dtype=one.dtype, device=one.device))
