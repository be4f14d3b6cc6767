"""The runs of one study in one MLflow place: found or made, filled, ended; here MLflow's client is called."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.identity import STUDY_TAG
from analysis.studyruns import all_runs
from study import mlflow_rows, registry
from study.mlflow_inputs import DatasetRow
from study.mlflow_owner import Owner
from study.mlflow_rows import MLFLOW_STATUS, MetricRow
from study.places import redact
from study.registry import Candidate

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Kind = Literal["trial", "phase"]
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")
"""Error codes of what MLflow would refuse again; all else is taken for a server that is away."""


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
        datasets: digest of the dataset inputs that are there.
    """

    uri: str
    run_id: str = ""
    events: int = 0
    status: str = ""
    progress: str = ""
    mce: float | None = None
    files: dict[str, str] = field(default_factory=dict)
    datasets: str = ""

    @classmethod
    def parse(cls, state: Mapping[str, Any]) -> RunRecord:
        """A record from its JSON form; keys of other versions are passed over."""
        names = {item.name for item in fields(cls)}
        return cls(**{"uri": "", **{name: value for name, value in state.items() if name in names}})


@dataclass
class Counts:
    """What a pass did.

    Attributes:
        problems: trials that MLflow refused or whose records are damaged, in words.
        notes: what else a person is to know, such as of another study of this name.
    """

    runs: int = 0
    metrics: int = 0
    files: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Runs:
    """The runs of one study, the only writer of them; not for several threads.

    Another study of this name may have runs in the same experiment. They are not looked at.

    Args:
        client: An `MlflowClient`.
        owner: The study; its name is the experiment's.
        uri: The client's tracking URI; recorded without credentials.
        artifact_location: Where a new experiment keeps artifacts; None leaves it to the server.

    Raises:
        TrackingError: The experiment was deleted in MLflow.
    """

    def __init__(self, client: MlflowClient, owner: Owner, uri: str, *, artifact_location: str | None = None) -> None:
        self.uri = redact(uri)
        self.counts = Counts()
        self._client = client
        self._owner = owner
        self._experiment = _open_experiment(client, owner.study, self.uri, artifact_location)
        self._known: dict[tuple[Kind, str], str] = {}
        self._doubtful: set[tuple[Kind, str]] = set()
        self.look()

    def look(self) -> None:
        """Learn which runs there are. Of two of one trial or phase the one in use stays, else the earlier.

        A request that timed out, or was sent twice on the way, may have made a run that nobody was told of.
        """
        known: dict[tuple[Kind, str], str] = {}
        in_use = set(self._known.values())
        present = [run for run in all_runs(self._client, self._experiment) if _identity(run) is not None]
        found = sorted(self._owner.own_runs(self._client, present), key=_by_content)
        for run in sorted(found, key=lambda run: run.info.run_id not in in_use):
            identity = _identity(run)
            assert identity is not None
            if identity in known:
                self._client.delete_run(run.info.run_id)
            else:
                known[identity] = run.info.run_id
        self._known, self._doubtful = known, set()
        self._note(self._owner.note())

    def _note(self, text: str) -> None:
        if text and text not in self.counts.notes:
            self.counts.notes.append(text)

    def record(self, kind: Kind, name: str, state: Mapping[str, Any] | None) -> RunRecord:
        """The recorded state, or an empty one where it speaks of another place or of a run that is gone."""
        found = RunRecord.parse(state or {})
        is_there = found.run_id and self._known.get((kind, name)) == found.run_id
        return found if found.uri == self.uri and is_there else RunRecord(self.uri)

    def open(self, kind: Kind, name: str, *, tags: dict[str, str], title: str, start_ms: int | None) -> str:
        """The run that carries this trial's or phase's tag, or a new one; its id.

        Beside another study of this name a phase is called by the study's identity too, and so is the tag by whose
        values MLflow is told to take means.

        An answer may have been lost, or a process may have died before it wrote down what it made; what there is was
        asked when this object was made, or since something went wrong.
        """
        if (kind, name) in self._doubtful:
            self.look()
        if (kind, name) not in self._known:
            start_ms = start_ms or int(time.time() * 1000)
            tags = {**tags, STUDY_TAG: self._owner.study_id}
            if self._owner.is_apart:
                title = f"{title} {self._owner.study_id}" if kind == "phase" else title
                tags |= {"config": f"{tags['config']} {self._owner.study_id}"} if "config" in tags else {}
            run = self._client.create_run(self._experiment, start_time=start_ms, tags=tags, run_name=title)
            self._known[kind, name] = run.info.run_id
            self.counts.runs += 1
        return self._known[kind, name]

    def forget(self, kind: Kind, name: str) -> None:
        """Look for this run anew at the next pass."""
        self._known.pop((kind, name), None)
        self._doubtful.add((kind, name))

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
        for part in mlflow_rows.batches(values, entries, labels):
            self._client.log_batch(run_id, metrics=part.metrics, params=part.params, tags=part.tags)
        self.counts.metrics += len(values)

    def log_datasets(self, record: RunRecord, rows: Sequence[DatasetRow]) -> bool:
        """Say which images a run used, unless it is said; MLflow drops what it has already. Whether it was said now."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
        if not rows or record.datasets == digest:
            return False
        inputs = [
            DatasetInput(
                Dataset(row.name, row.digest, row.source_type, row.source, profile=row.profile),
                [InputTag(MLFLOW_DATASET_CONTEXT, row.context)],
            )
            for row in rows
        ]
        self._client.log_inputs(record.run_id, datasets=inputs)
        record.datasets = digest
        return True

    def upload(self, record: RunRecord, contents: Mapping[str, bytes | None]) -> None:
        """Put contents under artifacts' names in one call, those that are not there yet; None is no file."""
        digests = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in contents.items() if data is not None}
        new = {name: digest for name, digest in digests.items() if record.files.get(name) != digest}
        if not new:
            return
        with tempfile.TemporaryDirectory(prefix="murk-") as folder:
            for name in new:
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[name] or b"")
            self._client.log_artifacts(record.run_id, folder)
        record.files |= new
        self.counts.files += len(new)

    def register(self, name: str, candidate: Candidate) -> str:
        """Register a network, see `registry.register`; gives its version.

        Raises:
            ValueError: Its files are damaged, or MLflow refuses it.
        """
        from mlflow.exceptions import MlflowException

        try:
            version, alias = registry.register(self._client, name, candidate, study_id=self._owner.study_id)
        except MlflowException as error:
            if not 400 <= error.get_http_status_code() < 500:
                raise
            raise ValueError(str(error)) from error
        if alias != registry.ALIAS:
            self._note(f"models:/{name}@{registry.ALIAS} stays with another study or a network of somebody's own; this "
                       f"study's network is models:/{name}@{alias}")  # fmt: skip
        return version

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
        tags = {"mlflow.experimentKind": "custom_model_development", "murk.study": name,
                "mlflow.note.content": mlflow_rows.note_text(name)}  # fmt: skip
        return client.create_experiment(name, artifact_location=artifact_location, tags=tags)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment of a study must not be deleted, but {name!r} at {uri} is; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or name the study anew"
        )
    return found.experiment_id


def _by_content(run: Run) -> tuple[bool, int, str]:
    """Puts a run before its double: one with metrics before one without, then the earlier."""
    return not run.data.metrics, run.info.start_time or 0, run.info.run_id


def _identity(run: Run) -> tuple[Kind, str] | None:
    tags = run.data.tags
    if "murk.trial" in tags:
        return "trial", tags["murk.trial"]
    return ("phase", tags["murk.phase"]) if "murk.phase" in tags else None
