"""Stacks: models of one shape as one, whose forward and backward passes are one product a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from prunecli.lab import Lab
from prunecli.masks import Tensors
from prunecli.state import State
from prunecli.together.chain import Layer, chain_of
from prunecli.training import Batch, Manner, copied, load_slots_, slots_of


@dataclass(frozen=True)
class Steps:
    """What a step of each model saw: mean losses (K,), how many examples they had wrong (K,), and of how many."""

    losses: Tensor
    wrong: Tensor
    examples: int


@dataclass(frozen=True)
class Part:
    """One of the models: its parameters, which are slices of the stack's, and its optimizer."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: Optimizer


@dataclass(frozen=True)
class Stack:
    """K models: their parameters (K, ...), the masks (K, ...) of those that some model drops from, and each by itself.

    Optimizers work on slices: on a tensor of all models vector units would round its last numbers otherwise.
    """

    layers: Sequence[Layer]
    parameters: Mapping[str, nn.Parameter]
    parts: Sequence[Part]
    masks: Tensors
    manner: Manner

    def step(self, batches: Sequence[Batch]) -> Steps:
        """Take a step of each model on its own batch.

        A model's numbers come from its own slices alone: what is not finite in one stays out of the others.
        """
        labels = torch.stack([batch.labels for batch in batches])
        values = torch.stack([batch.images for batch in batches])
        for layer in self.layers:
            values = layer(values, self.parameters)
        each = functional.cross_entropy(
            values.flatten(0, 1),
            labels.flatten(),
            reduction="none",
            label_smoothing=self.manner.label_smoothing,
        )
        losses = each.view_as(labels).mean(1)
        for parameter in self.parameters.values():
            parameter.grad = None
        losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._share_gradients_()
        for part, batch in zip(self.parts, batches, strict=True):
            if self.manner.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(part.parameters.values(), self.manner.gradient_clipping)
            for group in part.optimizer.param_groups:
                group["lr"] = batch.rate
            part.optimizer.step()
        wrong = (values.detach().argmax(2) != labels).sum(1)
        return Steps(losses.detach(), wrong, labels.shape[1])

    def state(self, number: int, before: State, steps: int) -> State:
        """The state that one of the models is in, so many steps after another."""
        part = self.parts[number]
        return replace(
            before,
            weights=copied(part.parameters),
            optimizer=slots_of(part.optimizer, part.parameters),
            step=before.step + steps,
            spent=before.spent + steps,
        )

    def _share_gradients_(self) -> None:
        """Zero the gradients of dropped weights, and give each model its slices."""
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        masked = [name for name in self.masks if name in gradients]
        if masked:
            torch._foreach_mul_([gradients[name] for name in masked], [self.masks[name] for name in masked])
        for name, gradient in gradients.items():
            for part, own in zip(self.parts, gradient.unbind(), strict=True):
                part.parameters[name].grad = own


def stacked(states: Sequence[State], labs: Sequence[Lab]) -> Stack:
    """The states' models as one."""
    model, manner = labs[0].model, labs[0].manner
    parameters = {
        name: nn.Parameter(torch.stack([state.weights[name] for state in states]), parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    # A full mask multiplies by 1, which changes no bit: leave the product out.
    masks = {
        name: torch.stack([state.masks[name] for state in states]).to(parameters[name].dtype)
        for name in states[0].masks
        if not all(bool(state.masks[name].all()) for state in states)
    }
    parts = [_part(number, parameters, *pair) for number, pair in enumerate(zip(states, labs, strict=True))]
    return Stack(chain_of(model), parameters, parts, masks, manner)


def _part(number: int, parameters: Mapping[str, nn.Parameter], state: State, lab: Lab) -> Part:
    own = {name: nn.Parameter(p.detach()[number], p.requires_grad) for name, p in parameters.items()}
    optimizer: Optimizer = lab.experiment.optimizer(own)
    load_slots_(optimizer, own, state.optimizer)
    return Part(own, optimizer)
