"""Laws of streamed images: who decodes them, and when, changes no image; and nobody who does is left behind."""

from __future__ import annotations

import gc
import os
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small
from PIL import Image

import prunecli.catalog  # noqa: F401  (registers what recipes name)
from prunecli.cores import cores, share, share_of_cores, sharing
from prunecli.datasets.image_files import ImageFiles, keeping
from prunecli.datasets.image_folder import image_folder
from prunecli.datasets.values import Augment
from prunecli.errors import EnvironmentMissing
from prunecli.places import Roots
from prunecli.placing import in_processes
from prunecli.registry import Choice
from prunecli.runs import run_digest
from prunecli.stopping import Stop
from prunecli.store.lock import is_locked, locked

CPU = torch.device("cpu")
COUNT = 13
OneByOne = ("random_resized_crop",)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Made-up photographs, as JPEG and PNG and of many sizes."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(COUNT):
            folder = tmp_path / "images" / part / f"class-{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (12 + number, 30 - number, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.{'jpg' if number % 3 else 'png'}")
    return tmp_path


def files(root: Path, *, workers: int | None = 0, keep: str = "never", prefetch: int = 2) -> ImageFiles:
    """The training images."""
    options = {
        "path": "images",
        "size": 8,
        "resize": 9,
        "workers": workers,
        "keep": keep,
        "prefetch": prefetch,
    }
    images = image_folder(Roots((root,)), **options).train.images
    assert isinstance(images, ImageFiles)
    return images


def augmented(key: int, *names: str) -> Augment:
    options = {"random_resized_crop": {"size": 8}, "crop": {"padding": 2}}
    return Augment(tuple(Choice("augmentations", name, options.get(name, {})) for name in names), key)


def epoch(images: ImageFiles, augment: Augment, size: int = 2, backwards: bool = False) -> torch.Tensor:
    order = torch.arange(len(images))
    chunks = torch.split(order.flip(0) if backwards else order, size)
    return torch.cat(list(images.batches(chunks, augment, CPU)))


@pytest.mark.parametrize("names", [(), ("flip", "crop"), OneByOne, ("flip", *OneByOne)])
@pytest.mark.parametrize("keep", ["never", "auto"])
def test_who_decodes_changes_no_image_in_any_epoch(root: Path, names: tuple[str, ...], keep: str) -> None:
    here = files(root)
    expected = [epoch(here, augmented(key, *names), backwards=key == 2) for key in (1, 2, 3)]
    for workers in (1, 3):
        images = files(root, workers=workers, keep=keep)
        for key, whole in zip((1, 2, 3), expected, strict=True):
            assert torch.equal(epoch(images, augmented(key, *names), backwards=key == 2), whole), (
                workers,
                key,
            )
    assert not names or not torch.equal(expected[0], expected[2])


def test_workers_stay_from_epoch_to_epoch_and_serve_both_parts(root: Path) -> None:
    others = set(active_children())
    options = {"path": "images", "size": 8, "resize": 9, "workers": 2, "keep": "never"}
    dataset = image_folder(Roots((root,)), **options)
    seen = set()
    for images in (dataset.train.images, dataset.test.images, dataset.train.images):
        assert isinstance(images, ImageFiles)
        epoch(images, augmented(1, *OneByOne))
        seen |= set(active_children()) - others
    assert len(seen) == 2


def test_an_epoch_given_up_in_its_middle_leaves_nothing_to_the_next(root: Path) -> None:
    here, images = files(root), files(root, workers=2, prefetch=3)
    for taken in (0, 1, 3):
        begun = images.batches(torch.split(torch.arange(COUNT), 2), augmented(7, *OneByOne), CPU)
        for _ in range(taken):
            next(begun)
        begun.close()
        assert torch.equal(epoch(images, augmented(8, *OneByOne)), epoch(here, augmented(8, *OneByOne)))


def test_training_pauses_while_an_evaluation_runs(root: Path) -> None:
    here, images = files(root), files(root, workers=2)
    order = torch.split(torch.arange(COUNT), 2)
    training = images.batches(order, augmented(7, *OneByOne), CPU)
    got = [next(training), next(training)]
    assert torch.equal(epoch(images, Augment(), size=5), epoch(here, Augment(), size=5))
    got.append(next(training))
    assert torch.equal(epoch(images, Augment(), size=5), epoch(here, Augment(), size=5))
    got.extend(training)
    assert torch.equal(torch.cat(got), epoch(here, augmented(7, *OneByOne)))


def test_two_iterations_side_by_side_do_not_mix(root: Path) -> None:
    here, images = files(root), files(root, workers=1)
    order = torch.split(torch.arange(COUNT), 2)
    augments = [augmented(key, *OneByOne) for key in (1, 2)]
    pairs = zip(*(images.batches(order, augment, CPU) for augment in augments), strict=True)
    for together, augment in zip(zip(*pairs, strict=True), augments, strict=True):
        assert torch.equal(torch.cat(together), epoch(here, augment))


# What is kept


def test_images_are_decoded_once_where_they_fit(root: Path) -> None:
    images = files(root, workers=1, keep="auto")
    first = epoch(images, Augment())
    for path in images.paths:
        Path(path).unlink()
    assert torch.equal(epoch(images, Augment(), size=3), first)
    assert not torch.equal(epoch(images, augmented(1, "flip")), first)
    with pytest.raises(EnvironmentMissing, match="cannot be decoded"):
        epoch(images, augmented(1, *OneByOne))


def test_images_that_are_not_to_be_kept_are_read_again(root: Path) -> None:
    images = files(root)
    epoch(images, Augment())
    Path(images.paths[3]).unlink()
    with pytest.raises(EnvironmentMissing, match="cannot be decoded"):
        epoch(images, Augment())


def test_images_made_anew_each_time_are_not_kept(root: Path) -> None:
    images = files(root, keep="auto")
    epoch(images, augmented(1, *OneByOne))
    assert torch.equal(epoch(images, Augment()), epoch(files(root), Augment()))


def test_a_part_of_the_images_is_not_taken_for_all(root: Path) -> None:
    images, order = files(root, keep="auto"), torch.split(torch.arange(COUNT), 2)
    begun = images.batches(order, Augment(), CPU)
    next(begun)
    begun.close()
    assert torch.equal(
        epoch(images, Augment(), backwards=True), epoch(files(root), Augment(), backwards=True)
    )


def test_the_smaller_part_is_kept_where_both_do_not_fit() -> None:
    assert [kept is not None for kept in keeping([10**12, 50], 224)] == [False, True]
    assert [kept is not None for kept in keeping([50, 60], 224)] == [True, True]
    assert keeping([0, 0], 224) == [None, None]


# The ends of workers


def test_workers_end_with_the_dataset(root: Path) -> None:
    before = set(active_children())
    images = files(root, workers=2)
    epoch(images, Augment())
    begun = images.batches(torch.split(torch.arange(COUNT), 2), Augment(), CPU)
    next(begun)
    assert len(set(active_children()) - before) == 2
    del begun, images
    assert set(active_children()) == before


def test_workers_end_where_an_error_made_a_cycle_of_garbage(root: Path) -> None:
    before = set(active_children())
    images = files(root, workers=2)
    epoch(images, Augment())
    cycle: list[object] = [images, images.batches(torch.split(torch.arange(COUNT), 2), Augment(), CPU)]
    next(cycle[1])  # type: ignore[call-overload]  # it is an iterator
    cycle.append(cycle)
    assert len(set(active_children()) - before) == 2
    del images, cycle
    gc.collect()
    assert set(active_children()) == before


def test_after_an_error_the_same_images_are_read_by_new_workers(root: Path) -> None:
    images, before = files(root, workers=2), set(active_children())
    epoch(images, Augment())
    broken = Path(images.paths[5])
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EnvironmentMissing, match=f"{broken}: cannot be decoded"):
        epoch(images, Augment())
    assert set(active_children()) == before
    broken.write_bytes(whole)
    assert torch.equal(epoch(images, Augment()), epoch(files(root), Augment()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_no_worker_holds_a_lock_or_the_output(root: Path) -> None:
    run = root / "run"
    run.mkdir()
    others = set(active_children())
    images = files(root, workers=2)
    with locked(run):
        epoch(images, Augment())
        assert is_locked(run)
    workers = set(active_children()) - others
    assert len(workers) == 2
    assert not is_locked(run)
    for worker in workers:
        held = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()}
        assert str(run / "lock") not in held.values()
        assert [held[stream] for stream in "012"] == [os.devnull] * 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_by_workers_of_its_own(root: Path) -> None:
    images = files(root, workers=2)
    first = epoch(images, Augment())
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(epoch(images, Augment()), first) else 1)
    for _ in range(3):
        assert torch.equal(epoch(images, Augment()), first)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Cores


def test_cores_are_divided_among_processes_side_by_side() -> None:
    assert (sharing(), share_of_cores()) == (1, cores())
    try:
        share(cores() + 1)
        assert share_of_cores() == 1
    finally:
        share(1)


def shared(piece: int, _tell: object, _stop: Stop) -> tuple[int, int]:
    """What a process knows of the others."""
    return sharing(), share_of_cores()


def test_processes_side_by_side_know_of_each_other() -> None:
    found = dict(in_processes([1, 2], 2, shared, lambda _event: None, Stop()))
    assert found == dict.fromkeys((1, 2), (2, max(1, cores() // 2)))


def test_how_images_are_read_is_no_part_of_a_digest() -> None:
    told = ("", ", workers: 7", ", prefetch: 5", ", keep: never", ", workers: null")
    digests = {run_digest(small(f"data={{image_folder: {{path: images{one}}}}}"), "f") for one in told}
    assert len(digests) == 1
