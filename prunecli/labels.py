"""The labels that training uses, clean or noisy."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunecli.errors import UsageError
from prunecli.randomness import Draw
from prunecli.registry import labels


def check_labels(used: object, classes: int, where: str, *, count: int | None = None) -> None:
    """Raises UsageError, naming `where`, unless these are labels (N,): int64 from 0 to `classes` - 1.

    `count` is the N that they should have, where it is known.
    """
    if not isinstance(used, Tensor):
        raise UsageError(f"{where}: labels are a tensor; found {type(used).__qualname__}")
    if used.dtype != torch.int64:
        raise UsageError(f"{where}: labels are of type torch.int64; found {used.dtype}")
    if used.dim() != 1 or count not in (None, len(used)):
        wanted = "(N,)" if count is None else f"({count},)"
        raise UsageError(f"{where}: labels have shape {wanted}; found {tuple(used.shape)}")
    wrong = ((used < 0) | (used >= classes)).nonzero().squeeze(1)
    if len(wrong):
        first = int(wrong[0])
        raise UsageError(
            f"{where}: labels are from 0 to {classes - 1}; found {int(used[first])} at example {first}"
            + (f" and {len(wrong) - 1:,} more that are not" if len(wrong) > 1 else "")
        )


@labels
def clean(labels: Tensor, changeable: Tensor, classes: int, key: int) -> Tensor:  # noqa: ARG001  (as all)
    """The source's labels (N,)."""
    return labels.clone()


@labels
def uniform(
    labels: Tensor,
    changeable: Tensor,
    classes: int,
    key: int,
    *,
    fraction: Annotated[float, Field(ge=0, le=1)],
) -> Tensor:
    """A fraction of the labels become one of the other classes, uniformly (Jin et al., 2022, section 4).

    Exactly round(fraction x changeable examples) differ. With one key, a larger fraction changes the
    examples that a smaller one changes, to the same labels, and then some more.
    """
    if classes < 2:
        raise UsageError("labels: uniform noise needs another label to give, but the dataset has one class")
    positions = changeable.nonzero().squeeze(1)
    order = Draw(key, positions).uniform("changed").argsort(stable=True)
    changed = positions[order[: round(fraction * len(positions))]]
    step = 1 + Draw(key, changed).integers("label", classes - 1)
    used = labels.clone()
    used[changed] = (labels[changed] + step) % classes
    return used
