"""What an interval of a difference allows to say: better, worse, keeps, or not distinguishable, by one rule.

Every table and sentence that words a difference takes it from here. The interval is the simultaneous one of its family
(`analysis.stats.simultaneous`), so a family of contrasts of methods that are all alike yields a "better" or "worse" in
at most 5 % of studies (tests/bench/bench_statistics.py).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from scipy import stats as sps

from analysis.stats import Interval

Kind = Literal["better", "worse", "keeps", "not distinguishable"]

LEAST_SEEDS = 5
"""Fewer are few for a claim on a method, and the words say so."""
MAX_SEEDS = 1000
POWER = 0.8
"""Chance to come to a decision with as many seeds as are named, if the truth is what was estimated."""


class Reading(NamedTuple):
    """A difference in words.

    Attributes:
        text: what a table shows; begins with the kind.
        seeds_needed: seeds per arm that would decide it, where it is undecided; None where more seeds would not, or it
            is decided.
    """

    kind: Kind
    text: str
    seeds_needed: int | None = None


def wording(joint: Interval, *, margin: float | None = None) -> Reading:
    """How a difference reads, first minus other.

    Better: the interval lies above 0. Keeps, where a margin was stated beforehand: it lies above -margin
    (non-inferiority, one half of TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680), even where some loss
    is certain, which is then said. Worse: it lies below 0. Else it is not distinguishable. In parentheses stands what
    limits a decision: that it is of these networks only, or of a method by fewer than `LEAST_SEEDS` seeds.

    Args:
        joint: The simultaneous interval of the difference in its family.
        margin: How much may be lost and still count as kept, above 0; None where that is not asked.

    Raises:
        ValueError: The margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"margin must be positive, but got {margin}; it is stated before the results are seen")
    limit = limit_words(joint.population, joint.n_seeds)
    if joint.low > 0:
        return Reading("better", f"better ({limit})" if limit else "better")
    if margin is not None and joint.low > -margin:
        size = f"less than {margin * 100:g} point{'' if margin == 0.01 else 's'}"
        parts = [f"loses something, but {size}" if joint.high < 0 else f"loses {size}", limit]
        return Reading("keeps", f"keeps it ({'; '.join(part for part in parts if part)})")
    if joint.high < 0:
        return Reading("worse", f"worse ({limit})" if limit else "worse")
    seeds = counted(joint.n_seeds, "seed")
    needed = seeds_needed(joint, margin=margin)
    more = f"; about {needed} would be needed" if needed is not None and needed > joint.n_seeds else ""
    return Reading("not distinguishable", f"not distinguishable with {seeds}{more}", needed)


def limit_words(population: str, n_seeds: int) -> str:
    """What keeps a decision from being a claim on a method; empty where nothing does."""
    if population == "networks":
        return "these networks only"
    return f"{counted(n_seeds, 'seed')}, few for a claim" if n_seeds < LEAST_SEEDS else ""


def seeds_needed(joint: Interval, *, margin: float | None = None, power: float = POWER) -> int | None:
    r"""Seeds per arm at which an interval of a difference would decide, if the truth is the estimate.

    The least n with :math:`(t_{1 - \alpha / 2, \nu(n)} + t_{power, \nu(n)}) \, se(n) < |d|`, where the part of se^2
    that is due to seeds shrinks as 1 / n, the degrees of freedom grow as n - 1, and alpha is the one that the given
    interval was drawn with, so that a family stays a family. With a margin, d is what is left of it (estimate +
    margin), unless leaving 0 needs fewer. Source: the sample size of a t test, e.g. Chow, Shao & Wang 2008, Sample Size
    Calculations in Clinical Research, section 3.2.

    Returns:
        None for one network each (nothing is known of other seeds), where images and not seeds are what is short, and
        where it would be more than `MAX_SEEDS`.
    """
    if joint.population == "networks" or joint.n_seeds < 2:
        return None
    sizes = [abs(joint.estimate), *([] if margin is None else [joint.estimate + margin])]
    found = [_seeds_for(joint, size, power) for size in sizes if size > 0]
    return min((count for count in found if count is not None), default=None)


def _seeds_for(joint: Interval, size: float, power: float) -> int | None:
    if joint.se == 0.0:
        return joint.n_seeds
    alpha = _alpha(joint)
    fixed = max(joint.se**2 - joint.seed_variance, 0.0)
    at_best = float(sps.norm.ppf(1 - alpha / 2) + sps.norm.ppf(power))
    if at_best**2 * fixed >= size**2:  # no number of seeds is enough
        return None
    for count in range(joint.n_seeds, MAX_SEEDS + 1):
        se = math.sqrt(fixed + joint.seed_variance * joint.n_seeds / count)
        df = joint.df * (count - 1) / (joint.n_seeds - 1)
        if float(sps.t.ppf(1 - alpha / 2, df) + sps.t.ppf(power, df)) * se < size:
            return count
    return None


def _alpha(joint: Interval) -> float:
    """The two-sided error that an interval was drawn with."""
    return float(2 * sps.t.sf((joint.high - joint.low) / 2 / joint.se, joint.df))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 seed`, `2,000 images`; `many` where the plural is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
