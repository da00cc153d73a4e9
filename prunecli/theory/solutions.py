"""Linear models as they are trained, pruned and trained again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import lstsq

from prunecli.errors import UsageError
from prunecli.theory.checks import Floats, Indices, chosen, matrix, vector, whole


def fit(features: Floats, targets: Floats) -> Floats:
    """Weights (p,) of least squares, of minimum norm where examples (n, p) leave a choice.

    From a QR decomposition with pivots: it squares no condition number, as the normal equations would.
    """
    weights, *_ = lstsq(features, targets, lapack_driver="gelsy", check_finite=False)
    return np.asarray(weights)


def keep(scores: Floats, kept: int) -> Indices:
    """The numbers of the `kept` highest scores, ascending; of equal ones the first."""
    # Rank, never threshold: tied scores would keep too many or too few.
    return np.sort(np.argsort(-scores, kind="stable")[:kept])


def support(weights: ArrayLike, scores: ArrayLike, *, kept: int) -> Floats:
    """The weights with the `kept` highest scores as they are, the others 0 (p,).

    Raises:
        UsageError: there are not as many scores as weights, or fewer weights than are kept.
    """
    trained = vector("weights", weights)
    index = keep(
        vector("scores", scores, size=trained.size),
        whole("kept", kept, most=trained.size, because=", the number of weights"),
    )
    return embedded(trained[index], index, trained.size)


def trained_on(features: ArrayLike, targets: ArrayLike, index: ArrayLike) -> Floats:
    """Weights (p,) trained on these features alone, counted from 0; those of the others are 0."""
    examples = matrix("features", features)
    wanted = vector("targets", targets)
    if wanted.size != len(examples):
        raise UsageError(f"targets: there are {wanted.size} for {len(examples)} examples; needs one for each")
    columns = chosen(index, examples.shape[1])
    return embedded(fit(examples[:, columns], wanted), columns, examples.shape[1])


def embedded(weights: Floats, index: Indices, size: int) -> Floats:
    """A model of `size` weights with these at `index`, the others 0."""
    model = np.zeros(size)
    model[index] = weights
    return model
