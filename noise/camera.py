"""A corruption from a camera's own measured noise and blur.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from noise.blur import gaussian_blur
from noise.entry import TABLE_SIDES, Corruption
from noise.fit import CameraFit
from noise.keyed import normal

MULTIPLES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Severity 1 to 5 in units of the camera's own noise and blur, in steps of about sqrt(2) (own)."""


class CameraLevel(NamedTuple):
    """Noise in units of [0, 1], blur in pixels; as in `noise.fit.CameraFit`."""

    read_sigma: float
    shot_gain: float
    blur_sigma: float


def camera_noise(images_BCHW: Tensor, level: CameraLevel, *, keys_B: Tensor) -> Tensor:
    """y = z + sqrt(a z + read^2) N(0, 1), z = G * x: the image blurred, then signal-dependent Gaussian noise.

    Args:
        images_BCHW: float32 in [0, 1]; noise and blur are of these values, as they were measured on such.
        level: Read noise, gain a and blur.
        keys_B: int64 keys.

    Returns:
        Images of the same shape, not clamped.

    Source: Foi et al. 2008 (IEEE TIP 17(10)), the normal approximation of Poisson-Gaussian noise.
    """
    if level.blur_sigma > 0:
        images_BCHW = gaussian_blur(images_BCHW, level.blur_sigma, keys_B=keys_B)
    variance_BCHW = level.shot_gain * images_BCHW.clamp(min=0.0) + level.read_sigma**2
    return images_BCHW + variance_BCHW.sqrt() * normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field")


def camera_levels(fit: CameraFit) -> tuple[CameraLevel, ...]:
    """Severity 1 to 5: standard deviations and blur times 0.5, 0.7, 1, 1.4, 2 (so the gain times their squares).

    Blur is in pixels of the images measured.
    """
    return tuple(
        CameraLevel(fit.read_sigma * multiple, fit.shot_gain * multiple**2, fit.blur_sigma * multiple)
        for multiple in MULTIPLES
    )


def camera_corruption(fit: CameraFit) -> Corruption:
    """An entry for `noise.families.CORRUPTIONS` whose severity 3 is the camera as it was measured.

    Blur follows the side of the image, as all lengths do. Noise does not: where a study makes the camera's images
    smaller, which averages noise away, take `fit.resized(image_size)`.
    """
    to_table = TABLE_SIDES["imagenet"] / fit.side
    return Corruption(
        camera_noise,
        "noise",
        {"imagenet": tuple(scaled_level(level, to_table) for level in camera_levels(fit))},
        source=f"measured on {fit.num_images} images of the user's camera; multiples {', '.join(map(str, MULTIPLES))}",
        scaled=scaled_level,
        family="own",
    )


def scaled_level(level: CameraLevel, factor: float) -> CameraLevel:
    """The blur at another image size; the noise stays."""
    return level._replace(blur_sigma=level.blur_sigma * factor)
