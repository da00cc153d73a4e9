"""The four settings of spectra and signals, and problems from spectra and saliencies of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from prunecli.errors import UsageError
from prunecli.theory.checks import Floats, at_least_zero, positive, vector, whole
from prunecli.theory.problems import LinearProblem

SPIKE, SPIKED = 25.0, 0.1
"""The variance of the strong features, and the fraction of features that are strong."""


def of_saliencies(
    spectrum: ArrayLike, saliencies: ArrayLike, *, noise: float = 0.1, signal: float = 1.0
) -> LinearProblem:
    """The problem whose features have these variances and share the signal's power in proportion to `saliencies`.

    Raises:
        UsageError: a variance is not positive, a saliency is negative, or all of them are 0.
    """
    variances = positive("spectrum", spectrum)
    shares = vector("saliencies", saliencies, size=variances.size)
    if shares.min() < 0 or not shares.any():
        raise UsageError(
            f"saliencies: from {shares.min():g} to {shares.max():g}; need to be 0 or more, and not all 0"
        )
    power = at_least_zero("signal", signal) * shares / shares.sum()
    return LinearProblem(variances, np.sqrt(power / variances), noise)


def identity(size: int = 1000, *, noise: float = 0.1) -> LinearProblem:
    """Equal variances; saliencies fall as (1 - (i - 1)/d)^2."""
    return of_saliencies(np.ones(_features(size)), _falling(size), noise=noise)


def spiked(size: int = 1000, *, noise: float = 0.1) -> LinearProblem:
    """A tenth of the features has variance 25, the others 1; saliencies fall as (1 - (i - 1)/d)^2."""
    return of_saliencies(_spikes(size), _falling(size), noise=noise)


def spiked_strong(size: int = 1000, *, noise: float = 0.1) -> LinearProblem:
    """A tenth of the features has variance 25 and 20 times the saliency of the others, whose variance is 1."""
    spectrum = _spikes(size)
    return of_saliencies(spectrum, np.where(spectrum == SPIKE, 1.0, 0.05), noise=noise)


def poly(size: int = 1000, *, noise: float = 0.1) -> LinearProblem:
    """Variances fall as d/(10 i), saliencies as i^-1.5."""
    number = np.arange(1, _features(size) + 1)
    return of_saliencies(size / (10 * number), number**-1.5, noise=noise)


SETTINGS: Mapping[str, Callable[..., LinearProblem]] = MappingProxyType(
    {"identity": identity, "spiked": spiked, "spiked_strong": spiked_strong, "poly": poly}
)
"""The settings by name; each takes a size and the noise's variance. Stand-ins: the paper's own are not known."""


def _features(size: int) -> int:
    return whole("size", size)


def _falling(size: int) -> Floats:
    return np.asarray((1 - np.arange(size) / size) ** 2)


def _spikes(size: int) -> Floats:
    spectrum = np.ones(_features(size))
    spectrum[: round(SPIKED * size)] = SPIKE
    return spectrum
