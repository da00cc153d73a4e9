"""A criterion of your own: a function from weights to scores; pruning drops the lowest.

    prunecli prune examples/own_criterion.yaml --allow-code

Positional parameters name the evidence (`weights`, `generator`); keyword-only ones are options of the recipe.
"""

from collections.abc import Mapping

from torch import Tensor


def scaled_magnitude(weights: Mapping[str, Tensor], *, power: float = 1.0) -> dict[str, Tensor]:
    """|w| over the layer's mean |w| to a power: 0 is magnitude, 1 makes layers equal on average."""
    return {name: weight.abs() / weight.abs().mean() ** power for name, weight in weights.items()}
