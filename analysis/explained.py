"""What explains a study's figures: what mattered in each search, how accuracy falls, and where the chosen one fails."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis import facts
from analysis.calibration import calibration_table
from analysis.effectchart import effect_chart
from analysis.effects import effect_table, linear_settings, search_settings
from analysis.embeddings import task_of
from analysis.factorial import arm_interaction_table
from analysis.flips import confusion_table, flip_table, image_flip_table
from analysis.importance import LEAST_TRIALS, importance_table
from analysis.interactions import interaction_table
from analysis.load import Snapshot, iter_predictions, read_examples
from analysis.otherrules import rule_table
from analysis.plaintext import encodable
from analysis.scores import CLEAN, NOISE, Headline
from analysis.searchcharts import importance_chart
from analysis.searches import objectives_of, search_of
from analysis.severities import severity_table
from analysis.sharpness import sharpness_table
from analysis.similarity import study_similarity_table
from analysis.tables import Column, Table
from analysis.trialframe import RHO, STAGES, trial_frame
from analysis.vegalite import Chart

MOST_CLASSES = 20
MOST_CONFUSIONS = 3
"""Classes that the page shows, and confusions of each kind of noise; the files have all."""
MOST_CURVES = 24
"""Configurations whose mean curves the page shows; the files have the curves of all, of each corruption too."""
MOST_KEPT = 2000
"""Confusions of each kind that the files have: a thousand classes can have a million."""


_FOLDED = ("image_flips",)  # of the tables on failures


class Explanation(NamedTuple):
    """A table with its heading; `place` is the section of the page that it belongs to.

    `shown` is what the page shows of a long table, with a note of what is left out; the files have all rows.
    `is_folded` says whether the page opens it only when asked to; in the sections on accuracy and on searches all are.
    """

    title: str
    place: Literal["accuracy", "fails", "search"]
    table: Table
    shown: Table
    is_folded: bool = False


def explanations(snapshot: Snapshot, found: Headline) -> list[Explanation]:
    """The tables that there are rows for: of each search, then of the chosen configuration's test images, then of all
    configurations shown.
    """
    made = [one for phase in _searches(snapshot) for one in _of_search(snapshot, phase)]
    made += _of_chosen(snapshot, found)
    made += [_explained("Error against the strength of noise", "accuracy", "severities", lambda: severity_table(found)),
             _explained("Stages and rho together, of tested configurations", "accuracy", "arm_interactions",
                        lambda: arm_interaction_table(snapshot, found))]  # fmt: skip
    made.append(_explained("Features of noisy images beside those of clean ones, by stage", "fails", "similarity",
                           lambda: study_similarity_table(snapshot, found)))  # fmt: skip
    return [one for one in made if len(one.table.frame)]


def importance_charts(explained: Sequence[Explanation]) -> list[Chart]:
    """The importance of each search's keys as bars."""
    charts = [
        importance_chart(
            one.table.frame, phase=one.table.name.removeprefix("importance-"), caption=" ".join(one.table.notes)
        )
        for one in explained if one.table.name.startswith("importance-") and "share" in one.table.frame
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def effect_charts(snapshot: Snapshot, explained: Sequence[Explanation]) -> list[Chart]:
    """The objective of each search against its settings."""
    charts: list[Chart | None] = []
    for one in explained:
        phase = one.table.name.removeprefix("effects-")
        if phase != one.table.name and "setting" in one.table.frame:
            metric = next(iter(objectives_of(snapshot.study, phase)))
            caption = " ".join(one.table.notes)
            charts.append(effect_chart(one.table.frame, phase=phase, metric=metric, caption=caption))
    return [chart for chart in charts if chart is not None]


def _searches(snapshot: Snapshot) -> list[str]:
    return list(dict.fromkeys(str(r.info["phase"]) for r in snapshot.trials if r.info["role"] == "search"))


def _of_search(snapshot: Snapshot, phase: str) -> list[Explanation]:
    """What other rules would choose; importance, effects and the interaction of a search with trials enough to tell."""
    rules = _explained(f"Phase {phase}: what other rules would choose", "search", f"rules-{phase}",
                       lambda: rule_table(snapshot, phase))  # fmt: skip
    metric = next(iter(objectives_of(snapshot.study, phase)))
    space = search_of(snapshot.study, phase).get("space") or {}
    trials = trial_frame(snapshot, phase=phase)
    if metric not in trials or len(trials[metric].dropna()) < LEAST_TRIALS:
        return [rules]
    asked = [("importance", "importance of each key", lambda: importance_table(snapshot, phase)),
             ("effects", "the objective by setting",
              lambda: effect_table(trials, metric, settings=search_settings(trials), linear=linear_settings(space))),
             ("sharpness", "sharpness and the objective", lambda: sharpness_table(trials, metric))]  # fmt: skip
    if all(trials[name].nunique() > 1 for name in (STAGES, RHO)):
        asked.append(("interaction", "stages and rho together", lambda: interaction_table(trials, metric)))
    made = [_explained(f"Phase {phase}: {title}", "search", f"{name}-{phase}", make) for name, title, make in asked]
    return [*made, rules]


def _of_chosen(snapshot: Snapshot, found: Headline) -> list[Explanation]:
    """Calibration, flips and confusions of what was chosen, its seeds together, on its own test images.

    What is judged by embeddings has a similarity where a classifier has a confidence, so no calibration; a verification
    tells pairs, which are taken for nothing and whose numbers name no image.
    """
    chosen = facts.example_arm(snapshot, found)
    if chosen is None or found.split != "test":
        return []
    real = {name for name, _ in chosen.real()}
    trials = sorted(str(trial) for trial in chosen.rows["trial"].unique())
    parts = [rows[~rows["corruption"].isin(list(real))] for _, rows in iter_predictions(snapshot, trials=trials)]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty or not (rows["corruption"] == CLEAN).any():
        return []
    kinds = {name: group for name, group in found.groups().items() if name not in real and name != CLEAN}
    task = task_of(snapshot.study)
    is_pairs = task == "verification"
    classes, what, unit = (
        (["different", "same"], "Pairs", "pairs") if is_pairs else (_classes(snapshot, trials[0]), "Classes", "images")
    )
    asked = [("calibration", f"Is {chosen.label} as sure as it is right?", lambda: calibration_table(rows, kinds)),
             ("flips", f"{what} that flip most under noise, of {chosen.label}",
              lambda: flip_table(rows, classes=classes, unit=unit)),
             ("image_flips", f"Images that flip most under noise, of {chosen.label}",
              lambda: image_flip_table(rows, classes=classes)),
             ("confusions", f"What {chosen.label} takes for what",
              lambda: _kept(confusion_table(rows, kinds, classes=classes, top=None)))]  # fmt: skip
    missing = {None: (), "retrieval": ("calibration",),
               "verification": ("calibration", "image_flips", "confusions")}[task]  # fmt: skip
    return [_explained(title, "fails", name, make) for name, title, make in asked if name not in missing]


def _classes(snapshot: Snapshot, trial: str) -> list[str] | None:
    examples = read_examples(snapshot, trial)
    return None if examples is None else [encodable(str(name)) for name in np.asarray(examples["class_names"])]


def _kept(table: Table) -> Table:
    """The confusions that files have, with a note where they are not all."""
    rows = table.frame.groupby("kind", sort=False).head(MOST_KEPT)
    left = len(table.frame) - len(rows)
    notes = [
        *table.notes,
        *([f"The files have the first {MOST_KEPT:,} of each kind, {left:,} are left out."] * (left > 0)),
    ]
    return Table(table.name, rows, table.columns, notes)


def _shown(table: Table) -> Table:
    """The rows that a page has room for, with a note where they are not all."""
    match table.name:
        case "flips":
            rows, unit = table.frame.head(MOST_CLASSES), "classes"
        case "severities" if "corruption" in table.frame:
            means = table.frame[table.frame["corruption"] == NOISE]
            first = means["config_id"].drop_duplicates().head(MOST_CURVES)
            rows, unit = means[means["config_id"].isin(first)], "rows, the means over corruptions"
        case "confusions" if "kind" in table.frame:
            rows, unit = table.frame.groupby("kind", sort=False).head(MOST_CONFUSIONS), "confusions"
        case _:
            return table
    if len(rows) == len(table.frame):
        return table
    kept = f", the first {MOST_CONFUSIONS} of each kind" if unit == "confusions" else ""
    note = f"Shown: {len(rows)} of {len(table.frame):,} {unit}{kept}."
    return Table(table.name, rows, table.columns, [*table.notes, note])


def _explained(
    title: str, place: Literal["accuracy", "fails", "search"], name: str, make: Callable[[], Table]
) -> Explanation:
    """A further table under its own name; where the records do not allow it, the reason stands in its place.

    None of these tables is what a report is for, so that none of them may keep the others from being read.
    """
    try:
        table = make()
    except (ValueError, ArithmeticError) as error:
        reason = pd.DataFrame([{"left_out": str(error)}])
        table = Table(name, reason, [Column("left out", _left_out, is_number=False)])
    named = Table(name, table.frame, table.columns, table.notes)
    return Explanation(title, place, named, _shown(named), is_folded=place != "fails" or name in _FOLDED)


def _left_out(row: pd.Series) -> str:
    return str(row["left_out"])
