"""The figures of the page: an interactive chart, the still picture that stands for it in print, or both."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis import figures, vegalite
from analysis.pictures import Picture
from analysis.vegalite import Chart

_MOST_SVG = 600_000
"""Bytes of a drawing above which it is kept as pixels, which of many lines are no fewer bytes and slower made."""


@dataclass(frozen=True)
class Panel:
    """A figure as the page's template reads it.

    Attributes:
        uri: the still picture, as a data URI.
        choices: what a list beside the chart offers; the still picture shows the first.
        is_live: whether there is an interactive chart of this id.
    """

    id: str
    title: str
    caption: str
    uri: str
    width: int
    alt: str
    choices: Sequence[str] = ()
    choice_title: str = ""
    is_live: bool = field(default=False)


def panels(pictures: Sequence[Picture], charts: Sequence[Chart]) -> dict[str, Panel]:
    """Name -> panel. A chart has the name of the picture that it takes the place of on a screen."""
    drawn, live = {picture.name: picture for picture in pictures}, {chart.name: chart for chart in charts}
    return {name: _panel(name, drawn.get(name), live.get(name)) for name in {**drawn, **live}}


def _panel(name: str, picture: Picture | None, chart: Chart | None) -> Panel:
    if chart is None:
        assert picture is not None
        return Panel(name, picture.title, picture.caption, _drawn(picture), _width(picture), picture.title)
    if picture is None:
        title, caption, uri, width = chart.title, chart.caption, _still(chart), vegalite.STILL_WIDTH
    else:
        title, uri, width = chart.title, _drawn(picture), _width(picture)
        caption = f"{picture.caption} {chart.caption}".strip()
    return Panel(name, title, caption, uri, width, chart.alt, [*chart.specs], chart.choice_title, is_live=True)


def _drawn(picture: Picture) -> str:
    return _uri(figures.render(picture.figure, picture.form), picture.form)


def _width(picture: Picture) -> int:
    return round(picture.figure.get_figwidth() * 100)


def _still(chart: Chart) -> str:
    content = vegalite.still(chart)
    if len(content) <= _MOST_SVG:
        return _uri(content, "svg")
    return _uri(vegalite.as_pixels(content), "png")


def _uri(content: bytes, form: str) -> str:
    kind = {"svg": "image/svg+xml", "png": "image/png"}[form]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
