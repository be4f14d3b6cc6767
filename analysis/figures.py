"""The figures of a report. Object API only: no pyplot, no global state. Colours are Okabe and Ito's, safe for the
colour-blind, and never alone: each configuration also has its own marker.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.scores import CLEAN, NOISE, Headline
from analysis.sides import LOWER, lower_sides, noise_word, side_means
from analysis.tables import MARKS, count_text, severity_means

BASELINE_COLOUR = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAX_LINES = len(MARKERS)
INK, QUIET, GRID = "#1f2933", "#5f6b7a", "#e3e7ec"
DPI = 160
EXAMPLE_COLUMNS = 6
SIDE_TITLES = {"clean": "without noise", "noise": "mean under noise"}
"""What each panel of the figure by side shows, by the kind of its rows."""


def render(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    """The figure as a file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "murk", "svg.fonttype": "path"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # class names in any script
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def plain(text: str, *, width: int | None = None) -> str:
    """Text that Matplotlib does not take for a formula, broken at `width` characters."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width)] if width else [text]
    return "\n".join(lines).replace("$", r"\$")


def styles(found: Headline) -> dict[str, tuple[str, str]]:
    """Config id -> (colour, marker); the baseline is grey in every figure."""
    colours = iter(COLOURS)
    shown = found.arms[:MAX_LINES]
    return {
        arm.config_id: (BASELINE_COLOUR if arm.config_id == found.baseline else next(colours, QUIET), marker)
        for arm, marker in zip(shown, MARKERS, strict=False)
    }


def severity_figure(found: Headline) -> Figure:
    """Accuracy against severity by configuration, mean over corruptions, with 95 % bands; severity 0 is clean.

    Images at full size: a lower side has a figure of its own.
    """
    figure, (axes,) = _panels(1, width=7.2, height=3.9)
    means = {arm.config_id: severity_means(arm) for arm in found.arms[:MAX_LINES]}
    marks = styles(found)
    for arm in found.arms[:MAX_LINES]:
        colour, marker = marks[arm.config_id]
        _line(axes, means[arm.config_id], x="severity", colour=colour, marker=marker, label=arm.label)
    levels = sorted({int(level) for rows in means.values() for level in rows["severity"]})
    axes.set_xticks(levels, ["clean" if level == 0 else str(level) for level in levels])
    axes.set_xlabel("severity of the noise")
    axes.set_ylabel(f"accuracy, {found.split} images (%)")
    axes.set_ylim(0, 100)
    _legend(figure, axes)
    return figure


def side_figure(found: Headline, full_size: int) -> Figure:
    """Accuracy against the side of the images by configuration, with 95 % bands; with noise in a second panel.

    Args:
        full_size: side in pixels of the images as they are: the right-most point.

    Raises:
        ValueError: no configuration was measured at a lower side.
    """
    means = {arm.config_id: side_means(arm, full_size) for arm in found.arms[:MAX_LINES] if lower_sides(arm)}
    if not means:
        raise ValueError("side_figure needs cells of lower sides, but no configuration shown has any")
    kinds = [kind for kind in SIDE_TITLES if any((rows["kind"] == kind).any() for rows in means.values())]
    figure, panels = _panels(len(kinds), width=7.2, height=3.9)
    labels, marks = {arm.config_id: arm.label for arm in found.arms}, styles(found)
    for axes, kind in zip(panels, kinds, strict=True):
        for name, rows in means.items():
            colour, marker = marks[name]
            own = rows[rows["kind"] == kind]
            _line(axes, own, x="side", colour=colour, marker=marker, label=labels[name])
        _side_axis(
            axes, sorted({int(side) for rows in means.values() for side in rows["side"]}), gap=0.035 * len(kinds)
        )
        axes.set_xlabel(f"side in pixels ({full_size}: full size)")
        if len(kinds) > 1:
            axes.set_title(SIDE_TITLES[kind], fontsize=10.5, color=INK)
    panels[0].set_ylabel(f"accuracy, {found.split} images (%)")
    panels[0].set_ylim(0, 100)
    _legend(figure, panels[0])
    return figure


def _side_axis(axes: Axes, sides: Sequence[int], *, gap: float) -> None:
    """Octaves, a tick for each side; one nearer than `gap` of the axis to the label on its right has no label."""
    axes.set_xscale("log", base=2)
    room, labels, last = (np.log2(sides[-1]) - np.log2(sides[0])) * gap, [], np.inf
    for side in reversed(sides):
        is_free = np.log2(side) + room <= last
        labels.append(str(side) if is_free else "")
        last = np.log2(side) if is_free else last
    axes.set_xticks(sides, labels[::-1])
    axes.xaxis.set_minor_locator(NullLocator())


def heat_figure(found: Headline) -> Figure:
    """Accuracy by corruption (rows, by group) and configuration (columns), with the marks of the training noise."""
    arms, names, groups = found.arms[:MAX_LINES], [CLEAN, *found.corruptions], found.groups()
    means = {arm.config_id: arm.rows.groupby("corruption")["accuracy"].mean() * 100 for arm in arms}
    table = np.array([[means[arm.config_id].get(name, np.nan) for arm in arms] for name in names], dtype=float)
    shown = [name if groups[name] == name else f"{name}  ({groups[name]})" for name in names]
    room = 2.3 + 0.08 * max(0, max(map(len, shown)) - 28)  # names with a side are long
    figure, (axes,) = _panels(1, width=room + 1.45 * len(arms), height=0.9 + 0.36 * len(names))
    low, high = np.floor(np.nanmin(table) / 10) * 10, np.ceil(np.nanmax(table) / 10) * 10
    axes.imshow(table, cmap="Blues", vmin=low - 5, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        mark = MARKS.get(arms[column].relations().get(names[row], ""), "")
        text = "–" if np.isnan(value) else f"{value:.1f} {mark}".rstrip()
        dark = np.isnan(value) or value < low + 0.55 * (high - low)
        axes.text(column, row, text, ha="center", va="center", color=INK if dark else "white", fontsize=9.5)
    axes.set_yticks(range(len(names)), [plain(name) for name in shown])
    axes.set_xticks(range(len(arms)), [plain(arm.label, width=17) for arm in arms])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9.5)
    axes.set_xticks(np.arange(len(arms)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names)) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return figure


def history_figure(rows: pd.DataFrame, *, metric: str, goal: str) -> Figure:
    """The objective of each trial of a search in order, with the best so far; pruned and failed ones are marked.

    Args:
        rows: columns number, status, value (NaN where a trial never reported), and `keeps` where
            there are constraints.
    """
    figure, (axes,) = _panels(1, width=7.2, height=3.3)
    scale = 100.0 if metric.startswith("acc/") else 1.0
    rows = rows.sort_values("number")
    number, value = rows["number"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float) * scale
    status = rows["status"].to_numpy(dtype=object)
    if "keeps" in rows.columns:
        status = np.where(rows["keeps"].to_numpy(dtype=bool), status, "broken")
    done = (status == "finished") & np.isfinite(value)
    if done.any():
        running = np.maximum.accumulate(value[done]) if goal == "maximise" else np.minimum.accumulate(value[done])
        axes.step([*number[done], number.max()], [*running, running[-1]], where="post", color=COLOURS[0], lw=1.6,
                  label="best so far", zorder=2)  # fmt: skip
    looks = {
        "finished": {"marker": "o", "color": COLOURS[0]},
        "pruned": {"marker": "v", "facecolors": "white", "edgecolors": COLOURS[4], "linewidths": 1.6},
        "broken": {"marker": "o", "facecolors": "white", "edgecolors": QUIET, "linewidths": 1.4},
        "running": {"marker": "s", "facecolors": "white", "edgecolors": QUIET, "linewidths": 1.4},
    }
    names = {
        "finished": "finished",
        "pruned": "pruned (last value)",
        "broken": "broke a constraint",
        "running": "not ended (last value)",
    }
    for kind, look in looks.items():
        mine = (status == kind) & np.isfinite(value)
        if mine.any():
            axes.scatter(number[mine], value[mine], s=42, zorder=3, label=names[kind], **look)
    mute = (status == "failed") | ~np.isfinite(value)
    if mute.any():
        axes.scatter(number[mute], np.full(mute.sum(), 0.04), s=46, marker="x", color=COLOURS[1], lw=2, zorder=3,
                     transform=axes.get_xaxis_transform(), label="failed or without a value")  # fmt: skip
    axes.margins(x=0.04, y=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial, in the order started")
    axes.set_ylabel(f"{metric} on validation" + (" (%)" if scale == 100.0 else ""))
    _legend(figure, axes)
    return figure


def cost_figure(found: Headline, accuracy: pd.DataFrame) -> Figure:
    """Mean accuracy under noise against what it cost, in gradient passes and in device seconds."""
    figure, panels = _panels(2, width=7.2, height=3.4)
    marks = styles(found)
    units = (("cost_passes", "gradient passes of one image"), ("cost_seconds", "seconds on the device"))
    for axes, (column, title) in zip(panels, units, strict=True):
        for _, row in accuracy.iterrows():
            if row["config_id"] not in marks or pd.isna(row[column]) or pd.isna(row[NOISE]):
                continue
            colour, marker = marks[row["config_id"]]
            bounds = [[(row[NOISE] - row[f"{NOISE}_low"]) * 100], [(row[f"{NOISE}_high"] - row[NOISE]) * 100]]
            axes.errorbar(row[column], row[NOISE] * 100, yerr=bounds, color=colour, marker=marker, ms=8, lw=1.6,
                          capsize=3, ls="none", label=plain(row["label"]))  # fmt: skip
        axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.05)
        axes.set_xlabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else count_text(value)))
    panels[0].set_ylabel(f"accuracy {'at lower sides' if noise_word(found) == LOWER else 'under noise'} (%)")
    _legend(figure, panels[0])
    return figure


def example_figure(examples: Mapping[str, np.ndarray]) -> Figure:
    """One image under each corruption: clean, noisy and, where the method restores, restored, with the predictions."""
    classes, corruption = [str(name) for name in examples["class_names"]], examples["corruption"]
    names = list(dict.fromkeys(str(name) for name in corruption))[:EXAMPLE_COLUMNS]
    places = [_pick(np.flatnonzero(corruption == name), column) for column, name in enumerate(names)]
    kinds = [kind for kind in ("clean", "noisy", "restored") if kind in examples]
    figure = Figure(figsize=(1.75 * len(names), 2.05 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(kinds), len(names), squeeze=False)
    for row, kind in enumerate(kinds):
        for column, place in enumerate(places):
            axes = grid[row, column]
            axes.imshow(examples[kind][place], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(GRID)
            if column == 0:
                axes.set_ylabel(kind, fontsize=11, color=INK)
            if row == 0:
                level = int(examples["severity"][place])
                axes.set_title(plain(f"{names[column]} {level}", width=19), fontsize=9.5, color=INK)
            if kind != "restored":
                right, text = _prediction(examples, kind, place, classes)
                axes.set_xlabel(plain(text, width=20), fontsize=9, color=COLOURS[2] if right else COLOURS[1])
    return figure


def _pick(places: np.ndarray, column: int) -> int:
    return int(places[column % len(places)])


def _prediction(examples: Mapping[str, np.ndarray], kind: str, place: int, classes: Sequence[str]) -> tuple[bool, str]:
    predicted, label = int(examples[f"predicted_{kind}"][place]), int(examples["labels"][place])
    if predicted == label:
        return True, f"✓ {classes[predicted]}"
    return False, f"✗ {classes[predicted]}\nis {classes[label]}"


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False, sharey=True)[0])
    for axes in panels:
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(QUIET)
        axes.tick_params(colors=INK, labelsize=10)
        axes.xaxis.label.set_size(10.5)
        axes.yaxis.label.set_size(10.5)
    return figure, panels


def _line(axes: Axes, rows: pd.DataFrame, *, x: str, colour: str, marker: str, label: str) -> None:
    """One configuration's accuracy in per cent over the column `x`, with the band of its intervals."""
    places = rows[x].to_numpy(dtype=float)
    axes.fill_between(places, rows["accuracy_low"] * 100, rows["accuracy_high"] * 100, color=colour, alpha=0.14, lw=0)
    axes.plot(places, rows["accuracy"] * 100, color=colour, marker=marker, ms=6, lw=2, label=plain(label))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest, all_in_one = max(map(len, labels)), sum(len(label) + 7 for label in labels) <= 96
        columns = len(labels) if all_in_one else max(1, min(len(labels), 92 // (longest + 8)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=10)
