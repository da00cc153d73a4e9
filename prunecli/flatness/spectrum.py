"""Eigenvalues of largest magnitude and the trace of a symmetric operator that is only known by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""The operator times a vector (N,)."""
Draw = Callable[[], Tensor]
"""A random vector (N,), another one at each call."""
Values = NDArray[np.float64]
ROOM = 30
"""Basis vectors beside those asked for, at least: fewer make more products, more take more memory."""
LOOKED_AGAIN = 20
"""Products from a new start after which an eigenvalue that was missed has shown itself."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (K,) by falling magnitude, unit eigenvectors (K, N), and how far each pair is from being one.

    `residuals` (K,) are norms |A v - value v|: a true eigenvalue is at most as far from each.
    """

    values: Values
    vectors: Tensor
    residuals: Values
    products: int
    settled: NDArray[np.bool_]

    @property
    def found(self) -> Values:
        """The eigenvalues, NaN where the products did not suffice."""
        return np.where(self.settled, self.values, np.nan)


def spectrum(
    product: Product, draw: Draw, count: int, *, tolerance: float = 1e-4, most: int = 2000
) -> Spectrum:
    """The `count` eigenvalues of largest magnitude, or all where there are fewer, by thick-restart Lanczos.

    Every new vector is made orthogonal to all before it, twice. Once all residuals are at most `tolerance` times the
    largest magnitude it begins again, orthogonal to what was found, until that finds nothing more: one start sees but
    one of several equal eigenvalues. NaN everywhere where a product is not finite. Takes count + max(30, count / 2)
    vectors of memory and at most `most` products.

    Source: Wu and Simon (2000), sections 2 and 3.
    """
    following = draw()
    size = len(following)
    count = min(count, size)
    basis = _Basis(following, room(size, count))
    known: Values | None = None
    fresh = used = 0
    while True:
        outside, used, fresh = basis.add_(following, product), used + 1, fresh + 1
        if not math.isfinite(norm := float(outside.norm())) or not basis.finite:
            return _nothing(following, count, used)
        found = basis.pairs(norm, count, used, tolerance)
        settled = basis.filled >= count and bool(found.settled.all())
        if basis.filled == size or used == most:
            return _whole(found, basis)
        following = outside
        if settled and (known is None or fresh >= LOOKED_AGAIN):
            # A single one needs no second look: it has the value of its equals.
            if count == 1 or (known is not None and _same(known, found.values, tolerance)):
                return _whole(found, basis)
            known, fresh = found.values, 0
            basis.forget_(norm, count)
            following = draw()
        elif norm <= 100 * torch.finfo(outside.dtype).eps * abs(found.values[0]):
            following = draw()  # nothing is left of the space that this start reaches
        if basis.filled == basis.room:
            basis.compress_((basis.room + count) // 2)


def room(size: int, count: int) -> int:
    """How many vectors of a size are in memory while so many eigenvectors are found."""
    return min(size, count + max(ROOM, count // 2))


def trace(product: Product, draw: Draw, known: Spectrum, draws: int) -> tuple[float, float]:
    """The trace and its standard error: the known eigenvalues, and Hutchinson's mean over what is orthogonal to them.

    `draw` gives vectors of independent signs. The mean of z' A z over such z, projected, is the trace of the rest
    whether the eigenvectors have settled or not, and varies far less than without them. NaN where a product is not
    finite; the error is 0 where all eigenvectors are known.

    Source: Hutchinson (1989); Meyer et al. (2021), section 3, with eigenvectors as the subspace.
    """
    inside = float(known.values.sum())
    if not math.isfinite(inside):
        return math.nan, math.nan
    if len(known.vectors) == known.vectors.shape[1]:
        return inside, 0.0
    samples = np.empty(draws)
    for number in range(draws):
        signs = draw()
        rest = signs - (known.vectors @ signs) @ known.vectors
        samples[number] = float(rest.double() @ product(rest).double())
    return inside + samples.mean(), float(samples.std(ddof=1) / math.sqrt(draws))


class _Basis:
    """Orthonormal vectors with the operator's projection onto them; what ends in _ changes them."""

    def __init__(self, like: Tensor, room: int) -> None:
        self.room, self.filled = room, 0
        self.vectors = like.new_empty(room, len(like))
        self._projected = np.zeros((room, room))
        self._lost = np.zeros((1, 0))
        self._ritz: tuple[Values, Values] = (np.zeros(0), np.zeros((0, 0)))

    def add_(self, vector: Tensor, product: Product) -> Tensor:
        """Take a vector in, made orthogonal and normalized; what its image has outside of them all."""
        self.vectors[self.filled] = self._unit_outside(vector)
        self.filled += 1
        self._lost = np.pad(self._lost, ((0, 0), (0, 1)))
        image, coefficients = self._outside(product(self.vectors[self.filled - 1]))
        row = coefficients.double().cpu().numpy()
        self._projected[: self.filled, self.filled - 1] = self._projected[self.filled - 1, : self.filled] = (
            row
        )
        if self.finite:
            values, vectors = np.linalg.eigh(self._projected[: self.filled, : self.filled])
            order = np.argsort(-np.abs(values), kind="stable")
            self._ritz = values[order], vectors[:, order]
        return image

    @property
    def finite(self) -> bool:
        """Whether all products so far were."""
        return bool(np.isfinite(self._projected).all())

    def pairs(self, outside: float, count: int, products: int, tolerance: float) -> Spectrum:
        """The projection's eigenpairs of largest magnitude, their vectors not yet put together.

        The last image reaches so far `outside` the basis; what others reach is lost, and bounded.
        """
        values, vectors = self._ritz
        lost = np.linalg.norm(self._lost @ vectors, axis=0)
        residuals = outside * np.abs(vectors[-1])
        # At most half of what is left of the tolerance: what a new start loses is to leave some for the next.
        settled = 2 * residuals <= tolerance * np.abs(values[0]) - lost
        return Spectrum(
            values[:count], self.vectors[:0], (residuals + lost)[:count], products, settled[:count]
        )

    def forget_(self, outside: float, count: int) -> None:
        """Keep only the span of so many eigenvectors, and not what the last image reaches outside."""
        self._lost = np.vstack([self._lost, outside * np.eye(self.filled)[-1]])
        self.compress_(count)

    def compress_(self, count: int) -> None:
        """Keep only the span of the eigenvectors of largest magnitude."""
        values, vectors = self._ritz
        turn = torch.from_numpy(vectors[:, :count].T.copy()).to(self.vectors)
        # In columns, so that no second basis is in memory.
        for first in range(0, self.vectors.shape[1], 2**16):
            columns = slice(first, first + 2**16)
            self.vectors[:count, columns] = turn @ self.vectors[: self.filled, columns]
        self._lost = self._lost @ vectors[:, :count]
        self.filled = min(count, self.filled)
        self._projected[:] = 0
        self._projected[: self.filled, : self.filled] = np.diag(values[: self.filled])
        self._ritz = values[: self.filled], np.eye(self.filled)

    def _unit_outside(self, vector: Tensor) -> Tensor:
        outside, _ = self._outside(vector / vector.norm())
        # What is left of a vector that was all but inside is rounding: once more makes it orthogonal too.
        outside, _ = self._outside(outside / outside.norm())
        unit: Tensor = outside / outside.norm()
        return unit

    def _outside(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What of a vector is orthogonal to all, and its products with them."""
        basis = self.vectors[: self.filled]
        coefficients = vector.new_zeros(self.filled)
        for _ in range(2):
            some = basis @ vector
            vector, coefficients = vector - some @ basis, coefficients + some
        return vector, coefficients


def _whole(found: Spectrum, basis: _Basis) -> Spectrum:
    """The eigenpairs with their vectors, which are the basis's from now on."""
    basis.compress_(len(found.values))
    return replace(found, vectors=basis.vectors[: basis.filled])


def _same(before: Values, now: Values, tolerance: float) -> bool:
    # Magnitudes: a value and its negative may change places.
    changed = np.abs(np.abs(now) - np.abs(before))
    return bool((changed <= tolerance * np.abs(now[0])).all())


def _nothing(like: Tensor, count: int, products: int) -> Spectrum:
    nan, none = np.full(count, np.nan), np.zeros(count, dtype=np.bool_)
    return Spectrum(nan, like.new_empty(0, len(like)), nan, products, none)
