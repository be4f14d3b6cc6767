"""Baseline JPEG there and back, to the bit what libjpeg's coders give: by Pillow on the CPU, by tensors elsewhere.

ITU-T T.81 with the tables of Annex K, quality scaling of the Independent JPEG Group, JFIF colour, 4:2:0 chroma with
triangle-filter upsampling. The entropy coding loses nothing, so the tensors leave it out. Every step is whole-number
arithmetic of a stated precision, as in libjpeg's default ("islow") transforms; so both ways give the same pixels.
Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
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
_MATRIX_BITS, _EXTRA_BITS = 13, 2  # of the transform's constants, and of the values between its two passes
_COLOUR_BITS = 16


def jpeg_compression(images_BCHW: Tensor, quality: float, *, keys_B: Tensor) -> Tensor:
    """JPEG at a quality from 1 to 100; one channel is coded as grey, three as YCbCr with halved chroma.

    On the CPU each image goes through Pillow's coder (libjpeg-turbo), elsewhere all together through `by_tensors`; the
    pixels are equal.

    Args:
        images_BCHW: float32 in [0, 1], rounded to 8 bits first; no gradient passes.
        quality: Of the Independent JPEG Group's scale, as in Pillow; a whole number.
        keys_B: Not used; nothing is random here.

    Returns:
        float32 images of the same shape, in steps of 1/255.
    """
    levels = (images_BCHW.detach().float() * 255.0).add_(0.5).clamp_(0.0, 255.0)
    if levels.device.type != "cpu":
        return by_tensors(levels.to(torch.int32), round(quality)).to(torch.float32).div_(255.0)
    coded = torch.empty_like(levels)
    for place_CHW, levels_CHW in zip(coded, levels.to(torch.uint8), strict=True):
        place_CHW.copy_(_by_pillow(levels_CHW, round(quality)))
    return coded.div_(255.0)


def _by_pillow(levels_CHW: Tensor, quality: int) -> Tensor:
    """One image there and back; uint8 (C, H, W)."""
    stream = io.BytesIO()
    planes = [Image.fromarray(plane) for plane in levels_CHW.contiguous().numpy()]
    whole = Image.merge("RGB", planes) if len(planes) == 3 else planes[0]  # faster than turning the axes first
    whole.save(stream, "JPEG", quality=quality)
    with Image.open(stream) as picture:
        pixels = torch.from_numpy(np.array(picture))
    return pixels.permute(2, 0, 1) if len(planes) == 3 else pixels[None]


def by_tensors(levels_BCHW: Tensor, quality: int) -> Tensor:
    """JPEG in int32 tensor arithmetic.

    Args:
        levels_BCHW: int32, 0 to 255, one or three channels.
        quality: 1 to 100.

    Returns:
        int32 levels of the same shape.
    """
    height, width = levels_BCHW.shape[-2:]
    if levels_BCHW.shape[1] == 1:
        return _coded(_padded(levels_BCHW, 8, 8), _table(_LUMA, quality, levels_BCHW.device))[..., :height, :width]
    red, green, blue = levels_BCHW.split(1, dim=1)
    half = 1 << (_COLOUR_BITS - 1)
    luma = _weighted((red, green, blue), (0.29900, 0.58700, 0.11400), half)
    middle = (128 << _COLOUR_BITS) + half - 1
    blueness = _weighted((red, green, blue), (-0.16874, -0.33126, 0.5), middle)
    redness = _weighted((red, green, blue), (0.5, -0.41869, -0.08131), middle)
    luma = _coded(_padded(luma, 8, 8), _table(_LUMA, quality, luma.device))[..., :height, :width]
    chroma = _halved(_padded(torch.cat([blueness, redness], dim=1), 2, 16))
    chroma = _coded(_padded(chroma, 8, 8), _table(_CHROMA, quality, luma.device))
    # Cut to the true chroma size before the triangle filter, so that the last column is repeated as decoders do.
    chroma = chroma[..., : (height + 1) // 2, : (width + 1) // 2]
    chroma = _doubled(chroma)[..., :height, :width] - 128
    blueness, redness = chroma.split(1, dim=1)
    restored = [
        luma + _weighted((redness,), (1.40200,), half),
        luma + _weighted((blueness, redness), (-0.34414, -0.71414), half),
        luma + _weighted((blueness,), (1.77200,), half),
    ]
    return torch.cat(restored, dim=1).clamp_(0, 255)


def _weighted(channels: tuple[Tensor, ...], weights: tuple[float, ...], added: int) -> Tensor:
    """Sum of channels times weights of 16 bits behind the point, and `added` of such bits, rounded down."""
    total = torch.full_like(channels[0], added)
    for channel, weight in zip(channels, weights, strict=True):
        total.add_(channel, alpha=_fixed(weight, _COLOUR_BITS))
    return total.bitwise_right_shift_(_COLOUR_BITS)


def _fixed(value: float, num_bits: int) -> int:
    """The nearest whole number of 2**-num_bits, halves away from zero."""
    size = int(abs(value) * (1 << num_bits) + 0.5)
    return size if value >= 0 else -size


def _padded(levels_BCHW: Tensor, down: int, across: int) -> Tensor:
    """Made as high and wide as multiples of these, by repeating the last row and column."""
    for dim, unit in ((2, down), (3, across)):
        length = levels_BCHW.shape[dim]
        if length % unit:
            places = torch.arange(length + -length % unit, device=levels_BCHW.device).clamp_(max=length - 1)
            levels_BCHW = levels_BCHW.index_select(dim, places)
    return levels_BCHW


def _halved(chroma_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 whole numbers, halves rounded down and up by turns, as encoders do it."""
    rows = chroma_BCHW[..., ::2, :] + chroma_BCHW[..., 1::2, :]
    sums = rows[..., ::2] + rows[..., 1::2]
    columns_W = torch.arange(sums.shape[-1], device=sums.device, dtype=torch.int32)
    return sums.add_(columns_W.bitwise_and_(1).add_(1)).bitwise_right_shift_(2)


def _doubled(chroma_BCHW: Tensor) -> Tensor:
    """Twice as high and wide by the triangle filter: 3/4 of the nearest and 1/4 of the next along both axes."""
    rows = torch.stack(_near_and_next(chroma_BCHW, dim=2), dim=3).flatten(2, 3)
    left, right = _near_and_next(rows, dim=3)
    return torch.stack([left.add_(8), right.add_(7)], dim=4).flatten(3, 4).bitwise_right_shift_(4)


def _near_and_next(levels: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """3 x + the one before, and 3 x + the one after, along an axis; ends repeated."""
    length = levels.shape[dim]
    before = torch.cat([levels.narrow(dim, 0, 1), levels.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([levels.narrow(dim, 1, length - 1), levels.narrow(dim, length - 1, 1)], dim)
    return before.add_(levels, alpha=3), after.add_(levels, alpha=3)


def _coded(levels_BCHW: Tensor, table_88: Tensor) -> Tensor:
    """Block transform, quantisation and back."""
    size_B, size_C, height, width = levels_BCHW.shape
    matrix_88 = _transform(levels_BCHW.device)
    blocks = (levels_BCHW - 128).view(size_B, size_C, height // 8, 8, width // 8, 8)
    spectrum = _pass(blocks, matrix_88, dim=5, shift=_MATRIX_BITS - _EXTRA_BITS)
    spectrum = _pass(spectrum, matrix_88, dim=3, shift=_MATRIX_BITS + _EXTRA_BITS)
    table = table_88.view(8, 1, 8)
    steps = table * 8  # the transform's results are 8 times too large
    sizes = torch.div(spectrum.abs().add_(steps >> 1), steps, rounding_mode="floor")
    quantised = sizes.mul_(spectrum.sign()).mul_(table)
    restored = _pass(quantised, matrix_88.T, dim=3, shift=_MATRIX_BITS - _EXTRA_BITS)
    restored = _pass(restored, matrix_88.T, dim=5, shift=_MATRIX_BITS + _EXTRA_BITS + 3)
    return restored.add_(128).clamp_(0, 255).view(size_B, size_C, height, width)


def _pass(blocks: Tensor, matrix_88: Tensor, *, dim: int, shift: int) -> Tensor:
    """sum_x matrix[u, x] blocks[.., x, ..] 2**-shift along one axis, rounded; halves up."""
    shape = [8 if axis == dim else 1 for axis in range(blocks.ndim)]
    total = torch.full_like(blocks, 1 << (shift - 1))
    for x in range(8):
        total.addcmul_(blocks.narrow(dim, x, 1), matrix_88[:, x].view(shape))
    return total.bitwise_right_shift_(shift)


@lru_cache(maxsize=4)
def _transform(device: torch.device) -> Tensor:
    """The 8-point DCT of Loeffler, Ligtenberg & Moschytz 1989 (ICASSP) as one matrix of whole numbers of 2**-13.

    They save products by adding values before and after them; with constants rounded to 13 bits, each entry is a sum
    of such constants, and not the nearest number to its cosine.
    """
    half, quarter = 0.541196100, (0.765366865, 1.847759065)
    own = (0.298631336, 2.053119869, 3.072711026, 1.501321110)
    ends, inner, even, odd = -0.899976223, -2.562915447, -1.961570560, -0.390180644
    common = _fixed(1.175875602, _MATRIX_BITS)
    unit = 1 << _MATRIX_BITS
    b, (c, d) = _fixed(half, _MATRIX_BITS), (_fixed(value, _MATRIX_BITS) for value in quarter)
    own_4 = [_fixed(value, _MATRIX_BITS) for value in own]
    e, i, v, o = (_fixed(value, _MATRIX_BITS) for value in (ends, inner, even, odd))
    sums = {  # about the differences of the pixels 3 and 4, 2 and 5, 1 and 6, 0 and 7
        7: (own_4[0] + e + v + common, common, v + common, e + common),
        5: (common, own_4[1] + i + o + common, i + common, o + common),
        3: (v + common, i + common, own_4[2] + i + v + common, common),
        1: (e + common, o + common, common, own_4[3] + e + o + common),
    }
    rows = {u: [*reversed(row), *(-value for value in row)] for u, row in sums.items()}
    rows[0] = [unit] * 8
    rows[4] = [unit, -unit, -unit, unit] * 2
    for u, (outer, inside) in {2: (b + c, b), 6: (b, b - d)}.items():
        rows[u] = [outer, inside, -inside, -outer, -outer, -inside, inside, outer]
    return torch.tensor([rows[u] for u in range(8)], dtype=torch.int32, device=device)


def _table(base: tuple[int, ...], quality: int, device: torch.device) -> Tensor:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((value * scale + 50) // 100, 1), 255) for value in base]
    return torch.tensor(steps, dtype=torch.int32, device=device).view(8, 8)
