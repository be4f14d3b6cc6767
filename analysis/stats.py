"""Intervals and tests for accuracies measured on the same images under several training seeds.

Seeds and images are crossed: every network sees the same images, so both are random effects. An arm is a matrix
scores_SI of shape (seeds, images) with values in [0, 1]: the share of an image's noisy versions that a network got
right (cells of one image are averaged first, since they are not independent). With one seed there is nothing to learn
about other seeds, and the interval is one for these networks only.
Source: Satterthwaite 1946, Biometrics Bulletin 2(6), 110-114 (degrees of freedom); Searle, Casella & McCulloch 1992,
Variance Components, chapter 4 (crossed random effects, mean squares).
Shapes: S seeds, I images, K contrasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats as sps

Population = Literal["method", "networks"]
Term = tuple[float, np.ndarray]
"""A weight and an arm's scores_SI."""

LEVEL = 0.95
NUM_DRAWS = 20_000
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        n_images: images behind it (clusters, not image x cell pairs).
        n_seeds: seeds of the arm that has fewest.
        population: "method": seeds and images random; "networks": these trained networks, images random.
        seed_variance: the part of se^2 that more seeds would shrink; 0 for "networks".
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float
    n_images: int
    n_seeds: int
    population: Population
    seed_variance: float = 0.0

    def clipped(self, lower: float = 0.0, upper: float = 1.0) -> Interval:
        """The interval cut at the bounds of what it estimates."""
        return replace(self, low=max(lower, self.low), high=min(upper, self.high))


class MeanSquares(NamedTuple):
    """Mean squares of a crossed layout without replication."""

    seeds: float
    images: float
    rest: float


def mean_squares(scores_SI: np.ndarray) -> MeanSquares:
    """Mean squares between seeds, between images and of the rest (interaction and error); needs 2 seeds, 2 images."""
    num_seeds, num_images = scores_SI.shape
    total = scores_SI.mean()
    by_seed_S, by_image_I = scores_SI.mean(1), scores_SI.mean(0)
    rest_SI = scores_SI - by_seed_S[:, None] - by_image_I[None, :] + total
    return MeanSquares(
        seeds=float(num_images * ((by_seed_S - total) ** 2).sum() / (num_seeds - 1)),
        images=float(num_seeds * ((by_image_I - total) ** 2).sum() / (num_images - 1)),
        rest=float((rest_SI**2).sum() / ((num_seeds - 1) * (num_images - 1))),
    )


def crossed(terms: Sequence[Term], *, level: float = LEVEL) -> Interval:
    r"""A weighted sum of arms' means over common images, two-way random effects, Satterthwaite degrees of freedom.

    .. math:: \widehat{Var} = \sum_g w_g^2 \frac{(MS_{seed,g} - MS_{rest,g})^+}{S_g I}
        + \frac{1}{I} Var_i\Big(\sum_g w_g \bar y_{g \cdot i}\Big)

    Where a seed component is a small difference of two large mean squares, Satterthwaite's degrees of freedom fall
    towards 0 and the interval grows past all bounds; they are held at the fewest seeds (or the images, if these are
    fewer) less one, those of a t interval over seeds.

    One term of weight 1 is a mean, two of 1 and -1 a difference paired by image. Seeds are not paired: arms that share
    seed numbers are treated as independent: too wide an interval where they go up and down together (the same order of
    images), too narrow a one where one goes down as the other goes up.

    Raises:
        ValueError: arms have different images, or there are fewer than 2 images.
    """
    sizes = {scores_SI.shape[1] for _, scores_SI in terms}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"arms must share their images, 2 or more, but have {sorted(sizes)} images")
    num_images, num_seeds = sizes.pop(), _fewest_seeds(terms)
    by_image_I = _by_image(terms)
    image_variance = float(by_image_I.var(ddof=1)) / num_images
    components = [(image_variance, num_images - 1)]
    seed_variance = 0.0
    for weight, scores_SI in terms if num_seeds > 1 else ():
        part, squares = _seed_part(weight, scores_SI)
        seed_variance += part
        if part > 0:
            count = scores_SI.shape[0]
            scale = weight**2 / (count * num_images)
            components += [
                (scale * squares.seeds, count - 1),
                (scale * squares.rest, (count - 1) * (num_images - 1)),
            ]
    variance = image_variance + seed_variance
    spread = sum(value**2 / df for value, df in components)
    df = variance**2 / spread if spread > 0 else float(num_images - 1)
    df = max(df, float(min(num_seeds, num_images) - 1)) if num_seeds > 1 else df
    estimate, se = float(by_image_I.mean()), math.sqrt(variance)
    half = float(sps.t.ppf(0.5 + level / 2, df)) * se
    population: Population = "method" if num_seeds > 1 else "networks"
    return Interval(
        estimate, estimate - half, estimate + half, se, df, num_images, num_seeds, population, seed_variance
    )


def _fewest_seeds(terms: Sequence[Term]) -> int:
    return min(scores_SI.shape[0] for _, scores_SI in terms)


def _by_image(terms: Sequence[Term]) -> np.ndarray:
    return np.sum([weight * scores_SI.mean(0) for weight, scores_SI in terms], axis=0)


def _seed_part(weight: float, scores_SI: np.ndarray) -> tuple[float, MeanSquares]:
    squares = mean_squares(scores_SI)
    return weight**2 * max(squares.seeds - squares.rest, 0.0) / scores_SI.size, squares


def crossed_mean(scores_SI: np.ndarray, *, level: float = LEVEL) -> Interval:
    """An arm's mean accuracy. One network on one cell, or scores without any spread, get Wilson's interval."""
    interval = crossed([(1.0, scores_SI)], level=level)
    binary = scores_SI.shape[0] == 1 and bool(np.isin(scores_SI, (0.0, 1.0)).all())
    if binary or interval.se == 0.0:
        exact = wilson(round(float(scores_SI.mean(0).sum())), scores_SI.shape[1], level=level)
        return replace(interval, low=exact.low, high=exact.high, se=exact.se)
    return interval.clipped()


def crossed_difference(scores_SI: np.ndarray, other_SI: np.ndarray, *, level: float = LEVEL) -> Interval:
    """First minus other, paired by image and its keyed noise."""
    return crossed([(1.0, scores_SI), (-1.0, other_SI)], level=level)


def from_counts(accuracies_S: Sequence[float], n_images: int, *, level: float = LEVEL) -> Interval:
    """An arm's mean when only its cells were kept, not its predictions: wider than `crossed_mean`, never narrower.

    An image's score lies in [0, 1], so its variance is at most p (1 - p) with p the mean.
    """
    means_S = np.asarray(accuracies_S, dtype=float)
    mean, num_seeds = float(means_S.mean()), len(means_S)
    if num_seeds < 2:
        return wilson(mean * n_images, n_images, level=level)
    seed_variance, image_variance = float(means_S.var(ddof=1)) / num_seeds, mean * (1 - mean) / n_images
    variance = seed_variance + image_variance
    spread = seed_variance**2 / (num_seeds - 1) + image_variance**2 / max(n_images - 1, 1)
    df = variance**2 / spread if spread > 0 else float(n_images)
    half = float(sps.t.ppf(0.5 + level / 2, df)) * math.sqrt(variance)
    found = Interval(
        mean, mean - half, mean + half, math.sqrt(variance), df, n_images, num_seeds, "method", seed_variance
    )
    return found.clipped()


def wilson(correct: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's interval of one network's accuracy on n images (Wilson 1927, JASA 22, 209-212)."""
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"wilson needs 0 <= correct <= n and n >= 1, but got correct={correct}, n={n}")
    share, z = correct / n, float(sps.norm.ppf(0.5 + level / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)
    return Interval(share, low, high, math.sqrt(share * (1 - share) / n), float("inf"), n, 1, "networks")


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p that two networks differ on one cell, from the images only one of them got right.

    It speaks of these two networks, never of the methods that trained them.
    """
    total = only_first + only_second
    return 1.0 if total == 0 else float(sps.binomtest(only_first, total, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Statist. 6, 65-70)."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


class Tost(NamedTuple):
    """p-values of two one-sided tests against a margin."""

    not_worse: float
    equivalent: float


def tost(difference: Interval, *, margin: float) -> Tost:
    """p that the difference is below -margin (`not_worse`), and that it lies outside +-margin (`equivalent`)."""
    if margin <= 0:
        raise ValueError(f"margin must be positive, but got {margin}; it is stated before the results are seen")
    if difference.se == 0.0:
        below, above = float(difference.estimate <= -margin), float(difference.estimate >= margin)
    else:
        below = float(sps.t.sf((difference.estimate + margin) / difference.se, difference.df))
        above = float(sps.t.cdf((difference.estimate - margin) / difference.se, difference.df))
    return Tost(not_worse=below, equivalent=max(below, above))


def p_value(difference: Interval) -> float:
    """Two-sided p that the difference is 0."""
    if difference.se == 0.0:
        return 1.0 if difference.estimate == 0.0 else 0.0
    return float(2 * sps.t.sf(abs(difference.estimate) / difference.se, difference.df))


def simultaneous(
    contrasts: Sequence[Sequence[Term]], *, level: float = LEVEL, seed: int = 0
) -> list[tuple[Interval, Interval]]:
    """Each contrast's own interval, and the one that holds for all of them at once (max-t by simulation).

    Contrasts that share an arm (recognised as the same array) or images are correlated; the joint distribution is
    simulated as correlated t with each contrast's own degrees of freedom, on the scale of p-values. Never wider than
    Bonferroni's, never narrower than the single interval.
    """
    singles = [crossed(terms, level=level) for terms in contrasts]
    if len(singles) < 2:
        return [(single, single) for single in singles]
    alpha = _joint_alpha(singles, _correlation(contrasts, singles), level=level, seed=seed)
    joint = []
    for single in singles:
        half = float(sps.t.ppf(1 - alpha / 2, single.df)) * single.se
        joint.append(replace(single, low=single.estimate - half, high=single.estimate + half))
    return list(zip(singles, joint, strict=True))


def _joint_alpha(singles: Sequence[Interval], correlation_KK: np.ndarray, *, level: float, seed: int) -> float:
    rng, count = np.random.default_rng(seed), len(singles)
    normal_DK = rng.multivariate_normal(np.zeros(count), correlation_KK, size=NUM_DRAWS, method="eigh")
    df_K = np.array([min(single.df, 1e6) for single in singles])
    t_DK = normal_DK / np.sqrt(rng.chisquare(df_K, size=(NUM_DRAWS, count)) / df_K)
    least_p_D = (2 * sps.t.sf(np.abs(t_DK), df_K)).min(axis=1)
    return float(np.clip(np.quantile(least_p_D, 1 - level), (1 - level) / count, 1 - level))


def _correlation(contrasts: Sequence[Sequence[Term]], singles: Sequence[Interval]) -> np.ndarray:
    by_image_KI = np.stack([_by_image(terms) for terms in contrasts])
    covariance_KK = np.atleast_2d(np.cov(by_image_KI)) / by_image_KI.shape[1]
    if singles[0].population == "method":
        for k, first in enumerate(contrasts):
            for m, second in enumerate(contrasts):
                covariance_KK[k, m] += sum(
                    math.copysign(1.0, w * v) * math.sqrt(_seed_part(w, a)[0] * _seed_part(v, b)[0])
                    for w, a in first
                    for v, b in second
                    if a is b and a.shape[0] > 1
                )
    scale_K = np.sqrt(np.maximum(np.diag(covariance_KK), 1e-300))
    return np.clip(covariance_KK / np.outer(scale_K, scale_K), -1.0, 1.0)


def seeds_needed(difference: Interval, *, level: float = LEVEL) -> int | None:
    """Seeds per arm at which the interval would leave 0 if the difference stayed; None if images are what is short."""
    if difference.population == "networks" or difference.estimate == 0.0:
        return None
    image_variance = difference.se**2 - difference.seed_variance
    for count in range(difference.n_seeds, MAX_SEEDS + 1):
        variance = image_variance + difference.seed_variance * difference.n_seeds / count
        df = difference.df * (count - 1) / (difference.n_seeds - 1)
        if float(sps.t.ppf(0.5 + level / 2, df)) * math.sqrt(variance) < abs(difference.estimate):
            return count
    return None


def verdict(joint: Interval) -> str:
    """What the simultaneous interval of a difference allows to say: nothing but "better", "worse" or neither."""
    scope = "" if joint.population == "method" else " (these networks only)"
    if joint.low > 0:
        return f"better{scope}"
    if joint.high < 0:
        return f"worse{scope}"
    seeds = f"{joint.n_seeds} seed" + ("s" if joint.n_seeds != 1 else "")
    needed = seeds_needed(joint)
    more = f"; about {needed} would be needed" if needed is not None and needed > joint.n_seeds else ""
    return f"not distinguishable with {seeds}{more}"
