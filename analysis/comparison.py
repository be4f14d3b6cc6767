"""Two studies side by side, with a difference only where both saw the same test images under the same noise."""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import facts
from analysis.contrasts import (
    P_NOTE,
    Contrast,
    check_note,
    contrast_columns,
    endpoint_title,
    error_note,
    family,
    family_error,
)
from analysis.embeddings import other_pairs, task_settings
from analysis.load import Snapshot, iter_predictions
from analysis.scores import CLEAN, NOISE, Arm, Cell, Headline, headline
from analysis.sides import Word, noise_word, rows_word
from analysis.tables import Column, Table, accuracy_text, bounds, count_text
from analysis.unfinished import has_open_tests, unfinished, without_verdicts

_NOISE_SETTINGS = ("seed", "scale")
"""Settings of `noise` that change the pixels of a corruption, beside its table of strengths."""


@dataclass(frozen=True)
class Comparison:
    """What two studies allow to say together.

    Attributes:
        names: of the two studies.
        found: their headlines.
        joined: the configurations of both over the cells they share, under the studies' names; None where figures of
            the two must not stand on one axis.
        studies: each configuration of each study in one table.
        contrasts: differences, second study minus first; without rows where none is allowed.
        reasons: why there is no difference; empty where there is one.
        notes: what a reader has to know.
    """

    names: tuple[str, str]
    found: tuple[Headline, Headline]
    joined: Headline | None
    studies: Table
    contrasts: Table
    reasons: list[str]
    notes: list[str]

    @property
    def word(self) -> Word:
        """What the noisy cells are that differences are over."""
        return "noise" if self.joined is None else noise_word(self.joined)

    def text(self) -> str:
        """The comparison for a terminal."""
        lines = [f"{self.names[0]} against {self.names[1]}"]
        lines += [" · ".join(row) for row in self.studies.texts()]
        lines += [f"no difference is stated: {reason}" for reason in self.reasons]
        for _, row in self.contrasts.frame.iterrows():
            lines.append(
                f"{endpoint_title(row['endpoint'], noise=self.word)}: {row['label']} against {row['baseline']} "
                f"{row['difference'] * 100:+.1f} points ({row['joint_low'] * 100:+.1f} to "
                f"{row['joint_high'] * 100:+.1f}): {row['verdict']}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.all_notes)])

    @property
    def all_notes(self) -> list[str]:
        """What a reader has to know, that of the differences' own table first."""
        return [*self.contrasts.notes, *self.notes]


def compare_studies(first: Snapshot, second: Snapshot) -> Comparison:
    """Put two studies side by side.

    Differences are drawn between what each study chose, and between the same configuration in both, over the cells
    that both measured with the same strengths, paired by image. They were not stated beforehand, and are said to be so.
    Where a phase that is tested has not finished in one of them, no difference is judged.
    """
    names = (first.name, second.name) if first.name != second.name else (f"{first.name} (1)", f"{second.name} (2)")
    found = (headline(first), headline(second))
    reasons = _reasons(first, second, *found)
    cells, notes = _shared(*found)
    still = [f"{name}: {said}" for name, said in zip(names, map(unfinished, (first, second)), strict=True) if said]
    if not reasons and not any(name != CLEAN for name, _ in cells):
        reasons = ["they have no noisy cell in common"]
    parts = [_restricted(one, cells) for one in found]
    contrasts, joined = [], None
    if not reasons:
        joined = _joined(names, parts)
        contrasts = _contrasts(names, (first, second), found, parts)
        notes.append("These differences were not stated beforehand: they are findings to confirm, no tests of a plan.")
        notes.append(f"Differences are over the {len(cells)} cells that both studies measured with the same strengths.")
    error = min(family_error(one, snapshot.study) for one, snapshot in zip(found, (first, second), strict=True))
    rows = [row for endpoint in ("noise", CLEAN) for row in family(endpoint, contrasts, error)]
    word = "noise" if joined is None else noise_word(joined)
    note = f"Paired by image and noise.{P_NOTE}{error_note(error)}{check_note(rows, noise=word)}"
    table = Table("contrasts", pd.DataFrame(rows), contrast_columns(word), [note] if rows else [])
    if has_open_tests(first.study) or has_open_tests(second.study):
        table = without_verdicts(table)
        still.append("No difference is judged before all phases that are tested have finished.")
    studies = _study_table(names, (first, second), found)
    return Comparison(names, found, joined, studies, table, reasons, [*still, *notes])


# ------------------------------------------------------------------------------------------------- what may be compared
def _reasons(first: Snapshot, second: Snapshot, own: Headline, other: Headline) -> list[str]:
    """Why no difference may be stated; the first reason that ends the matter, or all that do."""
    marks = [str(snapshot.study.get("fingerprint") or "") for snapshot in (first, second)]
    if not all(marks) or marks[0] != marks[1]:
        shown = " and ".join(mark[:12] or "none" for mark in marks)
        return [f"they read different data (fingerprints {shown}), so their figures are of different images"]
    tasks = [task_settings(snapshot.study.get("config") or {}) for snapshot in (first, second)]
    if tasks[0] != tasks[1]:
        return [f"their tasks are different ({tasks[0]}; {tasks[1]}), so what is right in one need not be in the other"]
    reasons = []
    splits = [one.split for one in (own, other)]
    if splits != ["test", "test"]:
        reasons.append(f"their figures are of {' and '.join(splits)} images, and validation figures were chosen by")
    elif differ := other_pairs(first.study, second.study):
        reasons.append(f"they are tested on {differ}")
    settings = [_noise_settings(snapshot, one) for snapshot, one in ((first, own), (second, other))]
    if settings[0] != settings[1]:
        reasons.append(f"their noise is of different versions or seeds ({_told(settings[0])}; {_told(settings[1])})")
    if reasons:
        return reasons
    if not all(arm.scores for one in (own, other) for arm in one.arms) or not (own.arms and other.arms):
        return ["predictions of some trials are missing, so nothing can be paired"]
    ids = [_images(snapshot, one) for snapshot, one in ((first, own), (second, other))]
    if not np.array_equal(ids[0], ids[1]):
        return [f"they tested different images ({len(ids[0])} and {len(ids[1])})"]
    return []


def _noise_settings(snapshot: Snapshot, found: Headline) -> dict[str, Any]:
    """What the noise of the trials shown was drawn by; trials of searches and of earlier settings do not count."""
    noise = (snapshot.study.get("config") or {}).get("noise") or {}
    shown = {str(trial) for arm in found.arms for trial in arm.rows["trial"]}
    numerics = sorted({str(record.info.get("numerics")) for record in snapshot.trials if record.key in shown})
    return {name: noise.get(name) for name in _NOISE_SETTINGS} | {"numerics": ", ".join(numerics)}


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _images(snapshot: Snapshot, found: Headline) -> np.ndarray:
    """Ids and labels of the study's own test images, by id."""
    trial = found.arms[0].trials[0]
    real = {name for name, _ in found.arms[0].real()}
    _, rows = next(iter_predictions(snapshot, trials=[trial]))
    own = rows[~rows["corruption"].isin(real)].drop_duplicates("image_id").sort_values("image_id")
    return own[["image_id", "label"]].to_numpy()


def _shared(own: Headline, other: Headline) -> tuple[set[Cell], list[str]]:
    """Cells that every configuration of both measured with the same table of strengths, and what was left out."""
    tables = [_tables(arm) for one in (own, other) for arm in one.arms]
    if not tables:
        return set(), []
    common = set.intersection(*(set(table) for table in tables))
    same = {cell for cell in common if len({table[cell] for table in tables}) == 1}
    differ = sorted({name for name, _ in common - same})
    return same, [f"{name} has other strengths in each study and is left out" for name in differ]


def _tables(arm: Arm) -> dict[Cell, str]:
    rows = arm.rows[arm.rows["group"] != "real"]
    return {(str(row.corruption), int(row.severity)): str(row.table) for row in rows.itertuples()}


def _restricted(found: Headline, cells: set[Cell]) -> list[Arm]:
    arms = []
    for arm in found.arms:
        mine = [cell in cells for cell in zip(arm.rows["corruption"], arm.rows["severity"], strict=True)]
        scores = {cell: scores_SI for cell, scores_SI in arm.scores.items() if cell in cells}
        arms.append(Arm(arm.config_id, arm.label, arm.rows[mine], scores, arm.trials))
    return arms


# --------------------------------------------------------------------------------------------------------- what is said
def _joined(names: tuple[str, str], parts: list[list[Arm]]) -> Headline:
    arms = [Arm(f"{place}-{arm.config_id}", f"{name}: {arm.label}", arm.rows, arm.scores, arm.trials)
            for place, (name, own) in enumerate(zip(names, parts, strict=True)) for arm in own]  # fmt: skip
    return Headline("test", arms, None, [])


def _contrasts(
    names: tuple[str, str],
    snapshots: tuple[Snapshot, Snapshot],
    found: tuple[Headline, Headline],
    parts: list[list[Arm]],
) -> list[Contrast]:
    """What the second study chose minus what the first chose, then each configuration that both have."""
    chosen = [facts.chosen_arm(snapshot, own) for snapshot, own in zip(snapshots, found, strict=True)]
    first, second = ({arm.config_id: arm for arm in part} for part in parts)
    pairs = [(chosen[1].config_id, chosen[0].config_id)] if chosen[0] is not None and chosen[1] is not None else []
    pairs += [(name, name) for name in second if name in first and (name, name) not in pairs]
    return [Contrast(second[new], f"{names[1]}: {second[new].label}", first[old], f"{names[0]}: {first[old].label}")
            for new, old in pairs]  # fmt: skip


def _study_table(
    names: tuple[str, str], snapshots: tuple[Snapshot, Snapshot], found: tuple[Headline, Headline]
) -> Table:
    rows: list[dict[str, Any]] = []
    for name, snapshot, own in zip(names, snapshots, found, strict=True):
        chosen = facts.chosen_arm(snapshot, own)
        for arm in own.arms:
            trials = arm.rows.drop_duplicates("trial")
            row: dict[str, Any] = {"study": name, "config_id": arm.config_id, "label": arm.label, "split": own.split,
                                   "chosen": chosen is not None and chosen.config_id == arm.config_id,
                                   "n_seeds": len(trials), "cells": len(arm.noisy())}  # fmt: skip
            row |= bounds(CLEAN, arm.mean(arm.of(CLEAN))) | bounds(NOISE, arm.mean(arm.noisy()))
            rows.append(row | {"cost_passes": float(trials["cost_passes"].mean())})
    word = rows_word(*(arm.rows for own in found for arm in own.arms))
    columns = [
        Column("study", lambda row: row["study"], is_number=False),
        Column("configuration", lambda row: f"{row['label']}{' (chosen)' if row['chosen'] else ''}", is_number=False),
        Column("images of", lambda row: row["split"], is_number=False),
        Column("seeds", lambda row: str(row["n_seeds"])),
        Column("clean", accuracy_text(CLEAN)),
        Column(f"mean {word}", accuracy_text(NOISE)),
        Column("noisy cells" if word == "noise" else "cells at lower sides", lambda row: str(row["cells"])),
        Column("passes", lambda row: count_text(row["cost_passes"])),
    ]
    note = f"Accuracy in per cent [95 % interval], each study's mean over its own {word}."
    return Table("studies", pd.DataFrame(rows), columns, [note] if rows else [])
