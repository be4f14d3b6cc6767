"""The benchmark suite: 15 test corruptions and 4 extra ones, parameters as in the public package imagecorruptions.

Source: Hendrycks & Dietterich 2019, arXiv 1903.12261; the tables for 64 and 32 px are of its published generators. The
original ImageNet-C files differ in places, so no figure on this suite compares with published ImageNet-C errors.
"""

from __future__ import annotations

from functools import partial

from noise import blur, digital, frost, jpeg, photometric, resolution, weather
from noise.entry import Corruption

_public = partial(
    Corruption,
    source="Hendrycks & Dietterich 2019 (arXiv 1903.12261), parameters as in the package imagecorruptions",
    family="imagecorruptions",
)

BENCHMARK: dict[str, Corruption] = {
    "gaussian_noise": _public(
        photometric.gaussian_noise,
        "noise",
        {
            "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
            "tiny": (0.04, 0.08, 0.12, 0.15, 0.18),
            "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
        },
        neutral=0.0,
    ),
    "shot_noise": _public(
        photometric.shot_noise,
        "noise",
        {"imagenet": (60, 25, 12, 5, 3), "tiny": (250, 100, 50, 30, 15), "cifar": (500, 250, 100, 75, 50)},
    ),
    "impulse_noise": _public(
        photometric.impulse_noise,
        "noise",
        {
            "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
            "tiny": (0.01, 0.02, 0.05, 0.08, 0.14),
            "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
        },
        neutral=0.0,
    ),
    "speckle_noise": _public(
        photometric.speckle_noise,
        "noise",
        {
            "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
            "tiny": (0.15, 0.2, 0.25, 0.3, 0.35),
            "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
        },
        neutral=0.0,
    ),
    "gaussian_blur": _public(
        blur.gaussian_blur,
        "blur",
        {"imagenet": (1, 2, 3, 4, 6), "tiny": (0.5, 0.75, 1, 1.25, 1.5), "cifar": (0.4, 0.6, 0.7, 0.8, 1)},
    ),
    "defocus_blur": _public(
        blur.defocus_blur,
        "blur",
        {"imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))},
        scaled=blur.scaled_defocus,
    ),
    "glass_blur": _public(
        blur.glass_blur,
        "blur",
        {"imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))},
        scaled=blur.scaled_glass,
    ),
    "zoom_blur": _public(
        blur.zoom_blur, "blur", {"imagenet": ((1.11, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03))}
    ),
    "motion_blur": _public(
        blur.motion_blur,
        "blur",
        {"imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))},
        scaled=blur.scaled_motion,
    ),
    "snow": _public(
        weather.snow,
        "weather",
        {
            "imagenet": (
                weather.Snow(0.1, 0.3, 3, 0.5, 10, 4, 0.8),
                weather.Snow(0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                weather.Snow(0.55, 0.3, 4, 0.9, 12, 8, 0.7),
                weather.Snow(0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                weather.Snow(0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
            )
        },
        scaled=weather.scaled_snow,
    ),
    "frost": _public(
        frost.frost, "weather", {"imagenet": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))}
    ),
    "fog": _public(weather.fog, "weather", {"imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))}),
    "spatter": _public(
        weather.spatter,
        "weather",
        {
            "imagenet": (
                weather.Spatter(0.65, 0.3, 4, 0.69, 0.6, is_mud=False),
                weather.Spatter(0.65, 0.3, 3, 0.68, 0.6, is_mud=False),
                weather.Spatter(0.65, 0.3, 2, 0.68, 0.5, is_mud=False),
                weather.Spatter(0.65, 0.3, 1, 0.65, 1.5, is_mud=True),
                weather.Spatter(0.67, 0.4, 1, 0.65, 1.5, is_mud=True),
            )
        },
        scaled=weather.scaled_spatter,
    ),
    "brightness": _public(photometric.brightness, "weather", {"imagenet": (0.1, 0.2, 0.3, 0.4, 0.5)}, neutral=0.0),
    "saturate": _public(
        photometric.saturate, "digital", {"imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))}
    ),
    "contrast": _public(photometric.contrast, "digital", {"imagenet": (0.4, 0.3, 0.2, 0.1, 0.05)}, neutral=1.0),
    "elastic_transform": _public(
        digital.elastic_transform,
        "digital",
        {"imagenet": (12.5, 16.25, 21.25, 25, 30)},
        scaled=digital.scaled_elastic,
    ),
    "pixelate": _public(
        resolution.pixelate,
        "digital",
        {
            "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
            "tiny": (0.9, 0.8, 0.7, 0.6, 0.5),
            "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
        },
    ),
    "jpeg_compression": _public(
        jpeg.jpeg_compression,
        "digital",
        {"imagenet": (25, 18, 15, 10, 7), "tiny": (65, 58, 50, 40, 25), "cifar": (80, 65, 58, 50, 40)},
    ),
}

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Published for validation and development; the other 15 are for testing."""
