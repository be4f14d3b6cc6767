"""What a difference reads as, and how many seeds would decide it."""

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.power import TTestPower

from analysis.stats import Interval, crossed_difference, tost
from analysis.wording import seeds_needed, wording


def made(estimate, se, *, df=20.0, seeds=5, seed_share=0.8, population="method"):
    half = float(sps.t.ppf(0.975, df)) * se
    return Interval(estimate, estimate - half, estimate + half, se, df, 500, seeds, population, seed_share * se**2)


@pytest.mark.parametrize(
    ("interval", "margin", "kind", "text"),
    [
        (made(0.05, 0.01), None, "better", "better"),
        (made(0.05, 0.01), 0.01, "better", "better"),
        (made(-0.05, 0.01), None, "worse", "worse"),
        (made(-0.05, 0.01), 0.01, "worse", "worse"),
        (made(0.0, 0.002), 0.01, "keeps", "keeps it (loses less than 1 point)"),
        (made(-0.001, 0.002), 0.03, "keeps", "keeps it (loses less than 3 points)"),
        (made(-0.006, 0.001), 0.01, "keeps", "keeps it (loses something, but less than 1 point)"),
        (made(-0.006, 0.001), None, "worse", "worse"),
        (made(0.05, 0.01, seeds=1, population="networks"), None, "better", "better (these networks only)"),
        (
            made(0.0, 0.002, seeds=1, population="networks"), 0.01, "keeps",
            "keeps it (loses less than 1 point; these networks only)",
        ),
        (made(0.05, 0.01, seeds=3), None, "better", "better (3 seeds, few for a claim)"),
        (made(0.05, 0.01, seeds=4), None, "better", "better (4 seeds, few for a claim)"),
        (made(-0.05, 0.01, seeds=2), 0.01, "worse", "worse (2 seeds, few for a claim)"),
        (
            made(0.0, 0.002, seeds=3), 0.01, "keeps",
            "keeps it (loses less than 1 point; 3 seeds, few for a claim)",
        ),
        (made(0.0, 0.01, seeds=3), None, "not distinguishable", "not distinguishable with 3 seeds"),
        (
            made(0.0, 0.1, seeds=1, population="networks"), 0.01, "not distinguishable",
            "not distinguishable with 1 seed",
        ),
    ],
)  # fmt: skip
def test_words_follow_the_interval(interval, margin, kind, text) -> None:
    found = wording(interval, margin=margin)
    assert (found.kind, found.text) == (kind, text)


def test_what_is_open_says_how_many_seeds_would_decide_it() -> None:
    found = wording(made(0.02, 0.012, seeds=3))
    assert found.seeds_needed is not None
    assert found.text == f"not distinguishable with 3 seeds; about {found.seeds_needed} would be needed"
    kept = wording(made(0.0, 0.006), margin=0.01)
    assert kept.seeds_needed is not None, "leaving 0 is hopeless, staying above the margin is not"
    assert wording(made(0.0, 0.006)).seeds_needed is None


def test_a_margin_must_be_stated_as_a_loss() -> None:
    with pytest.raises(ValueError, match="margin must be positive, but got 0"):
        wording(made(0.0, 0.1), margin=0.0)


def test_keeps_is_half_of_tost_at_the_intervals_error() -> None:
    for estimate in np.linspace(-0.02, 0.01, 31):
        interval = made(float(estimate), 0.004)
        keeps = wording(interval, margin=0.01).kind in ("keeps", "better")
        assert keeps == (tost(interval, margin=0.01).not_worse < 0.025)


def test_seeds_needed_grows_with_doubt_and_knows_when_images_are_short() -> None:
    few, many = (seeds_needed(made(size, 0.012, seeds=3, seed_share=0.95)) for size in (0.025, 0.015))
    assert few is not None
    assert many is not None
    assert 3 < few < many
    assert seeds_needed(made(0.001, 0.012, seed_share=0.0)) is None


def test_seeds_needed_is_the_sample_size_of_a_t_test_where_only_seeds_vary() -> None:
    """statsmodels' exact power of a one-sample t test, by the noncentral t; ours leaves the other tail out."""
    size, sd, seeds = 0.02, 0.025, 4
    interval = made(size, sd / np.sqrt(seeds), df=seeds - 1.0, seeds=seeds, seed_share=1.0)
    exact = TTestPower().solve_power(effect_size=size / sd, alpha=0.05, power=0.8)
    assert seeds_needed(interval) == pytest.approx(exact, abs=1.5)


def test_seeds_named_are_enough_as_often_as_said() -> None:
    """Studies with as many seeds as a first study asks for tell the difference in about 80 % of cases."""
    rng, runs = np.random.default_rng(5), 150
    variance = 2 * 0.06**2 / 4 + 2 * 0.3**2 / (4 * 300)
    interval = made(0.06, np.sqrt(variance), df=6.0, seeds=4, seed_share=1.0)
    count = seeds_needed(interval)
    assert count is not None
    told = 0
    for _ in range(runs):
        ease_I = rng.normal(0, 1, 300)
        first, second = (
            gain + ease_I + rng.normal(0, 0.06, (count, 1)) + rng.normal(0, 0.3, (count, 300)) for gain in (0.06, 0.0)
        )
        told += crossed_difference(first, second).low > 0
    assert 0.68 <= told / runs <= 0.92
