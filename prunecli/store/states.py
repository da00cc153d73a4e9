"""Full states after a level, named by the recipe's prefix that led to them, for continuing and sharing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prunecli.errors import DamagedRun, NewerFormat, StorageError
from prunecli.injection import Injection, Temporary
from prunecli.masks import Masks, Tensors
from prunecli.state import Midway, Outcomes, SavedPoint, State
from prunecli.store.inspection import drop_state
from prunecli.store.sealing import (
    MOST_OF_A_STATE,
    commit,
    holds,
    keep_entries,
    make_folder,
    read_record,
    read_sealed,
    record_path,
    remove,
    set_aside,
)

_TRIES = 5
"""How often a state is written whose folder goes away meanwhile."""


@dataclass(frozen=True)
class States:
    """The folder `runs/.states`."""

    folder: Path

    def path(self, prefix: str, seed: int) -> Path:
        """Where a state lies.

        Raises:
            DamagedRun: its folder is a link to another place.
        """
        folder = self.folder / prefix
        if folder.is_symlink():
            raise DamagedRun(f"{folder}: a symbolic link, which is not followed; move it away")
        return folder / f"seed-{seed}.safetensors"

    def save(self, prefix: str, seed: int, state: State) -> list[str]:
        """Seal a state and its record; a whole one that is there stays. Gives what was moved to the quarantine."""
        path = self.path(prefix, seed)
        found, moved = self.load(prefix, seed)
        if found is not None:
            return moved
        data = encode(state)
        for _ in range(_TRIES):
            make_folder(path.parent)
            try:
                moved += self._commit(path, data, {"prefix": prefix, "seed": seed})
                break
            except StorageError as error:
                # Another seed's process may have forgotten its state there, and removed the empty folder.
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return moved

    def _commit(self, path: Path, data: bytes, facts: Mapping[str, Any]) -> list[str]:  # Any: what JSON holds
        moved = []
        if os.path.lexists(path) and not holds(path, data):
            name = set_aside(path, path.parent / "quarantine")
            moved = [f"{path}: has no record beside it; moved to {path.parent / 'quarantine'}: {name}"]
        try:
            commit(path, data, facts)
        except StorageError:
            # Another run with this prefix may have been quicker.
            if self.load(facts["prefix"], facts["seed"])[0] is None:
                raise
        return moved

    def load(self, prefix: str, seed: int) -> tuple[State | None, list[str]]:
        """A state that is whole, or None; what is damaged is moved to the quarantine and named."""
        path = self.path(prefix, seed)
        try:
            found = read_record(path)
            if found is None:
                return None, []
            if found[0].get("prefix") != prefix or found[0].get("seed") != seed:
                raise DamagedRun(f"{record_path(path)}: belongs to another state")
            return decode(read_sealed(path, found[0], MOST_OF_A_STATE), str(path))[0], []
        except NewerFormat:
            raise
        except DamagedRun as error:
            if not os.path.lexists(record_path(path)):
                # Its run has gone on meanwhile, and dropped it.
                return None, []
            return None, [self.set_aside(prefix, seed, str(error))]

    def set_aside(self, prefix: str, seed: int, why: str) -> str:
        """Move a state to the quarantine in its folder; gives what to say of it."""
        path = self.path(prefix, seed)
        there = [one for one in (record_path(path), path) if os.path.lexists(one)]
        moved = ", ".join(set_aside(one, path.parent / "quarantine") for one in there)
        where = "" if str(path) in why else f"{path}: "
        return f"{where}{why}; moved to {path.parent / 'quarantine'}: {moved}"

    def sweep(self, prefix: str, seed: int) -> None:
        """Remove what a process that was killed left half-written; one that is alive writes its file anew."""
        path = self.path(prefix, seed)
        if self.folder.is_dir():
            keep_entries(self.folder)
        for left in path.parent.glob(f".tmp-{path.name}*"):
            remove(left)

    def size(self, prefix: str, seed: int) -> int | None:
        """A state's bytes; None where there is none."""
        path = self.path(prefix, seed)
        return path.stat().st_size if path.exists() and record_path(path).exists() else None

    def drop(self, prefix: str, seed: int) -> None:
        """Forget a state: its record first, so that no record is left without its file."""
        drop_state(self.path(prefix, seed))


def encode(state: State, midway: Midway | None = None) -> bytes:
    """A state, and the spot inside a level that it is of, as safetensors."""
    tensors: dict[str, Tensor] = {}
    around = midway.around if midway else {}
    for kind, part in (
        ("weights", state.weights),
        ("buffers", state.buffers),
        ("masks", state.masks),
        ("optimizer", state.optimizer),
        *((f"point/{name}/weights", point.weights) for name, point in state.points.items()),
        *((f"point/{name}/buffers", point.buffers) for name, point in state.points.items()),
        *((f"around/{name}", {"loss": seen.loss, "correct": seen.correct}) for name, seen in around.items()),
        ("observed", state.observed),
        ("activations", state.activations),
        *(pair for layer, one in state.injections.items() for pair in _injected(layer, one)),
    ):
        # safetensors refuses tensors that share memory: clone.
        tensors |= {
            f"{kind}/{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in part.items()
        }
    clocks: dict[str, Any] = {  # Any: what JSON holds
        "step": state.step,
        "spent": state.spent,
        "points": {name: point.step for name, point in state.points.items()},
    }
    if state.masks.beside:
        clocks["beside"] = sorted(state.masks.beside)
    if state.injections:
        spans = {layer: [one.effect, one.start, one.until] for layer, one in state.injections.items()}
        clocks["injections"] = dict(sorted(spans.items()))
    if midway is not None:
        clocks["midway"] = {"level": midway.level, "stage": midway.stage, "steps": midway.steps}
        clocks["around"] = sorted(around)
    return save(tensors, metadata={"prunecli": json.dumps(clocks)})


def decode(data: bytes, where: str) -> tuple[State, Midway | None]:
    """The state that `encode` wrote, and the spot that it is of.

    Raises:
        DamagedRun: these are not its bytes.
    """
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        clocks = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["prunecli"])
        return _put_together(tensors, clocks)
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRun(f"{where}: not a state ({error})") from error


def _put_together(tensors: Tensors, clocks: Mapping[str, Any]) -> tuple[State, Midway | None]:  # Any: JSON
    numbers = [
        clocks["step"],
        clocks["spent"],
        *clocks["points"].values(),
        *clocks.get("midway", {}).values(),
        *(number for span in clocks.get("injections", {}).values() for number in span[1:]),
    ]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("its clocks are no numbers")
    points = {
        name: SavedPoint(
            _part(tensors, f"point/{name}/weights"), _part(tensors, f"point/{name}/buffers"), step
        )
        for name, step in clocks["points"].items()
    }
    state = State(
        _part(tensors, "weights"),
        _part(tensors, "buffers"),
        Masks(_part(tensors, "masks"), clocks.get("beside", ())),
        _part(tensors, "optimizer"),
        clocks["step"],
        clocks["spent"],
        points,
        _part(tensors, "observed"),
        _part(tensors, "activations"),
        {layer: _injection(tensors, layer, *span) for layer, span in clocks.get("injections", {}).items()},
    )
    if "midway" not in clocks:
        return state, None
    around = {name: Outcomes(**_part(tensors, f"around/{name}")) for name in clocks["around"]}
    return state, Midway(**clocks["midway"], around=around)


def _injected(layer: str, injection: Injection) -> list[tuple[str, Tensors]]:
    """An injection's tensors by the place that they are kept in."""
    own = {"chosen": injection.chosen, "scale": injection.scale}
    kinds = {"own": own, "targets": injection.targets, "saved": injection.saved}
    return [(f"injections/{layer}/{kind}", part) for kind, part in kinds.items()]


def _injection(tensors: Tensors, layer: str, effect: Temporary, start: int, until: int) -> Injection:
    if effect not in get_args(Temporary):
        raise ValueError("an injection has an effect that is not known")
    own, targets, saved = (
        _part(tensors, f"injections/{layer}/{kind}") for kind in ("own", "targets", "saved")
    )
    return Injection(effect, start, until, own["chosen"], targets, saved, own["scale"])


def _part(tensors: Tensors, kind: str) -> Tensors:
    start = f"{kind}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
