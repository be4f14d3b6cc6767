"""How well a small validation grid ranks trials as the whole one does: Spearman's rank correlation with an interval.

Source: Spearman 1904, Am. J. Psychol. 15, 72-101; the interval by Fisher's z with the standard error of Bonett &
Wright 2000, Psychometrika 65, 23-28, sqrt((1 + rho^2 / 2) / (n - 3)); the bootstrap of Efron 1979, by percentiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as sps

FULL_CELLS = "cells-full.parquet"
FULL_EVENT, FULL_PREFIX = "full", "full/"
"""The event that follows a finalist's end, and what its figures' names begin with: `full/acc/noise`."""
LEAST_TRIALS = 4
NUM_RESAMPLES = 2000
_MAX_DRAWS = 20


class Agreement(NamedTuple):
    """Spearman's rank correlation of two figures over n trials; NaN where it cannot be told."""

    rho: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.rho):
            return f"no rank correlation of {self.n} trials"
        bounds = "" if math.isnan(self.low) else f" (95 % interval {self.low:+.2f} to {self.high:+.2f})"
        return f"Spearman rank correlation {self.rho:+.2f}{bounds} over {self.n} trials"


def rank_agreement(
    small: Sequence[float], full: Sequence[float], *, level: float = 0.95, num_controlled: int = 0
) -> Agreement:
    """Rank correlation of the small grid's figures with the whole one's, one pair for each trial.

    Below four trials there is no interval; with all of one figure equal there is no correlation either.

    Args:
        num_controlled: Of a partial correlation, how many variables were taken out of both figures, such as one less
            than the groups that trials were ranked within; so many trials fewer carry the interval (Fisher 1924).
    """
    small_N, full_N = np.asarray(small, dtype=float), np.asarray(full, dtype=float)
    if small_N.shape != full_N.shape:
        raise ValueError(f"every trial must have both figures, but got {len(small_N)} and {len(full_N)}")
    rho, n = _spearman(small_N, full_N), len(small_N)
    if math.isnan(rho) or n - num_controlled < LEAST_TRIALS:
        return Agreement(rho, math.nan, math.nan, n)
    half = float(sps.norm.ppf(0.5 + level / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3 - num_controlled))
    z = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    return Agreement(rho, math.tanh(z - half), math.tanh(z + half), n)


def bootstrap_agreement(
    small: Sequence[float], full: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> Agreement:
    """The same with a percentile interval over resampled trials; samples without two different figures are redrawn."""
    small_N, full_N = np.asarray(small, dtype=float), np.asarray(full, dtype=float)
    rng, n = np.random.default_rng(seed), len(small_N)
    found = []
    for _ in range(NUM_RESAMPLES):
        for _ in range(_MAX_DRAWS):
            take = rng.integers(0, n, n)
            rho = _spearman(small_N[take], full_N[take])
            if not math.isnan(rho):
                found.append(rho)
                break
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2]) if found else (math.nan, math.nan)
    return Agreement(_spearman(small_N, full_N), float(low), float(high), n)


def full_metrics(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A finalist's figures on the whole grid under the names that the small one's have; empty for another trial."""
    found: Mapping[str, Any] = next(
        (event.get("metrics") or {} for event in reversed(events) if event.get("event") == FULL_EVENT), {}
    )
    return {name.removeprefix(FULL_PREFIX): float(value) for name, value in found.items() if value is not None}


def chosen_value(metrics: Mapping[str, float], metric: str) -> float:
    """What a finalist is chosen by: its accuracy on the whole grid, its cost as it was."""
    name = f"{FULL_PREFIX}{metric}" if metric.startswith("acc/") else metric
    return metrics.get(name, math.nan)


def judged(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a trial's constraints are judged by: its figures, those on the whole grid in place of the small one's."""
    whole = {name.removeprefix(FULL_PREFIX): value for name, value in metrics.items() if name.startswith(FULL_PREFIX)}
    return {**metrics, **whole}


def agreement_of(trials: Mapping[str, Sequence[Mapping[str, Any]]], finalists: Sequence[str], metric: str) -> Agreement:
    """The agreement over a search's finalists.

    Args:
        trials: Key -> events.
        finalists: Keys; those without both figures are left out.
        metric: Such as `acc/noise`.
    """
    pairs = []
    for key in finalists:
        events = trials.get(key, ())
        final: Mapping[str, Any] = next((e.get("metrics") or {} for e in reversed(events) if e["event"] == "final"), {})
        small, full = final.get(metric), full_metrics(events).get(metric)
        if small is not None and full is not None:
            pairs.append((float(small), full))
    return rank_agreement([small for small, _ in pairs], [full for _, full in pairs])


def _spearman(one_N: np.ndarray, other_N: np.ndarray) -> float:
    if len(one_N) < 2 or np.ptp(one_N) == 0 or np.ptp(other_N) == 0:
        return math.nan
    return float(sps.spearmanr(one_N, other_N).statistic)  # pyright: ignore[reportAttributeAccessIssue]
