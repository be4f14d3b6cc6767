"""The runs of one study in one MLflow place: found or made, filled, ended. The only file that calls MLflow's client."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from study import mlflow_rows
from study.mlflow_rows import MLFLOW_STATUS, MetricRow
from study.places import redact

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Kind = Literal["trial", "phase"]


class TrackingError(ValueError):
    """MLflow cannot be written."""


@dataclass
class RunRecord:
    """How far a trial or a phase has been projected.

    Attributes:
        uri: the MLflow place that the rest speaks of, without credentials.
        run_id: its run there; empty before there is one.
        events: events of the ledger whose metrics are there.
        status: what the run says: a trial's status, or `interrupted`.
        progress: a phase's counts of trials.
        mce: the mean corruption error that is there.
        files: artifact -> digest of the content that is there.
    """

    uri: str
    run_id: str = ""
    events: int = 0
    status: str = ""
    progress: str = ""
    mce: float | None = None
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, state: Mapping[str, Any]) -> RunRecord:
        """A record from its JSON form; keys of other versions are passed over."""
        names = {item.name for item in fields(cls)}
        return cls(**{"uri": "", **{name: value for name, value in state.items() if name in names}})


@dataclass
class Counts:
    """What a pass did; `problems` are trials that MLflow refused, with its words."""

    runs: int = 0
    metrics: int = 0
    files: int = 0
    problems: dict[str, str] = field(default_factory=dict)


class Runs:
    """The runs of one study. The only writer of its experiment; not for several threads.

    Args:
        client: An `MlflowClient`.
        study: Name of the study, which is the experiment's.
        uri: The client's tracking URI; recorded without credentials.
        artifact_location: Where a new experiment keeps artifacts; None leaves it to the server.

    Raises:
        TrackingError: The experiment was deleted in MLflow.
    """

    def __init__(self, client: MlflowClient, study: str, uri: str, *, artifact_location: str | None = None) -> None:
        self.uri = redact(uri)
        self.counts = Counts()
        self._client = client
        self._experiment = _open_experiment(client, study, self.uri, artifact_location)
        self._known = {_identity(run): run.info.run_id for run in _all_runs(client, self._experiment)}

    def record(self, kind: Kind, name: str, state: Mapping[str, Any] | None) -> RunRecord:
        """The recorded state, or an empty one where it speaks of another place or of a run that is gone."""
        found = RunRecord.parse(state or {})
        is_there = found.run_id and self._known.get((kind, name)) == found.run_id
        return found if found.uri == self.uri and is_there else RunRecord(self.uri)

    def open(self, kind: Kind, name: str, *, tags: dict[str, str], title: str, start_ms: int | None) -> str:
        """The run that carries this trial's or phase's tag, or a new one; its id.

        MLflow is asked before each creation: an answer may have been lost, or a process may have died before it wrote
        down what it made.
        """
        query = f"tags.`murk.{kind}` = '{name}'"
        found = [run for run in self._client.search_runs([self._experiment], query) if _identity(run) == (kind, name)]
        if found:
            run = min(found, key=lambda run: run.info.start_time)
        else:
            start_ms = start_ms or int(time.time() * 1000)
            run = self._client.create_run(self._experiment, start_time=start_ms, tags=tags, run_name=title)
            self.counts.runs += 1
        self._known[kind, name] = run.info.run_id
        return run.info.run_id

    def forget(self, kind: Kind, name: str) -> None:
        """Look for this run anew at the next pass."""
        self._known.pop((kind, name), None)

    def log(
        self,
        run_id: str,
        *,
        metrics: list[MetricRow] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log in as few calls as MLflow's limits allow; what it has already, it drops."""
        from mlflow.entities import Metric, Param, RunTag

        values = [Metric(*row) for row in metrics or ()]
        entries = [Param(*item) for item in (params or {}).items()]
        labels = [RunTag(*item) for item in (tags or {}).items()]
        for part, some in mlflow_rows.batches(values, entries):
            self._client.log_batch(run_id, metrics=part, params=some)
        for _, some in mlflow_rows.batches((), labels):
            self._client.log_batch(run_id, tags=some)
        self.counts.metrics += len(values)

    def upload(self, record: RunRecord, artifact: str, content: bytes | None) -> None:
        """Put content under an artifact's name, unless it is there; None is no file."""
        if content is None:
            return
        digest = hashlib.sha256(content).hexdigest()[:16]
        if record.files.get(artifact) == digest:
            return
        place = PurePosixPath(artifact)
        parent = str(place.parent)
        with tempfile.TemporaryDirectory(prefix="murk-") as folder:
            path = Path(folder) / place.name
            path.write_bytes(content)
            self._client.log_artifact(record.run_id, str(path), None if parent == "." else parent)
        record.files[artifact] = digest
        self.counts.files += 1

    def set_status(self, record: RunRecord, status: str, end_ms: int | None) -> None:
        """Let the run say how its trial or phase stands."""
        if status == "running":
            self._client.update_run(record.run_id, status="RUNNING")
        else:
            self._client.set_terminated(record.run_id, MLFLOW_STATUS[status], end_ms)
        record.status = status


def _open_experiment(client: MlflowClient, name: str, uri: str, artifact_location: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # The kind spares the reader a dialog: without it the UI asks whether this is GenAI or model training.
        tags = {"mlflow.experimentKind": "custom_model_development", "murk.study": name}
        return client.create_experiment(name, artifact_location=artifact_location, tags=tags)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment of a study must not be deleted, but {name!r} at {uri} is; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or name the study anew"
        )
    return found.experiment_id


def _all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """The runs of Murk's making, the earliest last, so that of two with one tag the earliest is kept."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, order_by=["start_time DESC"], page_token=token)
        yield from (run for run in page if _identity(run) is not None)
        token = page.token
        if not token:
            return


def _identity(run: Run) -> tuple[Kind, str] | None:
    tags = run.data.tags
    if "murk.trial" in tags:
        return "trial", tags["murk.trial"]
    return ("phase", tags["murk.phase"]) if "murk.phase" in tags else None
