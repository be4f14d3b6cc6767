"""Digital corruptions: JPEG, and the elastic transform.

Baseline JPEG (ITU-T T.81, Annex K tables; quality scaling of the Independent JPEG Group; JFIF colour; 4:2:0 chroma
with triangle-filter upsampling), in tensor arithmetic: no coder is needed since the entropy coding loses nothing.
Shape suffixes: B batch, C channels, H height, W width; V and U count blocks down and across.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from noise.filters import gaussian_weights, reach_of, weighted_shifts
from noise.keyed import uniform

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


# Added to magnitudes before rounding: exact halves, common in sums of whole numbers, then round away from zero on every
# device and in every order of summing.
_NUDGE = 2e-4


def jpeg_compression(images_BCHW: Tensor, quality: float, *, keys_B: Tensor) -> Tensor:
    """JPEG at a quality from 1 to 100; one channel is coded as grey, three as YCbCr with halved chroma.

    Args:
        images_BCHW: float32 in [0, 1], rounded to 8 bits first.
        quality: Of the Independent JPEG Group's scale, as in Pillow.
        keys_B: Not used; nothing is random here.

    Returns:
        float32 images of the same shape, in steps of 1/255.
    """
    height, width = images_BCHW.shape[-2:]
    levels = _rounded(images_BCHW.float() * 255.0)
    levels = F.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    if levels.shape[1] == 1:
        coded = _code(levels - 128.0, _table(_LUMA, quality, levels.device)) + 128.0
    else:
        coded = _colour(levels, quality, height, width)
    return _rounded(coded[..., :height, :width]).clamp(0.0, 255.0).div(255.0)


def _colour(levels_BCHW: Tensor, quality: float, height: int, width: int) -> Tensor:
    red, green, blue = levels_BCHW.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = _rounded(torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1))
    luma = _code(_rounded(luma)[:, None] - 128.0, _table(_LUMA, quality, luma.device))[:, 0] + 128.0
    half = _code(_halved(chroma), _table(_CHROMA, quality, chroma.device))
    # Cut to the true chroma size before the triangle filter, so that the last column is repeated as decoders do.
    half = half[..., : (height + 1) // 2, : (width + 1) // 2]
    full = _doubled(_doubled(half, dim=2), dim=3)[..., :height, :width]
    blueness, redness = full.unbind(1)
    luma = luma[:, :height, :width]
    return torch.stack(
        [luma + 1.402 * redness, luma - 0.344136 * blueness - 0.714136 * redness, luma + 1.772 * blueness], dim=1
    )


def _halved(chroma_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 whole numbers, rounded down and up by turns at halves, as encoders do it."""
    rows = chroma_BCHW[..., ::2, :] + chroma_BCHW[..., 1::2, :]
    means = rows[..., ::2].add(rows[..., 1::2]).mul_(0.25)
    columns_W = torch.arange(means.shape[-1], device=means.device)
    return means.add_(0.25 + 0.25 * (columns_W % 2)).floor_()


def _doubled(images_BCHW: Tensor, *, dim: int) -> Tensor:
    """Twice as many pixels along an axis by the triangle filter: 3/4 of the nearest and 1/4 of the next."""
    length = images_BCHW.shape[dim]
    ends = [images_BCHW.narrow(dim, 0, 1), images_BCHW, images_BCHW.narrow(dim, length - 1, 1)]
    padded = torch.cat(ends, dim)
    pair = [torch.lerp(images_BCHW, padded.narrow(dim, first, length), 0.25) for first in (0, 2)]
    return torch.stack(pair, dim + 1).flatten(dim, dim + 1)


def _code(levels_BCHW: Tensor, table_88: Tensor) -> Tensor:
    """Block DCT, quantisation and back; levels are centred on 0."""
    size_B, size_C, height, width = levels_BCHW.shape
    basis_88 = _basis(levels_BCHW.device)
    blocks = levels_BCHW.reshape(size_B, size_C, height // 8, 8, width // 8, 8)
    spectrum = _transform(_transform(blocks, basis_88, dim=3), basis_88, dim=5)
    table = table_88.view(8, 1, 8)
    quantised = _rounded(spectrum / table) * table
    restored = _transform(_transform(quantised, basis_88.T, dim=3), basis_88.T, dim=5)
    return _rounded(restored).clamp(-128.0, 127.0).reshape(size_B, size_C, height, width)


def _transform(blocks: Tensor, matrix_88: Tensor, *, dim: int) -> Tensor:
    """sum_x matrix[u, x] blocks[.., x, ..] along one axis; term by term on a GPU, where a product may run in TF32."""
    if blocks.device.type == "cpu":
        return (matrix_88 @ blocks.transpose(3, 4)).transpose(3, 4) if dim == 3 else blocks @ matrix_88.T
    return _transform_by_terms(blocks, matrix_88, dim=dim)


def _transform_by_terms(blocks: Tensor, matrix_88: Tensor, *, dim: int) -> Tensor:
    shape = [8 if axis == dim else 1 for axis in range(blocks.ndim)]
    total = torch.zeros_like(blocks)
    for x in range(8):
        total.addcmul_(blocks.narrow(dim, x, 1), matrix_88[:, x].view(shape))
    return total


def _rounded(values: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero."""
    return values.abs().add_(0.5 + _NUDGE).floor_().copysign_(values)


def _table(base: tuple[int, ...], quality: float, device: torch.device) -> Tensor:
    scale = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    table = torch.tensor(base, dtype=torch.float32, device=device).view(8, 8)
    return ((table * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0)


def _basis(device: torch.device) -> Tensor:
    """The orthonormal 8-point DCT-II."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2.0)
    return basis.float().to(device)


# ------------------------------------------------------------------------------------------------------------- elastic
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
