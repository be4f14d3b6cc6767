"""What a roadside camera's own sensor, shutter and coder do: low light, exposure, motion, distance.

Light adds up before the sensor, so all but `far_jpeg` work on linear light (sRGB decoded and encoded again).
Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from noise.filters import sum_of_shifts
from noise.jpeg import jpeg_compression
from noise.keyed import normal, uniform
from noise.light import to_linear, to_srgb
from noise.poisson import poisson
from noise.resolution import resolution

_VERTICAL_SPREAD, _HORIZONTAL_SPREAD = math.radians(12.0), math.radians(6.0)


class LowLight(NamedTuple):
    """A short or dark exposure.

    Args:
        electrons: Expected photo-electrons of a white pixel (EMVA 1288: mu_e at the clipping level in use).
        read: Temporal dark noise, electrons (sigma_d).
        row: Standard deviation of the rows' own offsets, electrons (DSNU, its row part).
        level: What share of full brightness the gain restores.
    """

    electrons: float
    read: float
    row: float
    level: float


class Motion(NamedTuple):
    """Way of the image during the exposure, in pixels."""

    length: float


class Far(NamedTuple):
    """A small, coded picture of a distant vehicle."""

    divisor: float
    quality: float


def low_light(images_BCHW: Tensor, exposure: LowLight, *, keys_B: Tensor) -> Tensor:
    """Poisson-Gaussian noise of a linear sensor at low exposure, brought back up by gain.

        y = level (N + r + o) / E,   N ~ Poisson(E x),   r ~ N(0, read^2),   o_row ~ N(0, row^2),   x linear light
        var y = level^2 (E x + read^2 + row^2) / E^2

    The row offsets are the same in all channels. Not modelled: colour filters and their interpolation, so noise is
    white here, and in-camera denoising. Quantisation is left to the caller.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        exposure: Electrons of white, dark noise, row offsets, gain.
        keys_B: int64 keys.

    Returns:
        Images of the same shape, sRGB, clipped to [0, 1].

    Source: EMVA Standard 1288, release 4.0 Linear, section 2 (sigma_y^2 = K^2 (sigma_d^2 + mu_e) + sigma_q^2); Foi et
        al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP 17(10).
    """
    shape = tuple(images_BCHW.shape[1:])
    light = to_linear(images_BCHW)
    electrons = poisson(light * exposure.electrons, keys_B, max_rate=float(exposure.electrons), stream="photons")
    electrons += exposure.read * normal(keys_B, shape, stream="read")
    electrons += exposure.row * normal(keys_B, (1, shape[1], 1), stream="row")
    return to_srgb(electrons * (exposure.level / exposure.electrons))


def overexposure(images_BCHW: Tensor, stops: float, *, keys_B: Tensor) -> Tensor:
    """Light times 2^stops, clipped at white.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        stops: Steps of exposure, each doubles the light.
        keys_B: Not used; nothing is random here.

    Returns:
        Images of the same shape, sRGB.
    """
    return to_srgb(to_linear(images_BCHW) * 2.0**stops)


def underexposure(images_BCHW: Tensor, stops: float, *, keys_B: Tensor) -> Tensor:
    """Light divided by 2^stops, then rounded to 8 bits as a camera stores it: dark tones fall together.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        stops: Steps of exposure, each halves the light.
        keys_B: Not used; nothing is random here.

    Returns:
        Images of the same shape, sRGB, in steps of 1/255.
    """
    return (to_srgb(to_linear(images_BCHW) * 0.5**stops) * 255.0 + 0.5).floor() / 255.0


def driving_blur(images_BCHW: Tensor, motion: Motion, *, keys_B: Tensor) -> Tensor:
    """Even motion along the driving direction during the exposure: the mean over a centred line of `length` pixels.

    Assumed, by the key, half each: a camera above the lane, where vehicles move down the picture, within 12 degrees of
    the vertical as perspective slants the lanes; or one beside the road, within 6 degrees of the horizontal. Speed is
    constant and the whole picture moves alike, as on a crop of one vehicle; the sign of the motion does not matter.

        y = sum_k w_k x(p + k (1, tan a)) / length,   w_k = length of [k - 1/2, k + 1/2] inside [-length/2, length/2]

    between columns (or rows) by linear interpolation, in linear light, edges repeated.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        motion: Length of the line in pixels along the nearer axis, from 1 up.
        keys_B: int64 keys; they draw axis and angle.

    Returns:
        Images of the same shape, sRGB.
    """
    draw_B2 = uniform(keys_B, (2,), stream="direction")
    sideways_B = draw_B2[:, 0] < 0.5
    signed_B = draw_B2[:, 1] * 2 - 1
    slope_B = torch.where(
        sideways_B, signed_B * math.tan(_HORIZONTAL_SPREAD), signed_B * math.tan(_VERTICAL_SPREAD)
    )  # fmt: skip
    half = math.ceil(motion.length / 2 - 0.5)
    ends = [
        (max(step - 0.5, -motion.length / 2), min(step + 0.5, motion.length / 2)) for step in range(-half, half + 1)
    ]
    weights_S = torch.tensor([(high - low) / motion.length for low, high in ends], device=images_BCHW.device)
    along_S = torch.arange(-half, half + 1, device=images_BCHW.device)
    aside_BS = along_S * slope_B[:, None]
    whole_BS = aside_BS.floor()
    part_BS = aside_BS - whole_BS
    along_BS = along_S.expand(len(images_BCHW), -1).repeat(1, 2)
    across_BS = torch.cat([whole_BS, whole_BS + 1], 1).long()
    weights_BS = torch.cat([weights_S * (1 - part_BS), weights_S * part_BS], 1)
    down_BS, right_BS = (torch.where(sideways_B[:, None], one, other) for one, other in
                         ((across_BS, along_BS), (along_BS, across_BS)))  # fmt: skip
    light = to_linear(images_BCHW)
    return to_srgb(sum_of_shifts(light, down_BS, right_BS, weights_BS, reach=(half + 1, half + 1, half + 1, half + 1)))


def scaled_motion(motion: Motion, factor: float) -> Motion:
    """The line at another image size; below 2 pixels it goes over smoothly into 1 pixel, which is no motion."""
    length = motion.length * factor
    return Motion(length if length >= 2 else 1 + length**2 / 4)


def far_jpeg(images_BCHW: Tensor, far: Far, *, keys_B: Tensor) -> Tensor:
    """Area down to side / divisor, bilinear up, then JPEG: a distant vehicle, enlarged and coded again.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        far: Divisor of the sides and quality of the coder (1 to 100).
        keys_B: Not used; nothing is random here.

    Returns:
        Images of the same shape, in steps of 1/255.
    """
    small = resolution(images_BCHW, far.divisor, keys_B=keys_B).clamp(0.0, 1.0)
    return jpeg_compression(small, far.quality, keys_B=keys_B)
