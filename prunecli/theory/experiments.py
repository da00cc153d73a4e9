"""Experiments beside the theory: data drawn, models trained, pruned, trained again; their population risks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Protocol

import numpy as np

from prunecli.errors import UsageError, suggest
from prunecli.theory.checks import Floats, checked_widths, whole
from prunecli.theory.problems import Sample
from prunecli.theory.solutions import embedded, fit, keep


class Problem(Protocol):
    """What can be drawn from, and knows a model's population risk."""

    @property
    def size(self) -> int:
        """The number of features."""

    @property
    def saliencies(self) -> Floats:
        """What the oracle ranks features by (d,)."""

    def first(self, p: int) -> Problem:
        """The problem of a model that sees the first p features."""

    def draw(self, n: int, generator: np.random.Generator) -> Sample:
        """n examples."""

    def risk(self, weights: Floats) -> Floats:
        """The population risk of weights (..., p) of the first p features."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a score may look at: weights (p,), features' variances in the sample, a generator, and the truth.

    The true saliencies are computed when they are asked for, once for each width of a problem.
    """

    weights: Floats
    variances: Floats
    saliencies: Callable[[], Floats]
    generator: np.random.Generator


def magnitude(model: Trained) -> Floats:
    """|theta_i| (Han et al., 2015)."""
    return np.abs(model.weights)


def hessian(model: Trained) -> Floats:
    """sqrt(Sigma^_ii)|theta_i|, of the order of theta_i^2 H_ii / 2 (optimal brain damage; LeCun et al., 1990)."""
    return np.sqrt(model.variances) * np.abs(model.weights)


def oracle(model: Trained) -> Floats:
    """lam_i beta_i^2, which no data tell."""
    return model.saliencies()


def random(model: Trained) -> Floats:
    """Numbers that know nothing of the model."""
    return model.generator.random(model.weights.size)


SCORES: Mapping[str, Callable[[Trained], Floats]] = MappingProxyType(
    {"magnitude": magnitude, "hessian": hessian, "oracle": oracle, "random": random}
)
"""Pruners by name: the weights of the highest scores are kept."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """Population risks, each of shape (seeds, widths): without pruning, pruned as trained, and trained again.

    `np.median(pruned["hessian"], axis=0)` is a curve over widths. Within 10% of p = n take the median, not the mean:
    a few draws are far worse than the rest.
    """

    widths: tuple[int, ...]
    n: int
    kept: int
    seeds: tuple[int, ...]
    none: Floats
    pruned: Mapping[str, Floats]
    retrained: Mapping[str, Floats]


def experiment(
    problem: Problem | Callable[[np.random.Generator], Problem],
    *,
    n: int,
    kept: int,
    widths: Sequence[int],
    seeds: Sequence[int] = range(20),
    pruners: Sequence[str] = ("magnitude", "hessian", "oracle"),
) -> Experiment:
    """Models on the first p features, for each p of `widths`, pruned to `kept` weights, once for each seed.

    All models of a seed share its n examples. A function in place of a problem draws each seed's problem, as random
    features are. Where p <= `kept` nothing is pruned.

    Raises:
        UsageError: a number is out of its range, a pruner unknown, or there are no seeds.
    """
    n, kept = whole("n", n), whole("kept", kept)
    numbers = tuple(whole("seed", seed, least=0) for seed in seeds)
    if not numbers:
        raise UsageError("seeds: there are none; needs at least one")
    for name in pruners:
        if name not in SCORES:
            raise UsageError(f"unknown pruner '{name}'{suggest(name, SCORES)}")
    known = _known(problem)
    rows = [_repetition(known(seed), n, kept, widths, pruners, seed) for seed in numbers]
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    pruned = MappingProxyType({name: table["pruned", name] for name in pruners})
    retrained = MappingProxyType({name: table["retrained", name] for name in pruners})
    return Experiment(tuple(map(int, widths)), n, kept, numbers, table["none", ""], pruned, retrained)


@dataclass(frozen=True)
class _Known:
    """A problem, and the saliencies of its first p features, computed once."""

    problem: Problem
    saliencies: Callable[[int], Floats]

    @classmethod
    def of(cls, problem: Problem) -> _Known:
        return cls(problem, cache(lambda p: problem.first(p).saliencies))


def _known(problem: Problem | Callable[[np.random.Generator], Problem]) -> Callable[[int], _Known]:
    """Each seed's problem: its own where it is drawn, else the same."""
    if callable(problem):
        return lambda seed: _Known.of(problem(_generator(seed, "problem")))
    known = _Known.of(problem)
    return lambda _: known


def _repetition(
    known: _Known, n: int, kept: int, widths: Sequence[int], pruners: Sequence[str], seed: int
) -> dict[tuple[str, str], list[float]]:
    """One seed's risks over widths, by what was done and the pruner."""
    ps = checked_widths(widths, known.problem.size)
    sample = known.problem.draw(n, _generator(seed, "sample"))
    columns = [_risks(known, sample, p, min(kept, p), pruners, _generator(seed, f"width {p}")) for p in ps]
    return {name: [column[name] for column in columns] for name in columns[0]}


def _risks(
    known: _Known, sample: Sample, p: int, kept: int, pruners: Sequence[str], generator: np.random.Generator
) -> dict[tuple[str, str], float]:
    """The risks of the model on the first p features."""
    features = sample.features[:, :p]
    weights = fit(features, sample.targets)
    model = Trained(weights, features.var(axis=0), partial(known.saliencies, p), generator)
    models = {("none", ""): weights}
    for name in pruners:
        index = keep(SCORES[name](model), kept)
        models["pruned", name] = embedded(weights[index], index, p)
        models["retrained", name] = embedded(fit(features[:, index], sample.targets), index, p)
    risks = known.problem.risk(np.array(list(models.values())))
    return dict(zip(models, risks.tolist(), strict=True))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Draws of a seed for a purpose."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *purpose.encode()])))
