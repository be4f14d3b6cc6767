"""The interactive chart of effects: the objective against each setting of a search, chosen from a list beside it."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.effects import value_texts
from analysis.searchcharts import slug
from analysis.tables import value_text
from analysis.vegalite import SCHEMA, Chart, Spec, colour, tooltip

_HUE = "c1"
_ZERO_GAP = 0.1
"""How far left of a log axis's least value the trials at zero stand, as a share of its length."""
_HEIGHT, _ROW_HEIGHT = 280, 38


def effect_rows(found: pd.DataFrame, *, metric: str, phase: str) -> pd.DataFrame:
    """What `analysis.effects.effects` found, as the chart draws it; accuracies in per cent.

    Columns: setting, kind, place (where a number stands on its axis: a zero beside a log range left of it), text (the
    value in words), value, low and high (of accuracies no further than there are any), read, trials, phase, is_log.
    """
    factor = 100.0 if metric.startswith("acc/") else 1.0
    rows, texts = [], value_texts(found)
    for setting, part in found.groupby("setting", sort=False):
        zero = _zero_place(part)
        for row in part.itertuples():
            place = zero if zero is not None and row.kind == "mean" else row.x
            rows.append({
                "setting": str(setting), "kind": row.kind, "place": place, "text": texts[row.Index],
                "value": row.value * factor, "low": _within(row.value_low * factor, factor),
                "high": _within(row.value_high * factor, factor),
                "read": _read(metric, row.value, row.value_low, row.value_high), "trials": int(row.n_trials),
                "phase": phase, "is_log": bool(row.is_log),
            })  # fmt: skip
    return pd.DataFrame(rows)


def effect_chart(found: pd.DataFrame, *, phase: str, metric: str, caption: str) -> Chart | None:
    """The objective against each setting: a line with a band for many numbers, points with intervals for few or words.

    Args:
        found: as `analysis.effects.effects` gives it.
        metric: the objective.
        caption: what the lines are.
    """
    if found.empty:
        return None
    rows = effect_rows(found, metric=metric, phase=phase)
    title = f"{metric} on validation (%)" if metric.startswith("acc/") else f"{metric} on validation"
    columns = {"setting": "setting", "text": "value", "read": f"{title} [95 % interval]", "trials": "trials near"}
    settings = list(rows["setting"].unique())
    specs = {name: _spec(rows[rows["setting"] == name], name, title, columns) for name in settings}
    alt = f"Mean {metric} of a search's finished trials against each setting, with 95 % intervals. " + " ".join(
        _said(name, rows[rows["setting"] == name]) for name in settings
    )
    return Chart(f"effects-{slug(phase)}", f"Phase {phase}: the objective by setting", rows, specs, alt,
                 choice="setting", choice_title="Setting", caption=caption, columns=columns)  # fmt: skip


def _within(bound: float, factor: float) -> float:
    """A bound as it is drawn: the bands of local lines go beyond 0 and 100 % where trials are few."""
    return min(max(bound, 0.0), 100.0) if factor > 1 and not math.isnan(bound) else bound


def _read(metric: str, value: float, low: float, high: float) -> str:
    if pd.isna(low):  # of one trial
        return value_text(metric, value)
    return f"{value_text(metric, value)} [{value_text(metric, low)}, {value_text(metric, high)}]"


def _said(setting: str, rows: pd.DataFrame) -> str:
    order = rows.sort_values("value")
    least, most = order.iloc[0], order.iloc[-1]
    return f"{setting}: from {least['read']} at {least['text']} to {most['read']} at {most['text']}."


# ---------------------------------------------------------------------------------------------------------------- axes
def _zero_place(part: pd.DataFrame) -> float | None:
    """Where trials at zero stand beside a log range, which has no place for them; None where there are none."""
    places = part.loc[part["is_log"].astype(bool), "x"]
    if places.empty or not (part["kind"] == "mean").any():
        return None
    return float(places.min() * (places.min() / places.max()) ** _ZERO_GAP)


def _number_axis(rows: pd.DataFrame, title: str) -> Spec:
    """A number's axis, by decades and their parts where the curve is on a log scale."""
    base: Spec = {"field": "place", "type": "quantitative", "title": title}
    curve = rows.loc[rows["kind"] == "curve", "place"]
    if not rows["is_log"].any():
        return base | {"scale": {"zero": False, "nice": False, "padding": 12}, "axis": {"tickCount": 6, "format": "~g"}}
    low, high = float(curve.min()), float(curve.max())
    zeros = sorted(set(rows.loc[rows["kind"] == "mean", "place"]))
    axis = {"values": [*zeros, *_log_ticks(low, high)], "labelOverlap": "greedy",
            "labelExpr": f"datum.value < {low * 0.999!r} ? '0' : format(datum.value, '~g')"}  # fmt: skip
    return base | {"scale": {"type": "log", "nice": False, "padding": 12}, "axis": axis}


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between two values; over many decades their ones alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


# ---------------------------------------------------------------------------------------------------------------- marks
def _spec(rows: pd.DataFrame, setting: str, title: str, columns: dict[str, str]) -> Spec:
    kinds, order, named = set(rows["kind"]), list(rows["text"]), f"setting: {setting}"
    value: Spec = {"type": "quantitative", "title": title, "scale": {"zero": False, "nice": True, "padding": 8}}
    if kinds == {"category"}:
        place = {"field": "text", "type": "nominal", "sort": order, "title": None,
                 "axis": {"domain": False, "ticks": False, "labelLimit": 140}}  # fmt: skip
        value["title"] = f"{title}, by {setting}"
        return {"$schema": SCHEMA, "height": _ROW_HEIGHT * len(order),
                "layer": _points(place, value, columns, axes="yx")}  # fmt: skip
    if "curve" not in kinds:
        place = {"field": "text", "type": "ordinal", "sort": order, "title": named,
                 "axis": {"labelAngle": 0}, "scale": {"type": "point", "padding": 0.5}}  # fmt: skip
        return {"$schema": SCHEMA, "height": _HEIGHT, "layer": _points(place, value, columns)}
    place = _number_axis(rows, named)
    layers = [*_curve(place, value, columns), *(_points(place, value, columns) if "mean" in kinds else [])]
    return {"$schema": SCHEMA, "height": _HEIGHT, "layer": layers}


def _curve(x: Spec, y: Spec, columns: dict[str, str]) -> list[Spec]:
    curve = [{"filter": {"field": "kind", "equal": "curve"}}]
    band = {"transform": curve, "mark": {"type": "area", "opacity": 0.16, "color": colour(_HUE), "tooltip": None,
                                         "aria": False},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}}  # fmt: skip
    line = {"transform": curve, "mark": {"type": "line", "color": colour(_HUE), "aria": False},
            "encoding": {"x": x, "y": y | {"field": "value"}}}  # fmt: skip
    point = {"transform": curve, "mark": {"type": "point", "filled": True, "size": 26, "opacity": 1,
                                          "color": colour(_HUE)},
             "encoding": {"x": x, "y": y | {"field": "value"}, "tooltip": tooltip(columns)}}  # fmt: skip
    return [band, line, point]


def _points(place: Spec, value: Spec, columns: dict[str, str], *, axes: Sequence[str] = "xy") -> list[Spec]:
    """Means with intervals, of which a single trial has none; `axes` names that of the setting first."""
    along, across = axes
    means = {"filter": {"not": {"field": "kind", "equal": "curve"}}}
    bounds = {along: place, across: value | {"field": "low"}, f"{across}2": {"field": "high"}}
    rule = {"transform": [means, {"filter": {"field": "low", "valid": True}}],
            "mark": {"type": "rule", "strokeWidth": 2, "color": colour(_HUE), "aria": False},
            "encoding": bounds}  # fmt: skip
    point = {"transform": [means], "mark": {"type": "point", "filled": True, "size": 85, "opacity": 1,
                                            "color": colour(_HUE)},
             "encoding": {along: place, across: value | {"field": "value"}, "tooltip": tooltip(columns)}}  # fmt: skip
    return [rule, point]
