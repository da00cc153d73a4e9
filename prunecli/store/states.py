"""Full states after a level, named by the recipe's prefix that led to them, for continuing and sharing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prunecli.errors import DamagedRun
from prunecli.masks import Masks, Tensors
from prunecli.state import SavedPoint, State
from prunecli.store.sealing import make_folder, read_record, read_sealed, record_of, record_path, replace


@dataclass(frozen=True)
class States:
    """The folder `runs/.states`."""

    folder: Path

    def path(self, prefix: str, seed: int) -> Path:
        """Where a state lies."""
        return self.folder / prefix / f"seed-{seed}.safetensors"

    def save(self, prefix: str, seed: int, state: State) -> None:
        """Write a state and its record; one that is there already is the same and stays."""
        path = self.path(prefix, seed)
        if self.load(prefix, seed) is not None:
            return
        make_folder(path.parent)
        data = encode(state)
        replace(path, data)
        replace(record_path(path), record_of(data, {"prefix": prefix, "seed": seed}))

    def load(self, prefix: str, seed: int) -> State | None:
        """A state that is whole; None where there is none. A damaged one is as good as none."""
        path = self.path(prefix, seed)
        try:
            found = read_record(path)
            if found is None or found[0].get("prefix") != prefix or found[0].get("seed") != seed:
                return None
            return decode(read_sealed(path, found[0]))
        except (DamagedRun, SafetensorError, KeyError, ValueError):
            return None

    def size(self, prefix: str, seed: int) -> int | None:
        """A state's bytes; None where there is none."""
        path = self.path(prefix, seed)
        return path.stat().st_size if path.exists() and record_path(path).exists() else None

    def drop(self, prefix: str, seed: int) -> None:
        """Forget a state: its record first, so that no record is left without its file."""
        path = self.path(prefix, seed)
        record_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def encode(state: State) -> bytes:
    """A state as safetensors."""
    tensors: dict[str, Tensor] = {}
    for kind, part in (
        ("weights", state.weights),
        ("buffers", state.buffers),
        ("masks", state.masks),
        ("optimizer", state.optimizer),
        *((f"point/{name}/weights", point.weights) for name, point in state.points.items()),
        *((f"point/{name}/buffers", point.buffers) for name, point in state.points.items()),
    ):
        # safetensors refuses tensors that share memory: clone.
        tensors |= {
            f"{kind}/{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in part.items()
        }
    clocks = {
        "step": state.step,
        "spent": state.spent,
        "points": {n: p.step for n, p in state.points.items()},
    }
    return save(tensors, metadata={"prunecli": json.dumps(clocks)})


def decode(data: bytes) -> State:
    """The state that `encode` wrote.

    Raises:
        SafetensorError, KeyError, ValueError: these are not its bytes.
    """
    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    clocks = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["prunecli"])

    def part(kind: str) -> Tensors:
        return {
            name.removeprefix(f"{kind}/"): t for name, t in tensors.items() if name.startswith(f"{kind}/")
        }

    points = {
        name: SavedPoint(part(f"point/{name}/weights"), part(f"point/{name}/buffers"), step)
        for name, step in clocks["points"].items()
    }
    return State(
        part("weights"),
        part("buffers"),
        Masks(part("masks")),
        part("optimizer"),
        clocks["step"],
        clocks["spent"],
        points,
    )
