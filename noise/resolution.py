"""Low resolution: down to a fraction of the size and up again, by three kernels; pixelation.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def resolution(images_BCHW: Tensor, divisor: float, *, keys_B: Tensor) -> Tensor:
    """Box average (area) down to side / divisor, bilinear up to the size before."""
    small = F.interpolate(images_BCHW, size=_small(images_BCHW, divisor), mode="area")
    return F.interpolate(small, size=images_BCHW.shape[-2:], mode="bilinear", align_corners=False)


def resolution_bilinear(images_BCHW: Tensor, divisor: float, *, keys_B: Tensor) -> Tensor:
    """Bilinear down with anti-aliasing and bilinear up."""
    return _down_and_up(images_BCHW, divisor, "bilinear")


def resolution_bicubic(images_BCHW: Tensor, divisor: float, *, keys_B: Tensor) -> Tensor:
    """Bicubic down with anti-aliasing and bicubic up (may overshoot; the caller clamps)."""
    return _down_and_up(images_BCHW, divisor, "bicubic")


def pixelate(images_BCHW: Tensor, share: float, *, keys_B: Tensor) -> Tensor:
    """Box filter down to a share of each side, rounded down, and the nearest pixel up.

    A cell is the mean of the pixels whose centres lie within half a cell of its own centre, as in Pillow; torch's area
    mode takes every pixel that the cell touches.
    """
    height, width = images_BCHW.shape[-2:]
    high, wide = (max(1, int(length * share)) for length in (height, width))
    # Whole rows are picked, which are in one piece in memory: columns are turned into rows for that.
    small_BCWH = _box_means(_box_means(images_BCHW, high).transpose(2, 3).contiguous(), wide)
    columns_BCHW = small_BCWH.index_select(2, _cell_of(width, wide, small_BCWH.device)).transpose(2, 3).contiguous()
    return columns_BCHW.index_select(2, _cell_of(height, high, small_BCWH.device))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept may meet images that want a gradient
def _cell_of(length: int, num_cells: int, device: torch.device) -> Tensor:
    """The cell that each pixel lies in."""
    return (torch.arange(length, device=device) * 2 + 1) * num_cells // (2 * length)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _pixels_of(length: int, num_cells: int, device: torch.device) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor]:
    """The first, second, ... pixel of each cell, with weights 0 or 1 where not every cell has one; and their number."""
    # Pixel i is in cell c when c length < (i + 1/2) cells <= (c + 1) length; doubled, so that all is in integers.
    edges = [(2 * cell * length + num_cells) // (2 * num_cells) for cell in range(num_cells + 1)]
    sizes = [end - start for start, end in pairwise(edges)]
    pixels: list[tuple[Tensor, Tensor | None]] = []
    for step in range(max(sizes)):
        places = torch.tensor([min(start + step, length - 1) for start in edges[:-1]], device=device)
        weights = torch.tensor([float(step < size) for size in sizes], device=device)[:, None]
        pixels.append((places, weights if step >= min(sizes) else None))
    return pixels, torch.tensor(sizes, device=device, dtype=torch.float32)[:, None]


def _box_means(images_BCHW: Tensor, num_cells: int) -> Tensor:
    """Rows averaged into cells."""
    pixels, size_N1 = _pixels_of(images_BCHW.shape[2], num_cells, images_BCHW.device)
    total = images_BCHW.index_select(2, pixels[0][0])
    for places, weights in pixels[1:]:
        values = images_BCHW.index_select(2, places)
        total = total.add_(values) if weights is None else total.addcmul_(values, weights)
    return total.div_(size_N1)


def _down_and_up(images_BCHW: Tensor, divisor: float, mode: str) -> Tensor:
    small = F.interpolate(
        images_BCHW, size=_small(images_BCHW, divisor), mode=mode, align_corners=False, antialias=True
    )
    return F.interpolate(small, size=images_BCHW.shape[-2:], mode=mode, align_corners=False)


def _small(images_BCHW: Tensor, divisor: float) -> tuple[int, int]:
    height, width = images_BCHW.shape[-2:]
    return max(1, round(height / divisor)), max(1, round(width / divisor))
