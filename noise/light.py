"""Linear light and smooth keyed fields, which the surveillance family is built from.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noise.keyed import Stream, uniform


def to_linear(encoded: Tensor) -> Tensor:
    """sRGB values in [0, 1] to relative light: v / 12.92 up to 0.04045, ((v + 0.055) / 1.055)^2.4 above.

    Source: IEC 61966-2-1 (sRGB).
    """
    upper = _power((encoded.clamp(min=0.04045) + 0.055) / 1.055, 2.4)
    return torch.where(encoded <= 0.04045, encoded / 12.92, upper)


def to_srgb(light: Tensor) -> Tensor:
    """Relative light to sRGB values in [0, 1]; light above 1 is clipped as by a full sensor, below 0 as by black.

    Source: IEC 61966-2-1 (sRGB): 12.92 l up to 0.0031308, 1.055 l^(1/2.4) - 0.055 above.
    """
    light = light.clamp(0.0, 1.0)
    upper = 1.055 * _power(light.clamp(min=0.0031308), 1 / 2.4) - 0.055
    # Full light is 1 exactly, which the rounded formula misses.
    return torch.where(light <= 0.0031308, light * 12.92, upper).masked_fill(light >= 1.0, 1.0)


def _power(positive: Tensor, exponent: float) -> Tensor:
    """exp(p ln x): torch's pow rounds the last few values of a tensor otherwise on a CPU, so the batch would matter."""
    return positive.contiguous().log().mul_(exponent).exp_()


def smooth_field(keys_B: Tensor, height: int, width: int, *, cells: int, stream: Stream) -> Tensor:
    """A smooth random field of each image: uniform values on a grid, blended between by 3 t^2 - 2 t^3.

    Args:
        keys_B: int64 keys.
        height: Rows of the field.
        width: Columns of the field.
        cells: Cells of the grid along the shorter side; the longer side has cells of the same size.
        stream: Tells independent uses of one key apart.

    Returns:
        float32 (B, 1, H, W) in (-1, 1), mean 0.
    """
    cell = min(height, width) / cells
    num_rows, num_columns = int(height / cell) + 2, int(width / cell) + 2
    field_BHW = uniform(keys_B, (num_rows, num_columns), stream=stream, low=-1.0, high=1.0)
    for dim, length in ((1, height), (2, width)):
        # In float64 on the host: the same grid positions on every device.
        position = (torch.arange(length, dtype=torch.float64) + 0.5) / cell
        first = position.floor().long()
        share = (position - first).float()
        share = (share * share * (3.0 - 2.0 * share)).to(field_BHW.device)
        share = share.view([-1 if axis == dim else 1 for axis in range(3)])
        first = first.to(field_BHW.device)
        low, high = field_BHW.index_select(dim, first), field_BHW.index_select(dim, first + 1)
        field_BHW = low + (high - low) * share
    return field_BHW[:, None]
