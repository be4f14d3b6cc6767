"""One pass of the ledger into MLflow: whatever MLflow lacks is added, whatever it has is left alone.

The state lies in the ledger beside what it describes: `mlflow.json` of each trial and of the study. It may be lost or
be behind at any point: runs are found again by their tags, and MLflow drops a metric it already has (same name, time,
step and value). So a pass that died half-way is simply repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import fsspec
import pandas as pd

from analysis.fidelity import FULL_EVENT
from analysis.recordfile import RecordError, parse_table, parse_trial
from analysis.records import CELL_COLUMNS, LATER_COLUMNS, TrialRecord, trial_status
from analysis.searches import finalists_of
from study import mlflow_rows
from study.champion import Finished, champion_of, metrics_of
from study.data.hashing import digest
from study.mlflow_inputs import dataset_rows
from study.mlflow_owner import STATE_FILE
from study.mlflow_rows import MetricRow
from study.mlflow_runs import REFUSALS, Counts, RunRecord, Runs
from study.places import redact
from study.registry import Candidate

if TYPE_CHECKING:
    from study.ledger import Ledger

LEDGER_FILES = (
    "trial.json", "events.jsonl", "cells.parquet", "predictions.parquet", "heads.parquet", "examples.npz",
    "retrieval.parquet", "verification.parquet", "cells-full.parquet", "validation.parquet", "similarity.parquet",
)  # fmt: skip
GRID = "grid.json"
MODEL_FILES = ("model.safetensors", "model.json")
STUDY_FILES = {"study.json": "ledger/study.json", "study.yaml": "study.yaml"}


@dataclass(frozen=True)
class Trial:
    """A trial as a pass sees it; `shown` is its status, or `interrupted`."""

    key: str
    info: Mapping[str, Any]
    events: list[dict[str, Any]]
    shown: str

    @property
    def phase(self) -> str:
        return self.info["phase"]

    @property
    def start_ms(self) -> int | None:
        return int(self.events[0]["time"] * 1000) if self.events else None

    @property
    def end_ms(self) -> int | None:
        return int(self.events[-1]["time"] * 1000) if self.events else None


class Projection:
    """Writes one study's ledger into its runs.

    Args:
        ledger: The study's records.
        runs: The study's runs in one MLflow place.
    """

    def __init__(self, ledger: Ledger, runs: Runs) -> None:
        self._ledger = ledger
        self._runs = runs
        self._settled: dict[str, Trial] = {}
        self._scored: set[str] = set()
        self._study: dict[str, Any] = {}
        state = ledger.read_json(STATE_FILE) or {}
        self._registered: dict[str, str] = state.get("registered", {})
        self._reports: list[str] = list(state.get("reports", ()))
        self._phases = {name: runs.record("phase", name, entry) for name, entry in state.get("phases", {}).items()}

    def advance(self, *, started: Iterable[str] = (), reports: Iterable[str] = (), ending: bool = False) -> Counts:
        """Bring MLflow up to the ledger; returns what all passes did so far, and the problems of this one.

        Args:
            started: Phases that have begun, besides those that `study.json` names.
            reports: More files for the phases' runs, kept in mind for later passes.
            ending: Nothing runs any more: a trial or phase without an end is shown as interrupted.

        Raises:
            MlflowException, OSError: The server is away; the next pass goes on from here.
        """
        self._runs.counts.problems = {}
        self._remember(reports)
        study = self._study = self._ledger.read_json("study.json") or {}
        if ending:
            self._runs.look()
        listed = {item["name"]: item for item in study.get("phases", ())}
        trials = self._trials(ending=ending)
        for name in dict.fromkeys([*listed, *started, *(trial.phase for trial in trials)]):
            entry = listed.get(name, {})
            own = [trial for trial in trials if trial.phase == name]
            self._open_phase(name, entry.get("kind", own[0].info["role"] if own else ""), own)
            for trial in own:
                if trial.key not in self._settled:
                    self._guarded(trial)
            if entry.get("status") == "finished" and not self._runs.counts.problems:
                self._score(name, own, study)
            still = "interrupted" if ending else "running"
            self._close_phase(name, "finished" if entry.get("status") == "finished" else still, own)
        self._register(trials)
        return self._runs.counts

    # ------------------------------------------------------------------------------------------------- the best network
    def _register(self, trials: list[Trial]) -> None:
        """Register the network of a finished study's best trial, unless it is; a damaged one is a problem to tell."""
        if not self._study.get("config", {}).get("tracking", {}).get("register_best", True):
            return
        done = [trial for trial in trials if trial.shown == "finished"]
        champion = champion_of(
            self._study,
            [Finished(t.key, t.phase, t.info.get("number", 0), metrics_of(self._whole(t)), t.info) for t in done],
        )
        if champion is None or champion.key in self._runs.counts.problems:
            return
        run_id = self._record(champion.key).run_id
        read = {name: self._ledger.read_bytes(champion.key, name) for name in MODEL_FILES}
        files = {name: content for name, content in read.items() if content is not None}
        if not run_id or len(files) < len(MODEL_FILES):
            return
        state = {"uri": self._runs.uri, "run_id": run_id, "key": champion.key, "digest": digest(*files.values())}
        if {name: self._registered.get(name) for name in state} == state:
            return
        facts = {"murk.reason": champion.reason, "murk.value": f"{champion.metric} {champion.value:.4f}"}
        found = Candidate(run_id, champion.key, state["digest"], files, facts)
        try:
            registered = self._runs.register(self._ledger.study, found)
        except ValueError as error:
            self._runs.counts.problems[champion.key] = f"its network cannot be registered: {redact(str(error))}"
            return
        self._registered = {**state, "version": registered}
        self._save_state()

    def _whole(self, trial: Trial) -> list[dict[str, Any]]:
        """A trial's events; of a finalist read anew where it was settled, as it may have been measured since."""
        is_old = trial.key in self._settled and trial.key in finalists_of(self._study, trial.phase)
        return self._ledger.events(trial.key) if is_old else trial.events

    # ------------------------------------------------------------------------------------------------------- one trial
    def _trials(self, *, ending: bool) -> list[Trial]:
        found = [
            self._settled.get(key) or self._read(key, ending=ending) for key in self._ledger.files.folders("trials")
        ]
        return sorted((trial for trial in found if trial), key=lambda trial: trial.info.get("number", 0))

    def _read(self, key: str, *, ending: bool) -> Trial | None:
        content = self._ledger.read_bytes(key, "trial.json")
        if content is None:
            return None
        events = self._ledger.events(key)
        status = trial_status(events)
        shown = "interrupted" if status == "running" and ending else status
        try:
            return Trial(key, parse_trial(content, f"trial.json of {key}"), events, shown)
        except RecordError as error:
            self._runs.counts.problems[key] = redact(str(error))
            return None

    def _guarded(self, trial: Trial) -> None:
        """Project a trial; one that MLflow refuses, or whose records are damaged, does not hold up the others.

        It is tried again at each pass, so that a record that was restored is caught up with.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._project(trial)
        except RecordError as error:
            self._runs.counts.problems[trial.key] = redact(str(error))
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._runs.counts.problems[trial.key] = redact(str(error))
            self._runs.forget("trial", trial.key)

    def _project(self, trial: Trial) -> None:
        cells = self._cells(trial.key) if trial.shown == "finished" else None
        record = self._record(trial.key)
        if not record.run_id:
            self._create(trial, record)
        has_new_inputs = self._runs.log_datasets(record, dataset_rows(trial.info, self._study))
        new = trial.events[record.events :]
        rows = mlflow_rows.metric_rows(new)
        params = mlflow_rows.params(trial.info["config"]) if not record.status else {}
        if rows or params:
            self._runs.log(record.run_id, metrics=rows, params=params)
        if record.status != trial.shown or (new and trial.shown != "running"):
            self._show(trial, record, cells)
        elif not (new or has_new_inputs):
            self._settle(trial)
            return
        record.events = len(trial.events)
        self._save(trial.key, record)
        self._settle(trial)

    def _settle(self, trial: Trial) -> None:
        later = trial.info.get("fidelity") and not self._is_over(trial)
        if trial.shown == "pruned" or (trial.shown == "finished" and not later):
            first, *between, last = trial.events
            kept = [event for event in between if event["event"] in ("final", FULL_EVENT)]
            self._settled[trial.key] = replace(trial, events=[first, *kept, last])

    def _is_over(self, trial: Trial) -> bool:
        """Whether nothing follows a trial's end: a finalist's figures on the whole grid do, while its phase runs."""
        phases = {item["name"]: item for item in self._study.get("phases") or ()}
        is_measured = any(event["event"] == FULL_EVENT for event in trial.events)
        return is_measured or phases.get(trial.phase, {}).get("status") == "finished"

    def _create(self, trial: Trial, record: RunRecord) -> None:
        tags = mlflow_rows.trial_tags(trial.info) | {
            "murk.status": "running",
            "mlflow.parentRunId": self._phases[trial.phase].run_id,
        }
        title = mlflow_rows.run_name(trial.info)
        record.run_id = self._runs.open("trial", trial.key, tags=tags, title=title, start_ms=trial.start_ms)
        self._save(trial.key, record)

    def _show(self, trial: Trial, record: RunRecord, cells: pd.DataFrame | None) -> None:
        """Give the run its files and tags and, after all else, its state."""
        self._runs.upload(record, self._files(trial, cells))
        tags = mlflow_rows.end_tags(trial.shown, trial.events)
        tags |= mlflow_rows.machine_tags(mlflow_rows.start_facts(trial.events))
        if GRID in record.files:
            tags |= mlflow_rows.table_tags(GRID)
        metrics = []
        if cells is not None:
            metrics = mlflow_rows.cell_rows(cells, trial.end_ms or 0, int(trial.events[-1].get("epoch") or 0))
        self._runs.log(record.run_id, metrics=metrics, tags=tags)
        self._runs.set_status(record, trial.shown, trial.end_ms)

    def _files(self, trial: Trial, cells: pd.DataFrame | None) -> dict[str, bytes | None]:
        """Artifact -> content; the grid as a table like `log_table`'s, which after a crash would append rows again."""
        read = self._ledger.read_bytes
        names = LEDGER_FILES if trial.shown != "running" else LEDGER_FILES[:1]
        found = {f"ledger/{name}": read(trial.key, name) for name in names}
        if trial.shown == "finished":
            found |= {f"model/{name}": read(trial.key, name) for name in MODEL_FILES}
            found[GRID] = None if cells is None else _grid(cells)
        return found

    # ------------------------------------------------------------------------------------------------------- one phase
    def _open_phase(self, name: str, kind: str, trials: list[Trial]) -> None:
        record = self._phases.setdefault(name, RunRecord(self._runs.uri))
        if not record.run_id:
            start_ms = min((trial.start_ms for trial in trials if trial.start_ms), default=None)
            tags = mlflow_rows.phase_tags(self._ledger.study, name, kind)
            record.run_id = self._runs.open("phase", name, tags=tags, title=name, start_ms=start_ms)
            self._save_state()

    def _close_phase(self, name: str, status: str, trials: list[Trial]) -> None:
        """Bring the phase's run up to date: files of the study, counts of trials, status."""
        record = self._phases[name]
        before = json.dumps(asdict(record))
        files: dict[str, bytes | None] = {}
        for place, artifact in STUDY_FILES.items():
            content = self._ledger.files.read_bytes(place)
            files[artifact] = None if content is None else redact(content.decode()).encode()
        reports = {_report_artifact(place): self._report(place) for place in self._reports}
        files |= {artifact: content for artifact, content in reports.items() if content is not None}
        self._runs.upload(record, files)
        progress = mlflow_rows.progress_text(trial.shown for trial in trials)
        if progress != record.progress or status != record.status:
            tags = {"murk.progress": progress, "murk.status": status} | mlflow_rows.machine_tags(self._study)
            self._runs.log(record.run_id, tags=tags)
            record.progress = progress
        if status != record.status:
            end_ms = max((trial.end_ms for trial in trials if trial.end_ms), default=None)
            self._runs.set_status(record, status, end_ms)
        if json.dumps(asdict(record)) != before:
            self._save_state()

    def _score(self, name: str, trials: list[Trial], study: Mapping[str, Any]) -> None:
        """Log `mce` of a finished phase that read the test split; it needs the baseline's rows, so it comes last."""
        done = [trial for trial in trials if trial.shown == "finished" and trial.info.get("role") != "search"]
        if name in self._scored or not done:
            return
        try:
            records = [
                TrialRecord(trial.info, self._ledger.events(trial.key), self._cells(trial.key)) for trial in done
            ]
        except RecordError as error:  # damaged since it was shown
            self._runs.counts.problems[name] = redact(str(error))
            return
        found = mlflow_rows.trial_mce(records, study)
        end_ms = max(trial.end_ms or 0 for trial in done)
        for trial in done:
            record = self._record(trial.key)
            if trial.key in found and record.mce != found[trial.key]:
                step = int(trial.events[-1].get("epoch") or 0)
                self._runs.log(record.run_id, metrics=[MetricRow("mce", found[trial.key], end_ms, step)])
                record.mce = found[trial.key]
                self._save(trial.key, record)
        self._scored.add(name)

    # ---------------------------------------------------------------------------------------------------------- ledger
    def _cells(self, key: str) -> pd.DataFrame | None:
        """A trial's cells; None where there are none.

        Raises:
            RecordError: They are damaged.
        """
        content = self._ledger.read_bytes(key, "cells.parquet")
        if content is None:
            return None
        cells = parse_table(content, f"cells.parquet of trial {key}")
        if missing := set(CELL_COLUMNS) - set(LATER_COLUMNS) - set(cells):
            raise RecordError(
                f"cells.parquet of trial {key} lacks {', '.join(sorted(missing))}; restore it from a copy"
            )
        return cells

    def _report(self, place: str) -> bytes | None:
        is_whole = place.startswith("/") or "://" in place
        try:
            with fsspec.open(place if is_whole else f"{self._ledger.root}/{place}", "rb") as handle:
                return handle.read()  # pyright: ignore[reportAttributeAccessIssue]
        except FileNotFoundError:
            return None

    def _record(self, key: str) -> RunRecord:
        content = self._ledger.read_bytes(key, STATE_FILE)
        return self._runs.record("trial", key, None if content is None else json.loads(content))

    def _save(self, key: str, record: RunRecord) -> None:
        self._ledger.write_bytes(key, STATE_FILE, json.dumps(asdict(record), indent=1).encode())

    def _remember(self, reports: Iterable[str]) -> None:
        root = self._ledger.root.rstrip("/") + "/"
        new = [place.removeprefix(root) for place in reports]
        if set(new) - set(self._reports):
            self._reports = list(dict.fromkeys([*self._reports, *new]))
            self._save_state()

    def _save_state(self) -> None:
        phases = {name: asdict(record) for name, record in self._phases.items()}
        self._ledger.write_json(STATE_FILE, {"uri": self._runs.uri, "phases": phases, "reports": self._reports,
                                             "registered": self._registered})  # fmt: skip


def _grid(cells: pd.DataFrame) -> bytes:
    """The grid as MLflow's pages show a table; what is looked for comes first, as they cut off what is wide."""
    first = [name for name in ("split", "corruption", "severity", "accuracy", "n") if name in cells]
    ordered = cells[[*first, *(name for name in cells if name not in first)]]
    return (ordered.to_json(orient="split", index=False) or "").encode()


def _report_artifact(place: str) -> str:
    if place.startswith("/") or "://" in place:
        return f"report/{place.rsplit('/', 1)[-1]}"
    return place if place.startswith("report/") else f"report/{place}"
