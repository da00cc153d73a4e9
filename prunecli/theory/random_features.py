"""Regression on random ReLU features: exact moments, and the linear Gaussian problem that has the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from prunecli.errors import UsageError
from prunecli.theory.checks import Floats, at_least_zero, matrix, vector, whole
from prunecli.theory.correlated import CorrelatedProblem
from prunecli.theory.problems import Sample


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """y = a.b + sigma z with a ~ N(0, I), seen as relu(R a) (Chang et al., 2021, random features).

    `directions` is R (k, d0), `signal` is b (d0,), `noise` the variance sigma^2.
    """

    directions: Floats
    signal: Floats
    noise: float

    def __post_init__(self) -> None:
        directions = matrix("directions", self.directions)
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "signal", vector("signal", self.signal, size=directions.shape[1]))
        object.__setattr__(self, "noise", at_least_zero("noise", self.noise))
        _lengths(directions)

    @cached_property
    def covariance(self) -> Floats:
        """The second moments of the features about 0 (k, k)."""
        return relu_moments(self.directions)

    @cached_property
    def shared(self) -> Floats:
        """What each feature has in common with y (k,)."""
        return np.asarray(self.directions @ self.signal / 2)

    @property
    def size(self) -> int:
        """k, the number of features."""
        return len(self.directions)

    @property
    def null_risk(self) -> float:
        """The risk of predicting 0: the variance of y."""
        return self.noise + float(self.signal @ self.signal)

    @property
    def saliencies(self) -> Floats:
        """variance * beta^2 of the equivalent problem (k,): what the oracle ranks by."""
        return self.equivalent().saliencies

    def first(self, p: int) -> RandomFeatures:
        """The problem of a model that sees the first p features."""
        p = whole("p", p, most=self.size, because=", the number of features")
        return RandomFeatures(self.directions[:p], self.signal, self.noise)

    def equivalent(self) -> CorrelatedProblem:
        """x ~ N(0, S), beta = S^-1 c and noise E[y^2] - c' S^-1 c: Gaussian, with the same moments, so the same risks.

        Raises:
            UsageError: S is singular, as with two equal directions.
        """
        free = CorrelatedProblem(self.covariance, np.zeros(self.size), 0.0)
        half = np.asarray(solve_triangular(free.factor, self.shared, lower=True))
        beta = np.asarray(solve_triangular(free.factor, half, lower=True, trans="T"))
        return CorrelatedProblem(self.covariance, beta, max(0.0, self.null_risk - float(half @ half)))

    def risk(self, weights: Floats) -> Floats:
        """The population risk E[y^2] - 2 c't + t'St of weights (..., p); those beyond p are 0."""
        p = weights.shape[-1]
        quadratic = (weights @ self.covariance[:p, :p] * weights).sum(-1)
        return np.asarray(self.null_risk - 2 * weights @ self.shared[:p] + quadratic)

    def draw(self, n: int, generator: np.random.Generator) -> Sample:
        """n examples."""
        inputs = generator.standard_normal((whole("n", n), self.directions.shape[1]))
        noise = math.sqrt(self.noise) * generator.standard_normal(n)
        return Sample(np.maximum(inputs @ self.directions.T, 0), inputs @ self.signal + noise)


def relu_moments(directions: Floats) -> Floats:
    """E[relu(r_i.a) relu(r_j.a)] (k, k) for a ~ N(0, I): the arc-cosine kernel of order 1 (Cho and Saul, 2009).

    |r_i||r_j|/(2 pi) (sin t + (pi - t) cos t), with t the angle between the two.

    Raises:
        UsageError: a direction is 0, and has no angle.
    """
    rows = matrix("directions", directions)
    lengths = _lengths(rows)
    unit = rows / lengths[:, None]
    cosine = np.clip(unit @ unit.T, -1, 1)
    angle = np.arccos(cosine)
    kernel = np.sin(angle) + (math.pi - angle) * cosine
    return np.asarray(np.outer(lengths, lengths) * kernel / (2 * math.pi))


def _lengths(rows: Floats) -> Floats:
    """The length of each direction (k,)."""
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise UsageError(f"directions: row {int(lengths.argmin()) + 1} is 0; each needs a length")
    return np.asarray(lengths)


def random_features(
    count: int, inputs: int, generator: np.random.Generator, *, noise: float = 0.0, signal: float = 1.0
) -> RandomFeatures:
    """Features of independent N(0, 1) directions, and a signal of length `signal` in a random direction."""
    directions = generator.standard_normal((whole("features", count), whole("inputs", inputs)))
    towards = generator.standard_normal(inputs)
    return RandomFeatures(
        directions, at_least_zero("signal", signal) * towards / np.linalg.norm(towards), noise
    )
