"""The interactive charts of the configurations shown: against severity, side and cost, and by corruption."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.load import Snapshot
from analysis.looks import DASHES, MAX_ARMS, SHAPES, looks, names
from analysis.records import final_metrics
from analysis.scores import CLEAN, Arm, Cell, Headline
from analysis.sides import LOWER, full_side, full_size_noise, lower_sides, noise_word, side_means
from analysis.stats import Interval
from analysis.tables import MARKS, count_text
from analysis.vegalite import SCHEMA, Chart, Spec, colour, scale, tooltip

ALL = "all"
COSTS = {
    "cost_passes": "gradient passes of one training run",
    "cost_seconds": "seconds of one training run on its device",
    "cost/params": "parameters of the deployed network",
    "cost/macs": "multiply-accumulates for one image",
    "cost/latency_ms": "measured latency of one image (ms)",
}
"""Column or final metric -> what a reader chooses as the cost."""
SIDE_KINDS = {"clean": "without noise", "noise": "mean under noise"}
_WIDE = 20.0
_COST_CAPTION = (
    "Upright bars are 95 % intervals, level ones the range over seeds. Latency is of one image, the shortest of many "
    "passes (trials of earlier versions: the median of 30), measured where the network was trained and beside other "
    "trials: what they took is still in it."
)
_MEASURED = "accuracy (%)"


def headline_charts(snapshot: Snapshot, found: Headline) -> list[Chart]:
    """Those charts of the configurations that there are rows for."""
    made = (severity_chart(found), side_chart(found, snapshot.study), corruption_chart(found),
            cost_chart(snapshot, found))  # fmt: skip
    return [chart for chart in made if chart is not None]


def scopes(found: Headline) -> dict[str, str]:
    """What a mean under noise can be over: value -> words. All of it, each group, and each family of several."""
    known = {ALL: "all noise"}
    for kind in ("group", "family"):
        held = {str(name) for arm in found.arms for name in arm.rows[kind].dropna()} - {"clean", "real"}
        if len(held) > 1:
            known |= {f"{kind}:{name}": f"{kind} {name}" for name in sorted(held)}
    return known


def scope_cells(arm: Arm, scope: str) -> list[Cell]:
    """The noisy cells of an arm in a scope."""
    kind, _, name = scope.partition(":")
    return arm.noisy() if scope == ALL else arm.among(kind, name)


def _shown(found: Headline) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Each configuration drawn, with the columns that every chart's rows have."""
    known = names(found)
    for arm in found.arms[:MAX_ARMS]:
        phases = ", ".join(arm.phases())
        yield arm, {"configuration": known[arm.config_id], "method": arm.rows["method"].iloc[0], "phase": phases}


def _figures(mean: Interval) -> dict[str, Any]:
    return {"accuracy": mean.estimate * 100, "low": mean.low * 100, "high": mean.high * 100,
            "read": _read(mean.estimate, mean.low, mean.high)}  # fmt: skip


def _read(share: float, low: float, high: float) -> str:
    if low != low:  # of one image
        return f"{share * 100:.1f} [no interval]"
    return f"{share * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def _encoding(found: Headline) -> dict[str, Spec]:
    """Colour, shape and dash of each configuration, in one legend."""
    known, own = names(found), looks(found)
    order = [known[name] for name in own]
    legend = {"symbolOpacity": 1}
    return {
        "color": {"field": "configuration", "type": "nominal", "legend": legend,
                  "scale": scale(order, [colour(f"c{look.colour}") for look in own.values()])},
        "shape": {"field": "configuration", "type": "nominal", "legend": legend,
                  "scale": scale(order, [SHAPES[look.shape] for look in own.values()])},
        "strokeDash": {"field": "configuration", "type": "nominal", "legend": legend,
                       "scale": scale(order, [list(DASHES[look.dash]) for look in own.values()])},
    }  # fmt: skip


def _lines(found: Headline, x: Spec, columns: Mapping[str, str]) -> Spec:
    """Lines with points and 95 % bands over `x`."""
    look = _encoding(found)
    y = {"field": "accuracy", "type": "quantitative", "title": f"accuracy, {found.split} images (%)",
         "scale": {"domain": [0, 100]}}  # fmt: skip
    band = {"mark": {"type": "area", "opacity": 0.13, "tooltip": None, "aria": False},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"},
                         "color": look["color"]}}  # fmt: skip
    line = {"mark": {"type": "line", "aria": False},
            "encoding": {"x": x, "y": y, "color": look["color"],
                         "strokeDash": look["strokeDash"]}}  # fmt: skip
    point = {"mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
             "encoding": {"x": x, "y": y, "color": look["color"], "shape": look["shape"],
                          "tooltip": tooltip(columns)}}  # fmt: skip
    return {"$schema": SCHEMA, "height": 320, "layer": [band, line, point]}


# ------------------------------------------------------------------------------------------------------------- severity
def severity_rows(found: Headline) -> pd.DataFrame:
    """Mean accuracy (per cent, with bounds) of images at full size, by configuration, scope of noise and severity.

    Columns: configuration, method, phase, over, severity (0 is clean), level, accuracy, low, high, read.
    """
    rows = []
    for arm, fixed in _shown(found):
        full = set(full_size_noise(arm))
        for scope in scopes(found):
            cells = [cell for cell in scope_cells(arm, scope) if cell in full]
            levels = {0: arm.of(CLEAN)} if cells else {}
            levels |= {level: [c for c in cells if c[1] == level] for level in sorted({level for _, level in cells})}
            for level, some in levels.items():
                if (mean := arm.mean(some)) is not None:
                    shown = {"over": scope, "severity": level, "level": str(level) if level else "clean"}
                    rows.append(fixed | shown | _figures(mean))
    return pd.DataFrame(rows)


def severity_chart(found: Headline) -> Chart | None:
    """Accuracy against severity."""
    rows = severity_rows(found)
    if rows.empty:
        return None
    columns = {"configuration": "configuration", "level": "severity", "read": f"{_MEASURED} [95 % interval]"}
    levels = list(rows.sort_values("severity")["level"].unique())
    x = {"field": "level", "type": "ordinal", "sort": levels, "title": "severity of the noise",
         "axis": {"labelAngle": 0},
         "scale": {"type": "point", "padding": 0.3}}  # fmt: skip
    alt = (f"Lines of accuracy on {found.split} images against severity, clean to {levels[-1]}, for "
           f"{rows['configuration'].nunique()} configurations, with bands of 95 % intervals.")  # fmt: skip
    return Chart("severity", "Accuracy against severity", rows, {"": _lines(found, x, columns)}, alt, columns=columns)


def side_chart(found: Headline, study: Mapping[str, Any]) -> Chart | None:
    """Accuracy against the side of the images, without noise and under it."""
    size, parts = full_side(study), []
    for arm, fixed in _shown(found):
        if size is not None and lower_sides(arm):
            means = side_means(arm, size)
            read = [_read(row.accuracy, row.accuracy_low, row.accuracy_high) for row in means.itertuples()]
            parts.append(
                means.assign(accuracy=means["accuracy"] * 100, low=means["accuracy_low"] * 100,
                             high=means["accuracy_high"] * 100, read=read, kind=means["kind"].map(SIDE_KINDS), **fixed)
            )  # fmt: skip
    if not parts:
        return None
    rows = pd.concat(parts, ignore_index=True).drop(columns=["accuracy_low", "accuracy_high"])
    columns = {"configuration": "configuration", "side": "side (px)", "read": f"{_MEASURED} [95 % interval]"}
    sides = sorted(int(side) for side in rows["side"].unique())
    x = {"field": "side", "type": "quantitative", "title": f"side in pixels ({size}: full size)",
         "scale": {"type": "log", "base": 2, "domain": [sides[0], sides[-1]]},
         "axis": {"values": sides, "labelOverlap": True}}  # fmt: skip
    spec = _lines(found, x, columns)
    kinds = [kind for kind in SIDE_KINDS.values() if (rows["kind"] == kind).any()]
    alt = f"Lines of accuracy against the side of the images, from {sides[0]} to {sides[-1]} pixels."
    return Chart("sides", "Accuracy against side", rows, dict.fromkeys(kinds, spec), alt, choice="kind",
                 choice_title="Images", columns=columns)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- corruption
def corruption_rows(found: Headline) -> pd.DataFrame:
    """Accuracy (per cent) by configuration and corruption: the mean over severities with bounds, and each severity.

    Columns: configuration, method, phase, corruption, group, family, severity ("mean" or a number), accuracy, mark,
    shown, read.
    """
    rows = []
    for arm, fixed in _shown(found):
        relations = arm.relations()
        for name in [CLEAN, *found.corruptions]:
            mine = arm.rows[arm.rows["corruption"] == name]
            if mine.empty:
                continue
            mark, kinds = MARKS.get(relations.get(name, ""), ""), mine.iloc[0]
            own = fixed | {
                "corruption": name,
                "group": str(kinds["group"]),
                "family": str(kinds["family"]),
                "mark": mark,
            }
            means: dict[str, dict[str, Any]] = {"mean": _figures(arm.mean(arm.of(name)))}
            if name != CLEAN and mine["severity"].nunique() > 1:
                for level, value in mine.groupby("severity")["accuracy"].mean().items():
                    means[str(level)] = {"accuracy": value * 100, "read": f"{value * 100:.1f}"}
            rows += [own | {"severity": level, "shown": f"{mean['accuracy']:.1f} {mark}".rstrip()}
                     | {key: mean[key] for key in ("accuracy", "read")} for level, mean in means.items()]  # fmt: skip
    return pd.DataFrame(rows)


def corruption_chart(found: Headline) -> Chart | None:
    """A heat map: corruptions down, configurations across."""
    if not found.corruptions:
        return None
    rows = corruption_rows(found)
    order = [name for name in [CLEAN, *found.corruptions] if name in set(rows["corruption"])]
    arms = list(rows["configuration"].unique())
    low, high = rows["accuracy"].min(), rows["accuracy"].max()
    middle = low + 0.5 * (high - low)
    columns = {"corruption": "corruption", "group": "group", "configuration": "configuration", "severity": "severity",
               "read": _MEASURED, "mark": "training noise"}  # fmt: skip
    x = {"field": "configuration", "type": "nominal", "sort": arms, "title": None,
         "axis": {"orient": "top", "labelAngle": 0, "labelExpr": "split(datum.label, ' ')", "labelLimit": 110,
                  "labelPadding": 5 + 14 * (max(len(arm.split(" ")) for arm in arms) - 1),
                  "domain": False, "ticks": False, "labelOverlap": False}}  # fmt: skip
    y = {
        "field": "corruption",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"domain": False, "ticks": False},
    }
    heat = {"mark": {"type": "rect", "stroke": colour("paper"), "strokeWidth": 2},
            "encoding": {"tooltip": tooltip(columns),
                         "color": {"field": "accuracy", "type": "quantitative", "legend": None,
                                   "scale": {"domain": [low, high],
                                             "range": [colour("heat0"), colour("heat1")]}}}}  # fmt: skip
    text = {"mark": {"type": "text", "fontSize": 12, "aria": False, "tooltip": None},
            "encoding": {"text": {"field": "shown", "type": "nominal"},
                         "color": {"condition": {"test": {"field": "accuracy", "lt": middle}, "value": colour("ink")},
                                   "value": colour("paper")}}}  # fmt: skip
    spec = {"$schema": SCHEMA, "height": 26 * len(order), "encoding": {"x": x, "y": y}, "layer": [heat, text]}
    levels = ["mean", *sorted(set(rows["severity"]) - {"mean"}, key=int)]
    alt = (f"Heat map of accuracy by {len(order)} corruptions and {len(arms)} configurations; the figures are written "
           "in the cells.")  # fmt: skip
    return Chart("corruptions", "Accuracy by corruption", rows, dict.fromkeys(levels, spec), alt, choice="severity",
                 choice_title="Severity", least_width=150 + 76 * len(arms), columns=columns)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- cost
def cost_rows(snapshot: Snapshot, found: Headline) -> pd.DataFrame:
    """Mean accuracy under noise (per cent, with bounds) and each cost, by configuration and scope of noise.

    Columns: configuration, method, phase, over, cost (words), value (mean over trials), least and most (of them),
    accuracy, low, high, read, priced.
    """
    finals = {record.key: final_metrics(record.events) for record in snapshot.trials}
    rows = []
    for arm, fixed in _shown(found):
        trials = arm.rows.drop_duplicates("trial")
        prices = {
            words: trials[name] if name in trials
            else pd.Series([finals.get(str(key), {}).get(name) for key in trials["trial"]], dtype=float)
            for name, words in COSTS.items()
        }  # fmt: skip
        for scope in scopes(found):
            mean = arm.mean(scope_cells(arm, scope))
            if mean is not None:
                rows += [fixed | {"over": scope, "cost": words, "value": values.mean(), "least": values.min(),
                                  "most": values.max(), "priced": range_text(values)} | _figures(mean)
                         for words, values in prices.items() if values.notna().any()]  # fmt: skip
    return pd.DataFrame(rows)


def price_text(value: float) -> str:
    """A cost in few characters; latencies keep their decimals."""
    return f"{value:.3g}" if value < 100 else count_text(value)


def range_text(values: pd.Series) -> str:
    """The mean of a cost over trials, with its range where they differ: `3.3 (3.2 to 3.5 over 3 seeds)`."""
    known = values.dropna()
    mean, least, most = (price_text(value) for value in (known.mean(), known.min(), known.max()))
    return mean if least == most else f"{mean} ({least} to {most} over {len(known)} seeds)"


def cost_chart(snapshot: Snapshot, found: Headline) -> Chart | None:
    """Accuracy under noise against what it costs to train or to run."""
    rows = cost_rows(snapshot, found)
    if rows.empty:
        return None
    where = "at lower sides" if noise_word(found) == LOWER else "under noise"
    columns = {"configuration": "configuration", "cost": "cost", "priced": "value",
               "read": f"{_MEASURED} [95 % interval]"}  # fmt: skip
    specs = {words: _cost_spec(found, part[["least", "most"]].stack(), words, where, columns)
             for words, part in rows.groupby("cost", sort=False)}  # fmt: skip
    alt = (f"Accuracy {where} against cost for {rows['configuration'].nunique()} configurations: a point each, with "
           "its 95 % interval as a bar.")  # fmt: skip
    return Chart("cost", f"Accuracy {where} against cost", rows, specs, alt, choice="cost", choice_title="Cost",
                 caption=_COST_CAPTION,
                 columns=columns)  # fmt: skip


def _cost_spec(found: Headline, values: pd.Series, words: str, where: str, columns: Mapping[str, str]) -> Spec:
    look = _encoding(found)
    is_wide = values.min() > 0 and values.max() > _WIDE * values.min()
    x = {"field": "value", "type": "quantitative", "title": words,
         "axis": {"labelExpr": "format(datum.value, '~s')", "tickCount": 5},
         "scale": {"type": "log", "nice": True} if is_wide else
         {"zero": True, "nice": True, "padding": 12}}  # fmt: skip
    y = {
        "type": "quantitative",
        "title": f"accuracy {where} (%)",
        "scale": {"zero": False, "nice": True, "padding": 10},
    }
    bar = {"mark": {"type": "rule", "strokeWidth": 2, "aria": False},
           "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"},
                        "color": look["color"]}}  # fmt: skip
    across = {"mark": {"type": "rule", "strokeWidth": 2, "aria": False},
              "encoding": {"x": x | {"field": "least"}, "x2": {"field": "most"}, "y": y | {"field": "accuracy"},
                           "color": look["color"]}}  # fmt: skip
    point = {"mark": {"type": "point", "filled": True, "size": 130, "opacity": 0.8},
             "encoding": {"x": x, "y": y | {"field": "accuracy"}, "color": look["color"], "shape": look["shape"],
                          "tooltip": tooltip(columns)}}  # fmt: skip
    return {"$schema": SCHEMA, "height": 320, "layer": [bar, across, point]}
