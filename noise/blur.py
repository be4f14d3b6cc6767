"""Blurs: Gaussian, defocus, frosted glass, linear motion, zoom.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261). Lengths are in pixels.
Shape suffixes: B batch, C channels, H height, W width, L = H W.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.filters import gaussian_weights, line_filter, smooth, weighted_shifts, zoom_in
from noise.keyed import bits, uniform

_MAX_ANGLE = math.pi / 4
_WHOLE_DISK = 8  # up to this radius the reference's kernel is a square of 17, smoothed by 3 taps; above, by 5


def gaussian_blur(images_BCHW: Tensor, sigma: float, *, keys_B: Tensor) -> Tensor:
    """Gaussian filter of standard deviation `sigma`, cut at 4 sigma, edges repeated."""
    return smooth(images_BCHW, float(sigma))


def defocus_blur(images_BCHW: Tensor, radius_alias: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """Mean over a disk, its rim softened by a small Gaussian; edges mirrored.

    The pixels (dx, dy) with dx^2 + dy^2 <= radius^2 count; a row of the disk is a difference of running sums. Between
    whole radii the means over both disks are blended.

    Args:
        images_BCHW: float32.
        radius_alias: Radius of the disk and standard deviation of the softening Gaussian, in pixels.
        keys_B: Not used; nothing is random here.
    """
    radius, alias = radius_alias
    whole = math.floor(radius)
    blurred = _disk_mean(images_BCHW, whole, alias)
    return blurred if radius == whole else blurred.lerp_(_disk_mean(images_BCHW, whole + 1, alias), radius - whole)


def _disk_mean(images_BCHW: Tensor, radius: int, alias: float) -> Tensor:
    """Mean over the whole pixels (dx, dy) with dx^2 + dy^2 <= radius^2."""
    taps = 1 if radius <= _WHOLE_DISK else 2
    rim = gaussian_weights(alias, taps)
    height, width = images_BCHW.shape[-2:]
    rows = [math.isqrt(radius**2 - dy**2) for dy in range(-radius, radius + 1)]
    padded = _mirrored(images_BCHW, radius + taps)
    softened = weighted_shifts(weighted_shifts(padded, rim, dim=3, is_padded=True), rim, dim=2, is_padded=True)
    # Running sums of what differs from the middle grey stay small, and with them their rounding.
    sums = F.pad((softened - 0.5).cumsum(3), (1, 0))
    total = torch.zeros(images_BCHW.shape, device=images_BCHW.device)
    for half in sorted(set(rows)):
        # Rows of the disk that are of one length share the differences.
        line = sums.narrow(3, radius + half + 1, width) - sums.narrow(3, radius - half, width)
        for down in (place for place, other in enumerate(rows) if other == half):
            total += line.narrow(2, down, height)
    return total.div_(sum(2 * half + 1 for half in rows)).add_(0.5)


def _mirrored(images_BCHW: Tensor, reach: int) -> Tensor:
    """Padded by the mirror image without its edge pixel; where the image is too small for that, the edge repeated."""
    height, width = images_BCHW.shape[-2:]
    mode = "reflect" if reach < min(height, width) else "replicate"
    return F.pad(images_BCHW, (reach, reach, reach, reach), mode=mode)


def scaled_defocus(radius_alias: tuple[float, float], factor: float) -> tuple[float, float]:
    """The disk at another image size; the softening stays. Below a radius of 1 the image itself is blended in."""
    return radius_alias[0] * factor, radius_alias[1]


def glass_blur(images_BCHW: Tensor, sigma_shift_rounds: tuple[float, int, int], *, keys_B: Tensor) -> Tensor:
    """Blur, rounds of swaps of near pixels, blur.

    In a round each pixel at least `shift` from the rim is swapped once with the one (dx, dy) away, both drawn from
    -shift..shift - 1. Pixels whose places agree modulo 2 shift + 1 have partners that never meet, so that they swap at
    the same time. The public package means the same swaps one after another; its swap of colour pixels is in effect a
    copy.

    Args:
        images_BCHW: float32.
        sigma_shift_rounds: Standard deviation of both blurs, longest shift along an axis, rounds.
        keys_B: int64 keys; the swaps of an image are drawn from its key.
    """
    sigma, shift, rounds = sigma_shift_rounds
    shift = max(1, min(int(shift), (min(images_BCHW.shape[-2:]) - 2) // 2))
    blurred = smooth(images_BCHW, sigma)
    height, width = images_BCHW.shape[-2:]
    origin_BL = _shuffled(keys_B, (height, width), shift=shift, rounds=int(rounds))
    moved = blurred.flatten(2).gather(2, origin_BL[:, None].expand(-1, images_BCHW.shape[1], -1))
    return smooth(moved.view_as(blurred), sigma)


def _shuffled(keys_B: Tensor, shape: tuple[int, int], *, shift: int, rounds: int) -> Tensor:
    """Where each pixel comes from after the swaps: a permutation of 0..L-1 for each image, int64 (B, L)."""
    height, width = shape
    places_L, rank_L, sizes = _phases(height, width, shift)
    places_L, rank_L = places_L.to(keys_B.device), rank_L.to(keys_B.device)
    count = sum(sizes)
    # All in the order of the phases, so that those that swap at a time lie side by side.
    origin_BL = places_L.expand(len(keys_B), -1).clone()
    for turn in range(rounds):
        words_BL = bits(keys_B, height * width, stream=f"swaps {turn}")
        down_BL = (words_BL & 0xFFFF).mul_(2 * shift).bitwise_right_shift_(16).sub_(shift)
        right_BL = words_BL.bitwise_right_shift_(16).bitwise_and_(0xFFFF).mul_(2 * shift).bitwise_right_shift_(16)
        moves_BL = down_BL.mul_(width).add_(right_BL).sub_(shift)[:, :count]
        partners = rank_L[places_L[:count] + moves_BL].split(sizes, 1)
        for mine, partner in zip(origin_BL[:, :count].split(sizes, 1), partners, strict=True):
            other = origin_BL.gather(1, partner)
            origin_BL.scatter_(1, partner, mine.clone())
            mine.copy_(other)
            # A pixel that is its own partner has been written twice with the same value.
    return origin_BL[:, rank_L]


@lru_cache(maxsize=8)
def _phases(height: int, width: int, shift: int) -> tuple[Tensor, Tensor, list[int]]:
    """All places in the order in which they swap, the rank of each place in it, and how many swap at the same time.

    Those at the rim, which only are fetched, come last.
    """
    row_L = torch.arange(height).repeat_interleave(width)
    column_L = torch.arange(width).repeat(height)
    is_inside = (row_L > shift) & (row_L <= height - shift) & (column_L > shift) & (column_L <= width - shift)
    period = 2 * shift + 1
    phase_L = torch.where(is_inside, (row_L % period) * period + column_L % period, period**2)
    places_L = phase_L.argsort(stable=True)
    sizes = [size for size in phase_L.bincount(minlength=period**2 + 1).tolist()[:-1] if size]
    return places_L, places_L.argsort(), sizes


def scaled_glass(sigma_shift_rounds: tuple[float, int, int], factor: float) -> tuple[float, int, int]:
    """The glass at another image size; the shift at least 1 pixel, the blur at least a third of one."""
    sigma, shift, rounds = sigma_shift_rounds
    return math.hypot(1 / 3, sigma * factor), max(1, round(shift * factor)), rounds


def motion_blur(images_BCHW: Tensor, radius_sigma: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """A one-sided line of 2 radius + 1 steps with Gaussian weights, its angle from U(-45, 45) degrees, edges repeated.

    Args:
        images_BCHW: float32.
        radius_sigma: radius of the line and standard deviation of its weights, in pixels.
        keys_B: int64 keys; one angle is drawn for each image.

    Returns:
        Images of the same shape.
    """
    radius, sigma = radius_sigma
    angle_B = (uniform(keys_B, (1,), stream="angle")[:, 0] * 2 - 1) * _MAX_ANGLE
    return line_filter(images_BCHW, angle_B, radius=round(radius), sigma=sigma, heading="right")


def scaled_motion(radius_sigma: tuple[float, float], factor: float) -> tuple[float, float]:
    """The line at another image size; radius and sigma at least 1 pixel."""
    return max(1.0, radius_sigma[0] * factor), max(1.0, radius_sigma[1] * factor)


def zoom_blur(images_BCHW: Tensor, last_step: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """Mean of the image and its middle enlarged by 1, 1 + step, ... last.

    The image itself counts twice, alone and as the zoom by 1, as in the public package.

    Args:
        images_BCHW: float32.
        last_step: Largest zoom factor and the step between factors.
        keys_B: Not used; nothing is random here.
    """
    last, step = last_step
    count = round((last - 1) / step) + 1
    # Bilinear resampling runs 1.6 times as fast where the channels of a pixel lie side by side.
    images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    total = images_BCHW * 2.0
    for number in range(1, count):
        total += zoom_in(images_BCHW, 1 + number * step)
    return total.div_(count + 1)
