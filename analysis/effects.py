"""What a figure does as one setting changes over a search's trials: a curve with a band, or a mean for each value.

A setting is a number (rho, stages, strength of noise, a learning rate) or a choice among words (method, optimiser).

The trials of a search are not a random sample of the space (a sampler goes where it was good before), and other
settings change along with the one that is shown: a curve says what went together, not what would follow.
Source: local linear regression, Fan & Gijbels 1996, Local Polynomial Modelling, chapter 2; bandwidth by the normal
reference rule, Silverman 1986, section 3.4.2; percentile bootstrap of trials (pairs), Efron 1979.
Shapes: N trials, P points, B resamples.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.labels import short
from analysis.tables import Column, Table, interval_text
from analysis.trialframe import RHO, STAGES, STRENGTH

SETTINGS = (RHO, STAGES, STRENGTH)
EFFECT_COLUMNS = ("setting", "kind", "x", "value", "value_low", "value_high", "n_trials", "category", "is_log")
_POINT = EFFECT_COLUMNS[2:7]
_DRAWN = "param/"
_SAME = {"method.name": "method", "optim.sam.rho": RHO, "method.stages": STAGES}
"""Drawn parameters that every trial frame has under shorter names."""
EFFECT_LEGEND = (
    "Mean of the trials of a search against one setting, with pointwise 95 % bands over trials: what went together in "
    "this search, not what a change would do, since other settings change too."
)
LEAST_TRIALS = 8
MOST_VALUES = 8
"""A setting with no more values than this gets a mean for each, not a curve."""


def effect_curve(
    x: Sequence[float],
    y: Sequence[float],
    *,
    num_points: int = 25,
    is_log: bool = False,
    bandwidth: float | None = None,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""A local linear regression of y on x with a bootstrap band over trials.

    At each point the weighted least-squares line with weights :math:`exp(-((x_n - x) / h)^2 / 2)` is read off;
    h is :math:`1.06 \, min(s, IQR / 1.34) \, N^{-1/5}` on the scale of x (its logarithm with `is_log`).

    Returns:
        `x`, `value`, `value_low`, `value_high`, `n_trials` (within one bandwidth), without points that have no two
        places near; empty for fewer than `LEAST_TRIALS`.

    Raises:
        ValueError: Lengths differ, or a value of x is not positive with `is_log`.
    """
    x_N, y_N = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x_N.shape != y_N.shape:
        raise ValueError(f"every trial must have x and y, but got {x_N.size} and {y_N.size}")
    known = np.isfinite(x_N) & np.isfinite(y_N)
    x_N, y_N = x_N[known], y_N[known]
    if is_log and (x_N <= 0).any():
        raise ValueError(f"x must be positive on a log scale, but its least value is {x_N.min()}")
    x_N = np.log(x_N) if is_log else x_N
    columns = list(_POINT)
    if len(x_N) < LEAST_TRIALS or np.ptp(x_N) == 0:
        return pd.DataFrame(columns=columns)
    width = bandwidth or _bandwidth(x_N)
    points_P = np.linspace(x_N.min(), x_N.max(), num_points)
    offset_PN = x_N - points_P[:, None]
    kernel_PN = np.exp(-((offset_PN / width) ** 2) / 2)
    count_BN = np.random.default_rng(seed).multinomial(len(x_N), np.full(len(x_N), 1 / len(x_N)), size=resamples)
    value_P = _fitted(np.ones((1, len(x_N))), kernel_PN, offset_PN, y_N)[0]
    value_BP = _fitted(count_BN, kernel_PN, offset_PN, y_N)
    is_known_P = np.isfinite(value_P) & np.isfinite(value_BP).any(axis=0)  # none in a wide gap between trials
    value_P, points_P, offset_PN = value_P[is_known_P], points_P[is_known_P], offset_PN[is_known_P]
    low_P, high_P = np.nanquantile(value_BP[:, is_known_P], [(1 - level) / 2, (1 + level) / 2], axis=0)
    near_P = (np.abs(offset_PN) <= width).sum(axis=1)
    shown_P = np.exp(points_P) if is_log else points_P
    return pd.DataFrame(dict(zip(columns, (shown_P, value_P, low_P, high_P, near_P), strict=True)))


def _fitted(count_BN: np.ndarray, kernel_PN: np.ndarray, offset_PN: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """The local lines' values (B, P) for trials taken so many times; NaN where fewer than two places are near."""
    s0, s1, s2, t0, t1 = (
        count_BN @ (kernel_PN * factor).T for factor in (1.0, offset_PN, offset_PN**2, y_N[None], offset_PN * y_N[None])
    )
    below = s0 * s2 - s1**2
    scale = np.maximum(s0 * s2, 1e-300)
    return np.where(below > 1e-9 * scale, (s2 * t0 - s1 * t1) / np.where(below > 1e-9 * scale, below, 1.0), np.nan)


def _bandwidth(x_N: np.ndarray) -> float:
    quartiles = float(np.subtract(*np.quantile(x_N, [0.75, 0.25])))
    spread = float(x_N.std(ddof=1))
    spread = min(spread, quartiles / 1.34) if quartiles > 0 else spread
    return 1.06 * spread * len(x_N) ** -0.2


def value_means(x: Sequence[float], y: Sequence[float], *, level: float = 0.95) -> pd.DataFrame:
    """The mean of y at each value of x with a t interval over its trials; no interval where there is one trial."""
    frame = pd.DataFrame({"x": np.asarray(x, dtype=float), "y": np.asarray(y, dtype=float)}).dropna()
    found = frame.groupby("x")["y"].agg(value="mean", spread="std", n_trials="size").reset_index()
    count = found["n_trials"].to_numpy(dtype=float)
    border = sps.t.ppf(0.5 + level / 2, np.maximum(count - 1, 1))
    half = np.where(count > 1, border * found["spread"].to_numpy() / np.sqrt(count), math.nan)
    found = found.assign(value_low=found["value"] - half, value_high=found["value"] + half)
    return found[list(_POINT)]


def category_means(x: Sequence[object], y: Sequence[float], *, level: float = 0.95) -> pd.DataFrame:
    """The same for each choice, in the order of their names; `category` is the choice in few characters."""
    texts = [json.dumps(value, sort_keys=True) for value in x]
    names = {text: short(json.loads(text)) for text in sorted(set(texts))}
    if len(set(names.values())) < len(names):  # such as two lists of one noise at different severities
        names = {text: text for text in names}
    order = sorted(names, key=lambda text: names[text])
    found = value_means([order.index(text) for text in texts], y, level=level)
    return found.assign(category=[names[order[int(place)]] for place in found["x"]], x=math.nan)


def search_settings(trials: pd.DataFrame) -> list[str]:
    """The settings of a search: the method, what `SETTINGS` names, then what else was drawn."""
    drawn = [name for name in trials.columns if name.startswith(_DRAWN) and name.removeprefix(_DRAWN) not in _SAME]
    return [*SETTINGS, *(["method"] if "method" in trials else []), *drawn]


def linear_settings(space: Mapping[str, Any]) -> set[str]:
    """The settings that a search draws from a range evenly, not by the logarithm, by their names in `effects`."""
    return {
        _SAME.get(name, name) for name, entry in space.items()
        if not {"choice", "fixed"} & {*entry} and not any("log" in kind for kind in entry)
    }  # fmt: skip


def effects(
    trials: pd.DataFrame, metric: str, *, settings: Sequence[str] = SETTINGS, linear: Collection[str] = ()
) -> pd.DataFrame:
    """The curve or the means of each setting that varies, in `EFFECT_COLUMNS`; trials without it are not in them.

    A number of few values gets a mean for each, else a curve, on a log scale where its values are positive and span a
    factor of ten or more and it is not in `linear`. Zeros beside a log range (SAM switched off) are a mean of their
    own, of kind "mean". What is no number gets a mean for each choice, of kind "category", and has its name in
    `category` and no `x`.

    Args:
        trials: As `analysis.trialframe.trial_frame` gives them.
        metric: Column of the figure.
        settings: Columns to look at. A drawn one (`param/optim.lr`) is called by its own name (`optim.lr`).
        linear: Settings of the result that have no log scale, see `linear_settings`.

    Raises:
        ValueError: The metric is no column.
    """
    if metric not in trials:
        raise ValueError(f"metric must be a column of the trials, but {metric!r} is none")
    parts = []
    for name in settings:
        known = trials[[name, metric]].dropna()
        own = name.removeprefix(_DRAWN)
        found = _of_setting(known[name], known[metric], may_log=own not in linear) if len(known) else []
        parts += [part.assign(setting=own) for part in found]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[list(EFFECT_COLUMNS)] if parts else pd.DataFrame(columns=EFFECT_COLUMNS)


def _of_setting(values: pd.Series, figures: pd.Series, *, may_log: bool) -> list[pd.DataFrame]:
    y = figures.to_numpy(dtype=float)
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        means = category_means(list(values), y)
        return [means.assign(kind="category", is_log=False)] if len(means) > 1 else []
    x = values.to_numpy(dtype=float)
    own = {"kind": "mean", "category": "", "is_log": False}
    if len(np.unique(x)) <= MOST_VALUES:
        return [value_means(x, y).assign(**own)] if len(np.unique(x)) > 1 else []
    positive = x[x > 0]
    is_log = bool(may_log and (x >= 0).all() and len(positive) > 0 and positive.max() >= 10 * positive.min())
    inside = x > 0 if is_log else np.ones(len(x), dtype=bool)
    curve = effect_curve(x[inside], y[inside], is_log=is_log).assign(**own | {"kind": "curve", "is_log": is_log})
    off = value_means(x[~inside], y[~inside]).assign(**own)
    return [off, curve] if len(off) else [curve]


def value_texts(found: pd.DataFrame) -> dict[Any, str]:
    """Row of what `effects` found -> its value in words: a choice's name, or a number.

    Whole numbers are written out; others have three digits, or as many as tell those of their setting apart.
    """
    texts: dict[Any, str] = {place: str(name) for place, name in found["category"].items()}
    numbers = found[found["kind"] != "category"]
    for _, x in numbers.groupby("setting", sort=False)["x"]:
        names: list[str] = []
        for digits in range(3, 18):
            names = [_number_text(float(value), digits) for value in x]
            if len(set(names)) == x.nunique():
                break
        texts |= dict(zip(x.index, names, strict=True))
    return texts


def _number_text(value: float, digits: int) -> str:
    if value.is_integer():
        return f"{value:,.0f}"
    if abs(value) < 1000:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(digits - len(str(int(abs(value)))), 0)}f}"


def effect_table(
    trials: pd.DataFrame, metric: str, *, settings: Sequence[str] = SETTINGS, linear: Collection[str] = ()
) -> Table:
    """The same as a table for people, accuracies in per cent."""
    frame = effects(trials, metric, settings=settings, linear=linear)
    scale, texts = 100.0 if metric.startswith("acc/") else 1.0, value_texts(frame)
    columns = [
        Column("setting", lambda row: row["setting"], is_number=False),
        Column("value", lambda row: texts[row.name], is_number=False),
        Column(metric, interval_text("value", scale=scale)),
        Column("trials", lambda row: f"{row['n_trials']:.0f}"),
    ]
    return Table("effects", frame, columns, [EFFECT_LEGEND] if len(frame) else [])
