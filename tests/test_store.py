"""The store: laid out as the contract says, the same bytes for the same content, nothing read unverified."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecli.errors import DamagedRun, Stopped, StorageError, UsageError
from prunecli.store import codec
from prunecli.store.folder import RunFolder
from prunecli.store.inspection import problems, standing
from prunecli.store.lock import is_locked, locked
from prunecli.store.reading import read_run
from prunecli.store.sealing import commit, read_record, read_sealed, record_of, record_path, seal
from prunecli.store.sealing import replace as replace_file
from prunecli.store.values import Header, Measured

HEADER = Header("d" * 64, "a title", "pruned_at", {"recipe": "{}", "versions": "{}"})
N, T, LEVELS = 1500, 40, 4


def measured(seed: int, level: int) -> Measured:
    """A level as training would leave it, drawn at random."""
    draw = np.random.default_rng([seed, level])
    masks = {
        "fc.weight": np.arange(6000).reshape(60, 100) >= level * 1000,
        "a.weight": np.arange(10) >= level,
    }
    kept = np.array([int(mask.sum()) for mask in masks.values()])
    arrays = {
        "metrics/test_error": np.asarray(draw.random()),
        "metrics/train_loss": np.asarray(draw.random()),
        "examples/loss": draw.random(N).astype(np.float32),
        "examples/correct": draw.integers(0, 2, N).astype(np.uint8),
        "examples/label": np.random.default_rng(seed).integers(0, 10, N),
        "examples/clean_label": np.arange(N) % 10,
        "examples/noisy": np.zeros(N, np.uint8),
        "examples/split": np.zeros(N, np.uint8),
        "test/label": np.arange(T) % 10,
        "test/loss": draw.random(T).astype(np.float32),
        "test/correct": draw.integers(0, 2, T).astype(np.uint8),
        "layers/name": np.array(list(masks), dtype=object),
        "layers/total": np.array([6000, 10]),
        "layers/kept": kept,
        "observations/hessian/eigenvalues": draw.random(3),
    }
    if level:
        arrays["metrics/instability"] = np.asarray(draw.random())
    return Measured(seed, level, int(kept.sum()) / 6010, 40.0 * (level + 1), arrays, masks)


def table(seeds=(0, 1, 2)) -> list[Measured]:
    return [measured(seed, level) for seed in seeds for level in range(LEVELS)]


def alike(one: Measured, other: Measured) -> bool:
    same = (one.seed, one.level, one.density, one.spent) == (
        other.seed,
        other.level,
        other.density,
        other.spent,
    )
    return (
        same
        and set(one.arrays) == set(other.arrays)
        and all(
            np.array_equal(one.arrays[p], other.arrays[p]) and one.arrays[p].dtype == other.arrays[p].dtype
            for p in one.arrays
        )
        and all(np.array_equal(one.masks[n], other.masks[n]) for n in one.masks)
    )


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run whose three seeds are sealed and not merged."""
    folder = RunFolder(tmp_path / "run-dddddddd", HEADER.digest)
    folder.path.mkdir()
    folder.write_run(
        {"recipe_digest": HEADER.digest, "recipe": {"seeds": [0, 1, 2]}, "levels": LEVELS, "failures": {}}
    )
    for seed in range(3):
        tip = ""
        for level in range(LEVELS):
            tip = folder.seal_level(measured(seed, level), HEADER, tip)
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "store.h5"
    path.write_bytes(codec.encode_store(table(), HEADER))
    return path


def test_a_part_reads_back_as_it_was():
    for one in table():
        assert alike(codec.decode_level(codec.encode_level(one, HEADER), "part"), one)


@pytest.mark.parametrize("encoding", ["pruned_at", "packbits"])
def test_a_store_reads_back_to_the_same_bytes(encoding):
    header = replace(HEADER, encoding=encoding)
    data = codec.encode_store(table(), header)
    levels = codec.decode_store(data, "store")
    assert codec.encode_store(levels, header) == data
    assert all(
        np.array_equal(a.masks["fc.weight"], b.masks["fc.weight"])
        for a, b in zip(levels, table(), strict=True)
    )


def test_the_order_of_levels_does_not_matter():
    assert codec.encode_store(table()[::-1], HEADER) == codec.encode_store(table(), HEADER)


def test_h5py_alone_finds_what_the_contract_says(file):
    with h5py.File(file) as store:
        expected = {"prunecli_type": "store", "format_version": 1, "NX_class": "NXroot", "default": "summary"}
        assert dict(store.attrs).items() >= expected.items()
        assert not {"created", "host", "path"} & set(store.attrs)
        shapes = {
            "metrics/test_error": ((3, LEVELS), "f8"),
            "metrics/seed": ((3,), "i8"),
            "metrics/density": ((LEVELS,), "f8"),
            "summary/test_error_errors": ((LEVELS,), "f8"),
            "examples/loss": ((3, LEVELS, N), "f4"),
            "examples/correct": ((3, LEVELS, N), "u1"),
            "examples/label": ((3, N), "i8"),
            "examples/clean_label": ((N,), "i8"),
            "examples/example": ((N,), "i8"),
            "test/loss": ((3, LEVELS, T), "f4"),
            "test/label": ((T,), "i8"),
            "masks/fc.weight": ((3, 60, 100), "u1"),
            "layers/kept": ((3, LEVELS, 2), "i8"),
            "layers/total": ((2,), "i8"),
            "observations/hessian/eigenvalues": ((3, LEVELS, 3), "f8"),
        }
        for place, (shape, kind) in shapes.items():
            assert (store[place].shape, store[place].dtype) == (shape, np.dtype(kind)), place
        assert store["metrics/test_error"].attrs["units"] == "percent"
        assert np.isnan(store["metrics/instability"][:, 0]).all()
        masks = store["masks/fc.weight"]
        assert dict(masks.attrs) | {"shape": 0} == {
            "encoding": "pruned_at",
            "shape": 0,
            "total": 6000,
            "counted": 6000,
        }
        assert (masks[0].ravel()[[0, 1000, 2999, 3000]] == [1, 2, 3, 255]).all()
        for group in store.values():
            assert {"prunecli_type", "prunecli_version"} <= set(group.attrs)
        allowed = {np.dtype(kind) for kind in ("f4", "f8", "u1", "i8")} | {h5py.string_dtype()}
        store.visititems(lambda _, item: _check_type(item, allowed))


def _check_type(item, allowed):
    if isinstance(item, h5py.Dataset):
        assert item.dtype in allowed, item.name


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_opens_every_group_with_labels(file, engine):
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # masks have no labels, and h5netcdf says so
        with xarray.open_datatree(file, engine=engine) as tree:
            errors = tree["metrics"]["test_error"]
            assert errors.sel(seed=1, level=2) == measured(1, 2).arrays["metrics/test_error"]
            assert tree["examples"]["loss"].dims == ("seed", "level", "example")
            assert tree["layers"]["kept"].sel(seed=0, level=1, name="fc.weight") == 5000
            assert tree["summary"]["test_error"].dims == ("density",)
            assert tree["observations/hessian"]["eigenvalues"].sizes == {
                "seed": 3,
                "level": LEVELS,
                "eigenvalues_axis_0": 3,
            }


def test_viewers_plot_error_against_density_on_opening(file):
    import silx.io
    from silx.io.nxdata import get_default

    with silx.io.open(str(file)) as opened:
        plot = get_default(opened)
        assert plot.is_valid
        assert plot.signal_name.replace(" ", "_") == "test_error"
        assert plot.axes_names == ["density"]
        expected = np.std(
            [[measured(s, v).arrays["metrics/test_error"] for v in range(LEVELS)] for s in range(3)],
            axis=0,
            ddof=1,
        )
        assert np.allclose(plot.errors[()], expected)


def test_sealed_files_are_never_written_again(tmp_path):
    seal(tmp_path / "part.h5", b"first")
    with pytest.raises(StorageError, match="sealed already"):
        seal(tmp_path / "part.h5", b"second")
    assert (tmp_path / "part.h5").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["part.h5"]


def test_a_record_vouches_for_its_file(tmp_path):
    commit(tmp_path / "a.h5", b"content", {"level": 3})
    record, _ = read_record(tmp_path / "a.h5")
    assert (record["level"], record["size"]) == (3, 7)
    assert read_sealed(tmp_path / "a.h5", record) == b"content"
    (tmp_path / "a.h5").write_bytes(b"contenu")
    with pytest.raises(DamagedRun, match="damaged"):
        read_sealed(tmp_path / "a.h5", record)


def test_a_full_disk_is_an_error_with_nothing_left_behind(tmp_path, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="disk is full; everything sealed before is safe"):
        seal(tmp_path / "part.h5", b"content")
    assert list(tmp_path.iterdir()) == []
    assert StorageError.status == 74


def test_a_chain_ends_at_the_first_damage(run):
    assert len(run.chain(1).parts) == LEVELS
    path = run.part(1, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    chain = run.chain(1)
    assert len(chain.parts) == 2
    assert str(path) in chain.damage
    assert run.set_level_aside(1, 2) == ["level-02.h5.json.0", "level-02.h5.0"]
    assert len(list((run.path / "quarantine").iterdir())) == 2
    assert run.chain(1).damage == ""
    assert len(run.chain(1).parts) == 2
    assert len(run.chain(0).parts) == LEVELS


def test_a_part_of_another_run_or_order_is_no_part(run):
    other = RunFolder(run.path, "e" * 64)
    assert other.chain(0).parts == ()
    assert "another run" in other.chain(0).damage
    record_path(run.part(0, 1)).write_bytes(record_path(run.part(2, 1)).read_bytes())
    run.part(0, 1).write_bytes(run.part(2, 1).read_bytes())
    assert len(run.chain(0).parts) == 1


def test_a_file_without_a_record_does_not_exist(run):
    record_path(run.part(0, 3)).unlink()
    assert len(run.chain(0).parts) == 3
    assert run.chain(0).damage == ""


def test_merging_gives_the_store_and_tidying_drops_the_parts(run):
    tips = {str(seed): run.chain(seed).tip for seed in range(3)}
    run.merge([0, 1, 2], HEADER, LEVELS)
    assert run.store.read_bytes() == codec.encode_store(table(), HEADER)
    assert read_record(run.store)[0]["tips"] == tips
    assert run.leftovers([0, 1, 2])
    assert run.tidy([0, 1, 2]) == []
    assert run.leftovers([0, 1, 2]) == []
    assert not (run.path / "parts").exists()
    assert all(alike(a, b) for a, b in zip(run.stored()[1:4], table()[1:4], strict=True))
    assert problems(run.path) == []


def test_seeds_added_later_give_the_same_bytes_as_at_once(run):
    for seed in (0, 2):
        (run.path / "kept").mkdir(exist_ok=True)
        run.part(seed, 0).parent.rename(run.path / "kept" / f"seed-{seed}")
    run.merge([1], HEADER, LEVELS)
    (run.path / "parts").mkdir(exist_ok=True)
    for seed in (0, 2):
        (run.path / "kept" / f"seed-{seed}").rename(run.part(seed, 0).parent)
    run.merge([0, 2], HEADER, LEVELS)
    assert run.store.read_bytes() == codec.encode_store(table(), HEADER)


def test_a_store_that_would_not_read_back_is_not_written(run, monkeypatch):
    """Without the check before writing, a reader that loses a level would make the parts go for good."""
    decode = codec.decode_store
    monkeypatch.setattr(codec, "decode_store", lambda data, where: decode(data, where)[:LEVELS])
    with pytest.raises(StorageError, match="its parts are kept"):
        run.merge([0, 1, 2], HEADER, LEVELS)
    monkeypatch.undo()
    assert not run.store.exists()
    assert len(run.chain(2).parts) == LEVELS


def test_an_observers_name_may_hold_any_words(run):
    odd = [
        replace(one, arrays={**one.arrays, "observations/x/loss_axis_seed": np.zeros(2)}) for one in table()
    ]
    data = codec.encode_store(odd, HEADER)
    assert codec.encode_store(codec.decode_store(data, "store"), HEADER) == data


def test_a_store_without_its_record_is_damage_to_everybody(run):
    run.merge([0, 1, 2], HEADER, LEVELS)
    record_path(run.store).unlink()
    assert standing(run.path).status == "partial"
    assert any("has no record" in problem for problem in problems(run.path))
    with pytest.raises(DamagedRun, match="has no record"):
        run.stored_seeds()


@pytest.mark.parametrize("written", ["record", "record and store"])
def test_every_moment_of_replacing_a_store_is_readable(run, written, monkeypatch):
    """The record that comes first names the old file and the new: a crash on either side of the store is harmless."""
    (run.path / "kept").mkdir()
    run.part(2, 0).parent.rename(run.path / "kept" / "seed-2")
    run.merge([0, 1], HEADER, LEVELS)
    run.tidy([0, 1])
    (run.path / "parts").mkdir()
    (run.path / "kept" / "seed-2").rename(run.part(2, 0).parent)
    import prunecli.store.folder as folder

    stops = {"record": 1, "record and store": 2}[written]
    calls = []

    def crashing(path, data):
        if len(calls) == stops:
            raise KeyboardInterrupt
        calls.append(path)
        replace_file(path, data)

    monkeypatch.setattr(folder, "replace", crashing)
    with pytest.raises(KeyboardInterrupt):
        run.merge([2], HEADER, LEVELS)
    monkeypatch.undo()
    assert read_run(run.path).seeds == (0, 1, 2)
    run.merge([2], HEADER, LEVELS)
    assert run.store.read_bytes() == codec.encode_store(table(), HEADER)


def test_a_run_is_read_from_its_parts_and_from_its_store(run):
    partial = read_run(run.path)
    assert (partial.status, partial.seeds, partial.total) == ("partial", (0, 1, 2), 6010)
    run.merge([0, 1, 2], HEADER, LEVELS)
    complete = read_run(run.path)
    assert complete.status == "complete"
    for name in complete.metrics:
        assert np.array_equal(partial.metrics[name], complete.metrics[name], equal_nan=True)
    assert complete.metrics["test_error"][1, 2] == measured(1, 2).arrays["metrics/test_error"]
    assert np.array_equal(complete.density, partial.density)


def test_a_seed_that_is_behind_is_padded_with_nan(run):
    for level in (1, 2, 3):
        run.set_level_aside(2, level)
    metrics = read_run(run.path).metrics["test_error"]
    assert np.isfinite(metrics[:2]).all()
    assert np.isfinite(metrics[2]).tolist() == [True, False, False, False]
    assert [seed.sealed for seed in standing(run.path).seeds] == [4, 4, 1]


def test_damage_is_named_and_the_rest_is_read(run):
    run.part(1, 1).write_bytes(b"")
    found = read_run(run.path)
    assert any("level-01.h5" in note for note in found.notes)
    assert np.isfinite(found.metrics["test_error"][1]).tolist() == [True, False, False, False]
    assert problems(run.path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run.path / "run.json").unlink(), "no run.json"),
        (lambda run: (run.path / "run.json").write_text("{"), "cannot be read"),
        (lambda run: _edit(run.path / "run.json", version=99), "newer prunecli"),
        (lambda run: _edit(record_path(run.store), version=99), "newer prunecli"),
        (lambda run: record_path(run.store).write_text("[]"), "not a record"),
        (lambda run: record_path(run.store).unlink(), "has no record"),
        (lambda run: run.store.write_bytes(b"x"), "damaged"),
        (lambda run: _newer_store(run), "newer prunecli"),
    ],
)
def test_a_run_that_cannot_be_read_says_why(run, spoil, message):
    run.merge([0, 1, 2], HEADER, LEVELS)
    spoil(run)
    with pytest.raises(DamagedRun, match=message) as caught:
        read_run(run.path)
    assert str(run.path) in str(caught.value)


def test_an_empty_run_and_a_missing_one(tmp_path):
    with pytest.raises(UsageError, match="no such run"):
        read_run(tmp_path / "nothing")
    with pytest.raises(DamagedRun, match=r"no run\.json"):
        read_run(tmp_path)
    folder = RunFolder(tmp_path, HEADER.digest)
    folder.write_run({"recipe_digest": HEADER.digest, "recipe": {}, "levels": 3})
    with pytest.raises(DamagedRun, match="empty"):
        read_run(tmp_path)


def test_one_process_at_a_time(run):
    assert not is_locked(run.path)
    with locked(run.path):
        assert is_locked(run.path)
        assert read_run(run.path).status == "running"
        with pytest.raises(Stopped, match=r"process \d+ on "), locked(run.path):
            pass
    assert not is_locked(run.path)


def test_a_store_that_breaks_its_own_laws_is_unsound(run):
    wrong = measured(2, 3)
    wrong.arrays["layers/kept"] = wrong.arrays["layers/kept"] + 1
    run.set_level_aside(2, 3)
    record = json.loads(record_path(run.part(2, 2)).read_text())
    assert record["level"] == 2
    run.seal_level(wrong, HEADER, run.chain(2).tip)
    assert any("disagree" in problem for problem in problems(run.path))


@given(cut=st.integers(0, 20_000))
@settings(max_examples=40, deadline=None)
def test_a_cut_file_is_never_parsed(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    data = codec.encode_level(measured(0, 0), HEADER)
    commit(folder / "a.h5", data, {})
    (folder / "a.h5").write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(DamagedRun):
        read_sealed(folder / "a.h5", read_record(folder / "a.h5")[0])


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _newer_store(run: RunFolder) -> None:
    from prunecli.store.sealing import record_of

    with h5py.File(run.store, "r+") as store:
        store.attrs["format_version"] = 99
    record_path(run.store).write_bytes(
        record_of(run.store.read_bytes(), {"recipe_digest": run.digest, "seeds": [0]})
    )


def test_a_table_is_read_without_what_is_known_of_each_example(tmp_path):
    folder = RunFolder(tmp_path / "run-dddddddd", HEADER.digest)
    folder.path.mkdir()
    folder.write_run(
        {"recipe_digest": HEADER.digest, "recipe": {"seeds": [0, 1, 2]}, "levels": LEVELS, "failures": {}}
    )
    folder.store.write_bytes(codec.encode_store(table(), HEADER))
    with h5py.File(folder.store, "r+") as file:
        for place in ("examples/loss", "masks/fc.weight"):
            dataset = file[place]
            for number in range(dataset.id.get_num_chunks()):
                dataset.id.write_direct_chunk(dataset.id.get_chunk_info(number).chunk_offset, b"not packed")
    data = folder.store.read_bytes()
    facts = {"recipe_digest": HEADER.digest, "seeds": [0, 1, 2], "tips": {}}
    record_path(folder.store).write_bytes(record_of(data, facts))
    found = read_run(folder.path)
    errors = [[one.arrays["metrics/test_error"] for one in table([seed])] for seed in range(3)]
    assert found.metrics["test_error"].tolist() == np.array(errors).tolist()
    assert found.kept[0, :, 0].tolist() == [6000, 5000, 4000, 3000]
    with pytest.raises(DamagedRun, match="damaged: /"):
        folder.stored()
