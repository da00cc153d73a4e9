"""Linear problems with Gaussian features that are independent of each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from prunecli.theory.checks import Floats, at_least_zero, chosen, positive, vector, whole


@dataclass(frozen=True, eq=False)
class Sample:
    """Training data: features (n, d) and targets (n,)."""

    features: Floats
    targets: Floats


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """y = x.beta + sigma z with x ~ N(0, diag(spectrum)), z ~ N(0, 1) (Chang et al., 2021, linear Gaussian problem).

    `spectrum` holds the features' variances (d,), `coefficients` is beta (d,), `noise` is the variance sigma^2.
    A model of width p is trained on the first p features: put the important ones first, or ask for `by_importance`.
    """

    spectrum: Floats
    coefficients: Floats
    noise: float

    def __post_init__(self) -> None:
        # What is frozen is set once, to copies that nobody can write into.
        object.__setattr__(self, "spectrum", positive("spectrum", self.spectrum))
        object.__setattr__(
            self, "coefficients", vector("coefficients", self.coefficients, size=self.spectrum.size)
        )
        object.__setattr__(self, "noise", at_least_zero("noise", self.noise))

    @property
    def size(self) -> int:
        """d, the number of features."""
        return int(self.spectrum.size)

    @property
    def saliencies(self) -> Floats:
        """What the risk rises by when one feature is left out of the true model: spectrum * beta^2 (d,)."""
        return self.spectrum * self.coefficients**2

    @property
    def null_risk(self) -> float:
        """The risk of predicting 0: the variance of y."""
        return self.noise + float(self.saliencies.sum())

    def using(self, features: ArrayLike) -> LinearProblem:
        """The problem of a model that sees these features only, counted from 0: the others act as noise."""
        index = chosen(features, self.size)
        unused = np.ones(self.size, dtype=bool)
        unused[index] = False
        noise = self.noise + float(self.saliencies[unused].sum())
        return LinearProblem(self.spectrum[index], self.coefficients[index], noise)

    def first(self, p: int) -> LinearProblem:
        """The problem of a model that sees the first p features."""
        return self.using(np.arange(whole("p", p, most=self.size, because=", the number of features")))

    def by_importance(self) -> LinearProblem:
        """The same problem, its features in descending order of saliency."""
        return self.using(np.argsort(-self.saliencies, kind="stable"))

    def risk(self, weights: Floats) -> Floats:
        """The population risk sigma^2 + (t - beta)' Sigma (t - beta) of weights (..., p); those beyond p are 0."""
        p = weights.shape[-1]
        unused = float(self.saliencies[p:].sum())
        wrong = (weights - self.coefficients[:p]) ** 2 @ self.spectrum[:p]
        return np.asarray(self.noise + unused + wrong)

    def draw(self, n: int, generator: np.random.Generator) -> Sample:
        """n examples."""
        normal = generator.standard_normal((whole("n", n), self.size))
        features = normal * np.sqrt(self.spectrum)
        noise = np.sqrt(self.noise) * generator.standard_normal(n)
        return Sample(features, features @ self.coefficients + noise)
