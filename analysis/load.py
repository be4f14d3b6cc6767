"""Reading a study: from its results folder (or any fsspec URL), or from MLflow. Both give the same frames.

A place answers `read(name) -> bytes | None` for the files of the ledger; what differs between a folder and MLflow ends
there. Nothing is skipped in silence: what cannot be read is an error, what is missing is a note.
"""
# pandas ships no stubs, and pyright takes an indexed frame for any of four types:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd

from analysis.fidelity import FULL_CELLS, FULL_EVENT
from analysis.recordfile import RecordError, parse_event, parse_study, parse_table, parse_trial
from analysis.records import CELL_COLUMNS, LATER_COLUMNS, TrialRecord, sort_rows, to_frame
from analysis.studyruns import RunReader, find_study_runs

PREDICTION_COLUMNS: dict[str, str] = {
    "trial": "str",
    "image_id": "int64",
    "label": "int64",
    "predicted": "int64",
    "confidence": "float64",
    "correct": "bool",
    "corruption": "str",
    "severity": "int64",
}
HISTORY_COLUMNS: dict[str, str] = {
    "study": "str",
    "phase": "str",
    "role": "str",
    "trial": "str",
    "number": "Int64",
    "status": "str",
    "event": "str",
    "time": "float64",
    "epoch": "Int64",
    "step": "Int64",
    "error": "str",
}
"""Fixed columns of `load_history`; the metrics follow, by name, as float64."""

READERS = 8
UNREADABLE_ARRAYS = (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
                     RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error, struct.error)  # fmt: skip
"""What numpy raises on an .npz file that was cut off or changed; one that holds objects is not unpickled."""


@dataclass(frozen=True)
class Place:
    """One trial's files, wherever they are."""

    key: str
    read: Callable[[str], bytes | None]


@dataclass(frozen=True)
class Snapshot:
    """A study as it stood when it was read.

    Attributes:
        name: name of the study.
        study: `study.json`; empty where there is none yet.
        trials: one record for each trial, ordered by key.
        notes: what was missing, in words.
        places: trial key -> its files, for predictions and examples.
    """

    name: str
    study: Mapping[str, Any]
    trials: Sequence[TrialRecord]
    notes: Sequence[str] = ()
    places: Mapping[str, Place] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The rows of the contract."""
        return self._frame.copy()

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.trials, self.study)


def load(study: str | Path, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per trial x split x corruption x severity.

    Args:
        study: the study's folder `<storage>/<study>` (a path or any fsspec URL); with `tracking_uri`, its name, or
            `NAME@IDENTITY` where MLflow holds several of one name: else the one that was opened last.
        tracking_uri: MLflow server or database to read from in place of the folder.

    Raises:
        FileNotFoundError: there is no such study.
        ValueError: a record breaks the contract of `analysis.records`.
    """
    return read_study(study, tracking_uri=tracking_uri).frame()


def load_study(study: str | Path, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """The study's `study.json`."""
    return dict(read_study(study, tracking_uri=tracking_uri).study)


def load_history(study: str | Path, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per event of each trial, in the order written; metrics as columns."""
    return history(read_study(study, tracking_uri=tracking_uri))


def load_predictions(
    study: str | Path, *, trials: Sequence[str] | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """One row per test image x corruption x severity of the chosen trials (all that kept predictions if left out)."""
    parts = [p for _, p in iter_predictions(read_study(study, tracking_uri=tracking_uri), trials=trials)]
    if not parts:
        return pd.DataFrame(columns=list(PREDICTION_COLUMNS)).astype(PREDICTION_COLUMNS)
    return pd.concat(parts, ignore_index=True)


def iter_predictions(snapshot: Snapshot, *, trials: Sequence[str] | None = None) -> Iterator[tuple[str, pd.DataFrame]]:
    """(trial key, its predictions), one trial at a time: a test grid of many trials does not fit in memory."""
    for key in trials if trials is not None else [record.key for record in snapshot.trials]:
        content = snapshot.places[key].read("predictions.parquet")
        if content is not None:
            own = PREDICTION_COLUMNS.keys() - {"trial"}
            what = f"predictions.parquet of trial {key}"
            frame = parse_table(content, what, columns=own, alone=True).assign(trial=key)
            yield key, frame[list(PREDICTION_COLUMNS)].astype(PREDICTION_COLUMNS)


def read_examples(snapshot: Snapshot, key: str) -> dict[str, np.ndarray] | None:
    """The trial's example images as arrays, or None where it kept none."""
    content = snapshot.places[key].read("examples.npz")
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UNREADABLE_ARRAYS as error:
        raise RecordError(f"a trial's examples must be plain arrays, but examples.npz of {key} cannot be read as such "
                          f"({type(error).__name__}); delete that file")  from error  # fmt: skip


def history(snapshot: Snapshot) -> pd.DataFrame:
    """The events of a snapshot as a frame, see `load_history`."""
    rows: list[dict[str, Any]] = []
    for record in snapshot.trials:
        fixed = {name: record.info.get(name) for name in ("study", "phase", "role", "number")}
        for event in record.events:
            own = {name: event.get(name) for name in ("event", "time", "epoch", "step", "error")}
            metrics = event.get("metrics") or {}
            rows.append(metrics | fixed | own | {"trial": record.key, "status": record.status})
    found = {name for row in rows for name in row}
    types = HISTORY_COLUMNS | dict.fromkeys(sorted(found - set(HISTORY_COLUMNS)), "float64")
    frame = pd.DataFrame(rows, columns=list(types)).astype(types)
    keys = frame[["phase", "number", "trial"]].assign(split="", bn="", group="", corruption="", severity=0)
    order = sort_rows(keys.assign(row=np.arange(len(frame))), snapshot.study)
    return frame.iloc[order["row"].to_numpy(dtype=int)].reset_index(drop=True)


def read_study(study: str | Path, *, tracking_uri: str | None = None) -> Snapshot:
    """All small files of a study at once: what `load`, `load_history` and the report share."""
    if tracking_uri is not None:
        return _read_mlflow(str(study), tracking_uri)
    return _read_folder(str(study))


# ---------------------------------------------------------------------------------------------------------- the folder
def _read_folder(url: str) -> Snapshot:
    filesystem, root = fsspec.core.url_to_fs(url)
    root = root.rstrip("/")
    filesystem.invalidate_cache()
    if not filesystem.isdir(root):
        raise FileNotFoundError(
            f"a study is a folder <storage>/<study>, but {url!r} is none; check tracking.storage, or name the "
            "MLflow server as tracking_uri"
        )
    folder = f"{root}/trials"
    found = filesystem.ls(folder, detail=True) if filesystem.isdir(folder) else []
    keys = sorted(item["name"].rstrip("/").rsplit("/", 1)[-1] for item in found if item["type"] == "directory")
    places = {key: Place(key, _FolderReader(filesystem, f"{folder}/{key}")) for key in keys}
    content = _FolderReader(filesystem, root)("study.json")
    return _snapshot(root.rsplit("/", 1)[-1], content, places)


@dataclass(frozen=True)
class _FolderReader:
    filesystem: Any
    folder: str

    def __call__(self, name: str) -> bytes | None:
        try:
            return self.filesystem.cat_file(f"{self.folder}/{name}")
        except FileNotFoundError:
            return None


# -------------------------------------------------------------------------------------------------------------- MLflow
def _read_mlflow(name: str, tracking_uri: str) -> Snapshot:
    from mlflow.tracking import MlflowClient  # heavy: only who reads from MLflow waits for it

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would be one for each file
    client = MlflowClient(tracking_uri)
    found = find_study_runs(client, name)
    contents = (RunReader(client, run)("study.json") for run in found.parents)
    content = next((content for content in contents if content is not None), None)
    places = {key: Place(key, RunReader(client, found.trials[key])) for key in sorted(found.trials)}
    return _snapshot(found.name, content, places, notes=found.notes)


# ------------------------------------------------------------------------------------------------------------- parsing
def _snapshot(
    name: str, study_json: bytes | None, places: Mapping[str, Place], *, notes: Sequence[str] = ()
) -> Snapshot:
    notes = [*notes]
    if study_json is None:
        notes.append("study.json is missing: phases and baseline are unknown")
    with ThreadPoolExecutor(READERS) as pool:
        read = list(pool.map(_read_trial, places.values()))
    records = []
    for key, (record, num_torn) in zip(places, read, strict=True):
        if record is None:
            notes.append(f"trial {key} has no trial.json and is not counted")
            continue
        if num_torn:
            notes.append(f"trial {key} has {num_torn} event(s) torn by a crash, passed over")
        if record.status == "finished" and record.cells is None:
            notes.append(f"trial {key} is finished but has no cells.parquet")
        records.append(record)
    study = parse_study(study_json, f"study.json of {name}") if study_json is not None else {}
    return Snapshot(name=name, study=study, trials=records, notes=notes, places=places)


def _read_trial(place: Place) -> tuple[TrialRecord | None, int]:
    info = place.read("trial.json")
    if info is None:
        return None, 0
    events, num_torn = parse_events(place.read("events.jsonl") or b"")
    facts = parse_trial(info, f"trial.json of {place.key}")
    is_finalist = bool(facts.get("fidelity")) and any(event["event"] == FULL_EVENT for event in events)
    whole = _cells(place, FULL_CELLS) if is_finalist else None  # asking a server takes time, and most have none
    return TrialRecord(info=facts, events=events, cells=_cells(place, "cells.parquet"), whole_cells=whole), num_torn


def _cells(place: Place, name: str) -> pd.DataFrame | None:
    content = place.read(name)
    columns = set(CELL_COLUMNS) - set(LATER_COLUMNS) - ({"bn"} if name == FULL_CELLS else set())
    return None if content is None else parse_table(content, f"{name} of trial {place.key}", columns=columns)


def parse_events(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of an event log, and how many were torn by a crash and are passed over."""
    events: list[dict[str, Any]] = []
    num_torn = 0
    for line in content.splitlines():
        if not line.strip():
            continue
        event = parse_event(line)
        if event is None:
            num_torn += 1
        else:
            events.append(event)
    return events, num_torn
