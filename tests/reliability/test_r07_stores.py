"""R7: no damage to a sealed store is taken for data, and what libhdf5 crashes on is an error message."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from scale import SHORT, Figures, Scale
from store_makers import HEADER, make_complete, make_parts, make_run, put_first_part, put_store, table

from prunecli.errors import DamagedRun
from prunecli.store import codec, guard
from prunecli.store.apart import Limits, read_apart
from prunecli.store.folder import RunFolder
from prunecli.store.inspection import problems
from prunecli.store.reading import read_run
from prunecli.store.sealing import read_record, read_sealed
from prunecli.store.values import Measured

NAME = "R7 stores"
Draw = np.random.Generator


def check(scale: Scale, folder: Path) -> Figures:
    """Mutated stores and parts: with the record that vouches for the honest file, and with one of their own."""
    caught = _with_the_honest_record(scale, folder / "honest")
    read = _with_a_record_of_their_own(scale, folder / "remade")
    return {
        "mutations under the honest record": caught,
        "of those, caught before libhdf5 saw them": caught,
        "mutations under a record of their own": read.total(),
        "of those, refused": read["refused"],
        "of those, read as they were": read["same"],
        "of those, read as something else": read["differs"],
        "of those, the reader died": read["died"],
        "of those, the reader hung": read["hung"],
        "crashes of the parent": 0,
    }


def test_no_damage_is_taken_for_data_and_no_crash_is_ours(tmp_path: Path) -> None:
    figures = check(SHORT, tmp_path)
    assert figures["mutations under a record of their own"] == 300


def _with_the_honest_record(scale: Scale, folder: Path) -> int:
    store, parts = make_complete(folder / "store"), make_parts(folder / "parts")
    part = parts.part(1, 2)
    files = {store.store: store.store_content, part: lambda: read_sealed(part, _record(part))}
    honest = {path: path.read_bytes() for path in files}
    count = scale.of(20_000, 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard.h5py, "File", _never)
        for number in range(count):
            path = list(files)[number % 2]
            changed, what = mutated(honest[path], np.random.default_rng([scale.seed, number]))
            _overwrite(path, changed)
            where = f"mutation {number} of seed {scale.seed}, {what}, of {path.name}"
            assert _is_damage(files[path]), f"{where} is not caught"
            if number % 200 == 0:
                assert _is_damage(lambda: read_run(store.path)), f"{where} is read"
            if number % 200 == 1:
                assert parts.chain(1).damage, f"{where} is part of a chain"
    for path, data in honest.items():
        path.write_bytes(data)
    assert read_run(store.path).seeds == read_run(parts.path).seeds == (0, 1)
    return count


def _overwrite(path: Path, data: bytes) -> None:
    # A file that is emptied first is written to the disk at once by some file systems.
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def _record(path: Path) -> Mapping[str, object]:
    found = read_record(path)
    assert found
    return found[0]


def _is_damage(read: Callable[[], object]) -> bool:
    try:
        read()
    except DamagedRun as error:
        return "its content is not what" in str(error)
    return False


def _never(*_: object, **__: object) -> None:
    raise AssertionError("libhdf5 was given a file that its record does not vouch for")


def _with_a_record_of_their_own(scale: Scale, folder: Path) -> Counter[str]:
    """Each mutation is made and read in the reader's process, so that one process reads many."""
    store, level = codec.encode_store(table(), HEADER), codec.encode_level(table()[0], HEADER)
    kinds: Mapping[int, tuple[bytes, Callable[[bytes], list[Measured]]]] = {
        0: (store, lambda data: codec.decode_store(data, "store")),
        1: (level, lambda data: [codec.decode_level(data, "part")]),
    }
    run_file = (make_run(folder).path / "run.json").read_bytes()
    whole = {kind: fingerprint(decode(data)) for kind, (data, decode) in kinds.items()}

    def read(path: Path) -> str:
        number = int(path.name)
        data, decode = kinds[number % 2]
        changed, _ = mutated(data, np.random.default_rng([scale.seed, 1, number]))
        path.mkdir()
        (path / "run.json").write_bytes(run_file)
        put = put_store if number % 2 == 0 else put_first_part
        put(RunFolder(path, HEADER.digest), changed)
        read_run(path)
        problems(path)
        return "same" if fingerprint(decode(changed)) == whole[number % 2] else "differs"

    count = scale.of(300, 2_000)
    paths = [folder / str(number) for number in range(count)]
    found: Counter[str] = Counter()
    for path, outcome in zip(
        paths, read_apart(paths, read, Limits(2**30, seconds=0.5, patience=60)), strict=True
    ):
        if isinstance(outcome, str):
            found[outcome] += 1
            continue
        assert isinstance(outcome, DamagedRun), f"mutation {path.name} of seed {scale.seed}: {outcome!r}"
        died, hung = (
            "its reader died" in str(outcome),
            "SIGXCPU" in str(outcome) or "did not end" in str(outcome),
        )
        found["hung" if hung else "died" if died else "refused"] += 1
    return found


def fingerprint(levels: list[Measured]) -> str:
    """One number for all that was read."""
    whole = hashlib.sha256()
    for one in levels:
        whole.update(repr((one.seed, one.level, one.density, one.spent)).encode())
        for name, array in sorted({**one.arrays, **one.masks}.items()):
            content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            whole.update(f"{name} {array.dtype} {array.shape}".encode() + content)
    return whole.hexdigest()


def mutated(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """The bytes with one thing wrong, and what that is; never the same bytes."""
    ways = (_flip, _run, _cut, _insert, _swap, _zero)
    while True:
        way = ways[draw.integers(len(ways))]
        changed = bytes(way(bytearray(data), draw))
        if changed != data:
            return changed, way.__name__


def _flip(data: bytearray, draw: Draw) -> bytearray:
    for where in draw.integers(len(data), size=draw.integers(1, 9)):
        data[where] ^= 1 << int(draw.integers(8))
    return data


def _run(data: bytearray, draw: Draw) -> bytearray:
    start, length = int(draw.integers(len(data))), int(draw.integers(1, 65))
    end = min(start + length, len(data))
    data[start:end] = draw.bytes(end - start)
    return data


def _cut(data: bytearray, draw: Draw) -> bytearray:
    return data[: int(draw.integers(len(data)))]


def _insert(data: bytearray, draw: Draw) -> bytearray:
    where = int(draw.integers(len(data)))
    data[where:where] = draw.bytes(int(draw.integers(1, 65)))
    return data


def _swap(data: bytearray, draw: Draw) -> bytearray:
    size = 512
    one, other = (int(start) * size for start in draw.integers(len(data) // size, size=2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    return data


def _zero(data: bytearray, draw: Draw) -> bytearray:
    start = int(draw.integers(max(1, len(data) // 512))) * 512
    end = min(start + 512 * int(draw.integers(1, 9)), len(data))
    data[start:end] = bytes(end - start)
    return data
