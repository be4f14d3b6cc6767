"""Intervals and tests against closed forms, reference implementations and simulated coverage."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from analysis.stats import (
    Interval,
    _correlation,
    _pieces,
    crossed,
    crossed_difference,
    crossed_mean,
    from_counts,
    holm,
    mcnemar,
    mean_squares,
    p_value,
    simultaneous,
    tost,
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


@pytest.mark.parametrize("correct", [0.0, 1.0])
def test_counts_at_the_ends_have_a_width(correct):
    found, expected = from_counts([correct] * 3, 40), wilson(40 * correct, 40)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.high - found.low > 0.05


def test_arms_must_share_images():
    with pytest.raises(ValueError, match="must share their images"):
        crossed_difference(np.zeros((2, 5)), np.zeros((2, 6)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_image_has_a_mean_and_no_interval(seeds):
    scores = np.linspace(0.25, 0.75, seeds)[:, None]
    for found in (crossed_mean(scores), crossed_difference(scores, np.zeros((seeds, 1)))):
        assert found.estimate == pytest.approx(scores.mean())
        assert np.isnan([found.low, found.high, found.se, found.df]).all()
        assert (found.n_images, found.n_seeds) == (1, seeds)


def test_mcnemar_is_the_exact_binomial_where_pairs_are_few():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 8) == pytest.approx(min(1.0, 2 * sum(math.comb(11, k) for k in range(4)) / 2**11))
    for pair in ((3, 8), (0, 24), (12, 12)):
        assert mcnemar(*pair) == pytest.approx(reference_mcnemar([[9, pair[0]], [pair[1], 9]], exact=True).pvalue)


def test_mcnemar_is_the_mid_p_where_pairs_are_many():
    """Fagerland, Lydersen & Laake 2013, table 1: 1 and 7 discordant pairs, exact 0.0703, mid-p 0.0391."""
    assert mcnemar(1, 7, mid_p=False) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(1, 7, mid_p=True) == pytest.approx(0.0391, abs=5e-5)
    by_hand = 2 * sps.binom.cdf(20, 60, 0.5) - sps.binom.pmf(20, 60, 0.5)
    assert mcnemar(20, 40) == pytest.approx(by_hand)
    assert mcnemar(40, 20) == pytest.approx(by_hand)
    assert mcnemar(30, 30) == 1.0


def test_mid_p_keeps_its_error():
    for total in (25, 40, 80):
        chance = sps.binom.pmf(np.arange(total + 1), total, 0.5)
        assert sum(p for k, p in enumerate(chance) if mcnemar(k, total - k) <= 0.05) <= 0.06


def test_holm_is_statsmodels():
    p_values = np.random.default_rng(0).random(12) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_mean_squares_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(8)
    scores = simulated(rng, seeds=4, images=12, seed_sd=0.3)
    frame = pd.DataFrame({"y": scores.ravel(), "seed": np.repeat(range(4), 12), "image": np.tile(range(12), 4)})
    table = anova_lm(ols("y ~ C(seed) + C(image)", frame).fit())
    expected = (table["sum_sq"] / table["df"]).to_numpy()
    assert mean_squares(scores) == pytest.approx(tuple(expected))


def test_the_difference_of_single_networks_against_a_margin_is_statsmodels_tost():
    rng = np.random.default_rng(9)
    first, second = rng.normal(0.003, 0.1, 200), rng.normal(0, 0.1, 200)
    p, upper, lower = ttost_paired(first, second, -0.03, 0.03)
    found = tost(crossed_difference(first[None], second[None]), margin=0.03)
    assert found.not_worse == pytest.approx(upper[1])
    assert found.equivalent == pytest.approx(p)
    assert max(upper[1], lower[1]) == pytest.approx(p)


def test_the_joint_border_is_that_of_correlated_normals_where_degrees_of_freedom_are_many():
    """Four contrasts against one arm, images only: scipy's multivariate normal at our border covers 95 %."""
    rng = np.random.default_rng(10)
    arms = [rng.normal(0, 1, (1, 4000)) for _ in range(5)]
    pairs = simultaneous([[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]])
    border = (pairs[0][1].high - pairs[0][1].estimate) / pairs[0][1].se
    joint = sps.multivariate_normal(np.zeros(4), np.full((4, 4), 0.5) + 0.5 * np.eye(4))
    inside = joint.cdf(np.full(4, border), lower_limit=np.full(4, -border))
    assert inside == pytest.approx(0.95, abs=0.006)


def test_few_seeds_and_many_images_have_a_t_each():
    """Banerjee's interval by hand; seeds that are all equal leave the images' t, images that are equal the seeds'."""
    rng = np.random.default_rng(11)
    scores = simulated(rng, seeds=3, images=200, seed_sd=0.2)
    found, squares = crossed([(1.0, scores)]), mean_squares(scores)
    seed_part, image_part = (squares.seeds - squares.rest) / 600, squares.images / 600
    half = math.sqrt(sps.t.ppf(0.975, 2) ** 2 * seed_part + sps.t.ppf(0.975, 199) ** 2 * image_part)
    assert found.high - found.estimate == pytest.approx(half)
    assert 2 < found.df < 199
    assert sps.t.ppf(0.975, found.df) * found.se == pytest.approx(half, rel=1e-4)
    level = np.arange(3)[:, None] + np.zeros((3, 50))
    reference = sps.ttest_1samp([0.0, 1.0, 2.0], 0).confidence_interval()
    only_seeds = crossed([(1.0, level)])
    assert (only_seeds.low, only_seeds.high) == pytest.approx((reference.low, reference.high))


def made(estimate, se, *, df=20.0, seeds=3, seed_share=0.8):
    half = float(sps.t.ppf(0.975, df)) * se
    return Interval(estimate, estimate - half, estimate + half, se, df, 500, seeds, "method", seed_share * se**2)


def test_tost_against_closed_form():
    found = tost(made(0.002, 0.003), margin=0.01)
    assert found.not_worse == pytest.approx(sps.t.sf(4.0, 20))
    assert found.equivalent == pytest.approx(sps.t.cdf(-8 / 3, 20))
    with pytest.raises(ValueError, match="margin must be positive"):
        tost(made(0.0, 0.1), margin=0.0)


def test_simultaneous_lies_between_single_and_bonferroni():
    rng = np.random.default_rng(3)
    shared_I = rng.normal(0, 1, 100)
    arms = [simulated(rng, seeds=3, images=100, seed_sd=0.1, shared_I=shared_I) for _ in range(4)]
    contrasts = [[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]]
    pairs = simultaneous(contrasts)
    for (single, joint), terms in zip(pairs, contrasts, strict=True):
        assert single.high <= joint.high <= crossed(terms, level=1 - 0.05 / 3).high + 1e-12
    assert pairs == simultaneous([[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]])


def test_the_order_of_contrasts_changes_no_interval() -> None:
    """Also where the first is of single networks, which say nothing of seeds, and the others of methods."""
    rng = np.random.default_rng(12)
    shared_I = rng.normal(0, 1, 120)
    arms = [simulated(rng, seeds=n, images=120, seed_sd=0.4, shared_I=shared_I) for n in (3, 1, 3, 4, 3)]
    contrasts = [[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]]
    given = simultaneous(contrasts, draws=4000)
    assert [single.population for single, _ in given] == ["networks", "method", "method", "method"]
    for order in ((1, 0, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)):
        assert simultaneous([contrasts[k] for k in order], draws=4000) == [given[k] for k in order]


def test_contrasts_of_methods_are_correlated_by_the_seeds_of_the_arm_that_they_share() -> None:
    rng = np.random.default_rng(13)
    arms = [simulated(rng, seeds=n, images=400, seed_sd=1.0, shared_I=np.zeros(400)) for n in (3, 1, 3, 3)]
    contrasts = [[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]]
    singles = [crossed(terms) for terms in contrasts]
    own = [_pieces([(1.0, arm)]).seeds.variance for arm in arms]
    found = _correlation(contrasts, singles)
    expected = own[0] / math.sqrt((own[0] + own[2]) * (own[0] + own[3]))
    assert found[1, 2] == pytest.approx(expected, abs=0.05)
    by_image = np.corrcoef([arm.mean(0) - arms[0].mean(0) for arm in arms[1:]])
    assert abs(found[0, 1]) < by_image[0, 1], "of single networks the seeds are no part"
    assert np.diag(found) == pytest.approx(1.0)


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
