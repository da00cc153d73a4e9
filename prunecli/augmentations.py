"""Random changes of training images; an image's draw depends on the key and its number alone."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from prunecli.randomness import Draw
from prunecli.registry import augmentations


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError("should be the lower limit, then the upper one")
    return values


Scale = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]
Ratio = Annotated[
    list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]


@augmentations
def flip(images: Tensor, draw: Draw, *, p: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Tensor:
    """Mirrors an image (of B, C, H, W) from left to right with probability `p`."""
    mirrored = (draw.uniform("flip") < p).view(-1, 1, 1, 1)
    images = images.contiguous()
    whole = _whole_rows(images)
    return torch.where(mirrored, images.flip(-1).view(whole.dtype), whole).view(images.dtype)


def _whole_rows(images: Tensor) -> Tensor:
    """The same memory as the widest integers that a row holds: choosing between bytes takes several times as long."""
    for width, wide in ((8, torch.int64), (4, torch.int32), (2, torch.int16)):
        if images.dtype == torch.uint8 and images.shape[-1] % width == images.storage_offset() % width == 0:
            return images.view(wide)
    return images


@augmentations
def crop(images: Tensor, draw: Draw, *, padding: Annotated[int, Field(ge=0, le=512)] = 4) -> Tensor:
    """A random crop of an image (of B, C, H, W) that `padding` zeros a side were put around."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (padding, padding, padding, padding))
    # Every crop is a view; one gather copies those drawn, far quicker than a loop over images.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = (draw.integers(side, 2 * padding + 1) for side in ("crop top", "crop left"))
    return windows[torch.arange(len(images), device=images.device), :, top, left]


@augmentations(per_image=True)
def random_resized_crop(
    image: Tensor,
    draw: Draw,
    *,
    size: Annotated[int, Field(ge=1, le=4096)] = 224,
    scale: Scale = [0.08, 1.0],  # noqa: B006  (a recipe's lists are lists; it is only read)
    ratio: Ratio = [0.75, 1.3333333333333333],  # noqa: B006  (as above)
) -> Tensor:
    """A crop of a random part and shape of an image (C, H, W), resized to `size` (Szegedy et al., 2015).

    `scale`: the part of the area; `ratio`: width by height. As torchvision's RandomResizedCrop.
    """
    from torchvision.transforms.v2.functional import resized_crop

    top, left, height, width = _box(image.shape[1], image.shape[2], draw, scale, ratio)
    resized: Tensor = resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return resized


def _box(height: int, width: int, draw: Draw, scale: list[float], ratio: list[float]) -> tuple[int, ...]:
    """Top, left, height and width of the first of ten drawn boxes that fits, or else the central one."""
    for attempt in range(10):
        part, shape = (float(draw.uniform(f"{of} {attempt}")) for of in ("area", "ratio"))
        area = height * width * (scale[0] + part * (scale[1] - scale[0]))
        aspect = math.exp(math.log(ratio[0]) + shape * math.log(ratio[1] / ratio[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers("top", height - h + 1)), int(draw.integers("left", width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w
