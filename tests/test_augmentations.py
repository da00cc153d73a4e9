"""Laws of augmentations: what an image becomes depends on the key and its number alone."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torchvision.transforms.v2 import functional

from prunecli.augmentations import _box, crop, flip
from prunecli.datasets.values import Augment, InMemory, Normalization
from prunecli.errors import UsageError
from prunecli.randomness import Draw
from prunecli.registry import Choice, augmentations

OPTIONS = {"random_resized_crop": {"size": 12}}
BATCH = [name for name in augmentations if not augmentations[name].traits.get("per_image")]
PLAIN = Normalization(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _images(count: int = 16, size: int = 12) -> Tensor:
    return torch.arange(count * 3 * size * size).view(count, 3, size, size).mul(37).to(torch.uint8)


def _augment(name: str, key: int = 1) -> Augment:
    return Augment((Choice("augmentations", name, OPTIONS.get(name, {})),), key)


def _batch(images: Tensor, augment: Augment, index: list[int]) -> Tensor:
    return next(InMemory(images, PLAIN).batches([torch.tensor(index)], augment, torch.device("cpu")))


@pytest.mark.parametrize("name", augmentations)
def test_an_images_draw_is_its_own(name: str) -> None:
    images = _images()
    together = _batch(images, _augment(name), list(range(16)))
    for index in ([3], [15, 3], [7, 0, 3, 3]):
        assert torch.equal(_batch(images, _augment(name), index), together[index])


@pytest.mark.parametrize("name", augmentations)
def test_another_key_is_another_draw(name: str) -> None:
    everything = list(range(16))
    images = _images()
    one, again, other = (_batch(images, _augment(name, key), everything) for key in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, images.float())


@pytest.mark.parametrize("name", augmentations)
def test_torchs_own_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    _batch(_images(), _augment(name), [0, 1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", BATCH)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_type_are_kept(name: str, dtype: torch.dtype) -> None:
    images = _images().to(dtype)
    before = images.clone()
    made = _augment(name).batch(images, torch.arange(16))
    assert made.dtype == dtype
    assert made.shape == images.shape
    assert torch.equal(images, before)


@pytest.mark.parametrize(("p", "mirrored"), [(0.0, False), (1.0, True)])
def test_a_flip_mirrors(p: float, mirrored: bool) -> None:
    images = _images()
    made = flip(images, Draw(1, torch.arange(16)), p=p)
    assert torch.equal(made, functional.horizontal_flip(images) if mirrored else images)


def test_half_the_images_are_flipped() -> None:
    images = torch.arange(2).view(1, 1, 1, 2).expand(10_000, 1, 1, 2)
    made = flip(images, Draw(1, torch.arange(10_000)))
    assert abs(int(made[:, 0, 0, 0].sum()) - 5_000) < 4 * 50


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_a_crop_is_torchvisions_with_the_same_offsets(padding: int) -> None:
    images, draw = _images(), Draw(5, torch.arange(16))
    made = crop(images, draw, padding=padding)
    tops, lefts = (draw.integers(side, 2 * padding + 1) for side in ("crop top", "crop left"))
    assert int(tops.max()) <= 2 * padding
    for image, top, left, one in zip(images, tops.tolist(), lefts.tolist(), made, strict=True):
        assert torch.equal(functional.crop(functional.pad(image, [padding]), top, left, 12, 12), one)


def test_a_crop_reaches_every_offset() -> None:
    corner = torch.zeros(2_000, 1, 3, 3)
    corner[:, :, 1, 1] = 1
    made = crop(corner, Draw(1, torch.arange(2_000)), padding=1)
    assert set(made.flatten(1).argmax(1).tolist()) == set(range(9))


def test_resized_boxes_lie_in_the_image_and_have_the_part_and_shape() -> None:
    height, width, scale, ratio = 300, 400, [0.1, 0.5], [0.8, 1.25]
    for number in range(300):
        top, left, h, w = _box(height, width, Draw(3, torch.tensor([number])), scale, ratio)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert 0.1 - 0.01 < h * w / (height * width) < 0.5 + 0.01
        assert 0.8 - 0.02 < w / h < 1.25 + 0.02


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 1000, (0, 433, 100, 133)), (1000, 100, (433, 0, 133, 100)), (90, 90, (0, 0, 90, 90))],
)
def test_where_no_box_fits_it_is_the_central_one(height: int, width: int, box: tuple[int, ...]) -> None:
    ratio = [0.75, 4 / 3] if height != width else [0.5, 2.0]
    scale = [1.0, 1.0]
    drawn = [_box(height, width, Draw(1, torch.tensor([n])), scale, ratio) for n in range(3)]
    assert drawn == [box] * 3


def test_a_resized_crop_of_everything_is_a_resize() -> None:
    image = _images(1, 24)[0]
    choice = Choice(
        "augmentations", "random_resized_crop", {"size": 12, "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
    )
    made = choice(image, Draw(1, torch.tensor([0])))
    assert torch.equal(made, functional.resize(image, [12, 12], antialias=True))
    assert made.dtype == torch.uint8


def test_images_of_another_size_than_the_datas_are_refused() -> None:
    with pytest.raises(UsageError, match="'random_resized_crop' makes images 12x12, the data's are 8x8"):
        _batch(_images(size=8), _augment("random_resized_crop"), [0])


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("random_resized_crop", "scale", [0.5, 0.1]),
        ("random_resized_crop", "scale", [0.0, 1.0]),
        ("random_resized_crop", "ratio", [1.0]),
        ("flip", "p", 1.5),
        ("crop", "padding", -1),
    ],
)
def test_impossible_options_are_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(augmentations[name].options[option].annotation).validate_python(value, strict=True)


@pytest.mark.parametrize("name", augmentations)
def test_defaults_are_possible(name: str) -> None:
    for option in augmentations[name].options.values():
        TypeAdapter(option.annotation).validate_python(option.default, strict=True)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_flip_mirrors_what_was_drawn_and_nothing_else(width, dtype, offset):
    pixels = torch.randint(0, 256, (offset + 40 * 3 * 5 * width,)).to(dtype)[offset:].view(40, 3, 5, width)
    index = torch.arange(40)
    draw = Draw(7, index)
    found = Choice("augmentations", "flip")(pixels, draw)
    for image, mirrored, one in zip(pixels, draw.uniform("flip") < 0.5, found, strict=True):
        assert torch.equal(one, image.flip(-1) if mirrored else image)
    assert found.dtype == dtype


def test_a_flip_takes_images_however_they_lie_in_memory():
    pixels = torch.randint(0, 256, (8, 3, 4, 8), dtype=torch.uint8)
    other = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(*(flip(images, Draw(7, torch.arange(8))) for images in (pixels, other)))
