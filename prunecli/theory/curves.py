"""Predicted risks over the number of features trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from prunecli.theory.checks import Floats, checked_widths, whole
from prunecli.theory.fixed_point import law, near_peak
from prunecli.theory.problems import LinearProblem
from prunecli.theory.risks import PRUNERS, oracle_risk, pruned_risk, retrained_risk


@dataclass(frozen=True, eq=False)
class Curve:
    """Risks at each width: numbers of features trained on, in the order asked for.

    `none` is the risk without pruning; `pruned` has one of each pruner (magnitude, hessian, oracle) with the weights as
    trained; `retrained` has the oracle's with its support trained again. At p = n a risk is infinite; `near_peak` says
    where p is within 10% of n, so that experiments' means lie far from these: take medians there, or leave them out.
    """

    widths: tuple[int, ...]
    n: int
    kept: int
    null: float
    none: Floats
    pruned: Mapping[str, Floats]
    retrained: Mapping[str, Floats]
    near_peak: NDArray[np.bool_]


def curve(problem: LinearProblem, *, n: int, kept: int, widths: Sequence[int]) -> Curve:
    """The risks of models trained on the first p features, for each p of `widths`, and pruned to `kept` weights.

    Where p <= `kept` nothing is pruned. What needs an experiment, retraining on supports that depend on the data, is
    not here.
    """
    n = whole("n", n)
    kept = whole("kept", kept, most=problem.size, because=", the number of features")
    ps = checked_widths(widths, problem.size)
    rows = [_risks(problem.first(p), n, min(kept, p)) for p in ps]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    none, retrained = columns.pop("none"), columns.pop("retrained")
    peak = np.array([near_peak(p, n) for p in ps])
    pruned, again = MappingProxyType(columns), MappingProxyType({"oracle": retrained})
    return Curve(ps, n, kept, problem.null_risk, none, pruned, again, peak)


def _risks(problem: LinearProblem, n: int, kept: int) -> dict[str, float]:
    weights = law(problem, n=n)
    return {
        "none": weights.gamma,
        **{pruner: pruned_risk(weights, kept=kept, pruner=pruner) for pruner in PRUNERS},
        "oracle": oracle_risk(weights, kept=kept),
        "retrained": retrained_risk(problem, n=n, kept=kept),
    }
