"""Batch norms adapted to the test images: accuracy with statistics of each test cell beside that of the network as is.

A trial that was asked for it has a second row for each cell, `bn` = "adapted": the statistics are those of the cell's
own images, taken without their labels. Predictions were kept of the network as it is, so nothing is paired by image
here and an interval is one over training seeds alone.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.load import Snapshot
from analysis.metrics import main_rows, own_images
from analysis.scores import CLEAN, NOISE, Arm, Headline
from analysis.sides import Word, noise_word
from analysis.stats import LEVEL
from analysis.tables import Column, Table, interval_text

ADAPTED_LEGEND = (
    "Batch norms adapted: their statistics are re-estimated on each test cell's own images, without labels. An adapted "
    "prediction depends on the other images of the test, so it is no figure for one image at a time, and it stands in "
    "no other table or mean. Differences are adapted minus as they are, in points, over the same trials and cells; "
    "their interval is a t interval over training seeds on these images, missing for one seed."
)
_CELL = ["trial", "corruption", "severity"]
_PARTS = (CLEAN, NOISE)


def adapted_table(snapshot: Snapshot, found: Headline) -> Table:
    """Each configuration of the headline that was measured with adapted batch norms too; empty where none was."""
    every = own_images(main_rows(snapshot.frame(), split=found.split, adapted=True))
    rows = [row for arm in found.arms if (row := _row(arm, every)) is not None]
    word = noise_word(found)
    columns = [
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("images", lambda row: str(row["n_images"])),
        *(column for name, title in zip(_PARTS, _titles(word), strict=True) for column in _columns(name, title)),
    ]
    return Table("adapted", pd.DataFrame(rows), columns, [ADAPTED_LEGEND] if rows else [])


def adapted_lines(table: Table | None, word: Word) -> list[str]:
    """The table for the terminal, a line for each configuration; none where it is empty."""
    rows = [] if table is None else [row for _, row in table.frame.iterrows()]
    lines = []
    for row in rows:
        parts = [f"{title} {_text(row, name)}" for name, title in zip(_PARTS, _titles(word), strict=True)
                 if not math.isnan(row[name])]  # fmt: skip
        lines.append(f"  {row['label']} (n={row['n_images']}, seeds={row['n_seeds']}): {', '.join(parts)}")
    if not lines:
        return []
    return ["batch norms adapted to the test images, without labels; in no other figure:", *lines]


def _text(row: pd.Series, name: str) -> str:
    return f"{row[name] * 100:.1f} -> {row[f'{name}_adapted'] * 100:.1f} ({_gap_text(row, name)} points)"


def _gap_text(row: pd.Series, name: str) -> str:
    """The difference in points with its interval, signs on all; a dash where the cell was not measured."""
    gap, low, high = (row[f"{name}_difference{end}"] * 100 for end in ("", "_low", "_high"))
    if math.isnan(gap):
        return "–"
    return f"{gap:+.1f}" if math.isnan(low) else f"{gap:+.1f} [{low:+.1f} to {high:+.1f}]"


def _titles(word: Word) -> tuple[str, str]:
    return "clean", f"mean {word}"


def _columns(name: str, title: str) -> list[Column]:
    return [
        Column(title, interval_text(name)),
        Column(f"{title}, adapted", interval_text(f"{name}_adapted")),
        Column(f"{title}, difference", lambda row: _gap_text(row, name)),
    ]


def _row(arm: Arm, every: pd.DataFrame) -> dict[str, Any] | None:
    """One configuration, over the trials and cells that were measured both ways."""
    both = own_images(arm.rows).merge(every, on=_CELL, suffixes=("", "_adapted"))
    if both.empty:
        return None
    row: dict[str, Any] = {"config_id": arm.config_id, "label": arm.label, "n_seeds": both["trial"].nunique()}
    row["n_images"] = int(both[["n", "n_adapted"]].min(axis=None))
    is_clean = both["corruption"] == CLEAN
    for name, part in zip(_PARTS, (both[is_clean], both[~is_clean]), strict=True):
        by_trial = part.groupby("trial")[["accuracy", "accuracy_adapted"]].mean()
        row |= {name: float(by_trial["accuracy"].mean()), f"{name}_adapted": float(by_trial["accuracy_adapted"].mean())}
        row |= _difference(f"{name}_difference", (by_trial["accuracy_adapted"] - by_trial["accuracy"]).to_numpy())
    return row


def _difference(name: str, differences_S: np.ndarray) -> dict[str, float]:
    """The mean over S seeds with Student's t interval; bounds are missing (NaN) for fewer than two."""
    num_seeds = len(differences_S)
    mean = float(differences_S.mean()) if num_seeds else math.nan
    half = math.nan
    if num_seeds > 1:
        half = float(sps.t.ppf(0.5 + LEVEL / 2, num_seeds - 1) * differences_S.std(ddof=1) / math.sqrt(num_seeds))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
