"""What a criterion may ask for by the names of its positional parameters, computed on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from prunecli.errors import UsageError, suggest
from prunecli.lab import Lab
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
    made.manual_seed(key("criterion", lab.seed, state.spent, state.masks.kept))
    return made


EVIDENCE: dict[str, Evidence] = {"weights": weights, "generator": generator}


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
