"""Corruptions that change each pixel by itself: sensor noise, brightness, saturation and contrast.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261).
Shape suffixes: B batch, C channels, H height, W width. All images are in [0, 1]; results are not clamped here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noise.keyed import bits, normal
from noise.poisson import poisson

Strength = float | Tensor
"""One for all images, or one for each, (B, 1, 1, 1)."""

_HALF = 1 << 15  # of the patterns of 16 bits


def gaussian_noise(images_BCHW: Tensor, sigma: Strength, *, keys_B: Tensor) -> Tensor:
    """x + N(0, sigma^2), for each value by itself."""
    field_BCHW = normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field")
    if isinstance(sigma, Tensor):
        return torch.addcmul(images_BCHW, field_BCHW, sigma)
    return torch.add(images_BCHW, field_BCHW, alpha=sigma)


def speckle_noise(images_BCHW: Tensor, sigma: Strength, *, keys_B: Tensor) -> Tensor:
    """x + x N(0, sigma^2)."""
    field_BCHW = normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field")
    return field_BCHW.mul_(sigma).add_(1.0).mul_(images_BCHW)


def shot_noise(images_BCHW: Tensor, photons: float, *, keys_B: Tensor) -> Tensor:
    """Poisson(x c) / c, with c the photons of a white value."""
    return poisson(images_BCHW * photons, keys_B, max_rate=float(photons), stream="counts") / photons


def impulse_noise(images_BCHW: Tensor, share: Strength, *, keys_B: Tensor) -> Tensor:
    """Salt and pepper: a share of the values becomes 0 or 1, half each.

    A draw has 16 bits, so that the share is rounded to a multiple of 2**-15.
    """
    shape = tuple(images_BCHW.shape[1:])
    num_words = (math.prod(shape) + 1) // 2
    draws_BN = bits(keys_B, num_words, stream="field").view(torch.int16)[:, : math.prod(shape)]
    draw = draws_BN.to(torch.float32).view(images_BCHW.shape)
    # From -2**15 to 2**15 - 1: the lowest become pepper and the highest salt. Bounds in place of masks, which take
    # several times as long on a CPU: `floor` is at least 1 for salt and else at most 0, `top` is at most 0 for pepper
    # and else at least 1.
    bound = _HALF - (share * _HALF).round() if isinstance(share, Tensor) else _HALF - round(share * _HALF)
    salted = torch.maximum(images_BCHW, draw - (bound - 1))
    return torch.minimum(salted, draw.add_(bound + 1)).clamp_(0.0, 1.0)


def brightness(images_BCHW: Tensor, added: Strength, *, keys_B: Tensor) -> Tensor:
    """HSV value + c at equal hue and saturation: all channels are scaled so that the largest grows by c, up to 1."""
    value_B1HW = images_BCHW.amax(1, keepdim=True)
    brighter_B1HW = (value_B1HW + added).clamp_(max=1.0)
    # Black has no hue and becomes grey; 1 for it, 0 from a value of a millionth up.
    is_black_B1HW = value_B1HW.mul(-1e6).add_(1.0).clamp_(min=0.0)
    return images_BCHW * (brighter_B1HW / value_B1HW.clamp(min=1e-6)) + is_black_B1HW * brighter_B1HW


def saturate(images_BCHW: Tensor, change: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """HSV saturation s -> min(factor s + added, 1) at equal value and hue; grey has hue 0, as in the public package.

    Images of one channel have no saturation and stay as they are.

    Args:
        images_BCHW: float32.
        change: factor and addend.
        keys_B: Not used; nothing is random here.

    Returns:
        Images of the same shape.
    """
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    factor, added = change
    value_B1HW = images_BCHW.amax(1, keepdim=True)
    spread_B1HW = value_B1HW - images_BCHW.amin(1, keepdim=True)
    saturation_B1HW = (factor * spread_B1HW / value_B1HW.clamp(min=1e-6) + added).clamp(max=1.0)
    share_BCHW = (value_B1HW - images_BCHW) / spread_B1HW.clamp(min=1e-6)
    red_C11 = images_BCHW.new_ones(3, 1, 1).index_fill_(0, images_BCHW.new_zeros(1, dtype=torch.int64), 0.0)
    return value_B1HW * (1.0 - saturation_B1HW * torch.where(spread_B1HW > 1e-6, share_BCHW, red_C11))


def contrast(images_BCHW: Tensor, factor: Strength, *, keys_B: Tensor) -> Tensor:
    """(x - m) c + m about the mean m of each image and channel."""
    mean_BC11 = images_BCHW.mean((2, 3), keepdim=True)
    return images_BCHW * factor + mean_BC11 * (1.0 - factor)
