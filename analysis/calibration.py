"""How far confidence is from accuracy under noise: calibration error and the reliability table, by family of noise.

Source: expected calibration error, Naeini, Cooper & Hauskrecht 2015, AAAI 29; equal bins as Guo et al. 2017, arXiv
1706.04599. It is biased upwards where a bin has few rows. Here a trial's rows of all cells of a kind are pooled, so
figures are lower than the mean over cells of `ece`, in which cells that are over- and under-confident cannot cancel.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.rowcodes import codes_of, kinds_of, sums
from analysis.tables import Column, Table, interval_text

BINS = 15
RELIABILITY_COLUMNS = ("kind", "bin_low", "bin_high", "n", "confidence", "accuracy", "gap")
ECE_COLUMNS = ("kind", "ece", "ece_low", "ece_high", "confidence", "accuracy", "n_trials", "n_rows")
CALIBRATION_LEGEND = (
    "ECE: mean distance of confidence and accuracy over 15 bins of confidence, in per cent, all cells of a kind pooled "
    "within a trial [95 % t interval over trials]. Confidence above accuracy: the network is too sure."
)


def reliability(predictions: pd.DataFrame, kinds: Mapping[str, str], *, bins: int = BINS) -> pd.DataFrame:
    """Confidence and accuracy in each bin of confidence, for clean images and each kind of noise, trials pooled.

    Args:
        predictions: Rows with `trial`, `corruption`, `confidence` in [0, 1] and `correct`. Rows without a confidence
            (NaN) are in no bin.
        kinds: Corruption -> group or family.

    Returns:
        `RELIABILITY_COLUMNS`, bins that hold no row left out; `gap` is accuracy less confidence.

    Raises:
        ValueError: A confidence lies outside [0, 1].
    """
    names, total = _binned(predictions, kinds, bins)
    rows_KB, right_KB, sure_KB = (part.sum(axis=0) for part in total)
    place_K, place_B = np.nonzero(rows_KB)
    n = rows_KB[place_K, place_B]
    sure, right = sure_KB[place_K, place_B] / n, right_KB[place_K, place_B] / n
    columns = (np.array(names, dtype=object)[place_K], place_B / bins, (place_B + 1) / bins, n.astype(np.int64), sure,
               right, right - sure)  # fmt: skip
    return pd.DataFrame(dict(zip(RELIABILITY_COLUMNS, columns, strict=True)))


def calibration_errors(
    predictions: pd.DataFrame, kinds: Mapping[str, str], *, bins: int = BINS, level: float = 0.95
) -> pd.DataFrame:
    r"""Expected calibration error of clean images and of each kind of noise: mean over trials, with a t interval.

    .. math:: ECE = \sum_b \frac{n_b}{n} |acc_b - conf_b|

    Returns:
        `ECE_COLUMNS`; bounds are missing for one trial. Rows without a confidence (NaN) are left out.
    """
    names, (rows_TKB, right_TKB, sure_TKB) = _binned(predictions, kinds, bins)
    n_TK = rows_TKB.sum(axis=2)
    error_TK = np.abs(right_TKB - sure_TKB).sum(axis=2) / np.where(n_TK > 0, n_TK, math.nan)
    found = []
    for place, name in enumerate(names):
        error_T = error_TK[n_TK[:, place] > 0, place]
        half = math.nan
        if len(error_T) > 1:
            half = float(sps.t.ppf(0.5 + level / 2, len(error_T) - 1) * error_T.std(ddof=1) / math.sqrt(len(error_T)))
        mean, total = float(error_T.mean()), float(n_TK[:, place].sum())
        sure, right = (float(part[:, place].sum()) / total for part in (sure_TKB, right_TKB))
        found.append(
            (name, mean, float(np.maximum(mean - half, 0.0)), mean + half, sure, right, len(error_T), int(total))
        )
    return pd.DataFrame(found, columns=list(ECE_COLUMNS))


def _binned(
    predictions: pd.DataFrame, kinds: Mapping[str, str], bins: int
) -> tuple[list[str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Kinds, clean first, and rows, right ones and summed confidence by trial, kind and bin; none of NaN confidence."""
    is_known = predictions["confidence"].notna().to_numpy()
    predictions = predictions if is_known.all() else predictions.loc[is_known]
    sure = predictions["confidence"].to_numpy(dtype=float)
    if len(sure) and not (sure.min() >= 0 and sure.max() <= 1):
        raise ValueError(f"confidence must be in [0, 1], but lies in [{sure.min():.3g}, {sure.max():.3g}]")
    trials, corruptions = codes_of(predictions["trial"]), codes_of(predictions["corruption"])
    kind = kinds_of(corruptions, kinds, with_clean=True)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    shape = (len(trials.names), len(kind.names), bins)
    right = predictions["correct"].to_numpy(dtype=float)
    parts = sums(trials.of_row, kind.of_row, place, shape=shape, weights=[None, right, sure])
    return kind.names, (parts[0], parts[1], parts[2])


def calibration_table(predictions: pd.DataFrame, kinds: Mapping[str, str]) -> Table:
    """Calibration errors as a table for people."""
    frame = calibration_errors(predictions, kinds)
    columns = [
        Column("noise", lambda row: row["kind"], is_number=False),
        Column("ECE", interval_text("ece")),
        Column("confidence", lambda row: f"{row['confidence'] * 100:.1f}"),
        Column("accuracy", lambda row: f"{row['accuracy'] * 100:.1f}"),
        Column("trials", lambda row: str(row["n_trials"])),
    ]
    without = int(predictions["confidence"].isna().sum())
    more = f" Left out: {without:,} of {len(predictions):,} rows that have no confidence." if without else ""
    return Table("calibration", frame, columns, [CALIBRATION_LEGEND + more] if len(frame) else [])
