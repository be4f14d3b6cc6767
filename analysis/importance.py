"""Which hyper-parameters decide whether a trial is among the best: PED-ANOVA, also for keys that are not always there.

The density of the best trials is compared with the density of all trials, key by key: a key whose best trials lie where
all lie does not matter. A key that is drawn under a condition only (such as stages, of some methods) splits trials into
those that have it and those that do not; its importance is what it does within those that have it, weighted by how many
of the best these are, and `when_active` is its importance among these alone, as if they were the whole search. What the
condition itself does is credited to the key that the condition is on.
Source: Watanabe, Bansal & Hutter 2023, IJCAI, arXiv 2304.10255 (PED-ANOVA); conditional keys: arXiv 2601.20800, Theorem
4.2 and Algorithm 1. Numbers are those of Optuna 5's PedAnovaImportanceEvaluator, with which a test compares them.
Shapes: N trials, G grid points, B resamples.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from analysis.load import Snapshot
from analysis.records import final_metrics
from analysis.searches import current, objectives_of, search_of
from analysis.selection import Goal
from analysis.tables import Column, Table

IMPORTANCE_COLUMNS = (
    "key", "importance", "share", "share_low", "share_high", "when_active", "n_trials", "n_active", "is_conditional"
)  # fmt: skip
IMPORTANCE_LEGEND = (
    "Importance (PED-ANOVA): how far the best tenth of the trials are from all finished trials in one key, as a "
    "share of all keys [95 % of resampled trials]; trials stopped early are not in it. A conditional key counts where "
    "it is active only; the last column is its importance among those trials alone. It speaks of this search and its "
    "ranges; interactions are not in it."
)
QUANTILE = 0.1
LEAST_TRIALS = 10
_STEPS = 50
_SIGMA_LEAST = 0.5 / 1.64
_TINY = 1e-12
_SLACK = 1e-6
"""How far beyond a range its end may come by rounding, as a share of the range."""


@dataclass(frozen=True)
class Domain:
    """What a key may be.

    Attributes:
        kind: A range of numbers, or one of `items`.
        low, high: Of a range.
        steps: Grid points that the range is looked at on.
        items: Choices, as JSON.
    """

    kind: Literal["range", "choice"]
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    steps: int = _STEPS
    items: tuple[str, ...] = ()

    def places(self, values: Sequence[Any]) -> np.ndarray:
        """Each value's place on the grid, halves to the lower one; every value must be one that it holds."""
        if self.kind == "choice":
            return np.array([self.items.index(value) for value in values], dtype=int)
        place = np.ceil(np.array([self._share(value) for value in values]) * (self.steps - 1) - 0.5)
        return np.clip(place, 0, self.steps - 1).astype(int)

    def holds(self, value: Any) -> bool:
        """Whether a value may still be drawn; of a range what is between its ends, up to rounding."""
        if self.kind == "choice":
            return value in self.items
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or (self.is_log and value <= 0):
            return False
        return -_SLACK <= self._share(value) <= 1 + _SLACK

    def _share(self, value: float) -> float:
        """Where in the range a number is: 0 at its low end, 1 at its high one."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def size(self) -> int:
        return len(self.items) if self.kind == "choice" else self.steps


def domain_of(entry: Mapping[str, Any]) -> Domain | None:
    """A domain from its entry in a study file's `space`; None for what is fixed or cannot vary."""
    kind = next((name for name in entry if name not in ("when", "step", "points")), "fixed")
    if kind == "fixed":
        return None
    if kind == "choice":
        items = tuple(json.dumps(item, sort_keys=True) for item in entry["choice"])
        return Domain("choice", items=items) if len(items) > 1 else None
    low, high = (float(end) for end in entry[kind])
    if not low < high:
        return None
    is_log, steps = kind.startswith("log_"), _STEPS
    if entry.get("points"):
        steps = min(int(entry["points"]), _STEPS)
    elif kind == "log_int":
        steps = min(math.ceil(math.log2(high - low + 1)) + 1, _STEPS)
    elif kind == "int" or entry.get("step"):
        steps = min(round((high - low) / float(entry.get("step") or 1)) + 1, _STEPS)
    return Domain("range", low, high, is_log, max(steps, 2))


def importance(
    params: pd.DataFrame,
    values: Sequence[float],
    domains: Mapping[str, Domain],
    *,
    goal: Goal = "maximise",
    quantile: float = QUANTILE,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""The importance of each key for being among the best `quantile` of the trials.

    .. math:: I_d = \gamma^2 \frac{\alpha_d^2}{\beta_d} \sum_g p_d(g) \Big(\frac{p^{best}_d(g)}{p_d(g)} - 1\Big)^2

    with p_d the density (Parzen, Scott's bandwidth, with a flat prior of one trial) over the trials where the key is
    active, alpha and beta their shares of the best and of all trials, and gamma the share of the best.

    Args:
        params: A row for each trial, a column for each key, missing where the key was not active; choices as JSON.
        values: The objective of each trial; trials without a finite one are left out.
        domains: Key -> domain. A key without one is left out, and so is a trial with a value that its key's domain
            does not hold (`outside`).
        resamples: Of trials, for the interval; 0 for none.

    Returns:
        `IMPORTANCE_COLUMNS`, most important first; empty for fewer than `LEAST_TRIALS` trials.

    Raises:
        ValueError: Lengths differ, or quantile is not in (0, 1).
    """
    loss_N = np.asarray(values, dtype=float) * (-1.0 if goal == "maximise" else 1.0)
    if len(loss_N) != len(params) or not 0 < quantile < 1:
        raise ValueError(f"each of {len(params)} trials must have a value, and quantile be in (0, 1), but got "
                         f"{len(loss_N)} values and quantile={quantile}")  # fmt: skip
    known = np.isfinite(loss_N) & ~outside(params, domains)
    params, loss_N = params.loc[known], loss_N[known]
    keys = [key for key in domains if key in params and params[key].notna().any()]
    if len(loss_N) < LEAST_TRIALS or not keys:
        return pd.DataFrame(columns=list(IMPORTANCE_COLUMNS))
    places = {key: _places(params[key], domains[key]) for key in keys}
    found = _all(places, loss_N, domains, quantile)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen_N = rng.integers(0, len(loss_N), len(loss_N))
        drawn = {key: place_N[chosen_N] for key, place_N in places.items()}
        draws.append(_shares(_all(drawn, loss_N[chosen_N], domains, quantile)))
    bounds = (
        np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0) if draws else np.full((2, len(keys)), np.nan)
    )
    rows = []
    for index, (key, share) in enumerate(zip(keys, _shares(found), strict=True)):
        active_N = places[key] >= 0
        alone = _all({key: places[key][active_N]}, loss_N[active_N], domains, quantile)[key]
        rows.append((key, found[key], share, bounds[0, index], bounds[1, index], alone, len(loss_N),
                     int(active_N.sum()), not active_N.all()))  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(IMPORTANCE_COLUMNS))
    return frame.sort_values(["importance", "key"], ascending=[False, True]).reset_index(drop=True)


def outside(params: pd.DataFrame, domains: Mapping[str, Domain]) -> np.ndarray:
    """Which trials have a value that its key may not have (any more), such as a choice taken out of the space."""
    found_N = np.zeros(len(params), dtype=bool)
    for key in domains:
        if key in params:
            is_active = params[key].notna()
            found_N |= [bool(a) and not domains[key].holds(v) for a, v in zip(is_active, params[key], strict=True)]
    return found_N


def _places(column: pd.Series, domain: Domain) -> np.ndarray:
    """Grid places, -1 where the key was not active."""
    active_N = column.notna().to_numpy()
    place_N = np.full(len(column), -1)
    place_N[active_N] = domain.places(column[active_N].tolist())
    return place_N


def _all(
    places: Mapping[str, np.ndarray], loss_N: np.ndarray, domains: Mapping[str, Domain], quantile: float
) -> dict[str, float]:
    if not len(loss_N):
        return dict.fromkeys(places, 0.0)
    border = np.partition(loss_N, max(math.ceil(quantile * len(loss_N)) - 1, 0))[math.ceil(quantile * len(loss_N)) - 1]
    best_N = loss_N <= border
    return {key: _one(place_N, best_N, domains[key]) for key, place_N in places.items()}


def _one(place_N: np.ndarray, best_N: np.ndarray, domain: Domain) -> float:
    active_N = place_N >= 0
    top_N = active_N & best_N
    if active_N.sum() < 2 or not top_N.any():
        return 0.0
    top_G, all_G = (_density(place_N[mask], domain) + _TINY for mask in (top_N, active_N))
    alpha, beta, gamma = top_N.sum() / best_N.sum(), active_N.mean(), best_N.mean()
    return float(gamma**2 * alpha**2 / beta * (all_G @ (top_G / all_G - 1) ** 2))


def _shares(found: Mapping[str, float]) -> np.ndarray:
    values = np.array(list(found.values()))
    return values / values.sum() if values.sum() > 0 else np.zeros(len(values))


def _density(place_n: np.ndarray, domain: Domain) -> np.ndarray:
    """Parzen estimate on the grid: a kernel at each place seen, weighted by how often, and one flat one."""
    count_G = np.bincount(place_n, minlength=domain.size)
    seen = np.flatnonzero(count_G)
    weight = np.append(count_G[seen], 1.0) / (count_G.sum() + 1.0)
    if domain.kind == "choice":
        kernel_KG = np.full((len(seen) + 1, domain.size), 1.0 / (len(seen) + 1))
        kernel_KG[np.arange(len(seen)), seen] += 1.0
        return weight @ (kernel_KG / kernel_KG.sum(axis=1, keepdims=True))
    centre_K = np.append(seen, (domain.size - 1) / 2)
    sigma_K = np.append(np.full(len(seen), _bandwidth(count_G, seen)), float(domain.size))
    edge_G = np.arange(domain.size + 1) - 0.5
    cumulated = special.ndtr((edge_G[None] - centre_K[:, None]) / sigma_K[:, None])
    return weight @ (np.diff(cumulated, axis=1) / (cumulated[:, -1:] - cumulated[:, :1]))


def _bandwidth(count_G: np.ndarray, seen: np.ndarray) -> float:
    """Scott's rule, by the smaller of standard deviation and quartile distance; no less than what fits a grid step."""
    count, total = count_G[seen], int(count_G.sum())
    mean = seen @ count / total
    spread = math.sqrt((seen - mean) ** 2 @ count / max(1, total - 1))
    cumulated = np.cumsum(count)
    first = np.searchsorted(cumulated, total // 4, side="left")
    third = min(len(seen) - 1, int(np.searchsorted(cumulated, total * 3 // 4, side="right")))
    return max(1.059 * min((seen[third] - seen[first]) / 1.34, spread) * total**-0.2, _SIGMA_LEAST)


# ---------------------------------------------------------------------------------------------------------- of studies
def search_params(snapshot: Snapshot, phase: str) -> tuple[pd.DataFrame, list[float], dict[str, Domain]]:
    """A search's finished trials: their drawn parameters (choices as JSON), first objective, and the keys' domains.

    All figures are of the grid that the search was scored by, those of finalists too.
    """
    metric = next(iter(objectives_of(snapshot.study, phase)))
    space = search_of(snapshot.study, phase).get("space") or {}
    domains = {key: domain for key, entry in space.items() if (domain := domain_of(entry)) is not None}
    rows, values = [], []
    for record in current(snapshot.trials, snapshot.study):
        if record.info["phase"] == phase and record.status == "finished":
            drawn = record.info.get("params") or {}
            rows.append({key: _stored(drawn[key], domain) for key, domain in domains.items() if key in drawn})
            values.append(final_metrics(record.events).get(metric, math.nan))
    return pd.DataFrame(rows, columns=list(domains), dtype=object), values, domains


def _stored(value: Any, domain: Domain) -> Any:
    return json.dumps(value, sort_keys=True) if domain.kind == "choice" else value


def importance_table(snapshot: Snapshot, phase: str) -> Table:
    """The importance of each searched key for a phase's first objective."""
    params, values, domains = search_params(snapshot, phase)
    goal = next(iter(objectives_of(snapshot.study, phase).values()))
    frame = importance(params, values, domains, goal=goal)
    columns = [
        Column("key", lambda row: row["key"], is_number=False),
        Column("share", lambda row: f"{row['share']:.0%} [{row['share_low']:.0%}, {row['share_high']:.0%}]"),
        Column("importance", lambda row: f"{row['importance']:.3g}"),
        Column("trials where active", lambda row: f"{row['n_active']} of {row['n_trials']}"),
        Column("among these alone", lambda row: f"{row['when_active']:.3g}" if bool(row["is_conditional"]) else "–"),
    ]
    notes = [IMPORTANCE_LEGEND, *_left_out(snapshot, phase, int(outside(params, domains).sum()))]
    return Table(f"importance-{phase}", frame, columns, notes if len(frame) else [])


def _left_out(snapshot: Snapshot, phase: str, num_outside: int) -> list[str]:
    """How many trials of a phase are not in its importance, and why."""
    mine = [record for record in current(snapshot.trials, snapshot.study) if record.info["phase"] == phase]
    num_stopped, notes = sum(record.status == "pruned" for record in mine), []
    if num_stopped:
        notes.append(f"Stopped early, so not in it: {num_stopped} of {len(mine)} trials.")
    if num_outside:
        notes.append(
            f"Left out, as they have values that the space does not hold now: {num_outside} of {len(mine)} trials."
        )
    return notes
