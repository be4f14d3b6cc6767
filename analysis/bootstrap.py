"""The crossed ("pigeonhole") bootstrap of a weighted sum of arms' means: a check of the two-way random effects.

It assumes no distribution, and its interval is a percentile one: images are drawn anew for all arms together, and the
seeds of each arm for themselves.
Source: Owen 2007, Annals of Applied Statistics 1(2), 386-411 (the variance is never too small, up to terms of order one
by the number of images); McCullagh 2000, Bernoulli 6(2), 285-301 (no bootstrap of crossed effects is exact). With few
seeds a resampled spread is too small by (S - 1) / S, so at 3 seeds it covers less than it says: a check, not the rule.
Shapes: S seeds, I images, B resamples.
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
    r"""Percentile interval of a weighted sum of arms' means over common images.

    .. math:: \theta^*_b = \sum_g \frac{w_g}{S_g I} \sum_{s,i} v^{(g)}_{bs} u_{bi} y^{(g)}_{si}

    with v and u the numbers of times that a seed and an image were drawn.

    Args:
        terms: As `analysis.stats.crossed` takes them.
        seed: Of the draws; the same seed, the same interval.

    Raises:
        ValueError: Arms have different images, or there are fewer than 2 images or 2 resamples.
    """
    sizes = {scores_SI.shape[1] for _, scores_SI in terms}
    if len(sizes) != 1 or min(sizes) < 2 or resamples < 2:
        raise ValueError(
            f"arms must share 2 images or more, and resamples be 2 or more, but got {sorted(sizes)} images and "
            f"{resamples} resamples"
        )
    num_images, rng = sizes.pop(), np.random.default_rng(seed)
    scores = [np.asarray(scores_SI, dtype=float) for _, scores_SI in terms]
    step = max(1, _CHUNK // num_images)
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        images_BI = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=count)
        total_B = np.zeros(count)
        for (weight, _), scores_SI in zip(terms, scores, strict=True):
            num_seeds = len(scores_SI)
            seeds_BS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count)
            total_B += weight * ((images_BI @ scores_SI.T) * seeds_BS).sum(axis=1) / scores_SI.size
        parts.append(total_B)
    found_B = np.concatenate(parts)
    low, high = np.quantile(found_B, [(1 - level) / 2, (1 + level) / 2])
    estimate = float(sum(weight * scores_SI.mean() for (weight, _), scores_SI in zip(terms, scores, strict=True)))
    fewest = min(len(scores_SI) for scores_SI in scores)
    population: Population = "method" if fewest > 1 else "networks"
    se = float(found_B.std(ddof=1))
    return Interval(estimate, float(low), float(high), se, float("inf"), num_images, fewest, population)
