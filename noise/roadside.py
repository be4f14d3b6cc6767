"""What stands between a roadside camera and the vehicle: rain, fog with depth, headlights, dirt on the lens.

All of them add or take light, so they work on linear light (sRGB decoded and encoded again).
Shape suffixes: B batch, C channels, H height, W width, N drops of dirt.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from noise.filters import gaussian_filter
from noise.keyed import uniform
from noise.light import smooth_field, to_linear, to_srgb

CONTRAST_THRESHOLD = 0.05
"""Of the meteorological optical range: the contrast at which a dark object is just seen (WMO)."""

NEAR_M, FAR_M = 15.0, 30.0
"""Distance in metres of the bottom row and the furthest distance that is reached, on a crop of one vehicle (own)."""

_DEPTH_SWING, _FOG_CELLS = 0.25, 3
_AIRLIGHT = (0.5, 0.65)
_RAIN_LIGHT, _RAIN_ANGLE = 0.8, math.radians(15.0)
_LAMP_CORE, _LAMP_HALO = 0.018, 0.14
_DIRT_SOFTNESS, _DIRT_WOBBLE, _DIRT_CELLS, _DIRT_SCATTER = 0.22, 0.5, 10, 0.35


class Rain(NamedTuple):
    """Streaks of two layers, near and far.

    Args:
        drops: Near streaks that begin per pixel; far ones are four times as many.
        length: Of near streaks, pixels; far ones have half of it.
        width: Standard deviation across, pixels.
        opacity: How much of the background the middle of a near streak hides.
    """

    drops: float
    length: float
    width: float
    opacity: float


class Dirt(NamedTuple):
    """Soft spots on the lens.

    Args:
        count: Spots.
        opacity: Share of light that the densest spot takes.
        scatter: Standard deviation, pixels, over which a spot scatters light.
    """

    count: int
    opacity: float
    scatter: float


def depth_fog(images_BCHW: Tensor, visibility_m: float, *, keys_B: Tensor) -> Tensor:
    """Koschmieder's law on linear light, with depth from the image row and a smooth keyed field.

        y = x t + A (1 - t),   t = exp(-beta d),   beta = -ln(0.05) / V,   d(row) = min(near / v, far) (1 + 1/4 f)

    with v the height of the row from the horizon down, 1 at the bottom row and 0 at the top, as on a flat road seen
    from above (near = 15 m, far = 30 m), f the smooth field in (-1, 1) that stands for uneven fog, and A the airlight,
    grey, U(0.5, 0.65) of white for each image.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        visibility_m: Meteorological optical range V in metres.
        keys_B: int64 keys.

    Returns:
        Images of the same shape, sRGB.

    Source: Koschmieder 1924, "Theorie der horizontalen Sichtweite"; V by the 5 % contrast of the WMO's Guide to
        Instruments and Methods of Observation (WMO-No. 8); depth fog on road images: Sakaridis et al. 2018, "Semantic
        foggy scene understanding with synthetic data", IJCV 126.
    """
    height, width = images_BCHW.shape[-2:]
    depth_H1 = fog_depth(height).to(images_BCHW.device)[:, None]
    uneven = smooth_field(keys_B, height, width, cells=_FOG_CELLS, stream="field")
    depth_B1HW = depth_H1 * (1.0 + _DEPTH_SWING * uneven)
    clear_B1HW = torch.exp(math.log(CONTRAST_THRESHOLD) / visibility_m * depth_B1HW)
    airlight_B111 = uniform(keys_B, (1, 1, 1), stream="airlight", low=_AIRLIGHT[0], high=_AIRLIGHT[1])
    return to_srgb(to_linear(images_BCHW) * clear_B1HW + airlight_B111 * (1.0 - clear_B1HW))


def fog_depth(height: int) -> Tensor:
    """Metres of each row of a flat road, before the field: min(near / v, far), v = (row + 1/2) / height."""
    below_H = (torch.arange(height, dtype=torch.float32) + 0.5) / height
    return (NEAR_M / below_H).clamp(max=FAR_M)


def rain_streaks(images_BCHW: Tensor, rain: Rain, *, keys_B: Tensor) -> Tensor:
    """Bright, half transparent streaks of falling drops, of one slant (within 15 degrees) for each image.

        y = x (1 - a) + 0.8 a,   a = opacity min(1, near + 0.5 far)

    in linear light: during the exposure a drop covers a pixel for a short time only and shows the bright wide scene
    that it refracts, so streaks lighten dark places and hardly show on bright ones.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        rain: Number, length, width and opacity of streaks.
        keys_B: int64 keys.

    Returns:
        Images of the same shape, sRGB.

    Source: Garg & Nayar 2007, "Vision and rain", IJCV 75(1), for the model; the layers and numbers are own.
    """
    slope_B = uniform(keys_B, (1,), stream="slant")[:, 0] * 2 - 1
    slope_B = slope_B * math.tan(_RAIN_ANGLE)
    height, width = images_BCHW.shape[-2:]
    near = _streaks(keys_B, slope_B, height, width, drops=rain.drops, length=rain.length, stream="near")
    far = _streaks(keys_B, slope_B, height, width, drops=4 * rain.drops, length=rain.length / 2, stream="far")
    sigma_B = torch.full_like(slope_B, rain.width)
    near = gaussian_filter(near, sigma_B, reach=max(1, math.ceil(2 * rain.width)))
    opacity_B1HW = rain.opacity * (near + 0.5 * far).clamp(max=1.0)
    light = to_linear(images_BCHW)
    return to_srgb(light + (_RAIN_LIGHT - light) * opacity_B1HW)


def _streaks(
    keys_B: Tensor, slope_B: Tensor, height: int, width: int, *, drops: float, length: float, stream: str
) -> Tensor:
    """(B, 1, H, W) of lines that begin at random pixels and fade in and out, overlaps added."""
    steps = max(1, round(length))
    margin = math.ceil(steps * math.tan(_RAIN_ANGLE)) + 1
    draw_BHW = uniform(keys_B, (height + steps, width + 2 * margin), stream=stream)
    seeds_BHW = ((drops - draw_BHW) / drops).clamp(min=0.0)
    seeds_BHW = 0.3 * (seeds_BHW > 0) + 0.7 * seeds_BHW
    columns_W = torch.arange(margin, margin + width, device=keys_B.device)
    total_BHW = seeds_BHW.new_zeros(len(keys_B), height, width)
    for step in range(steps):
        weight = math.sin(math.pi * (step + 0.5) / steps)
        aside_B = step * slope_B
        whole_B = aside_B.floor()
        part_B11 = (aside_B - whole_B)[:, None, None]
        rows_BHW = seeds_BHW.narrow(1, steps - step, height)
        for offset, share_B11 in ((0, 1 - part_B11), (1, part_B11)):
            index_BW = columns_W + (whole_B.long() + offset)[:, None]
            total_BHW += weight * share_B11 * rows_BHW.gather(2, index_BW[:, None].expand(-1, height, -1))
    return total_BHW[:, None]


def scaled_rain(rain: Rain, factor: float) -> Rain:
    """As many streaks on an image of another size, of lengths in proportion.

    Where they would be thinner than a pixel, they are fainter instead: a streak is sqrt(1 + 12 width^2) pixels wide,
    the pixel it starts from and the Gaussian taken together.
    """
    drops = min(0.1, rain.drops / factor**2)
    width = max(0.3, rain.width * factor)
    thinner = factor * math.sqrt((1 + 12 * rain.width**2) / (1 + 12 * width**2))
    return Rain(drops, max(2.0, rain.length * factor), width, rain.opacity * min(1.0, thinner))


def headlight_glare(images_BCHW: Tensor, veil: float, *, keys_B: Tensor) -> Tensor:
    """Two headlights that face the camera: light of lamps and of the lens's stray light is added, white clips.

        y = x + tint sum_lamps p (4 exp(-r^2 / (2 c^2)) + 1 / (1 + (r / h)^2)),   p = veil U(0.7, 1)

    r is the distance in shorter sides, c = 0.018 the lamp and h = 0.14 the stray light, which far out falls with r^-2
    as the glare function of Stiles and Holladay does. The lamps stand at one height in the lower half, left and right
    of the middle, as on a vehicle that fills the picture.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        veil: Stray light at a lamp, in units of white.
        keys_B: int64 keys; they draw place, tint and power of the lamps.

    Returns:
        Images of the same shape, sRGB.

    Source: the r^-2 law: Vos 1984, "Disability glare: a state of the art report", CIE Journal 3(2), and CIE 146:2002,
        for the eye; that a lens follows it, and all numbers, are own.
    """
    size_B, channels, height, width = images_BCHW.shape
    draw_BN = uniform(keys_B, (6,), stream="lamps")
    side, device = min(height, width), images_BCHW.device
    rows_H1 = ((torch.arange(height, device=device) + 0.5) / side)[:, None]
    columns_1W = ((torch.arange(width, device=device) + 0.5) / side)[None, :]
    row_B11 = (0.5 + 0.22 * draw_BN[:, 0, None, None]) * (height / side)
    middle_B, apart_B = 0.46 + 0.08 * draw_BN[:, 1], 0.22 + 0.1 * draw_BN[:, 2]
    glow_BHW = images_BCHW.new_zeros(size_B, height, width)
    for lamp, sign in enumerate((-1.0, 1.0)):
        column_B11 = ((middle_B + sign * apart_B) * (width / side))[:, None, None]
        square_BHW = ((rows_H1 - row_B11) ** 2 + (columns_1W - column_B11) ** 2).contiguous()
        power_B11 = 0.7 + 0.3 * draw_BN[:, 3 + lamp, None, None]
        lamp_BHW = 4.0 * torch.exp(-square_BHW / (2 * _LAMP_CORE**2)) + 1.0 / (1.0 + square_BHW / _LAMP_HALO**2)
        glow_BHW = glow_BHW + power_B11 * lamp_BHW
    warm_B = draw_BN[:, 5] * 2 - 1
    tint = torch.stack([1 + 0.08 * warm_B, torch.ones_like(warm_B), 1 - 0.12 * warm_B], dim=1)
    tint_BC11 = (tint if channels == 3 else tint[:, 1:2])[:, :, None, None]
    return to_srgb(to_linear(images_BCHW) + veil * tint_BC11 * glow_BHW[:, None])


def lens_dirt(images_BCHW: Tensor, dirt: Dirt, *, keys_B: Tensor) -> Tensor:
    """Dried drops and mud on the lens, out of focus: soft spots that take light and scatter what is behind them.

        y = x T + 0.35 (1 - T) (G * x),   T = product over spots of (1 - o m)

    with m a soft disc of wavy edge, o = opacity U(0.5, 1), G a Gaussian; in linear light. Radii lie between 2.5 % and
    15 % of the shorter side, small ones more often.

    Args:
        images_BCHW: float32 in [0, 1], sRGB.
        dirt: Number and opacity of spots, width of the scatter.
        keys_B: int64 keys.

    Returns:
        Images of the same shape, sRGB.

    Source: Gu et al. 2009, "Removing image artifacts due to dirty camera lenses and thin occluders", ACM TOG 28(5), for
        attenuation and scatter; shapes and numbers are own.
    """
    height, width = images_BCHW.shape[-2:]
    side, device = min(height, width), images_BCHW.device
    draw_BN4 = uniform(keys_B, (dirt.count, 4), stream="spots")
    radius_BN = 0.025 + 0.125 * draw_BN4[..., 2] ** 2
    wobble_BHW = smooth_field(keys_B, height, width, cells=_DIRT_CELLS, stream="edge")[:, 0]
    rows_H1 = ((torch.arange(height, device=device) + 0.5) / side)[:, None]
    columns_1W = ((torch.arange(width, device=device) + 0.5) / side)[None, :]
    passes_BHW = torch.ones_like(wobble_BHW)
    for spot in range(dirt.count):
        row, column, _, power = (draw_BN4[:, spot, index, None, None] for index in range(4))
        radius = radius_BN[:, spot, None, None]
        distance = ((rows_H1 - row * (height / side)) ** 2 + (columns_1W - column * (width / side)) ** 2).sqrt()
        inside = (1.0 - distance / radius + _DIRT_WOBBLE * wobble_BHW).contiguous() / _DIRT_SOFTNESS
        # Not torch.sigmoid, which rounds the last values of a tensor otherwise on a CPU.
        passes_BHW = passes_BHW * (1.0 - dirt.opacity * (0.5 + 0.5 * power) / (1.0 + torch.exp(-inside)))
    light = to_linear(images_BCHW)
    sigma_B = torch.full((len(light),), float(dirt.scatter), device=device)
    spread = gaussian_filter(light, sigma_B, reach=max(1, math.ceil(2.5 * dirt.scatter)))
    passes_B1HW = passes_BHW[:, None]
    return to_srgb(light * passes_B1HW + _DIRT_SCATTER * (1.0 - passes_B1HW) * spread)


def scaled_dirt(dirt: Dirt, factor: float) -> Dirt:
    """The scatter at another image size; spots are measured in sides already."""
    return Dirt(dirt.count, dirt.opacity, max(0.5, dirt.scatter * factor))
