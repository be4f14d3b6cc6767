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
        `param/<dotted key>`, a drawn null as "none": what was not drawn is missing.
    """
    rows = []
    for record in current(snapshot.trials, snapshot.study):
        mine = phase is None or record.info["phase"] == phase
        if mine and record.info["role"] == "search" and record.status == "finished":
            config = record.info["config"]
            rows.append(
                final_metrics(record.events)
                | _drawn(record.info.get("params") or {})
                | settings_of(config)
                | {"trial": record.key, "phase": record.info["phase"], "number": record.info.get("number", 0)}
            )  # fmt: skip
    first = ["trial", "phase", "number", "method", RHO, STAGES, STRENGTH]
    frame = pd.DataFrame(rows)
    return frame[[*first, *sorted(set(frame.columns) - set(first))]] if rows else pd.DataFrame(columns=first)


def _drawn(params: Mapping[str, Any]) -> dict[str, Any]:
    return {f"param/{key}": "none" if value is None else value for key, value in flatten(params).items()}


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
    r"""The strength of training noise that an image gets on average, in units of severity (0 to 5).

    .. math:: \sum_i p_i \, m_i, \quad m_i = (low_i + high_i) / 2 \text{ of } strength_i \text{, else the mean of }
        severities_i

    An image gets at most one of the kinds, kind i with probability p_i, so that two kinds of one strength are one dose.
    As in training (`noise.training`), `strength` stands in place of `severities`. It is what the settings ask for: a
    curriculum's first epochs have less, and a corruption of whole severities only takes the nearest. Lower sides are no
    noise here. Severities of different kinds are not the same dose, so curves are to be read within one kind.

    Returns:
        0 without training noise. NaN where a kind that images get has no strength in these units: `pmal_pair`, whose
        strength is its own (also where it is the method's own), or one that names none, as the earliest records do.
    """
    noise, method = config.get("noise") or {}, config.get("method") or {}
    named = noise.get("train")
    if named is None:
        return math.nan if method.get("name") == "pmal" else 0.0
    return float(sum(_dose(item) for item in named))


def _dose(item: Any) -> float:
    """Probability times mean strength of one kind of training noise."""
    if not isinstance(item, Mapping) or item.get("probability") is None:
        return math.nan
    probability = float(item["probability"])
    if probability == 0.0:
        return 0.0
    levels = item.get("strength") or item.get("severities")
    if not levels or item.get("name") == "pmal_pair":
        return math.nan
    return probability * float(np.mean(levels))
