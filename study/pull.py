"""Fetch a study's records from a cluster: from its storage place, or from its MLflow server."""

from __future__ import annotations

import posixpath
from pathlib import Path

from analysis.report import write_report
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
        storage: Folder or URL that holds the study's folder on the cluster.
        tracking: The cluster's MLflow server, read when no storage place is given.

    Raises:
        ValueError: Neither place is given, the place is the target itself, holds credentials, or has no such study.
    """
    refuse_credentials(storage, "--storage")
    target = Ledger(str(out.resolve()), name)
    if storage is not None:
        count = _from_storage(Ledger(study_url(storage, ""), name), target)
    elif tracking is not None:
        with reading_mlflow(tracking) as uri:
            count = _from_tracking(name, uri, target)
    else:
        raise ValueError("name where the cluster keeps its records: --storage FOLDER_OR_URL, or --tracking MLFLOW_URL")
    report = write_report(target.root, out=target.root)
    source = redact(storage or tracking or "")
    return f"{count} trials of {name} from {source}\nrecords  {target.root}\nreport   {report.html}"


def _from_storage(source: Ledger, target: Ledger) -> int:
    if source.root == target.root:
        raise ValueError(f"the records lie in {target.root} already; choose another folder with --out")
    theirs, ours = source.read_json("study.json"), target.read_json("study.json")
    if theirs is None:
        raise ValueError(f"no study {source.study!r} at {redact(source.storage)}")
    if ours is not None and ours["fingerprint"] != theirs["fingerprint"]:
        raise ValueError(f"{target.root} holds a study of other images by this name; choose another folder with --out")
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


def _from_tracking(name: str, uri: str, target: Ledger) -> int:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise ValueError(f"no experiment {name!r} at {redact(uri)}")
    count, token = 0, None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=200, page_token=token)
        for run in page:
            key = run.data.tags.get("murk.trial")
            place = Path(target.path(key)) if key else Path(target.root)
            found = {item.path for item in client.list_artifacts(run.info.run_id, "ledger")}
            found |= {item.path for item in client.list_artifacts(run.info.run_id, "model")} if key else set()
            found |= (
                set() if key else {i.path for i in client.list_artifacts(run.info.run_id) if i.path == "study.yaml"}
            )
            for path in sorted(found):
                if posixpath.basename(path) in (*RECORDS, "study.json", "study.yaml"):
                    _download(client, run.info.run_id, path, place)
            count += key is not None
        token = page.token
        if not token:
            return count


def _download(client, run_id: str, path: str, place: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        data = Path(client.download_artifacts(run_id, path, folder)).read_bytes()
    with atomic_file(place / posixpath.basename(path)) as temporary:
        temporary.write_bytes(data)
