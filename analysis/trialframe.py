"""One row for each finished search trial: its settings under dotted names, and what it reached on validation images."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.labels import flatten
from analysis.load import Snapshot
from analysis.records import final_metrics
from analysis.searches import current

RHO, STAGES, STRENGTH = "rho", "stages", "noise_strength"
"""Settings that every frame has, missing where a trial has none."""


def trial_frame(snapshot: Snapshot, *, phase: str | None = None) -> pd.DataFrame:
    """Finished search trials of the study's present settings (of one phase).

    Returns:
        `trial`, `phase`, `number`, `method`, `rho`, `stages`, `noise_strength`, the final metrics by their names (of
        the grid that the search was scored by, those of finalists too), and the drawn parameters as
        `param/<dotted key>`.
    """
    rows = []
    for record in current(snapshot.trials, snapshot.study):
        mine = phase is None or record.info["phase"] == phase
        if mine and record.info["role"] == "search" and record.status == "finished":
            config = record.info["config"]
            rows.append(
                final_metrics(record.events)
                | {f"param/{k}": v for k, v in flatten(record.info.get("params") or {}).items()}
                | settings_of(config)
                | {"trial": record.key, "phase": record.info["phase"], "number": record.info.get("number", 0)}
            )  # fmt: skip
    first = ["trial", "phase", "number", "method", RHO, STAGES, STRENGTH]
    frame = pd.DataFrame(rows)
    return frame[[*first, *sorted(set(frame.columns) - set(first))]] if rows else pd.DataFrame(columns=first)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Method, rho, number of stages and strength of training noise of a configuration."""
    method = config.get("method") or {}
    stages = method.get("stages")
    return {
        "method": str(method.get("name", "unknown")),
        RHO: float(((config.get("optim") or {}).get("sam") or {}).get("rho") or 0.0),
        STAGES: float(len(stages) if isinstance(stages, (list, tuple)) else stages) if stages is not None else math.nan,
        STRENGTH: noise_strength(config),
    }


def noise_strength(config: Mapping[str, Any]) -> float:
    """Mean severity of the training noise times its probability; 0 without noise, NaN where no severity is named.

    Severities of different noises are not the same dose, so curves over it are to be read within one kind of noise.
    """
    named = (config.get("noise") or {}).get("train")
    if named is None:
        return math.nan
    if not named:
        return 0.0
    doses = [
        float(np.mean(item["severities"])) * float(item.get("probability") or 1.0)
        for item in named if isinstance(item, Mapping) and item.get("severities")
    ]  # fmt: skip
    return float(np.mean(doses)) if len(doses) == len(named) else math.nan
