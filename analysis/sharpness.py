"""Whether flatter networks are the more robust ones: m-sharpness against accuracy under noise, over trials.

m-sharpness is what a SAM step itself measures: the loss at the perturbed weights less the loss at the weights, with one
perturbation for each m images, their mean (Foret et al. 2021, arXiv 2010.01412, section 4.1). It is read from a column,
so that any trial that reports one can be told.
Source of doubt: sharpness depends on how weights are scaled (Dinh et al. 2017, arXiv 1703.04933), and across methods it
often does not follow generalisation (Andriushchenko et al. 2023, arXiv 2302.07011); so ranks are told within methods.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.fidelity import rank_agreement
from analysis.tables import Column, Table

SHARPNESS = "sharpness/m"
"""Metric of a trial's last event: mean over the last epoch's steps of loss at perturbed weights less loss, in nats."""
SHARPNESS_COLUMNS = ("within", "rho", "rho_low", "rho_high", "n_trials")
LEAST_OF_METHOD = 3
SHARPNESS_LEGEND = (
    "Spearman rank correlation of m-sharpness and the figure over trials [95 % interval]; below 0: flatter networks "
    "are better. Sharpness depends on scale, so methods are told apart; 'within all' ranks trials within their "
    "method and is of the methods that have 3 trials or more."
)


def sharpness_ranks(
    trials: pd.DataFrame, metric: str, *, sharpness: str = SHARPNESS, within: str = "method"
) -> pd.DataFrame:
    """Rank correlation of sharpness and a figure, for all trials, within each method, and within all methods at once.

    The last takes each trial's rank within its method, (rank - 1/2) / trials, so that every method has the mean 1/2 (a
    partial rank correlation given the method). Methods of fewer than `LEAST_OF_METHOD` trials are not in it: they say
    nothing, or nothing but a sign.

    Args:
        trials: A row for each trial; rows without both figures are left out.
        metric: Column of the figure, such as `acc/noise`.

    Returns:
        `SHARPNESS_COLUMNS`; `within` is "all trials", a method, or "within all".

    Raises:
        ValueError: A column is missing.
    """
    lacking = [name for name in (metric, sharpness, within) if name not in trials]
    if lacking:
        raise ValueError(
            f"sharpness is told from columns {metric}, {sharpness} and {within}, but {', '.join(lacking)} are missing; "
            "trials must report it"
        )
    known = trials[[within, sharpness, metric]].replace([np.inf, -np.inf], math.nan).dropna()
    rows = [("all trials", *rank_agreement(known[sharpness], known[metric]))]
    groups = known.groupby(within, sort=True)
    rows += [(str(name), *rank_agreement(part[sharpness], part[metric])) for name, part in groups]
    if groups.ngroups > 1:
        shares, num_methods = _shares(known, sharpness, metric, within)
        rest = rank_agreement(shares[sharpness], shares[metric], num_controlled=max(num_methods - 1, 0))
        rows.append(("within all", *rest))
    return pd.DataFrame(rows, columns=list(SHARPNESS_COLUMNS))


def _shares(known: pd.DataFrame, sharpness: str, metric: str, within: str) -> tuple[pd.DataFrame, int]:
    """Ranks within methods as shares in (0, 1), and of how many methods."""
    sizes = known[within].map(known[within].value_counts()).to_numpy()
    is_kept = sizes >= LEAST_OF_METHOD
    kept = pd.DataFrame(known.loc[is_kept])
    ranks = pd.DataFrame(kept.groupby(within)[[sharpness, metric]].rank())
    return (ranks - 0.5) / sizes[is_kept][:, None], len(set(kept[within]))


def sharpness_table(trials: pd.DataFrame, metric: str = "acc/noise", *, sharpness: str = SHARPNESS) -> Table:
    """The same as a table; empty where no trial reports sharpness."""
    has_any = sharpness in trials and metric in trials and len(trials[[sharpness, metric]].dropna()) > 0
    frame = sharpness_ranks(trials, metric, sharpness=sharpness) if has_any else pd.DataFrame()
    columns = [
        Column("within", lambda row: row["within"], is_number=False),
        Column("rank correlation", _text),
        Column("trials", lambda row: str(row["n_trials"])),
    ]
    return Table("sharpness", frame, columns, [SHARPNESS_LEGEND] if has_any else [])


def _text(row: pd.Series) -> str:
    if math.isnan(row["rho"]):
        return "–"
    bounds = "" if math.isnan(row["rho_low"]) else f" [{row['rho_low']:+.2f}, {row['rho_high']:+.2f}]"
    return f"{row['rho']:+.2f}{bounds}"
