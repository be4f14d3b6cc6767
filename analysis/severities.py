"""Error against the strength of noise: each corruption and their mean, severity by severity, with intervals."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from analysis.scores import CLEAN, NOISE, Arm, Headline
from analysis.sides import full_size_noise
from analysis.stats import Interval
from analysis.tables import Column, Table, bounds, interval_text

ERROR_COLUMNS = ("config_id", "label", "corruption", "severity", "error", "error_low", "error_high", "n_seeds")
MOST_CURVE_ROWS = 10_000
"""With more cells than this only the mean over corruptions has its curves."""
ERROR_LEGEND = (
    "Error in per cent [95 % interval], images at full size; severity 0 is clean. The mean is over corruptions, and a "
    "severity means another dose for each of them."
)


def severity_errors(arm: Arm, *, mean_only: bool = False) -> pd.DataFrame:
    """Error of an arm at each severity, of the mean over corruptions (`noise_mean`) and then of each corruption.

    Args:
        mean_only: leave the curves of single corruptions out.

    Returns:
        `ERROR_COLUMNS`; severity 0, the clean images, stands at the start of every curve. Empty without noise at full
        size.
    """
    cells = full_size_noise(arm)
    curves = {NOISE: cells} if cells else {}
    curves |= {} if mean_only else {name: arm.of(name) for name in sorted({name for name, _ in cells})}
    rows = []
    for name, mine in curves.items():
        levels = {0: arm.of(CLEAN)} | {
            severity: [cell for cell in mine if cell[1] == severity] for severity in sorted({s for _, s in mine})
        }
        for severity, chosen in levels.items():
            found = arm.mean(chosen)
            if found is not None:
                rows.append({"config_id": arm.config_id, "label": arm.label, "corruption": name, "severity": severity}
                            | bounds("error", _error(found)) | {"n_seeds": found.n_seeds})  # fmt: skip
    return pd.DataFrame(rows, columns=list(ERROR_COLUMNS))


def _error(accuracy: Interval) -> Interval:
    return replace(accuracy, estimate=1 - accuracy.estimate, low=1 - accuracy.high, high=1 - accuracy.low)


def severity_table(found: Headline) -> Table:
    """The curves of every configuration of the headline; of very many the means alone, which is then said."""
    is_long = sum(len(arm.noisy()) for arm in found.arms) > MOST_CURVE_ROWS
    parts = [severity_errors(arm, mean_only=is_long) for arm in found.arms]
    parts = [part for part in parts if len(part)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(ERROR_COLUMNS))
    columns = [
        Column("configuration", lambda row: row["label"], is_number=False),
        Column("noise", lambda row: str(row["corruption"]).replace(NOISE, "mean"), is_number=False),
        Column("severity", lambda row: str(row["severity"])),
        Column("error", interval_text("error")),
        Column("seeds", lambda row: str(row["n_seeds"])),
    ]
    notes = [found.small_grid] if found.small_grid else []
    notes.append(f"{ERROR_LEGEND} Of {found.split} images.")
    notes += ["So many configurations and corruptions have the curves of their means alone."] if is_long else []
    return Table("severities", frame, columns, notes if len(frame) else [])
