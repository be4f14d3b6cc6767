"""Digital corruptions: JPEG.

Baseline JPEG (ITU-T T.81, Annex K tables; quality scaling of the Independent JPEG Group; JFIF colour; 4:2:0 chroma
with triangle-filter upsampling), in tensor arithmetic: no coder is needed since the entropy coding loses nothing.
Shape suffixes: B batch, C channels, H height, W width; V and U count blocks down and across.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# fmt: off
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *([99] * 32),
)
# fmt: on


def jpeg_compression(images_BCHW: Tensor, quality: float, *, keys_B: Tensor) -> Tensor:
    """JPEG at a quality from 1 to 100; one channel is coded as grey, three as YCbCr with halved chroma."""
    height, width = images_BCHW.shape[-2:]
    levels = images_BCHW.float().mul(255.0).round()
    levels = F.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    if levels.shape[1] == 1:
        coded = _code(levels - 128.0, _table(_LUMA, quality, levels.device)) + 128.0
    else:
        coded = _colour(levels, quality)
    coded = coded[..., :height, :width].round().clamp(0.0, 255.0).div(255.0)
    return coded.to(images_BCHW.dtype)


def _colour(levels_BCHW: Tensor, quality: float) -> Tensor:
    red, green, blue = levels_BCHW.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1).round()
    luma = _code(luma.round()[:, None] - 128.0, _table(_LUMA, quality, luma.device)) + 128.0
    half = _code(F.avg_pool2d(chroma, 2).round(), _table(_CHROMA, quality, chroma.device))
    blueness, redness = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False).unbind(1)
    luma = luma[:, 0]
    return torch.stack(
        [luma + 1.402 * redness, luma - 0.344136 * blueness - 0.714136 * redness, luma + 1.772 * blueness], dim=1
    )


def _code(levels_BCHW: Tensor, table_88: Tensor) -> Tensor:
    """Block DCT, quantisation and back; levels are centred on 0."""
    size_B, size_C, height, width = levels_BCHW.shape
    basis_88 = _basis(levels_BCHW.device)
    blocks = levels_BCHW.view(size_B, size_C, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    spectrum = basis_88 @ blocks @ basis_88.T
    quantised = (spectrum / table_88).round() * table_88
    restored = (basis_88.T @ quantised @ basis_88).round().clamp(-128.0, 127.0)
    return restored.permute(0, 1, 2, 4, 3, 5).reshape(size_B, size_C, height, width)


def _table(base: tuple[int, ...], quality: float, device: torch.device) -> Tensor:
    scale = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    table = torch.tensor(base, dtype=torch.float32, device=device).view(8, 8)
    return ((table * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0)


def _basis(device: torch.device) -> Tensor:
    """The orthonormal 8-point DCT-II."""
    k = torch.arange(8, device=device, dtype=torch.float64)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2.0)
    return basis.float()
