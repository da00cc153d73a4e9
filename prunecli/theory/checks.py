"""Numbers of a problem as they have to be, or an error that says what was found."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunecli.errors import UsageError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def vector(name: str, values: ArrayLike, *, size: int | None = None) -> Floats:
    """A read-only copy of a list of finite numbers, `size` of them where that is given."""
    found = _numbers(name, values)
    if found.ndim != 1 or not found.size:
        raise UsageError(f"{name}: has shape {found.shape}; needs a list of one number for each feature")
    if size is not None and found.size != size:
        raise UsageError(
            f"{name}: has {found.size} numbers, but there are {size} features; needs one for each"
        )
    return found


def positive(name: str, values: ArrayLike) -> Floats:
    """Such a list whose numbers are above 0."""
    found = vector(name, values)
    low = int(found.argmin())
    if found[low] <= 0:
        raise UsageError(f"{name}: number {low + 1} is {found[low]:g}; each has to be above 0")
    return found


def matrix(name: str, values: ArrayLike) -> Floats:
    """A read-only copy of a matrix of finite numbers."""
    found = _numbers(name, values)
    if found.ndim != 2 or not found.size:
        raise UsageError(f"{name}: has shape {found.shape}; needs rows and columns")
    return found


def at_least_zero(name: str, value: float) -> float:
    """A finite number that is not negative."""
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name}: is {value:g}; has to be 0 or more, and finite")
    return float(value)


def whole(name: str, value: int, *, least: int = 1, most: int | None = None, because: str = "") -> int:
    """A whole number from `least` to `most`; `because` says what the most comes from."""
    try:
        found = operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name}: is {value!r}; has to be a whole number") from error
    if found < least or (most is not None and found > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name}: is {found}; has to be {bounds}{because}")
    return found


def checked_widths(values: Sequence[int], size: int) -> tuple[int, ...]:
    """Numbers of features to train on, out of `size`; at least one number."""
    if not len(values):
        raise UsageError("widths: there are none; needs at least one number of features to train on")
    return tuple(whole("p", p, most=size, because=", the number of features") for p in values)


def chosen(features: ArrayLike, size: int) -> Indices:
    """Numbers of different features, counted from 0, as an index."""
    found = np.array(features)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        raise UsageError(f"features: are {features!r}; needs a list of whole numbers from 0 to {size - 1}")
    if found.min() < 0 or found.max() >= size or np.unique(found).size != found.size:
        raise UsageError(
            f"features: from {found.min()} to {found.max()}; needs different ones from 0 to {size - 1}"
        )
    return found.astype(np.intp)


def _numbers(name: str, values: ArrayLike) -> Floats:
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: is no list of numbers: {error}") from error
    if not np.isfinite(found).all():
        raise UsageError(
            f"{name}: {np.count_nonzero(~np.isfinite(found))} are NaN or infinite; all have to be finite"
        )
    found.setflags(write=False)
    return found
