"""Regression on random ReLU features (Chang et al., 2021); each seed draws directions and examples."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from prunecli import theory
from prunecli.datasets.drawn_problems import (
    ExampleCount,
    FeatureCount,
    Noise,
    TestCount,
    check_size,
    digest_of,
    generator,
    regression,
)
from prunecli.datasets.values import Dataset, Facts
from prunecli.places import Roots
from prunecli.registry import data


@data(facts=Facts())
def random_features(
    roots: Roots,  # noqa: ARG001  (every dataset is handed the roots; this one needs no file)
    *,
    features: FeatureCount = 1200,
    inputs: Annotated[int, Field(ge=1, le=100_000)] = 10,
    examples: ExampleCount = 200,
    test: TestCount = 100,
    noise: Noise = 0.0,
) -> Dataset:
    """y = a.b + noise of Gaussian inputs a, seen as relu(R a): a seed's directions R and b are its own, |b| = 1.

    `noise` is a variance. Moments, and so risks, are exact. Source: Chang et al. (2021), random features.
    """
    options = {"features": features, "inputs": inputs, "examples": examples, "test": test, "noise": noise}
    check_size("random_features", features, examples + test, squares=5)
    of_seed = partial(_of_seed, features, inputs, noise)
    return regression(of_seed, examples, test, digest_of("random_features", options))


def _of_seed(features: int, inputs: int, noise: float, seed: int) -> theory.RandomFeatures:
    draws = generator("random features", seed)
    return theory.random_features(features, inputs, draws, noise=noise)
