"""Observers: what is written down of a level. Positional parameters name what an observer looks at.

`train` and `test` are the level's outcomes at its end; `before` and `after` the test outcomes around its
pruning. An observer that asks for what a level does not have is not called. Names with a slash are places in
the store; others go to `observations/<observer>/<name>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunecli.lab import Lab
from prunecli.registry import Choice, observers
from prunecli.state import Outcomes, State
from prunecli.underway import COLUMNS, CURVE

SEEN = ("train", "test", "before", "after", "state", "lab")
"""What an observer may ask for."""

Arrays = Mapping[str, NDArray[Any]]  # Any: float64, float32 and uint8, as the contract says


@observers
def example_losses(train: Outcomes, test: Outcomes) -> Arrays:
    """Each example's loss, and whether it is classified as its label says, at the level's end."""
    return {
        f"{place}/{name}": array
        for place, seen in (("examples", train), ("test", test))
        for name, array in (("loss", seen.loss.numpy()), ("correct", seen.correct.numpy().astype(np.uint8)))
        if len(array)
    }


@observers
def instability(before: Outcomes, after: Outcomes) -> Arrays:
    """The relative drop of test accuracy by pruning, (before - after) / before (Bartoldson et al., 2020).

    Both accuracies are taken with no step in between and BatchNorm's statistics as they are; the test errors
    are in percent. Where labels are numbers there are the losses before and after instead.
    """
    if not len(before.correct):
        losses = {"before": before.loss, "after": after.loss}
        return {
            f"metrics/test_loss_{when}_pruning": np.asarray(loss.double().mean().item())
            for when, loss in losses.items()
        }
    was, became = before.correct.double().mean().item(), after.correct.double().mean().item()
    return {
        "metrics/test_error_before_pruning": np.asarray(before.error),
        "metrics/test_error_after_pruning": np.asarray(after.error),
        "metrics/instability": np.asarray((was - became) / was if was else np.nan),
    }


@observers(curved=True)
def epochs(state: State, lab: Lab, *, late: Annotated[int, Field(ge=1, le=1_000_000)] = 10) -> Arrays:
    """Errors at the end of each epoch of a level, and what is best, late and selected among them.

    `best_test_error` is what Bartoldson et al. (2020) report, at the last level: selected by the test set, it is
    optimistic. `late_test_error` is the mean of the last `late` epochs; `selected_test_error` that of the epoch with
    the lowest validation error. `generalization_gap` is at the best epoch, against the running error of its training.
    Curves have as many places as the recipe has epochs, the last ones of a longer level.
    """
    rows = state.observed.get(CURVE)
    if rows is None or not len(rows):
        return {}
    columns = {name: rows[:, number].numpy() for number, name in enumerate(COLUMNS)}
    test, picked = columns["test_error"], _lowest(columns["validation_error"])
    best = int(test.argmin())
    scalars = {
        "best_test_error": test[best],
        "best_epoch": columns["spent"][best],
        "generalization_gap": test[best] - columns["train_error"][best],
        "late_test_error": test[-late:].mean(),
        "selected_test_error": np.nan if picked is None else test[picked],
        "selected_epoch": np.nan if picked is None else columns["spent"][picked],
    }
    places = math.ceil(lab.experiment.epochs)
    return {
        **{f"metrics/{name}": np.asarray(value) for name, value in scalars.items()},
        **{name: _in_places(values, places) for name, values in columns.items()},
    }


def _lowest(values: NDArray[np.float64]) -> int | None:
    """Where the lowest number is first; None where there is none."""
    return None if np.isnan(values).all() else int(np.nanargmin(values))


def _in_places(values: NDArray[np.float64], places: int) -> NDArray[np.float64]:
    """The last numbers in so many places, NaN in those that are left."""
    last = values[-places:]
    return np.concatenate([last, np.full(places - len(last), np.nan)])


def observe(choice: Choice, seen: Mapping[str, object]) -> Arrays:
    """What an observer makes of what it asks for; nothing where that is not there."""
    needs = choice.entry.needs
    if not all(name in seen for name in needs):
        return {}
    found: Arrays = choice(*(seen[name] for name in needs))
    own = {f"observations/{choice.name}/{name}": array for name, array in found.items() if "/" not in name}
    placed = {place: np.asarray(array) for place, array in found.items() if "/" in place}
    return placed | {place: np.asarray(array, dtype=np.float64) for place, array in own.items()}
