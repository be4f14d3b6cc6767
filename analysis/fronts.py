"""What a search of several objectives found: its Pareto front as a table, as a figure and in words."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.constraints import is_feasible
from analysis.fidelity import full_metrics
from analysis.figures import COLOURS, INK, QUIET, _legend, _panels
from analysis.load import Snapshot
from analysis.pareto import pareto_front
from analysis.searches import current, figures_of, finalists_of, limits_of, objectives_of
from analysis.selection import Goal
from analysis.tables import Column, Table, value_text

FRONT_LEGEND = (
    "Validation figures of the trials that no other trial of the search beats in one objective without losing in "
    "another. Chosen by these very figures, accuracies are optimistic."
)
_MAX_LINES = 12
_WIDE = 20.0  # a cost of which the largest is so many times the smallest stands on a log scale
_UNITS = {
    "cost/passes": "gradient passes", "cost/seconds": "seconds of training", "cost/params": "parameters",
    "cost/macs": "multiply-accumulates of an image", "cost/latency_ms": "latency (ms)",
}  # fmt: skip


def fronts(snapshot: Snapshot) -> dict[str, pd.DataFrame]:
    """Phase -> its finished trials of the present settings, for each search of several objectives.

    Of a search that was scored by a small grid these are its finalists, with their figures on the whole one.

    Columns: phase, number, trial, label, keeps (the constraints), front, and each objective.
    """
    labels = snapshot.frame().drop_duplicates("trial").set_index("trial")["label"]
    rows: dict[str, list[dict[str, object]]] = {}
    for record in current(snapshot.trials, snapshot.study):
        phase = record.info["phase"]
        goals = objectives_of(snapshot.study, phase) if record.info["role"] == "search" else {}
        if len(goals) < 2 or record.status != "finished":
            continue
        finalists, metrics = finalists_of(snapshot.study, phase), figures_of(record)
        if finalists and not (record.key in finalists and full_metrics(record.events)):
            continue
        row = {"phase": phase, "number": record.info.get("number", 0), "trial": record.key,
               "label": labels.get(record.key, record.key),
               "keeps": is_feasible(limits_of(snapshot.study, phase), metrics)}  # fmt: skip
        rows.setdefault(phase, []).append(row | {name: metrics.get(name, math.nan) for name in goals})
    return {phase: _with_front(pd.DataFrame(found), objectives_of(snapshot.study, phase))
            for phase, found in rows.items()}  # fmt: skip


def _with_front(frame: pd.DataFrame, goals: Mapping[str, Goal]) -> pd.DataFrame:
    chosen = pareto_front(frame[frame["keeps"]], goals)["trial"]
    return frame.assign(front=frame["trial"].isin(chosen))


def front_table(snapshot: Snapshot) -> Table:
    """The front of each search of several objectives, best first by the first objective."""
    parts, names = [], []
    for phase, frame in fronts(snapshot).items():
        goals = objectives_of(snapshot.study, phase)
        parts.append(pareto_front(frame[frame["front"]], goals))
        names += [name for name in goals if name not in names]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    columns = [
        Column("phase", lambda row: row["phase"], is_number=False),
        Column("no.", lambda row: str(row["number"])),
        Column("trial", lambda row: row["trial"], is_number=False),
        Column("configuration", lambda row: row["label"], is_number=False),
        *(Column(_title(name), lambda row, name=name: value_text(name, row.get(name, math.nan))) for name in names),
    ]
    return Table("pareto", frame, columns)


def front_lines(table: Table) -> list[str]:
    """The front in plain text, for the end of a run."""
    if table.frame.empty:
        return []
    titles = [column.title for column in table.columns if column.title != "trial"]
    rows = [[column.text(row) for column in table.columns if column.title != "trial"]
            for _, row in table.frame.head(_MAX_LINES).iterrows()]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (titles, *rows)]  # fmt: skip
    more = len(table.frame) - len(rows)
    return [
        "Pareto front, validation images:",
        *lines,
        *([f"and {more} more; the table pareto has all"] if more else []),
    ]


def front_figure(frame: pd.DataFrame, goals: Mapping[str, Goal]) -> Figure:
    """The first objective against each other one: all trials, the front joined by its steps.

    Args:
        frame: as `fronts` gives it.
        goals: two or three objectives.
    """
    first, *others = goals
    figure, panels = _panels(len(others), width=7.2, height=3.7)
    for axes, other in zip(panels, others, strict=True):
        _scatter(axes, frame, first, other)
        if len(goals) == 2:
            _steps(axes, frame[frame["front"]], goals)
        _cost_axis(axes, other, frame[other])
        axes.set_xlabel(_title(other))
    panels[0].set_ylabel(_title(first))
    _legend(figure, panels[0])
    return figure


def _scatter(axes: Axes, frame: pd.DataFrame, first: str, other: str) -> None:
    looks = {
        "broke a constraint": (~frame["keeps"], {"marker": "x", "color": QUIET, "lw": 1.4, "s": 34}),
        "beaten by another": (frame["keeps"] & ~frame["front"], {"marker": "o", "color": "#b8c0cb", "s": 30}),
        "on the front": (frame["front"], {"marker": "o", "color": COLOURS[0], "s": 52}),
    }
    for label, (mask, look) in looks.items():
        mine = frame[mask].dropna(subset=[first, other])
        if len(mine):
            axes.scatter(mine[other] * _scale(other), mine[first] * _scale(first), label=label, zorder=3, **look)
    for _, row in frame[frame["front"]].iterrows():
        axes.annotate(str(row["number"]), (row[other] * _scale(other), row[first] * _scale(first)), fontsize=9,
                      color=INK, textcoords="offset points", xytext=(5, 5))  # fmt: skip
    axes.margins(x=0.08, y=0.12)


def _steps(axes: Axes, front: pd.DataFrame, goals: Mapping[str, Goal]) -> None:
    """The border of what the front beats."""
    first, other = goals
    ordered = front.sort_values([other, first])
    where = "post" if goals[other] == "minimise" else "pre"
    axes.step(ordered[other] * _scale(other), ordered[first] * _scale(first), where=where, color=COLOURS[0], lw=1.2,
              alpha=0.6, zorder=2)  # fmt: skip


def _cost_axis(axes: Axes, name: str, values: pd.Series) -> None:
    found = values[np.isfinite(values)]
    if not name.startswith("cost/") or not len(found):
        return
    if found.min() > 0 and found.max() > _WIDE * found.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    """Three digits, as ticks lie at even steps; in the next unit where rounding would reach a thousand."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _title(name: str) -> str:
    return f"{name} (%)" if name.startswith("acc/") else _UNITS.get(name, name)


def _scale(name: str) -> float:
    return 100.0 if name.startswith("acc/") else 1.0
