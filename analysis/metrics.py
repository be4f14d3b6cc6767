"""What an accuracy grid says: means, worst corruption, mean corruption error. Pure functions of the contract's rows.

All of them take the rows of ONE split; `main_rows` picks them, with the re-estimated BatchNorm statistics where a trial
has both. Every mean over noise is over corruption x severity cells, each cell counting the same.
Source: Hendrycks & Dietterich 2019, arXiv 1903.12261, section 4 (mCE, relative mCE); normalised here by a baseline of
the same study, never by published errors of other images.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.labels import flatten
from analysis.records import TrialRecord, config_id

Split = Literal["train", "validation", "test"]


class CorruptionError(NamedTuple):
    """A mean corruption error.

    Attributes:
        value: the mean over corruptions; missing (NaN) where no corruption has a usable denominator.
        by_corruption: the ratio of each corruption; NaN where its denominator is 0 or less.
        notes: which corruptions are missing, and why.
    """

    value: float
    by_corruption: dict[str, float]
    notes: list[str]


def main_rows(frame: pd.DataFrame, *, split: Split) -> pd.DataFrame:
    """Rows of a split, one for each trial and cell: re-estimated BatchNorm statistics win over trained ones."""
    rows = frame[frame["split"] == split]
    first = rows["bn"].fillna("").ne("reestimated").astype(int)
    order = rows.assign(_order=first).sort_values("_order", kind="stable").index
    kept = rows.loc[order].drop_duplicates(["trial", "corruption", "severity"])
    return rows.loc[rows.index.isin(kept.index)]


def trial_metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Headline metrics of one trial's rows (see `main_rows`).

    Returns:
        `acc/clean`, `acc/noise`, `acc/worst_family`, `error/mean` (unnormalised mean error, 1 - acc/noise),
        `acc/group/<group>` and `acc/relation/<seen|similar|unseen>`; what has no cell is left out.
    """
    if rows["trial"].nunique() > 1:
        raise ValueError(f"rows must be those of one trial, but are of {sorted(rows['trial'].unique())}")
    clean, noisy = rows[rows["corruption"] == "clean"], rows[rows["corruption"] != "clean"]
    found: dict[str, float] = {}
    if len(clean):
        found["acc/clean"] = float(clean["accuracy"].mean())
    if len(noisy):
        found["acc/noise"] = float(noisy["accuracy"].mean())
        found["acc/worst_family"] = worst_family(noisy)[1]
        found["error/mean"] = 1.0 - found["acc/noise"]
    for column in ("group", "relation"):
        means = noisy.groupby(column)["accuracy"].mean()
        found |= {f"acc/{column}/{name}": float(value) for name, value in means.items()}
    return found


def headline(cells: pd.DataFrame | Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`acc/clean`, `acc/noise` and `acc/worst_family` of cells (corruption, accuracy), as a trial reports them."""
    rows = pd.DataFrame(cells).assign(trial="", group="", relation="")
    found = trial_metrics(rows)
    return {name: found[name] for name in ("acc/clean", "acc/noise", "acc/worst_family") if name in found}


def worst_family(rows: pd.DataFrame) -> tuple[str, float]:
    """The corruption with the lowest accuracy, averaged over its severities (and over trials); ties by name.

    Raises:
        ValueError: there is no noisy row.
    """
    means = by_corruption(rows)
    means = means[means.index != "clean"]
    if means.empty:
        raise ValueError("worst_family needs rows of at least one corruption, but got clean rows only")
    low = float(means.min())
    return str(sorted(means.index[means == low])[0]), low


def by_corruption(rows: pd.DataFrame) -> pd.Series:
    """Accuracy of each corruption (clean among them), averaged over severities and trials."""
    return rows.groupby("corruption")["accuracy"].mean()


def mean_corruption_error(
    rows: pd.DataFrame, baseline_rows: pd.DataFrame, *, relative: bool = False
) -> CorruptionError:
    r"""Mean corruption error of a configuration against a baseline of the same study.

    .. math:: mCE = mean_c \frac{\sum_s E_{c,s}}{\sum_s E^{base}_{c,s}}, \qquad
        relative: mean_c \frac{\sum_s (E_{c,s} - E_{clean})}{\sum_s (E^{base}_{c,s} - E^{base}_{clean})}

    Args:
        rows: rows of one configuration (all its seeds) on one split.
        baseline_rows: rows of the baseline, same split, same cells.
        relative: measure the loss against clean instead of the error.

    Returns:
        1 is as the baseline, below 1 is better.

    Raises:
        ValueError: the two do not have the same cells.
    """
    own, base = _cell_errors(rows), _cell_errors(baseline_rows)
    if set(own.index) != set(base.index):
        differ = sorted(set(own.index) ^ set(base.index))
        raise ValueError(
            f"mCE needs the same corruption x severity cells on both sides, but these differ: {differ[:5]}"
        )
    own_clean, base_clean = own.get(("clean", 0), float("nan")), base.get(("clean", 0), float("nan"))
    ratios: dict[str, float] = {}
    notes: list[str] = []
    for corruption in sorted({name for name, _ in own.index if name != "clean"}):
        top, bottom = own.loc[corruption], base.loc[corruption]
        if relative:
            top, bottom = top - own_clean, bottom - base_clean
        total = float(bottom.sum())
        ratios[corruption] = float(top.sum()) / total if total > 0 else float("nan")
        if not total > 0:
            what = "loss against clean" if relative else "error"
            notes.append(f"{corruption}: the baseline's {what} is {total:.3g}, so its ratio is missing")
    usable = [value for value in ratios.values() if value == value]
    return CorruptionError(sum(usable) / len(usable) if usable else float("nan"), ratios, notes)


def _cell_errors(rows: pd.DataFrame) -> pd.Series:
    return 1.0 - rows.groupby(["corruption", "severity"])["accuracy"].mean()


def find_baseline(records: list[TrialRecord], baseline: Mapping[str, Any] | str, *, phase: str | None = None) -> str:
    """The config id of the named baseline among the trials (of a phase); the lowest-numbered match.

    Args:
        records: trials of the study.
        baseline: a trial's key, or dotted keys and values, such as {"method.name": "plain"}.
        phase: look in this phase only.

    Raises:
        LookupError: no trial matches.
    """
    pool = [r for r in records if phase is None or r.info["phase"] == phase]
    for record in sorted(pool, key=lambda r: (r.info.get("number", 0), r.key)):
        flat = flatten(record.info["config"])
        if record.key == baseline:
            return config_id(record.info["config"])
        if isinstance(baseline, Mapping) and all(flat.get(key) == value for key, value in baseline.items()):
            return config_id(record.info["config"])
    where = f" in phase {phase!r}" if phase else ""
    raise LookupError(f"no trial{where} matches the baseline {baseline!r}; set report.baseline to keys of one that ran")
