"""How configurations look in the page: a colour, a shape and a sign each, in light and in dark."""

from __future__ import annotations

from typing import NamedTuple

from analysis.scores import Headline

COLOUR = "murk-colour:"
"""What stands for a colour in a chart's specification until the page's theme is known: `murk-colour:c1`."""
_LIGHT = ("#4d4d4d", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
_DARK = ("#c3cad3", "#4FA8E0", "#F0803C", "#2CC295", "#E59CC5", "#F0B429", "#9AD3F5", "#CDAE72")
PALETTES: dict[str, dict[str, str]] = {
    "light": {f"c{place}": colour for place, colour in enumerate(_LIGHT)}
    | {"ink": "#1f2933", "quiet": "#5f6b7a", "grid": "#e3e7ec", "paper": "#ffffff", "heat0": "#e8f1f9",
       "heat1": "#08468a", "far": "#cfd6dd"},
    "dark": {f"c{place}": colour for place, colour in enumerate(_DARK)}
    | {"ink": "#e6eaef", "quiet": "#a3adb9", "grid": "#313a45", "paper": "#14191f", "heat0": "#1b2a3a",
       "heat1": "#8fd0ff", "far": "#3d4753"},
}  # fmt: skip
"""Okabe and Ito's colours, in dark lighter ones of the same hues; c0 is the baseline's grey."""
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross",
    "M-.9,-.6L-.6,-.9L0,-.3L.6,-.9L.9,-.6L.3,0L.9,.6L.6,.9L0,.3L-.6,.9L-.9,.6L-.3,0Z",
    "M0,-1L.26,-.36L.95,-.31L.42,.14L.59,.81L0,.44L-.59,.81L-.42,.14L-.95,-.31L-.26,-.36Z",
)  # fmt: skip
SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
MAX_ARMS = 24
"""Configurations that an interactive chart draws; colour, shape and dash together tell so many apart."""


class Look(NamedTuple):
    """Places in the palette, among the shapes and among the dashes."""

    colour: int
    shape: int
    dash: int


def looks(found: Headline) -> dict[str, Look]:
    """Config id -> its look, of the first `MAX_ARMS`; the first ones as the drawn figures have them."""
    hues, known = len(_LIGHT) - 1, {}
    others = 0
    for place, arm in enumerate(found.arms[:MAX_ARMS]):
        if arm.config_id == found.baseline:
            colour = 0
        else:
            colour, others = 1 + others % hues, others + 1
        known[arm.config_id] = Look(colour, place % len(SHAPES), place // len(SHAPES) % len(DASHES))
    return known


def names(found: Headline) -> dict[str, str]:
    """Config id -> the name charts know it by: its label, with a piece of the id where two have one label."""
    labels = [arm.label for arm in found.arms]
    return {arm.config_id: arm.label if labels.count(arm.label) == 1 else f"{arm.label} #{arm.config_id[:4]}"
            for arm in found.arms}  # fmt: skip
