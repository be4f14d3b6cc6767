"""Keyed Poisson counts: tables of the law itself, counts that follow it, alike for 8-bit and for any other rates."""

import numpy as np
import pytest
import torch
from scipy import stats

from noise import keyed
from noise.poisson import _tables, poisson
from tests.unit.noise import quality

_KEYS_B = keyed.image_keys(range(64), seed=0)

# A change of these changes shot noise in all studies: raise study's NUMERICS with it.
GOLDEN_COUNTS = [[2.0, 21.0, 44.0], [4.0, 15.0, 42.0]]


def test_golden_counts():
    rates = torch.tensor([3.0, 11.9, 40.0]).repeat(2, 1)
    assert poisson(rates, _KEYS_B[:2], max_rate=60, stream="golden").tolist() == GOLDEN_COUNTS


@pytest.mark.parametrize("max_rate", [3.0, 12.0, 60.0, 500.0])
def test_the_tables_hold_the_law(max_rate):
    for table, step in zip(
        _tables(max_rate, torch.device("cpu")), (max_rate / 255, max_rate / 255 / 2048), strict=True
    ):
        num_counts, unit = 1 << table.num_bits, 1 << (31 - table.num_bits)
        entries = table.entries.view(-1, num_counts).numpy().astype(np.int64)
        stay, other = entries >> table.num_bits, entries & (num_counts - 1)
        other_share = np.zeros_like(entries)
        for row in range(len(entries)):
            np.add.at(other_share[row], other[row], unit - stay[row])
        chances = (stay + other_share) / 2**31
        rates = np.arange(len(entries))[:, None] * step
        assert np.abs(chances - stats.poisson.pmf(np.arange(num_counts), rates)).max() < 3e-9


def test_the_batch_does_not_matter():
    rates = torch.linspace(0, 60, 640).view(64, 2, 5)
    together = poisson(rates, _KEYS_B, max_rate=60, stream="s")
    assert together.shape == rates.shape
    assert torch.equal(poisson(rates.flip(0), _KEYS_B.flip(0), max_rate=60, stream="s").flip(0), together)
    assert poisson(rates[:0], _KEYS_B[:0], max_rate=60, stream="s").shape == (0, 2, 5)


def test_rates_of_8_bits_do_not_depend_on_their_neighbours():
    rates = torch.arange(256.0).div(255).mul(12).expand(64, 256).contiguous()
    alone = poisson(rates, _KEYS_B, max_rate=12, stream="s")
    rates[:, 7] += 0.01  # now the second table is looked up as well
    beside = poisson(rates, _KEYS_B, max_rate=12, stream="s")
    assert torch.equal(alone[:, 8:], beside[:, 8:])


@pytest.mark.parametrize("rate", [0.02, 0.7, 3.0, 5.0, 11.9, 12.1, 25.0, 31.0, 60.0, 100.0, 250.0, 500.0])
def test_poisson_follows_its_law(rate):
    count = 200_000
    keys_B = keyed.image_keys(range(20), seed=round(rate * 100))
    values = poisson(torch.full((20, count // 20), rate), keys_B, max_rate=500, stream=0).double().numpy()
    assert values.mean() == pytest.approx(rate, abs=5 * (rate / count) ** 0.5)
    assert values.var() == pytest.approx(rate, abs=5 * ((2 * rate**2 + rate) / count) ** 0.5)
    edges = np.unique(stats.poisson.ppf(np.linspace(0.002, 0.998, 40), rate))
    cells = np.bincount(np.searchsorted(edges, values.ravel()), minlength=len(edges) + 1)
    expected = np.diff(np.concatenate([[0], stats.poisson.cdf(edges, rate), [1]])) * count
    assert stats.chisquare(cells, expected).pvalue > 1e-3


def test_poisson_mixes_rates_and_keeps_zero():
    rates = torch.linspace(0, 60, 61).repeat(64, 100).view(64, 100, 61)
    counts = poisson(rates, _KEYS_B, max_rate=60, stream=0).double()
    assert counts[..., 0].abs().max() == 0
    assert torch.equal(counts, counts.round())
    ratio = counts.mean((0, 1))[1:] / torch.arange(1, 61)
    assert ratio.sub(1).abs().max() < 0.05


@pytest.mark.parametrize("photons", [3, 12, 60, 100, 500])
def test_poisson_counts_of_neighbouring_pixels_and_images_are_independent(photons):
    keys_B = keyed.image_keys(range(100), seed=1)
    counts = poisson(torch.full((100, 2048), float(photons)), keys_B, max_rate=photons, stream=0)
    values_BN = counts.double().numpy()
    assert quality.is_fair(quality.serial(values_BN))
    assert quality.is_fair(quality.between(values_BN))
    assert quality.is_fair(quality.all_pairs(values_BN))


def test_what_is_no_rate_stays_inside_the_tables():
    counts = poisson(torch.tensor([[-3.0, 99.0, float("nan")]]), _KEYS_B[:1], max_rate=12, stream=0)
    assert counts[0, 0] == 0
    assert counts.isfinite().all()


@pytest.mark.parametrize("max_rate", [0.0, 5000.0])
def test_the_bound_of_the_rates_is_bounded(max_rate):
    with pytest.raises(ValueError, match=rf"max_rate must be above 0 and at most 4000, but got {max_rate:g}"):
        poisson(torch.ones(1, 2), _KEYS_B[:1], max_rate=max_rate, stream=0)
