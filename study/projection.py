"""One pass of the ledger into MLflow: whatever MLflow lacks is added, whatever it has is left alone.

The state lies in the ledger beside what it describes: `mlflow.json` of each trial and of the study. It may be lost or be
behind at any point: runs are found again by their tags, and MLflow drops a metric it already has (same name, time, step
and value). So a pass that died half-way is simply repeated.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.records import TrialRecord, trial_status
from study import mlflow_rows
from study.mlflow_rows import MLFLOW_STATUS, MetricRow
from study.places import redact

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from study.ledger import Ledger

STATE_FILE = "mlflow.json"
LEDGER_FILES = ("trial.json", "events.jsonl", "cells.parquet", "predictions.parquet", "examples.npz")
MODEL_FILES = ("model.safetensors", "model.json")
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST")


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


@dataclass
class Counts:
    """What one pass did; `problems` are trials that MLflow refused, with its words."""

    runs: int = 0
    metrics: int = 0
    files: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Trial:
    """A trial as a pass sees it."""

    key: str
    info: Mapping[str, Any]
    events: list[dict[str, Any]]
    shown: str

    @property
    def start_ms(self) -> int | None:
        return int(self.events[0]["time"] * 1000) if self.events else None

    @property
    def end_ms(self) -> int | None:
        return int(self.events[-1]["time"] * 1000) if self.events else None


class Projection:
    """Writes one study's ledger into one MLflow place. The only writer; not for several threads.

    Args:
        ledger: The study's records.
        client: An `MlflowClient`.
        uri: The client's tracking URI; recorded without credentials.
        artifact_location: Where a new experiment keeps artifacts; None leaves it to the server.
    """

    def __init__(self, ledger: Ledger, client: MlflowClient, uri: str, *, artifact_location: str | None) -> None:
        self._ledger = ledger
        self._client = client
        self._uri = redact(uri)
        self._experiment = _open_experiment(client, ledger.study, artifact_location)
        self._runs = _known_runs(client, self._experiment)
        self._settled: dict[str, Trial] = {}
        self._scored: set[str] = set()
        self._phases: dict[str, RunRecord] = {}
        self._reports: list[str] = []
        self._read_state()

    def advance(self, *, started: Iterable[str] = (), reports: Iterable[str] = (), ending: bool = False) -> Counts:
        """Bring MLflow up to the ledger.

        Args:
            started: Phases that have begun, besides those that `study.json` names.
            reports: More files for the phases' runs, kept in mind for later passes.
            ending: Nothing runs any more: a trial or phase without an end is shown as interrupted.

        Raises:
            MlflowException, OSError: The server is away; the next pass goes on from here.
        """
        counts = Counts()
        study = self._ledger.read_json("study.json") or {}
        listed = {item["name"]: item for item in study.get("phases", ())}
        trials = self._trials(ending)
        names = dict.fromkeys([*listed, *started, *(trial.info["phase"] for trial in trials.values())])
        self._reports += [place for place in reports if place not in self._reports]
        for name in names:
            own = [trial for trial in trials.values() if trial.info["phase"] == name]
            self._open_phase(name, listed.get(name, {}).get("kind", ""), own, counts)
            for trial in own:
                if trial.key not in self._settled:
                    self._guarded(trial, counts)
            if listed.get(name, {}).get("status") == "finished" and not counts.problems:
                self._score(name, own, study, counts)
            self._close_phase(name, listed.get(name, {}).get("status", "running"), own, counts, ending=ending)
        return counts

    # ------------------------------------------------------------------------------------------------------- one trial
    def _trials(self, ending: bool) -> dict[str, Trial]:
        trials = {}
        for key in self._ledger.files.folders("trials"):
            trial = self._settled.get(key) or self._read_trial(key, ending)
            if trial is not None:
                trials[key] = trial
        return dict(sorted(trials.items(), key=lambda item: item[1].info.get("number", 0)))

    def _read_trial(self, key: str, ending: bool) -> Trial | None:
        content = self._ledger.read_bytes(key, "trial.json")
        if content is None:
            return None
        events = self._ledger.events(key)
        status = trial_status(events)
        return Trial(key, json.loads(content), events, "interrupted" if status == "running" and ending else status)

    def _guarded(self, trial: Trial, counts: Counts) -> None:
        """Project a trial; one that MLflow refuses does not hold up the others."""
        from mlflow.exceptions import MlflowException

        try:
            self._project(trial, counts)
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            counts.problems[trial.key] = redact(str(error))
            self._runs.pop(("trial", trial.key), None)

    def _project(self, trial: Trial, counts: Counts) -> None:
        record = self._record(trial.key)
        if not record.run_id:
            self._create(trial, record, counts)
        rows = mlflow_rows.metric_rows(trial.events[record.events :])
        changed = len(trial.events) > record.events
        if rows:
            self._log(record.run_id, metrics=rows)
            counts.metrics += len(rows)
        if record.status != trial.shown or (changed and trial.shown != "running"):
            self._show(trial, record, counts)
            changed = True
        if changed:
            record.events = len(trial.events)
            self._save(trial.key, record)
        if trial.shown in {"finished", "pruned"}:
            self._settled[trial.key] = Trial(trial.key, trial.info, trial.events[-1:], trial.shown)

    def _create(self, trial: Trial, record: RunRecord, counts: Counts) -> None:
        tags = mlflow_rows.trial_tags(trial.info) | {
            "murk.status": "running",
            "mlflow.parentRunId": self._phases[trial.info["phase"]].run_id,
        }
        name = mlflow_rows.run_name(trial.info)
        record.run_id = self._run("trial", trial.key, tags, name, trial.start_ms, counts)
        self._save(trial.key, record)

    def _show(self, trial: Trial, record: RunRecord, counts: Counts) -> None:
        """Give the run its status, its files and, at the very end, its state."""
        if not record.status:
            self._log(record.run_id, params=mlflow_rows.params(trial.info["config"]))
        for name in LEDGER_FILES if trial.shown != "running" else LEDGER_FILES[:1]:
            self._upload(record, f"ledger/{name}", self._ledger.read_bytes(trial.key, name), counts)
        for name in MODEL_FILES if trial.shown == "finished" else ():
            self._upload(record, f"model/{name}", self._ledger.read_bytes(trial.key, name), counts)
        if trial.shown == "finished":
            self._grid(trial.key, record, counts)
        self._log(record.run_id, tags=mlflow_rows.end_tags(trial.shown, trial.events))
        self._set_status(record, trial.shown, trial.end_ms)

    def _grid(self, key: str, record: RunRecord, counts: Counts) -> None:
        """The whole grid as a table. As `log_table`, which would append the same rows again after a crash."""
        cells = self._ledger.read_bytes(key, "cells.parquet")
        if cells is None:
            return
        table = pd.read_parquet(io.BytesIO(cells)).to_json(orient="split", index=False)
        self._upload(record, "grid.json", table.encode(), counts)
        self._log(record.run_id, tags={"mlflow.loggedArtifacts": '[{"path": "grid.json", "type": "table"}]'})

    # ------------------------------------------------------------------------------------------------------- one phase
    def _open_phase(self, name: str, kind: str, trials: list[Trial], counts: Counts) -> None:
        record = self._phases.setdefault(name, RunRecord(self._uri))
        if not record.run_id:
            start_ms = min((trial.start_ms for trial in trials if trial.start_ms), default=None)
            tags = mlflow_rows.phase_tags(self._ledger.study, name, kind)
            record.run_id = self._run("phase", name, tags, name, start_ms, counts)
            self._save_state()
        if record.status not in {"", "running"} and any(trial.key not in self._settled for trial in trials):
            self._set_status(record, "running", None)

    def _close_phase(self, name: str, status: str, trials: list[Trial], counts: Counts, *, ending: bool) -> None:
        record = self._phases[name]
        before = json.dumps(asdict(record))
        for place in ("study.json", "study.yaml"):
            content = self._ledger.files.read_bytes(place)
            artifact = "ledger/study.json" if place == "study.json" else place
            self._upload(record, artifact, None if content is None else redact(content.decode()).encode(), counts)
        for place in self._reports:
            path = Path(self._ledger.root) / place
            self._upload(record, f"report/{PurePosixPath(place).name}", _content(path), counts)
        progress = mlflow_rows.progress_text(trial.shown for trial in trials)
        shown = "finished" if status == "finished" else "interrupted" if ending else "running"
        if progress != record.progress or shown != record.status:
            self._log(record.run_id, tags={"murk.progress": progress, "murk.status": shown})
            record.progress = progress
        if shown != record.status:
            self._set_status(record, shown, max((trial.end_ms for trial in trials if trial.end_ms), default=None))
        if json.dumps(asdict(record)) != before:
            self._save_state()

    def _score(self, name: str, trials: list[Trial], study: Mapping[str, Any], counts: Counts) -> None:
        """Log `mce` of a finished phase that read the test split; it needs the baseline's rows, so it comes last."""
        done = [trial for trial in trials if trial.shown == "finished" and trial.info.get("role") != "search"]
        if name in self._scored or not done:
            return
        found = mlflow_rows.trial_mce([self._trial_record(trial) for trial in done], study)
        end_ms = max(trial.end_ms or 0 for trial in done)
        for trial in done:
            record = self._record(trial.key)
            if trial.key in found and record.mce != found[trial.key]:
                step = int(trial.events[-1].get("epoch") or 0)
                self._log(record.run_id, metrics=[MetricRow("mce", found[trial.key], end_ms, step)])
                record.mce = found[trial.key]
                self._save(trial.key, record)
                counts.metrics += 1
        self._scored.add(name)

    def _trial_record(self, trial: Trial) -> TrialRecord:
        cells = self._ledger.read_bytes(trial.key, "cells.parquet")
        frame = None if cells is None else pd.read_parquet(io.BytesIO(cells))
        return TrialRecord(info=trial.info, events=self._ledger.events(trial.key), cells=frame)

    # ---------------------------------------------------------------------------------------------------------- MLflow
    def _run(
        self, kind: str, name: str, tags: dict[str, str], title: str, start_ms: int | None, counts: Counts
    ) -> str:
        """The run of a trial or phase: the one that carries its tag, or a new one."""
        query = f"tags.`murk.{kind}` = '{name}'"
        found = [run for run in self._client.search_runs([self._experiment], query) if _identity(run) == (kind, name)]
        if found:
            run = min(found, key=lambda run: run.info.start_time)
        else:
            start_ms = start_ms or int(time.time() * 1000)
            run = self._client.create_run(self._experiment, start_time=start_ms, tags=tags, run_name=title)
            counts.runs += 1
        self._runs[kind, name] = run.info.run_id
        return run.info.run_id

    def _log(
        self,
        run_id: str,
        *,
        metrics: list[MetricRow] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        values = [Metric(*row) for row in metrics or ()]
        entries = [Param(*item) for item in (params or {}).items()]
        labels = [RunTag(*item) for item in (tags or {}).items()]
        for part, some in mlflow_rows.batches(values, entries):
            self._client.log_batch(run_id, metrics=part, params=some)
        for _, some in mlflow_rows.batches((), labels):
            self._client.log_batch(run_id, tags=some)

    def _upload(self, record: RunRecord, artifact: str, content: bytes | None, counts: Counts) -> None:
        if content is None:
            return
        digest = hashlib.sha256(content).hexdigest()[:16]
        if record.files.get(artifact) == digest:
            return
        place = PurePosixPath(artifact)
        with tempfile.TemporaryDirectory(prefix="murk-") as folder:
            path = Path(folder) / place.name
            path.write_bytes(content)
            parent = str(place.parent)
            self._client.log_artifact(record.run_id, str(path), None if parent == "." else parent)
        record.files[artifact] = digest
        counts.files += 1

    def _set_status(self, record: RunRecord, shown: str, end_ms: int | None) -> None:
        if shown == "running":
            self._client.update_run(record.run_id, status="RUNNING")
        else:
            self._client.set_terminated(record.run_id, MLFLOW_STATUS[shown], end_ms)
        record.status = shown

    # ----------------------------------------------------------------------------------------------------------- state
    def _record(self, key: str) -> RunRecord:
        return self._checked("trial", key, self._ledger.read_bytes(key, STATE_FILE))

    def _checked(self, kind: str, name: str, content: bytes | None) -> RunRecord:
        """What was recorded, if it speaks of this MLflow place and of a run that is still there."""
        found = RunRecord(self._uri) if content is None else _parse_record(content)
        if found.uri == self._uri and found.run_id and self._runs.get((kind, name)) == found.run_id:
            return found
        return RunRecord(self._uri)

    def _save(self, key: str, record: RunRecord) -> None:
        self._ledger.write_bytes(key, STATE_FILE, json.dumps(asdict(record), indent=1).encode())

    def _read_state(self) -> None:
        state = self._ledger.read_json(STATE_FILE) or {}
        self._reports = list(state.get("reports", ()))
        for name, entry in state.get("phases", {}).items():
            self._phases[name] = self._checked("phase", name, json.dumps(entry).encode())

    def _save_state(self) -> None:
        phases = {name: asdict(record) for name, record in self._phases.items()}
        self._ledger.write_json(STATE_FILE, {"uri": self._uri, "phases": phases, "reports": self._reports})
