"""Draws what the cost of PMAL's step grows with, from the figures of tests/bench/bench_step.py."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures import COLOURS, GRID, INK, QUIET, render

MEASURED, COUNTED = COLOURS[0], COLOURS[1]


def draw(results: dict[str, Any], place: Path) -> None:
    """Four panels: stages, image size, workers, forms of SAM; blue circles are measured, orange squares counted."""
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    stages, sizes, workers, variants = figure.subplots(2, 2).flat
    _lines(stages, results["stages"], counted="counted gradient passes")
    _label(stages, "Stages with a head", "S (0: plain training)", "cost of an image, S = 0 is 1")
    _lines(sizes, results["sizes"], counted="number of pixels")
    _label(sizes, "Image size, S = 3", "side, pixels", f"cost of an image, {min(results['sizes'])} px is 1")
    rates = results["workers"]
    speedup = {world: (rate / rates[1], float(world)) for world, rate in rates.items()}
    _lines(workers, speedup, counted="as many as workers")
    _label(workers, "Workers sharing a batch, S = 3", "workers", "images per second, 1 worker is 1")
    _bars(variants, results["variants"])
    _label(variants, "Forms of SAM, S = 3", "", "cost of a batch, no SAM is 1")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(render(figure, "png"))


def _lines(axes: Axes, values: dict[int, tuple[float, float]], *, counted: str) -> None:
    xs = list(values)
    axes.plot(xs, [values[x][1] for x in xs], "s--", color=COUNTED, mfc="white", ms=8, lw=1.8, label=counted)
    axes.plot(xs, [values[x][0] for x in xs], "o-", color=MEASURED, ms=7, lw=2.2, label="measured")
    axes.set_xticks(xs)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10, loc="upper left")


def _bars(axes: Axes, values: dict[str, tuple[float, float]]) -> None:
    places = range(len(values))
    axes.bar([x - 0.2 for x in places], [pair[0] for pair in values.values()], 0.38, color=MEASURED, label="measured")
    axes.bar(
        [x + 0.2 for x in places], [pair[1] for pair in values.values()], 0.38,
        color="white", edgecolor=COUNTED, hatch="//", lw=1.4, label="counted gradient passes",
    )  # fmt: skip
    for x, (measured, _) in zip(places, values.values(), strict=True):
        axes.annotate(f"{measured:.2f}", (x - 0.2, measured), ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_xticks(list(places), [name.replace(", ", ",\n") for name in values])
    axes.set_ylim(0, 1.3 * max(max(pair) for pair in values.values()))
    axes.legend(frameon=False, fontsize=10, loc="upper right", ncols=2)


def _label(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=12, color=INK, loc="left", weight="bold")
    axes.set_xlabel(across, fontsize=10.5)
    axes.set_ylabel(up, fontsize=10.5)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=10)
