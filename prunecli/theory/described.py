"""Problems by the words of a recipe, and what theory predicts of one pruned model."""

from __future__ import annotations

import math

from prunecli.errors import UsageError, suggest
from prunecli.theory.checks import whole
from prunecli.theory.correlated import CorrelatedProblem, block_correlated
from prunecli.theory.fixed_point import law
from prunecli.theory.problems import LinearProblem
from prunecli.theory.random_features import RandomFeatures
from prunecli.theory.risks import PRUNERS, correlated_oracle_risk, oracle_risk, pruned_risk, retrained_risk
from prunecli.theory.spectra import SETTINGS

ORACLE = "oracle"


def of_setting(
    setting: str, size: int, *, noise: float = 0.1, correlation: float = 0.0, block: int = 10
) -> LinearProblem | CorrelatedProblem:
    """The setting of this name; with a correlation, its features in blocks that are correlated by it.

    Raises:
        UsageError: there is no such setting, or a number is out of its range.
    """
    if setting not in SETTINGS:
        raise UsageError(f"unknown setting '{setting}'{suggest(setting, SETTINGS)}")
    problem = SETTINGS[setting](size, noise=noise)
    return block_correlated(problem, correlation=correlation, block=block) if correlation else problem


def predicted_risk(
    problem: LinearProblem | CorrelatedProblem | RandomFeatures,
    *,
    n: int,
    p: int,
    kept: int,
    pruner: str = "",
    retrained: bool = False,
) -> float:
    """The risk of a model on the first p features, `kept` of its weights left by a pruner; NaN where theory is silent.

    It is silent about random features, about magnitude and Hessian where features are correlated or the support is
    trained again, and about pruners that it does not know. Without pruning `kept` is p; without any weight left the
    risk is that of predicting 0.
    """
    if not (kept := whole("kept", kept, least=0, most=p, because=", the number of weights")):
        return problem.null_risk
    if isinstance(problem, RandomFeatures):
        return math.nan
    seen = problem.first(p)
    if kept == p:
        return law(_independent(seen), n=n).gamma
    if retrained:
        return retrained_risk(seen, n=n, kept=kept) if pruner == ORACLE else math.nan
    if isinstance(seen, CorrelatedProblem):
        return correlated_oracle_risk(seen, n=n, kept=kept) if pruner == ORACLE else math.nan
    if pruner == ORACLE:
        return oracle_risk(law(seen, n=n), kept=kept)
    return pruned_risk(law(seen, n=n), kept=kept, pruner=pruner) if pruner in PRUNERS else math.nan


def _independent(problem: LinearProblem | CorrelatedProblem) -> LinearProblem:
    return problem if isinstance(problem, LinearProblem) else problem.rotated()[0]
