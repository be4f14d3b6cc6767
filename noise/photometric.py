"""Corruptions that change each pixel by itself: sensor noise, brightness, saturation and contrast.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261).
Shape suffixes: B batch, C channels, H height, W width. All images are in [0, 1]; results are not clamped here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noise.keyed import normal, poisson, uniform

Strength = float | Tensor
"""One for all images, or one for each, (B, 1, 1, 1)."""

_STEPS = 2**23  # of the uniforms


def gaussian_noise(images_BCHW: Tensor, sigma: Strength, *, keys_B: Tensor) -> Tensor:
    """x + N(0, sigma^2), for each value by itself."""
    return normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field").mul_(sigma).add_(images_BCHW)


def speckle_noise(images_BCHW: Tensor, sigma: Strength, *, keys_B: Tensor) -> Tensor:
    """x + x N(0, sigma^2)."""
    field_BCHW = normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field")
    return field_BCHW.mul_(sigma).add_(1.0).mul_(images_BCHW)


def shot_noise(images_BCHW: Tensor, photons: float, *, keys_B: Tensor) -> Tensor:
    """Poisson(x c) / c, with c the photons of a white value."""
    return poisson(images_BCHW * photons, keys_B, max_rate=float(photons), stream="counts") / photons


def impulse_noise(images_BCHW: Tensor, share: Strength, *, keys_B: Tensor) -> Tensor:
    """Salt and pepper: a share of the values becomes 0 or 1, half each."""
    draw = uniform(keys_B, tuple(images_BCHW.shape[1:]), stream="field")
    # Bounds between the uniforms' steps, which no draw meets: the sign of a difference is then -1 or 1. Comparing and
    # filling would take several times as long on a CPU. Where both signs are 1 the image stays, where both are -1 is
    # salt.
    low, high = (_between_steps(bound) for bound in (share / 2, share))
    keep = torch.sub(draw, high).sign_().add_(1.0)
    salt = draw.sub_(low).sign_()
    return keep.mul_(images_BCHW).sub_(salt).add_(1.0).mul_(0.5)


def _between_steps(bound: Strength) -> Strength:
    """The nearest multiple of the uniforms' step; they stand half a step off."""
    return (bound * _STEPS).round() / _STEPS if isinstance(bound, Tensor) else round(bound * _STEPS) / _STEPS


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
