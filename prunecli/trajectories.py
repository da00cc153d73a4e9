"""Names of states by all that led to them: equal names, equal weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prunecli.building import asks_for_firing, drops_filters, ends_early
from prunecli.experiment import Experiment, digest
from prunecli.outlook import Outlook
from prunecli.procedure import SAVE, levels
from prunecli.registry import Choice
from prunecli.registry import plain as plain_value
from prunecli.store.codec import FORMAT_VERSION


def prefix_digest(experiment: Experiment, fingerprint: str, level: int) -> str:
    """Names the state at a level's end by all that led to it: what comes after in the recipe does not count."""
    stages = [stage for cut in levels(experiment.procedure)[: level + 1] for stage in cut.stages]
    prefix = replace(experiment, procedure=stages, observe=curved(experiment)).plain(results_only=True)
    return digest(
        {"format": FORMAT_VERSION, "experiment": prefix, "fingerprint": fingerprint, **_held(experiment)}
    )


def prefixes(experiment: Experiment, fingerprint: str) -> list[str]:
    """Names each level by all that led to its end and by what is observed: equal names, equal numbers."""
    names: list[str] = []
    # The stages of a `repeat` are the same ones in each turn.
    forms: dict[tuple[int, ...], str] = {}
    for level in levels(experiment.procedure):
        stages = tuple(map(id, level.stages))
        if stages not in forms:
            turn = replace(experiment, procedure=list(level.stages))
            forms[stages] = digest(turn.plain(results_only=True))
        first = {"format": FORMAT_VERSION, "fingerprint": fingerprint, **_held(experiment)}
        before = names[-1] if names else first
        names.append(digest({"before": before, "level": forms[stages]}))
    return names


def trajectory_digest(
    experiment: Experiment, fingerprint: str, steps_per_epoch: int, stages: Sequence[Choice]
) -> str:
    """Names the weights that first stages lead to: `save` alone changes none, and training can be cut anywhere."""
    plain = replace(experiment, procedure=list(stages), observe=curved(experiment)).plain(results_only=True)
    plain["procedure"] = _trajectory(experiment, steps_per_epoch, stages)
    return digest(
        {"format": FORMAT_VERSION, "trajectory": plain, "fingerprint": fingerprint, **_held(experiment)}
    )


def _held(experiment: Experiment) -> dict[str, bool]:
    """What a state holds from its beginning on for stages that come later; nothing of what is not held."""
    held = {
        "filters": drops_filters(experiment),
        "activations": asks_for_firing(experiment),
        "epochs": ends_early(experiment),
    }
    return {what: True for what, is_held in held.items() if is_held}


def curved(experiment: Experiment) -> list[Choice]:
    """The observers that a state has notes of, which it cannot be shared without."""
    return [choice for choice in experiment.observe if {"curved", "along"} & set(choice.entry.traits)]


def _trajectory(experiment: Experiment, steps_per_epoch: int, stages: Sequence[Choice]) -> list[Any]:
    """The stages, adjacent trainings by one schedule joined, each from a step to a step.

    `save` is left out where nothing looks back: otherwise what a point holds decides what comes after.
    """
    if not all(stage.entry.traits.get("foresee") for stage in stages):
        # What a stage of the user's own does to the clocks is not known.
        return [stage.plain(results_only=True) for stage in stages]
    outlook, form = Outlook(experiment.epochs, steps_per_epoch), list[Any]()
    looks_back = any({"rewinds", "restores"} & set(stage.entry.traits) for stage in stages)
    for stage in stages:
        start = outlook.step
        outlook = stage.entry.traits["foresee"](outlook, **stage.options)
        # Where a training may end sooner, no other's weights on the way are its own, and clocks are not known after it.
        if stage.entry.traits.get("one_training") and not outlook.early:
            rate = plain_value(stage.options.get("learning_rate"), results_only=True)
            if not stage.options.get("augment", True):
                rate = {"rate": rate, "augment": False}
            ends = {"start": round(start * steps_per_epoch), "end": round(outlook.step * steps_per_epoch)}
            if form and isinstance(form[-1], _Training) and form[-1]["rate"] == rate:
                ends["start"] = form.pop()["start"]
            form.append(_Training(ends | {"rate": rate}))
        elif looks_back or stage.name != SAVE:
            form.append(stage.plain(results_only=True))
    return form


class _Training(dict[str, Any]):  # Any: what JSON holds
    """A training in a trajectory's form: its first and last step, and its schedule."""
