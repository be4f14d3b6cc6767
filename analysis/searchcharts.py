"""The interactive charts of a search and of training: history, parallel coordinates, importance, training curves."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.labels import short
from analysis.load import Snapshot
from analysis.looks import DASHES, SHAPES
from analysis.searches import objectives_of, search_of
from analysis.selection import Goal
from analysis.tables import Table, value_text
from analysis.vegalite import SCHEMA, Chart, colour, scale, tooltip

MOST_TRIALS = 200
"""Trials that the curves and the parallel coordinates draw; the tables have all."""
MOST_EPOCHS = 40
MOST_AXES = 10
CURVES = ("acc/noise", "acc/clean", "loss/train", "acc/worst_family")
"""Metrics a reader can see by epoch, those that were reported."""
KINDS = {
    "finished": ("finished", 0, "c1"), "pruned": ("pruned (last value)", 4, "c5"),
    "broken": ("broke a constraint", 3, "quiet"), "running": ("not ended (last value)", 1, "quiet"),
    "failed": ("failed or without a value", 6, "c2"),
}  # fmt: skip
"""Kind of trial -> words, place among the shapes, colour."""
UNSET = "not set"
_UNSET_PLACE = -0.14
_METHOD_HUES = (3, 4, 5, 6, 7, 1, 2)  # methods are no configurations, which have the first hues elsewhere


def search_charts(snapshot: Snapshot, trials: Table) -> list[Chart]:
    """History and parallel coordinates of each search phase, then the training curves of all trials."""
    methods = _methods(snapshot)
    charts: list[Chart | None] = []
    for phase in dict.fromkeys(r.info["phase"] for r in snapshot.trials if r.info["role"] == "search"):
        metric, goal = next(iter(objectives_of(snapshot.study, phase).items()))
        rows = trials.frame[trials.frame["phase"] == phase]
        charts.append(history_chart(rows, phase=phase, metric=metric, goal=goal, methods=methods))
        charts.append(parallel_chart(snapshot, rows, phase=phase, metric=metric, goal=goal))
    charts.append(curve_chart(snapshot))
    return [chart for chart in charts if chart is not None]


def slug(phase: str) -> str:
    """A phase's name as part of an element's id."""
    return "".join(sign if sign.isalnum() and sign.isascii() else f"-{ord(sign):x}-" for sign in phase)


def _methods(snapshot: Snapshot) -> dict[str, str]:
    return {r.key: str(r.info["config"].get("method", {}).get("name", "unknown")) for r in snapshot.trials}


def _scaled(metric: str) -> tuple[float, str]:
    return (100.0, f"{metric} on validation (%)") if metric.startswith("acc/") else (1.0, f"{metric} on validation")


# -------------------------------------------------------------------------------------------------------------- history
def history_chart(
    trials: pd.DataFrame, *, phase: str, metric: str, goal: Goal, methods: Mapping[str, str]
) -> Chart | None:
    """The objective of each trial in the order started, with the best so far.

    Args:
        trials: columns number, trial, label, status, keeps, value.
        methods: trial -> method.
    """
    if trials.empty:
        return None
    factor, title = _scaled(metric)
    rows = trials.sort_values("number")[["number", "trial", "label", "status", "keeps", "value"]].copy()
    kind = rows["status"].where(rows["status"].ne("finished") | rows["keeps"].astype(bool), "broken")
    kind = kind.where(np.isfinite(rows["value"].astype(float)), "failed")
    done = rows["value"].where(kind == "finished")
    best = done.cummax() if goal == "maximise" else done.cummin()
    rows = rows.assign(
        best=best.ffill() * factor, value=rows["value"] * factor, kind=[KINDS[name][0] for name in kind],
        phase=phase, method=[methods.get(str(key), "unknown") for key in rows["trial"]],
        read=[value_text(metric, value) for value in rows["value"]],
    ).drop(columns=["status", "keeps"])  # fmt: skip
    columns = {"number": "no.", "trial": "trial", "label": "configuration", "kind": "status", "read": title}
    used = [words for words, _, _ in KINDS.values() if (rows["kind"] == words).any()]
    looks = {words: (SHAPES[shape], colour(hue)) for words, shape, hue in KINDS.values()}
    x = {"field": "number", "type": "quantitative", "title": "trial, in the order started",
         "axis": {"tickMinStep": 1, "format": "d"}, "scale": {"zero": False, "nice": False, "padding": 12}}  # fmt: skip
    y = {"type": "quantitative", "title": title, "scale": {"zero": False, "nice": True, "padding": 8}}
    step = {"mark": {"type": "line", "interpolate": "step-after", "color": colour("c1"), "aria": False},
            "encoding": {"x": x, "y": y | {"field": "best"}}}  # fmt: skip
    look = {"color": {"field": "kind", "type": "nominal", "scale": scale(used, [looks[w][1] for w in used])},
            "shape": {"field": "kind", "type": "nominal", "scale": scale(used, [looks[w][0] for w in used])},
            "tooltip": tooltip(columns)}  # fmt: skip
    point = {"transform": [{"filter": {"field": "value", "valid": True}}],
             "mark": {"type": "point", "size": 75, "strokeWidth": 2, "opacity": 1},
             "encoding": {"x": x, "y": y | {"field": "value"}} | look}  # fmt: skip
    mute = {"transform": [{"filter": {"not": {"field": "value", "valid": True}}}],
            "mark": {"type": "point", "size": 85, "strokeWidth": 2, "y": {"expr": "height - 8"}, "aria": False},
            "encoding": {"x": x} | look}  # fmt: skip
    spec = {"$schema": SCHEMA, "height": 280, "layer": [step, point, *([mute] if rows["value"].isna().any() else [])]}
    alt = f"{metric} of {len(rows)} trials of phase {phase} in the order started, with a line of the best so far."
    return Chart(f"search-{slug(phase)}", f"Phase {phase}: the objective, trial by trial", rows, {"": spec}, alt,
                 columns=columns)  # fmt: skip


# ------------------------------------------------------------------------------------------------- parallel coordinates
def parallel_rows(snapshot: Snapshot, trials: pd.DataFrame, *, phase: str, metric: str) -> pd.DataFrame:
    """One row per finished trial and axis, in long form, and one per tick.

    Columns: kind ("line" or "tick"), trial, number, label, method, phase, axis, place (0 to 1 from the axis's least
    value to its greatest, below 0 where the parameter was not set), text, value (the objective), read.
    """
    own = {record.key: record.info for record in snapshot.trials}
    done = trials[(trials["status"] == "finished") & np.isfinite(trials["value"].astype(float))]
    done = done.sort_values("number").head(MOST_TRIALS)
    if len(done) < 2:
        return pd.DataFrame()
    params = [own[str(key)].get("params") or {} for key in done["trial"]]
    space, (factor, _) = search_of(snapshot.study, phase).get("space") or {}, _scaled(metric)
    axes: dict[str, tuple[list[float], list[tuple[float, str]]]] = {}
    for name in dict.fromkeys(name for found in params for name in found):
        values = [found.get(name) for found in params]
        if len({repr(value) for value in values if value is not None}) > 1 and len(axes) < MOST_AXES:
            axes[name] = _axis(values, is_log="log" in "".join(space.get(name) or ()))
    objective = [float(value) * factor for value in done["value"]]
    axes[metric] = _axis(objective, is_log=False, digits=1 if factor > 1 else None)
    rows: list[dict[str, Any]] = []
    for name, (places, ticks) in axes.items():
        rows += [{"kind": "tick", "axis": name, "place": place, "text": text} for place, text in ticks]
        for trial, found, place, value in zip(done.itertuples(), params, places, objective, strict=True):
            given = found.get(name, UNSET) if name != metric else value
            text = f"{value:.1f}" if name == metric and factor > 1 else short(given)
            rows.append({"kind": "line", "trial": trial.trial, "number": trial.number, "label": trial.label,
                         "method": str(own[str(trial.trial)]["config"].get("method", {}).get("name", "unknown")),
                         "phase": phase, "axis": name, "place": place, "text": text, "value": value,
                         "read": value_text(metric, value / factor)})  # fmt: skip
    return pd.DataFrame(rows)


def _axis(
    values: Sequence[Any], *, is_log: bool, digits: int | None = None
) -> tuple[list[float], list[tuple[float, str]]]:
    """Places of the values on an axis from 0 to 1, and its ticks: ends of numbers, all values of choices."""
    known = [value for value in values if value is not None]
    has_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    ticks = [(_UNSET_PLACE, UNSET)] if len(known) < len(values) else []
    if has_numbers and all(math.isfinite(value) for value in known):
        is_log = is_log and min(known) > 0
        numbers = [math.log(value) if is_log else float(value) for value in known]
        low, high = min(numbers), max(numbers)
        place = {value: (number - low) / (high - low) if high > low else 0.5
                 for value, number in zip(known, numbers, strict=True)}  # fmt: skip
        ends = [(place[value], short(value) if digits is None else f"{value:.{digits}f}")
                for value in dict.fromkeys((min(known), max(known)))]  # fmt: skip
        return [_UNSET_PLACE if value is None else place[value] for value in values], ticks + ends
    texts = dict(sorted({repr(value): short(value) for value in known}.items(), key=lambda item: item[::-1]))
    spots = {name: 0.5 if len(texts) == 1 else at / (len(texts) - 1) for at, name in enumerate(texts)}
    places = [_UNSET_PLACE if value is None else spots[repr(value)] for value in values]
    return places, ticks + [(spots[name], text) for name, text in texts.items()]


def parallel_chart(snapshot: Snapshot, trials: pd.DataFrame, *, phase: str, metric: str, goal: Goal) -> Chart | None:
    """Every finished trial as a line over the searched parameters, in the colour of its objective."""
    rows = parallel_rows(snapshot, trials, phase=phase, metric=metric)
    if rows.empty or rows["axis"].nunique() < 2:
        return None
    _, title = _scaled(metric)
    axes, lines = list(rows["axis"].unique()), rows[rows["kind"] == "line"]
    columns = {"number": "no.", "trial": "trial", "label": "configuration", "axis": "parameter", "text": "value",
               "read": title}  # fmt: skip
    x = {"field": "axis", "type": "nominal", "sort": axes, "title": None, "scale": {"type": "point", "padding": 0.45},
         "axis": {"labelAngle": 0, "grid": True, "domain": False, "ticks": False,
                  "labelExpr": "split(datum.label, '.')",
                  "labelOverlap": False, "labelLimit": 120}}  # fmt: skip
    y = {"field": "place", "type": "quantitative", "axis": None, "scale": {"domain": [-0.2, 1.06]}}
    good = [colour("far"), colour("c1")]
    hue = {"field": "value", "type": "quantitative", "title": title,
           "scale": {"range": good if goal == "maximise" else good[::-1]},
           "legend": {"orient": "top", "gradientLength": 180, "title": title}}  # fmt: skip
    of_lines = [{"filter": {"field": "kind", "equal": "line"}}]
    line = {"transform": of_lines, "mark": {"type": "line", "strokeWidth": 1.8, "opacity": 0.75, "aria": False},
            "encoding": {"x": x, "y": y, "color": hue, "detail": {"field": "trial", "type": "nominal"}}}  # fmt: skip
    point = {"transform": of_lines, "mark": {"type": "point", "filled": True, "size": 42, "opacity": 1, "aria": False},
             "encoding": {"x": x, "y": y, "color": hue, "tooltip": tooltip(columns)}}  # fmt: skip
    tick = {"transform": [{"filter": {"field": "kind", "equal": "tick"}}],
            "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11, "color": colour("ink"),
                     "stroke": None, "aria": False, "tooltip": None, "limit": 92},
            "encoding": {"x": x, "y": y, "text": {"field": "text", "type": "nominal"}}}  # fmt: skip
    spec = {"$schema": SCHEMA, "height": 300, "layer": [line, point, tick]}
    num = lines["trial"].nunique()
    alt = f"{num} finished trials as lines over {len(axes) - 1} parameters and {metric}, coloured by {metric}."
    caption = (
        f"A line is a finished trial, the bluer the better. Parameters that a trial did not have lie at “{UNSET}”."
    )
    return Chart(f"parallel-{slug(phase)}", f"Phase {phase}: parameters and the objective", rows, {"": spec}, alt,
                 least_width=100 * len(axes), caption=caption, columns=columns)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- importance
def importance_chart(found: pd.DataFrame, *, phase: str, caption: str) -> Chart | None:
    """How much each searched key matters, as bars with intervals.

    Args:
        found: columns key, share, share_low and share_high (0 to 1), a row for each key.
        caption: what the shares are.
    """
    rows = found[["key", "share", "share_low", "share_high"]].rename(columns={"key": "parameter"})
    if rows.empty or not rows["share"].gt(0).any():
        return None
    for name in ("share", "share_low", "share_high"):
        rows[name] = rows[name] * 100
    rows = rows.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    rows["read"] = [f"{one.share:.0f} [{one.share_low:.0f}, {one.share_high:.0f}]" for one in rows.itertuples()]
    columns = {"parameter": "parameter", "read": "share (%) [95 % of resampled trials]"}
    order = list(rows["parameter"])
    y = {"field": "parameter", "type": "nominal", "sort": order, "title": None,
         "axis": {"domain": False, "ticks": False}}  # fmt: skip
    x = {"type": "quantitative", "title": "share of all keys (%)", "axis": {"tickCount": 5}}
    bar = {"mark": {"type": "bar", "color": colour("c6"), "height": {"band": 0.6}},
           "encoding": {"x": x | {"field": "share"}, "y": y, "tooltip": tooltip(columns)}}  # fmt: skip
    rule = {"mark": {"type": "rule", "strokeWidth": 2, "color": colour("ink"), "aria": False},
            "encoding": {"x": x | {"field": "share_low"}, "x2": {"field": "share_high"}, "y": y}}  # fmt: skip
    spec = {"$schema": SCHEMA, "height": 34 * len(order), "layer": [bar, rule]}
    alt = "Bars of importance: " + ", ".join(f"{row.parameter} {row.read} %" for row in rows.itertuples())
    return Chart(f"importance-{slug(phase)}", f"Phase {phase}: what mattered", rows, {"": spec}, alt,
                 caption=caption, columns=columns)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- curves
def curve_rows(snapshot: Snapshot) -> pd.DataFrame:
    """Metrics by epoch, of the first `MOST_TRIALS` trials (those tested before those of a search).

    Long runs are thinned to `MOST_EPOCHS` epochs, the first and the last among them. Columns: trial, number, label,
    method, phase, status, seed, epoch, metric, value, read.
    """
    labels = snapshot.frame().drop_duplicates("trial").set_index("trial")["label"]
    chosen = sorted(snapshot.trials, key=lambda record: record.info["role"] == "search")[:MOST_TRIALS]
    methods, rows = _methods(snapshot), []
    for record in chosen:
        info = record.info
        fixed = {"trial": record.key, "number": info.get("number", 0), "label": labels.get(record.key, record.key),
                 "method": methods[record.key], "phase": info["phase"], "status": record.status,
                 "seed": info.get("seed")}  # fmt: skip
        by_epoch = {int(e["epoch"]): e.get("metrics") or {} for e in record.events if e.get("event") == "epoch"}
        for epoch in _thinned(sorted(by_epoch)):
            for metric in CURVES:
                value = by_epoch[epoch].get(metric)
                if value is not None and math.isfinite(value):
                    factor, _ = _scaled(metric)
                    read = f"{value * factor:.1f}" if factor > 1 else f"{value:.3f}"
                    rows.append(fixed | {"epoch": epoch, "metric": metric, "value": value * factor, "read": read})
    return pd.DataFrame(rows)


def _thinned(epochs: Sequence[int]) -> list[int]:
    if len(epochs) <= MOST_EPOCHS:
        return list(epochs)
    places = np.unique(np.linspace(0, len(epochs) - 1, MOST_EPOCHS).round().astype(int))
    return [epochs[place] for place in places]


def curve_chart(snapshot: Snapshot) -> Chart | None:
    """Training curves: a metric by epoch, a line for each trial, coloured by method."""
    rows = curve_rows(snapshot)
    if rows.empty:
        return None
    methods, ends = list(rows["method"].unique()), ["finished", "pruned", "running", "failed"]
    columns = {"trial": "trial", "phase": "phase", "number": "no.", "label": "configuration", "seed": "seed",
               "status": "status", "epoch": "epoch", "metric": "metric", "read": "value"}  # fmt: skip
    hues = [colour(f"c{_METHOD_HUES[place % len(_METHOD_HUES)]}") for place in range(len(methods))]
    hue = {"field": "method", "type": "nominal", "scale": scale(methods, hues)}
    shape = {"field": "method", "type": "nominal",
             "scale": scale(methods, [SHAPES[place % len(SHAPES)] for place in range(len(methods))])}  # fmt: skip
    seen = {end: list(DASHES[place]) for place, end in enumerate(ends) if (rows["status"] == end).any()}
    dash = {"field": "status", "type": "nominal", "scale": scale([*seen], [*seen.values()]),
            "legend": {"symbolType": "stroke", "symbolStrokeColor": colour("ink")}}  # fmt: skip
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1, "format": "d"},
         "scale": {"zero": False, "padding": 8}}  # fmt: skip
    is_many = rows["trial"].nunique() > 30
    specs = {}
    for metric in [name for name in CURVES if (rows["metric"] == name).any()]:
        _, title = _scaled(metric)
        y = {"field": "value", "type": "quantitative", "scale": {"zero": False, "nice": True},
             "title": title if metric != "loss/train" else "loss on training images"}  # fmt: skip
        line = {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.5 if is_many else 0.75, "aria": False},
                "encoding": {"x": x, "y": y, "color": hue, "strokeDash": dash,
                             "detail": {"field": "trial", "type": "nominal"}}}  # fmt: skip
        point = {"mark": {"type": "point", "filled": True, "size": 14 if is_many else 26, "opacity": 0.9,
                          "aria": False},
                 "encoding": {"x": x, "y": y, "color": hue, "shape": shape, "tooltip": tooltip(columns)}}  # fmt: skip
        specs[metric] = {"$schema": SCHEMA, "height": 300, "layer": [line, point]}
    drawn, all_ = rows["trial"].nunique(), len(snapshot.trials)
    caption = "A line is a trial; one that was pruned or failed ends early."
    if all_ > MOST_TRIALS:
        caption += f" Drawn are {drawn} of {all_} trials, those tested first; `load_history` gives all."
    alt = f"{', '.join(specs)} by epoch for {drawn} trials, coloured by method."
    return Chart("curves", "Training curves", rows, specs, alt, choice="metric", choice_title="Metric",
                 caption=caption, columns=columns)  # fmt: skip
