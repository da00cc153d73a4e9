"""Linear problems with Gaussian features that are correlated."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, block_diag, cho_solve, cholesky, eigh

from prunecli.errors import UsageError
from prunecli.theory.checks import Floats, at_least_zero, chosen, matrix, vector, whole
from prunecli.theory.problems import LinearProblem, Sample

_SYMMETRIC = 1e-10
"""Of the largest number, what rounding may set two sides of a covariance apart."""


@dataclass(frozen=True, eq=False)
class CorrelatedProblem:
    """y = x.beta + sigma z with x ~ N(0, covariance), z ~ N(0, 1).

    `covariance` is (d, d), `coefficients` (d,), `noise` the variance sigma^2.
    """

    covariance: Floats
    coefficients: Floats
    noise: float
    factor: Floats = field(init=False, repr=False)
    """The covariance's lower Cholesky factor."""

    def __post_init__(self) -> None:
        covariance = matrix("covariance", self.covariance)
        object.__setattr__(self, "covariance", covariance)
        object.__setattr__(self, "factor", _factor(covariance))
        object.__setattr__(
            self, "coefficients", vector("coefficients", self.coefficients, size=len(covariance))
        )
        object.__setattr__(self, "noise", at_least_zero("noise", self.noise))

    @property
    def size(self) -> int:
        """d, the number of features."""
        return len(self.covariance)

    @property
    def saliencies(self) -> Floats:
        """variance * beta^2 (d,): what the oracle ranks by."""
        return np.asarray(np.diag(self.covariance) * self.coefficients**2)

    @property
    def null_risk(self) -> float:
        """The risk of predicting 0: the variance of y."""
        return self.noise + float(self.coefficients @ self.covariance @ self.coefficients)

    def using(self, features: ArrayLike) -> CorrelatedProblem:
        """The problem of a model that sees these features only, counted from 0.

        Of what the others add to y, these predict a part, beta + Sigma_SS^-1 Sigma_SU beta_U; the rest acts as noise.
        """
        index = chosen(features, self.size)
        unused = np.setdiff1d(np.arange(self.size), index)
        inner = self.covariance[np.ix_(index, index)]
        shared = self.covariance[np.ix_(index, unused)] @ self.coefficients[unused]
        predicted = np.asarray(cho_solve((_factor(inner), True), shared))
        outer = (
            self.coefficients[unused] @ self.covariance[np.ix_(unused, unused)] @ self.coefficients[unused]
        )
        # Rounding may leave a number below 0 where the features in use predict the others wholly.
        rest = max(0.0, float(outer - shared @ predicted))
        return CorrelatedProblem(inner, self.coefficients[index] + predicted, self.noise + rest)

    def first(self, p: int) -> CorrelatedProblem:
        """The problem of a model that sees the first p features."""
        return self.using(np.arange(whole("p", p, most=self.size, because=", the number of features")))

    def rotated(self) -> tuple[LinearProblem, Floats]:
        """The same problem seen from the covariance's eigenvectors, and these as columns (d, d).

        Least squares and minimum norm turn with the features, so the risk of a model that is not pruned is the same.
        """
        values, vectors = eigh(self.covariance)
        return LinearProblem(values, vectors.T @ self.coefficients, self.noise), np.asarray(vectors)

    def risk(self, weights: Floats) -> Floats:
        """The population risk sigma^2 + (t - beta)' Sigma (t - beta) of weights (..., p); those beyond p are 0."""
        wrong = np.broadcast_to(-self.coefficients, (*weights.shape[:-1], self.size)).copy()
        wrong[..., : weights.shape[-1]] += weights
        return np.asarray(self.noise + np.square(wrong @ self.factor).sum(-1))

    def draw(self, n: int, generator: np.random.Generator) -> Sample:
        """n examples."""
        features = generator.standard_normal((whole("n", n), self.size)) @ self.factor.T
        noise = np.sqrt(self.noise) * generator.standard_normal(n)
        return Sample(features, features @ self.coefficients + noise)


def block_correlated(problem: LinearProblem, *, correlation: float, block: int) -> CorrelatedProblem:
    """A problem's features in blocks of `block` neighbours, each pair in a block correlated by `correlation`.

    Variances, coefficients and noise stay; so do saliencies, but the variance of y changes.

    Raises:
        UsageError: the blocks do not fill the features, or no features can be correlated so.
    """
    size = whole("block", block, most=problem.size, because=", the number of features")
    if problem.size % size:
        raise UsageError(f"block: {problem.size} features are no multiple of {size}; needs a divisor of them")
    lowest = -1 / (size - 1) if size > 1 else -1.0
    if not lowest < correlation < 1:
        raise UsageError(
            f"correlation: is {correlation:g}; has to be between {lowest:g} and 1 in blocks of {size}"
        )
    one = np.full((size, size), correlation)
    np.fill_diagonal(one, 1)
    deviations = np.sqrt(problem.spectrum)
    covariance = block_diag(*[one] * (problem.size // size)) * np.outer(deviations, deviations)
    return CorrelatedProblem(covariance, problem.coefficients, problem.noise)


def _factor(covariance: Floats) -> Floats:
    """The lower Cholesky factor of what has to be a covariance."""
    rows, columns = covariance.shape
    if rows != columns:
        raise UsageError(f"covariance: has {rows} rows and {columns} columns; has to be square")
    apart = float(np.abs(covariance - covariance.T).max())
    if apart > _SYMMETRIC * float(np.abs(covariance).max()):
        raise UsageError(f"covariance: its two sides are {apart:g} apart; has to be symmetric")
    try:
        factor = np.asarray(cholesky(covariance, lower=True))
    except LinAlgError as error:
        raise _singular(covariance) from error
    # What the features before it leave of each one's variance: rounding alone may keep a singular one above 0.
    if (np.diag(factor) ** 2 <= 4 * rows * np.finfo(float).eps * np.diag(covariance)).any():
        raise _singular(covariance)
    return factor


def _singular(covariance: Floats) -> UsageError:
    least = float(eigh(covariance, eigvals_only=True)[0])
    return UsageError(
        f"covariance: its smallest eigenvalue is {least:g}; all have to be above 0, and no feature a sum of others"
    )
