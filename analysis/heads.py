"""Each head of a network with several by itself: how right it is alone, and what an early exit there costs.

A trial of such a method writes `heads.parquet`, one row for each head x cell, and in `predictions.parquet` a column
`correct_<head>` for each head but the sum, whose column is `correct`.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Snapshot, read_study
from analysis.metrics import own_images
from analysis.recordfile import parse_table
from analysis.records import CORRECT_PREFIX
from analysis.scores import CLEAN, NOISE, Arm, Headline
from analysis.sides import noise_word, rows_word
from analysis.stats import Interval, crossed_mean, from_counts
from analysis.tables import Column, Table, accuracy_text, bounds, count_text, interval_text

HEADS_FILE = "heads.parquet"
SUM = "sum"
"""The head that is the method's own prediction: the sum of all others' logits."""
HEAD_COLUMNS: dict[str, str] = {
    "study": "str",
    "phase": "str",
    "role": "str",
    "trial": "str",
    "config_id": "str",
    "label": "str",
    "method": "str",
    "backbone": "str",
    "seed": "Int64",
    "head": "str",
    "split": "str",
    "corruption": "str",
    "group": "str",
    "family": "str",
    "severity": "Int64",
    "n": "Int64",
    "correct": "Int64",
    "accuracy": "float64",
    "bn": "str",
    "parameters": "Int64",
    "macs": "Int64",
}
"""Columns of `load_heads`. `parameters` and `macs` (multiply-accumulates) are those of one image's forward pass that
stops at the head: the backbone to its stage and the head itself."""
HEAD_LEGEND = (
    "One network, asked at each of its heads: stage1 is the shallowest, backbone its own last classifier, sum all "
    "together, by which the method predicts everywhere else in this report. Parameters and MACs (multiply-accumulates) "
    "are those of a forward pass of one image that stops at the head. To choose a head, use the validation figures."
)
_OF_THE_TRIAL = ("study", "phase", "role", "config_id", "label", "method", "backbone", "seed")
_TOLERANCE = 1e-5


def load_heads(study: str | Path, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per head x split x corruption x severity of each trial whose method has several heads.

    Args:
        study: the study's folder `<storage>/<study>` (a path or any fsspec URL); with `tracking_uri`, its name.
        tracking_uri: MLflow server or database to read from in place of the folder.

    Raises:
        FileNotFoundError: there is no such study.
    """
    return read_heads(read_study(study, tracking_uri=tracking_uri))


def read_heads(snapshot: Snapshot, *, trials: Sequence[str] | None = None) -> pd.DataFrame:
    """The same of a snapshot, of the chosen trials or of all, in the order of its frame."""
    own = snapshot.frame().drop_duplicates("trial").set_index("trial")
    parts = []
    for key in own.index if trials is None else trials:
        content = snapshot.places[key].read(HEADS_FILE) if own.loc[key, "role"] != "search" else None
        if content is not None:
            fixed = {name: own.loc[key, name] for name in _OF_THE_TRIAL}
            written = HEAD_COLUMNS.keys() - {"trial", *fixed}
            table = parse_table(content, f"{HEADS_FILE} of trial {key}", columns=written)
            parts.append(table.assign(trial=key, **fixed)[list(HEAD_COLUMNS)])
    if not parts:
        return pd.DataFrame(columns=list(HEAD_COLUMNS)).astype(HEAD_COLUMNS)
    return pd.concat(parts, ignore_index=True).astype(HEAD_COLUMNS)


def head_table(snapshot: Snapshot, found: Headline) -> Table:
    """Each head of each configuration that has several, on the test images; empty where none was tested."""
    rows: list[dict[str, Any]] = []
    arms = found.arms if found.split == "test" else []
    every = own_images(read_heads(snapshot, trials=[str(t) for arm in arms for t in arm.rows["trial"].unique()]))
    for arm in arms:
        own = every[every["trial"].isin(arm.rows["trial"])]
        if len(own):
            _agree_with_cells(arm, own)
            rows += _arm_rows(arm, own, _scores(snapshot, own))
    word = noise_word(found)
    columns = [
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("head", lambda row: row["head"], is_number=False),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("images", lambda row: str(row["n_images"])),
        Column("clean", accuracy_text(CLEAN)),
        Column(f"mean {word}", accuracy_text(NOISE)),
        Column(f"validation {rows_word(every[every['split'] == 'validation'])}", interval_text("validation_noise")),
        Column("parameters", lambda row: count_text(row["parameters"])),
        Column("MACs", lambda row: count_text(row["macs"])),
    ]
    note = f"Accuracy in per cent [95 % interval]; validation figures are means over seeds. {HEAD_LEGEND}"
    return Table("heads", pd.DataFrame(rows), columns, [note] if rows else [])


def _arm_rows(arm: Arm, own: pd.DataFrame, scores: dict[str, dict[str, np.ndarray]] | None) -> list[dict[str, Any]]:
    rows = []
    for head, mine in own.groupby("head", sort=False):
        tested, validated = (mine[mine["split"] == split] for split in ("test", "validation"))
        clean, noise = (_interval(tested, kind, scores and scores[str(head)]) for kind in (CLEAN, NOISE))
        some = clean or noise
        row: dict[str, Any] = {"config_id": arm.config_id, "label": arm.label, "head": head}
        row |= {"n_seeds": mine["trial"].nunique(), "n_images": some.n_images if some else 0}
        row |= {"population": some.population if some else ""}
        row |= bounds(CLEAN, clean) | bounds(NOISE, noise)
        row |= {"validation_clean": _mean(validated, CLEAN), "validation_noise": _mean(validated, NOISE)}
        rows.append(row | {name: int(mine[name].iloc[0]) for name in ("parameters", "macs")})
    return rows


def _of(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    is_clean = rows["corruption"] == CLEAN
    return rows[is_clean] if kind == CLEAN else rows[~is_clean]


def _mean(rows: pd.DataFrame, kind: str) -> float:
    return float(_of(rows, kind)["accuracy"].mean())


def _interval(tested: pd.DataFrame, kind: str, scores: dict[str, np.ndarray] | None) -> Interval | None:
    """A head's mean accuracy over its seeds and the clean cell or all noisy ones, each cell counting the same."""
    rows = _of(tested, kind)
    if rows.empty:
        return None
    if scores is None:
        return from_counts(rows.groupby("trial")["accuracy"].mean().tolist(), int(rows["n"].min()))
    return crossed_mean(scores[kind])


def _scores(snapshot: Snapshot, own: pd.DataFrame) -> dict[str, dict[str, np.ndarray]] | None:
    """Head -> clean and noise -> share of its cells that each image is right in, by seed and image (S, I).

    None where some trial of the configuration kept no such columns, or they are of different images.
    """
    heads = list(dict.fromkeys(own["head"]))
    columns = {head: "correct" if head == SUM else f"{CORRECT_PREFIX}{head}" for head in heads}
    cells = set(own[own["split"] == "test"]["corruption"])
    kept: dict[str, list[pd.DataFrame]] = {CLEAN: [], NOISE: []}
    for trial in own["trial"].unique():
        content = snapshot.places[trial].read("predictions.parquet")
        frame = None if content is None else parse_table(content, f"predictions.parquet of trial {trial}")
        if frame is None or not set(columns.values()) <= set(frame):
            return None
        frame = frame[frame["corruption"].isin(cells)]
        for kind, parts in kept.items():
            parts.append(_of(frame, kind).groupby("image_id")[list(columns.values())].mean())
    every = [part for parts in kept.values() for part in parts if len(part)]
    if any(not part.index.equals(every[0].index) for part in every):
        return None
    scores = {head: {kind: np.stack([part[column] for part in parts]) for kind, parts in kept.items()}
              for head, column in columns.items()}  # fmt: skip
    _agree_with_rows(own, scores)
    return scores


def _agree_with_rows(own: pd.DataFrame, scores: dict[str, dict[str, np.ndarray]]) -> None:
    for head, rows in own[own["split"] == "test"].groupby("head"):
        for kind, scores_SI in scores[str(head)].items():
            expected = _mean(rows, kind)
            if scores_SI.size and abs(float(scores_SI.mean()) - expected) > _TOLERANCE:
                raise ValueError(
                    f"predictions and heads must agree, but for {rows['label'].iloc[0]} at {head}, {kind}, "
                    f"predictions.parquet says {scores_SI.mean():.4f} and {HEADS_FILE} {expected:.4f}; run its trials "
                    "again"
                )


def _agree_with_cells(arm: Arm, own: pd.DataFrame) -> None:
    """The sum of the heads is what the trial was counted by."""
    key = ["trial", "corruption", "severity"]
    summed = own[(own["head"] == SUM) & (own["split"] == "test")].set_index(key)["correct"]
    counted = own_images(arm.rows)
    counted = counted[counted["trial"].isin(own["trial"])].set_index(key)["correct"]
    if not summed.sort_index().equals(counted.sort_index()):
        raise ValueError(
            f"heads and cells must agree, but for {arm.label} the head {SUM!r} in {HEADS_FILE} was not right as often "
            "as cells.parquet says; run its trials again"
        )
