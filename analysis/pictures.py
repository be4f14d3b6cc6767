"""The drawn figures of a report, as its folder `figures/` has them and as its page shows them printed."""
# pandas ships no stubs:
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure

from analysis import facts, figures, provenance
from analysis.fronts import FRONT_LEGEND, front_figure, fronts
from analysis.load import Snapshot, read_examples
from analysis.scores import Headline
from analysis.searches import objective_of, objectives_of
from analysis.sides import LOWER, full_side, full_size_noise, lower_sides, noise_at_sides, noise_word
from analysis.tables import Table


@dataclass(frozen=True)
class Picture:
    """A figure of the report: `form` is how it stands in the page (drawings as SVG, photographs as PNG)."""

    name: str
    title: str
    caption: str
    figure: Figure
    form: Literal["svg", "png"] = "svg"


def draw(snapshot: Snapshot, found: Headline, tables: Mapping[str, Table]) -> list[Picture]:
    """The figures of a study, those it has data for."""
    pictures = [*_severity_picture(found), *_side_picture(found, snapshot.study)]
    if found.arms and found.corruptions:
        where = "at lower sides" if noise_word(found) == LOWER else "under noise"
        pictures += [
            Picture("corruptions", "Accuracy by corruption",
                    "Per cent, mean over severities. ● trained on this very corruption, ◐ on one of its group.",
                    figures.heat_figure(found)),
            Picture("cost", f"Accuracy {where} against cost of training",
                    "One gradient pass is one image forward and backward through the deployed network.",
                    figures.cost_figure(found, tables["accuracy"].frame)),
        ]  # fmt: skip
    chosen = facts.example_arm(snapshot, found)
    examples = None if chosen is None else read_examples(snapshot, str(chosen.rows["trial"].iloc[0]))
    if chosen is not None and examples is not None:
        pictures.append(
            Picture("examples", "What the network saw", f"Test images and what {chosen.label} said.",
                    figures.example_figure(examples), form="png")
        )  # fmt: skip
    trials = tables["trials"].frame
    for phase in dict.fromkeys(r.info["phase"] for r in snapshot.trials if r.info["role"] == "search"):
        metric, goal = objective_of(snapshot.study, phase)
        rows = trials[trials["phase"] == phase]
        pictures.append(
            Picture(f"search-{phase}", f"Phase {phase}: the objective, trial by trial",
                    provenance.validation_words(snapshot.study),
                    figures.history_figure(rows, metric=metric, goal=goal))
        )  # fmt: skip
    for phase, frame in fronts(snapshot).items():
        pictures.append(
            Picture(f"pareto-{phase}", f"Phase {phase}: the Pareto front",
                    f"{FRONT_LEGEND} Numbers are those of trials.",
                    front_figure(frame, objectives_of(snapshot.study, phase)))
        )  # fmt: skip
    return pictures


def _severity_picture(found: Headline) -> list[Picture]:
    if not any(full_size_noise(arm) for arm in found.arms):
        return []
    caption = "Mean over the corruptions; bands are 95 % intervals."
    if any(lower_sides(arm) for arm in found.arms):
        caption += " Images at full size."
    return [Picture("severity", "Accuracy against severity", caption, figures.severity_figure(found))]


def _side_picture(found: Headline, study: Mapping[str, Any]) -> list[Picture]:
    arms, size = [arm for arm in found.arms[: figures.MAX_LINES] if lower_sides(arm)], full_side(study)
    if not arms or size is None:
        return []
    caption = f"Bands are 95 % intervals; {size} px are the images as they are."
    if any(noise_at_sides(arm) for arm in arms):
        caption += " Under noise: the mean over the corruptions and severities measured at that side."
    return [Picture("sides", "Accuracy against side", caption, figures.side_figure(found, size))]
