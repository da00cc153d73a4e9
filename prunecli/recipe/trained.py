"""Models that begin from trained weights: what a recipe may not ask for beside them."""

from __future__ import annotations

from prunecli.errors import Mistake
from prunecli.experiment import Experiment

KEEPS = "own"
"""The initialization that leaves weights as they are."""


def lost_weights(experiment: Experiment) -> list[Mistake]:
    """The mistakes of a recipe that would throw its model's trained weights away."""
    model, initialization = experiment.model, experiment.initialization
    if not model.entry.remote:
        return []
    found = []
    if initialization.name != KEEPS:
        message = (
            f"initialization '{initialization.name}' would throw the trained weights of '{model.name}' away"
        )
        advice = f"write `initialization: {KEEPS}`, or take the architecture without weights, timm:NAME"
        found.append(Mistake(initialization.place, f"{message}; {advice}"))
    for stage in (inner for outer in experiment.procedure for inner in outer.named()):
        if stage.kind == "stages" and stage.name == "reinitialize":
            message = (
                f"'reinitialize' would not draw afresh what '{model.name}' brings: its weights are trained"
            )
            advice = "save a point and rewind to it (`rewind: {what: weights, to: POINT}`), or take timm:NAME"
            found.append(Mistake(stage.place, f"{message}; {advice}"))
    return found
