"""What trials that are judged by their embeddings tell beside accuracy: Recall@K, or the curves of a verification.

A trial of the task `retrieval` writes `retrieval.parquet`, one row for each cell x K; one of `verification` writes
`verification.parquet`, one row for each cell. Their accuracy everywhere else is Recall@1, or the share of pairs that
are told rightly.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.load import Snapshot, read_study
from analysis.recordfile import parse_table
from analysis.scores import CLEAN, NOISE, Arm, Headline
from analysis.sides import Word, noise_word
from analysis.tables import Column, Table, interval_text

Task = Literal["retrieval", "verification"]
_TRIAL_COLUMNS: dict[str, str] = {
    "study": "str",
    "phase": "str",
    "role": "str",
    "trial": "str",
    "config_id": "str",
    "label": "str",
    "method": "str",
    "backbone": "str",
    "seed": "Int64",
}
_CELL_COLUMNS: dict[str, str] = {
    "split": "str",
    "corruption": "str",
    "group": "str",
    "family": "str",
    "severity": "Int64",
    "n": "Int64",
    "bn": "str",
}
COLUMNS: dict[Task, dict[str, str]] = {
    "retrieval": _TRIAL_COLUMNS | _CELL_COLUMNS | {
        "left_out": "Int64",
        "k": "Int64",
        "correct": "Int64",
        "recall": "float64",
    },
    "verification": _TRIAL_COLUMNS | _CELL_COLUMNS | {
        "correct": "Int64",
        "accuracy": "float64",
        "folds": "Int64",
        "mean": "float64",
        "standard_error": "float64",
        "threshold": "float64",
        "auc": "float64",
        "far": "float64",
        "tar": "float64",
    },
}  # fmt: skip
"""Columns of `load_embeddings`. `n` is queries or pairs; `left_out` queries without another image of their class;
`mean` and `standard_error` are of the accuracies of the folds, `threshold` is the mean of theirs (a cosine); `tar` is
the share of true accepts where at most `far` of the different pairs are accepted."""
TITLES: dict[Task, str] = {"retrieval": "Recall@K", "verification": "Verification"}
LEGENDS: dict[Task, str] = {
    "retrieval": (
        "Each image is a query against all others, by its embedding; Recall@K is the share that find one of their "
        "class among the K nearest. Accuracy everywhere else in this report is Recall@1; neighbours are no "
        "probabilities, so there is no ECE, and flips are queries whose nearest neighbour is of another class than "
        "without noise. "
        "Intervals treat the queries as if each had a gallery of its own."
    ),
    "verification": (
        "Pairs of images, told to be the same or different by the similarity of their embeddings, each fold by the "
        "threshold that is best on the others, chosen anew for each noise. Everywhere else in this report an image is "
        "such a pair, and accuracy the share told rightly; similarities are no probabilities, so there is no ECE. "
        "Intervals treat pairs as independent, which share images. SE: standard error over folds, mean over trials; "
        "AUC: area under the ROC curve; TAR: share of true accepts where at most 1 % of different pairs are accepted."
    ),
}
_MEASURES = ("standard_error", "auc", "tar")


def load_embeddings(study: str | Path, *, task: Task, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per split x cell (x K) of each trial that was judged by its embeddings.

    Args:
        study: the study's folder `<storage>/<study>` (a path or any fsspec URL); with `tracking_uri`, its name.
        task: whose rows.
        tracking_uri: MLflow server or database to read from in place of the folder.

    Raises:
        FileNotFoundError: there is no such study.
    """
    return read_embeddings(read_study(study, tracking_uri=tracking_uri), task)


def read_embeddings(snapshot: Snapshot, task: Task, *, trials: Sequence[str] | None = None) -> pd.DataFrame:
    """The same of a snapshot, of the chosen trials or of all, in the order of its frame."""
    own = snapshot.frame().drop_duplicates("trial").set_index("trial")
    columns, parts = COLUMNS[task], []
    for key in own.index if trials is None else trials:
        is_finished = own.loc[key, "status"] == "finished"
        content = snapshot.places[key].read(f"{task}.parquet") if is_finished else None
        if content is not None:
            fixed = {name: own.loc[key, name] for name in _TRIAL_COLUMNS if name != "trial"}
            table = parse_table(content, f"{task}.parquet of trial {key}", columns=columns.keys() - {"trial", *fixed})
            parts.append(table.assign(trial=key, **fixed)[list(columns)])
    if not parts:
        return pd.DataFrame(columns=list(columns)).astype(columns)
    return pd.concat(parts, ignore_index=True).astype(columns)


def task_of(study: Mapping[str, Any]) -> Task | None:
    """The task that a study's trials are judged by, None for classification."""
    name = ((study.get("config") or {}).get("task") or {}).get("name")
    return name if name in COLUMNS else None


def task_settings(config: Mapping[str, Any]) -> str:
    """What makes an image right under a configuration's task, in words; figures of two compare where it is the same.

    The K of a retrieval are left out, its accuracy is always Recall@1; so is where the pairs of a verification lie:
    `other_pairs` tells whether they are the same.
    """
    task = config.get("task") or {}
    parts = [str(task.get("name") or "classification")]
    parts += [f"{name} {task[name]}" for name in ("reference", "normalise") if name in task]
    return ", ".join(parts)


def other_pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How the lists that two verifications are tested on differ, in words; empty where they are one.

    Args:
        first: `study.json`, or `trial.json` of a tested trial.
        second: The same of the other.
    """
    marks = [str(item.get("pairs") or "") for item in (first, second)]
    shown = " and ".join(mark[:12] or "none" for mark in marks)
    return f"different lists of pairs (fingerprints {shown})" if marks[0] != marks[1] else ""


def embedding_table(snapshot: Snapshot, found: Headline) -> Table:
    """What the study's task has beside accuracy, for each configuration; empty for classification."""
    task = task_of(snapshot.study)
    if task is None:
        return Table("embeddings", pd.DataFrame(), [])
    every = read_embeddings(snapshot, task, trials=[str(t) for arm in found.arms for t in arm.rows["trial"].unique()])
    every = every[every["split"] == found.split]
    rows: list[dict[str, Any]] = []
    for arm in found.arms:
        own = every[every["trial"].isin(arm.rows["trial"])]
        if len(own):
            _agree_with_cells(arm, own, task)
            rows.append(_identity(arm, own) | (_recalls(own) if task == "retrieval" else _curves(arm, own)))
    word = noise_word(found)
    columns = [
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("queries" if task == "retrieval" else "pairs", lambda row: str(row["n"])),
        *(_recall_columns(rows, word) if task == "retrieval" else _curve_columns(word)),
    ]
    note = f"{TITLES[task]} in per cent, means over seeds and cells, on {found.split} images. {LEGENDS[task]}"
    return Table(task, pd.DataFrame(rows), columns, [note] if rows else [])


def _identity(arm: Arm, own: pd.DataFrame) -> dict[str, Any]:
    return {"config_id": arm.config_id, "label": arm.label, "n_seeds": own["trial"].nunique(), "n": int(own["n"].min())}


def _kinds(own: pd.DataFrame) -> dict[str, pd.DataFrame]:
    is_clean = own["corruption"] == CLEAN
    return {CLEAN: own[is_clean], NOISE: own[~is_clean]}


def _recalls(own: pd.DataFrame) -> dict[str, Any]:
    """Mean recall over seeds and cells, each cell counting the same."""
    found: dict[str, Any] = {"left_out": int(own["left_out"].max())}
    for kind, part in _kinds(own).items():
        found |= {f"{kind}_at_{k}": float(mine["recall"].mean()) for k, mine in part.groupby("k")}
    return found


def _curves(arm: Arm, own: pd.DataFrame) -> dict[str, Any]:
    """Accuracy with the interval that the report has elsewhere, and the mean measures over seeds and cells."""
    found: dict[str, Any] = {}
    for kind, part in _kinds(own).items():
        mean = arm.mean(arm.of(CLEAN) if kind == CLEAN else arm.noisy())
        bounds = (math.nan,) * 3 if mean is None else (mean.estimate, mean.low, mean.high)
        found |= dict(zip((kind, f"{kind}_low", f"{kind}_high"), bounds, strict=True))
        found |= {f"{kind}_{name}": float(part[name].mean()) for name in _MEASURES}
    return found


def _recall_columns(rows: Sequence[Mapping[str, Any]], word: Word) -> list[Column]:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if "_at_" in name]
    titles = {name: name.replace(f"{NOISE}_at_", f"mean {word} @").replace(f"{CLEAN}_at_", "clean @") for name in names}
    left_out = [Column("left out", lambda row: str(row["left_out"]))] if any(row["left_out"] for row in rows) else []
    return [*left_out, *(Column(titles[name], interval_text(name)) for name in names)]


def _curve_columns(word: Word) -> list[Column]:
    columns = []
    for kind, title in ((CLEAN, "clean"), (NOISE, f"mean {word}")):
        columns.append(Column(title, interval_text(kind)))
        names = {"SE": f"{kind}_standard_error", "AUC": f"{kind}_auc", "TAR": f"{kind}_tar"}
        columns += [Column(f"{title} {short}", interval_text(name)) for short, name in names.items()]
    return columns


def _agree_with_cells(arm: Arm, own: pd.DataFrame, task: Task) -> None:
    """Accuracy in `cells.parquet` is Recall@1, or the pairs told rightly."""
    own = own[own["k"] == 1] if task == "retrieval" else own  # pyright: ignore[reportAssignmentType]
    key = ["trial", "corruption", "severity"]
    own_counts = own.set_index(key)["correct"].sort_index()
    counted = arm.rows[arm.rows["trial"].isin(own["trial"])].set_index(key)["correct"].sort_index()
    if len(own_counts) and not own_counts.equals(counted):
        raise ValueError(
            f"{task}.parquet and cells must agree, but for {arm.label} it was not right as often as cells.parquet "
            "says; run its trials again"
        )
