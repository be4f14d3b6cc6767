"""`murk compare`: one trained network against another, found by their trials' keys."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pandas as pd

from analysis.embeddings import other_pairs, task_settings
from analysis.load import Snapshot, iter_predictions, read_study
from analysis.networks import NETWORK_LEGEND, network_table
from analysis.records import TrialRecord
from analysis.tablefiles import rows_of
from analysis.tables import Table
from study.places import redact, refuse_credentials, resolve_places
from study.reporting import study_url

_CELL = ["corruption", "severity"]


class Run(NamedTuple):
    """A trial and the study it is of."""

    snapshot: Snapshot
    record: TrialRecord

    @property
    def label(self) -> str:
        frame = self.snapshot.frame()
        found = frame.loc[frame["trial"] == self.record.key, "label"]
        return f"{found.iloc[0]} seed {self.record.info.get('seed')} ({self.record.key[:8]})"


class RunComparison(NamedTuple):
    """Two runs compared: for people, and for a script."""

    text: str
    facts: dict[str, Any]


def compare_runs(first: str, second: str, *, storage: str | None) -> RunComparison:
    """The paired test of two trials' networks on the test images that both read.

    Args:
        first: `STUDY/KEY`, or the first digits of a key, with the study before them where several have it.
        second: the other one.

    Raises:
        ValueError: there is no such trial or there are several, one kept no predictions, or they cannot be paired.
    """
    for name in (first, second):
        refuse_credentials(name, "a run")
    place = str(resolve_places(None, cwd=Path.cwd(), storage=storage).storage)
    known: dict[str, Snapshot] = {}
    runs = [find_run(name, place, known) for name in (first, second)]
    if runs[0].record.key == runs[1].record.key and runs[0].snapshot.name == runs[1].snapshot.name:
        raise ValueError(
            f"two different trials can be compared, but {first} and {second} are both {runs[0].record.key}"
        )
    _check_comparable(*runs)
    rows, left_out = _common([_predictions(run) for run in runs])
    table = network_table(rows[0], rows[1], names=("first", "second"))
    notes = (
        [f"cells that both did not read with the same strengths are left out: {', '.join(left_out)}"]
        if left_out
        else []
    )
    facts = {"first": _named(runs[0]), "second": _named(runs[1]), "population": "these two networks",
             "cells": rows_of(table), "notes": notes}  # fmt: skip
    head = [f"first   {runs[0].label}, study {runs[0].snapshot.name}",
            f"second  {runs[1].label}, study {runs[1].snapshot.name}", ""]  # fmt: skip
    return RunComparison("\n".join([*head, *_lines(table), "", NETWORK_LEGEND, *notes]), facts)


def find_run(name: str, storage: str, known: dict[str, Snapshot]) -> Run:
    """The one trial that a name means.

    Args:
        known: studies read already, by name; those read here are added.
    """
    study, _, start = name.rpartition("/")
    if not start:
        raise ValueError(f"a run must be STUDY/KEY or the first digits of a key, but got {name!r}")
    keys = {study: _keys(storage, study)} if study else {one: _keys(storage, one) for one in _studies(storage)}
    found = [(one, key) for one, own in keys.items() for key in own if key.startswith(start)]
    where = f"study {study!r}" if study else f"the studies at {redact(storage)}"
    if not found:
        listed = ", ".join([key for own in keys.values() for key in own][:8])
        raise ValueError(f"{where} must have a trial that begins with {start!r}, but has {listed or 'none'}")
    if len(found) > 1:
        listed = ", ".join(f"{one}/{key}" for one, key in found[:8])
        is_shared = len({key for _, key in found}) < len(found)
        advice = "name the study, as STUDY/KEY" if is_shared else "write more of the key"
        raise ValueError(f"{name!r} must mean one trial, but means {len(found)} of {where}: {listed}; {advice}")
    ((one, key),) = found
    if one not in known:
        known[one] = read_study(study_url(storage, one))
    record = next((record for record in known[one].trials if record.key == key), None)
    if record is None:
        raise ValueError(f"trial {one}/{key} must have a record that can be read, but trial.json is missing in it")
    return Run(known[one], record)


def _keys(storage: str, study: str) -> list[str]:
    """Keys of a study's trials by their folders, without reading any: a damaged study hinders no other."""
    filesystem, root = fsspec.core.url_to_fs(study_url(storage, study))
    place = f"{root}/trials"
    if not filesystem.isdir(place):
        if not filesystem.exists(f"{root}/study.json"):
            raise FileNotFoundError(f"there is no study {study!r} at {redact(storage)}")
        return []
    folders = [item["name"].rstrip("/") for item in filesystem.ls(place, detail=True) if item["type"] == "directory"]
    return sorted(name.rsplit("/", 1)[-1] for name in folders)


def _studies(storage: str) -> list[str]:
    filesystem, root = fsspec.core.url_to_fs(storage)
    if not filesystem.isdir(root):
        raise ValueError(f"there are no studies at {redact(storage)}; name their place with --storage")
    folders = [item["name"].rstrip("/") for item in filesystem.ls(root, detail=True) if item["type"] == "directory"]
    return sorted(name.rsplit("/", 1)[-1] for name in folders if filesystem.exists(f"{name}/study.json"))


def _check_comparable(first: Run, second: Run) -> None:
    marks = [str(run.record.info.get("fingerprint")) for run in (first, second)]
    if marks[0] != marks[1]:
        raise ValueError(
            f"two networks can be paired on the same images, but these read different data (fingerprints "
            f"{marks[0][:12]} and {marks[1][:12]})"
        )
    tasks = [task_settings(run.record.info["config"]) for run in (first, second)]
    if tasks[0] != tasks[1]:
        raise ValueError(
            f"two networks can be paired by what both are judged by, but theirs are {tasks[0]} and {tasks[1]}"
        )
    are_tested = all(run.record.info["role"] != "search" for run in (first, second))
    if are_tested and (differ := other_pairs(first.record.info, second.record.info)):
        raise ValueError(f"two networks can be paired on the same pairs, but these were tested on {differ}")
    settings = [_noise(run) for run in (first, second)]
    if settings[0] != settings[1]:
        raise ValueError(
            f"two networks can be paired under the same noise, but theirs is of different versions or seeds: "
            f"{settings[0]} and {settings[1]}"
        )


def _noise(run: Run) -> str:
    noise = run.record.info["config"].get("noise") or {}
    return f"seed {noise.get('seed')}, scale {noise.get('scale')}, numerics {run.record.info.get('numerics')}"


def _predictions(run: Run) -> pd.DataFrame:
    found = next(iter_predictions(run.snapshot, trials=[run.record.key]), None)
    if found is None:
        raise ValueError(
            f"trial {run.record.key} kept no predictions of test images (those of a search read none); compare trials "
            "of a confirm or train phase"
        )
    rows = found[1]
    if run.record.cells is None:
        return rows
    cells = run.record.cells
    real = set(cells.loc[cells["group"] == "real", "corruption"])
    tables = cells.loc[cells["split"] == "test", [*_CELL, "table"]].drop_duplicates(_CELL)
    return rows[~rows["corruption"].isin(real)].merge(tables, on=_CELL, how="left")


def _common(rows: list[pd.DataFrame]) -> tuple[list[pd.DataFrame], list[str]]:
    """Rows of the cells that both read with the same strengths, and the others: `shot_noise (severities 1, 5)`."""
    kinds = [{(row.corruption, row.severity, str(getattr(row, "table", "")))
              for row in one.drop_duplicates(_CELL).itertuples()} for one in rows]  # fmt: skip
    shared = {(name, severity) for name, severity, _ in kinds[0] & kinds[1]}
    if not shared:
        raise ValueError("two networks can be paired in cells that both read, but these have none in common")
    kept = [one[[cell in shared for cell in zip(one["corruption"], one["severity"], strict=True)]] for one in rows]
    others: dict[str, set[int]] = {}
    for name, severity, _ in kinds[0] ^ kinds[1]:
        others.setdefault(name, set()).add(int(severity))
    return kept, [f"{name} {_levels(levels)}" if levels != {0} else name for name, levels in sorted(others.items())]


def _levels(levels: Collection[int]) -> str:
    return f"(severit{'y' if len(levels) == 1 else 'ies'} {', '.join(str(level) for level in sorted(levels))})"


def _lines(table: Table) -> list[str]:
    rows = [[column.title for column in table.columns], *table.texts()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if column.is_number else cell.ljust(width)
                 for cell, width, column in zip(row, widths, table.columns, strict=True)]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines


def _named(run: Run) -> dict[str, Any]:
    return {"study": run.snapshot.name, "trial": run.record.key, "seed": run.record.info.get("seed")}
