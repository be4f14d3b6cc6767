"""Rules of choosing a configuration by name, on the rows of validation images alone.

The rules see a frame of the contract (`analysis.records`) and refuse every row that is not of the validation split, so
that no choice can have seen a test figure, by whatever way the frame came.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pandas as pd

from analysis.metrics import main_rows, own_images
from analysis.pareto import pareto_front

Rule = Literal["best_validation_mean", "best_worst_family", "pareto_under_cost"]

CHOICE_COLUMNS = ("config_id", "label", "n_seeds", "number", "clean", "noise_mean", "worst", "worst_corruption", "cost")
"""Columns of what a rule gives: a row for each configuration, means over its seeds, accuracies in [0, 1]."""


def choose(
    rows: pd.DataFrame, rule: Rule, *, bound: float | None = None, cost: str = "cost_passes", count: int | None = None
) -> pd.DataFrame:
    """The configurations that a rule chooses, best first.

    - `best_validation_mean`: the highest mean accuracy over all noisy cells, each cell counting the same.
    - `best_worst_family`: the highest accuracy under the single corruption, over its severities, that is worst for the
      configuration: what trials report as `acc/worst_family`, no mean over a suite.
    - `pareto_under_cost`: of those that cost at most `bound`, all that no other beats in mean accuracy without costing
      more; the most accurate first.

    Ties go to the lower trial number, then to the id. A configuration without the figure is not chosen.

    Args:
        rows: The contract's rows of one or more trials, of the validation split.
        bound: The highest cost, above 0; for `pareto_under_cost` alone, which needs it.
        cost: Column of the cost.
        count: At most so many; left out: one, or the whole front.

    Returns:
        `CHOICE_COLUMNS`; empty where nothing fits under the bound.

    Raises:
        ValueError: An unknown rule, rows of another split, configurations with different cells, a column that is
            missing, or a bound where there must be none.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, but got {rule!r}")
    if (bound is None) == (rule == "pareto_under_cost"):
        raise ValueError(f"bound belongs to pareto_under_cost and to it alone, but got bound={bound} for {rule}")
    if bound is not None and not (bound > 0 and math.isfinite(bound)):
        raise ValueError(f"bound must be a cost above 0, but got {bound}")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, but got {count}")
    chosen = RULES[rule](figures(rows, cost=cost), bound if bound is not None else math.inf)
    return chosen.head(len(chosen) if count is None and rule == "pareto_under_cost" else count or 1)


def figures(rows: pd.DataFrame, *, cost: str = "cost_passes") -> pd.DataFrame:
    """What the rules see: a row of `CHOICE_COLUMNS` for each configuration.

    Raises:
        ValueError: As `choose`.
    """
    strays = sorted({str(split) for split in rows["split"].unique()} - {"validation"})
    if strays:
        raise ValueError(
            f"a choice must see validation rows alone, but got rows of {', '.join(strays)}; "
            "take frame[frame['split'] == 'validation']"
        )
    if cost not in rows:
        raise ValueError(f"cost must be a column of the rows, but {cost!r} is none")
    kept = own_images(main_rows(rows, split="validation"))
    _same_cells(kept)
    is_clean = kept["corruption"] == "clean"
    by_trial = kept.drop_duplicates("trial").groupby("config_id", sort=False)
    found = by_trial.agg(label=("label", "first"), n_seeds=("trial", "nunique"), number=("number", "min"),
                         cost=(cost, "mean"))  # fmt: skip
    found["clean"] = kept[is_clean].groupby("config_id")["accuracy"].mean()
    noisy = kept[~is_clean]
    found["noise_mean"] = noisy.groupby("config_id")["accuracy"].mean()
    by_corruption = noisy.groupby(["config_id", "corruption"])["accuracy"].mean().unstack()
    found["worst"] = by_corruption.min(axis=1)
    found["worst_corruption"] = by_corruption.dropna(how="all").idxmin(axis=1)
    return found.reset_index()[list(CHOICE_COLUMNS)]


def _same_cells(rows: pd.DataFrame) -> None:
    cells = rows.groupby(["corruption", "severity"])["trial"].nunique()
    short = cells[cells < rows["trial"].nunique()]
    if len(short):
        name, severity = short.index[0]
        raise ValueError(
            f"all trials must have the same cells, but {name} at severity {severity} is of {short.iloc[0]} of "
            f"{rows['trial'].nunique()} trials; choose among trials of one phase and one grid"
        )


def _best_by(column: str) -> Callable[[pd.DataFrame, float], pd.DataFrame]:
    def ordered(found: pd.DataFrame, _bound: float) -> pd.DataFrame:
        return _ranked(found.dropna(subset=[column]), column)

    return ordered


def _ranked(found: pd.DataFrame, column: str) -> pd.DataFrame:
    order = found.sort_values([column, "number", "config_id"], ascending=[False, True, True], kind="stable")
    return order.reset_index(drop=True)


def _front(found: pd.DataFrame, bound: float) -> pd.DataFrame:
    front = pareto_front(found[found["cost"] <= bound], {"noise_mean": "maximise", "cost": "minimise"})
    return _ranked(front, "noise_mean")


RULES: dict[str, Callable[[pd.DataFrame, float], pd.DataFrame]] = {
    "best_validation_mean": _best_by("noise_mean"),
    "best_worst_family": _best_by("worst"),
    "pareto_under_cost": _front,
}
"""Name -> what it does with `figures`."""
