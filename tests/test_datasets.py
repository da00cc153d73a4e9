"""Laws of datasets: what is in the files is what is handed out, and what is wrong is named."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from urllib.error import URLError

import h5py
import numpy as np
import pytest
import torch
import torchvision
from conftest import small
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torchvision.transforms import v2
from typer.testing import CliRunner

import prunecli.datasets  # noqa: F401  (registers them)
from prunecli.cli.app import app
from prunecli.datasets.values import Augment, Dataset, Facts, InMemory
from prunecli.errors import EnvironmentMissing, UsageError
from prunecli.places import Roots, roots
from prunecli.registry import Choice, data
from prunecli.runs import run_digest

CPU = torch.device("cpu")
TRAIN, TEST = 12, 5
Bytes = NDArray[np.uint8]
Arrays = dict[str, Any]  # Any: whatever a user's file may hold


def _examples(count: int, shape: tuple[int, ...], classes: int, seed: int) -> tuple[Bytes, Bytes]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, *shape), np.uint8), np.arange(count, dtype=np.uint8) % classes


def _write_idx(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", TRAIN), ("t10k", TEST)):
        pixels, labels = _examples(count, (28, 28), 10, seed)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels.tobytes()
        )


def _write_cifar(
    folder: Path, seed: int, parts: Mapping[str, int], key: str, classes: int, meta: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    pixels, labels = _examples(TRAIN, (3072,), classes, seed)
    for name, count in parts.items():
        if name.startswith("test"):
            (pixels, labels), start = _examples(count, (3072,), classes, seed), 0
        end = start + count
        batch = {"data": pixels[start:end], key: labels[start:end].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
        start = end
    names = {"label_names": ["a"] * 10, "fine_label_names": ["a"] * 100}
    (folder / meta).write_bytes(pickle.dumps(names))


def _cifar10(root: Path, seed: int) -> None:
    batches = dict(zip((f"data_batch_{n}" for n in range(1, 6)), (3, 3, 2, 2, 2), strict=True))
    _write_cifar(
        root / "cifar-10-batches-py", seed, {**batches, "test_batch": TEST}, "labels", 10, "batches.meta"
    )


def _cifar100(root: Path, seed: int) -> None:
    parts = {"train": TRAIN, "test": TEST}
    _write_cifar(root / "cifar-100-python", seed, parts, "fine_labels", 100, "meta")


def _svhn(root: Path, seed: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        pixels, labels = _examples(count, (3, 32, 32), 10, seed)
        # SVHN's digit 0 has the label 10, and its images are (H, W, C, N).
        y = np.where(labels == 0, 10, labels).reshape(-1, 1)
        savemat(root / f"{split}_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": y})


def _folder(root: Path, seed: int, name: str = "images", splits: tuple[str, str] = ("train", "val")) -> Path:
    for split, count in zip(splits, (TRAIN, TEST), strict=True):
        for number in range(count):
            folder = root / name / split / f"class-{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            height = 20 + seed + number % 4
            shape = (height, 24) if number % 5 else (24, height, 3)
            pixels = np.random.default_rng([seed, number]).integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return root / name


def _arrays(shape: tuple[int, ...] = (3, 6, 5), seed: int = 0) -> Arrays:
    made: Arrays = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        made[f"x_{split}"], made[f"y_{split}"] = _examples(count, shape, 3, seed)
    return made


def _npz(root: Path, seed: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "own.npz", **_arrays(seed=seed))


def _problem(root: Path, seed: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "problem.npz", spectrum=np.ones(4), coefficients=np.arange(4.0) + seed)


WRITE: dict[str, Callable[[Path, int], object]] = {
    "mnist": lambda root, seed: _write_idx(root / "MNIST/raw", seed),
    "fashion_mnist": lambda root, seed: _write_idx(root / "FashionMNIST/raw", seed),
    "kmnist": lambda root, seed: _write_idx(root / "KMNIST/raw", seed),
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "image_folder": _folder,
    "arrays": _npz,
    "linear_gaussian_file": _problem,
}
OPTIONS: dict[str, dict[str, Any]] = {  # Any: options are of every type
    "image_folder": {"path": "images", "size": 16, "resize": 18, "workers": 0},
    "arrays": {"path": "own.npz"},
    "linear_gaussian_file": {"path": "problem.npz", "examples": 9},
    "linear_gaussian_of": {"spectrum": [2.0, 1.0], "saliencies": [1.0, 0.5], "examples": 9},
}
OWN = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "kmnist": "KMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "",
}
FILES = [name for name in data if name in WRITE]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torchvision's readers read our small files: the checksums they know are the genuine ones'."""
    _know_checksums(monkeypatch, None)


def _know_checksums(patch: pytest.MonkeyPatch, md5: str | None) -> None:
    readers = torchvision.datasets
    for reader in (readers.CIFAR10, readers.CIFAR100):
        for split in ("train_list", "test_list"):
            patch.setattr(reader, split, [[name, md5] for name, _ in getattr(reader, split)])
        patch.setattr(reader, "meta", {**reader.meta, "md5": md5})
    splits = {name: [*entry[:2], md5] for name, entry in readers.SVHN.split_list.items()}
    patch.setattr(readers.SVHN, "split_list", splits)


def _load(name: str, *folders: Path, download: bool = False, **options: Any) -> Dataset:  # Any: see OPTIONS
    choice = Choice("data", name, {**OPTIONS.get(name, {}), **options})
    dataset: Dataset = choice(Roots(folders, download))
    return dataset


def _written(name: str, root: Path, seed: int = 0) -> Dataset:
    if name in WRITE:
        WRITE[name](root, seed)
    return _load(name, root)


def _all(images: Any, batch: int = 4, augment: Augment | None = None) -> torch.Tensor:  # Any: any Images
    order = torch.split(torch.arange(len(images)), batch)
    return torch.cat(list(images.batches(order, augment or Augment(), CPU)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", data)
def test_a_dataset_is_examples_of_its_task(name: str, tmp_path: Path) -> None:
    dataset = _written(name, tmp_path)
    for split in (dataset.train, dataset.test):
        images = _all(split.images)
        assert images.dtype == torch.float32
        assert images.shape == (len(split), *dataset.task.shape)
        assert len(split.images) == len(split) > 0
        if dataset.task.is_regression:
            assert split.labels.dtype == torch.float32
            continue
        assert split.labels.dtype == torch.int64
        assert ((split.labels >= 0) & (split.labels < dataset.task.classes)).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", data)
def test_facts_are_the_truth(name: str, tmp_path: Path) -> None:
    facts, dataset = data[name].traits["facts"], _written(name, tmp_path)
    assert isinstance(facts, Facts)
    assert facts.task in (None, dataset.task)
    if name not in WRITE and facts.train is not None:
        assert (facts.train, facts.test) == (len(dataset.train), len(dataset.test))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", data)
def test_how_images_are_batched_changes_none(name: str, tmp_path: Path) -> None:
    images = _written(name, tmp_path).test.images
    together = _all(images, len(images))
    assert torch.equal(_all(images, 2), together)
    back = torch.arange(len(images)).flip(0)
    assert torch.equal(next(iter(images.batches([back], Augment(), CPU))), together[back])
    assert list(images.batches([], Augment(), CPU)) == []


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FILES)
def test_a_fingerprint_tells_examples_apart(name: str, tmp_path: Path) -> None:
    one, again, other = (
        _written(name, tmp_path / where, seed) for where, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != other.fingerprint


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", OWN)
def test_pixels_and_labels_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    dataset = _written(name, tmp_path)
    shape, classes = dataset.task.shape, dataset.task.classes
    for split, count in ((dataset.train, TRAIN), (dataset.test, TEST)):
        pixels, labels = _examples(count, shape, classes, 0)
        assert isinstance(split.images, InMemory)
        assert split.images.pixels.dtype == torch.uint8
        assert torch.equal(split.images.pixels, torch.from_numpy(pixels))
        assert torch.equal(split.labels, torch.from_numpy(labels).long())


@pytest.mark.parametrize("name", OWN)
def test_a_dataset_that_is_not_there_names_every_folder_and_a_way(name: str, tmp_path: Path) -> None:
    (tmp_path / "a" / OWN[name]).mkdir(parents=True)
    with pytest.raises(EnvironmentMissing) as error:
        _load(name, tmp_path / "a", tmp_path / "b", root=str(tmp_path / "a/c"))
    for folder in ("a", "b", "a/c"):
        assert f"looked in {tmp_path / folder / OWN[name]}" in str(error.value)
    for told in (name, "no such folder", "--data-root DIR", "PRUNECLI_DATA", "--download"):
        assert told in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FILES)
def test_the_first_root_that_holds_the_files_is_read(name: str, tmp_path: Path) -> None:
    first, second = _written(name, tmp_path / "a", 1), _written(name, tmp_path / "b", 2)
    found = _load(name, tmp_path / "none", tmp_path / "a", tmp_path / "b")
    assert found.fingerprint == first.fingerprint != second.fingerprint


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", OWN)
def test_every_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    _written(name, tmp_path)
    for path in sorted(file for file in tmp_path.rglob("*") if file.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.MonkeyPatch.context() as patch:
            _only_damaged(patch, path)
            with pytest.raises(EnvironmentMissing, match=str(path)):
                _load(name, tmp_path)
        path.write_bytes(whole)
    _load(name, tmp_path)


def _only_damaged(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Every file but this one has the checksum that torchvision's readers know."""
    _know_checksums(patch, "sum")
    patch.setattr("torchvision.datasets.utils.check_md5", lambda file, _: Path(file) != path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_files_that_are_not_the_published_ones_are_not_unpickled(name: str, tmp_path: Path) -> None:
    WRITE[name](tmp_path, 0)
    with pytest.raises(EnvironmentMissing, match=f"{tmp_path / OWN[name]}/.*: damaged: its MD5 is not"):
        _load(name, tmp_path)


@pytest.mark.parametrize("name", OWN)
def test_a_download_is_asked_for_and_its_failure_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise URLError("no route")

    for module, function in (
        ("mnist", "download_and_extract_archive"),
        ("cifar", "download_and_extract_archive"),
    ):
        monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", refuse)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", refuse)
    with pytest.raises(EnvironmentMissing, match="not on this machine"):
        _load(name, tmp_path)
    assert not asked
    with pytest.raises(EnvironmentMissing, match=f"'{name}' cannot be downloaded to {tmp_path}: .*"):
        _load(name, tmp_path, download=True)
    assert asked


@pytest.mark.usefixtures("unchecked")
def test_a_download_goes_to_the_first_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_url: str, root: str, **_: object) -> None:
        _cifar10(Path(root), 3)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "_check_integrity", lambda self: Path(self.root).is_dir()
    )
    got = _load("cifar10", tmp_path / "a", tmp_path / "b", download=True)
    assert got.fingerprint == _load("cifar10", tmp_path / "a").fingerprint
    assert not (tmp_path / "b").exists()


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    _write_idx(tmp_path / "MNIST/raw", 0)
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([77]))
    with pytest.raises(EnvironmentMissing, match="the test split has labels 0 to 77, not within 0 to 9"):
        _load("mnist", tmp_path)


def test_roots_are_searched_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cache = Path("/home/me/.cache/prunecli/data")
    told = roots("/given", True, {"PRUNECLI_DATA": "~/env"})
    assert told.download
    inside = Path("/home/me/env/recipe")
    assert told.search(str(inside)) == (Path("/given"), inside, Path("/home/me/env"), cache)
    assert told.search() == (Path("/given"), Path("/home/me/env"), cache)
    assert roots(None, False, {"PRUNECLI_DATA": "/env"}).search("/env/recipe") == (
        Path("/env/recipe"),
        Path("/env"),
        cache,
    )
    assert roots(None, False, {"PRUNECLI_DATA": ""}) == Roots((cache,))
    assert roots("/a", False, {"PRUNECLI_DATA": "/a"}).search("/a") == (Path("/a"), cache)
    assert told.paths("own.npz")[-1] == Path("own.npz")
    assert replace(told, recipe=Path("/recipes")).paths("own.npz")[-1] == Path("/recipes/own.npz")
    assert set(told.paths("/given/own.npz")) == {Path("/given/own.npz")}


@pytest.mark.parametrize(
    "path", ["{}/outside/own.npz", "../outside/own.npz", "sub/../../outside", "{}/root/link"]
)
def test_a_recipes_path_stays_in_the_folders_that_are_allowed(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here, outside = (tmp_path / name for name in ("root", "here", "outside"))
    for folder in (root, here, outside):
        folder.mkdir()
    (root / "link").symlink_to(outside)
    monkeypatch.chdir(here)
    found = path.format(tmp_path)
    told = Roots((root,), recipe=here)
    for read in (told.search, told.paths):
        with pytest.raises(UsageError, match=r"leads to .*/outside.*--data-root DIR allows another folder"):
            read(found)
    named = Roots((root, outside))
    assert named.search(found)
    assert named.paths(found)


def test_a_path_whose_links_go_in_circles_is_nowhere(tmp_path: Path) -> None:
    (tmp_path / "own.npz").symlink_to(tmp_path / "own.npz")
    with pytest.raises(EnvironmentMissing, match="is not on this machine"):
        _load("arrays", tmp_path)


def test_a_recipes_path_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.npz").write_bytes(b"")
    for path in ("~/own.npz", "$HOME/own.npz"):
        with pytest.raises(EnvironmentMissing, match="are not expanded"):
            Choice("data", "arrays", {"path": path})(Roots((tmp_path,)))


def test_digits_are_always_split_the_same() -> None:
    digits = _load("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.test.labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert digits.fingerprint == "63bab9489a18fad2614535f7cf4261c0af39f99902fef7445820732c36b87e2f"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["digits", "arrays"])
def test_training_pixels_are_normalized_by_their_own_mean_and_std(name: str, tmp_path: Path) -> None:
    pixels = _all(_written(name, tmp_path).train.images)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.zeros_like(mean), atol=2e-4)
    assert torch.allclose(std, torch.ones_like(std), atol=2e-4)


# Image folders


def test_evaluation_images_are_torchvisions(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 0)
    dataset = _load("image_folder", tmp_path)
    image = v2.functional.pil_to_tensor(Image.open(folder / "val/class-0/00.png").convert("RGB"))
    steps = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)])
    wanted = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(steps(image))
    assert torch.allclose(_all(dataset.test.images)[0], wanted, atol=1e-5)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2]


def _augmented(*names: str) -> Augment:
    options = {"random_resized_crop": {"size": 16}}
    return Augment(tuple(Choice("augmentations", name, options.get(name, {})) for name in names), 7)


@pytest.mark.parametrize("names", [(), ("flip",), ("random_resized_crop",), ("flip", "random_resized_crop")])
def test_the_number_of_workers_changes_no_image(names: tuple[str, ...], tmp_path: Path) -> None:
    _folder(tmp_path, 0)
    none, two = (_load("image_folder", tmp_path, workers=workers).train.images for workers in (0, 2))
    here = _all(none, 3, _augmented(*names))
    before = torch.get_rng_state()
    assert torch.equal(_all(two, 5, _augmented(*names)), here)
    assert torch.equal(torch.get_rng_state(), before)
    assert not names or not torch.equal(here, _all(none))


def test_an_augmentation_of_another_size_is_refused(tmp_path: Path) -> None:
    _folder(tmp_path, 0)
    images = _load("image_folder", tmp_path, size=8, resize=8, workers=1).train.images
    with pytest.raises(UsageError, match="makes images 16x16, the data's are 8x8"):
        _all(images, 4, _augmented("random_resized_crop"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(workers: int, tmp_path: Path) -> None:
    broken = _folder(tmp_path, 0) / "val/class-1/01.png"
    broken.write_bytes(broken.read_bytes()[:40])
    images = _load("image_folder", tmp_path, workers=workers).test.images
    before = active_children()
    with pytest.raises(EnvironmentMissing) as error:
        _all(images)
    assert str(error.value).startswith(f"{broken}: cannot be decoded")
    assert active_children() == before


def test_workers_leave_signals_to_the_main_process(tmp_path: Path) -> None:
    _folder(tmp_path, 0)
    images = _load("image_folder", tmp_path, workers=2).train.images
    order = torch.split(torch.arange(len(images)), 1)
    others = set(active_children())
    batches = images.batches(order, Augment(), CPU)
    got = [next(batches)]
    workers = set(active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    got.extend(batches)
    assert torch.equal(torch.cat(got), _all(images))


def test_a_process_with_batches_left_still_ends(tmp_path: Path) -> None:
    _folder(tmp_path, 0)
    program = f"""
from pathlib import Path
import torch
from prunecli.datasets.image_folder import image_folder
from prunecli.datasets.values import Augment
from prunecli.places import Roots
images = image_folder(Roots((Path({str(tmp_path)!r}),)), path="images", size=8, resize=8, workers=2).train.images
batches = images.batches(torch.split(torch.arange(len(images)), 1), Augment(), torch.device("cpu"))
next(batches)
raise SystemExit(9)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (9, b"")


def test_a_folder_without_classes_in_common_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 0)
    (folder / "val/class-2").rename(folder / "val/class-9")
    with pytest.raises(EnvironmentMissing, match="train/ has a class 'class-2' that val/ has not"):
        _load("image_folder", tmp_path)


def test_test_stands_in_for_val(tmp_path: Path) -> None:
    _folder(tmp_path, 0, splits=("train", "test"))
    assert len(_load("image_folder", tmp_path).test) == TEST


def _held_out(root: Path, **options: Any) -> set[str]:  # Any: options are of every type
    images = _load("image_folder", root, **options).test.images
    return {Path(path).relative_to(root / "images/train").as_posix() for path in images.paths}


def _many(root: Path, classes: dict[str, int]) -> Path:
    """A folder with so many images of each class, and no test part."""
    folder = _folder(root, 0, splits=("train", "elsewhere"))
    image = (folder / "train/class-0/00.png").read_bytes()
    shutil.rmtree(folder)
    for name, count in classes.items():
        (folder / "train" / name).mkdir(parents=True)
        for number in range(count):
            (folder / "train" / name / f"{number:03}.png").write_bytes(image)
    return folder


def test_a_fraction_of_each_class_is_held_out(tmp_path: Path) -> None:
    _many(tmp_path, {"a": 40, "b": 11, "c": 1})
    dataset = _load("image_folder", tmp_path, test=0.2)
    assert torch.bincount(dataset.test.labels, minlength=3).tolist() == [8, 2, 0]
    assert torch.bincount(dataset.train.labels, minlength=3).tolist() == [32, 9, 1]
    assert not set(dataset.train.images.paths) & set(dataset.test.images.paths)
    for part in (dataset.train, dataset.test):
        assert [Path(p).parent.name for p in part.images.paths] == ["abc"[n] for n in part.labels.tolist()]
    assert dataset.said == "test: 0.2 of each class of train/: 42 left, 10 held out"
    assert torch.bincount(_load("image_folder", tmp_path, test=0.99).train.labels).tolist() == [1, 1, 1]


def test_what_is_held_out_goes_by_names(tmp_path: Path) -> None:
    folder = _many(tmp_path, {"a": 40, "b": 11})
    before = _held_out(tmp_path, test=0.2)
    assert before <= _held_out(tmp_path, test=0.4)
    assert before != {f"a/{n:03}.png" for n in range(8)} | {"b/000.png", "b/001.png"}
    more = _many(tmp_path / "more", {"a": 40, "aa": 30, "b": 11})
    assert {name for name in _held_out(tmp_path / "more", test=0.2) if not name.startswith("aa")} == before
    # A class of one more, whose share stays the same: the new one may take one place, and no other changes.
    (more / "train/a/new.png").write_bytes((more / "train/a/000.png").read_bytes())
    assert len(before - _held_out(tmp_path / "more", test=0.2)) <= 1
    shutil.move(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(folder)
    assert _held_out(tmp_path, test=0.2) == before


def test_another_split_is_other_data(tmp_path: Path) -> None:
    _many(tmp_path, {"a": 10})
    prints = [_load("image_folder", tmp_path, test=t).fingerprint for t in (0.1, 0.2, 0.5)]
    assert len(set(prints)) == 3
    (tmp_path / "images/train/b").mkdir()
    (tmp_path / "images/train/b/000.png").write_bytes((tmp_path / "images/train/a/000.png").read_bytes())
    assert _load("image_folder", tmp_path, test=0.1).fingerprint not in prints
    recipes = [
        small(f"data={{image_folder: {{path: images{told}}}}}") for told in ("", ", test: 0.1", ", test: 0.2")
    ]
    assert len({run_digest(recipe, "f") for recipe in recipes}) == 3
    assert "test" not in recipes[0].data.plain(results_only=True)["image_folder"]


def test_a_fingerprint_tells_where_the_split_is(tmp_path: Path) -> None:
    # Names whose order by hash is their alphabet's reversed: both splits list the files in one order.
    for number in range(100):
        folder = _many(tmp_path / str(number), {"a": 3})
        for path in sorted((folder / "train/a").iterdir()):
            path.rename(path.with_name(f"{number}-{path.name}"))
        names = sorted(f"a/{path.name}" for path in (folder / "train/a").iterdir())
        few, many = (_held_out(tmp_path / str(number), test=t) for t in (0.3, 0.6))
        if few == set(names[2:]) and many == set(names[1:]):
            break
    one, two = (_load("image_folder", tmp_path / str(number), test=t) for t in (0.3, 0.6))
    assert one.train.images.paths + one.test.images.paths == two.train.images.paths + two.test.images.paths
    assert one.fingerprint != two.fingerprint


def test_a_fingerprint_of_two_parts_stays_as_it_was(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 0)
    lines = (
        f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode()
        for part in ("train", "val")
        for path in sorted((folder / part).rglob("*.png"))
    )
    assert _load("image_folder", tmp_path).fingerprint == hashlib.sha256(b"".join(lines)).hexdigest()


def test_a_split_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    _many(tmp_path, {"a": 3, "b": 2})
    with pytest.raises(UsageError, match=r"'test: 0.1' of 5 images in 2 classes holds none of a class out"):
        _load("image_folder", tmp_path, test=0.1)
    with pytest.raises(EnvironmentMissing, match=r"images/test: no folder of images.*'test: 0.2' holds out"):
        _load("image_folder", tmp_path)
    _folder(tmp_path / "whole", 0)
    with pytest.raises(UsageError, match=r"images/val holds test images; leave 'test: 0.2' out"):
        _load("image_folder", tmp_path / "whole", test=0.2)


def test_a_split_is_planned_and_told_by_the_run(tmp_path: Path) -> None:
    _many(tmp_path, {"a": 10, "b": 10})
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "{model: {mlp: {hidden: []}}, data: {image_folder: {path: images, size: 8, resize: 8, test: 0.2, workers: 0}},\n"
        " optimizer: sgd, learning_rate: 0.1, epochs: 1, batch_size: 8, seeds: [0, 1], procedure: [train]}"
    )
    told = "test: 0.2 of each class of train/: 16 left, 4 held out"
    for command in ("plan", "train"):
        done = CliRunner().invoke(app, [command, str(recipe), "--runs", str(tmp_path / "runs")])
        assert (done.exit_code, done.output.count(told)) == (0, 1), done.output


def test_a_folder_that_is_not_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match=f"looked for {tmp_path / 'images/train'}"):
        _load("image_folder", tmp_path)
    _folder(tmp_path, 0, splits=("train", "elsewhere"))
    with pytest.raises(EnvironmentMissing, match=f"{tmp_path / 'images/test'}: no folder of images"):
        _load("image_folder", tmp_path)
    with pytest.raises(UsageError, match="resize 8 is smaller than size 16"):
        _load("image_folder", tmp_path, resize=8)


# A user's own arrays


def _save(path: Path, arrays: Arrays) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
        return
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize("name", ["own.npz", "own.h5"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", ">f4"])
def test_every_form_of_arrays_is_the_same_examples(name: str, kind: str, tmp_path: Path) -> None:
    first = {key: value.astype(kind) if key[0] == "x" else value for key, value in _arrays().items()}
    last = {key: value.transpose(0, 2, 3, 1) if key[0] == "x" else value for key, value in first.items()}
    read = []
    for number, arrays in enumerate((first, last)):
        path = tmp_path / f"{number}-{name}"
        _save(path, arrays)
        read.append(_load("arrays", path.parent, path=str(path)))
    assert read[0].task.shape == (3, 6, 5)
    assert read[0].task.classes == 3
    assert read[0].fingerprint == read[1].fingerprint
    images = read[0].train.images
    assert isinstance(images, InMemory)
    assert torch.equal(images.pixels.double(), torch.from_numpy(_arrays()["x_train"]).double())


def test_grey_images_need_no_channels(tmp_path: Path) -> None:
    for number, shape in enumerate([(6, 5), (1, 6, 5), (6, 5, 1)]):
        _save(tmp_path / f"{number}.npz", _arrays(shape))
        assert _load("arrays", tmp_path, path=f"{number}.npz").task.shape == (1, 6, 5)


def test_classes_may_be_more_than_those_seen(tmp_path: Path) -> None:
    _save(tmp_path / "own.npz", _arrays())
    assert _load("arrays", tmp_path, classes=8).task.classes == 8
    with pytest.raises(EnvironmentMissing, match="labels 0 to 2, not within 0 to 1"):
        _load("arrays", tmp_path, classes=2)


def test_a_constant_channel_is_only_shifted(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["x_train"][:, 1] = 7
    _save(tmp_path / "own.npz", arrays)
    pixels = _all(_load("arrays", tmp_path).train.images)
    assert pixels.isfinite().all()
    assert (pixels[:, 1] == 0).all()


BAD: dict[str, tuple[Arrays, str]] = {
    "lacking": ({"x_test": None}, "no x_test; it holds x_train, y_test, y_train"),
    "negative": ({"y_test": np.array([0, 1, -1, 0, 0])}, "test split has labels -1 to 1"),
    "enormous": ({"y_test": np.array([0, 1, 10**15, 0, 0])}, "labels 0 to 1000000000000000"),
    "halves": ({"y_test": np.zeros(5)}, r"y_test is float64 \(5,\), not integers"),
    "pairs": ({"y_test": np.zeros((5, 2), int)}, r"y_test is int64 \(5, 2\)"),
    "uneven": ({"y_test": np.zeros(4, int)}, "test split has 5 images and 4 labels"),
    "empty": (
        {"x_train": np.zeros((0, 3, 6, 5)), "y_train": np.zeros(0, int)},
        "training split has 0 images",
    ),
    "pixelless": ({"x_train": np.zeros((12, 3, 0, 5))}, "images without pixels"),
    "nan": ({"x_test": np.full((5, 3, 6, 5), np.nan)}, "test split has pixels that are NaN"),
    "huge": ({"x_test": np.full((5, 3, 6, 5), 1e300)}, "test split has pixels that are NaN or inf"),
    "integers": ({"x_test": np.zeros((5, 3, 6, 5), int)}, "x_test is int64, not uint8"),
    "flat": ({"x_test": np.zeros((5, 90))}, r"x_test has shape \(5, 90\), and should be"),
    "ambiguous": ({"x_test": np.zeros((5, 3, 6, 3))}, r"\(5, 3, 6, 3\).*which one cannot be told"),
    "unlike": ({"x_test": np.zeros((5, 3, 7, 5))}, r"test split has images \(3, 7, 5\), not \(3, 6, 5\)"),
}


@pytest.mark.parametrize("suffix", ["npz", "h5"])
@pytest.mark.parametrize("bad", BAD)
def test_arrays_that_are_no_examples_are_refused(bad: str, suffix: str, tmp_path: Path) -> None:
    changed, told = BAD[bad]
    arrays = {name: value for name, value in {**_arrays(), **changed}.items() if value is not None}
    path = tmp_path / f"own.{suffix}"
    _save(path, arrays)
    with pytest.raises(EnvironmentMissing, match=told) as error:
        _load("arrays", path.parent, path=str(path))
    assert str(error.value).startswith(str(path))


def test_pickles_in_an_npz_are_not_opened(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(ran),)

    _save(tmp_path / "own.npz", {**_arrays(), "y_test": np.array([Trap()] * 5, dtype=object)})
    with pytest.raises(EnvironmentMissing, match=r"own\.npz: cannot be read"):
        _load("arrays", tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize("way", ["soft", "external link", "external", "virtual", "group"])
def test_hdf5_that_leads_elsewhere_is_not_followed(way: str, tmp_path: Path) -> None:
    _save(tmp_path / "other.h5", _arrays())
    (tmp_path / "raw").write_bytes(bytes(450))
    arrays = _arrays()
    del arrays["x_test"]
    _save(tmp_path / "own.h5", arrays)
    with h5py.File(tmp_path / "own.h5", "a") as file:
        _lead(file, way, tmp_path)
    with pytest.raises(EnvironmentMissing, match="x_test is not a plain dataset of this file"):
        _load("arrays", tmp_path, path="own.h5")


def _lead(file: h5py.File, way: str, folder: Path) -> None:
    shape = (TEST, 3, 6, 5)
    if way == "soft":
        file["x_test"] = h5py.SoftLink("/x_train")
    elif way == "external link":
        file["x_test"] = h5py.ExternalLink("other.h5", "x_test")
    elif way == "external":
        file.create_dataset("x_test", shape, "u1", external=[(str(folder / "raw"), 0, 450)])
    elif way == "virtual":
        layout = h5py.VirtualLayout(shape, "u1")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x_test", shape)
        file.create_virtual_dataset("x_test", layout)
    else:
        file.create_group("x_test")


@pytest.mark.parametrize("name", ["own.npz", "own.h5"])
def test_a_damaged_or_foreign_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _save(path, _arrays())
    whole = path.read_bytes()
    for damaged in (b"", b"words", whole[: len(whole) // 2], whole[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(EnvironmentMissing, match=str(path)):
            _load("arrays", path.parent, path=str(path))
    with pytest.raises(EnvironmentMissing, match=r"looked for .*none\.npz"):
        _load("arrays", tmp_path, path="none.npz")
