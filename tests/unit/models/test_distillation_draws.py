"""Draws from keys: SplitMix64 by hand, none twice where there are enough, each as likely as the others."""

import pytest
import torch

from models.distillation.draws import integers, words

MASK = (1 << 64) - 1
WEYL = 0x9E3779B97F4A7C15


def mixed(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def test_words_are_splitmix64() -> None:
    keys = [0, 1, -1, 2**62, -(2**63)]
    for stream in (0, 1, 5):
        found = words(torch.tensor(keys), 4, stream=stream).tolist()
        for key, row in zip(keys, found, strict=True):
            start = mixed((mixed(key & MASK) + (stream + 1) * (WEYL - (1 << 64)) % (1 << 63)) & MASK)
            assert row == [mixed((start + count * WEYL) & MASK) >> 32 for count in range(1, 5)]


def test_known_output_of_splitmix64() -> None:
    assert mixed(WEYL) == 0xE220A8397B1DCDAF  # the published generator's first number from state 0


def test_a_word_depends_on_its_key_alone() -> None:
    keys_B = torch.arange(6)
    whole = integers(keys_B, 8, high_B1=torch.full((6, 1), 20), stream=0)
    assert torch.equal(whole[2:4], integers(keys_B[2:4], 8, high_B1=torch.full((2, 1), 20), stream=0))
    assert torch.equal(whole.flip(0), integers(keys_B.flip(0), 8, high_B1=torch.full((6, 1), 20), stream=0))
    assert not torch.equal(whole, integers(keys_B, 8, high_B1=torch.full((6, 1), 20), stream=7))
    assert len({tuple(row) for row in whole.tolist()}) == 6


@pytest.mark.parametrize(("count", "high"), [(8, 8), (8, 9), (8, 20), (5, 1000), (16384, 49500)])
def test_none_comes_twice_where_there_are_enough(count: int, high: int) -> None:
    found = integers(torch.arange(20), count, high_B1=torch.full((20, 1), high), stream=0)
    assert found.min() >= 0
    assert found.max() < high
    assert all(len(set(row)) == count for row in found.tolist())


@pytest.mark.parametrize(("count", "high"), [(4, 7), (4, 4), (9, 4), (3, 1)])
def test_each_is_as_likely(count: int, high: int) -> None:
    number = 6000
    found = integers(torch.arange(number), count, high_B1=torch.full((number, 1), high), stream=2)
    shares = torch.bincount(found.flatten(), minlength=high) / found.numel()
    assert len(shares) == high
    torch.testing.assert_close(shares, torch.full((high,), 1 / high), rtol=0, atol=0.012)


def test_intervals_may_differ_between_images() -> None:
    highs = torch.tensor([[1], [3], [50]])
    found = integers(torch.tensor([7, 7, 7]), 5, high_B1=highs, stream=0)
    for row, high in enumerate(highs):
        assert torch.equal(found[row : row + 1], integers(torch.tensor([7]), 5, high_B1=high[None], stream=0))


def test_shapes_alone_can_be_drawn() -> None:
    keys_B = torch.zeros(3, dtype=torch.int64, device="meta")
    assert integers(keys_B, 4, high_B1=keys_B[:, None], stream=0).shape == (3, 4)
