"""Filters against sums written out, and against SciPy."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from noise import filters
from tests.unit.noise.pictures import random_images


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.3])
def test_smooth_is_scipys_gaussian_filter(sigma: float) -> None:
    images_BCHW = random_images(2, 31, 44)
    expected = scipy.ndimage.gaussian_filter(images_BCHW.double().numpy(), (0, 0, sigma, sigma), mode="nearest")
    assert np.abs(filters.smooth(images_BCHW, sigma).numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("angle", [0.0, 0.5, -0.7, 2.5, -math.pi / 2])
@pytest.mark.parametrize(("radius", "sigma"), [(1, 1.0), (4, 2.0), (15, 8.0)])
def test_line_filter_is_the_sum_of_shifted_images(angle: float, radius: int, sigma: float) -> None:
    images_BCHW = random_images(2, 21, 34)
    found = filters.line_filter(images_BCHW, torch.tensor([angle, 0.2]), radius=radius, sigma=sigma)
    for number, turn in enumerate((angle, 0.2)):
        expected = _line(images_BCHW[number], float(torch.tensor(turn)), radius, sigma)
        assert (found[number] - expected).abs().max() < 2e-6


@pytest.mark.parametrize(("heading", "middle"), [("right", 0.0), ("up", -math.pi / 2)])
def test_a_known_heading_changes_no_pixel(heading: filters.Heading, middle: float) -> None:
    images_BCHW = random_images(4, 21, 34)
    angle_B = torch.tensor([-math.pi / 4, -0.3, 0.5, math.pi / 4]) + middle
    known, unknown = (filters.line_filter(images_BCHW, angle_B, radius=7, sigma=4.0, heading=way)
                      for way in (heading, "any"))  # fmt: skip
    assert (known - unknown).abs().max() < 2e-6


def _line(image_CHW: Tensor, angle: float, radius: int, sigma: float) -> Tensor:
    height, width = image_CHW.shape[1:]
    total, norm = torch.zeros_like(image_CHW), 0.0
    for step in range(2 * radius + 1):
        weight = math.exp(-(step**2) / (2 * sigma**2))
        down, right = (math.ceil(step * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
        rows, columns = (torch.arange(height) + down).clamp(0, height - 1), torch.arange(width) + right
        total += weight * image_CHW[:, rows][:, :, columns.clamp(0, width - 1)]
        norm += weight
    return total / norm


@pytest.mark.parametrize("factor", [1.0, 1.11, 1.3, 4.5])
@pytest.mark.parametrize("shape", [(32, 32), (33, 20)], ids=str)
def test_zoom_in_is_scipys_zoom_of_the_middle(factor: float, shape: tuple[int, int]) -> None:
    image = random_images(1, *shape)[0, 0]
    high, wide = (math.ceil(side / factor) for side in shape)
    top, left = (shape[0] - high) // 2, (shape[1] - wide) // 2
    middle = image[top : top + high, left : left + wide].numpy()
    expected = scipy.ndimage.zoom(middle, factor, order=1)[: shape[0], : shape[1]]
    assert np.abs(filters.zoom_in(image[None, None], factor)[0, 0].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (7, 8), (264, 270), (300, 300), (1390, 1440)])
def test_fast_lengths_have_no_factor_above_5(length: int, expected: int) -> None:
    assert filters.fast_length(length) == expected
