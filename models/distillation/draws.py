"""Integers drawn from keys, with no generator: the same keys give the same integers in every pass and on every device.

Each 64-bit word is a pure function of (key, stream, counter) by SplitMix64 in wrapping int64 arithmetic. `models` does
not import `noise`, whose draws are made for whole images; here a few words for each image suffice.

Shape suffixes: B images, K draws of one image.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
"""

import torch
from torch import Tensor

_WEYL = 0x9E3779B97F4A7C15 - (1 << 64)  # the same bits as a signed number
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def words(keys_B: Tensor, count: int, *, stream: int) -> Tensor:
    """32 random bits for each counter 0..count-1 of each image.

    Args:
        keys_B: int64.
        count: K.
        stream: tells independent uses of one key apart, from 0.

    Returns:
        int64 of shape (B, K), in [0, 2**32), on the device of the keys.
    """
    starts_B = _mix(_mix(keys_B) + (stream + 1) * _WEYL % (1 << 63))
    counters_K = torch.arange(1, count + 1, dtype=torch.int64, device=keys_B.device) * _WEYL
    return _shift_right(_mix(starts_B[:, None] + counters_K), 32)


def integers(keys_B: Tensor, count: int, *, high_B1: Tensor, stream: int) -> Tensor:
    """Integers in [0, high) of each image, apart from each other where there are enough.

    Where high is at least K, the interval is cut into K parts as equal as can be, one integer is drawn in each, and all
    are turned round the interval by one draw: no integer comes twice, and each is as likely as the others. That is a
    draw without replacement in which neighbours meet less often than by chance; it needs one word a draw and no
    sorting. Elsewhere they are drawn independently, with replacement.

    Args:
        keys_B: int64.
        count: K.
        high_B1: int64 of shape (B, 1), each in 1..2**31, on the device of the keys.
        stream: as of :func:`words`; this one and the next are used.

    Returns:
        int64 of shape (B, K).
    """
    words_BK = words(keys_B, count, stream=stream)
    edges_BK1 = torch.arange(count + 1, dtype=torch.int64, device=keys_B.device) * high_B1 // count
    low_BK = edges_BK1[:, :-1]
    apart_BK = low_BK + (words_BK * (edges_BK1[:, 1:] - low_BK) >> 32)
    turn_B1 = words(keys_B, 1, stream=stream + 1) * high_B1 >> 32
    return torch.where(high_B1 >= count, (apart_BK + turn_B1) % high_B1, words_BK * high_B1 >> 32)


def _mix(values: Tensor) -> Tensor:
    """The finalizer of SplitMix64, a bijection."""
    values = (values ^ _shift_right(values, 30)) * _FIRST
    values = (values ^ _shift_right(values, 27)) * _SECOND
    return values ^ _shift_right(values, 31)


def _shift_right(values: Tensor, shift: int) -> Tensor:
    """Logical right shift; torch's own repeats the sign."""
    return (values >> shift) & ((1 << (64 - shift)) - 1)
