"""What is known of a state before anything runs: clocks and counts, of no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prunecli.widths import Widths


@dataclass(frozen=True)
class Outlook:
    """What is known of a state before anything runs; clocks in epochs, `epochs` the recipe's.

    `density` is None once it depends on which layers the weights are in.
    """

    epochs: float
    steps_per_epoch: int | None = None
    """Known once the dataset is: clocks are then whole steps, as training's are."""
    total: int | None = None
    """Prunable weights, once the model is known: counts are then whole, as pruning's are."""
    excluded: int = 0
    """Weights of linear and convolution layers that the recipe excludes from pruning, once the model is known."""
    level: int = 0
    step: float = 0.0
    spent: float = 0.0
    early: bool = False
    """Whether a training may have ended sooner, so that `step` and `spent` are the most that they can be."""
    density: float | None = 1.0
    expected: float | None = None
    """What an unknown density comes to on average, where weights are dropped by chance."""
    points: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] | None = None
    """Those of prunable weights, once the model is known."""
    widths: Widths | None = None
    """The model at other widths, once it is known."""
    chosen: Mapping[tuple[bool, str], int] = field(default_factory=dict)
    """Filters (True) or weights that `prune_layers` has dropped in a layer, once the model is known."""
    dropped: int = 0
    """Weights that it has dropped in all."""
    parts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """What part of a layer, or of those of a pattern, it has come to: to `remove`, and to `inject` into."""
    busy_until: Mapping[str, float] = field(default_factory=dict)
    """For such a layer or pattern, the epochs to be spent before what is injected is over."""

    def whole(self, epochs: float) -> float:
        """The epochs that so many come to in whole steps."""
        per = self.steps_per_epoch
        return epochs if per is None else round(epochs * per) / per

    def pruned(self, fraction: float) -> float:
        """The density once a fraction of what is kept is dropped."""
        density = self.density or 0.0
        if not self.total:
            return density * (1 - fraction)
        return (self.kept - round(fraction * self.kept)) / self.total

    def at_most(self, density: float | None) -> Outlook:
        """Once what is kept is pruned to a density over all layers; where either is not known, nor is what is left."""
        if self.density is None or density is None:
            return replace(self, density=None, expected=None)
        return replace(self, density=min(self.density, density))

    @property
    def kept(self) -> int:
        """Prunable weights that are kept, where their number is known."""
        return round((self.density or 0.0) * (self.total or 0))

    @property
    def density_of_all(self) -> float | None:
        """The density of prunable and excluded weights together; None where their number is not known."""
        if self.density is None or not self.total:
            return None
        return (self.kept + self.excluded) / (self.total + self.excluded)
