"""What is written down of a level: metrics, per-example outcomes, masks, and what observers see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunecli.building import TRAINING, VALIDATION
from prunecli.errors import Diverged
from prunecli.filters import beside_of
from prunecli.lab import Lab
from prunecli.observers import observe
from prunecli.state import Outcomes, State, error_percent
from prunecli.store.values import Measured


def measure(level: int, state: State, lab: Lab, around: Mapping[str, Outcomes]) -> tuple[Measured, Outcomes]:
    """What is stored of a level that ends in a state, and its test outcomes.

    `around` has the test outcomes `before` and `after` the level's pruning; level 0 reports none.

    Raises:
        Diverged: an example's loss is NaN or infinite.
    """
    train = lab.outcomes(state, lab.dataset.train, lab.targets.used)
    test = tested(lab, state)
    _check_finite(level, lab.seed, state, {"training": train, "test": test})
    inside = {place: one.numpy() for place, one in state.observed.items() if not place.startswith("within/")}
    arrays = inside | _always(lab, state, train, test)
    seen = {**(around if level > 0 else {}), "train": train, "test": test, "state": state, "lab": lab}
    for choice in lab.experiment.observe:
        arrays.update(observe(choice, seen))
    # In the model's order, whatever that of a state is which was read back: equal levels are equal bytes.
    names = (*lab.names, *beside_of(lab.filters))
    kept = {name: state.masks[name].numpy(force=True) for name in names}
    spent = lab.epoch(state.spent)
    return Measured(lab.seed, level, state.masks.density, spent, arrays, kept, state.masks.beside), test


def tested(lab: Lab, state: State) -> Outcomes:
    """The test outcomes of a state."""
    return lab.outcomes(state, lab.dataset.test, lab.dataset.test.labels)


def _always(
    lab: Lab, state: State, train: Outcomes, test: Outcomes
) -> dict[str, NDArray[Any]]:  # Any: see Measured
    """What every level stores, whoever observes."""
    targets = lab.targets
    split = targets.split.numpy()
    parts = {"train": split == TRAINING, "validation": split == VALIDATION}
    arrays: dict[str, NDArray[Any]] = {
        **_labels(lab),
        "examples/noisy": targets.noisy.numpy().astype(np.uint8),
        "examples/split": split,
        "layers/name": np.array(lab.names, dtype=object),
        "layers/total": np.array([state.masks[name].numel() for name in lab.names], dtype=np.int64),
        "layers/kept": np.array([int(state.masks[name].sum()) for name in lab.names], dtype=np.int64),
    }
    arrays |= _metrics("test", test, np.ones(len(test.loss), dtype=np.bool_))
    for name, part in parts.items():
        arrays |= _metrics(name, train, part) if part.any() else {}
    if state.spent:
        arrays["metrics/diverged"] = diverged(train.loss.numpy()[parts["train"]], _guessed(lab))
    noisy = targets.noisy.numpy()
    if noisy.any():
        for name, part in (("clean", ~noisy), ("noisy", noisy)):
            chosen = parts["train"] & part
            arrays[f"metrics/train_loss_{name}"] = _mean(train.loss.numpy()[chosen])
    return arrays


def _metrics(name: str, seen: Outcomes, part: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    found = {f"metrics/{name}_loss": _mean(seen.loss.numpy()[part])}
    if len(seen.correct):
        found[f"metrics/{name}_error"] = np.asarray(error_percent(seen.correct.numpy()[part]))
    return found


def _labels(lab: Lab) -> dict[str, NDArray[Any]]:  # Any: see Measured
    """The labels that were used, the source's, and those of the test split."""
    used, clean, test = lab.targets.used, lab.targets.clean, lab.dataset.test.labels
    if lab.dataset.task.is_regression:
        return {"examples/target": used.numpy(), "test/target": test.numpy()}
    places = {"examples/label": used, "examples/clean_label": clean, "test/label": test}
    return {place: labels.numpy().astype(np.int64) for place, labels in places.items()}


def _guessed(lab: Lab) -> float:
    """The mean training loss of a guess that has learned nothing: uniform over classes, or 0."""
    if lab.dataset.task.is_regression:
        trained = lab.targets.used[lab.targets.split == TRAINING]
        return float(trained.double().square().mean())
    return math.log(lab.dataset.task.classes)


def diverged(losses: NDArray[np.float32], guessed: float) -> NDArray[np.float64]:
    """1 where a trained model's mean loss on what it was trained on is above that of a guess, else 0.

    A uniform guess's is log(classes); one percent is left for rounding, and for a head that has learned nothing.
    The first epoch's loss would be no measure: retraining after pruning begins from a loss near 0. Only
    numbers that are stored count, so that a run that went on says what one in a single go says.
    """
    return np.asarray(float(_mean(losses) > 1.01 * guessed))


def _check_finite(level: int, seed: int, state: State, seen: Mapping[str, Outcomes]) -> None:
    tensors = {**state.weights, **state.buffers}
    bad = next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), "none")
    for name, outcomes in seen.items():
        wrong = int((~outcomes.loss.isfinite()).sum())
        if wrong:
            raise Diverged(
                f"seed {seed}, level {level}: at its end the loss of {wrong:,} of {len(outcomes.loss):,} {name} "
                f"examples is not finite (first bad tensor {bad})"
            )


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:  # Any: numbers
    return np.asarray(values.mean(dtype=np.float64) if values.size else np.nan, dtype=np.float64)
