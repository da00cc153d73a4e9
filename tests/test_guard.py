"""What a stranger's file may hold: arrays of its own, in their places, of sizes that it can have."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from prunecli.errors import DamagedRun, NewerFormat, UsageError
from prunecli.store import codec
from prunecli.store.guard import guarded
from prunecli.store.inspection import problems
from prunecli.store.reading import read_run
from prunecli.store.run_file import check_folders, part_seeds, read_run_json
from prunecli.store.values import Header, Measured, is_name

Write = Callable[[h5py.File], object]
LIMIT = 2**20
RUN = {
    "schema": "prunecli/run",
    "version": 1,
    "recipe_digest": "d" * 64,
    "recipe": {"seeds": [0]},
    "levels": 1,
}


def made(write: Write) -> bytes:
    """A file as h5py writes it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("g")
        write(file)
    return buffer.getvalue()


def packed(**options: object) -> Write:
    return lambda file: file["g"].create_dataset("a", (64, 64), "f8", data=np.ones((64, 64)), **options)


def read(data: bytes, shape: tuple[int, ...] = (64, 64), limit: int = LIMIT) -> np.ndarray:
    with guarded(data, "it.h5", limit) as file:
        return file.array("g/a", shape)


@pytest.mark.parametrize("kind", ["f4", "f8", "i1", "i8", "u1", "u8", ">f8"])
def test_plain_numbers_are_read_as_they_are(kind: str) -> None:
    numbers = np.arange(12, dtype=kind).reshape(3, 4)
    assert np.array_equal(read(made(lambda file: file.create_dataset("g/a", data=numbers)), (3, 4)), numbers)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"shuffle": True, "compression": "gzip"}, {"fletcher32": True}]
)
def test_what_deflate_shuffle_and_fletcher32_pack_is_read(options: dict[str, object]) -> None:
    assert (read(made(packed(**options))) == 1).all()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: None, "missing"),
        (lambda file: file["g"].create_group("a"), "not an array"),
        (lambda file: file.__setitem__("g/a", h5py.SoftLink("/g/b")), "a link"),
        (lambda file: file.__setitem__("g/a", h5py.ExternalLink("b.h5", "/a")), "a link"),
        (
            lambda file: file["g"].create_dataset("a", (64, 64), "f8", external=[("b", 0, 2**15)]),
            "other files",
        ),
        (lambda file: file["g"].create_dataset("a", (64, 63), "f8"), r"\(64, 64\) fits"),
        (lambda file: file["g"].create_dataset("a", (64, 64), "f8", chunks=(8, 8)), "of 0 that are stored"),
        (packed(maxshape=(None, 64)), "fixed size"),
        (packed(compression="lzf"), "filters"),
        (packed(scaleoffset=3), "filters"),
        (lambda file: file["g"].create_dataset("a", data=np.full((64, 64), b"x" * 8)), "not numbers"),
        (lambda file: file["g"].create_dataset("a", data=np.ones((64, 64), bool)), "not numbers"),
        (lambda file: file["g"].create_dataset("a", data=np.ones((64, 64), complex)), "not numbers"),
        (lambda file: file["g"].create_dataset("a", data=np.ones((1,) * 9)), "at most 8 axes"),
    ],
)
def test_anything_else_is_damage_that_names_the_file_and_the_place(write: Write, said: str) -> None:
    with pytest.raises(DamagedRun, match=rf"^it\.h5: damaged: /g/a: .*{said}"):
        read(made(write))


def test_no_more_is_unpacked_than_a_file_can_have() -> None:
    data = made(packed(compression="gzip"))
    assert read(data, limit=64 * 64 * 8).shape == (64, 64)
    with pytest.raises(DamagedRun, match="more than it can have"):
        read(data, limit=64 * 64 * 8 - 1)
    with guarded(data, "it.h5", 64 * 64 * 8 * 2 - 1) as file:
        file.array("g/a", (64, 64))
        with pytest.raises(DamagedRun, match="more than it can have"):
            file.array("g/a", (64, 64))


def test_one_array_under_many_names_is_more_than_the_file_holds() -> None:
    def write(file: h5py.File) -> None:
        file["g"]["a"] = np.random.default_rng(0).random(1000)
        for number in range(5):
            file["g"][f"a{number}"] = file["g/a"]

    with guarded(made(write), "it.h5", LIMIT) as file:
        assert file.array("g/a", (1000,)).shape == (1000,)
        with pytest.raises(DamagedRun, match="more than it can have"):
            file.array("g/a0", (1000,))


def test_deflate_upon_deflate_is_refused() -> None:
    def write(file: h5py.File) -> None:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((64, 64))
        plan.set_deflate(9)
        plan.set_deflate(9)
        space = h5py.h5s.create_simple((64, 64))
        made = h5py.h5d.create(file["g"].id, b"a", h5py.h5t.NATIVE_DOUBLE, space, plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((64, 64)))

    with pytest.raises(DamagedRun, match="filters"):
        read(made(write))


@pytest.mark.parametrize("name", ["fc.weight", "a b", "é", "loss_axis_0", "python:mine.py:look", "n" * 255])
def test_names_that_models_and_people_give_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", ".a", "a/b", "a\n", "\x1b[0m", "\x9b", "\u202e", "\u200b", "\udcff", "n" * 256],
)
def test_names_that_hide_or_lead_elsewhere_are_none(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", [b"a\x1b[0m", b"..", b"\xff", "\u202e".encode()])
def test_a_name_that_is_none_is_damage(name: bytes) -> None:
    data = made(lambda file: h5py.h5g.create(file["g"].id, name))
    said = pytest.raises(DamagedRun, match=r"^it\.h5: damaged: /g: .* is no name")
    with guarded(data, "it.h5", LIMIT) as file, said:
        file.names("g")


def test_a_group_that_holds_itself_is_read_once() -> None:
    with guarded(made(lambda file: file["g"].__setitem__("g", file["g"])), "it.h5", LIMIT) as file:
        assert file.names("g") == ["g"]
        with pytest.raises(DamagedRun, match="not an array"):
            file.array("g/g", ())


def test_attributes_are_short_text_and_few_numbers() -> None:
    given = {"text": "percent", "one": 7, "row": [20, 30], "float": 0.5}

    def write(file: h5py.File) -> None:
        file["g"].attrs.update(
            {**given, "many": np.ones(1000), "long": "x" * 5000, "reference": file["g"].ref}
        )

    with guarded(made(write), "it.h5", LIMIT) as file:
        assert {name: file.attribute("g", name) for name in given} == {**given, "row": (20, 30)}
        assert file.attribute("g", "none") is None
        for name in ("many", "long", "reference"):
            with pytest.raises(DamagedRun, match=r"^it\.h5: damaged: /g"):
                file.attribute("g", name)


def test_what_is_no_hdf5_is_damage() -> None:
    for data in (b"", b"text", made(lambda file: None)[:100]):
        with pytest.raises(DamagedRun, match=r"^it\.h5: not an HDF5 file"), guarded(data, "it.h5", LIMIT):
            pass


@pytest.mark.parametrize("module", ["guard", "codec", "reading", "inspection", "folder"])
def test_libhdf5_is_told_to_load_no_plugin_before_it_is_loaded(module: str) -> None:
    code = (
        "import importlib.abc, os, sys\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'h5py': print('told' if os.environ.get('HDF5_PLUGIN_PRELOAD') == '::' else 'too late')\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"import prunecli.store.{module}\n"
        "from h5py import h5pl\n"
        "print(h5pl.size(), 'torch' in sys.modules, 'pydantic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["told", "0", "False", "False"]


def level(**arrays: np.ndarray) -> Measured:
    masks = {"w": np.arange(10) >= 2}
    whole = {
        "metrics/test_error": np.asarray(1.5),
        "layers/name": np.array(["w"], dtype=object),
        "layers/total": np.array([10]),
        "layers/kept": np.array([8]),
    }
    return Measured(0, 0, 0.8, 1.0, whole | arrays, masks)


@pytest.mark.parametrize(
    "place",
    [
        "own",
        "other/name",
        "metrics/a/b",
        "observations/x",
        "observations/a/b/c",
        "metrics/a\nb",
        "metrics/..",
    ],
)
def test_nothing_is_written_that_could_not_be_read_again(place: str) -> None:
    header = Header("d" * 64, "", "pruned_at", {})
    with pytest.raises(UsageError, match="where nothing is stored"):
        codec.encode_level(level(**{place: np.zeros(1)}), header)


def test_masks_of_a_store_are_unpacked_one_at_a_time() -> None:
    """A store of many levels fits into memory where all its masks at once would not."""
    header = Header("d" * 64, "", "pruned_at", {})
    [one] = codec.decode_store(codec.encode_store([level()], header), "store.h5")
    assert one.masks["w"] is not one.masks["w"]
    assert one.masks["w"].tolist() == level().masks["w"].tolist()


def test_no_weight_is_dropped_after_the_last_level() -> None:
    buffer = io.BytesIO(codec.encode_store([level()], Header("d" * 64, "", "pruned_at", {})))
    with h5py.File(buffer, "r+") as file:
        file["masks/w"][0, 3] = 1
    with pytest.raises(DamagedRun, match=r"^store\.h5: damaged: /masks/w: .* after the last"):
        codec.decode_store(buffer.getvalue(), "store.h5")


def test_weights_that_come_back_where_none_can_are_a_problem(tmp_path: Path) -> None:
    levels = [level(), level()]
    levels[1] = Measured(
        0, 1, 1.0, 2.0, {**levels[1].arrays, "layers/kept": np.array([10])}, {"w": np.ones(10, bool)}
    )
    _put(tmp_path, codec.encode_store(levels, Header("d" * 64, "", "pruned_at", {})), levels=2)
    assert any("dropped before" in found for found in problems(tmp_path))


def test_what_each_layer_keeps_is_read_and_is_minus_one_where_there_is_no_level(tmp_path: Path) -> None:
    _put(tmp_path, codec.encode_store([level()], Header("d" * 64, "", "pruned_at", {})))
    run = read_run(tmp_path)
    assert (run.layers, run.kept.tolist()) == (("w",), [[[8]]])
    assert problems(tmp_path) == []


def test_a_store_of_another_recipe_than_its_record_says_is_a_problem(tmp_path: Path) -> None:
    _put(tmp_path, codec.encode_store([level()], Header("e" * 64, "", "pruned_at", {})))
    assert any("is of the recipe eeeeeeee" in found for found in problems(tmp_path))


def _put(path: Path, data: bytes, levels: int = 1) -> None:
    from prunecli.store.sealing import record_of, record_path

    _write(path, levels=levels)
    (path / "store.h5").write_bytes(data)
    record = record_of(data, {"recipe_digest": "d" * 64, "seeds": [0], "tips": {}})
    record_path(path / "store.h5").write_bytes(record)


def _write(path: Path, **changes: object) -> None:
    (path / "run.json").write_text(json.dumps({**RUN, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe_digest": "d" * 63},
        {"levels": -1},
        {"levels": True},
        {"spent": [2, 1]},
        {"spent": [10**400]},
        {"failures": {"0": 1}},
        {"recipe": []},
        {"recipe": {"seeds": [0, 0]}},
        {"recipe": {"seeds": [2**31]}},
        {"label": "../other"},
        {"deep": json.loads("[" * 80 + "]" * 80)},
    ],
)
def test_a_run_file_has_the_types_that_we_write(tmp_path: Path, changes: dict[str, object]) -> None:
    _write(tmp_path)
    assert read_run_json(tmp_path)["levels"] == 1
    _write(tmp_path, **changes)
    with pytest.raises(DamagedRun, match=r"run\.json"):
        read_run_json(tmp_path)


def test_a_run_file_of_a_newer_version_is_not_called_damaged(tmp_path: Path) -> None:
    _write(tmp_path, version=2, levels="many")
    with pytest.raises(NewerFormat, match="newer prunecli"):
        read_run_json(tmp_path)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"9" * 5000, b'{"a": NaN}', b"\xff", b"[]", b" " * (2**24 + 1)]
)
def test_what_is_no_run_file_is_damage(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(DamagedRun, match=r"run\.json"):
        read_run_json(tmp_path)


@pytest.mark.parametrize("name", ["parts", "parts/seed-0", "quarantine", "weights"])
def test_a_runs_folders_are_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "parts").mkdir()
    check_folders(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    if name == "parts":
        (tmp_path / "parts").rmdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedRun, match="symbolic link"):
        check_folders(tmp_path)


def test_only_whole_numbers_name_seeds(tmp_path: Path) -> None:
    for name in ("0", "12", "007", "-1", "x", "²", "9" * 30):
        (tmp_path / "parts" / f"seed-{name}").mkdir(parents=True)
    assert part_seeds(tmp_path) == [0, 12]
