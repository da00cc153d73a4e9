"""P6: augmentation, beside torchvision's of PIL images and beside a whole epoch by boolean masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision import transforms

from benchmarks.measure import Work, interleaved, median_wall
from benchmarks.openlth_style import arrays_of
from benchmarks.registry import Circumstances, benchmark
from benchmarks.rows import Row, at_least, at_most, compared, figure
from benchmarks.workloads import PADDING, Bench, bench, pixels_of
from prunecli.datasets.values import Augment, Normalization


@benchmark("P6")
def augmenting(at: Circumstances) -> Iterator[Row]:
    """Mirroring, crops and normalization of batches of CIFAR's shape, one thread."""
    made = bench("resnet", at)
    count = min(made.workload.train, 100 if at.quick else 2560)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides: dict[str, Work] = {
            "ours": partial(_ours, made, count),
            "PIL": partial(_pil, made, count),
            "epoch by masks": partial(_by_masks, made, count),
        }
        taken = interleaved(sides, at.rounds, at.device)
    finally:
        torch.set_num_threads(threads)
    what = f"mirror, crop, normalize {count:,} images"
    yield compared("P6", what, "torchvision, PIL", taken, "ours", "PIL", target=at_least(25))
    yield compared("P6", what, "a loop over shifts, as airbench", taken, "ours", "epoch by masks")
    steps = interleaved({"ours": made.train}, at.few(3), at.device)["ours"]
    each = median_wall(taken["ours"]) / count
    shares = [100 * each / (one.wall / made.images) for one in steps]
    note = "augmentation with one thread, steps with all"
    yield figure("P6", "ResNet-20: augmentation's part of a step", shares, "%", target=at_most(1), note=note)


def _ours(made: Bench, count: int) -> None:
    augment = Augment(tuple(made.lab.experiment.augmentation), 1)
    order = torch.split(torch.arange(count), made.workload.batch)
    for _images in made.lab.dataset.train.images.batches(order, augment, made.lab.device):
        pass


def _pil(made: Bench, count: int) -> None:
    normalize = made.workload.normalize
    change = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(made.workload.shape[1], PADDING),
            transforms.ToTensor(),
            transforms.Normalize(normalize.mean, normalize.std),
        ]
    )
    train = made.lab.dataset.train
    pixels, _ = arrays_of(pixels_of(train)[:count], train.labels[:count])
    for start in range(0, count, made.workload.batch):
        torch.stack([change(Image.fromarray(one)) for one in pixels[start : start + made.workload.batch]])


def _by_masks(made: Bench, count: int) -> Tensor:
    """A whole epoch at once: normalized, padded, moved by rows and then by columns, a mask for each shift."""
    pixels = pixels_of(made.lab.dataset.train)[:count]
    size, shifts = pixels.shape[2], 2 * PADDING + 1
    images = functional.pad(_normalized(pixels, made.workload.normalize), (PADDING,) * 4, mode="reflect")
    mirrored = (torch.rand(count, device=images.device) < 0.5).view(-1, 1, 1, 1)
    images = torch.where(mirrored, images.flip(-1), images)
    drawn = torch.randint(0, shifts, (2, count), device=images.device)
    rows = images.new_empty(count, images.shape[1], size, images.shape[3])
    for shift in range(shifts):
        rows[drawn[0] == shift] = images[drawn[0] == shift][:, :, shift : shift + size]
    cropped = images.new_empty(count, images.shape[1], size, size)
    for shift in range(shifts):
        cropped[drawn[1] == shift] = rows[drawn[1] == shift][..., shift : shift + size]
    return cropped


def _normalized(pixels: Tensor, normalize: Normalization) -> Tensor:
    mean, std = (
        torch.tensor(part, device=pixels.device).view(-1, 1, 1) * normalize.scale
        for part in (normalize.mean, normalize.std)
    )
    return (pixels.float() - mean) / std
