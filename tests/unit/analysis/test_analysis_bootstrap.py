"""The crossed bootstrap against its own definition, and against the two-way random effects that it checks."""

import numpy as np
import pytest

from analysis import bootstrap
from analysis.bootstrap import RESAMPLES, crossed_bootstrap, crossed_bootstraps
from analysis.stats import crossed_difference


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
    scores = made(rng, 3, 100, seed_sd=0.02)
    assert crossed_bootstrap([(1.0, scores)], seed=4) == crossed_bootstrap([(1.0, scores)], seed=4)
    paired = crossed_bootstrap([(1.0, scores), (-1.0, scores[::-1] - 0.2)])
    strangers = scores[::-1, rng.permutation(100)]  # other images in each place: as if drawn for each arm alone
    independent = crossed_bootstrap([(1.0, scores), (-1.0, strangers - 0.2)])
    assert paired.estimate == pytest.approx(independent.estimate)
    assert paired.high - paired.low < 0.6 * (independent.high - independent.low)
    with pytest.raises(ValueError, match="must share 2 images or more"):
        crossed_bootstrap([(1.0, scores), (-1.0, scores[:, :50])])


def test_a_family_of_contrasts_takes_one_set_of_resamples(monkeypatch) -> None:
    """The same intervals as one by one, up to the draws, and images drawn once however many arms there are."""
    rng, drawn = np.random.default_rng(4), []
    shared_I = rng.normal(0, 1, 200)
    arms = [made(rng, seeds, 200, shared_I=shared_I) for seeds in (5, 4, 6)]
    contrasts = [[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]]
    alone = [crossed_bootstrap(terms, resamples=4000, seed=9) for terms in contrasts]
    before = bootstrap._drawn
    monkeypatch.setattr(bootstrap, "_drawn", lambda *given: drawn.append(given[1:]) or before(*given))
    together = crossed_bootstraps(contrasts, resamples=4000)
    for one, other in zip(together, alone, strict=True):
        assert one.estimate == other.estimate
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.1 * (other.high - other.low))
        assert (one.n_seeds, one.population) == (other.n_seeds, "method")
    assert [size for _, size in drawn].count(200) == 1
    assert sorted(size for _, size in drawn) == [4, 5, 6, 200]
    same = crossed_bootstraps([[(1.0, arms[0]), (-1.0, arms[0])]], resamples=50)[0]
    assert (same.low, same.high) == (0.0, 0.0)


def test_resamples_in_parts_are_as_many_as_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "_CHUNK", 3000)
    scores = made(np.random.default_rng(5), 2, 200)
    sizes, before = [], bootstrap._drawn
    monkeypatch.setattr(bootstrap, "_drawn", lambda *given: sizes.append(given[1:]) or before(*given))
    crossed_bootstrap([(1.0, scores)])
    assert sum(count for count, size in sizes if size == 200) == RESAMPLES
    assert max(count for count, _ in sizes) == 15
