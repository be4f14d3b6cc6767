"""Filters that the blurs and the weather share; an image's result does not depend on its batch, to within 1e-6.

Sums of shifted images and Fourier transforms, no convolution or matrix product: on a GPU those may run in TF32, and
libraries choose their order of summing by the batch's size.
Shape suffixes: B batch, C channels, H height, W width, K taps, S steps, P values drawn for an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Heading = Literal["any", "right", "up"]

_TRUNCATE = 4.0


def reach_of(sigma: float, truncate: float = _TRUNCATE) -> int:
    """Pixels on each side that a Gaussian filter of this standard deviation goes over."""
    return max(1, int(truncate * sigma + 0.5))


def gaussian_weights(sigma: float, reach: int) -> list[float]:
    """2 reach + 1 weights of a sampled Gaussian that sum to 1."""
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def smooth(images_BCHW: Tensor, sigma: float, *, reach: int | None = None) -> Tensor:
    """Gaussian filter of one standard deviation for all images, edges repeated.

    Args:
        images_BCHW: float32.
        sigma: Standard deviation in pixels, above 0.
        reach: Pixels on each side; by default 4 standard deviations.
    """
    reach = reach_of(sigma) if reach is None else reach
    weights = gaussian_weights(sigma, reach)
    return weighted_shifts(weighted_shifts(images_BCHW, weights, dim=3), weights, dim=2)


def weighted_shifts(images_BCHW: Tensor, weights: Sequence[float], *, dim: int, is_padded: bool = False) -> Tensor:
    """Correlation with symmetric weights along one axis.

    Args:
        images_BCHW: float32.
        weights: 2 reach + 1 numbers, the same from both ends.
        dim: 2 for columns (down), 3 for rows (across).
        is_padded: Whether the images have `reach` more pixels on both ends, which the result then lacks; else their
            edges are repeated.
    """
    reach = len(weights) // 2
    if not is_padded:
        images_BCHW = F.pad(images_BCHW, (reach, reach, 0, 0) if dim == 3 else (0, 0, reach, reach), mode="replicate")
    length = images_BCHW.shape[dim] - 2 * reach
    total = images_BCHW.narrow(dim, reach, length) * weights[reach]
    for k in range(reach):
        total.add_(images_BCHW.narrow(dim, k, length), alpha=weights[k])
        total.add_(images_BCHW.narrow(dim, 2 * reach - k, length), alpha=weights[k])
    return total


def gaussian_filter(images_BCHW: Tensor, sigma_B: Tensor, *, reach: int) -> Tensor:
    """Gaussian filter with a standard deviation for each image, edges repeated.

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


def line_filter(images_BCHW: Tensor, angle_B: Tensor, *, radius: int, sigma: float, heading: Heading = "any") -> Tensor:
    """A one-sided line of 2 radius + 1 steps with Gaussian weights, at an angle for each image, edges repeated.

        y(p) = sum_i w_i x(p + round(i (cos a, sin a))),   w_i ~ exp(-i^2 / (2 sigma^2)),   i = 0..2 radius

    Args:
        images_BCHW: float32.
        angle_B: Radians; 0 points right, pi / 2 down.
        radius: Of the line, in pixels.
        sigma: Standard deviation of the weights, in pixels.
        heading: What the angles are known to be within 45 degrees of; a smaller margin is then transformed.
    """
    reach = 2 * radius
    steps_S = torch.arange(reach + 1, device=images_BCHW.device, dtype=torch.float32)
    weights_S = torch.exp(-(steps_S**2) / (2 * sigma**2))
    weights_BS = (weights_S / weights_S.sum()).expand(len(images_BCHW), -1)
    # Rounded, halves down, as the public package does.
    down_BS, right_BS = ((steps_S * part_B[:, None] - 0.5).ceil().long() for part_B in (angle_B.sin(), angle_B.cos()))
    aside = math.ceil(reach * math.sqrt(0.5))
    margins = {"any": (reach,) * 4, "right": (0, reach, aside, aside), "up": (aside, aside, reach, 0)}[heading]
    return sum_of_shifts(images_BCHW, down_BS, right_BS, weights_BS, reach=margins)


def sum_of_shifts(
    images_BCHW: Tensor,
    down_BS: Tensor,
    right_BS: Tensor,
    weights_BS: Tensor,
    *,
    reach: tuple[int, int, int, int],
) -> Tensor:
    """y(p) = sum_s w_s x(p + (down_s, right_s)), with shifts for each image by itself, edges repeated.

    By Fourier transforms, so that many shifts cost no more than a few.

    Args:
        images_BCHW: float32.
        down_BS: int64 shifts.
        right_BS: The same to the right.
        weights_BS: float32, of sum 1 for each image.
        reach: Longest shifts to the left, to the right, up and down, known on the host.
    """
    left, right, up, down = reach
    height, width = images_BCHW.shape[-2:]
    high, wide = fast_length(height + up + down), fast_length(width + left + right)
    kernel_BL = torch.zeros(len(images_BCHW), high * wide, device=images_BCHW.device)
    kernel_BL.scatter_add_(1, (down_BS % high) * wide + right_BS % wide, weights_BS)
    spectrum = torch.fft.rfft2(kernel_BL.view(-1, 1, high, wide)).conj()
    # Differences from the middle grey are small, and with them the rounding.
    rest = (left, wide - width - left, up, high - height - up)
    padded = F.pad(images_BCHW, rest, mode="replicate").sub_(0.5)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded).mul_(spectrum), s=(high, wide))
    return filtered[..., up : up + height, left : left + width] + 0.5


def fast_length(length: int) -> int:
    """The least length from here up that has no prime factor above 5, for which Fourier transforms are fast."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def zoom_in(images_BCHW: Tensor, factor: float) -> Tensor:
    """The middle of the images enlarged by a factor from 1 up, bilinear, corner on corner, cut to the size before.

    As `scipy.ndimage.zoom(order=1)` of the middle ceil(side / factor) pixels.
    """
    height, width = images_BCHW.shape[-2:]
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    middle = images_BCHW[..., (height - high) // 2 :, (width - wide) // 2 :][..., :high, :wide]
    return enlarged(middle, factor)[..., :height, :width]


def enlarged(images_BCHW: Tensor, factor: float) -> Tensor:
    """Bilinear enlargement by a factor, corner on corner; sides are rounded."""
    high, wide = images_BCHW.shape[-2:]
    size = (max(1, round(high * factor)), max(1, round(wide * factor)))
    if size == (high, wide):
        return images_BCHW
    return F.interpolate(images_BCHW, size=size, mode="bilinear", align_corners=True)
