"""Intervals and tests against closed forms, reference implementations and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats as sps

from analysis.stats import (
    Interval,
    crossed,
    crossed_difference,
    crossed_mean,
    from_counts,
    holm,
    mcnemar,
    mean_squares,
    p_value,
    seeds_needed,
    simultaneous,
    tost,
    verdict,
    wilson,
)


def simulated(rng, *, seeds, images, seed_sd, shared_I=None):
    """Crossed scores around 0: luck of the seed + ease of the image + their interaction."""
    ease_I = rng.normal(0, 1.0, images) if shared_I is None else shared_I + rng.normal(0, 0.3, images)
    return rng.normal(0, seed_sd, seeds)[:, None] + ease_I[None, :] + rng.normal(0, 0.5, (seeds, images))


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.05), (3, 0.15), (5, 0.05), (5, 0.15)])
def test_coverage_of_means_and_differences_is_near_nominal(seeds, seed_sd):
    rng, hits_mean, hits_difference, runs = np.random.default_rng(seeds), 0, 0, 500
    for _ in range(runs):
        shared_I = rng.normal(0, 1.0, 200)
        first = simulated(rng, seeds=seeds, images=200, seed_sd=seed_sd, shared_I=shared_I)
        second = simulated(rng, seeds=seeds, images=200, seed_sd=seed_sd, shared_I=shared_I)
        mean, difference = crossed([(1.0, first)]), crossed_difference(first, second)
        hits_mean += mean.low < 0 < mean.high
        hits_difference += difference.low < 0 < difference.high
    assert 0.90 <= hits_mean / runs <= 0.985
    assert 0.92 <= hits_difference / runs <= 0.99


def test_images_alone_would_not_cover():
    """The reason for the crossed interval: taking seeds for fixed is wrong far too often."""
    rng, hits, runs = np.random.default_rng(2), 0, 300
    for _ in range(runs):
        scores = simulated(rng, seeds=3, images=400, seed_sd=0.2)
        by_image = crossed([(1.0, scores.mean(0, keepdims=True))])
        hits += by_image.low < 0 < by_image.high
    assert hits / runs < 0.8


def test_simultaneous_intervals_cover_all_at_once():
    rng, single_hits, joint_hits, runs = np.random.default_rng(4), 0, 0, 60
    for _ in range(runs):
        shared_I = rng.normal(0, 1.0, 150)
        base, *others = (simulated(rng, seeds=4, images=150, seed_sd=0.1, shared_I=shared_I) for _ in range(5))
        pairs = simultaneous([[(1.0, other), (-1.0, base)] for other in others])
        single_hits += all(s.low < 0 < s.high for s, _ in pairs)
        joint_hits += all(j.low < 0 < j.high for _, j in pairs)
    assert joint_hits / runs >= 0.9
    assert single_hits < joint_hits


def test_two_way_mean_by_hand():
    scores = np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    squares = mean_squares(scores)
    assert squares.seeds == pytest.approx(4 * (0.125**2 + 0.125**2))
    assert squares.images == pytest.approx(2 * (0.375**2 * 2 + 0.625**2 + 0.125**2) / 3)
    total_ss = ((scores - scores.mean()) ** 2).sum()
    assert squares.rest == pytest.approx((total_ss - squares.seeds - squares.images * 3) / 3)
    found = crossed([(1.0, scores)])
    expected = (squares.images + max(squares.seeds - squares.rest, 0)) / 8
    assert found.se**2 == pytest.approx(expected)


def test_difference_without_seed_variance_is_the_paired_t():
    rng = np.random.default_rng(0)
    first, second = rng.random((1, 50)), rng.random((1, 50))
    found, paired = crossed_difference(first, second), sps.ttest_rel(first[0], second[0])
    low, high = paired.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert p_value(found) == pytest.approx(paired.pvalue)
    assert found.population == "networks"


def test_one_network_on_one_cell_gets_wilson():
    correct = np.array([[1.0] * 37 + [0.0] * 13])
    found, reference = crossed_mean(correct), sps.binomtest(37, 50).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    everything_right = crossed_mean(np.ones((3, 40)))
    assert everything_right.high == 1.0
    assert everything_right.low < 0.95
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        wilson(11, 10)


def test_counts_alone_give_a_wider_interval():
    rng = np.random.default_rng(1)
    scores = rng.binomial(10, 0.6, (3, 80)) / 10
    kept, counted = crossed_mean(scores), from_counts(scores.mean(1).tolist(), 80)
    assert counted.estimate == pytest.approx(kept.estimate)
    assert counted.high - counted.low > kept.high - kept.low


def test_arms_must_share_images():
    with pytest.raises(ValueError, match="must share their images"):
        crossed_difference(np.zeros((2, 5)), np.zeros((2, 6)))


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 8) == pytest.approx(min(1.0, 2 * sum(math.comb(11, k) for k in range(4)) / 2**11))


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def made(estimate, se, *, df=20.0, seeds=3, seed_share=0.8):
    half = float(sps.t.ppf(0.975, df)) * se
    return Interval(estimate, estimate - half, estimate + half, se, df, 500, seeds, "method", seed_share * se**2)


def test_tost_against_closed_form():
    found = tost(made(0.002, 0.003), margin=0.01)
    assert found.not_worse == pytest.approx(sps.t.sf(4.0, 20))
    assert found.equivalent == pytest.approx(sps.t.cdf(-8 / 3, 20))
    with pytest.raises(ValueError, match="margin must be positive"):
        tost(made(0.0, 0.1), margin=0.0)


def test_words_follow_the_interval():
    assert verdict(made(0.05, 0.01)) == "better"
    assert verdict(made(-0.05, 0.01)) == "worse"
    said = verdict(made(0.02, 0.012))
    assert said.startswith("not distinguishable with 3 seeds; about ")
    assert verdict(made(0.0, 0.01)) == "not distinguishable with 3 seeds"
    alone = Interval(0.05, 0.03, 0.07, 0.01, 99.0, 100, 1, "networks")
    assert verdict(alone) == "better (these networks only)"


def test_seeds_needed_grows_with_doubt_and_knows_when_images_are_short():
    few, many = (seeds_needed(made(size, 0.012, seed_share=0.95)) for size in (0.02, 0.01))
    assert few is not None
    assert many is not None
    assert 3 < few < many
    assert seeds_needed(made(0.001, 0.012, seed_share=0.0)) is None


def test_simultaneous_lies_between_single_and_bonferroni():
    rng = np.random.default_rng(3)
    shared_I = rng.normal(0, 1, 100)
    arms = [simulated(rng, seeds=3, images=100, seed_sd=0.1, shared_I=shared_I) for _ in range(4)]
    pairs = simultaneous([[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]])
    for single, joint in pairs:
        bonferroni = float(sps.t.ppf(1 - 0.05 / 6, single.df)) * single.se
        assert single.high <= joint.high <= single.estimate + bonferroni + 1e-12
    assert pairs == simultaneous([[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]])


def test_arms_that_are_nearly_the_same_network_have_an_interval_that_says_something() -> None:
    """Seed components that are small differences of large mean squares once gave an interval of millions of points."""
    rng = np.random.default_rng(3)
    widths = []
    for _ in range(40):
        first_SI = (rng.random((3, 248)) < 0.2 + 0.002 * rng.standard_normal((3, 1))).astype(float)
        second_SI = first_SI.copy()
        second_SI[0, :2] = 1 - second_SI[0, :2]
        found = crossed_difference(first_SI, second_SI)
        assert found.df >= 2
        widths.append(found.high - found.low)
    assert max(widths) < 0.5
