"""The Pareto front of a search of several objectives: trials that no other beats in one and equals in the rest."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.labels import flatten
from analysis.selection import Candidate, Goal

_SIGNS: dict[str, float] = {"maximise": 1.0, "minimise": -1.0}


def pareto_front(frame: pd.DataFrame, goals: Mapping[str, Goal]) -> pd.DataFrame:
    """The rows that no other row dominates, best first by the first objective, then by the next.

    A row dominates another where it is at least as good in every objective and better in one. So rows that are equal in
    all objectives stand or fall together; a row with a missing or infinite objective can be compared with none and is
    left out.

    Args:
        goals: column -> whether more or less of it is better.

    Raises:
        ValueError: there is no objective, a column is missing, or a goal is unknown.
    """
    if not goals:
        raise ValueError("goals must name at least one objective, but got none")
    missing = [name for name in goals if name not in frame.columns]
    if missing:
        raise ValueError(f"goals must name columns of the frame, but {missing} are none of {list(frame.columns)}")
    unknown = [goal for goal in goals.values() if goal not in _SIGNS]
    if unknown:
        raise ValueError(f"a goal must be 'maximise' or 'minimise', but got {unknown[0]!r}")
    signs = np.array([_SIGNS[goal] for goal in goals.values()])
    values = frame[list(goals)].to_numpy(dtype=float, na_value=np.nan) * signs
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    kept = rows[_undominated(values[rows])]
    order = sorted(kept, key=lambda row: tuple(-values[row]))
    return frame.iloc[order]


def front_of(candidates: Sequence[Candidate], goals: Sequence[Goal], *, per: str | None = None) -> list[Candidate]:
    """The candidates on the front, in the order given.

    Args:
        goals: of `value` and of each of `others`.
        per: dotted key of the configuration: a front for each of its values.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        value = "" if per is None else repr(flatten(candidate.config).get(per))
        groups.setdefault(value, []).append(candidate)
    chosen: set[str] = set()
    names = [str(place) for place in range(len(goals))]
    for group in groups.values():
        rows = [[item.value, *item.others] for item in group]
        frame = pd.DataFrame(rows, columns=names, index=[item.key for item in group], dtype=float)
        chosen |= set(pareto_front(frame, dict(zip(names, goals, strict=True))).index)
    return [candidate for candidate in candidates if candidate.key in chosen]


def _undominated(values_NM: np.ndarray) -> np.ndarray:
    """Places of rows that no other dominates, where more is better in every column; finite values only."""
    kept = []
    for place, row_M in enumerate(values_NM):
        beats_N = (values_NM >= row_M).all(axis=1) & (values_NM > row_M).any(axis=1)
        if not beats_N.any():
            kept.append(place)
    return np.array(kept, dtype=int)
