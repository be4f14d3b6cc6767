"""Weather: snow, fog, spatter.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261) and the public package
imagecorruptions, whose steps are followed.
Shape suffixes: B batch, C channels, H height, W width, S side of a square map.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.filters import enlarged, line_filter, smooth, weighted_shifts
from noise.keyed import normal, uniform

_LUMA = (0.299, 0.587, 0.114)


# ---------------------------------------------------------------------------------------------------------------- snow
class Snow(NamedTuple):
    """Strengths of snow.

    Args:
        mean: Of the normal values that the flakes are cut from.
        std: Of the same.
        zoom: How much the field of flakes is enlarged.
        threshold: Below it there is no flake.
        radius: Of the line that the flakes are drawn out along, in pixels.
        sigma: Of that line's weights, in pixels.
        mix: Share of the image that keeps its colour; the rest is whitened.
    """

    mean: float
    std: float
    zoom: float
    threshold: float
    radius: float
    sigma: float
    mix: float


def snow(images_BCHW: Tensor, strength: Snow, *, keys_B: Tensor) -> Tensor:
    """A whitened image with drawn-out flakes, and the same flakes turned by 180 degrees."""
    height, width = images_BCHW.shape[-2:]
    small = (math.ceil(height / strength.zoom), math.ceil(width / strength.zoom))
    field = normal(keys_B, (1, *small), stream="flakes").mul_(strength.std).add_(strength.mean)
    flakes = enlarged(field, strength.zoom)
    flakes = flakes.masked_fill(flakes < strength.threshold, 0.0).clamp(0.0, 1.0)
    angle_B = (uniform(keys_B, (1,), stream="angle")[:, 0] * 90.0 - 135.0) * (math.pi / 180)
    layer = line_filter(flakes, angle_B, radius=round(strength.radius), sigma=strength.sigma, heading="up")
    layer = layer[..., :height, :width]
    whitened = torch.maximum(images_BCHW, grey(images_BCHW).mul(1.5).add_(0.5))
    return whitened.mul_(1 - strength.mix).add_(images_BCHW, alpha=strength.mix).add_(layer + layer.flip(2, 3))


def scaled_snow(strength: Snow, factor: float) -> Snow:
    """The snow at another image size; zoom, radius and sigma at least 1."""
    zoom, radius, sigma = (max(1.0, value * factor) for value in (strength.zoom, strength.radius, strength.sigma))
    return strength._replace(zoom=zoom, radius=radius, sigma=sigma)


def grey(images_BCHW: Tensor) -> Tensor:
    """Luma of RGB (ITU-R BT.601), or the one channel there is; (B, 1, H, W)."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    red, green, blue = images_BCHW.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


# ----------------------------------------------------------------------------------------------------------------- fog
def fog(images_BCHW: Tensor, amount_decay: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """x + amount plasma, brought back into the range of the image by max / (max + amount).

    Args:
        images_BCHW: float32.
        amount_decay: Amount of fog, and how much finer detail is weaker than coarser.
        keys_B: int64 keys; the cloud of an image is drawn from its key.
    """
    amount, decay = amount_decay
    height, width = images_BCHW.shape[-2:]
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = plasma(keys_B, side, decay=decay)[:, None, :height, :width]
    top_B111 = images_BCHW.amax((1, 2, 3), keepdim=True)
    scale_B111 = top_B111 / (top_B111 + amount)
    return torch.addcmul(cloud * (scale_B111 * amount), images_BCHW, scale_B111)


def plasma(keys_B: Tensor, side: int, *, decay: float) -> Tensor:
    """Clouds by the diamond-square algorithm on a torus, in [0, 1].

    At each level a new point is the mean of its four neighbours and U(-r, r), r = 100^2 at first, divided by
    decay^2 from level to level.

    Args:
        keys_B: int64 keys.
        side: A power of two.
        decay: Above 1.

    Returns:
        float32 (B, S, S), each with its least value at 0 and its largest at 1.

    Source: Fournier, Fussell & Carpenter 1982, "Computer rendering of stochastic models", CACM 25(6).
    """
    draws = uniform(keys_B, (side * side,), stream="cloud", low=-1.0, high=1.0)
    # The first row and column stand once more at the other end, so that a sum of neighbours is one of two slices.
    grid = torch.zeros(len(keys_B), 2, 2, device=keys_B.device)
    count, first, reach = 1, 0, 1.0  # the reach in units of 100^2, which the last line takes out again
    while count < side:
        own, above, before = draws[:, first : first + 3 * count**2].view(-1, 3, count, count).unbind(1)
        across, down = grid[:, :, 1:] + grid[:, :, :-1], grid[:, 1:] + grid[:, :-1]
        centres = (across[:, 1:] + across[:, :-1]).mul_(0.25).add_(own, alpha=reach)
        tops = centres.roll(1, 1).add_(centres).add_(across[:, :-1]).mul_(0.25).add_(above, alpha=reach)
        lefts = centres.roll(1, 2).add_(centres).add_(down[:, :, :-1]).mul_(0.25).add_(before, alpha=reach)
        grid, coarse = grid.new_empty(len(keys_B), 2 * count + 1, 2 * count + 1), grid
        grid[:, ::2, ::2], grid[:, 1::2, 1::2] = coarse, centres
        grid[:, :-1:2, 1::2], grid[:, 1::2, :-1:2] = tops, lefts
        grid[:, -1], grid[:, :, -1] = grid[:, 0], grid[:, :, 0]
        first, count, reach = first + 3 * count**2, 2 * count, reach / decay**2
    cloud_BSS = grid[:, :-1, :-1]
    low, high = cloud_BSS.amin((1, 2), keepdim=True), cloud_BSS.amax((1, 2), keepdim=True)
    return cloud_BSS.sub(low).div_(high - low)


# ------------------------------------------------------------------------------------------------------------- spatter
class Spatter(NamedTuple):
    """Strengths of spatter.

    Args:
        mean: Of the normal values that the drops are cut from.
        std: Of the same, before they are smoothed.
        sigma: Of the smoothing, in pixels.
        threshold: Below it there is no drop.
        amount: Of water its brightness; of mud the standard deviation, in pixels, that its rim is smoothed by.
        is_mud: Mud instead of water.
    """

    mean: float
    std: float
    sigma: float
    threshold: float
    amount: float
    is_mud: bool


_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
_FURTHEST = 20  # pixels from a drop's rim beyond which its shine no longer changes
_LEAST_MUD = 0.8
_LEAST_EDGE, _TAN_22 = 150, math.sqrt(2) - 1
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


def spatter(images_BCHW: Tensor, strength: Spatter, *, keys_B: Tensor) -> Tensor:
    """Drops of water that shine, or of mud that cover.

    Args:
        images_BCHW: float32.
        strength: See `Spatter`.
        keys_B: int64 keys; the drops of an image are drawn from its key.
    """
    field = normal(keys_B, (1, *images_BCHW.shape[-2:]), stream="drops")
    liquid = smooth(field, strength.sigma).mul_(strength.std).add_(strength.mean)
    liquid = liquid.masked_fill(liquid < strength.threshold, 0.0)
    colour = torch.tensor(_MUD if strength.is_mud else _WATER, device=images_BCHW.device)[:, None, None]
    if images_BCHW.shape[1] == 1:
        colour = grey(colour[None])[0]
    if strength.is_mud:
        cover = smooth((liquid > 0).float(), strength.amount)
        cover = cover.masked_fill(cover < _LEAST_MUD, 0.0)
        return images_BCHW * (1 - cover) + colour * cover
    levels = (liquid.clamp(max=1.0) * 255).floor_()
    shine = levels * _relief(levels)
    top_B111 = shine.amax((1, 2, 3), keepdim=True)
    return images_BCHW + colour * (shine * (strength.amount / top_B111.clamp(min=1e-6))).clamp_(max=1.0)


def scaled_spatter(strength: Spatter, factor: float) -> Spatter:
    """The spatter at another image size; drops cover the same share, since the smoothed field keeps its spread."""
    sigma = max(1.0, strength.sigma * factor)
    amount = max(1.0, strength.amount * factor) if strength.is_mud else strength.amount
    return strength._replace(sigma=sigma, std=strength.std * sigma / strength.sigma, amount=amount)


def _relief(levels_B1HW: Tensor) -> Tensor:
    """Light on the drops, 0..255: distance to the nearest rim, its histogram made even, embossed."""
    distance = _box(_distance_to(_edges(levels_B1HW)).clamp_(max=_FURTHEST)).floor_()
    even = _equalised(distance)
    emboss = torch.zeros_like(even)
    padded = F.pad(even, (1, 1, 1, 1), mode="reflect")
    height, width = even.shape[-2:]
    for i, row in enumerate(_EMBOSS):
        for j, weight in enumerate(row):
            if weight:
                emboss.add_(padded[..., i : i + height, j : j + width], alpha=weight)
    return _box(emboss.clamp_(0, 255))


def _box(images_B1HW: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels, edges mirrored."""
    third = [1 / 3] * 3
    padded = F.pad(images_B1HW, (1, 1, 1, 1), mode="reflect")
    return weighted_shifts(weighted_shifts(padded, third, dim=3, is_padded=True), third, dim=2, is_padded=True)


def _edges(levels_B1HW: Tensor) -> Tensor:
    """Canny's edges (1986) without hysteresis: drops end in steps of more than 150 levels, which need none.

    A pixel counts whose Sobel gradient is above 150 and largest across the edge; of two equals the left or upper one,
    on a diagonal none. So the smallest drops have no edge, as in the public package.
    """
    height, width = levels_B1HW.shape[-2:]
    near = F.pad(levels_B1HW, (1, 1, 1, 1), mode="replicate")
    across = near[..., 2:] - near[..., :-2]
    down = near[..., 2:, :] - near[..., :-2, :]
    slope_x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    slope_y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    flat_x, flat_y = slope_x.abs(), slope_y.abs()
    size = flat_x + flat_y
    around = F.pad(size, (1, 1, 1, 1))

    def at(i: int, j: int) -> Tensor:
        return around[..., 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    is_upright = (size > at(0, -1)) & (size >= at(0, 1))
    is_level = (size > at(-1, 0)) & (size >= at(1, 0))
    is_falling = (size > at(-1, -1)) & (size > at(1, 1))
    is_rising = (size > at(-1, 1)) & (size > at(1, -1))
    is_oblique = torch.where((slope_x < 0) ^ (slope_y < 0), is_rising, is_falling)
    is_top = torch.where(flat_y < _TAN_22 * flat_x, is_upright,
                         torch.where(flat_y > (_TAN_22 + 2) * flat_x, is_level, is_oblique))  # fmt: skip
    return is_top & (size > _LEAST_EDGE)


def _distance_to(is_rim_B1HW: Tensor) -> Tensor:
    """Euclidean distance in pixels to the nearest marked pixel; those further than 20 get more than 20."""
    far = float(_FURTHEST + 1)
    across = torch.full(is_rim_B1HW.shape, far, device=is_rim_B1HW.device).masked_fill_(is_rim_B1HW, 0.0)
    width = across.shape[3]
    padded = F.pad(across, (_FURTHEST, _FURTHEST), value=far)
    for step in range(1, _FURTHEST + 1):
        for start in (_FURTHEST - step, _FURTHEST + step):
            torch.minimum(across, padded[..., start : start + width] + step, out=across)
    squared = across.square_()
    height = squared.shape[2]
    padded = F.pad(squared, (0, 0, _FURTHEST, _FURTHEST), value=far**2)
    nearest = squared.clone()
    for down in range(-_FURTHEST, _FURTHEST + 1):
        torch.minimum(nearest, padded[:, :, _FURTHEST + down : _FURTHEST + down + height] + down**2, out=nearest)
    return nearest.sqrt_()


def _equalised(levels_B1HW: Tensor) -> Tensor:
    """Whole levels 0..20 stretched to 0..255 by their cumulative histogram, the lowest one that occurs to 0."""
    flat = levels_B1HW.flatten(1).long()
    ones = torch.ones(flat.shape, device=flat.device)
    shares = torch.zeros(len(flat), _FURTHEST + 1, device=flat.device).scatter_add_(1, flat, ones).cumsum_(1)
    shares /= flat.shape[1]
    least = shares.masked_fill(shares == 0, 2.0).amin(1, keepdim=True)
    table = ((shares - least) / (1 - least).clamp(min=1e-6) * 255).round_().clamp_(min=0.0)
    return table.gather(1, flat).view_as(levels_B1HW)
