"""Blurs: Gaussian and linear motion.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261). Lengths are in pixels.
Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from noise.keyed import uniform

_TRUNCATE = 4.0
_MAX_ANGLE = math.pi / 4


def gaussian_blur(images_BCHW: Tensor, sigma: float, *, keys_B: Tensor) -> Tensor:
    """Gaussian filter of standard deviation `sigma`, cut at 4 sigma, edges repeated."""
    size = 2 * int(_TRUNCATE * sigma + 0.5) + 1
    return gaussian_blur2d(
        images_BCHW, kernel_size=(size, size), sigma=(sigma, sigma), border_type="replicate", separable=True
    )


def motion_blur(images_BCHW: Tensor, radius_sigma: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """A one-sided line of 2 radius + 1 steps with Gaussian weights, at an angle from U(-45, 45) degrees, edges repeated.

    Args:
        radius_sigma: radius of the line and standard deviation of its weights, in pixels.
    """
    radius, sigma = radius_sigma
    height, width = images_BCHW.shape[-2:]
    steps = torch.arange(2 * round(radius) + 1, device=images_BCHW.device, dtype=torch.float32)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    angle_B = (uniform(keys_B, (1,), stream="angle")[:, 0] * 2 - 1) * _MAX_ANGLE
    down_BS = torch.round(steps * angle_B.sin()[:, None]).long()
    right_BS = torch.round(steps * angle_B.cos()[:, None]).long()
    rows_H = torch.arange(height, device=images_BCHW.device)
    columns_W = torch.arange(width, device=images_BCHW.device)
    batch_B11 = torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None, None]
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous()
    blurred = torch.zeros_like(images_BHWC)
    for step in range(len(steps)):
        rows_BH1 = (rows_H + down_BS[:, step, None]).clamp(0, height - 1)[:, :, None]
        columns_B1W = (columns_W + right_BS[:, step, None]).clamp(0, width - 1)[:, None, :]
        blurred += weights[step].to(images_BCHW.dtype) * images_BHWC[batch_B11, rows_BH1, columns_B1W]
    return blurred.permute(0, 3, 1, 2).contiguous()


def scaled_motion(radius_sigma: tuple[float, float], factor: float) -> tuple[float, float]:
    """The line at another image size; radius and sigma at least 1 pixel."""
    return max(1.0, radius_sigma[0] * factor), max(1.0, radius_sigma[1] * factor)
