"""How alike a network's features of clean and of noisy images are, stage by stage: cosine and linear CKA, by method.

Source: linear CKA, Kornblith et al. 2019, arXiv 1905.00414, section 3. Both are 1 for equal features. The cosine is of
each image's own two vectors; CKA compares how images lie to each other, whatever rotation and scale. With few images
and many features CKA is biased upwards, so figures are compared only over equally many images.
A trial that was asked for it (`noise.similarity`) writes `similarity.parquet`, over its test images.
Shapes: N images, D features.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from analysis.load import Snapshot, read_study
from analysis.recordfile import parse_table
from analysis.scores import Headline
from analysis.tables import Column, Table, interval_text

SIMILARITY_COLUMNS: dict[str, str] = {
    "trial": "str", "method": "str", "stage": "int64", "corruption": "str", "severity": "int64", "n": "int64",
    "cosine": "float64", "cka": "float64",
}  # fmt: skip
"""What a table of features' likeness must have: one row for each trial x stage x noisy cell, over n images."""
SIMILARITY_FILE = "similarity.parquet"
STUDY_SIMILARITY_COLUMNS: dict[str, str] = {
    "study": "str", "phase": "str", "config_id": "str", "label": "str", "seed": "Int64", **SIMILARITY_COLUMNS,
}  # fmt: skip
"""Columns of `load_similarity`; stages count from 1, the backbone's shallowest."""
_OF_THE_TRIAL = ("study", "phase", "config_id", "label", "seed", "method")
MEASURES = ("cosine", "cka")
SIMILARITY_LEGEND = (
    "Likeness of the features of noisy images to those of the same images clean, 1 where they are equal: mean cosine "
    "of each image's vectors, and linear CKA [95 % t interval over training seeds]. Mean over the noisy cells."
)


def load_similarity(study: str | Path, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per stage x noisy test cell of each trial that measured it.

    Args:
        study: The study's folder `<storage>/<study>` (a path or any fsspec URL); with `tracking_uri`, its name.
        tracking_uri: MLflow server or database to read from in place of the folder.

    Returns:
        `STUDY_SIMILARITY_COLUMNS`, for `similarity_by_stage`; empty where no trial measured it.

    Raises:
        FileNotFoundError: There is no such study.
    """
    return read_similarity(read_study(study, tracking_uri=tracking_uri))


def read_similarity(snapshot: Snapshot, *, trials: Sequence[str] | None = None) -> pd.DataFrame:
    """The same of a snapshot, of the chosen trials or of all, in the order of its frame."""
    own = snapshot.frame().drop_duplicates("trial").set_index("trial")
    parts = []
    for key in own.index if trials is None else trials:
        content = snapshot.places[key].read(SIMILARITY_FILE) if own.loc[key, "role"] != "search" else None
        if content is not None:
            own_columns = STUDY_SIMILARITY_COLUMNS.keys() - {"trial", *_OF_THE_TRIAL}
            rows = parse_table(content, f"{SIMILARITY_FILE} of trial {key}", columns=own_columns)
            parts.append(rows.assign(trial=key, **{name: own.loc[key, name] for name in _OF_THE_TRIAL}))
    if not parts:
        return pd.DataFrame(columns=list(STUDY_SIMILARITY_COLUMNS)).astype(STUDY_SIMILARITY_COLUMNS)
    return pd.concat(parts, ignore_index=True)[list(STUDY_SIMILARITY_COLUMNS)].astype(STUDY_SIMILARITY_COLUMNS)


def study_similarity_table(snapshot: Snapshot, found: Headline) -> Table:
    """Each tested configuration's likeness by stage; empty where none was measured."""
    arms = found.arms if found.split == "test" else []
    rows = read_similarity(snapshot, trials=[str(t) for arm in arms for t in arm.rows["trial"].unique()])
    return similarity_table(rows, by="label")


def mean_cosine(clean_ND: np.ndarray, noisy_ND: np.ndarray) -> float:
    """Mean over images of the cosine of an image's clean and noisy features, in [-1, 1]; 0 where a vector is zero."""
    first, second = _pair(clean_ND, noisy_ND)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean(np.divide((first * second).sum(axis=1), norms, out=np.zeros(len(norms)), where=norms > 0)))


def linear_cka(clean_ND: np.ndarray, noisy_ND: np.ndarray) -> float:
    r"""Linear centred kernel alignment of two sets of features of the same images, in [0, 1].

    .. math:: \frac{\|Y^T X\|_F^2}{\|X^T X\|_F \|Y^T Y\|_F}

    with the columns of X and Y centred. By images or by features, whichever are fewer. NaN where all images have the
    same features.

    Raises:
        ValueError: The two are not of the same images, or of fewer than two.
    """
    first, second = _pair(clean_ND, noisy_ND, same_width=False)
    if len(first) < 2:
        raise ValueError(f"CKA compares how images lie to each other, but got {len(first)} image")
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    if len(first) < max(first.shape[1], second.shape[1]):
        one, two = first @ first.T, second @ second.T
        top, bottom = float((one * two).sum()), float(np.linalg.norm(one) * np.linalg.norm(two))
    else:
        top = float(np.linalg.norm(second.T @ first) ** 2)
        bottom = float(np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second))
    return top / bottom if bottom > 0 else math.nan


def _pair(clean_ND: np.ndarray, noisy_ND: np.ndarray, *, same_width: bool = True) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(clean_ND, dtype=float), np.asarray(noisy_ND, dtype=float)
    same = first.shape == second.shape if same_width else first.shape[:1] == second.shape[:1]
    if first.ndim != 2 or second.ndim != 2 or not same or not len(first):
        raise ValueError(f"features must be (images, features) of the same images, but got {first.shape} and "
                         f"{second.shape}")  # fmt: skip
    return first, second


def similarity_by_stage(rows: pd.DataFrame, *, by: str = "method", level: float = 0.95) -> pd.DataFrame:
    """Mean likeness of each method at each stage over its noisy cells, with a t interval over its trials.

    Args:
        rows: With `SIMILARITY_COLUMNS`.
        by: Column to group by in place of the method, such as `label`: a configuration.

    Returns:
        `method` (or what `by` names), `stage`, `n_trials`, and `cosine`, `cka` with `_low` and `_high` (missing
        for one trial).

    Raises:
        ValueError: A column is missing, or methods were measured over different numbers of images.
    """
    needed = dict.fromkeys([*SIMILARITY_COLUMNS, by])
    lacking = [name for name in needed if name not in rows]
    if lacking:
        raise ValueError(f"rows must have the columns {', '.join(needed)}, but lack {', '.join(lacking)}")
    if rows["n"].nunique() > 1:
        counts = sorted(rows["n"].unique().tolist())
        raise ValueError(
            f"likeness depends on how many images it is over, but rows are over {counts}; measure all alike"
        )
    noisy = rows[rows["corruption"] != "clean"]
    by_trial = noisy.groupby([by, "stage", "trial"], observed=True)[list(MEASURES)].mean()
    groups = by_trial.groupby([by, "stage"], observed=True)
    found = groups.size().rename("n_trials").to_frame()
    count = found["n_trials"].to_numpy(dtype=float)
    border = np.where(count > 1, sps.t.ppf(0.5 + level / 2, np.maximum(count - 1, 1)) / np.sqrt(count), math.nan)
    for name in MEASURES:
        mean, half = groups[name].mean(), groups[name].std() * border
        found = found.assign(**{name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half})
    return found.reset_index()


def similarity_table(rows: pd.DataFrame, *, by: str = "method") -> Table:
    """The same as a table for people."""
    frame = similarity_by_stage(rows, by=by)
    columns = [
        Column("configuration" if by == "label" else by, lambda row: str(row[by]), is_number=False),
        Column("stage", lambda row: str(row["stage"])),
        Column("cosine", interval_text("cosine", scale=1.0, digits=3)),
        Column("linear CKA", interval_text("cka", scale=1.0, digits=3)),
        Column("trials", lambda row: str(row["n_trials"])),
    ]
    return Table("similarity", frame, columns, [SIMILARITY_LEGEND] if len(frame) else [])
