"""What a plan says of itself: stages in a line, and all of it as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prunecli.plan import PlannedRun
from prunecli.registry import Choice
from prunecli.trained_weights import trained_at


def described(choice: Choice) -> str:
    """A choice in a line, with the options that are not at their defaults: `prune(fraction=0.2)`."""
    parameters = choice.entry.options
    if told := choice.entry.traits.get("told"):
        return f"{choice.name}({told(**choice.options)})"
    given = [
        f"{name}={_in_words(value)}"
        for name, value in choice.options.items()
        if value != parameters[name].default
    ]
    return f"{choice.name}({', '.join(given)})" if given else choice.name


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_in_words, value))}]"
    return described(value) if isinstance(value, Choice) else str(value)


def as_json(plan: PlannedRun) -> dict[str, Any]:  # Any: what JSON holds
    """A plan as JSON holds it."""
    return {
        "label": plan.point.label,
        "folder": None if plan.folder is None else str(plan.folder),
        "model": plan.point.experiment.model.name,
        "data": plan.point.experiment.data.name,
        "parameters": plan.parameters,
        "pretrained": trained_at(plan.point.experiment.model.name),
        "prunable": plan.prunable,
        "excluded": plan.excluded,
        "examples": {
            name: getattr(plan.counts, name) for name in ("train", "validation", "left_out", "test")
        },
        "split": plan.split or None,
        "lacking_classes": list(plan.counts.lacking),
        "steps_per_epoch": plan.steps_per_epoch,
        "seeds": plan.point.experiment.seeds,
        "epochs_per_seed": plan.epochs,
        "seconds": plan.seconds,
        "store_bytes": plan.store_bytes,
        "state_bytes": plan.state_bytes,
        "weights_bytes": plan.weights_bytes,
        "seconds_saved": plan.saved,
        "reused": [asdict(one) | {"levels": one.levels} for one in plan.reused],
        "missing": plan.missing or None,
        "levels": [
            {
                "level": foreseen.level.number,
                "stages": [described(stage) for stage in foreseen.level.stages],
                "density": foreseen.outlook.density,
                "expected_density": foreseen.outlook.expected,
                "density_of_all": foreseen.outlook.density_of_all,
                "spent": foreseen.outlook.spent,
                "may_end_sooner": foreseen.outlook.early,
            }
            for foreseen in plan.levels
        ],
    }
