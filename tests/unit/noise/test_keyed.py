"""The keyed random tensors: pure functions of key, stream and position, with the distributions they promise."""

import numpy as np
import pytest
import torch
from scipy import stats

from noise import keyed
from tests.unit.noise import quality

_KEYS_B = keyed.image_keys(range(64), seed=0)

# A change of these changes all noise of all studies: raise study's NUMERICS with it.
GOLDEN_KEYS = [3332257730781292056, 4783235255869541646, 8482739916379333048, 8128606796798565977]
GOLDEN_BITS = [[843373769, 1754483435, 1150974035], [-67868017, 1731620413, 1012581744]]


def test_golden_keys_and_bits():
    keys_B = keyed.image_keys([0, 1, -5, 2**62], seed=7, salt="golden")
    assert keys_B.tolist() == GOLDEN_KEYS
    assert keyed.bits(keys_B[:2], 3, stream="field").tolist() == GOLDEN_BITS


def test_bits_equal_the_same_mixing_in_plain_integers():
    key = 0x0123456789ABCDEF
    folded = keyed.fold_in(torch.tensor([key]), 3).item() & (2**64 - 1)
    words = keyed.bits(torch.tensor([key]), 1000, stream=3)[0]
    for index in (0, 1, 2, 999):
        assert words[index].item() & 0xFFFFFFFF == _word(folded, index)


def _word(key: int, index: int) -> int:
    word = index * 0x9E3779B9 & 0xFFFFFFFF
    word = (word ^ word >> 16) * 0x21F0AAAD & 0xFFFFFFFF
    word = (word ^ word >> 15) * 0x735A2D97 & 0xFFFFFFFF
    word ^= key & 0xFFFFFFFF
    word = ((word ^ word >> 16) * 0x7FEB352D + (key >> 32)) & 0xFFFFFFFF
    word = (word ^ word >> 15) * 0x846CA68B & 0xFFFFFFFF
    return word ^ word >> 16


def test_keys_depend_on_id_seed_and_salt_only():
    keys_B = keyed.image_keys(torch.tensor([5, 3, 9]), seed=1, salt="a")
    assert keyed.image_keys([9, 5], seed=1, salt="a").tolist() == [keys_B[2].item(), keys_B[0].item()]
    others = [keyed.image_keys([5], seed=seed, salt=salt).item() for seed, salt in ((1, "b"), (2, "a"), (-1, "a"))]
    assert len({keys_B[0].item(), *others}) == 4
    assert keyed.image_keys([], seed=0).shape == (0,)


def test_integer_and_text_streams_do_not_meet():
    assert not torch.equal(keyed.bits(_KEYS_B, 4, stream=1), keyed.bits(_KEYS_B, 4, stream="1"))


def test_a_million_keys_are_distinct():
    assert keyed.image_keys(torch.arange(1_000_000), seed=0).unique().numel() == 1_000_000


@pytest.mark.parametrize(
    ("draw", "shape"),
    [
        (lambda keys: keyed.uniform(keys, (3, 9, 7), stream="s"), (3, 9, 7)),
        (lambda keys: keyed.normal(keys, (3, 9, 7), stream="s"), (3, 9, 7)),
        (lambda keys: keyed.normal(keys, (), stream="s"), ()),
        (lambda keys: keyed.integers(keys, (5,), stream="s", high=9), (5,)),
    ],
)
def test_the_batch_does_not_matter(draw, shape):
    together = draw(_KEYS_B)
    assert together.shape == (64, *shape)
    assert torch.equal(draw(_KEYS_B.flip(0)).flip(0), together)
    assert torch.equal(torch.cat([draw(_KEYS_B[:1]), draw(_KEYS_B[1:40]), draw(_KEYS_B[40:])]), together)
    assert draw(_KEYS_B[:0]).shape == (0, *shape)


def test_a_word_does_not_depend_on_the_count():
    assert torch.equal(keyed.bits(_KEYS_B, 1000, stream=0)[:, :17], keyed.bits(_KEYS_B, 17, stream=0))


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = keyed.normal(_KEYS_B, (50,), stream=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(keyed.normal(_KEYS_B, (50,), stream=0), first)


def test_uniform_is_flat_and_open():
    values = keyed.uniform(_KEYS_B, (20_000,), stream="u").numpy()
    assert values.min() > 0
    assert values.max() < 1
    counts = np.histogram(values, bins=1024, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.chisquare(np.histogram(values[:, ::7], bins=256, range=(0, 1))[0]).pvalue > 1e-3


def test_every_bit_is_fair_and_neighbours_are_independent():
    words = keyed.bits(_KEYS_B, 2_000, stream="b").flatten()
    ones = torch.stack([(words >> bit) & 1 for bit in range(32)]).double()
    limit = 5 / words.numel() ** 0.5
    assert (2 * ones.mean(1) - 1).abs().max() < limit
    between_bits = torch.corrcoef(ones).fill_diagonal_(0)
    assert between_bits.abs().max() < limit
    for lag in (1, 2, 64, 2_000):
        signs = 2 * ones - 1
        assert (signs[:, lag:] * signs[:, :-lag]).mean(1).abs().max() < 1.1 * limit


def test_flipping_any_bit_of_the_key_changes_half_of_the_bits():
    words = keyed.bits(_KEYS_B, 256, stream=0)
    for bit in range(64):
        flipped_B = _KEYS_B ^ (-(2**63) if bit == 63 else 1 << bit)
        changed = words ^ keyed.bits(flipped_B, 256, stream=0)
        share = torch.stack([(changed >> b) & 1 for b in range(32)]).double().mean()
        assert share.item() == pytest.approx(0.5, abs=0.005)


def test_pairs_of_neighbouring_images_fill_the_square_evenly():
    values = keyed.uniform(keyed.image_keys(range(2000), seed=0), (300,), stream=0).numpy()
    for first, second in ((values[:-1], values[1:]), (values[:, :-1], values[:, 1:])):
        counts = np.histogram2d(first.ravel(), second.ravel(), bins=32, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_normal_is_normal_far_into_its_tails():
    values = keyed.normal(_KEYS_B, (30_001,), stream="n").double().flatten().numpy()
    assert stats.kstest(values[:200_000], "norm").pvalue > 1e-3
    for edge in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(edge) * len(values)
        assert abs((np.abs(values) > edge).sum() - expected) < 5 * expected**0.5
    assert stats.kurtosis(values) == pytest.approx(0, abs=5 * (24 / len(values)) ** 0.5)


@pytest.mark.parametrize("other", [{"seed": 1}, {"salt": "x"}, {"stream": "other"}])
def test_seeds_salts_and_streams_are_independent(other):
    first = keyed.normal(_KEYS_B, (5000,), stream="n").flatten()
    keys_B = keyed.image_keys(range(64), seed=other.get("seed", 0), salt=other.get("salt", ""))
    second = keyed.normal(keys_B, (5000,), stream=other.get("stream", "n")).flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 5 / first.numel() ** 0.5


def test_integers_are_even_and_in_range():
    values = keyed.integers(_KEYS_B, (5000,), stream="i", low=-3, high=8).numpy()
    assert stats.chisquare(np.unique(values, return_counts=True)[1]).pvalue > 1e-3
    assert (values.min(), values.max()) == (-3, 7)


def test_uniform_takes_ends_and_dtype():
    values = keyed.uniform(_KEYS_B, (500,), stream=0, low=-2, high=3, dtype=torch.bfloat16)
    assert values.dtype == torch.bfloat16
    assert values.min() < -1.9
    assert values.max() > 2.9


def _fields(make, *, seeds: bool = False):
    """Uniform values (100, 3, 32, 32) of neighbouring ids under one seed, or of one id under neighbouring seeds."""
    if seeds:
        keys_B = torch.cat([keyed.image_keys([7], seed=seed) for seed in range(100)])
    else:
        keys_B = keyed.image_keys(range(100), seed=0)
    return make(keys_B, (3, 32, 32), stream="field").double().numpy()


def _shifted_counters(keys_B, shape, *, stream):
    """What a generator must not be: one sequence for all images, each beginning one step later than the last."""
    count = int(np.prod(shape))
    whole = keyed.uniform(keys_B[:1], (count + len(keys_B),), stream=stream)[0]
    return torch.stack([whole[i : i + count] for i in range(len(keys_B))]).view(-1, *shape)


def _lattice(keys_B, shape, *, stream):
    """What a generator must not be: evenly spread and no more random than a ruler."""
    steps = torch.arange(int(np.prod(shape)), dtype=torch.float64) * 0.6180339887498949
    offsets_B1 = keyed.uniform(keys_B, (1,), stream=stream, dtype=torch.float64)
    return ((steps + offsets_B1) % 1).view(-1, *shape)


def _smoothed(keys_B, shape, *, stream):
    """What a generator must not be: each value drawn a little towards the one before."""
    values = keyed.normal(keys_B, shape, stream=stream).double().flatten(1)
    leaning = values[:, 1:] + 0.03 * values[:, :-1]
    normal = torch.cat([values[:, :1], leaning / (1 + 0.03**2) ** 0.5], dim=1)
    return torch.special.ndtr(normal).view(-1, *shape)


def _statistics(fields: np.ndarray) -> dict[str, float]:
    flat_BN = fields.reshape(len(fields), -1)
    across_BN = fields.transpose(0, 1, 3, 2).reshape(len(fields), -1)
    return {
        "flat": quality.flatness(fields),
        "flat within images": stats.kstest([quality.flatness(one, num_cells=64) for one in flat_BN], "uniform").pvalue,
        "serial along rows": quality.serial(flat_BN),
        "serial down columns": quality.serial(across_BN),
        "serial of squares": quality.serial((flat_BN - 0.5) ** 2),
        "channels": quality.pair_flatness(fields[:, 0], fields[:, 1]),
        "neighbouring pixels": quality.pair_flatness(fields[..., 1:], fields[..., :-1]),
        "neighbouring images": quality.between(flat_BN),
        "all pairs of images": quality.all_pairs(flat_BN),
        "pairs of squares": quality.all_pairs((flat_BN - 0.5) ** 2),
    }


@pytest.mark.parametrize("seeds", [False, True], ids=["neighbouring ids", "neighbouring seeds"])
def test_fields_are_flat_and_uncorrelated_within_and_between_images(seeds):
    found = _statistics(_fields(keyed.uniform, seeds=seeds))
    assert all(quality.is_fair(p_value) for p_value in found.values()), found


@pytest.mark.parametrize("seeds", [False, True], ids=["neighbouring ids", "neighbouring seeds"])
def test_normal_fields_are_uncorrelated_within_and_between_images(seeds):
    def through_normal(*args, **kwargs):
        return torch.special.ndtr(keyed.normal(*args, **kwargs).double())

    found = _statistics(_fields(through_normal, seeds=seeds))
    assert all(quality.is_fair(p_value) for p_value in found.values()), found


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [(_shifted_counters, "neighbouring images"), (_lattice, "flat"), (_smoothed, "serial along rows")],
)
def test_these_statistics_catch_wrong_generators(wrong, caught_by):
    assert not quality.is_fair(_statistics(_fields(wrong))[caught_by])


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_of_the_words_is_even(shift):
    words = keyed.bits(_KEYS_B, 20_000, stream="bytes").numpy()
    assert quality.is_fair(stats.chisquare(np.bincount((words >> shift & 255).ravel(), minlength=256)).pvalue)


def test_normal_has_the_moments_of_the_normal_law():
    values = keyed.normal(_KEYS_B, (30_000,), stream="moments").double().numpy().ravel()
    # Variances of the sample moments of a standard normal law: Var z^k / n with E z^2k - (E z^k)^2.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        score = ((values**power).mean() - mean) / (variance / values.size) ** 0.5
        assert quality.is_fair(2 * stats.norm.sf(abs(score))), power
    for one in values.reshape(8, -1):
        assert quality.is_fair(stats.kstest(one, "norm").pvalue)
    assert 4.5 < np.abs(values).max() < 5.77  # 13 of 1.9 million lie beyond 4.5


def test_the_two_values_of_one_radius_are_independent():
    values = keyed.normal(_KEYS_B, (2, 15_000), stream="halves").double()
    for power in (1, 2):
        first, second = (values[:, half].pow(power).numpy() for half in (0, 1))
        score = (quality.standard(first) * quality.standard(second)).sum() / first.size**0.5
        assert quality.is_fair(2 * stats.norm.sf(abs(score))), power
    uniform = torch.special.ndtr(values).numpy()
    assert quality.is_fair(quality.pair_flatness(uniform[:, 0], uniform[:, 1]))


def test_errors_name_rule_value_and_way_out():
    with pytest.raises(ValueError, match=r"ids must be .* integers, but got torch.float32 of shape \(2,\); give one"):
        keyed.image_keys(torch.tensor([0.5, 1.0]), seed=0)
    with pytest.raises(ValueError, match=r"keys must be int64 .* got torch.int32 .*image_keys"):
        keyed.bits(torch.zeros(2, dtype=torch.int32), 3, stream=0)
    with pytest.raises(ValueError, match=r"high - low must be .* low=4, high=4"):
        keyed.integers(_KEYS_B, (1,), stream=0, low=4, high=4)
