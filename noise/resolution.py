"""Low resolution: down to a fraction of the size and up again, by three kernels; pixelation.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

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


def _cell_of(length: int, num_cells: int, device: torch.device) -> Tensor:
    """The cell that each pixel lies in."""
    return (torch.arange(length, device=device) * 2 + 1) * num_cells // (2 * length)


def _box_means(images_BCHW: Tensor, num_cells: int) -> Tensor:
    """Rows averaged into cells."""
    length = images_BCHW.shape[2]
    # Pixel i is in cell c when c length < (i + 1/2) cells <= (c + 1) length; doubled, so that all is in integers.
    edges = torch.arange(num_cells + 1, device=images_BCHW.device) * 2 * length + num_cells
    edges = edges.div(2 * num_cells, rounding_mode="floor")
    first, size = edges[:-1], edges.diff()
    total = torch.zeros((), device=images_BCHW.device)
    for step in range(-(-length // num_cells)):
        values = images_BCHW.index_select(2, (first + step).clamp(max=length - 1))
        total = values.mul_((step < size).float()[:, None]).add_(total)
    return total.div_(size[:, None])


def _down_and_up(images_BCHW: Tensor, divisor: float, mode: str) -> Tensor:
    small = F.interpolate(
        images_BCHW, size=_small(images_BCHW, divisor), mode=mode, align_corners=False, antialias=True
    )
    return F.interpolate(small, size=images_BCHW.shape[-2:], mode=mode, align_corners=False)


def _small(images_BCHW: Tensor, divisor: float) -> tuple[int, int]:
    height, width = images_BCHW.shape[-2:]
    return max(1, round(height / divisor)), max(1, round(width / divisor))
