"""Random crop, flip and colour on the batch's device, keyed to the image: its batch and place do not matter."""

from __future__ import annotations

from typing import Protocol

import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from torch.nn.functional import pad

from noise.keyed import integers, uniform


class AugmentSettings(Protocol):
    """What `augment` reads: the section `train.augment`, or anything with these."""

    @property
    def crop_padding(self) -> int: ...

    @property
    def flip(self) -> float: ...

    @property
    def colour(self) -> float: ...


def augment(images: torch.Tensor, keys: torch.Tensor, *, settings: AugmentSettings) -> torch.Tensor:
    """Augmented images; the same images and keys give the same result in any batch.

    Crop: edges are reflected by `crop_padding` pixels (at most the image's side less one) and a window of the image's
    size cut out at a random place. Flip: left to right, with probability `flip`. Colour: brightness, contrast and
    saturation each times 1 + u with u even in [-colour, colour], in this order, by Kornia's functions that follow PIL:
    brightness multiplies, contrast turns about the image's mean grey, saturation about each pixel's grey.

    Args:
        images: float (b, 3, height, width) in [0, 1].
        keys: int64 (b,), from `noise.keyed.image_keys`, with the epoch in its salt or seed.
        settings: The section `train.augment`.

    Returns:
        float, of the shape and on the device of `images`, in [0, 1].
    """
    if settings.crop_padding > 0:
        images = _crop(images, keys, padding=settings.crop_padding)
    if settings.flip > 0:
        flipped = uniform(keys, (1, 1, 1), stream="flip") < settings.flip
        images = torch.where(flipped, images.flip(-1), images)
    if settings.colour > 0:
        images = _colour(images, keys, strength=settings.colour)
    return images


def _crop(images: torch.Tensor, keys: torch.Tensor, *, padding: int) -> torch.Tensor:
    height, width = images.shape[-2:]
    padding = min(padding, height - 1, width - 1)
    padded = pad(images, (padding, padding, padding, padding), mode="reflect")
    corners = integers(keys, (2,), stream="crop", low=0, high=2 * padding + 1)
    rows = corners[:, :1] + torch.arange(height, device=images.device)
    columns = corners[:, 1:] + torch.arange(width, device=images.device)
    index = torch.arange(len(images), device=images.device)
    return padded[
        index[:, None, None, None],
        torch.arange(3, device=images.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _colour(images: torch.Tensor, keys: torch.Tensor, *, strength: float) -> torch.Tensor:
    factors = uniform(keys, (3,), stream="colour", low=1 - strength, high=1 + strength, dtype=images.dtype)
    images = adjust_brightness_accumulative(images, factors[:, 0], clip_output=True)
    images = adjust_contrast_with_mean_subtraction(images, factors[:, 1])
    return adjust_saturation_with_gray_subtraction(images, factors[:, 2]).clamp(0.0, 1.0)
