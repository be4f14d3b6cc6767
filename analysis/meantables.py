"""Mean accuracies over families, groups and relations to the training noise, and on folders of real images."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.records import GROUP_ORDER, RELATIONS
from analysis.scores import Arm, Headline
from analysis.tables import REAL_LEGEND, Column, Table, accuracy_text, bounds, interval_text, real_figures


def mean_table(found: Headline) -> Table:
    """Mean accuracy of each configuration over every family, group and relation to its training noise."""
    rows = []
    for kind, order in (("family", ()), ("group", GROUP_ORDER), ("relation", RELATIONS)):
        names = {str(name) for arm in found.arms for name in arm.rows[kind].dropna()} - {"clean", "real"}
        known = {name: place for place, name in enumerate(order)}
        for name in sorted(names, key=lambda name: (known.get(name, len(known)), name)):
            rows += [_mean_row(arm, kind, name) for arm in found.arms if arm.among(kind, name)]
    columns = [
        Column("over", lambda row: row["over"], is_number=False),
        Column("name", lambda row: row["name"], is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("cells", lambda row: str(row["num_cells"])),
        Column("accuracy", accuracy_text("accuracy")),
        *_mean_measures(rows),
    ]
    note = "Accuracy in per cent [95 % interval], each corruption x severity counting the same. A family is a suite."
    return Table("means", pd.DataFrame(rows), columns, [note] if rows else [])


def _mean_row(arm: Arm, kind: str, name: str) -> dict:
    cells = arm.among(kind, name)
    row: dict = {"over": kind, "name": name, "config_id": arm.config_id, "label": arm.label, "num_cells": len(cells)}
    row |= bounds("accuracy", arm.mean(cells))
    return row | {column: arm.measure(column, cells) for column in ("ece", "flips")}


def _mean_measures(rows: Sequence[dict]) -> list[Column]:
    columns = {"ECE": "ece", "flips": "flips"}
    return [
        Column(title, interval_text(name))
        for title, name in columns.items()
        if any(not math.isnan(row[name]) for row in rows)
    ]


def real_table(found: Headline) -> Table:
    """Each folder of real noisy images x configuration; unpaired with all else, so nothing is said to be better."""
    rows = [
        {"images_of": name, "config_id": arm.config_id, "label": arm.label, "relation": "unseen",
         "n_seeds": int(arm.rows["trial"].nunique())} | real_figures(arm, name, prefix="accuracy")
        for name in found.real for arm in found.arms if arm.of(name)
    ]  # fmt: skip
    columns = [
        Column("real images", lambda row: row["images_of"], is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("images", lambda row: f"{row['accuracy_n']:.0f}"),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("accuracy", accuracy_text("accuracy")),
        Column("ECE", interval_text("accuracy_ece")),
    ]
    return Table("real", pd.DataFrame(rows), columns, [REAL_LEGEND] if rows else [])
