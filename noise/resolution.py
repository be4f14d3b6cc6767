"""Low resolution: down to a fraction of the size and up again, by three kernels.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

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


def _down_and_up(images_BCHW: Tensor, divisor: float, mode: str) -> Tensor:
    small = F.interpolate(
        images_BCHW, size=_small(images_BCHW, divisor), mode=mode, align_corners=False, antialias=True
    )
    return F.interpolate(small, size=images_BCHW.shape[-2:], mode=mode, align_corners=False)


def _small(images_BCHW: Tensor, divisor: float) -> tuple[int, int]:
    height, width = images_BCHW.shape[-2:]
    return max(1, round(height / divisor)), max(1, round(width / divisor))
