"""What an example's loss is, and whether a model has it right: labels that are numbers make a regression."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def example_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Each example's loss (B,): cross-entropy of logits (B, classes), or the squared error of outputs (B, 1)."""
    if labels.is_floating_point():
        return (outputs.squeeze(1) - labels).square()
    return functional.cross_entropy(outputs, labels, reduction="none")


def mean_loss(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of examples, which training minimizes; smoothing is for classes alone."""
    if labels.is_floating_point():
        return functional.mse_loss(outputs.squeeze(1), labels)
    return functional.cross_entropy(outputs, labels, label_smoothing=label_smoothing)


def right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether each example is classified as its label says (B,) bool; empty (0,) for a regression."""
    if labels.is_floating_point():
        return labels.new_zeros(0).bool()
    return outputs.argmax(1) == labels
