"""The crossed ("pigeonhole") bootstrap of a weighted sum of arms' means: a check of the two-way random effects.

It assumes no distribution, and its interval is a percentile one: images are drawn anew for all arms together, and the
seeds of each arm for themselves.
Source: Owen 2007, Annals of Applied Statistics 1(2), 386-411 (the variance is never too small, up to terms of order one
by the number of images); McCullagh 2000, Bernoulli 6(2), 285-301 (no bootstrap of crossed effects is exact). With few
seeds a resampled spread is too small by (S - 1) / S, so at 3 seeds it covers less than it says: a check, not the rule.
Shapes: S seeds, I images, A arms, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.stats import LEVEL, Interval, Population, Term

RESAMPLES = 1000
_CHUNK = 4_000_000
"""Image weights held at a time."""


def crossed_bootstrap(
    terms: Sequence[Term], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """`crossed_bootstraps` of one sum."""
    return crossed_bootstraps([terms], level=level, resamples=resamples, seed=seed)[0]


def crossed_bootstraps(
    contrasts: Sequence[Sequence[Term]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    r"""Percentile intervals of weighted sums of arms' means over common images, all from the same resamples.

    .. math:: \theta^*_b = \sum_g \frac{w_g}{S_g I} \sum_{s,i} v^{(g)}_{bs} u_{bi} y^{(g)}_{si}

    with v and u the numbers of times that a seed and an image were drawn. An arm that several sums have, recognised as
    the same array, is resampled once.

    Args:
        contrasts: Each as `analysis.stats.crossed` takes them.
        seed: Of the draws; the same seed, the same intervals.

    Raises:
        ValueError: Arms have different images, or there are fewer than 2 images or 2 resamples.
    """
    arms = {id(scores_SI): np.asarray(scores_SI, dtype=float) for terms in contrasts for _, scores_SI in terms}
    sizes = {scores_SI.shape[1] for scores_SI in arms.values()}
    if len(sizes) != 1 or min(sizes) < 2 or resamples < 2:
        raise ValueError(
            f"arms must share 2 images or more, and resamples be 2 or more, but got {sorted(sizes)} images and "
            f"{resamples} resamples"
        )
    mean_BA = _arm_means(list(arms.values()), resamples, np.random.default_rng(seed))
    places = {name: place for place, name in enumerate(arms)}
    found = []
    for terms in contrasts:
        found_B = sum(weight * mean_BA[:, places[id(scores_SI)]] for weight, scores_SI in terms)
        found.append(_interval_of(terms, np.asarray(found_B), level))
    return found


def _arm_means(arms: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The resampled means (B, A): the same images for all arms, each arm's seeds for themselves."""
    num_images, borders = arms[0].shape[1], np.cumsum([len(scores_SI) for scores_SI in arms])[:-1]
    all_IS = np.ascontiguousarray(np.concatenate(arms).T)  # seeds of all arms in one row
    step = max(1, _CHUNK // num_images)
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        by_network_BS = _drawn(rng, count, num_images) @ all_IS
        columns = [
            (part_BS * _drawn(rng, count, part_BS.shape[1])).sum(axis=1) / (part_BS.shape[1] * num_images)
            for part_BS in np.split(by_network_BS, borders, axis=1)
        ]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)


def _drawn(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """How often each of `size` was drawn in `size` draws with replacement, (count, size); faster than a multinomial."""
    taken = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
    return np.bincount(taken.ravel(), minlength=count * size).reshape(count, size).astype(float)


def _interval_of(terms: Sequence[Term], found_B: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(found_B, [(1 - level) / 2, (1 + level) / 2])
    estimate = float(sum(weight * np.mean(scores_SI) for weight, scores_SI in terms))
    fewest = min(len(scores_SI) for _, scores_SI in terms)
    population: Population = "method" if fewest > 1 else "networks"
    num_images, se = terms[0][1].shape[1], float(found_B.std(ddof=1))
    return Interval(estimate, float(low), float(high), se, float("inf"), num_images, fewest, population)
