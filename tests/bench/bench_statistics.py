"""Do the intervals cover what they should, and are alike methods seldom called better? Synthetic studies by thousands.

    python -m tests.bench.bench_statistics [STUDIES]

Each study is made from a crossed model with known variances: an image is hard for every network, a seed good on every
image, some luck is of both, some images suit one method, and each noisy cell of an image is right or wrong by chance
(Bernoulli). What is true of a method, over all seeds and images, follows by quadrature. Printed is the share of studies
whose nominal 95 % interval holds it: of a method's mean, of a paired difference, of all contrasts of a family at once
(max-t); and the share of studies in which a family of contrasts of methods that are all alike yields a "better", and a
"better" or "worse". The same with adaptive seeds (analysis/repeats.py), whose number validation chose.
Shapes: A arms, S seeds, I images.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.repeats import ADAPTIVE_ERROR, Rule
from analysis.stats import Interval, Term, crossed_difference, crossed_mean, simultaneous
from tests.bench.bench_repeats import follow
from tests.bench.bench_repeats import made as repeats_made

SEEDS = (3, 5, 8, 10)
DRAWS = 3000
"""Of max-t in each study, fewer than a report takes: its error averages out over studies."""
ARMS = 4
"""A baseline and three methods, so a family has three contrasts."""
RULES = ((3, Rule(3, 1, 8)), (5, Rule(3, 1, 8)), (3, Rule(5, 1, 10)))
"""Contenders and how their seeds are added."""


class Situation(NamedTuple):
    """How large a study is, and on the scale of logits how its parts vary (standard deviations).

    Attributes:
        ease: mean logit: 1 is an accuracy of about 65 to 70 %, 4 of about 95 %.
        taste: an image's being easier for one method than for another.
        gain: what the later arms are better by; 0 where all are alike.
        uneven: factor of the last arm's seed spread.
    """

    name: str
    images: int
    cells: int
    seed: float
    image: float
    both: float
    taste: float = 0.3
    ease: float = 0.8
    gain: float = 0.0
    uneven: float = 1.0


SITUATIONS = (
    Situation("usual", 500, 20, 0.10, 1.5, 0.6),
    Situation("seeds all alike", 500, 20, 0.01, 1.5, 0.6),
    Situation("seeds weigh ten times images", 1000, 20, 0.40, 1.2, 0.6),
    Situation("few images", 200, 20, 0.10, 1.5, 0.6),
    Situation("one cell, right or wrong, near the ceiling", 600, 1, 0.15, 2.0, 0.6, ease=4.5),
    Situation("luck of seed x image", 300, 5, 0.05, 0.5, 1.5),
    Situation("methods differ, one with uneven seeds", 500, 20, 0.10, 1.5, 0.6, gain=0.1, uneven=3.0),
)


def true_mean(situation: Situation, arm: int) -> float:
    """What an arm's accuracy is over all seeds and images: the mean of a logistic of a normal, by quadrature."""
    seed = situation.seed * (situation.uneven if arm == ARMS - 1 else 1.0)
    spread = np.sqrt(seed**2 + situation.image**2 + situation.both**2 + situation.taste**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    right = special.expit(situation.ease + situation.gain * arm + spread * nodes)
    return float((weights * right).sum() / weights.sum())


def made(rng: np.random.Generator, situation: Situation, seeds: int, arms: int = ARMS) -> np.ndarray:
    """One study: scores_ASI in [0, 1], the share of an image's cells that a network got right."""
    s, shape = situation, (arms, seeds, situation.images)
    spread_A = np.where(np.arange(arms) == ARMS - 1, s.seed * s.uneven, s.seed)
    logit = s.ease + s.gain * np.arange(arms)[:, None, None] + rng.normal(0, s.image, s.images)
    logit = logit + spread_A[:, None, None] * rng.standard_normal((arms, seeds, 1))
    logit = logit + rng.normal(0, s.taste, (arms, 1, s.images)) + rng.normal(0, s.both, shape)
    return rng.binomial(s.cells, special.expit(logit)) / s.cells


def family(scores_ASI: np.ndarray) -> list[list[Term]]:
    """Every arm against the first."""
    arms = list(scores_ASI)
    return [[(1.0, arm), (-1.0, arms[0])] for arm in arms[1:]]


class Tally(NamedTuple):
    """What became of one study."""

    mean: bool
    difference: bool
    joint: bool
    better: bool
    claim: bool


def judged(scores_ASI: np.ndarray, truth_A: Sequence[float]) -> Tally:
    """Whether each kind of interval of one study holds what is true, and what is said of the family."""
    first, last = scores_ASI[0], scores_ASI[-1]
    joint = [pair[1] for pair in simultaneous(family(scores_ASI), draws=DRAWS)]
    gaps = [truth - truth_A[0] for truth in truth_A[1:]]
    return Tally(
        mean=_holds(crossed_mean(first), truth_A[0]),
        difference=_holds(crossed_difference(last, first), gaps[-1]),
        joint=all(_holds(one, gap) for one, gap in zip(joint, gaps, strict=True)),
        better=any(one.low > 0 and gap <= 0 for one, gap in zip(joint, gaps, strict=True)),
        claim=any(one.low > gap or one.high < gap for one, gap in zip(joint, gaps, strict=True) if gap == 0),
    )


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def shares(situation: Situation, seeds: int, studies: int, *, seed: int = 20260101) -> dict[str, float]:
    """Share of studies for each field of a tally."""
    rng = np.random.default_rng([seed, seeds, situation.images, situation.cells])
    truth_A = [true_mean(situation, arm) for arm in range(ARMS)]
    found = np.array([judged(made(rng, situation, seeds), truth_A) for _ in range(studies)])
    return dict(zip(Tally._fields, found.mean(axis=0).tolist(), strict=True))


def adaptive(contenders: int, rule: Rule, studies: int, *, seed: int = 20260101) -> dict[str, float]:
    """The same with as many seeds as looks at validation figures asked for: alike contenders, all pairs a family.

    Intervals of the family are those that a report draws then, with `ADAPTIVE_ERROR`.
    """
    rng, found = np.random.default_rng([seed, contenders, rule.first]), []
    for _ in range(studies):
        validation, test = repeats_made(rng, contenders, rule.most)
        last = follow(validation, rule)[-1]
        used = [scores_SI[: last.seeds[str(place)]] for place, scores_SI in enumerate(test)]
        contrasts: list[list[Term]] = [[(1.0, one), (-1.0, other)] for one, other in combinations(used, 2)]
        joint = [pair[1] for pair in simultaneous(contrasts, level=1 - ADAPTIVE_ERROR, draws=DRAWS)]
        leader = used[int(last.leader)]
        others = [scores_SI for scores_SI in used if scores_SI is not leader]
        found.append(
            (_holds(crossed_difference(leader, others[0]), 0.0), all(_holds(one, 0.0) for one in joint),
             any(one.low > 0 for one in joint), any(not _holds(one, 0.0) for one in joint))
        )  # fmt: skip
    return dict(zip(Tally._fields[1:], np.mean(found, axis=0).tolist(), strict=True))


def main(studies: int) -> None:
    """Print two markdown tables, fixed and adaptive seeds."""
    error = np.sqrt(0.95 * 0.05 / studies)
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, numpy {np.__version__}, {studies:,} studies a row; the "
          f"standard error of a share of 95 % is {error:.1%}.\n")  # fmt: skip
    told_titles = "false better | false better or worse"
    print(f"| situation | images x cells | seeds | mean | difference | family at once | {told_titles} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for situation in SITUATIONS:
        for seeds in SEEDS:
            found = shares(situation, seeds, studies)
            told = [found[name] for name in ("better", "claim")] if not situation.gain else []
            size = f"{situation.images} x {situation.cells}"
            print(f"| {situation.name} | {size} | {seeds} | {_row(found, told)} |", flush=True)
    print(
        "\n| contenders | seeds at first, step, most | difference | family at once | false better | better or worse |"
    )
    print("|---:|---|---:|---:|---:|---:|")
    for contenders, rule in RULES:
        found = adaptive(contenders, rule, studies)
        told = [found["better"], found["claim"]]
        print(f"| {contenders} | {rule.first}, {rule.step}, {rule.most} | {_row(found, told)} |", flush=True)


def _row(found: dict[str, float], told: Sequence[float]) -> str:
    held = [found[name] for name in ("mean", "difference", "joint") if name in found]
    return " | ".join([*(f"{share:.1%}" for share in (*held, *told)), *(["–"] * (2 - len(told)))])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
