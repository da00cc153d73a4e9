"""Importing this registers every built-in function; recipes need it, tables of stored runs do not."""

from prunecli import (
    augmentations,
    criteria,
    datasets,
    initializations,
    labels,
    models,
    observers,
    optimizers,
    run_examples,
    schedules,
    scopes,
    scores,
    selections,
    stages,
    stored_labels,
)

__all__ = [
    "augmentations",
    "criteria",
    "datasets",
    "initializations",
    "labels",
    "models",
    "observers",
    "optimizers",
    "run_examples",
    "schedules",
    "scopes",
    "scores",
    "selections",
    "stages",
    "stored_labels",
]
