"""Intervals and tests for accuracies measured on the same images under several training seeds.

Seeds and images are crossed: every network sees the same images, so both are random effects. An arm is a matrix
scores_SI of shape (seeds, images) with values in [0, 1]: the share of an image's noisy versions that a network got
right (cells of one image are averaged first, since they are not independent). With one seed there is nothing to learn
about other seeds, and the interval is one for these networks only.
Source: Searle, Casella & McCulloch 1992, Variance Components, chapter 4 (crossed random effects, mean squares);
Satterthwaite 1946, Biometrics Bulletin 2(6), 110-114 (degrees of freedom of several arms' seeds); Banerjee 1960,
Sankhya 22, 357-358 (an interval from variances of few and of many degrees of freedom). What they cover is simulated:
tests/bench/bench_statistics.py, figures in docs/statistics.md.
Shapes: S seeds, I images, K contrasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import special
from scipy import stats as sps

Population = Literal["method", "networks"]
Term = tuple[float, np.ndarray]
"""A weight and an arm's scores_SI."""

LEVEL = 0.95
NUM_DRAWS = 20_000
FEW_DISCORDANT = 25
_HALVINGS = 20


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; one image has none, and its bounds are NaN.

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
    r"""A weighted sum of arms' means over common images, two-way random effects.

    .. math:: \widehat{Var} = \underbrace{\sum_g w_g^2 \frac{(MS_{seed,g} - MS_{rest,g})^+}{S_g I}}_{v_{seed}}
        + \underbrace{\frac{1}{I} Var_i\Big(\sum_g w_g \bar y_{g \cdot i}\Big)}_{v_{image}}, \qquad
        half^2 = t_\nu^2 v_{seed} + t_{I - 1}^2 v_{image}

    with nu by Satterthwaite from the arms' seed parts (between the fewest seeds less one and the sum of all less one
    each). Both parts have their own t (Banerjee): one Satterthwaite figure for the whole sum covers too little where
    seeds weigh ten times what images do, since three seeds that happen to lie close together then make it large (92 %
    or less in place of 95 % at 3 seeds). `df` is that of the one t that has the same half width.

    One term of weight 1 is a mean, two of 1 and -1 a difference paired by image. Seeds are not paired: arms that share
    seed numbers are treated as independent: too wide an interval where they go up and down together (the same order of
    images), too narrow a one where one goes down as the other goes up.

    One image tells nothing of others: the bounds, the standard error and df are missing (NaN).

    Raises:
        ValueError: arms have different images, or none.
    """
    if {scores_SI.shape[1] for _, scores_SI in terms} == {1}:
        return _of_one_image(terms)
    return _interval(_pieces(terms), level)


def _of_one_image(terms: Sequence[Term]) -> Interval:
    num_seeds = min(len(scores_SI) for _, scores_SI in terms)
    population: Population = "method" if num_seeds > 1 else "networks"
    mean, unknown = float(_by_image(terms).mean()), math.nan
    return Interval(mean, unknown, unknown, unknown, unknown, 1, num_seeds, population)


class _Part(NamedTuple):
    """A part of a variance and its degrees of freedom."""

    variance: float
    df: float


class _Pieces(NamedTuple):
    """What an interval is made of, whatever its level; `shrinks` becomes its `seed_variance`."""

    estimate: float
    images: _Part
    seeds: _Part
    num_images: int
    num_seeds: int
    shrinks: float = 0.0


def _pieces(terms: Sequence[Term]) -> _Pieces:
    sizes = {scores_SI.shape[1] for _, scores_SI in terms}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"arms must share their images, 2 or more, but have {sorted(sizes)} images")
    num_images, num_seeds = sizes.pop(), min(scores_SI.shape[0] for _, scores_SI in terms)
    by_image_I = _by_image(terms)
    images = _Part(float(by_image_I.var(ddof=1)) / num_images, num_images - 1)
    if num_seeds < 2:
        return _Pieces(float(by_image_I.mean()), images, _Part(0.0, 1.0), num_images, num_seeds)
    parts, rest = [], 0.0
    for weight, scores_SI in terms:
        squares = mean_squares(scores_SI)
        variance = weight**2 * max(squares.seeds - squares.rest, 0.0) / scores_SI.size
        parts.append(_Part(variance, len(scores_SI) - 1))
        rest += weight**2 * squares.rest / scores_SI.size
    seeds = _satterthwaite(parts)
    shrinks = seeds.variance + min(rest, images.variance)
    return _Pieces(float(by_image_I.mean()), images, seeds, num_images, num_seeds, shrinks)


def _satterthwaite(parts: Sequence[_Part]) -> _Part:
    """The sum of independent parts; the fewest degrees of freedom where all are 0."""
    variance, spread = sum(part.variance for part in parts), sum(part.variance**2 / part.df for part in parts)
    return _Part(variance, variance**2 / spread if spread > 0 else min(part.df for part in parts))


def _interval(found: _Pieces, level: float) -> Interval:
    """Banerjee's interval of two independent parts, with the degrees of freedom of a t of the same half width."""
    images, seeds, share = found.images, found.seeds, 0.5 + level / 2
    se = math.sqrt(images.variance + seeds.variance)
    image_t, seed_t = (float(special.stdtrit(max(part.df, 1.0), share)) for part in (images, seeds))
    half = math.sqrt(image_t**2 * images.variance + seed_t**2 * seeds.variance)
    df = images.df if seeds.variance == 0.0 else _df_of(half / se, share, *sorted((seeds.df, images.df)))
    population: Population = "method" if found.num_seeds > 1 else "networks"
    low, high = found.estimate - half, found.estimate + half
    return Interval(
        found.estimate, low, high, se, df, found.num_images, found.num_seeds, population, found.shrinks
    )  # fmt: skip


def _df_of(border: float, share: float, least: float, most: float) -> float:
    """The degrees of freedom at which t has this border, between those of the parts that it was made of."""
    for _ in range(_HALVINGS):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if special.stdtrit(middle, share) > border else (least, middle)
    return math.sqrt(least * most)


def _by_image(terms: Sequence[Term]) -> np.ndarray:
    return np.sum([weight * scores_SI.mean(0) for weight, scores_SI in terms], axis=0)


def crossed_mean(scores_SI: np.ndarray, *, level: float = LEVEL) -> Interval:
    """An arm's mean accuracy. One network on one cell, or scores without any spread, get Wilson's interval.

    One image has no interval (NaN), see `crossed`.
    """
    interval = crossed([(1.0, scores_SI)], level=level)
    if interval.n_images == 1:
        return interval
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

    An image's score lies in [0, 1], so its variance is at most p (1 - p) with p the mean; at 0 % and 100 % the interval
    is Wilson's.
    """
    means_S = np.asarray(accuracies_S, dtype=float)
    mean, num_seeds = float(means_S.mean()), len(means_S)
    if num_seeds < 2:
        return wilson(mean * n_images, n_images, level=level)
    seeds = _Part(float(means_S.var(ddof=1)) / num_seeds, num_seeds - 1)
    images = _Part(mean * (1 - mean) / n_images, max(n_images - 1, 1))
    found = _interval(_Pieces(mean, images, seeds, n_images, num_seeds, seeds.variance), level)
    if found.se == 0.0:
        exact = wilson(round(mean * n_images), n_images, level=level)
        return replace(found, low=exact.low, high=exact.high, se=exact.se)
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


def mcnemar(only_first: int, only_second: int, *, mid_p: bool | None = None) -> float:
    """Two-sided p that two networks differ on one cell, from the images only one of them got right (McNemar 1947).

    The binomial test of the discordant pairs, exact where they are few; else its mid-p, which counts half of what was
    seen and keeps its error with less loss (Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13, 91).
    It speaks of these two networks, never of the methods that trained them.

    Args:
        mid_p: Whether to take the mid-p; left out: from `FEW_DISCORDANT` pairs on.
    """
    total = only_first + only_second
    if only_first == only_second:
        return 1.0
    exact = float(sps.binomtest(only_first, total, 0.5).pvalue)
    if not (total >= FEW_DISCORDANT if mid_p is None else mid_p):
        return exact
    return exact - float(sps.binom.pmf(only_first, total, 0.5))


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
    contrasts: Sequence[Sequence[Term]], *, level: float = LEVEL, seed: int = 0, draws: int = NUM_DRAWS
) -> list[tuple[Interval, Interval]]:
    """Each contrast's own interval, and the one that holds for all of them at once (max-t by simulation).

    Contrasts that share an arm (recognised as the same array) or images are correlated; the joint distribution is
    simulated as correlated t with each contrast's own degrees of freedom, on the scale of p-values. Never wider than
    Bonferroni's, never narrower than the single interval. The order of the contrasts changes nothing.
    """
    pieces = [_pieces(terms) for terms in contrasts]
    singles = [_interval(found, level) for found in pieces]
    if len(singles) < 2:
        return [(single, single) for single in singles]
    order = sorted(range(len(singles)), key=lambda k: (singles[k].estimate, singles[k].se, singles[k].df))
    sorted_K = [singles[k] for k in order]
    correlation_KK = _correlation([contrasts[k] for k in order], sorted_K)
    alpha = _joint_alpha(sorted_K, correlation_KK, level=level, seed=seed, draws=draws)
    return [(single, _interval(found, 1 - alpha)) for single, found in zip(singles, pieces, strict=True)]


def _joint_alpha(
    singles: Sequence[Interval], correlation_KK: np.ndarray, *, level: float, seed: int, draws: int
) -> float:
    rng, count = np.random.default_rng(seed), len(singles)
    normal_DK = rng.multivariate_normal(np.zeros(count), correlation_KK, size=draws, method="eigh")
    df_K = np.array([min(single.df, 1e6) for single in singles])
    scale_KD = np.sqrt(rng.chisquare(df_K[:, None], size=(count, draws)) / df_K[:, None])
    t_KD = np.abs(normal_DK.T / scale_KD)
    least, most = (1 - level) / count, 1 - level  # Bonferroni's, and that of one contrast alone
    for _ in range(_HALVINGS):  # the alpha that a share 1 - level of the draws goes below with some contrast
        alpha = (least + most) / 2
        border_K = special.stdtrit(df_K, 1 - alpha / 2)
        share = float((t_KD > border_K[:, None]).any(axis=0).mean())
        least, most = (alpha, most) if share < 1 - level else (least, alpha)
    return (least + most) / 2


def _correlation(contrasts: Sequence[Sequence[Term]], singles: Sequence[Interval]) -> np.ndarray:
    by_image_KI = np.stack([_by_image(terms) for terms in contrasts])
    covariance_KK = np.atleast_2d(np.cov(by_image_KI)) / by_image_KI.shape[1]
    of_method_K = [single.population == "method" for single in singles]
    if any(of_method_K):
        arms = {id(scores_SI): scores_SI for terms in contrasts for _, scores_SI in terms}
        own = {name: _pieces([(1.0, arm)]).seeds.variance for name, arm in arms.items()}
        weight_KA = np.zeros((len(contrasts), len(arms)))  # of each arm in each contrast
        for row_A, terms, is_of_method in zip(weight_KA, contrasts, of_method_K, strict=True):
            for weight, scores_SI in terms if is_of_method else ():
                row_A[list(arms).index(id(scores_SI))] += weight
        covariance_KK += (weight_KA * np.array(list(own.values()))) @ weight_KA.T
    scale_K = np.sqrt(np.maximum(np.diag(covariance_KK), 1e-300))
    return np.clip(covariance_KK / np.outer(scale_K, scale_K), -1.0, 1.0)
