"""A seed's states at its levels' ends: named so that other recipes find those that they can go on from.

The state at the end of the dense training is named by its trajectory, and is kept without its saved points, which are
named by theirs: `train` finds what `train: {until: 2}, save, train` left, and the other way round. The state at a
procedure's end is named by all its stages, for a recipe that goes on from there. Those between are the run's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunecli.building import along
from prunecli.experiment import digest
from prunecli.lab import Lab
from prunecli.masks import Masks, Tensors
from prunecli.procedure import saved_after
from prunecli.runs import Prepared, Settings, conditions_of
from prunecli.state import SavedPoint, State
from prunecli.store.states import States
from prunecli.trajectories import prefix_digest, trajectory_digest
from prunecli.underway import ALONG, COLUMNS, CURVE


def dense_state(run: Prepared, settings: Settings) -> str:
    """Names the state at the end of the dense training, which recipes of equal beginnings and conditions share."""
    stages = run.foreseen[0].level.stages
    trajectory = trajectory_digest(run.experiment, run.dataset.fingerprint, run.steps_per_epoch, stages)
    return digest({"trajectory": trajectory, "conditions": conditions_of(run.experiment, settings)})


def point_state(run: Prepared, dense: str, point: str) -> str:
    """Names a point that the dense training saves on the way to the state of the name `dense`."""
    level = run.foreseen[0].level
    before = level.stages[: saved_after(level)[point]]
    at = trajectory_digest(run.experiment, run.dataset.fingerprint, run.steps_per_epoch, before)
    return digest({"point": at, "of": dense})


def last_state(run: Prepared, level: int, settings: Settings) -> str:
    """Names the state at a level's end that ended a procedure, for recipes that go on from there."""
    return digest(
        {"prefix": run.prefixes[level], "conditions": conditions_of(run.experiment, settings), "last": True}
    )


def own_state(run: Prepared, level: int, of: str) -> str:
    """Names the state at a level's end that the run with the digest `of` keeps for itself, until its next level is."""
    prefix = prefix_digest(run.experiment, run.dataset.fingerprint, level)
    return digest({"prefix": prefix, "run": of})


@dataclass(frozen=True)
class Kept:
    """The states that a seed of a run keeps, and whom to tell of damage."""

    run: Prepared
    seed: int
    settings: Settings
    say: Callable[[str], None]

    @property
    def states(self) -> States:
        """Where all runs' states lie."""
        return States(self.settings.runs / ".states")

    def name(self, level: int) -> str:
        """What the state at a level's end is kept as; a run that goes on under other conditions keeps to its own."""
        if level == 0:
            return self.run.folder.dense_state(self.seed) or dense_state(self.run, self.settings)
        if level == len(self.run.foreseen) - 1:
            return last_state(self.run, level, self.settings)
        return own_state(self.run, level, self.run.folder.digest)

    def points(self) -> dict[str, str]:
        """What the points that the dense training saves are kept as."""
        dense = self.name(0)
        return {
            point: point_state(self.run, dense, point) for point in saved_after(self.run.foreseen[0].level)
        }

    def load(self, level: int) -> State | None:
        """The state at a level's end with all its points; None where it is not kept whole."""
        state = self.read(self.name(level))
        return self.with_points(state) if state is not None and level == 0 else state

    def read(self, name: str) -> State | None:
        """The state of a name; one that is damaged is set aside."""
        state, damage = self.states.load(name, self.seed)
        for message in damage:
            self.say(message)
        return state

    def with_points(self, dense: State) -> State | None:
        """The state at the dense training's end with the points that it saves; None where one is not kept."""
        found = dict(dense.points)
        for point, name in self.points().items():
            if point not in found:
                kept = self.read(name)
                if kept is None:
                    return None
                found[point] = SavedPoint(kept.weights, kept.buffers, kept.step)
        return replace(dense, points=found)

    def save(self, level: int, state: State) -> None:
        """Keep the state at a level's end; points first, so that a dense state that is kept can be gone on from."""
        if level == 0:
            for point, name in self.points().items():
                saved = state.points[point]
                self._save(name, State(saved.weights, saved.buffers, Masks({}), step=saved.step))
            state = replace(state, points={})
        self._save(self.name(level), state)

    def _save(self, name: str, state: State) -> None:
        for message in self.states.save(name, self.seed, state):
            self.say(message)

    def drop(self, level: int) -> None:
        """Forget a state that is the run's own: those that recipes share stay."""
        if 0 < level < len(self.run.foreseen) - 1:
            self.states.drop(self.name(level), self.seed)

    def sweep(self, level: int) -> None:
        """Remove what a process that was killed left half-written of a level's state."""
        for name in (self.name(level), *(self.points().values() if level == 0 else ())):
            self.states.sweep(name, self.seed)

    def set_aside(self, level: int, why: str) -> str:
        """Move a level's state, and the points that belong to it, to the quarantine; gives what to say of it."""
        names = (self.name(level), *(self.points().values() if level == 0 else ()))
        there = [name for name in names if self.states.size(name, self.seed) is not None]
        return "; ".join(self.states.set_aside(name, self.seed, why) for name in there)


def misfit(state: State, lab: Lab) -> str:
    """What a stored state has that is not this model's: its record was honest, its maker may not have been."""
    own = lab.initial()
    held: dict[str, tuple[Tensors, Tensors]] = {
        "weights": (state.weights, own.weights),
        "buffers": (state.buffers, own.buffers),
        "masks": (state.masks, own.masks),
    }
    for name, point in state.points.items():
        held[f"weights in point '{name}'"] = (point.weights, own.weights)
        held[f"buffers in point '{name}'"] = (point.buffers, own.buffers)
    for part, (found, expected) in held.items():
        if _shapes(found) != _shapes(expected):
            return f"other {part} than the recipe's model"
    if wrong := _foreign(state, own) or _odd_rows(state, lab):
        return wrong
    unknown = {place.partition("/")[2] for place in state.optimizer} - set(own.weights)
    return f"optimizer slots of '{min(unknown)}', which the recipe's model has not" if unknown else ""


def _foreign(state: State, own: State) -> str:
    """What a state has inside a level or an injection that does not fit the model."""
    if state.masks.beside != own.masks.beside:
        return "other masks beside those of prunable weights"
    tensors = {**own.weights, **own.buffers}
    curve = state.observed.get(CURVE)
    if curve is not None and (curve.dim() != 2 or curve.shape[1] != len(COLUMNS)):
        return "a curve of other columns"
    for name, means in state.activations.items():
        if name not in own.masks or means.shape != own.masks[name].shape[:1]:
            return f"means of activations of '{name}', which the recipe's model has not like this"
    for layer, injection in state.injections.items():
        held = [*injection.targets.items(), *injection.saved.items()]
        units = (tensors[layer].shape, tensors[layer].shape[:1]) if layer in tensors else ()
        if (
            injection.chosen.shape not in units
            or injection.scale.dim()
            or any(n not in tensors or tensors[n].shape != t.shape for n, t in held)
        ):
            return f"an injection into '{layer}', which the recipe's model has not like this"
    return ""


def _odd_rows(state: State, lab: Lab) -> str:
    """What observers are said to have seen along a training, and have not: they would take it for their own."""
    seen: dict[str, dict[str, Tensor]] = {}
    for place, rows in state.observed.items():
        if place.startswith(ALONG):
            observer, _, name = place.removeprefix(ALONG).partition("/")
            seen.setdefault(observer, {})[name] = rows
    for observer, named in seen.items():
        if any(not rows.dim() or rows.dtype != torch.float64 for rows in named.values()):
            return f"no rows of numbers, of observer '{observer}'"
        if len({len(rows) for rows in named.values()}) > 1:
            return f"other numbers of rows for each name, of observer '{observer}'"
    for choice in along(lab.experiment):
        fits = choice.entry.traits.get("rows_fit")
        if fits and choice.name in seen and not fits(seen[choice.name], lab, **choice.options):
            return f"rows that are none of the recipe's observer '{choice.name}'"
    return ""


def _shapes(tensors: Tensors) -> dict[str, object]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
