"""Frost: windows of drawn textures of ice crystals, laid over the image.

Source of the parameters' meaning: Hendrycks & Dietterich 2019 (arXiv 1903.12261); their textures are 6 photographs.
Shape suffixes: B batch, C channels, H height, W width, T textures, S side of a square map.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.keyed import fold_in, image_keys, normal, uniform
from noise.weather import grey

_FROST_DARK, _FROST_LIGHT = (0.20, 0.30, 0.35), (0.97, 0.99, 1.0)  # colour between the crystals, and of them
_CRYSTALS = ((3, 22, 0.36), (7, 12, 0.24))  # crystals along a side, needles around each, their light
_JITTER = 0.4  # most that a seed is off its corner, in cells
_HAZE = (0.28, 0.78)  # least and most light of the layer that the crystals stand on
_NUM_TEXTURES, _TEXTURE_STEP, _TEXTURE_ZERO = 8, 1 / 200, 110  # bytes from -0.55 to 0.725


def frost(images_BCHW: Tensor, weights: tuple[float, float], *, keys_B: Tensor) -> Tensor:
    """a x + b frost, with crystals that grow along directions drawn for them.

    The public textures are photographs; these are drawn, so pixels and spectrum differ. Their mean colour and spread
    are about those of the photographs.

    Args:
        images_BCHW: float32.
        weights: Of the image (a) and of the frost (b).
        keys_B: int64 keys; the place that an image's frost is cut out at, and its haze, are drawn from its key.
    """
    height, width = images_BCHW.shape[-2:]
    light_B1HW = frost_field(keys_B, (height, width))
    own, added = weights
    colours = torch.tensor([_FROST_DARK, _FROST_LIGHT], device=images_BCHW.device)[..., None, None] * added
    dark_C11, white_C11 = grey(colours) if images_BCHW.shape[1] == 1 else colours
    texture_BCHW = (light_B1HW * (white_C11 - dark_C11)).add_(dark_C11)
    return texture_BCHW.add_(images_BCHW, alpha=own)


def frost_field(keys_B: Tensor, shape: tuple[int, int]) -> Tensor:
    """How much light the frost scatters, in [0, 1], (B, 1, H, W): a keyed haze and a keyed window of a large texture.

    As the public package cuts windows out of 6 photographs, so here out of 8 drawn textures, 4 of them the others
    turned by 90 degrees. At 224 px there are 400,000 windows, but two images may share a part of one texture.
    """
    height, width = shape
    textures_TSS = _frost_textures(max(shape), keys_B.device)
    num_textures, size, _ = textures_TSS.shape
    place_B4 = uniform(keys_B, (4,), stream="window")
    which_B, top_B, left_B = (
        (place_B4[:, i] * count).long().clamp_(max=count - 1)
        for i, count in enumerate((num_textures, size - height + 1, size - width + 1))
    )
    rows_H = torch.arange(height, device=keys_B.device)
    first_BH = ((which_B * size + top_B) * size + left_B)[:, None] + rows_H * size
    # Rows of the window's width that begin at any value of the textures; no memory is used for them.
    rows = textures_TSS.view(-1).unfold(0, width, 1)
    light_B1HW = rows.index_select(0, first_BH.flatten()).view(-1, 1, height, width).to(torch.float32)
    haze_B111 = place_B4[:, 3].mul(_HAZE[1] - _HAZE[0]).add_(_HAZE[0])[:, None, None, None]
    return light_B1HW.mul_(_TEXTURE_STEP).add_(haze_B111 - _TEXTURE_ZERO * _TEXTURE_STEP).clamp_(0.0, 1.0)


@lru_cache(maxsize=2)
def _frost_textures(side: int, device: torch.device) -> Tensor:
    """8 textures of twice the side as bytes, (T, S, S): 1.6 MB for images of 224 px, 34 MB for 1024 px.

    Drawn on the CPU, so that each device has the same.
    """
    keys_T = image_keys(range(_NUM_TEXTURES // 2), seed=0, salt="frost textures")
    crystals_TSS = torch.cat([_crystals(keys_T[i : i + 1], 2 * side, zoom=2)[:, 0] for i in range(len(keys_T))])
    levels_TSS = crystals_TSS.div_(_TEXTURE_STEP).add_(_TEXTURE_ZERO + 0.5).clamp_(0.0, 255.0).to(torch.uint8)
    return torch.cat([levels_TSS, levels_TSS.transpose(1, 2).flip(2)]).contiguous().to(device)


def _crystals(keys_B: Tensor, size: int, *, zoom: int) -> Tensor:
    """Crystals of several sizes, grain and thickness for a square of `zoom` images' sides; mean about 0, (B, 1, S, S).

    A crystal is the Voronoi cell of a jittered seed (Worley 1996, "A cellular texture basis function"); needles go out
    from its seed, smooth noise over angle and radius.
    """
    total = _value_noise(keys_B, size, cells=2 * zoom, stream="thickness").mul_(0.06)
    for level, (cells, needles, light) in enumerate(_CRYSTALS):
        fans = _fans(fold_in(keys_B, f"crystals {level}"), size, cells=cells * zoom, needles=needles)
        total.add_(fans, alpha=light)
    return total.add_(_value_noise(keys_B, size, cells=max(2, size // 3), stream="grain"), alpha=0.035)


def _fans(keys_B: Tensor, side: int, *, cells: int, needles: int) -> Tensor:
    """Needles about the nearest seed of each pixel, mean about 0; (B, 1, S, S)."""
    seeds = uniform(keys_B, (3, cells + 1, cells + 1), stream="seeds", low=-_JITTER, high=_JITTER)
    at_S = (torch.arange(side, device=keys_B.device) + 0.5) * (cells / side)
    inside_S = at_S - at_S.floor()
    found: list[Tensor] = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):  # the seeds stand near the corners of a lattice
        part = F.interpolate(seeds[:, :, i : i + cells, j : j + cells], size=(side, side), mode="nearest-exact")
        dy = (inside_S - i)[:, None] - part[:, 0]
        dx = (inside_S - j) - part[:, 1]
        candidate = [(dy * dy).addcmul_(dx, dx), dy, dx, part[:, 2]]
        if found:
            is_nearer = torch.sub(found[0], candidate[0]).sign_().clamp_(min=0.0)
            found = [one.lerp_(other, is_nearer) for one, other in zip(found, candidate, strict=True)]
        else:
            found = candidate
    distance, down, right, turn = found
    grid = normal(keys_B, (1, 8, needles), stream="needles")
    noise = F.interpolate(torch.cat([grid, grid[..., :1]], -1), size=(48, 8 * needles), mode="bicubic",
                          align_corners=True)  # fmt: skip
    angle = torch.atan2(down, right) / math.pi
    place = torch.stack([angle, distance.sqrt_().mul_(0.4).add_(turn, alpha=1 / _JITTER)], -1)
    needle = F.grid_sample(noise, place, mode="bilinear", padding_mode="reflection", align_corners=True)
    return (1 - needle.abs_().mul_(1.1).clamp_(max=1.0)).sub_(0.42)


def _value_noise(keys_B: Tensor, side: int, *, cells: int, stream: str) -> Tensor:
    """Normal values on a grid of cells, bicubic between; (B, 1, S, S), standard deviation about 0.7."""
    grid = normal(keys_B, (1, cells + 1, cells + 1), stream=stream)
    return F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)
