"""JPEG by Pillow on the CPU and by tensors elsewhere: the same pixels to the bit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noise.jpeg import by_tensors, jpeg_compression
from noise.keyed import image_keys
from tests.unit.noise.pictures import random_images, scenes

_KEYS_4 = image_keys(range(4), seed=0)


def _through_pillow(levels_BCHW: Tensor, quality: int) -> Tensor:
    decoded = []
    for levels_CHW in levels_BCHW:
        pixels = levels_CHW.permute(1, 2, 0).numpy()
        coded = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(coded, "JPEG", quality=quality)
        with Image.open(coded) as picture:
            decoded.append(torch.from_numpy(np.array(picture).reshape(pixels.shape)).permute(2, 0, 1))
    return torch.stack(decoded)


@pytest.mark.parametrize("quality", [1, 7, 10, 15, 18, 25, 40, 65, 80, 100])
@pytest.mark.parametrize(
    ("height", "width", "channels"), [(64, 64, 3), (61, 45, 3), (18, 35, 3), (8, 9, 3), (33, 50, 1)]
)
def test_both_ways_give_pillows_pixels(quality, height, width, channels):
    levels_BCHW = torch.cat([make(2, height, width, channels=channels) for make in (scenes, random_images)])
    levels_BCHW = levels_BCHW.mul(255).round().byte()
    expected = _through_pillow(levels_BCHW, quality)
    coded = jpeg_compression(levels_BCHW / 255, quality, keys_B=_KEYS_4)
    assert torch.equal(coded, expected / 255)
    assert torch.equal(by_tensors(levels_BCHW.int(), quality).byte(), expected)


def test_values_between_levels_are_rounded_first():
    images_BCHW = scenes(1, 24, 24)
    levels = images_BCHW.mul(255).round().div(255)
    coded = [jpeg_compression(images, 50, keys_B=_KEYS_4[:1]) for images in (levels, levels + 0.4 / 255)]
    assert torch.equal(*coded)
