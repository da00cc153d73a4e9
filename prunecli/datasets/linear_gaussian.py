"""Linear problems with Gaussian features (Chang et al., 2021): settings, and spectra of one's own."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from prunecli.datasets.arrays import read_arrays
from prunecli.datasets.drawn_problems import (
    ExampleCount,
    FeatureCount,
    Noise,
    Problem,
    TestCount,
    check_size,
    digest_of,
    regression,
)
from prunecli.datasets.files import located, size_of
from prunecli.datasets.values import Dataset, Facts
from prunecli.errors import EnvironmentMissing, UsageError
from prunecli.places import PathInRecipe, Roots
from prunecli.registry import data
from prunecli.theory import CorrelatedProblem, LinearProblem, of_saliencies, of_setting
from prunecli.theory.checks import Floats

Numbers = Annotated[list[float], Field(min_length=1, max_length=100_000)]
_NAMES = ("spectrum", "covariance", "coefficients", "saliencies")


@data(facts=Facts())
def linear_gaussian(
    roots: Roots,  # noqa: ARG001  (every dataset is handed the roots; this one needs no file)
    *,
    setting: Literal["identity", "spiked", "spiked_strong", "poly"] = "identity",
    features: FeatureCount = 1000,
    examples: ExampleCount = 300,
    test: TestCount = 100,
    noise: Noise = 0.1,
    correlation: Annotated[float, Field(gt=-1, lt=1)] = 0.0,
    block: FeatureCount = 10,
) -> Dataset:
    """y = x.beta + noise, of independent Gaussian features in order of importance; each seed draws its own examples.

    Settings are those of `prunecli.theory`; `noise` is a variance, beside a signal of 1. With a `correlation` features
    are in blocks of `block` neighbours, each pair of a block correlated by it. Source: Chang et al. (2021).
    """
    options: dict[str, object] = {"setting": setting, "features": features, "noise": noise}
    options |= {"correlation": correlation, "block": block} if correlation else {}
    check_size("linear_gaussian", features, examples + test, squares=3 if correlation else 0)
    of_seed = partial(_setting, setting, features, noise, correlation, block)
    sizes = {"examples": examples, "test": test}
    return regression(of_seed, examples, test, digest_of("linear_gaussian", options | sizes))


@data(facts=Facts())
def linear_gaussian_of(
    roots: Roots,  # noqa: ARG001  (as above)
    *,
    spectrum: Numbers,
    saliencies: Numbers,
    examples: ExampleCount,
    test: TestCount = 100,
    noise: Noise = 0.1,
    signal: Annotated[float, Field(ge=0, le=1e9)] = 1.0,
) -> Dataset:
    """The same, of variances and saliencies that are given, one of each feature: put the important ones first.

    A saliency, variance times coefficient squared, is a feature's share of the signal's power, `signal`.
    """
    check_size("linear_gaussian_of", len(spectrum), examples + test)
    problem = of_saliencies(spectrum, saliencies, noise=noise, signal=signal)
    return _given("linear_gaussian_of", problem, examples, test)


@data(facts=Facts())
def linear_gaussian_file(
    roots: Roots,
    *,
    path: PathInRecipe,
    examples: ExampleCount,
    test: TestCount = 100,
    noise: Noise = 0.1,
) -> Dataset:
    """The same, of an .npz or HDF5 file: `spectrum` or `covariance`, and `coefficients` or `saliencies`.

    Shapes are (d,), that of a covariance (d, d). Saliencies go with a spectrum, and are powers, not shares. The path is
    looked for as that of `arrays` is.
    """
    file = located(roots, path)
    size_of(file)
    found = read_arrays(file, partial(_wanted, file))
    features = (found["coefficients"] if "coefficients" in found else found["saliencies"]).size
    check_size("linear_gaussian_file", features, examples + test, squares=3 * ("covariance" in found))
    try:
        problem = _from_arrays(found, noise)
    except UsageError as error:
        raise EnvironmentMissing(f"{file}: {error}") from error
    return _given("linear_gaussian_file", problem, examples, test)


@lru_cache(maxsize=4)
def _known(setting: str, features: int, noise: float, correlation: float, block: int) -> Problem:
    return of_setting(setting, features, noise=noise, correlation=correlation, block=block)


def _setting(
    setting: str, features: int, noise: float, correlation: float, block: int, _seed: int
) -> Problem:
    """The problem of every seed: a recipe's words travel to other processes more quickly than a covariance."""
    return _known(setting, features, noise, correlation, block)


def _given(name: str, problem: LinearProblem | CorrelatedProblem, examples: int, test: int) -> Dataset:
    spread = problem.spectrum if isinstance(problem, LinearProblem) else problem.covariance
    sizes = {"examples": examples, "test": test, "noise": problem.noise}
    digest = digest_of(name, sizes, spread, problem.coefficients)
    return regression(partial(_same, problem), examples, test, digest)


def _same(problem: Problem, _seed: int) -> Problem:
    return problem


def _wanted(file: Path, names: list[str]) -> list[str]:
    """The arrays of a file that a problem is made of."""
    found = [name for name in _NAMES if name in names]
    spread, signal = ([name for name in pair if name in found] for pair in (_NAMES[:2], _NAMES[2:]))
    if len(spread) == 1 and len(signal) == 1 and found != ["covariance", "saliencies"]:
        return found
    holds = ", ".join(sorted(names)[:20]) or "nothing"
    raise EnvironmentMissing(
        f"{file}: should have 'spectrum' or 'covariance', and 'coefficients', or 'saliencies' beside a spectrum; it "
        f"holds {holds}"
    )


def _from_arrays(found: dict[str, np.ndarray], noise: float) -> LinearProblem | CorrelatedProblem:
    if odd := next((name for name, array in found.items() if array.dtype.kind not in "iuf"), None):
        raise UsageError(f"{odd}: is {found[odd].dtype}, not numbers")
    arrays: dict[str, Floats] = {name: array.astype(np.float64) for name, array in found.items()}
    if "covariance" in arrays:
        return CorrelatedProblem(arrays["covariance"], arrays["coefficients"], noise)
    if "coefficients" in arrays:
        return LinearProblem(arrays["spectrum"], arrays["coefficients"], noise)
    powers = arrays["saliencies"]
    return of_saliencies(arrays["spectrum"], powers, noise=noise, signal=float(powers.sum()))
