"""Interactive charts as Vega-Lite specifications: how they are kept, drawn without a browser, and put into a page.

A specification names fixed columns only; what records call things stands in the rows, as data. So no name can become
an expression or a field's path.
"""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd
import vl_convert

from analysis.looks import COLOUR, PALETTES
from analysis.plaintext import shown

STILL_WIDTH = 720
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
Spec = dict[str, Any]
_UNSAFE = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Chart:
    """An interactive chart and the rows it is of.

    Attributes:
        name: its name in the page: small letters, digits and dashes.
        rows: what it draws. The page's filters go by the columns `method`, `phase`, `over` (a scope of noise), `group`
            and `family`, those that there are.
        specs: choice -> specification without data. More than one where a list beside the chart chooses.
        choice: the column that holds the choice; empty where there is one specification.
        choice_title: what the list chooses.
        alt: what can be seen, in words.
        least_width: pixels below which it is scrolled, not squeezed.
        caption: added to the still picture's caption where there is one.
    """

    name: str
    title: str
    rows: pd.DataFrame
    specs: Mapping[str, Spec]
    alt: str
    choice: str = ""
    choice_title: str = ""
    least_width: int = 0
    caption: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def embedded(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "name": self.name, "choice": self.choice, "specs": dict(self.specs), "least_width": self.least_width,
            "rows": packed(self.rows), "columns": dict(self.columns),
        }  # fmt: skip


def packed(frame: pd.DataFrame) -> dict[str, Any]:
    """Column -> its values; texts as places in a list of the different ones, missing values as null."""
    found: dict[str, Any] = {}
    for name, column in frame.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            found[str(name)] = [_number(value) for value in column]
        else:
            codes, values = pd.factorize(column)
            found[str(name)] = {"codes": codes.tolist(), "values": [str(value) for value in values]}
    return found


def _number(value: Any) -> float | int | None:
    if pd.isna(value) or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{float(value):.6g}")


def visible(tree: Any) -> Any:
    """The same with no text that hides or turns what is read, in names and in data alike, so that they still match."""
    if isinstance(tree, Mapping):
        return {shown(name): visible(item) for name, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [visible(item) for item in tree]
    return shown(tree)


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(visible(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return "".join(_UNSAFE.get(sign, sign) for sign in text) if _UNSAFE.keys() & set(text) else text


def still(chart: Chart, *, choice: str | None = None) -> bytes:
    """The chart as SVG, in light colours: what a page shows printed or without scripts, of the first choice."""
    choice = next(iter(chart.specs)) if choice is None else choice
    rows = chart.rows[chart.rows[chart.choice] == choice] if chart.choice else chart.rows
    if "over" in rows:
        rows = rows[rows["over"] == "all"]
    spec = visible(painted(dict(chart.specs[choice]), PALETTES["light"]))
    values = visible(json.loads(rows.to_json(orient="records")))
    spec |= {"data": {"name": "rows", "values": values}, "width": max(STILL_WIDTH, chart.least_width),
             "background": "white", "autosize": {"type": "fit-x", "contains": "padding"}}  # fmt: skip
    looks = config(PALETTES["light"])
    looks["legend"] |= legend_columns(spec, STILL_WIDTH)
    return vl_convert.vegalite_to_svg(spec, config=looks).encode()


def legend_columns(spec: Mapping[str, Any], width: int) -> Spec:
    """As many columns of a legend as fit, so that no name runs out of the figure; the page's script does the same."""
    domains = (((layer.get("encoding") or {}).get("color") or {}).get("scale") or {} for layer in spec["layer"])
    names = next((found for one in domains if isinstance(found := one.get("domain"), list)), [])
    if not names or not isinstance(names[0], str):
        return {}
    room = 7 * max(min(len(name), 48) for name in names) + 46
    return {"columns": max(1, min(len(names), (width - 40) // room))}


def as_pixels(svg: bytes) -> bytes:
    """A drawing as PNG, at twice its size on a page."""
    return vl_convert.svg_to_png(svg.decode(), scale=2)


def painted(spec: Any, palette: Mapping[str, str]) -> Any:
    """The specification with a palette's colours in place of their names."""
    if isinstance(spec, Mapping):
        return {name: item if name in ("domain", "sort") else painted(item, palette) for name, item in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [painted(item, palette) for item in spec]
    if isinstance(spec, str) and spec.startswith(COLOUR):
        return palette[spec.removeprefix(COLOUR)]
    return spec


def config(palette: Mapping[str, str]) -> Spec:
    """Vega-Lite's config in a palette."""
    text = {"labelColor": palette["ink"], "titleColor": palette["ink"], "labelFontSize": 12, "titleFontSize": 12.5,
            "titleFontWeight": "normal"}  # fmt: skip
    return {
        "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif',
        "background": "transparent",
        "view": {"stroke": None},
        "axis": text | {"gridColor": palette["grid"], "domainColor": palette["quiet"], "tickColor": palette["quiet"],
                        "labelLimit": 220},
        "legend": text | {"title": None, "orient": "top", "direction": "horizontal", "labelLimit": 330,
                          "symbolStrokeWidth": 2, "symbolSize": 90, "columnPadding": 18},
        "line": {"strokeWidth": 2},
    }  # fmt: skip


@lru_cache(maxsize=1)
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return vl_convert.javascript_bundle()


# ------------------------------------------------------------------------------------------------------------- pieces
def colour(name: str) -> str:
    """A colour by its name in the palettes."""
    return f"{COLOUR}{name}"


def tooltip(columns: Mapping[str, str]) -> list[Spec]:
    """Column -> title. Figures are texts already, rounded as the tables round them."""
    return [{"field": name, "type": "nominal", "title": title} for name, title in columns.items()]


def scale(domain: Sequence[str], range_: Sequence[Any]) -> Spec:
    """Names in their order, each with its own look."""
    return {"domain": list(domain), "range": list(range_)}
