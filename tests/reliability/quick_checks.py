"""Small checks of single protections, each of which must fail when its protection is taken out of the code."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import small_run
from checker import faults
from recorder import Op, Recorder
from replay import Disk, Place, Tree, crashes
from safetensors.numpy import load
from torch import nn

from prunecli.engine import carry_out_all
from prunecli.errors import PrunecliError, StorageError
from prunecli.recipe.load import load_text
from prunecli.registry import models
from prunecli.store.folder import RunFolder
from prunecli.store.reading import read_run
from prunecli.store.run_file import read_run_json
from prunecli.store.sealing import record_of, record_path, replace, seal
from prunecli.task import Task

STARTS = ((0,), (0, 1))
STATEFUL = """
model: with_batch_norm
data: digits
examples: {first: {count: 96}}
optimizer: {sgd: {momentum: 0.9, weight_decay: 1e-3}}
learning_rate: {steps: {start: 0.1, at: [0.5], factor: 0.1}}
epochs: 1
batch_size: 32
seeds: [0]
procedure:
  - train: {until: 0.34}
  - save: {point: early}
  - train
  - prune: {fraction: 0.5}
  - rewind: {what: weights, to: early, momentum: keep}
  - train: {epochs: 1}
"""


@models
def with_batch_norm(task: Task) -> nn.Module:
    """A small model with buffers."""
    inner = (nn.Flatten(), nn.Linear(math.prod(task.shape), 4), nn.BatchNorm1d(4), nn.ReLU())
    return nn.Sequential(*inner, nn.Linear(4, task.classes))


def crash_points(folder: Path) -> None:
    """Every kill, and power cuts that lose all data that was not synced, with names or without: what was acknowledged is there."""
    expected = small_run.undisturbed(STARTS)
    root = folder / "root"
    root.mkdir()
    with Recorder(root) as recorder:
        for seeds in STARTS:
            tell = small_run.acknowledging(recorder.note)
            small_run.carry_out(root.resolve() / "runs", seeds, tell)
    place = Place(folder / "place")
    for crash in crashes(recorder.ops, seed=0, draws=0, cuts=0):
        found = faults(place.hold(crash.tree) / "runs", crash.said, expected, readers=False)
        assert not found, f"{crash.model} after {recorder.ops[crash.index - 1]}: {found}"


def sealed_once(folder: Path) -> None:
    """What is sealed is never replaced."""
    seal(folder / "file", b"first")
    with_other_content(folder / "file")
    assert (folder / "file").read_bytes() == b"first"


def with_other_content(path: Path) -> None:
    """Sealing other content is refused."""
    try:
        seal(path, b"second")
    except StorageError:
        return
    raise AssertionError("other content was sealed over a file")


def temporary_is_new(folder: Path) -> None:
    """A temporary file never writes into one that is there, which may be a sealed file's other name."""
    seal(folder / "sealed", b"sealed")
    secrets.token_hex = lambda nbytes=None: "abcd"
    os.link(folder / "sealed", folder / f".tmp-file-{os.getpid()}-abcd")
    with suppress(StorageError):
        replace(folder / "file", b"other")
    assert (folder / "sealed").read_bytes() == b"sealed"


def damage_is_found(folder: Path) -> None:
    """No part, store or state is read whose content is not its record's."""
    for name, levels in (("level-01.h5", 1), ("level-00.h5", 0)):
        run = half_done(folder / name)
        part = run.path / "parts" / "seed-0" / name
        flipped(part)
        assert len(run.chain(0).parts) == levels
        assert run.chain(0).damage
    complete = small_run.carry_out(folder / "complete", (0,))
    store = complete / "store.h5"
    with h5py.File(store) as file:
        errors = file["metrics/test_error"][()].tobytes()
    # An error that is off by a little is still a number: nothing but the record can tell.
    store.write_bytes(store.read_bytes().replace(errors, bytes([errors[0] ^ 1]) + errors[1:]))
    try:
        read_run(complete)
    except PrunecliError:
        return
    raise AssertionError("a store was read that is not its record's")


def flipped(path: Path) -> None:
    """Turn a bit of the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def chain_is_checked(folder: Path) -> None:
    """A level counts only behind the record that it was sealed behind."""
    foreign_record(folder, {"previous": "0" * 64})


def digest_is_checked(folder: Path) -> None:
    """A level of another recipe does not count."""
    foreign_record(folder, {"recipe_digest": "0" * 64})


def foreign_record(folder: Path, changed: dict[str, str]) -> None:
    """A level with an honest record that is of something else."""
    run = half_done(folder)
    part = run.path / "parts" / "seed-0" / "level-01.h5"
    record = json.loads(record_path(part).read_bytes())
    record_path(part).write_bytes(record_of(part.read_bytes(), {**record, **changed}))
    assert len(run.chain(0).parts) == 1


def half_done(folder: Path) -> RunFolder:
    """A run of one seed with two levels sealed."""
    runs = folder / "runs"

    class Enough(BaseException):
        pass

    def tell(ack: str) -> None:
        if ack == "level 0 1":
            raise Enough

    with suppress(Enough):
        small_run.carry_out(runs, (0,), small_run.acknowledging(tell))
    (path,) = runs.glob("small-*")
    return RunFolder(path, str(read_run_json(path)["recipe_digest"]))


def store_is_verified(folder: Path) -> None:
    """A store that would not read back as the parts that it was made from never takes their place."""
    write = h5py.Group.create_dataset

    def forgetful(group: h5py.Group, name: str, *given: object, **more: object) -> h5py.Dataset:
        data = more.get("data")
        if isinstance(data, np.ndarray) and name.endswith("loss") and data.ndim == 3:
            more["data"] = np.zeros_like(data)
        return write(group, name, *given, **more)

    h5py.Group.create_dataset = forgetful
    try:
        small_run.carry_out(folder / "runs", (0,))
    except StorageError:
        pass
    finally:
        h5py.Group.create_dataset = write
    assert len(list(folder.glob("runs/small-*/parts/seed-0/level-*.h5"))) == 3


def written_store_is_read_back(folder: Path) -> None:
    """A store that the disk wrote wrongly never takes the place of its parts."""

    def wrong(op: Op) -> None:
        if op.kind == "rename" and op.other.endswith("store.h5"):
            flipped(folder.resolve() / op.path)

    with Recorder(folder, wrong), suppress(PrunecliError):
        small_run.carry_out(folder.resolve() / "runs", (0,))
    assert len(list(folder.glob("runs/small-*/parts/seed-0/level-*.h5"))) == 3


def dropped_stay_dropped(folder: Path) -> None:
    """Weights that are dropped are exactly 0 after training."""
    small_run.carry_out(folder / "runs", (0,))
    (path,) = (path for path in folder.glob("runs/.states/*/seed-0.safetensors") if dropped(path))
    tensors = load(path.read_bytes())
    for name, mask in tensors.items():
        if name.startswith("masks/"):
            assert not tensors[name.replace("masks/", "weights/")][~mask].any(), name


def dropped(path: Path) -> bool:
    """Whether a stored state has masks that drop anything."""
    return not all(mask.all() for name, mask in load(path.read_bytes()).items() if name.startswith("masks/"))


def resumed_inside_levels(folder: Path) -> None:
    """A run that goes on from any of a sample of its slots ends in the undisturbed bytes."""
    root = folder / "root"
    root.mkdir()
    with Recorder(root) as recorder:
        stateful(root.resolve() / "runs", small_run.ALWAYS, recorder)
    (store,) = root.glob("runs/*/store.h5")
    # The last needs the most of what was kept.
    for number, tree in enumerate(reversed(list(slot_states(recorder.ops)))):
        place = Place(folder / str(number))
        stateful(place.hold(tree) / "runs", small_run.SELDOM)
        found = [path.read_bytes() for path in place.folder.glob("runs/*/store.h5")]
        assert found == [store.read_bytes()], f"resumed from sample {number}: another store, or none"


def stateful(runs: Path, checkpoint: float, recorder: Recorder | None = None) -> None:
    """Carry out a run that needs every piece of state: momentum, buffers, masks, both clocks, a saved point."""
    recipe = load_text(STATEFUL, "stateful.yaml", stem="stateful")
    tell = small_run.acknowledging(recorder.note) if recorder else small_run.quiet
    carry_out_all(recipe, small_run.settings(runs, checkpoint=checkpoint), tell)


def slot_states(ops: Sequence[Op]) -> Iterator[Tree]:
    """What a kill leaves after each slot that holds something new."""
    disk, seen = Disk(), set[bytes]()
    for op in ops:
        disk.apply(op)
        if op.kind == "rename" and "/slot-" in op.other and op.other.endswith(".json"):
            tree = disk.killed()
            slot = tree[op.other.removesuffix(".json")]
            assert slot is not None
            if slot not in seen:
                seen.add(slot)
                yield tree


def goes_on_after_kills(folder: Path) -> None:
    """A run goes on from kills between a file and its record, with no leftovers and nothing set aside."""
    expected = small_run.undisturbed(((0,),))
    root = folder / "root"
    root.mkdir()
    with Recorder(root) as recorder:
        small_run.carry_out(root.resolve() / "runs", (0,))
    between = [n for n, op in enumerate(recorder.ops) if op.kind == "link" and "level-01" in op.other]
    half_written = [
        n for n, op in enumerate(recorder.ops) if op.kind == "write" and "/.tmp-recipe" in op.path
    ]
    disk = Disk()
    for number, op in enumerate(recorder.ops):
        disk.apply(op)
        if number in (*between, *half_written):
            place = Place(folder / str(number))
            small_run.carry_out(place.hold(disk.killed()) / "runs", (0,))
            found = small_run.difference(place.folder / "runs", expected)
            assert not found, f"after {op}: {found}"
