"""The decision in one table: how accurate each configuration is, how sure its lead is, and what it costs."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import facts
from analysis.contrasts import endpoint_title
from analysis.load import Snapshot
from analysis.records import final_metrics
from analysis.scores import CLEAN, NOISE, Headline
from analysis.sides import noise_word
from analysis.tables import Column, Table, accuracy_text, bounds, count_text

_RUNNING = {"cost/params": "parameters", "cost/macs": "MACs", "cost/latency_ms": "latency (ms)"}
_COST = "training cost"
_EXPLAINED = {
    "parameters": "parameters", "MACs": "MACs (multiply-accumulates for one image)",
    "latency (ms)": "latency (one image, the shortest of many passes, of trials of earlier versions the median of 30, "
                    "measured where it was trained and beside other trials; below it its range over seeds)",
}  # fmt: skip


def decision_table(snapshot: Snapshot, found: Headline, contrasts: Table) -> Table:
    """A row for each configuration, the chosen one marked. No differences where the study stated its own contrasts.

    Columns of the frame: config_id, label, chosen, is_baseline, both means with bounds, for each endpoint its
    difference, joint interval and reading, the cost against the baseline's, parameters, MACs and latency (each with its
    least and most over seeds).
    """
    settings = (snapshot.study.get("config") or {}).get("report") or {}
    frame = contrasts.frame if not settings.get("contrasts") else contrasts.frame.iloc[:0]
    chosen, base = facts.chosen_arm(snapshot, found), found.reference()
    price = math.nan if base is None else _cost(base.rows)
    finals = {record.key: final_metrics(record.events) for record in snapshot.trials}
    rows: list[dict[str, Any]] = []
    for arm in found.arms:
        row: dict[str, Any] = {"config_id": arm.config_id, "label": arm.label,
                               "chosen": chosen is not None and arm.config_id == chosen.config_id,
                               "is_baseline": arm.config_id == found.baseline}  # fmt: skip
        row |= bounds(NOISE, arm.mean(arm.noisy())) | bounds(CLEAN, arm.mean(arm.of(CLEAN)))
        for _, other in frame[frame["config_id"] == arm.config_id].iterrows() if len(frame) else ():
            name = str(other["endpoint"])
            row |= {f"{name}_{key}": other[key] for key in ("difference", "joint_low", "joint_high", "verdict")}
        own = _cost(arm.rows)
        row["cost_ratio"] = own / price if price > 0 else math.nan
        mine = [finals.get(str(key), {}) for key in arm.rows["trial"].unique()]
        for name in _RUNNING:
            known = [value for metrics in mine if not math.isnan(value := metrics.get(name, math.nan))]
            row |= {name: sum(known) / len(known) if known else math.nan, f"{name}_least": min(known, default=math.nan),
                    f"{name}_most": max(known, default=math.nan)}  # fmt: skip
        rows.append(row)
    table = pd.DataFrame(rows)
    columns = [Column("configuration", _name, is_number=False)]
    for endpoint in (NOISE, CLEAN):
        if len(table) and table[endpoint].notna().any():
            columns += _endpoint_columns(endpoint, table, found)
    if len(table) and table["cost_ratio"].notna().any():
        columns.append(Column(_COST, lambda row: _times(row["cost_ratio"])))
    columns += [Column(title, lambda row, name=name: _price(row, name)) for name, title in _RUNNING.items()
                if len(table) and table[name].notna().any()]  # fmt: skip
    return Table("decision", table, columns, [_note([column.title for column in columns], found)] if rows else [])


def _note(titles: Sequence[str], found: Headline) -> str:
    """What the columns that there are mean, and which configuration stands behind differences and costs."""
    base = found.reference()
    is_baseline = base is not None and base.config_id == found.baseline
    name = "the baseline" if base is None or is_baseline else base.label
    said = [f"Accuracy in per cent of {found.split} images with its 95 % interval."]
    if any(title.endswith(", difference") for title in titles):
        said.append(f"A difference is from {name} in points, paired by image and noise, with the interval that holds "
                    "for all rows of the column at once.")  # fmt: skip
    if _COST in titles:
        said.append(f"Training cost is in gradient passes against those of {name}.")
    running = [words for title, words in _EXPLAINED.items() if title in titles]
    if running:
        *first, last = running
        listed = f"{', '.join(first)} and {last}" if first else last
        said.append(f"{listed[0].upper()}{listed[1:]} are those of the deployed network.")
    return " ".join(said)


def _endpoint_columns(endpoint: str, table: pd.DataFrame, found: Headline) -> list[Column]:
    title = endpoint_title(endpoint, noise=noise_word(found))
    columns = [Column(title, accuracy_text(endpoint))]
    if f"{endpoint}_difference" in table:
        columns.append(Column(f"{title}, difference", lambda row: _difference(row, endpoint)))
    return columns


def _difference(row: pd.Series, endpoint: str) -> str:
    if pd.isna(row[f"{endpoint}_difference"]):
        return "–"
    low, high = (f"{row[f'{endpoint}_{name}'] * 100:+.1f}" for name in ("joint_low", "joint_high"))
    return f"{row[f'{endpoint}_difference'] * 100:+.1f} [{low}, {high}] {row[f'{endpoint}_verdict']}"


def _name(row: pd.Series) -> str:
    marks = [word for word, is_so in (("chosen", row["chosen"]), ("baseline", row["is_baseline"])) if is_so]
    return f"{row['label']} ({', '.join(marks)})" if marks else str(row["label"])


def _cost(rows: pd.DataFrame) -> float:
    return float(rows.drop_duplicates("trial")["cost_passes"].mean())


def _times(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1f} ×"


def _price(row: pd.Series, name: str) -> str:
    """A cost, and its range over seeds where they differ: `3.3 [3.2, 3.5]`."""
    mean, least, most = (_short(row[key]) for key in (name, f"{name}_least", f"{name}_most"))
    return mean if least == most else f"{mean} [{least}, {most}]"


def _short(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.3g}" if value < 100 else count_text(value)
