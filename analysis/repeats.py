"""When contenders have enough seeds: a rule that looks several times and still errs seldom over all its looks.

At each look the contender with the best mean so far is the leader, and each other one that is still open is parted from
it where the interval of their paired difference (two-way random effects, `analysis.stats`) lies above 0. Looking again
and again inflates errors, so each look spends a share of the whole error in proportion to the seeds that it adds, and
each of the k (k - 1) / 2 pairs has an equal part of that (Bonferroni over looks and pairs, valid whatever hangs
together). What was parted stays parted.

Source: spending an error over looks, Lan & DeMets 1983, Biometrika 70, 659-663; in proportion to the information, Kim &
DeMets 1987, Biometrika 74, 149-154 (power family, exponent 1). That the rule keeps its error with few seeds, where the
intervals are approximate, is simulated: tests/bench/bench_repeats.py. What it does to the report's own error is
simulated in tests/bench/bench_statistics.py, and made up for by `ADAPTIVE_ERROR`.
Shapes: S seeds, I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import Interval, crossed_difference

METRICS = ("acc/noise", "acc/clean")
"""Objectives that are means over images, so that contenders can be compared image by image."""
ADAPTIVE_ERROR = 0.03
"""What a report's family of contrasts may err, in place of 5 %, where validation decided how many seeds there are.

A contender that was parted early had unlucky networks, and the same networks are judged on the test images: simulated,
such studies would call alike methods different in 6 to 7 % at 5 %, and in 4 to 5 % at 3 % (docs/statistics.md).
"""
LEAST_SEEDS = 2
"""Seeds of a contender below which nothing is told of the method; it then stays open."""


@dataclass(frozen=True)
class Rule:
    """How often to look and what to spend.

    Args:
        first: Seeds of each contender at the first look.
        step: Seeds that each later look adds.
        most: Seeds at the last look.
        error: Chance to part two contenders that are alike, over all looks and pairs.
    """

    first: int
    step: int
    most: int
    error: float = 0.05

    def planned(self, look: int) -> int:
        """Seeds of those that are open at a look, from 0."""
        return min(self.first + look * self.step, self.most)

    def spent(self, look: int) -> float:
        """The error that a look may spend; all looks together spend `error`."""
        before = self.planned(look - 1) if look else 0
        return self.error * (self.planned(look) - before) / self.most


@dataclass(frozen=True)
class Decision:
    """What one look found.

    Attributes:
        seeds: Of each contender at the look.
        leader: The best mean.
        level: Of the intervals, after what the look may spend on each pair.
        differences: Of the leader to each that was open: estimate and interval, in shares of images.
        open: Those that the leader is not parted from; one without any finished seed has fallen out.
    """

    look: int
    seeds: dict[str, int]
    leader: str
    level: float
    differences: dict[str, tuple[float, float, float]]
    open: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `study.json`."""
        return asdict(self)


def decide(scores: Mapping[str, np.ndarray], rule: Rule, *, look: int, was_open: Sequence[str]) -> Decision:
    """Look at contenders' validation scores.

    Args:
        scores: Contender -> scores_SI over common images, with all seeds that it has.
        look: Number of the look, from 0.
        was_open: Those that no earlier look parted, the earlier leader among them.
    """
    pairs = len(scores) * (len(scores) - 1) // 2
    level = 1 - rule.spent(look) / max(pairs, 1)
    seen = [name for name in was_open if len(scores[name])]
    leader = max(seen, key=lambda name: float(scores[name].mean()))  # the first of equals
    found: dict[str, Interval] = {}
    for name in was_open:
        if name != leader and min(len(scores[name]), len(scores[leader])) >= LEAST_SEEDS:
            found[name] = crossed_difference(scores[leader], scores[name], level=level)
    parted = {name for name, interval in found.items() if interval.low > 0}
    return Decision(
        look=look,
        seeds={name: len(scores_SI) for name, scores_SI in scores.items()},
        leader=leader,
        level=level,
        differences={name: (item.estimate, item.low, item.high) for name, item in found.items()},
        open=tuple(name for name in was_open if name != leader and name not in parted and len(scores[name])),
    )


def image_scores(rows: Sequence[pd.DataFrame], metric: str) -> np.ndarray:
    """scores_SI of one contender: the share of each image's cells that each seed's network got right.

    Args:
        rows: For each seed `image_id`, `corruption`, `severity`, `correct`.
        metric: `acc/clean` or `acc/noise`.
    """
    by_seed = []
    for table in rows:
        clean = table["corruption"] == "clean"
        kept = table.loc[clean if metric == "acc/clean" else ~clean]
        by_seed.append(kept.assign(correct=kept["correct"].astype(float)).groupby("image_id")["correct"].mean())
    return pd.concat(by_seed, axis=1, join="inner").to_numpy().T if by_seed else np.zeros((0, 0))


# ---------------------------------------------------------------------------------------------- which trials are whose
def trial_number(place: int, turn: int, *, first: int, contenders: int) -> int:
    """Number of a contender's trial in its phase; the first seeds' have those that they have without further seeds.

    Args:
        place: Of the contender in the phase's choice, from 0.
        turn: Of the seed, from 0.
        first: Seeds of each contender at the first look.
    """
    return place * first + turn if turn < first else turn * contenders + place


def place_of(number: int, *, first: int, contenders: int) -> int:
    """Which contender a trial is of; undoes `trial_number`."""
    return number // first if number < contenders * first else number % contenders


def first_choice(phase: Mapping[str, Any]) -> str | None:
    """The search trial whose configuration a phase of `study.json` puts first; None for a phase that chose none.

    That is the first that the search's figures chose; with adaptive seeds the leader of the last look, which has seen
    the validation figures of all seeds.
    """
    looks, selected = phase.get("looks") or (), phase.get("selected") or ()
    return looks[-1]["leader"] if looks else next(iter(selected), None)
