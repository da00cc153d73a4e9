"""Observers of linear problems: a model's population risk, exactly, and what theory predicts of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from prunecli.building import TRAINING
from prunecli.lab import Lab
from prunecli.linear_models import check_first_features, first_weights
from prunecli.observers import Arrays
from prunecli.procedure import unroll
from prunecli.registry import Choice, observers
from prunecli.state import State
from prunecli.theory import predicted_risk

_KNOWN = frozenset({"solve", "observe", "save"})
"""Stages that theory knows beside pruning."""


def _check(model: nn.Module, problem: Any) -> None:  # Any: data's problems are its own
    check_first_features("observer 'risk'", model, problem)


@observers(problem_fits=_check, clean_inputs=True)
def risk(state: State, lab: Lab) -> Arrays:
    """The expected squared error of a new example at the level's end, noise included: exact, from the data's problem.

    Beside it `risk_theory`, what theory predicts (NaN where it is silent), and `null_risk`, that of predicting 0.
    Theory knows procedures that `solve`, prune once, and perhaps `solve` again (see `docs/theory.md`).
    """
    return _arrays("risk", state, lab) | {"metrics/null_risk": np.asarray(lab.dataset.problem.null_risk)}


@observers(problem_fits=_check, clean_inputs=True)
def risk_after_pruning(state: State, lab: Lab) -> Arrays:
    """The same inside a level: `observe: {observers: [risk_after_pruning]}` between pruning and training."""
    return _arrays("risk_after_pruning", state, lab)


def _arrays(name: str, state: State, lab: Lab) -> dict[str, Any]:  # Any: see Arrays
    weights = first_weights(state)
    # Of random features the moments are computed, and of many more than the model has for nothing.
    found = float(lab.dataset.problem.first(weights.size).risk(weights))
    return {
        f"metrics/{name}": np.asarray(found),
        f"metrics/{name}_theory": np.asarray(_predicted(name, weights.size, state, lab)),
    }


def _predicted(name: str, p: int, state: State, lab: Lab) -> float:
    """What theory says of the p weights at the place of the procedure that the observer looks at; NaN where nothing."""
    stages = _stages_seen(name, lab)
    prunings = [number for number, stage in enumerate(stages) if "criterion" in stage.options]
    kept = state.masks.kept if state.masks.total else p
    first = prunings[0] if prunings else len(stages)
    before, after = (
        any(stage.name == "solve" for stage in part) for part in (stages[:first], stages[first:])
    )
    others = {stage.name for stage in stages if "criterion" not in stage.options} - _KNOWN
    if others or not (before or after) or (kept < p and len(prunings) != 1):
        return math.nan
    options = stages[first].options if prunings else {}
    if options.get("invert"):
        return math.nan
    n = int((lab.targets.split == TRAINING).sum())
    pruner = options["criterion"].name if prunings else ""
    return predicted_risk(lab.dataset.problem, n=n, p=p, kept=kept, pruner=pruner, retrained=after)


def _stages_seen(name: str, lab: Lab) -> list[Choice]:
    """The stages that come before an observer looks: all, or those up to the one stage that names it."""
    stages = list(unroll(lab.experiment.procedure))
    if any(one.name == name for one in lab.experiment.observe):
        return stages
    inside = [
        number
        for number, stage in enumerate(stages)
        if any(one.name == name for one in stage.options.get("observers", ()))
    ]
    return stages[: inside[0]] if len(inside) == 1 else []
