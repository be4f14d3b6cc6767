"""The rows on validation images of trials that may be chosen: of finalists those on the whole validation grid."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.load import Snapshot
from analysis.pareto import front_of
from analysis.records import TrialRecord, to_frame
from analysis.searches import objectives_of, searched
from analysis.selection import top_per


def best_of_methods(snapshot: Snapshot) -> list[str]:
    """The best trial of each method, of each search by its own first objective, on the front where it has several."""
    keys = []
    for phase, found in searched(snapshot.trials, snapshot.study).items():
        if any(np.isfinite(candidate.value) for candidate in found):
            goals = list(objectives_of(snapshot.study, phase).values())
            pool = front_of(found, goals, per="method.name") if len(goals) > 1 else found
            keys += [chosen.key for chosen in top_per(pool or found, 1, key="method.name", goal=goals[0])]
    return keys


def whole_grid(snapshot: Snapshot, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
    """The rows of these trials, of finalists those on the whole validation grid.

    Args:
        frame: the contract's rows, those of the trials among them.
    """
    if any(record.key in keys and record.whole_cells is not None for record in snapshot.trials):
        frame = to_frame([_as_whole(record) for record in snapshot.trials], snapshot.study)
    return frame[frame["trial"].isin(list(keys))]


def _as_whole(record: TrialRecord) -> TrialRecord:
    """A finalist with its rows on the whole grid, which are of the very network that the small one measured."""
    if record.whole_cells is None or record.cells is None:
        return record
    return replace(record, cells=record.whole_cells.assign(bn=record.cells["bn"].iloc[0]))
