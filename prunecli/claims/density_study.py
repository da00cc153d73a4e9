"""Stored runs as the study of Yang et al. (2023): sweeps over densities, on two patches and on noisy inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from prunecli.compare import Compared
from prunecli.errors import NotComparable
from prunecli.methods import name_of, options_of
from prunecli.thresholds import DensitySweep, Spot, density_sweeps

SAME = 0.1
"""How far apart, as a part of it, a density may be from one that is asked for: Bernoulli draws differ a little."""


@dataclass(frozen=True)
class DensityStudy:
    """Sweeps over densities, and the confidence of intervals."""

    sweeps: tuple[DensitySweep, ...]
    confidence: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answers should know."""
        return (
            "B4 has no statement in the checks of the paper's setting, and is left out",
            "the improvement by mild pruning is proved of an upper bound; whether the loss itself falls depends on "
            "activation and signal-to-noise ratio",
        )

    def subjects(self, scope: str) -> Iterator[tuple[str, DensitySweep]]:
        """`patches` are the sweeps on two patches, `noisy inputs` those whose inputs have noise."""
        for one in self.sweeps:
            if (scope == "patches" and one.mild is not None) or (scope != "patches" and noise_of(one) > 0):
                yield _name(one), one


def density_study(compared: Compared) -> DensityStudy:
    """The runs, sorted into sweeps."""
    return DensityStudy(tuple(density_sweeps(compared)), compared.confidence)


def noise_of(sweep: DensitySweep) -> float:
    """The standard deviation of the noise on the inputs; 0 without."""
    inputs = sweep.recipe.get("inputs", "clean")
    found = options_of(inputs).get("std")
    known = name_of(inputs) == "gaussian" and isinstance(found, (int, float))
    return float(found) if known and found is not None and 0 <= found < math.inf else 0.0


def _name(sweep: DensitySweep) -> str:
    """`two_layer on two_patches, dimension 4000, power 2: prune_bernoulli, train`."""
    recipe = sweep.recipe
    model, data = (recipe.get(key, "") for key in ("model", "data"))
    more = {"dimension": options_of(data).get("dimension"), "power": options_of(model).get("power")}
    words = [f"{key} {value}" for key, value in more.items() if value is not None]
    words += [f"noise {noise_of(sweep):g}"] if noise_of(sweep) else []
    stages = recipe.get("procedure", [])
    told = ", ".join(dict.fromkeys(map(name_of, stages if isinstance(stages, list) else [])))
    return f"{', '.join([f'{name_of(model)} on {name_of(data)}', *words])}: {told}"


def spot_at(sweep: DensitySweep, density: float) -> Spot:
    """The level at a density.

    Raises:
        NotComparable: there is none.
    """
    near = [spot for spot in sweep.spots if abs(spot.level.density - density) <= SAME * density]
    if not near:
        raise NotComparable(f"no run at a density of {density:.3g}")
    return min(near, key=lambda spot: abs(spot.level.density - density))
