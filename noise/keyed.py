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

import torch
from torch import Tensor

Stream = int | str

_MASK_64 = (1 << 64) - 1
_WEYL_64 = 0x9E3779B97F4A7C15
_HALF_STEP = 2.0**-24  # Half the distance of neighbouring uniforms, which stand at (m + 1/2) 2**-23.

# Above this many expected counts the expansion in powers of 1/sqrt(rate) replaces the summed distribution function.
_POISSON_SPLIT = 8.0
_POISSON_SUM_ALONE = 12.0  # Up to this bound the sum's further terms cost less than the expansion would.


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
    counter_N = torch.arange(count, dtype=torch.int32, device=keys_B.device).mul_(_signed(0x9E3779B9, 32))
    _xorshift_multiply(counter_N, 16, 0x21F0AAAD)
    _xorshift_multiply(counter_N, 15, 0x735A2D97)
    words_BN = counter_N ^ low_B1
    scratch_BN = torch.empty_like(words_BN)
    _xorshift_multiply(words_BN, 16, 0x7FEB352D, scratch_BN)
    words_BN.add_(high_B1)
    _xorshift_multiply(words_BN, 15, 0x846CA68B, scratch_BN)
    return _xorshift_multiply(words_BN, 16, 1, scratch_BN)


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
    unit = _unit(bits(keys_B, math.prod(shape), stream=stream)).view(-1, *shape)
    if (low, high) != (0.0, 1.0):
        unit = unit.mul_(high - low).add_(low)
    return unit.to(dtype)


def normal(keys_B: Tensor, shape: tuple[int, ...], *, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values by the Box-Muller transform, so that no quantile has to be looked up.

        z_1 = sqrt(-2 ln u_1) cos(2 pi u_2),   z_2 = sqrt(-2 ln u_1) sin(2 pi u_2);   |z| <= 5.77

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
    unit_BN = _unit(bits(keys_B, 2 * num_pairs, stream=stream))
    radius_BN = unit_BN[:, :num_pairs].log().mul_(-2.0).sqrt_()
    angle_BN = unit_BN[:, num_pairs:].mul(2.0 * math.pi)
    pair_BN = torch.cat([angle_BN.cos().mul_(radius_BN), angle_BN.sin_().mul_(radius_BN)], 1)
    return pair_BN[:, :count].reshape(-1, *shape).to(dtype)


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


def poisson(rates_BT: Tensor, keys_B: Tensor, *, max_rate: float, stream: Stream) -> Tensor:
    """Poisson counts with the given expected values, by inversion: X = min {k : P(X <= k) >= u}.

    One uniform u for each count. Up to 8 expected counts (12 where none is larger) the distribution function is summed;
    above, its inverse comes from the Cornish-Fisher expansion with w the normal quantile of u,

        X = floor(r + sqrt(r) w + 1/3 + w^2/6 - (w/36 + w^3/72) / sqrt(r) + (-8/405 + 7 w^2/810 + w^4/270) / r),

    since exp(-r) and a single-precision sum lose the distribution from about 30 expected counts on. At 8 counts the
    expansion is off by 2e-4 in total variation and by 2e-5 in the mean, and less above.

    Args:
        rates_BT: Expected counts, non-negative, at most `max_rate`, of shape (B, ...); values outside are clamped.
        keys_B: int64 keys of shape (B).
        max_rate: Bound of the rates, known on the host: it decides how many terms are summed.
        stream: Tells independent uses of one key apart.

    Returns:
        float32 tensor of whole numbers, shape of the rates; steps of the rates, so they carry no gradient.

    Source: M. Giles 2016, "Algorithm 955: approximation of the inverse Poisson cumulative distribution function",
        ACM TOMS 42(1), for the expansion. His correction terms for the far tail are left out.
    """
    shape = tuple(rates_BT.shape[1:])
    rates_BT = rates_BT.detach().to(torch.float32).clamp(0.0, max_rate)
    unit_BT = uniform(keys_B, shape, stream=stream)
    if max_rate <= _POISSON_SUM_ALONE:
        return _poisson_by_sum(rates_BT, unit_BT, max_rate)
    counts_BT = _poisson_by_sum(rates_BT.clamp(max=_POISSON_SPLIT), unit_BT, _POISSON_SPLIT)
    is_high_BT = torch.sub(rates_BT, _POISSON_SPLIT).sign_().clamp_(min=0.0)
    return counts_BT.lerp_(_poisson_by_expansion(rates_BT, unit_BT), is_high_BT)


def _poisson_by_sum(rates_BT: Tensor, unit_BT: Tensor, max_rate: float) -> Tensor:
    """Counts how many values of the distribution function lie below u; exact up to the rounding of u and the sum.

    The powers of the rate, times exp(-rate), stay below the largest float (12**36 exp(-12) is 4e33), so that a term
    costs one product. Signs are summed in place of comparisons, which run several times slower on a CPU.
    """
    power_BT = rates_BT.neg().exp_()
    total_BT = power_BT.clone()
    num_terms = _furthest_count(max_rate)
    signs_BT, sign_BT = torch.zeros_like(rates_BT), torch.empty_like(rates_BT)
    for count in range(1, num_terms + 1):
        signs_BT.add_(torch.sub(unit_BT, total_BT, out=sign_BT).sign_())
        power_BT.mul_(rates_BT)
        total_BT.add_(power_BT, alpha=1.0 / math.factorial(count))
    counts_BT = signs_BT.add_(num_terms).mul_(0.5)
    # Where the rounded sum stays below the largest u, every term was counted: bound by a tail of less than 1e-7.
    bound_BT = rates_BT.mul(3.0).add_(10.0).mul_(torch.clamp(rates_BT * 1e6, max=1.0))
    return torch.minimum(counts_BT, bound_BT).floor_()


def _furthest_count(rate: float) -> int:
    """A count that a Poisson variable of this rate exceeds with a chance below half a step of the uniforms."""
    count, term = 0, math.exp(-rate)
    tail = 1.0 - term
    while tail > _HALF_STEP / 2:
        count += 1
        term *= rate / count
        tail -= term
    return count


def _poisson_by_expansion(rates_BT: Tensor, unit_BT: Tensor) -> Tensor:
    rates_BT = rates_BT.clamp(min=_POISSON_SPLIT)
    w_BT = unit_BT.mul(2.0).sub_(1.0).erfinv_().mul_(math.sqrt(2.0))
    square_BT = w_BT * w_BT
    inverse_BT = rates_BT.rsqrt()
    # Horner in 1 / sqrt(r), the small terms first, so that the rounding is that of the last sum alone.
    total_BT = square_BT.mul(1.0 / 270.0).add_(7.0 / 810.0).mul_(square_BT).sub_(8.0 / 405.0).mul_(inverse_BT)
    total_BT.sub_(square_BT.mul(1.0 / 72.0).add_(1.0 / 36.0).mul_(w_BT)).mul_(inverse_BT)
    total_BT.add_(square_BT.mul_(1.0 / 6.0)).add_(1.0 / 3.0)
    return total_BT.add_(w_BT.mul_(rates_BT.sqrt())).add_(rates_BT).floor_().clamp_(min=0.0)


def _unit(words_BN: Tensor) -> Tensor:
    """(m + 1/2) 2**-23 of the upper 23 bits: exact in float32, never 0 or 1, symmetric about 1/2."""
    words_BN = words_BN.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF)
    return words_BN.to(torch.float32).mul_(2.0 * _HALF_STEP).add_(_HALF_STEP)


def _xorshift_multiply(words: Tensor, shift: int, factor: int, scratch: Tensor | None = None) -> Tensor:
    """In place words = (words ^ words >> shift) * factor modulo 2**32, the shift logical."""
    shifted = torch.bitwise_right_shift(words, shift, out=scratch) if scratch is not None else words >> shift
    words.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
    return words.mul_(_signed(factor, 32)) if factor != 1 else words


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
