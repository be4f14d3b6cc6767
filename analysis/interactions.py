"""Whether two settings act together, such as stages and rho: a two-way table and the interval of a double difference.

The interaction contrast of levels a, a' and b, b' is (y_a'b' - y_a'b) - (y_ab' - y_ab): by how much the effect of the
second setting changes with the first; 0 where effects add up.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.stats import LEVEL, Interval, crossed
from analysis.tables import Column, Table, interval_text

CELL_COLUMNS = ("first", "second", "value", "value_low", "value_high", "n_trials")
INTERACTION_LEGEND = (
    "Mean of the trials in each cell [95 % interval, spread pooled over cells]. The interaction is how much more the "
    "second setting's last level gains over its first at the first setting's last level than at its first."
)


class Contrast(NamedTuple):
    """The double difference of a two-way table; NaN bounds where no cell has two trials."""

    estimate: float
    low: float
    high: float
    df: float


def two_way(
    trials: pd.DataFrame, first: str, second: str, metric: str, *, bins: int = 3, level: float = LEVEL
) -> pd.DataFrame:
    """Mean and interval of each cell of two settings, in `CELL_COLUMNS`; levels are ordered categories.

    A setting of more than `bins` + 3 values is cut into `bins` parts of equally many trials, named by their ranges. The
    variance within cells is pooled, so that cells of one trial have an interval too.

    Args:
        trials: A row for each trial; rows where one of the three is missing are left out.

    Raises:
        ValueError: A name is no column.
    """
    return _cells(trials, first, second, metric, bins, level)[0]


def interaction(
    trials: pd.DataFrame, first: str, second: str, metric: str, *, bins: int = 3, level: float = LEVEL
) -> Contrast:
    """The interaction contrast of two settings' lowest and highest levels over a search's trials (pooled t interval).

    Returns:
        NaN where a corner of the table is empty or a setting has one level; NaN bounds where no cell has two trials.
    """
    cells, variance, df = _cells(trials, first, second, metric, bins, level)
    levels = [list(cells[name].cat.categories) for name in ("first", "second")]
    corner = cells.set_index([cells["first"].astype(str), cells["second"].astype(str)])
    if min(len(found) for found in levels) < 2:
        return Contrast(math.nan, math.nan, math.nan, 0)
    signs = {(one, two): (1 if one == levels[0][-1] else -1) * (1 if two == levels[1][-1] else -1)
             for one in (levels[0][0], levels[0][-1]) for two in (levels[1][0], levels[1][-1])}  # fmt: skip
    if not all(place in corner.index for place in signs):
        return Contrast(math.nan, math.nan, math.nan, 0)
    estimate = float(sum(sign * corner.loc[place, "value"] for place, sign in signs.items()))
    if not df:
        return Contrast(estimate, math.nan, math.nan, 0)
    se = math.sqrt(variance * sum(1 / float(corner.loc[place, "n_trials"]) for place in signs))
    half = float(sps.t.ppf(0.5 + level / 2, df)) * se
    return Contrast(estimate, estimate - half, estimate + half, df)


def _cells(
    trials: pd.DataFrame, first: str, second: str, metric: str, bins: int, level: float
) -> tuple[pd.DataFrame, float, int]:
    """The table, the pooled variance within its cells, and its degrees of freedom."""
    lacking = [name for name in (first, second, metric) if name not in trials]
    if lacking:
        raise ValueError(f"settings and metric must be columns of the trials, but {', '.join(lacking)} are none")
    known = trials[[first, second, metric]].dropna()
    frame = pd.DataFrame({"first": _levels(known[first], bins), "second": _levels(known[second], bins),
                          "y": known[metric].astype(float)})  # fmt: skip
    found = frame.groupby(["first", "second"], observed=True)["y"].agg(["mean", "size", "var"]).reset_index()
    count = found["size"].to_numpy()
    df = int((count - 1).sum())
    variance = float(np.nansum(found["var"].to_numpy() * (count - 1))) / df if df else math.nan
    half = sps.t.ppf(0.5 + level / 2, df) * np.sqrt(variance / found["size"]) if df else math.nan
    found = found.assign(value=found["mean"], value_low=found["mean"] - half, value_high=found["mean"] + half)
    return found.rename(columns={"size": "n_trials"})[list(CELL_COLUMNS)], variance, df


def _levels(column: pd.Series, bins: int) -> pd.Series:
    """Ordered levels as text."""
    is_number = pd.api.types.is_numeric_dtype(column)
    if column.nunique() <= bins + 3 or not is_number:
        values = sorted(column.unique())
        names = dict(
            zip(values, _named([(value,) for value in values]) if is_number else map(str, values), strict=True)
        )
        kind = pd.CategoricalDtype(list(dict.fromkeys(names.values())), ordered=True)
        return column.map(names).astype(kind)
    cut = pd.qcut(column, bins, duplicates="drop")
    return cut.cat.rename_categories(_named([(part.left, part.right) for part in cut.cat.categories]))


def _named(levels: Sequence[tuple[float, ...]]) -> list[str]:
    """Numbers or ranges of numbers as text, with no more digits than tell them apart."""
    first = 6 if all(len(level) == 1 for level in levels) else 3
    for digits in range(first, 18):
        names = [" to ".join(f"{end:.{digits}g}" for end in level) for level in levels]
        if len(set(names)) == len(names):
            break
    return names


def arm_interaction(scores: Mapping[tuple[float, float], np.ndarray], *, level: float = LEVEL) -> Interval:
    """The same of four tested arms by image: seeds and images random, as `analysis.stats.crossed`.

    Args:
        scores: (level of the first, level of the second) -> scores_SI, two levels of each; the later level in sorted
            order is the one that gains.

    Raises:
        ValueError: There are not two levels of each with all four arms.
    """
    levels = [sorted({place[axis] for place in scores}) for axis in (0, 1)]  # type: ignore[type-var]
    if [len(found) for found in levels] != [2, 2] or len(scores) != 4:
        raise ValueError(f"an interaction needs four arms of two levels each, but got {sorted(scores)}")  # type: ignore
    (low, high), (left, right) = levels
    terms = [
        (1.0, scores[high, right]),
        (-1.0, scores[high, left]),
        (-1.0, scores[low, right]),
        (1.0, scores[low, left]),
    ]
    return crossed(terms, level=level)


def interaction_table(
    trials: pd.DataFrame, metric: str, *, first: str = "stages", second: str = "rho", bins: int = 3
) -> Table:
    """The two-way table for people, with the contrast in its note."""
    frame = two_way(trials, first, second, metric, bins=bins)
    scale = 100.0 if metric.startswith("acc/") else 1.0
    columns = [
        Column(first, lambda row: str(row["first"]), is_number=False),
        Column(second, lambda row: str(row["second"]), is_number=False),
        Column(metric, interval_text("value", scale=scale)),
        Column("trials", lambda row: str(row["n_trials"])),
    ]
    if frame.empty:
        return Table("interaction", frame, columns)
    found = interaction(trials, first, second, metric, bins=bins)
    said = "no interval: no cell has two trials" if not found.df else (
        f"{found.estimate * scale:+.2f} (95 % interval {found.low * scale:+.2f} to {found.high * scale:+.2f})"
    )  # fmt: skip
    said = "not all four corners have trials" if math.isnan(found.estimate) else said
    return Table("interaction", frame, columns, [INTERACTION_LEGEND, f"Interaction of {first} and {second}: {said}."])
