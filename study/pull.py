"""Fetch a study's records from a cluster: from its storage place, or from its MLflow server."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from analysis.identity import split_name, study_id
from analysis.load import READERS
from analysis.recordfile import parse_study
from analysis.report import write_report
from analysis.studyruns import RunReader, find_study_runs
from study.ledger import Ledger
from study.places import redact, refuse_credentials
from study.reporting import reading_mlflow, study_url
from study.storage import Storage, atomic_file

RECORDS = (
    "trial.json", "events.jsonl", "cells.parquet", "cells-full.parquet", "validation.parquet", "predictions.parquet",
    "heads.parquet", "similarity.parquet", "examples.npz", "retrieval.parquet", "verification.parquet", "model.json",
    "model.safetensors",
)  # fmt: skip
"""What is fetched of a trial; checkpoints for resuming stay where they are."""


def pull_study(name: str, *, storage: str | None, tracking: str | None, out: Path) -> str:
    """Copy a study's records under `out` and write its report there; returns what to tell the person.

    Args:
        name: Of the study; `NAME@IDENTITY` where MLflow holds several of one name, else the one that was opened last.
        storage: Folder or URL that holds the study's folder on the cluster.
        tracking: The cluster's MLflow server, read when no storage place is given.

    Raises:
        ValueError: Neither place is given, the place is the target itself, holds credentials, or has no such study.
    """
    refuse_credentials(storage, "--storage")
    target = Ledger(str(out.resolve()), name if storage is not None else split_name(name)[0])
    notes: Sequence[str] = ()
    if storage is not None:
        count = _from_storage(Ledger(study_url(storage, ""), name), target)
    elif tracking is not None:
        with reading_mlflow(tracking) as uri:
            count, notes = _from_tracking(name, uri, target)
    else:
        raise ValueError("name where the cluster keeps its records: --storage FOLDER_OR_URL, or --tracking MLFLOW_URL")
    report = write_report(target.root, out=target.root)
    source = redact(storage or tracking or "")
    lines = [f"{count} trials of {name} from {source}", *notes, f"records  {target.root}", f"report   {report.html}"]
    return "\n".join(lines)


def _from_storage(source: Ledger, target: Ledger) -> int:
    if source.root == target.root:
        raise ValueError(f"the records lie in {target.root} already; choose another folder with --out")
    theirs, ours = source.read_json("study.json"), target.read_json("study.json")
    if theirs is None:
        raise ValueError(f"no study {source.study!r} at {redact(source.storage)}")
    _refuse_another(ours, theirs, target)
    for name in ("study.json", "study.yaml"):
        _copy(source.files, target.files, name)
    keys = source.keys()
    for key in keys:
        for name in RECORDS:
            _copy(source.files, target.files, posixpath.join("trials", key, name))
    return len(keys)


def _copy(source: Storage, target: Storage, name: str) -> None:
    data = source.read_bytes(name)
    if data is not None:
        target.write_bytes(data, name)


def _refuse_another(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any], target: Ledger) -> None:
    """Two studies in one folder could not be told apart again."""
    if ours is None:
        return
    if ours["fingerprint"] != theirs["fingerprint"]:
        raise ValueError(f"{target.root} holds a study of other images by this name; choose another folder with --out")
    if study_id(ours) != study_id(theirs):
        raise ValueError(f"{target.root} holds another study of this name ({study_id(ours)}, and not "
                         f"{study_id(theirs)}); choose another folder with --out")  # fmt: skip


def _from_tracking(name: str, uri: str, target: Ledger) -> tuple[int, Sequence[str]]:
    """Number of trials fetched, and what a person is to know."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    try:
        found = find_study_runs(client, name)
    except FileNotFoundError as error:
        raise ValueError(f"{error} ({redact(uri)})") from error
    records = (RunReader(client, run)("study.json") for run in found.parents)
    content = next((record for record in records if record is not None), None)
    if content is not None:
        _refuse_another(target.read_json("study.json"), parse_study(content, f"study.json of {name}"), target)
    for run in reversed(found.parents):  # the latest has the last word
        _fetch_all(RunReader(client, run), ("ledger", ""), Path(target.root))
    with ThreadPoolExecutor(READERS) as pool:
        readers = [RunReader(client, run) for run in found.trials.values()]
        places = [Path(target.path(key)) for key in found.trials]
        list(pool.map(_fetch_all, readers, [("ledger", "model")] * len(readers), places))
    return len(found.trials), found.notes


def _fetch_all(run: RunReader, folders: Sequence[str], place: Path) -> None:
    for path in sorted(path for folder in folders for path in run.listed(folder)):
        name = posixpath.basename(path)
        data = run.read(path) if name in (*RECORDS, "study.json", "study.yaml") else None
        if data is not None:
            with atomic_file(place / name) as temporary:
                temporary.write_bytes(data)
