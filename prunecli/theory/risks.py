"""Predicted population risks of pruned models, from the law of their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from prunecli.errors import UsageError, suggest
from prunecli.theory.checks import Floats, Indices, whole
from prunecli.theory.correlated import CorrelatedProblem
from prunecli.theory.fixed_point import Law, law
from prunecli.theory.problems import LinearProblem
from prunecli.theory.solutions import keep

PRUNERS: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {"magnitude": np.ones_like, "hessian": np.sqrt}
)
"""What |theta_i| is multiplied by to rank it, from variances (Han et al., 2015; LeCun et al., 1990)."""


def pruned_risk(weights: Law, *, kept: int, pruner: str) -> float:
    """The risk with the `kept` weights, as trained, of highest |theta_i| (magnitude) or sqrt(lam_i)|theta_i| (hessian).

    Raises:
        UsageError: the pruner is unknown, or more weights are kept than there are.
    """
    if pruner not in PRUNERS:
        raise UsageError(f"unknown pruner '{pruner}'{suggest(pruner, PRUNERS)}")
    factors = PRUNERS[pruner](weights.problem.spectrum)
    kept = _kept(kept, weights)
    if math.isinf(weights.gamma):
        return math.inf
    if not weights.gamma:
        # Weights that are certain: at a threshold many of them may stand.
        survivors = np.zeros(weights.problem.size)
        survivors[keep(factors * np.abs(weights.means), kept)] = 1
        return _risk(weights, survivors * weights.means, survivors * weights.means**2)
    return _risk(weights, *_moments(weights, _thresholds(weights, factors, kept)))


def oracle_support(problem: LinearProblem | CorrelatedProblem, *, kept: int) -> Indices:
    """The `kept` features of the highest saliency, counted from 0, in ascending order."""
    most = f", the number of features trained on ({problem.size})"
    return keep(problem.saliencies, whole("kept", kept, most=problem.size, because=most))


def oracle_risk(weights: Law, *, kept: int) -> float:
    """The risk where the weights of the truly most salient features are kept, as trained."""
    if math.isinf(weights.gamma):
        return math.inf
    survivors = np.zeros(weights.problem.size)
    survivors[oracle_support(weights.problem, kept=_kept(kept, weights))] = 1
    return _risk(weights, survivors * weights.means, survivors * (weights.means**2 + weights.variances))


def retrained_risk(problem: LinearProblem | CorrelatedProblem, *, n: int, kept: int) -> float:
    """The risk where the truly most salient features are kept and trained alone on the same n examples."""
    inner = problem.using(oracle_support(problem, kept=kept))
    return law(inner if isinstance(inner, LinearProblem) else inner.rotated()[0], n=n).gamma


def correlated_oracle_risk(problem: CorrelatedProblem, *, n: int, kept: int) -> float:
    """The risk of `oracle_risk` where features are correlated.

    The law holds for the covariance's eigenvectors; turned back, weights have a mean and a covariance, of which a
    support that does not depend on the data takes a part.
    """
    linear, vectors = problem.rotated()
    weights = law(linear, n=n)
    if math.isinf(weights.gamma):
        return math.inf
    index = oracle_support(problem, kept=kept)
    means = np.zeros(problem.size)
    means[index] = vectors[index] @ weights.means
    scatter = (vectors[index] * weights.variances) @ vectors[index].T
    return float(problem.risk(means)) + float((scatter * problem.covariance[np.ix_(index, index)]).sum())


def _kept(kept: int, weights: Law) -> int:
    return whole("kept", kept, most=weights.problem.size, because=", the number of weights")


def _risk(weights: Law, first: Floats, second: Floats) -> float:
    """s2 + sum lam (beta^2 - 2 beta E[t] + E[t^2]), from first and second moments of what is kept."""
    beta, lam = weights.problem.coefficients, weights.problem.spectrum
    return weights.problem.noise + float(lam @ (beta**2 - 2 * beta * first + second))


def _thresholds(weights: Law, factors: Floats, kept: int) -> Floats:
    """What |theta_i| has to reach (p,): t/w_i, with t where `kept` weights are expected to reach it."""
    if kept == weights.problem.size:
        return np.zeros_like(factors)
    means, deviations = np.abs(factors * weights.means), factors * np.sqrt(weights.variances)

    def excess(t: float) -> float:
        return float((ndtr((means - t) / deviations) + ndtr((-means - t) / deviations)).sum()) - kept

    top = float((means + 40 * deviations).max())
    # Thresholds of very unequal weights are far below the top: no tolerance but the relative one.
    t = float(brentq(excess, 0.0, top, xtol=1e-300, rtol=1e-14, maxiter=2000))
    return np.asarray(t / factors)


def _moments(weights: Law, thresholds: Floats) -> tuple[Floats, Floats]:
    """E[theta 1] and E[theta^2 1], 1 where |theta| reaches its threshold, for theta ~ N(mu, sd^2), each (p,)."""
    mu, variance = weights.means, weights.variances
    sd = np.sqrt(variance)
    upper, lower = (thresholds - mu) / sd, (-thresholds - mu) / sd
    reached = ndtr(-upper) + ndtr(lower)
    at_upper, at_lower = _normal_density(upper), _normal_density(lower)
    first = mu * reached + sd * (at_upper - at_lower)
    second = (mu**2 + variance) * reached + sd * ((thresholds + mu) * at_upper + (thresholds - mu) * at_lower)
    return first, second


def _normal_density(x: Floats) -> Floats:
    # Beyond 40 it is 0, and the square could overflow.
    return np.exp(-np.square(np.clip(x, -40, 40)) / 2) / math.sqrt(2 * math.pi)
