"""Which models begin from trained weights, by what a recipe calls them; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping

LIBRARY, HUB = "timm:", "hf-hub:"
"""The only names under which a model has trained weights: `timm:hf-hub:ORG/NAME@REVISION`."""


def trained_at(model: object) -> str | None:
    """Where a recipe's choice of model has its trained weights from; None of a model that is drawn afresh."""
    name = next(iter(model), None) if isinstance(model, Mapping) else model
    if not isinstance(name, str) or not name.startswith(LIBRARY + HUB):
        return None
    return name.removeprefix(LIBRARY)
