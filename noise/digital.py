"""Digital corruptions: the elastic transform (JPEG has a file of its own, `noise/jpeg.py`).

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.filters import gaussian_weights, reach_of, weighted_shifts
from noise.keyed import uniform

_SMOOTH_SHARE, _REACH_SHARE, _CUT = 0.01, 0.005, 3.0


def elastic_transform(images_BCHW: Tensor, alpha: float, *, keys_B: Tensor) -> Tensor:
    """Each pixel is read from a place moved by a smooth random field; edges mirrored, bilinear between pixels.

    Along both axes the move is alpha times U(-r, r), r = .005 height, smoothed by a Gaussian of .01 of the side, cut at
    3 standard deviations. The smoothing takes away as much as the range adds on a larger image, so that the moves are
    of .08 alpha pixels (standard deviation) at any size: alpha is a length.

    Args:
        images_BCHW: float32.
        alpha: Strength.
        keys_B: int64 keys; the field of an image is drawn from its key.
    """
    height, width = images_BCHW.shape[-2:]
    down, right = (
        _moves(keys_B, (height, width), alpha=alpha, stream=name).view(-1, height, width) for name in ("down", "right")
    )
    rows_H1 = torch.arange(height, device=images_BCHW.device, dtype=torch.float32)[:, None]
    columns_W = torch.arange(width, device=images_BCHW.device, dtype=torch.float32)
    grid = torch.stack([((columns_W + right) * 2 + 1) / width - 1, ((rows_H1 + down) * 2 + 1) / height - 1], dim=-1)
    return F.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def scaled_elastic(alpha: float, factor: float) -> float:
    """The strength at another image size."""
    return alpha * factor


def _moves(keys_B: Tensor, shape: tuple[int, int], *, alpha: float, stream: str) -> Tensor:
    """Moves along one axis in pixels, (B, 1, H, W)."""
    height, width = shape
    reach = height * _REACH_SHARE
    sigmas = [max(1e-3, side * _SMOOTH_SHARE) for side in shape]
    radii = [reach_of(sigma, _CUT) for sigma in sigmas]
    padded = (1, height + 2 * radii[0], width + 2 * radii[1])
    field = uniform(keys_B, padded, stream=stream, low=-reach * alpha, high=reach * alpha)
    for dim, sigma, radius in zip((2, 3), sigmas, radii, strict=True):
        field = weighted_shifts(field, gaussian_weights(sigma, radius), dim=dim, is_padded=True)
    return field
