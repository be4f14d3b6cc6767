"""The table of all trials of a study."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.load import Snapshot
from analysis.plaintext import encodable
from analysis.records import final_metrics, last_metric
from analysis.searches import can_be_chosen, objective_of
from analysis.tables import Column, Table, count_text, value_text


def trial_table(snapshot: Snapshot) -> Table:
    """Every trial of the study, whatever became of it, with its phase's first objective (of a tested one the study's).

    Columns of the frame: phase, number, trial, label, seed, status, keeps (the constraints), metric and its value on
    validation images, both costs and the error.
    """
    frame = snapshot.frame().drop_duplicates("trial").set_index("trial")
    records = {record.key: record for record in snapshot.trials}
    rows = []
    for key, row in frame.iterrows():
        metric = objective_of(snapshot.study, row["phase"])[0]
        record = records[str(key)]
        ended = final_metrics(record.events).get(metric, math.nan)
        is_final = record.status == "finished" or not math.isnan(ended)
        last = ended if is_final else last_metric(record.events, metric)
        rows.append(
            {"phase": row["phase"], "number": row["number"], "trial": key, "label": row["label"], "seed": row["seed"],
             "status": row["status"], "keeps": record.status != "finished" or can_be_chosen(record, snapshot.study),
             "metric": metric, "value": last, "cost_passes": row["cost_passes"],
             "cost_seconds": row["cost_seconds"],
             "error": encodable(record.error or "") if record.status == "failed" else None}
        )  # fmt: skip
    columns = [
        Column("phase", lambda row: row["phase"], is_number=False),
        Column("no.", lambda row: str(row["number"])),
        Column("trial", lambda row: row["trial"], is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("seed", lambda row: "" if pd.isna(row["seed"]) else str(row["seed"])),
        Column("status", lambda row: row["status"] if row["keeps"] else "broke a constraint", is_number=False),
        _objective_column(rows),
        Column("passes", lambda row: count_text(row["cost_passes"])),
        Column("seconds", lambda row: count_text(row["cost_seconds"])),
        Column("error", lambda row: row["error"] if isinstance(row["error"], str) else "", is_number=False),
    ]
    return Table("trials", pd.DataFrame(rows).astype({"error": "str"}) if rows else pd.DataFrame(rows), columns)


def _objective_column(rows: Sequence[dict]) -> Column:
    """The figure that trials are ranked by; where phases differ in it, each row names its own."""
    metrics = {row["metric"] for row in rows}
    if len(metrics) == 1:
        return Column(f"{metrics.pop()} (validation)", lambda row: value_text(row["metric"], row["value"]))
    return Column("objective (validation)", lambda row: f"{value_text(row['metric'], row['value'])} {row['metric']}")
