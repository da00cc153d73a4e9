"""How trained weights are distributed when n examples meet p features: the characterization's few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

from prunecli.errors import UsageError
from prunecli.theory.checks import Floats, positive, whole
from prunecli.theory.problems import LinearProblem

PEAK = 0.1
"""Of n, how near to it p is at the interpolation peak: tails are heavy there, means of experiments mislead."""


@dataclass(frozen=True, eq=False)
class Law:
    """Weights trained on n examples: independent, theta_i ~ N(a_i beta_i, v_i) (Chang et al., 2021).

    `problem` is that of the p features trained on, `n` the examples, `xi` the fixed point (infinite for p <= n),
    `shrinkage` holds a (p,), `gamma` is the risk without pruning, `variances` holds v (p,); the last two are
    infinite at p = n.
    """

    problem: LinearProblem
    n: int
    xi: float
    shrinkage: Floats
    gamma: float
    variances: Floats

    @property
    def means(self) -> Floats:
        """a * beta (p,)."""
        return self.shrinkage * self.problem.coefficients

    @property
    def near_peak(self) -> bool:
        """Whether p is within 10% of n."""
        return near_peak(self.problem.size, self.n)


def law(problem: LinearProblem, *, n: int) -> Law:
    """What least squares (p < n) or the minimum-norm interpolator (p > n) makes of all of a problem's features.

    Asymptotic: n and p grow at a fixed ratio (Chang et al., 2021, distributional characterization). For a model of
    width p ask for the law of `problem.first(p)`.
    """
    n = whole("n", n)
    if problem.size <= n:
        return _least_squares(problem, n, n - problem.size, n)
    log_xi = _log_fixed_point(problem.spectrum, n)
    logits = log_xi + np.log(problem.spectrum)
    a, rest = expit(logits), expit(-logits)
    # 1 - (1/n) sum a^2, as sum a = n; without taking equal numbers from each other near p = n.
    denominator = float(a @ rest) / n
    gamma = (problem.noise + float(problem.saliencies @ rest**2)) / denominator
    variances = gamma / n * a**2 / problem.spectrum
    return Law(problem, n, _exp(log_xi), np.asarray(a), gamma, np.asarray(variances))


def finite_law(problem: LinearProblem, *, n: int) -> Law:
    """Means and variances of least squares on n examples exactly, not asymptotically, for p <= n - 2.

    Risks without pruning and of fixed supports are exact; a weight is Student-t distributed, not normal, with
    n - p + 1 degrees of freedom, so those of supports that depend on the weights are not.

    Raises:
        UsageError: there are fewer than p + 2 examples, with which the risk is not finite.
    """
    n = whole("n", n)
    if n < problem.size + 2:
        raise UsageError(
            f"n: is {n} with {problem.size} features; exact risks need at least {problem.size + 2}"
        )
    return _least_squares(problem, n, n - problem.size - 1, n - 1)


def fixed_point(spectrum: ArrayLike, *, n: int) -> float:
    """xi > 0 with sum_i xi lam_i/(1 + xi lam_i) = n, the only such number, for p > n.

    Raises:
        UsageError: there are as many examples as features or more, so that no number is large enough.
    """
    variances, n = positive("spectrum", spectrum), whole("n", n)
    if n >= variances.size:
        raise UsageError(
            f"n: is {n}; has to be below {variances.size}, the number of features, for xi to exist"
        )
    return _exp(_log_fixed_point(variances, n))


def effective_dimension(spectrum: Floats, xi: float) -> float:
    """sum_i xi lam_i/(1 + xi lam_i): how many features count where xi is the fixed point; it rises with xi."""
    return float(expit(math.log(xi) + np.log(spectrum)).sum())


def near_peak(p: int, n: int) -> bool:
    """Whether p is within 10% of n, where experiments have heavy tails: look at their median."""
    return abs(p - n) <= PEAK * n


def _log_fixed_point(spectrum: Floats, n: int) -> float:
    """log xi, between the fixed points of spectra that are all largest or all smallest."""
    logs, isotropic = np.log(spectrum), math.log(n) - math.log(spectrum.size - n)
    # A hair wider: with equal variances both ends are the root, but for rounding.
    low, high = isotropic - logs.max() - 1e-6, isotropic - logs.min() + 1e-6

    def above(log_xi: float) -> float:
        return float(expit(log_xi + logs).sum()) - n

    root = float(brentq(above, low, high, xtol=1e-14, rtol=1e-15))
    slope = float((expit(root + logs) * expit(-root - logs)).sum())
    return root - above(root) / slope


def _least_squares(problem: LinearProblem, n: int, spare: int, numerator: int) -> Law:
    """theta_i ~ N(beta_i, s2/(lam_i spare)) and risk s2 * numerator / spare; infinite with nothing to spare."""
    # Without noise there is nothing to fit but the truth, even at p = n.
    scale = 0.0 if not problem.noise else problem.noise / spare if spare else math.inf
    ones = np.ones(problem.size)
    return Law(problem, n, math.inf, ones, scale * numerator, scale / problem.spectrum)


def _exp(value: float) -> float:
    """exp, infinite beyond the largest number."""
    return math.exp(value) if value < 709 else math.inf
