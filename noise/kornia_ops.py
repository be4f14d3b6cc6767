"""Kornia's own image-degrading generators as corruptions `kornia.<name>`, their random numbers drawn from our keys.

Kornia draws from the global random state, mostly on the CPU, and some of its draws change with the batch. Here the
parameters come from `noise.keyed` and go to the augmentation's `apply_transform`, or to the function below it.
Kornia is imported on use, so that the package works without it.

What does convolutions or rounds runs in float64: cuDNN convolves float32 in TF32 by default, and the last digits of a
float32 product change with the batch.
Left out: what has no five strengths (channel dropout and shuffle, grey scale, inversion, posterisation) or is a change
of colour or light that destroys little (equalisation, CLAHE, solarisation, gamma, jitter, RGB shift, Planckian jitter,
sharpness), erasing (occlusion, no noise), box and Gaussian blur (`gaussian_blur` again), dissolving (needs a diffusion
model).

Shape suffixes: B batch, C channels, H height, W width, D drops, T taps of a motion kernel.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from noise.entry import Corruption, Group, Op
from noise.keyed import integers, normal, uniform

Span = tuple[float, float]
"""A strength drawn evenly between two values for each image."""

_F32 = torch.float32
_ROUGHNESS: Span = (0.1, 0.7)  # Kornia's default


def rain(images_BCHW: Tensor, share_length: Span, *, keys_B: Tensor) -> Tensor:
    """Rain drops: lines of one pixel's width, at level 200/255, all of one image alike.

    A drop is length/2 to length pixels high and leans up to length/4 to either side; as many fall as cover the share
    of the pixels if none overlapped.

    Args:
        images_BCHW: float32 in [0, 1].
        share_length: Covered share of the image, and length of a drop in pixels, cut to the image.
        keys_B: int64 keys.

    Returns:
        Images of the same shape.
    """
    height, width = images_BCHW.shape[-2:]
    share, length = share_length
    longest = max(1, min(round(length), height - 1))
    shortest, lean = (longest + 1) // 2, min(longest // 4, width - 1)
    high_B = integers(keys_B, (1,), stream="height", low=shortest, high=longest + 1)[:, 0]
    lean_B = integers(keys_B, (1,), stream="lean", low=-lean, high=lean + 1)[:, 0]
    covered = share * height * width
    # As many places for every image as the shortest drops need, so that no draw depends on the batch.
    places_BD2 = uniform(keys_B, (max(1, round(covered / shortest)), 2), stream="places")
    params = {
        "number_of_drops_factor": (covered / high_B).round().long().clamp(min=1),
        "drop_height_factor": high_B,
        "drop_width_factor": lean_B,
        "coordinates_factor": places_BD2,
    }
    return _kornia("augmentation").RandomRain(p=1.0).apply_transform(images_BCHW, params=params, flags={})


def snow(images_BCHW: Tensor, depth_glow: Span, *, keys_B: Tensor) -> Tensor:
    """Snow cover: HLS lightness below a coefficient is multiplied by a factor of at least 1.

    Args:
        images_BCHW: float32 in [0, 1].
        depth_glow: Largest coefficient (drawn from 0.8 of it up) and largest factor (drawn from 1 + 0.8 of its excess).
        keys_B: int64 keys.

    Returns:
        Images of the same shape.
    """
    depth, glow = depth_glow
    params = {
        "snow_coefficient": _drawn(keys_B, (0.8 * depth, depth), "depth"),
        "brightness": _drawn(keys_B, (1.0 + 0.8 * (glow - 1.0), glow), "glow"),
    }
    augmentation = _kornia("augmentation").RandomSnow(p=1.0)
    return _in_colour(images_BCHW, lambda x: augmentation.apply_transform(x, params=params, flags={}))


def plasma_brightness(images_BCHW: Tensor, intensity: float, *, keys_B: Tensor) -> Tensor:
    """x + s (2 p - 1), with a plasma fractal p from 0 to 1 for each channel: coloured clouds of light and dark."""
    params = {"plasma": _plasma(images_BCHW, keys_B), "intensity": torch.full_like(keys_B, intensity, dtype=_F32)}
    return _kornia("augmentation").RandomPlasmaBrightness(p=1.0).apply_transform(images_BCHW, params=params, flags={})


def plasma_contrast(images_BCHW: Tensor, spread: float, *, keys_B: Tensor) -> Tensor:
    """(x - 1/2) (1 + s (2 p - 1)) + 1/2, with a plasma fractal p from 0 to 1 for each channel.

    Kornia multiplies by 4 p; its map is filled here so that the mean contrast stays and s is a strength.
    """
    plasma_BCHW = (1.0 + spread * (2.0 * _plasma(images_BCHW, keys_B) - 1.0)) / 4.0
    augmentation = _kornia("augmentation").RandomPlasmaContrast(p=1.0)
    return augmentation.apply_transform(images_BCHW, params={"plasma": plasma_BCHW}, flags={})


def plasma_shadow(images_BCHW: Tensor, dark_quantity: Span, *, keys_B: Tensor) -> Tensor:
    """x - s where a plasma fractal from 0 to 1 lies below a quantity: shadows with ragged edges.

    Args:
        images_BCHW: float32 in [0, 1].
        dark_quantity: What the shadow takes away, and the bound of the fractal, drawn from 0.9 of it up to 1.1.
        keys_B: int64 keys.

    Returns:
        Images of the same shape.
    """
    dark, quantity = dark_quantity
    params = {
        "plasma": _plasma(images_BCHW[:, :1], keys_B),
        "shade_intensity": torch.full_like(keys_B, -dark, dtype=_F32),
        "shade_quantity": _drawn(keys_B, (0.9 * quantity, 1.1 * quantity), "quantity"),
    }
    return _kornia("augmentation").RandomPlasmaShadow(p=1.0).apply_transform(images_BCHW, params=params, flags={})


def motion_blur(images_BCHW: Tensor, size: float, *, keys_B: Tensor) -> Tensor:
    """Kornia's motion kernel at any angle, its weights even to one-sided (direction -1 to 1), edges repeated.

    The kernel's taps are gathered one by one and no convolution is run (see the top of the file).

    Args:
        images_BCHW: float32 in [0, 1].
        size: Length of the line in pixels, taken to the next odd number from 3 up.
        keys_B: int64 keys.

    Returns:
        Images of the same shape.
    """
    side = 2 * max(1, math.ceil((size - 1) / 2)) + 1
    kernels = _kornia("filters").get_motion_kernel2d(
        kernel_size=side,
        angle=uniform(keys_B, (1,), stream="angle", low=0.0, high=360.0)[:, 0],
        direction=uniform(keys_B, (1,), stream="direction", low=-1.0, high=1.0)[:, 0],
        mode="nearest",
    )
    # A line of one pixel's width has at most about side + 2 taps at any angle; the rest of the kernel is zero.
    weights_BT, places_BT = kernels.flatten(1).sort(dim=1, descending=True, stable=True)
    return _gathered(images_BCHW, weights_BT[:, : 2 * side], places_BT[:, : 2 * side], side)


def median_blur(images_BCHW: Tensor, size_rounds: tuple[int, int], *, keys_B: Tensor) -> Tensor:
    """Median filter of a size, several times over, edges repeated; nothing is random there.

    Several rounds stand for larger windows, which Kornia holds in memory for every pixel at once.
    """
    size, rounds = size_rounds
    # On the CPU Kornia compares pixels; on CUDA it copies the windows by a convolution, which TF32 would round.
    filtered = images_BCHW.double() if images_BCHW.is_cuda else images_BCHW
    for _ in range(rounds):
        filtered = _kornia("filters").median_blur(filtered, kernel_size=(size, size), border_type="replicate")
    return filtered.float()


def jpeg(images_BCHW: Tensor, quality: Span, *, keys_B: Tensor) -> Tensor:
    """Kornia's differentiable JPEG, whose rounding is softened by a cubic, at a quality drawn for each image."""
    wide = _wide(images_BCHW.device)
    function, quality_B = _kornia("enhance").jpeg_codec_differentiable, _drawn(keys_B, quality, "quality").to(wide)
    return _in_colour(images_BCHW.to(wide).clamp(0.0, 1.0), lambda x: function(x, jpeg_quality=quality_B)).float()


def salt_and_pepper(images_BCHW: Tensor, share: float, *, keys_B: Tensor) -> Tensor:
    """A share of the pixels becomes white or black in all channels at once; 0.4 to 0.6 of them white."""
    hit, salt = uniform(keys_B, (2, 1, *images_BCHW.shape[-2:]), stream="field").unbind(1)
    hit_BCHW = (hit < share).expand_as(images_BCHW)
    salt_BCHW = (salt < _drawn(keys_B, (0.4, 0.6), "salt")[:, None, None, None]).expand_as(images_BCHW)
    params = {"mask_salt": hit_BCHW & salt_BCHW, "mask_pepper": hit_BCHW & ~salt_BCHW}
    augmentation = _kornia("augmentation").RandomSaltAndPepperNoise(p=1.0)
    return augmentation.apply_transform(images_BCHW, params=params, flags={})


def gaussian_noise(images_BCHW: Tensor, std: float, *, keys_B: Tensor) -> Tensor:
    """x + N(0, s^2), for each value by itself."""
    params = {"gaussian_noise": std * normal(keys_B, tuple(images_BCHW.shape[1:]), stream="field")}
    return _kornia("augmentation").RandomGaussianNoise(p=1.0).apply_transform(images_BCHW, params=params, flags={})


def gaussian_illumination(images_BCHW: Tensor, gain: Span, *, keys_B: Tensor) -> Tensor:
    """A light or dark spot: x +- gain g, with a Gaussian g from 0 to 1 across the image.

    Its centre lies between 0.1 and 0.9 of each side and its standard deviation between 0.2 and 0.6 of it; Kornia's
    defaults reach 1, where hardly a spot is left.
    """
    height, width = images_BCHW.shape[-2:]
    bell_BHW = _bell(keys_B, height, "rows")[:, :, None] * _bell(keys_B, width, "columns")[:, None, :]
    gradient_BCHW = _signed_gain(keys_B, gain) * _kornia("enhance").normalize_min_max(bell_BHW[:, None])
    params = {"gradient": gradient_BCHW.expand_as(images_BCHW)}
    augmentation = _kornia("augmentation").RandomGaussianIllumination(p=1.0)
    return augmentation.apply_transform(images_BCHW, params=params, flags={})


def linear_illumination(images_BCHW: Tensor, gain: Span, *, keys_B: Tensor) -> Tensor:
    """A ramp of light or dark from one side of the image to the other: x +- gain r, r from 0 to 1."""
    down_1H1, right_11W = _ramps(images_BCHW)
    ramps = torch.stack([ramp.expand(1, *images_BCHW.shape[-2:]) for ramp in (down_1H1, 1 - down_1H1, right_11W,
                                                                              1 - right_11W)])  # fmt: skip
    params = {"gradient": _one_of(ramps, images_BCHW, gain, keys_B)}
    augmentation = _kornia("augmentation").RandomLinearIllumination(p=1.0)
    return augmentation.apply_transform(images_BCHW, params=params, flags={})


def linear_corner_illumination(images_BCHW: Tensor, gain: Span, *, keys_B: Tensor) -> Tensor:
    """A ramp of light or dark from one corner of the image to the opposite one: x +- gain r, r from 0 to 1."""
    down_1H1, right_11W = _ramps(images_BCHW)
    ramps = torch.stack([(a + b) / 2 for a in (down_1H1, 1 - down_1H1) for b in (right_11W, 1 - right_11W)])
    params = {"gradient": _one_of(ramps, images_BCHW, gain, keys_B)}
    augmentation = _kornia("augmentation").RandomLinearCornerIllumination(p=1.0)
    return augmentation.apply_transform(images_BCHW, params=params, flags={})


def _kornia(module: str) -> ModuleType:
    """A module of Kornia.

    Raises:
        ImportError: Kornia is not installed.
    """
    try:
        return importlib.import_module(f"kornia.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "kornia":
            raise
        raise ImportError(
            "corruptions called kornia.* need the package kornia, which is not installed; install kornia>=0.9, or "
            "name a corruption without this prefix"
        ) from error


def _wide(device: torch.device) -> torch.dtype:
    """float64 (see the top of the file), where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _drawn(keys_B: Tensor, span: Span, stream: str) -> Tensor:
    """One value for each image, even in the span."""
    return uniform(keys_B, (1,), stream=stream, low=span[0], high=span[1])[:, 0]


def _in_colour(images_BCHW: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of three channels; a grey image goes in three times, and its first channel comes out."""
    channels = images_BCHW.shape[1]
    return function(images_BCHW.expand(-1, 3, -1, -1) if channels == 1 else images_BCHW)[:, :channels]


def _plasma(images_BCHW: Tensor, keys_B: Tensor) -> Tensor:
    """Plasma fractals from 0 to 1 of the shape of the images, in wide arithmetic, by Kornia's diamond-square algorithm.

    Its levels ask for one field after the other; each gets a stream of its own.
    """
    size_B, channels, height, width = images_BCHW.shape
    level = 0

    def field(shape: Any, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        nonlocal level
        level += 1
        values = uniform(keys_B, (channels, *tuple(shape)[2:]), stream=f"plasma {level}")
        return values.view(tuple(shape)).to(device=device, dtype=dtype)

    return _kornia("contrib").diamond_square(
        output_size=(size_B, channels, height, width),
        roughness=_drawn(keys_B, _ROUGHNESS, "roughness").to(_wide(images_BCHW.device)),
        random_scale=1.0,
        random_fn=field,
        normalize_range=(0.0, 1.0),
        device=images_BCHW.device,
        dtype=_wide(images_BCHW.device),
    )


def _gathered(images_BCHW: Tensor, weights_BT: Tensor, places_BT: Tensor, side: int) -> Tensor:
    """sum_t w_t x(p + offset_t), the taps of each image its own, edges repeated."""
    height, width = images_BCHW.shape[-2:]
    down_BT = places_BT.div(side, rounding_mode="floor") - side // 2
    right_BT = places_BT % side - side // 2
    rows_H = torch.arange(height, device=images_BCHW.device)
    columns_W = torch.arange(width, device=images_BCHW.device)
    batch_B11 = torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None, None]
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous()
    blurred = torch.zeros_like(images_BHWC)
    for tap in range(weights_BT.shape[1]):
        rows_BH1 = (rows_H + down_BT[:, tap, None]).clamp(0, height - 1)[:, :, None]
        columns_B1W = (columns_W + right_BT[:, tap, None]).clamp(0, width - 1)[:, None, :]
        blurred += weights_BT[:, tap, None, None, None] * images_BHWC[batch_B11, rows_BH1, columns_B1W]
    return blurred.permute(0, 3, 1, 2).contiguous()


def _bell(keys_B: Tensor, length: int, stream: str) -> Tensor:
    """A Gaussian along one side, float32 (B, length)."""
    centre_B1 = uniform(keys_B, (1,), stream=f"{stream} centre", low=0.1, high=0.9) * length - 0.5
    sigma_B1 = uniform(keys_B, (1,), stream=f"{stream} sigma", low=0.2, high=0.6) * length
    pixels = torch.arange(length, device=keys_B.device, dtype=_F32)
    return torch.exp(-0.5 * ((pixels - centre_B1) / sigma_B1) ** 2)


def _ramps(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """From 0 to 1 down the image, (1, H, 1), and across it, (1, 1, W)."""
    height, width = images_BCHW.shape[-2:]
    down = torch.linspace(0.0, 1.0, height, device=images_BCHW.device)
    return down.view(1, height, 1), torch.linspace(0.0, 1.0, width, device=images_BCHW.device).view(1, 1, width)


def _one_of(ramps_41HW: Tensor, images_BCHW: Tensor, gain: Span, keys_B: Tensor) -> Tensor:
    """One of four ramps for each image, times its gain, of the images' shape."""
    direction_B = integers(keys_B, (1,), stream="direction", high=4)[:, 0]
    return (_signed_gain(keys_B, gain) * ramps_41HW[direction_B]).expand_as(images_BCHW)


def _signed_gain(keys_B: Tensor, gain: Span) -> Tensor:
    """A gain in the span, light or dark with even chance, (B, 1, 1, 1)."""
    sign_B = integers(keys_B, (1,), stream="sign", high=2)[:, 0] * 2 - 1
    return (sign_B * _drawn(keys_B, gain, "gain"))[:, None, None, None]


def _scaled_rain(share_length: Span, factor: float) -> Span:
    return share_length[0], max(2.0, share_length[1] * factor)


def _entry(op: Op, group: Group, what: str, *strengths: Any, **more: Any) -> Corruption:
    tables = {"imagenet": strengths, **more.pop("tables", {})}
    return Corruption(op, group, tables, source=f"Kornia {what}, strengths own", family="kornia", **more)


_GAINS: tuple[Span, ...] = ((0.1, 0.15), (0.18, 0.25), (0.3, 0.38), (0.42, 0.52), (0.58, 0.7))

KORNIA: dict[str, Corruption] = {
    "kornia.gaussian_noise": _entry(
        gaussian_noise, "noise", "RandomGaussianNoise", 0.04, 0.08, 0.14, 0.22, 0.35,
        tables={"tiny": (0.03, 0.06, 0.1, 0.14, 0.2), "cifar": (0.02, 0.04, 0.06, 0.09, 0.12)},
    ),
    "kornia.salt_and_pepper": _entry(
        salt_and_pepper, "noise", "RandomSaltAndPepperNoise", 0.01, 0.03, 0.07, 0.15, 0.3,
        tables={"tiny": (0.01, 0.02, 0.05, 0.09, 0.15), "cifar": (0.005, 0.01, 0.025, 0.05, 0.08)},
    ),
    "kornia.motion_blur": _entry(
        motion_blur, "blur", "RandomMotionBlur", 5, 11, 19, 27, 37,
        tables={"tiny": (3, 5, 7, 9, 11), "cifar": (3, 5, 7, 9, 11)},
    ),
    "kornia.median_blur": _entry(
        median_blur, "blur", "RandomMedianBlur", (3, 1), (5, 1), (5, 3), (5, 7), (5, 16),
        tables={"tiny": ((3, 1), (5, 1), (5, 2), (5, 3), (5, 5)), "cifar": ((3, 1), (3, 3), (5, 1), (5, 2), (5, 3))},
    ),
    "kornia.rain": _entry(
        rain, "weather", "RandomRain", (0.02, 8), (0.04, 12), (0.08, 16), (0.14, 22), (0.22, 30), scaled=_scaled_rain,
    ),
    "kornia.snow": _entry(
        snow, "weather", "RandomSnow", (0.4, 1.4), (0.47, 1.6), (0.53, 1.7), (0.6, 1.8), (0.7, 1.9),
    ),
    "kornia.plasma_brightness": _entry(
        plasma_brightness, "weather", "RandomPlasmaBrightness", 0.1, 0.18, 0.28, 0.4, 0.55,
    ),
    "kornia.plasma_contrast": _entry(
        plasma_contrast, "weather", "RandomPlasmaContrast", 0.25, 0.45, 0.65, 0.85, 1.0,
    ),
    "kornia.plasma_shadow": _entry(
        plasma_shadow, "weather", "RandomPlasmaShadow",
        (0.08, 0.5), (0.14, 0.5), (0.22, 0.5), (0.34, 0.55), (0.5, 0.55),
    ),
    "kornia.gaussian_illumination": _entry(gaussian_illumination, "weather", "RandomGaussianIllumination", *_GAINS),
    "kornia.linear_illumination": _entry(linear_illumination, "weather", "RandomLinearIllumination", *_GAINS),
    "kornia.linear_corner_illumination": _entry(
        linear_corner_illumination, "weather", "RandomLinearCornerIllumination", *_GAINS,
    ),
    "kornia.jpeg": _entry(
        jpeg, "digital", "RandomJPEG", (22, 28), (15, 18), (11, 13), (8, 9), (6, 7),
        tables={
            "tiny": ((55, 70), (40, 48), (28, 34), (20, 24), (12, 16)),
            "cifar": ((70, 85), (55, 65), (42, 50), (32, 38), (22, 28)),
        },
    ),
}  # fmt: skip
