"""The crossed bootstrap against its own definition, and against the two-way random effects that it checks."""

import numpy as np
import pytest

from analysis.bootstrap import crossed_bootstrap
from analysis.stats import crossed, crossed_difference


def made(rng, seeds, images, *, seed_sd=0.1, shared_I=None):
    ease_I = rng.normal(0, 1, images) if shared_I is None else shared_I
    return rng.normal(0, seed_sd, (seeds, 1)) + ease_I + rng.normal(0, 0.5, (seeds, images))


def test_one_seed_is_the_bootstrap_of_images() -> None:
    rng = np.random.default_rng(0)
    scores = made(rng, 1, 400)
    found = crossed_bootstrap([(1.0, scores)], resamples=4000)
    assert found.estimate == pytest.approx(scores.mean())
    assert found.se == pytest.approx(scores.std() / 20, rel=0.05)
    assert found.population == "networks"


def test_its_variance_is_owens() -> None:
    """Pigeonhole: each part once, the interaction about three times over (here by the exact expression)."""
    rng = np.random.default_rng(1)
    scores = made(rng, 6, 80, seed_sd=0.2)
    centred = scores - scores.mean()
    seeds, images = centred.mean(1).var() / 6, centred.mean(0).var() / 80
    both = ((centred - centred.mean(1, keepdims=True) - centred.mean(0)) ** 2).mean() / 480
    expected = seeds + images + both
    assert crossed_bootstrap([(1.0, scores)], resamples=6000).se ** 2 == pytest.approx(expected, rel=0.1)


def test_it_agrees_with_the_random_effects_where_seeds_are_many() -> None:
    rng = np.random.default_rng(2)
    shared_I = rng.normal(0, 1, 300)
    first, second = (made(rng, 20, 300, shared_I=shared_I) for _ in range(2))
    ours, check = crossed_difference(first, second), crossed_bootstrap([(1.0, first), (-1.0, second)], resamples=3000)
    assert check.estimate == pytest.approx(ours.estimate)
    assert check.high - check.low == pytest.approx(ours.high - ours.low, rel=0.15)


def test_draws_follow_their_seed_and_pairing_by_image_counts() -> None:
    rng = np.random.default_rng(3)
    scores = made(rng, 3, 100)
    assert crossed_bootstrap([(1.0, scores)], seed=4) == crossed_bootstrap([(1.0, scores)], seed=4)
    shifted = crossed_bootstrap([(1.0, scores), (-1.0, scores[::-1] - 0.2)])
    assert shifted.high - shifted.low < 0.6 * (crossed([(1.0, scores)]).high - crossed([(1.0, scores)]).low) + 1
    with pytest.raises(ValueError, match="must share 2 images or more"):
        crossed_bootstrap([(1.0, scores), (-1.0, scores[:, :50])])
