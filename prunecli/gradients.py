"""Derivatives of the training loss that criteria ask for, over class-balanced draws of training examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunecli.building import TRAINING
from prunecli.datasets.values import Augment
from prunecli.errors import UsageError
from prunecli.lab import Lab
from prunecli.losses import mean_loss
from prunecli.masks import Tensors, zeroed
from prunecli.memory import allocating
from prunecli.models.parameters import check_batches
from prunecli.randomness import bits, key
from prunecli.registry import Choice
from prunecli.state import State
from prunecli.training import seed_, seed_python_, undisturbed

NAMED_CLASSES = 10
_NO_SECOND = ("derivative for", "differentiate twice", "once_differentiable", "double backward")
"""What torch says where an operation cannot be differentiated twice."""


@dataclass(frozen=True)
class Drawn:
    """Examples by their position (B,), the key of what is random as the model sees them, and their share of all."""

    rows: Tensor
    key: int
    share: float


@dataclass(frozen=True)
class BatchSlopes:
    """See `criteria.Slopes`. Weights, buffers, modes and random states are left as they are."""

    state: State
    lab: Lab

    def gradient(self, per_class: int, rounds: int) -> Tensors:
        """dL/dw of the prunable weights, L the mean training loss; see `_draws` for the examples."""
        with self._undisturbed():
            return self._gradient(self._draws(per_class, rounds), 1.0)

    def hessian_gradient(self, per_class: int, rounds: int, temperature: float) -> Tensors:
        """Hg of the prunable weights, g the gradient of those that are kept (Wang et al., 2020, algorithm 1).

        Logits are divided by the temperature; a regression's outputs are not.
        """
        with self._undisturbed(), _twice():
            draws = self._draws(per_class, rounds)
            g = self._gradient(draws, temperature)
            g = {name: zeroed(one, self.state.masks[name]) for name, one in g.items()}
            product = {name: torch.zeros_like(one) for name, one in g.items()}
            for drawn in draws:
                with allocating(_what(drawn)):
                    asked = self._asked()
                    first = self._derivatives(self._loss(asked, drawn, temperature), asked, graph=True)
                    along = torch.stack([(first[name] * g[name]).sum() for name in asked]).sum()
                    # Not `grad`: what can be differentiated once alone is an error only where all paths are walked.
                    along.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                for name, one in asked.items():
                    product[name] += drawn.share * (torch.zeros_like(one) if one.grad is None else one.grad)
        return product

    def _gradient(self, draws: Sequence[Drawn], temperature: float) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(self.state.weights[name]) for name in self.lab.names}
        for drawn in draws:
            with allocating(_what(drawn)):
                asked = self._asked()
                found = self._derivatives(self._loss(asked, drawn, temperature), asked, graph=False)
            for name, one in found.items():
                total[name] += drawn.share * one
        return total

    def _asked(self) -> dict[str, Tensor]:
        """The prunable weights as leaves of a graph."""
        return {name: self.state.weights[name].detach().requires_grad_() for name in self.lab.names}

    def _loss(self, asked: Tensors, drawn: Drawn, temperature: float) -> Tensor:
        """The mean training loss of a draw's examples, in training mode and in the weights' own precision."""
        lab, device = self.lab, self.lab.device
        seed_(device, drawn.key)
        if lab.manner.own_code:
            seed_python_(drawn.key)
        # BatchNorm writes its running statistics into these.
        buffers = {name: buffer.clone() for name, buffer in self.state.buffers.items()}
        (images,) = lab.dataset.train.images.batches([drawn.rows], Augment(), device)
        images = images.to(next(iter(asked.values())).dtype).contiguous(
            memory_format=lab.manner.memory_format
        )
        outputs = functional_call(lab.model.train(), {**self.state.weights, **buffers, **asked}, (images,))
        labels = lab.targets.used[drawn.rows].to(device)
        scale = 1.0 if lab.dataset.task.is_regression else temperature
        return mean_loss(outputs / scale, labels, lab.manner.label_smoothing)

    def _derivatives(self, loss: Tensor, asked: Tensors, *, graph: bool) -> dict[str, Tensor]:
        found = torch.autograd.grad(loss, list(asked.values()), create_graph=graph, allow_unused=True)
        if without := [name for name, one in zip(asked, found, strict=True) if one is None]:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            raise UsageError(
                f"the loss does not depend on '{without[0]}'{more}, so there is no gradient to score it by; leave it "
                "out with `prunable: {exclude: […]}`, or choose a criterion such as magnitude"
            )
        return dict(zip(asked, found, strict=True))

    def _draws(self, per_class: int, rounds: int) -> list[Drawn]:
        """The examples of all rounds, in parts no larger than the recipe's batches; none where nothing is prunable."""
        lab = self.lab
        if not lab.names:
            return []
        chosen = [
            balanced(lab, per_class, key("evidence", lab.drawing, lab.dataset.fingerprint, number))
            for number in range(rounds)
        ]
        self._tell_scarce(per_class)
        check_batches(lab.experiment, lab.model, min(map(len, chosen)))
        examples = sum(map(len, chosen))
        parts = [part for rows in chosen for part in _parts(rows, lab.experiment.batch_size)]
        return [
            Drawn(part, key("evidence step", lab.drawing, number), len(part) / examples)
            for number, part in enumerate(parts)
        ]

    def _tell_scarce(self, per_class: int) -> None:
        """Say which classes have fewer examples than asked for, before the first pruning alone."""
        lab, masks = self.lab, self.state.masks
        labels = lab.targets.used[lab.targets.split == TRAINING]
        if masks.kept < masks.total or lab.dataset.task.is_regression:
            return
        counts = torch.bincount(labels, minlength=lab.dataset.task.classes).tolist()
        scarce = [f"class {number} has {found}" for number, found in enumerate(counts) if found < per_class]
        if scarce:
            more = f" and {len(scarce) - NAMED_CLASSES} classes more" if len(scarce) > NAMED_CLASSES else ""
            lab.say(
                f"seed {lab.seed}: weights are scored by fewer than {per_class} training examples of a class: "
                f"{', '.join(scarce[:NAMED_CLASSES])}{more}"
            )

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        self.lab.gates.load_(self.state.masks)
        # Fused kernels of attention have no second derivative.
        with undisturbed(self.lab.model), sdpa_kernel(SDPBackend.MATH):
            yield


def balanced(lab: Lab, per_class: int, draw: int) -> Tensor:
    """Positions of so many training examples of each class, by the labels as used; of all of them in a regression.

    Drawn without replacement, none of them held out or left out; a class with fewer gives all it has.
    """
    rows = (lab.targets.split == TRAINING).nonzero().squeeze(1)
    rows = rows[bits(draw, rows).argsort(stable=True)]
    if lab.dataset.task.is_regression:
        return rows[:per_class]
    labels = lab.targets.used[rows]
    classes = range(lab.dataset.task.classes)
    by_class = [(labels == number).nonzero().squeeze(1)[:per_class] for number in classes]
    # In the drawn order again: parts of it have all classes alike.
    return rows[torch.cat(by_class).sort().values]


def check_differentiable(criterion: Choice, model: nn.Module, names: Sequence[str]) -> None:
    """Whether all prunable weights of a model have the gradients that a criterion asks for.

    Raises:
        UsageError: some are frozen.
    """
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    frozen = [name for name in names if not parameters[name].requires_grad]
    if frozen and "slopes" in criterion.entry.needs:
        more = f" and {len(frozen) - 1} more" if len(frozen) > 1 else ""
        raise UsageError(
            f"criterion '{criterion.name}' scores weights by gradients, and '{frozen[0]}'{more} is frozen (it asks "
            "for no gradient); leave it out with `prunable: {exclude: […]}`, or choose a criterion such as magnitude"
        )


def _parts(rows: Tensor, batch_size: int) -> Sequence[Tensor]:
    """The rows in parts of about equal size, at most a batch; but none of one alone, which BatchNorm cannot take."""
    count = max(1, min(math.ceil(len(rows) / batch_size), len(rows) // 2))
    return torch.tensor_split(rows, count)


def _what(drawn: Drawn) -> str:
    return (
        f"the gradients of {len(drawn.rows)} examples at once, which weights are scored by; give a smaller "
        "'batch_size' or 'per_class'"
    )


@contextmanager
def _twice() -> Iterator[None]:
    """Have an operation without a second derivative be an error of the recipe's."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        if not any(said in first for said in _NO_SECOND):
            raise
        raise UsageError(
            f"the model has an operation that cannot be differentiated twice ({first}); choose a criterion that needs "
            "no second derivative, such as snip or synflow"
        ) from error
