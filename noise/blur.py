"""Blurs: Gaussian and linear motion.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261). Lengths are in pixels.
Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.keyed import uniform

_TRUNCATE = 4.0
_MAX_ANGLE = math.pi / 4


def gaussian_blur(images_BCHW: Tensor, sigma: float, *, keys_B: Tensor) -> Tensor:
    """Gaussian filter of standard deviation `sigma`, cut at 4 sigma, edges repeated."""
    sigma_B = torch.full((len(images_BCHW),), float(sigma), device=images_BCHW.device)
    return gaussian_filter(images_BCHW, sigma_B, reach=max(1, int(_TRUNCATE * sigma + 0.5)))


def gaussian_filter(images_BCHW: Tensor, sigma_B: Tensor, *, reach: int) -> Tensor:
    """Gaussian filter with a standard deviation for each image, edges repeated.

    Sums of shifted images and no convolution: cuDNN convolves in TF32 by default, and Kornia's filter takes another
    path for large batches, so that the last digits would depend on device and batch.

    Args:
        images_BCHW: float32.
        sigma_B: Standard deviations in pixels; 0 leaves the image as it is.
        reach: Pixels on each side that the sum goes over, known on the host.

    Returns:
        Images of the same shape.
    """
    offsets_K = torch.arange(-reach, reach + 1, device=images_BCHW.device, dtype=torch.float32)
    weights_BK = torch.exp(-0.5 * (offsets_K / sigma_B.float().clamp(min=1e-3)[:, None]) ** 2)
    weights_BK = weights_BK / weights_BK.sum(1, keepdim=True)
    for dim, padding in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded_BCHW = F.pad(images_BCHW, padding, mode="replicate")
        length = images_BCHW.shape[dim]
        images_BCHW = torch.zeros_like(images_BCHW)
        for k in range(2 * reach + 1):
            images_BCHW.addcmul_(padded_BCHW.narrow(dim, k, length), weights_BK[:, k, None, None, None])
    return images_BCHW


def motion_blur(images_BCHW: Tensor, radius_sigma: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """A one-sided line of 2 radius + 1 steps with Gaussian weights, its angle from U(-45, 45) degrees, edges repeated.

        y(p) = sum_i w_i x(p + round(i (cos a, sin a))),   w_i ~ exp(-i^2 / (2 sigma^2)),   i = 0..2 radius

    Args:
        images_BCHW: float32.
        radius_sigma: radius of the line and standard deviation of its weights, in pixels.
        keys_B: int64 keys; one angle is drawn for each image.

    Returns:
        Images of the same shape.
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
        blurred += weights[step] * images_BHWC[batch_B11, rows_BH1, columns_B1W]
    return blurred.permute(0, 3, 1, 2).contiguous()


def scaled_motion(radius_sigma: tuple[float, float], factor: float) -> tuple[float, float]:
    """The line at another image size; radius and sigma at least 1 pixel."""
    return max(1.0, radius_sigma[0] * factor), max(1.0, radius_sigma[1] * factor)
