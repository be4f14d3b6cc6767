"""Keyed Poisson counts, drawn from alias tables that are made once for each largest rate.

Shape suffixes: B images, N values of one image, T the shape of one image's values (`(B, *shape)`), R rates, K counts.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noise.keyed import Stream, bits

MAX_RATE = 4000.0

_LEVELS, _PARTS_BITS = 255, 11  # the largest rate in steps of 1/255, as 8-bit images have them, and each in 2048 parts
_WEIGHT_BITS = 31  # chances are multiples of 2**-31
_LEAST_CHANCE = Decimal(2) ** -(_WEIGHT_BITS + 2)


class _Table(NamedTuple):
    """Alias tables of several laws, one after another, each of 2**num_bits counts.

    Args:
        entries: int32, on the device; a chance of staying above, the other count in the lower `num_bits`.
        num_bits: See above.
    """

    entries: Tensor
    num_bits: int


def poisson(rates_BT: Tensor, keys_B: Tensor, *, max_rate: float, stream: Stream) -> Tensor:
    """Poisson counts with the given expected values.

    A rate is rounded to (l + p / 2048) max_rate / 255 with whole l and p < 2048; the count is the sum of one of law
    l max_rate / 255 and, where p > 0, one of the small rest, for sums of Poisson counts are Poisson. Both are looked
    up in alias tables, whose chances are exact to 2**-31. Rates of 8-bit images need the first alone.

    All is integer arithmetic after the rounding, so that counts are alike to the bit on every device.

    Args:
        rates_BT: Expected counts, non-negative, at most `max_rate`, of shape (B, ...); values outside are clamped.
        keys_B: int64 keys of shape (B).
        max_rate: Bound of the rates, above 0, at most 4000. The tables of the last 16 bounds are kept; they take 0.13
            MB at 12, 0.3 MB at 60 and 2.4 MB at 1500, and 0.1 to 0.7 s at their first use (above 1500 many seconds).
        stream: Tells independent uses of one key apart.

    Returns:
        float32 tensor of whole numbers, shape of the rates; steps of the rates, so they carry no gradient.

    Raises:
        ValueError: If `max_rate` is outside its bounds.

    Source: A. J. Walker 1977, "An efficient method for generating discrete random variables with general
        distributions", ACM TOMS 3(3).
    """
    if not 0.0 < max_rate <= MAX_RATE:
        raise ValueError(f"max_rate must be above 0 and at most {MAX_RATE:g}, but got {max_rate:g}")
    levels, parts = _tables(float(max_rate), keys_B.device)
    num_parts = 1 << _PARTS_BITS
    place = rates_BT.detach().to(torch.float32).clamp(0.0, max_rate).mul_(_LEVELS * num_parts / max_rate).round_()
    place_BN = place.to(torch.int32).flatten(1)
    part_BN = place_BN & (num_parts - 1)
    # The mask keeps what was no number inside the table.
    level_BN = place_BN.bitwise_right_shift_(_PARTS_BITS).bitwise_and_(_LEVELS)
    counts_BN = _drawn(levels, level_BN, keys_B, stream=f"{stream}/levels")
    if part_BN.device.type != "cpu" or (part_BN.numel() and int(part_BN.amax())):
        counts_BN.add_(_drawn(parts, part_BN, keys_B, stream=f"{stream}/parts"))
    return counts_BN.to(torch.float32).view(rates_BT.shape)


def _drawn(table: _Table, rows_BN: Tensor, keys_B: Tensor, *, stream: str) -> Tensor:
    """int32 counts by the laws of these rows; a word's upper bits choose the column, its lower ones if it stays."""
    num_bits, last = table.num_bits, (1 << table.num_bits) - 1
    words_BN = bits(keys_B, rows_BN.shape[1], stream=stream)
    column_BN = torch.bitwise_right_shift(words_BN, 32 - num_bits).bitwise_and_(last)
    entries = torch.index_select(table.entries, 0, torch.add(column_BN, rows_BN, alpha=last + 1).flatten())
    entry_BN = entries.view_as(words_BN)
    draw_BN = words_BN.bitwise_and_((1 << (_WEIGHT_BITS - num_bits)) - 1)
    # All ones where the draw is below the chance of staying, else all zeros: the sign of the difference.
    stays_BN = draw_BN.sub_(entry_BN >> num_bits).bitwise_right_shift_(31)
    other_BN = entry_BN.bitwise_and_(last)
    return column_BN.bitwise_xor_(other_BN).bitwise_and_(stays_BN).bitwise_xor_(other_BN)


@lru_cache(maxsize=16)
def _tables(max_rate: float, device: torch.device) -> tuple[_Table, _Table]:
    """Tables of the rates l max_rate / 255, l = 0..255, and of the rests p max_rate / 255 / 2048, p = 0..2047.

    In decimal and integer arithmetic, which give the same on every machine.
    """
    with decimal.localcontext(prec=28):
        step = Decimal(max_rate) / _LEVELS
        levels = _alias_table([step * level for level in range(_LEVELS + 1)])
        num_parts = 1 << _PARTS_BITS
        parts = _alias_table([step * part / num_parts for part in range(num_parts)])
    return _Table(levels.entries.to(device), levels.num_bits), _Table(parts.entries.to(device), parts.num_bits)


def _alias_table(rates: list[Decimal]) -> _Table:
    """Walker's tables of the Poisson laws of rising rates, all rows at a time."""
    laws = [_law(rate) for rate in rates]
    num_bits = max(1, math.ceil(math.log2(len(laws[-1]))))
    weight_RK = np.zeros((len(rates), 1 << num_bits), dtype=np.int64)
    for row_K, law in zip(weight_RK, laws, strict=True):
        row_K[: len(law)] = law
    unit = 1 << (_WEIGHT_BITS - num_bits)
    order_RK = np.argsort(weight_RK, axis=1, kind="stable")
    weight_RK = np.take_along_axis(weight_RK, order_RK, axis=1)
    stay_RK, other_RK = np.full_like(weight_RK, unit), order_RK.copy()
    rows_R = np.arange(len(rates))
    low_R, high_R = np.zeros_like(rows_R), np.full_like(rows_R, (1 << num_bits) - 1)
    rest_R = weight_RK[:, -1].copy()
    for _ in range((1 << num_bits) - 1):
        # The heaviest column fills up the lightest one; once it is light itself, the next heaviest one fills it up.
        is_light_R = rest_R < unit
        filled_R = np.where(is_light_R, high_R, low_R)
        weight_R = np.where(is_light_R, rest_R, weight_RK[rows_R, low_R])
        filler_R = high_R - is_light_R
        stay_RK[rows_R, filled_R], other_RK[rows_R, filled_R] = weight_R, order_RK[rows_R, filler_R]
        rest_R = np.where(is_light_R, weight_RK[rows_R, filler_R], rest_R) - (unit - weight_R)
        low_R, high_R = low_R + ~is_light_R, filler_R
    other_RK = np.where(stay_RK >= unit, order_RK, other_RK)
    entry_RK = np.empty_like(weight_RK)
    np.put_along_axis(entry_RK, order_RK, (np.minimum(stay_RK, unit - 1) << num_bits) | other_RK, axis=1)
    return _Table(torch.from_numpy(entry_RK.astype(np.int32)).flatten(), num_bits)


def _law(rate: Decimal) -> list[int]:
    """Chances of the counts 0, 1, ... in units of 2**-31: differences of the rounded distribution function."""
    unit, chance, count = 1 << _WEIGHT_BITS, (-rate).exp(), 0
    below = chance
    steps = [0, round(below * unit)]
    while count < rate or chance > _LEAST_CHANCE:
        count += 1
        chance *= rate / count
        below += chance
        steps.append(round(below * unit))
    steps[-1] = unit
    return [high - low for low, high in pairwise(steps)]
