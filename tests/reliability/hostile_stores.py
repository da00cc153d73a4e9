"""Runs as somebody would make them who means harm: each case takes a whole run and spoils one thing.

`outside` is a folder beside the run, with files that no reader has any business with.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t
from store_makers import (
    HEADER,
    edit_json,
    make_complete,
    make_parts,
    put_first_part,
    put_store,
    run_json,
    table,
)

from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.sealing import record_of, record_path

CANARY = b"CANARY-7f3a9c51 "
Spoil = Callable[[h5py.File, Path], None]
Deed = Callable[[RunFolder, Path], None]

IN_A_STORE: dict[str, Spoil] = {}
"""What is done to a store, which then gets a record that vouches for it."""
IN_A_RUN: dict[str, Deed] = {}
"""What is done to a run's folder."""
HARMLESS = frozenset(
    {f"lock is a {what}" for what in ("FIFO", "link", "device", "folder")} | {"a soft link elsewhere"}
)
"""What a reader does not look at: the run reads as it was."""
EMPTY = frozenset({"seeds of odd names", "parts is a file"})
"""What leaves nothing to read, and nothing damaged."""


def make_outside(folder: Path) -> None:
    """The files that are not the run's."""
    folder.mkdir()
    (folder / "secret.txt").write_bytes(CANARY * 64)
    os.mkfifo(folder / "fifo")
    with h5py.File(folder / "secret.h5", "w") as file:
        file["metrics/test_error"] = np.frombuffer(CANARY * 3, dtype=np.float64).reshape(2, 3)
    make_complete(folder / "other")
    make_parts(folder / "other-parts")


def make_cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every case's name, and its run."""
    for name, spoil in IN_A_STORE.items():
        run = make_complete(folder / f"case-{len(list(folder.iterdir()))}")
        with h5py.File(run.store, "r+") as file:
            spoil(file, folder / "outside")
        put_store(run, run.store.read_bytes())
        yield f"store: {name}", run.path
    for name, deed in IN_A_RUN.items():
        run = make_complete(folder / f"case-{len(list(folder.iterdir()))}")
        deed(run, folder / "outside")
        yield f"run: {name}", run.path


def _in_a_store(name: str) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        IN_A_STORE[name] = spoil
        return spoil

    return add


def _raw(
    file: h5py.File, place: str, shape: tuple[int, ...], kind: Any, prepare: Callable[[Any], None]
) -> h5d.DatasetID:
    """Put a dataset in another's place, made by hand."""
    if place in file:
        del file[place]
    plan = h5p.create(h5p.DATASET_CREATE)
    prepare(plan)
    group, _, name = place.rpartition("/")
    return h5d.create(file[group].id, name.encode(), kind, h5s.create_simple(shape), plan)


for _name, _target in {
    "a file": "{outside}/secret.txt",
    "the environment": "/proc/self/environ",
    "a FIFO": "{outside}/fifo",
}.items():

    @_in_a_store(f"external storage in {_name}")
    def _(file: h5py.File, outside: Path, target: str = _target) -> None:
        path = target.format(outside=outside).encode()
        _raw(
            file, "metrics/test_error", (2, 3), h5t.NATIVE_DOUBLE, lambda plan: plan.set_external(path, 0, 48)
        )


for _place in (
    "metrics/test_error",
    "metrics",
    "examples",
    "masks/fc.weight",
    "layers/name",
    "observations/hessian",
):

    @_in_a_store(f"external link at {_place}")
    def _(file: h5py.File, outside: Path, place: str = _place) -> None:
        del file[place]
        file[place] = h5py.ExternalLink(
            str(outside / "secret.h5"), "metrics/test_error" if "/" in place else place
        )

    @_in_a_store(f"soft link to an external link at {_place}")
    def _(file: h5py.File, outside: Path, place: str = _place) -> None:
        del file[place]
        file["summary/there"] = h5py.ExternalLink(str(outside / "secret.h5"), "/metrics/test_error")
        file[place] = h5py.SoftLink("/summary/there")


for _place in ("metrics/test_error", "metrics", "masks/fc.weight", "layers/name"):

    @_in_a_store(f"missing {_place}")
    def _(file: h5py.File, outside: Path, place: str = _place) -> None:
        del file[place]
        file["summary/kept"] = 1.0


@_in_a_store("a soft link elsewhere")
def _(file: h5py.File, outside: Path) -> None:
    file["provenance/link"] = h5py.ExternalLink(str(outside / "secret.h5"), "/")


@_in_a_store("virtual dataset")
def _(file: h5py.File, outside: Path) -> None:
    del file["metrics/test_error"]
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(outside / "secret.h5"), "metrics/test_error", (2, 3))
    file.create_virtual_dataset("metrics/test_error", layout)


for _place in ("metrics/loop", "masks/loop", "observations/hessian/loop", "observations/loop"):

    @_in_a_store(f"hard-link cycle at {_place}")
    def _(file: h5py.File, outside: Path, place: str = _place) -> None:
        file[place] = file[place.rpartition("/")[0]]


for _label, _shape in {"8 GiB": (2**30,), "8 TiB": (2**40,), "2 EiB": (2**58,)}.items():
    for _place in (
        "observations/hessian/bomb",
        "metrics/bomb",
        "examples/bomb",
        "examples/clean_label",
        "layers/name",
    ):

        @_in_a_store(f"{_label} declared at {_place}")
        def _(file: h5py.File, outside: Path, place: str = _place, shape: tuple[int, ...] = _shape) -> None:
            shape = (2, 3, *shape) if place.endswith("bomb") else shape
            _raw(file, place, shape, h5t.NATIVE_DOUBLE, lambda plan: plan.set_chunk((1,) * len(shape)))


def _zeros(file: h5py.File, place: str, size: int, times: int) -> None:
    """Zeros by the MiB, packed one or more times over."""

    def prepare(plan: Any) -> None:
        plan.set_chunk((1, 1, size * 2**17))
        for _ in range(times):
            plan.set_deflate(9)

    made = _raw(file, place, (2, 3, size * 2**17), h5t.NATIVE_DOUBLE, prepare)
    made.write(h5s.ALL, h5s.ALL, np.zeros((2, 3, size * 2**17)))


@_in_a_store("gzip three times over")
def _(file: h5py.File, outside: Path) -> None:
    _zeros(file, "observations/hessian/bomb", size=4, times=3)


@_in_a_store("a chunk that unpacks to more than it has")
def _(file: h5py.File, outside: Path) -> None:
    import zlib

    plan = h5py.h5p.create(h5p.DATASET_CREATE)
    made = _raw(
        file,
        "observations/hessian/bomb",
        (2, 3, 1),
        h5t.NATIVE_DOUBLE,
        lambda plan: (plan.set_chunk((2, 3, 1)), plan.set_deflate(9)),
    )
    del plan
    made.write_direct_chunk((0, 0, 0), zlib.compress(bytes(2**26), 9))


for _code in (32015, 32001, 256):

    @_in_a_store(f"filter {_code}")
    def _(file: h5py.File, outside: Path, code: int = _code) -> None:
        def prepare(plan: Any) -> None:
            plan.set_chunk((2, 3))
            plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (8,) * 4)

        made = _raw(file, "metrics/test_error", (2, 3), h5t.NATIVE_DOUBLE, prepare)
        made.write_direct_chunk((0, 0), bytes(48))


for _label, _text in {
    "..": "..", "a/..": "a\\..", "an escape": "a\x1b[31m", "a line": "a\nb", "a direction": "a\u202eb", "no width": "a\u200bb",
    "much": "n" * 60_000, "half a character": "a\udcff", "nothing between": "a..b", "C1": "a\x9bb",
}.items():  # fmt: skip
    for _group in ("metrics", "examples", "observations", "observations/hessian", "masks"):

        @_in_a_store(f"a name with {_label} in {_group}")
        def _(file: h5py.File, outside: Path, text: str = _text, group: str = _group) -> None:
            name = text.encode("utf-8", "surrogateescape")
            if group == "observations":
                h5py.h5g.create(file[group].id, name)
            else:
                kind, space = h5t.NATIVE_DOUBLE, h5s.create_simple((2, 3))
                h5d.create(file[group].id, name, kind, space).write(h5s.ALL, h5s.ALL, np.ones((2, 3)))

    @_in_a_store(f"a layer's name with {_label}")
    def _(file: h5py.File, outside: Path, text: str = _text) -> None:
        file["layers/name"][0] = text.encode("utf-8", "surrogateescape")


_KINDS: Mapping[str, Any] = {
    "compound": np.dtype([("a", "f8"), ("b", "f8")]),
    "opaque": h5py.opaque_dtype(np.dtype("V8")),
    "enum": h5py.enum_dtype({"a": 0, "b": 1}),
    "reference": h5py.ref_dtype,
    "region": h5py.regionref_dtype,
    "vlen": h5py.vlen_dtype(np.float64),
    "array": np.dtype("(2,)f8"),
    "fixed text": np.dtype("S8"),
    "text": h5py.string_dtype(),
    "complex": np.dtype("c16"),
}
for _label, _kind in _KINDS.items():
    for _place, _shape in {
        "metrics/test_error": (2, 3),
        "layers/total": (2,),
        "layers/name": (2,),
        "masks/fc.weight": (2, 20, 30),
    }.items():
        if (_label, _place) != ("text", "layers/name"):

            @_in_a_store(f"{_label} at {_place}")
            def _(
                file: h5py.File,
                outside: Path,
                place: str = _place,
                shape: tuple[int, ...] = _shape,
                kind: Any = _kind,
            ) -> None:
                old = dict(file[place].attrs) if place.startswith("masks") else {}
                del file[place]
                file.create_dataset(place, shape, dtype=kind).attrs.update(old)


@_in_a_store("a dataset of 32 axes")
def _(file: h5py.File, outside: Path) -> None:
    file["observations/hessian/deep"] = np.zeros((2, 3, *(1,) * 30))


@_in_a_store("a dataset of no extent")
def _(file: h5py.File, outside: Path) -> None:
    file["metrics/none"] = h5py.Empty("f8")


@_in_a_store("a dataset that grows")
def _(file: h5py.File, outside: Path) -> None:
    file.create_dataset("metrics/grows", data=np.zeros((2, 3)), maxshape=(None, 3))


@_in_a_store("a type in a metric's place")
def _(file: h5py.File, outside: Path) -> None:
    file["metrics/kind"] = np.dtype("f8")


@_in_a_store("a group in a metric's place")
def _(file: h5py.File, outside: Path) -> None:
    file.create_group("metrics/more")


@_in_a_store("a dataset in a group's place")
def _(file: h5py.File, outside: Path) -> None:
    file["observations/flat"] = np.zeros((2, 3))


@_in_a_store("layers of one long name")
def _(file: h5py.File, outside: Path) -> None:
    del file["layers/name"]
    file.create_dataset("layers/name", (20_000,), dtype=h5py.string_dtype())[:] = "n" * 5000


_VALUES: Mapping[str, tuple[str, Any]] = {
    "seeds that fall": ("metrics/seed", [1, 0]),
    "a seed twice": ("metrics/seed", [0, 0]),
    "other seeds than the record": ("metrics/seed", [0, 5]),
    "a negative seed": ("metrics/seed", [-1, 1]),
    "levels from one": ("metrics/level", [1, 2, 3]),
    "a density of NaN": ("metrics/density", [1, np.nan, 0.5]),
    "a density above 1": ("metrics/density", [1, 7, 0.5]),
    "infinite epochs": ("metrics/spent", [1, np.inf, 3]),
    "layers of no weights": ("layers/total", [0, 0]),
    "layers of all weights": ("layers/total", [2**63 - 1, 2**63 - 1]),
    "more kept than there are": ("layers/kept", [[[601, 10]] * 3] * 2),
    "fewer than none kept": ("layers/kept", [[[-5, 10]] * 3] * 2),
}
for _label, (_place, _value) in _VALUES.items():

    @_in_a_store(_label)
    def _(file: h5py.File, outside: Path, place: str = _place, value: Any = _value) -> None:
        file[place][...] = np.array(value)


_ATTRIBUTES: Mapping[str, tuple[str, str, Any]] = {
    "a shape of other extents": ("masks/fc.weight", "shape", (30, 30)),
    "a shape that overflows": ("masks/fc.weight", "shape", (2**32, 2**32)),
    "a shape of fractions": ("masks/fc.weight", "shape", (20.0, 30.0)),
    "a negative shape": ("masks/fc.weight", "shape", (-20, -30)),
    "a shape in words": ("masks/fc.weight", "shape", "20, 30"),
    "a shape of very many": ("masks/fc.weight", "shape", np.ones(8000, int)),
    "another total": ("masks/fc.weight", "total", 599),
    "another encoding": ("masks/fc.weight", "encoding", "pickle"),
    "bits for bytes": ("masks/fc.weight", "encoding", "packbits"),
    "a reference for a unit": ("metrics/test_error", "units", h5py.Reference()),
    "a long unit": ("metrics/test_error", "units", "u" * 30_000),
    "another kind": ("/", "prunecli_type", "level"),
    "no kind in words": ("/", "prunecli_type", 7),
    "a newer format": ("/", "format_version", 99),
    "a format in words": ("/", "format_version", "1"),
    "a negative format": ("/", "format_version", -1),
}
for _label, (_place, _attribute, _value) in _ATTRIBUTES.items():

    @_in_a_store(_label)
    def _(
        file: h5py.File, outside: Path, place: str = _place, name: str = _attribute, value: Any = _value
    ) -> None:
        del file[place].attrs[name]
        file[place].attrs[name] = value


@_in_a_store("a weight dropped at a level that is not there")
def _(file: h5py.File, outside: Path) -> None:
    file["masks/fc.weight"][0, 0, 0] = 77


_FILES = ("store.h5", "store.h5.json", "run.json", "lock")


def _link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name("aside"))
    path.unlink(missing_ok=True)
    path.symlink_to(target)


for _file in _FILES:
    _other = {"lock": "secret.txt"}.get(_file, f"other/{_file}")
    IN_A_RUN |= {
        f"{_file} is a link": lambda run, outside, f=_file, o=_other: _link(run.path / f, outside / o),
        f"{_file} is a FIFO": lambda run, outside, f=_file: ((run.path / f).unlink(missing_ok=True), os.mkfifo(run.path / f)),
        f"{_file} is a folder": lambda run, outside, f=_file: ((run.path / f).unlink(missing_ok=True), (run.path / f).mkdir()),
    }  # fmt: skip
    if os.geteuid() == 0:
        # Only root may make a device: the zeros of this one never end.
        IN_A_RUN[f"{_file} is a device"] = lambda run, outside, f=_file: (
            (run.path / f).unlink(missing_ok=True),
            os.mknod(run.path / f, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
        )


def _without_store(run: RunFolder) -> None:
    run.store.unlink()
    record_path(run.store).unlink()


def _linked_parts(run: RunFolder, outside: Path, where: str) -> None:
    _without_store(run)
    (run.path / where).parent.mkdir(exist_ok=True)
    _link(run.path / where, outside / "other-parts" / where)


for _where in ("parts", "parts/seed-0"):
    IN_A_RUN[f"{_where} is a link"] = lambda run, outside, w=_where: _linked_parts(run, outside, w)
IN_A_RUN["quarantine is a link"] = lambda run, outside: _link(run.path / "quarantine", outside)


def _one_part(run: RunFolder, outside: Path, change: Callable[[Path], None]) -> None:
    _without_store(run)
    put_first_part(run, codec.encode_level(table()[0], HEADER))
    change(run.part(0, 0))


IN_A_RUN |= {
    "a part is a link": lambda run, outside: _one_part(
        run, outside, lambda part: _link(part, outside / "other-parts/parts/seed-0/level-00.h5")
    ),
    "a part is a FIFO": lambda run, outside: _one_part(
        run, outside, lambda part: (part.unlink(), os.mkfifo(part))
    ),
    "a part's record is a FIFO": lambda run, outside: _one_part(
        run, outside, lambda part: (record_path(part).unlink(), os.mkfifo(record_path(part)))
    ),
    "a part of another seed": lambda run, outside: (
        _without_store(run),
        put_first_part(run, codec.encode_level(table()[4], HEADER)),
    ),
    "seeds of odd names": lambda run, outside: (
        _without_store(run),
        [
            (run.path / "parts" / f"seed-{name}").mkdir(parents=True)
            for name in ("²", "x", "-1", "007", "9" * 40)
        ],
    ),
    "parts is a file": lambda run, outside: (_without_store(run), (run.path / "parts").write_text("x")),
    "the store is text": lambda run, outside: put_store(run, b"no HDF5"),
    "the store is empty": lambda run, outside: put_store(run, b""),
    "the store is cut": lambda run, outside: put_store(run, run.store.read_bytes()[:9000]),
    "the store is a part": lambda run, outside: put_store(run, codec.encode_level(table()[0], HEADER)),
}

_DEEP = b'{"schema": "prunecli/run", "version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
_RUN_FILES: Mapping[str, bytes] = {
    "deep": _DEEP,
    "rather deep": json.dumps({"schema": "prunecli/run", "version": 1, **run_json()}).encode()[:-1]
    + b', "x": ' + b"[" * 80 + b"]" * 80 + b"}",
    "a huge number": b'{"schema": "prunecli/run", "version": ' + b"9" * 5000 + b"}",
    "no text": b"\xff\xfe\x00\x01",
    "a list": b"[]",
    "much": b'{"schema": "prunecli/run", "version": 1, "x": "' + b"x" * 17 * 2**20 + b'"}',
    "NaN": b'{"schema": "prunecli/run", "version": 1, "spent": [NaN]}',
}  # fmt: skip
for _label, _data in _RUN_FILES.items():
    IN_A_RUN[f"run.json: {_label}"] = lambda run, outside, d=_data: (
        (run.path / "run.json").write_bytes(d) and None
    )

_FIELDS: Mapping[str, Any] = {
    "version": [True, "1", 99, None],
    "recipe_digest": ["../..", 5, "d" * 63, None],
    "levels": [-1, 10**30, "3", 1.5, True, None],
    "spent": [["1"], [3, 2, 1], {"a": 1}, [1e300], None],
    "failures": [[], {"x": "y"}, {"0": 5}, {"0": "y" * 100_000}, None],
    "recipe": [
        [],
        {"seeds": "012"},
        {"seeds": [1.5]},
        {"seeds": [-1]},
        {"seeds": list(range(20_000))},
        {"procedure": 5},
        None,
    ],
    "label": ["../x", "a\x1b[31m", 5],
    "resumes": [5],
}
for _field, _values in _FIELDS.items():
    for _number, _value in enumerate(_values):
        IN_A_RUN[f"run.json: {_field} {_number}"] = lambda run, outside, f=_field, v=_value: edit_json(
            run.path / "run.json", **{f: v}
        )

_RECORDS: Mapping[str, Any] = {
    "size": ["1", -1, 10**400, None],
    "sha256": [5, [], "0" * 64],
    "seeds": ["01", [[0]], [0, "1"], [10**30], list(range(5)), None],
    "version": ["1", 99],
    "recipe_digest": ["e" * 64, 5, None],
    "tips": [[], 5],
}
for _field, _values in _RECORDS.items():
    for _number, _value in enumerate(_values):
        IN_A_RUN[f"record: {_field} {_number}"] = lambda run, outside, f=_field, v=_value: edit_json(
            record_path(run.store), **{f: v}
        )
IN_A_RUN |= {
    "record: deep": lambda run, outside: record_path(run.store).write_bytes(_DEEP) and None,
    "record: much": lambda run, outside: (
        record_path(run.store).write_bytes(b"[" + b"0," * 2**20 + b"0]") and None
    ),
    "record: replaces text": lambda run, outside: (
        record_path(run.store).write_bytes(
            record_of(b"x", {"recipe_digest": run.digest, "seeds": [0, 1], "tips": {}, "replaces": "text"})
        )
        and None
    ),
}
