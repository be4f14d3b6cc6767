"""Counter-based random tensors: every value is a pure function of (key, stream, position inside one image).

No state and no generator: the batch an image stands in, its place there, the order of calls and the device do not
matter.
The idea is that of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixing is built here from
published 32- and 64-bit finalizers so that it runs as int32 tensor arithmetic, alike to the bit on every device.

Shape suffixes: B images, N values of one image, T the shape of one image's values (`(B, *shape)`).
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Stream = int | str

_MASK_64 = (1 << 64) - 1
_WEYL_64 = 0x9E3779B97F4A7C15
_UNIFORM_BITS = 23  # uniforms stand at (m + 1/2) 2**-23
_ANGLE_BITS = 12  # of the word of a pair of normal values; the other 20 are the radius's


def image_keys(ids_B: Tensor | Sequence[int], *, seed: int, salt: str = "") -> Tensor:
    """One 64-bit key for each image: a hash of its id, the seed and a salt.

    Args:
        ids_B: Integer ids of the images, in any order; the key depends on the id only.
        seed: Any integer; one seed is one realisation of all noise.
        salt: Any text, for keys that must not meet others of the same seed ("train", "epoch 3").

    Returns:
        int64 tensor of shape (B), on the device of `ids_B`.

    Raises:
        ValueError: If the ids are not a one-dimensional sequence of integers.
    """
    if not isinstance(ids_B, Tensor):
        ids_B = torch.tensor(list(ids_B) or [], dtype=None if len(ids_B) else torch.int64)
    if ids_B.ndim != 1 or ids_B.is_floating_point() or ids_B.is_complex() or ids_B.dtype == torch.bool:
        raise ValueError(
            f"ids must be a one-dimensional sequence of integers, but got {ids_B.dtype} of shape {tuple(ids_B.shape)}; "
            "give one integer for each image"
        )
    return fold_in(_mix_64(ids_B.to(torch.int64)), f"{int(seed)}|{salt}")


def fold_in(keys_B: Tensor, data: Stream) -> Tensor:
    """New keys from old ones and an integer or a text, as independent of the old as hashes are.

    Args:
        keys_B: int64 keys of shape (B).
        data: What tells the new keys from others made of the same old ones.

    Returns:
        int64 tensor of shape (B).
    """
    return _mix_64(_mix_64(keys_B ^ _signed(_digest(data), 64)) + _signed(_WEYL_64, 64))


def bits(keys_B: Tensor, count: int, *, stream: Stream) -> Tensor:
    """32 random bits for each counter 0..count-1 of each image.

    Word i depends on key, stream and i alone, not on `count`. Two multiply-xorshift rounds with one half of the key put
    in before each; the counter itself is mixed once for all images.

    Args:
        keys_B: int64 keys of shape (B).
        count: Number of words for each image, below 2**31.
        stream: Tells independent uses of one key apart.

    Returns:
        int32 tensor of shape (B, count), all 2**32 patterns equally likely.

    Raises:
        ValueError: If the keys are not int64 of one dimension.
    """
    if keys_B.dtype != torch.int64 or keys_B.ndim != 1:
        raise ValueError(
            f"keys must be int64 of shape (B), but got {keys_B.dtype} of shape {tuple(keys_B.shape)}; "
            "make them by noise.keyed.image_keys(ids, seed=...)"
        )
    keys_B = fold_in(keys_B, stream)
    low_B1, high_B1 = _low_word(keys_B)[:, None], _low_word(_shift_right(keys_B, 32, width=64))[:, None]
    make_counters = _counters.__wrapped__ if torch.compiler.is_compiling() else _counters  # which fuses them instead
    words_BN = make_counters(count, keys_B.device) ^ low_B1
    scratch_BN = torch.empty_like(words_BN)
    _xorshift(words_BN, 16, scratch_BN)
    torch.add(high_B1, words_BN, alpha=0x7FEB352D, out=words_BN)
    _xorshift(words_BN, 15, scratch_BN).mul_(_signed(0x846CA68B, 32))
    return _xorshift(words_BN, 16, scratch_BN)


@lru_cache(maxsize=4)
def _counters(count: int, device: torch.device) -> Tensor:
    """The mixed counters 0..count-1, alike for all images; kept, for they cost as much as the words of one image."""
    words_N = torch.arange(count, dtype=torch.int32, device=device).mul_(_signed(0x9E3779B9, 32))
    scratch_N = torch.empty_like(words_N)
    _xorshift(words_N, 16, scratch_N).mul_(0x21F0AAAD)
    return _xorshift(words_N, 15, scratch_N).mul_(0x735A2D97)


def uniform(
    keys_B: Tensor,
    shape: tuple[int, ...],
    *,
    stream: Stream,
    dtype: torch.dtype = torch.float32,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """Uniform values in the open interval (low, high), on a grid of 2**23 steps.

    Args:
        keys_B: int64 keys of shape (B).
        shape: Shape of one image's values; () gives one value for each image.
        stream: Tells independent uses of one key apart.
        dtype: Type of the result; the arithmetic is float32.
        low: Lower end.
        high: Upper end.

    Returns:
        Tensor of shape (B, *shape). In a type narrower than float32 the ends themselves can be reached by rounding.
    """
    words_BN = bits(keys_B, math.prod(shape), stream=stream).bitwise_right_shift_(32 - _UNIFORM_BITS)
    unit = _unit(words_BN.bitwise_and_((1 << _UNIFORM_BITS) - 1), _UNIFORM_BITS).view(-1, *shape)
    if (low, high) != (0.0, 1.0):
        unit = unit.mul_(high - low).add_(low)
    return unit.to(dtype)


def normal(keys_B: Tensor, shape: tuple[int, ...], *, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values by the Box-Muller transform, so that no quantile has to be looked up.

        z_1 = sqrt(-2 ln u) cos(2 pi a),   z_2 = sqrt(-2 ln u) sin(2 pi a);   |z| <= 5.40

    Both come from one word: its upper 20 bits are the radius's u, its lower 12 choose one of 4096 angles a, of which
    half a step is the first, so that both values have the same, symmetric law.

    Args:
        keys_B: int64 keys of shape (B).
        shape: Shape of one image's values.
        stream: Tells independent uses of one key apart.
        dtype: Type of the result; the arithmetic is float32.

    Returns:
        Tensor of shape (B, *shape).
    """
    count = math.prod(shape)
    num_pairs = (count + 1) // 2
    words_BN = bits(keys_B, num_pairs, stream=stream)
    angle_N = words_BN.bitwise_and((1 << _ANGLE_BITS) - 1).flatten()
    # The shift repeats the sign: from -1/2 to 1/2.
    radius_BN = _unit(words_BN.bitwise_right_shift_(_ANGLE_BITS), 32 - _ANGLE_BITS).add_(0.5).log_().mul_(-2.0).sqrt_()
    pair_B2N = torch.empty(len(keys_B), 2, num_pairs, device=keys_B.device)
    for half, table in enumerate(_circle(keys_B.device)):
        torch.mul(torch.index_select(table, 0, angle_N).view_as(radius_BN), radius_BN, out=pair_B2N[:, half])
    return pair_B2N.flatten(1)[:, :count].reshape(-1, *shape).to(dtype)


def _circle(device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles, in the middle of equal parts of the circle."""
    angle = torch.arange(1 << _ANGLE_BITS, dtype=torch.float32, device=device).add_(0.5)
    angle.mul_(2.0 * math.pi / (1 << _ANGLE_BITS))
    return angle.cos(), angle.sin()


def integers(keys_B: Tensor, shape: tuple[int, ...], *, stream: Stream, low: int = 0, high: int) -> Tensor:
    """Integers in [low, high), each as likely as the others to within (high - low) / 2**32.

    Args:
        keys_B: int64 keys of shape (B).
        shape: Shape of one image's values.
        stream: Tells independent uses of one key apart.
        low: Smallest value.
        high: One more than the largest value.

    Returns:
        int64 tensor of shape (B, *shape).

    Raises:
        ValueError: If the interval is empty or longer than 2**31.
    """
    if not 0 < high - low <= 1 << 31:
        raise ValueError(f"high - low must be in 1..2**31, but got low={low}, high={high}")
    words_BN = bits(keys_B, math.prod(shape), stream=stream).to(torch.int64) & 0xFFFFFFFF
    return (words_BN.mul_(high - low) >> 32).add_(low).view(-1, *shape)


def _unit(words: Tensor, num_bits: int) -> Tensor:
    """(m + 1/2) 2**-num_bits: exact in float32 up to 23 bits, symmetric, neither end of the interval is met."""
    step = 2.0**-num_bits
    return words.to(torch.float32).mul_(step).add_(step / 2)


def _xorshift(words: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """In place words ^ words >> shift, the shift logical."""
    torch.bitwise_right_shift(words, shift, out=scratch)
    return words.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))


def _mix_64(words_B: Tensor) -> Tensor:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014) in wrapping int64 arithmetic."""
    words_B = (words_B ^ _shift_right(words_B, 30, width=64)) * _signed(0xBF58476D1CE4E5B9, 64)
    words_B = (words_B ^ _shift_right(words_B, 27, width=64)) * _signed(0x94D049BB133111EB, 64)
    return words_B ^ _shift_right(words_B, 31, width=64)


def _shift_right(words: Tensor, shift: int, *, width: int) -> Tensor:
    """Logical right shift; torch's own repeats the sign."""
    return (words >> shift) & ((1 << (width - shift)) - 1)


def _low_word(keys_B: Tensor) -> Tensor:
    """The lower 32 bits as int32; the sign is set by arithmetic, since a narrowing cast is not defined everywhere."""
    low_B = keys_B & 0xFFFFFFFF
    return (low_B - ((low_B >> 31) << 32)).to(torch.int32)


def _signed(value: int, width: int) -> int:
    """The same bit pattern as a signed number of that width."""
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


@torch.compiler.assume_constant_result
def _digest(data: Stream) -> int:
    """64 bits of an integer or a text; the two kinds never meet."""
    text = f"{'i' if isinstance(data, int) else 's'}{data}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & _MASK_64
