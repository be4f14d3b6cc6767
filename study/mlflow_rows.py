"""What a trial looks like in MLflow: the names, tags, params and metrics of its run. Pure; knows no MLflow."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.labels import base_label, flatten
from analysis.metrics import find_baseline, main_rows, mean_corruption_error
from analysis.records import TrialRecord, config_id, to_frame, training_noise
from study.places import redact

MAX_METRICS_PER_BATCH = 1000
MAX_ITEMS_PER_BATCH = 1000
"""Metrics, params and tags together."""
MAX_ENTRIES_PER_BATCH = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 5000

MLFLOW_STATUS = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
    "running": "RUNNING",
}


CURVES = {"test": "sev", "validation": "val_sev"}
"""Split -> group of its curves by severity: short, as MLflow cuts the titles of its charts from the right."""
_SIDE = re.compile(r"(?<![^_])\d+(?=px$)")


class MetricRow(NamedTuple):
    """One value of a metric, in the order of MLflow's own `Metric`."""

    key: str
    value: float
    timestamp_ms: int
    step: int


def label(info: Mapping[str, Any]) -> str:
    """The report's label of a configuration, made narrow for MLflow's columns: `pmal S2 rho0.05`."""
    return base_label(info["config"]).replace("=", "")


def run_name(info: Mapping[str, Any]) -> str:
    """A short name for people: `pmal S2 rho0.05 seed0`; in a search `007 pmal S2 rho0.05`, by the trial's number."""
    if info.get("role") == "search":
        return f"{info.get('number', 0):03d} {label(info)}"
    return f"{label(info)} seed{info.get('seed')}"


def trial_tags(info: Mapping[str, Any]) -> dict[str, str]:
    """Tags to group and filter by.

    `config` is shared by the seeds of one configuration, so that grouping by it gives their means; it names the phase,
    since a search's figures are not to be averaged with those that confirm it.
    """
    config = info["config"]
    stages = config.get("method", {}).get("stages")
    tags = {
        "murk.trial": info["key"],
        "murk.study": info["study"],
        "murk.number": info.get("number", 0),
        "config": f"{info['phase']}: {label(info)} #{config_id(config)[:4]}",
        "phase": info["phase"],
        "role": info.get("role", ""),
        "method": config.get("method", {}).get("name", "unknown"),
        "backbone": config.get("model", {}).get("backbone", "unknown"),
        "stages": len(stages) if isinstance(stages, (list, tuple)) else stages,
        "rho": config.get("optim", {}).get("sam", {}).get("rho"),
        "train_noise": "+".join(training_noise(config)) or "none",
        "seed": info.get("seed"),
        "grid": "small" if info.get("fidelity") else None,
        "mlflow.source.name": f"murk run {info['study']}",
        "mlflow.source.type": "LOCAL",
    }
    return {name: _tag(value) for name, value in tags.items() if value is not None}


def phase_tags(study: str, name: str, kind: str) -> dict[str, str]:
    """Tags of a phase's parent run."""
    tags = {"murk.phase": name, "murk.study": study, "phase": name, "role": kind}
    return {**tags, "mlflow.source.name": f"murk run {study}", "mlflow.source.type": "LOCAL"}


def end_tags(status: str, events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tags that say how a trial stands; the error of a failure that was overcome is blanked."""
    error = next((e.get("error") for e in reversed(events) if e.get("event") == "failed"), None)
    if error is None:
        return {"murk.status": status}
    return {"murk.status": status, "murk.error": _tag(error) if status == "failed" else ""}


def note_text(study: str) -> str:
    """What an experiment's page says of itself, in Markdown."""
    return f"""{study}, a study of Murk. Each phase is a parent run with its trials below it.

- The report with intervals: a phase's run, Artifacts, `report/`. A trial's grid as a table: Artifacts, `grid.json`.
- Group by the tag `method` or `config` (seeds of one configuration): charts and columns then show means.
- `acc/*` are validation figures, by epoch; `test/*` were read once, after choosing. `test_cell/<corruption>/<severity>`
  are single cells; `sev/<corruption>` (validation: `val_sev/...`) has the severity as its step: a line chart of it is
  test accuracy against severity, and its last value that of the highest one. `016px` is a lower side of 16 pixels.
- A mean of MLflow's has no interval: whether a difference is real stands in the report.
"""


def machine_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say on what and by which code something ran: of the event that began a trial's latest attempt, or of
    `study.json`; those that it does not tell are left out.

    The commit goes by the name under which MLflow shows it; where it is not known, only `murk.commit` says so.
    """
    tags: dict[str, Any] = {name: facts.get(name) for name in ("hardware", "workers")}
    if facts.get("versions"):
        tags["murk.versions"] = " ".join(f"{name}={version}" for name, version in facts["versions"].items())
    code = facts.get("code") or {}
    tags["murk.commit"] = code.get("commit")
    tags["murk.dirty"] = code.get("dirty")
    if code.get("dirty") is not None:
        tags["mlflow.source.git.commit"], tags["mlflow.source.git.dirty"] = code["commit"], code["dirty"]
    return {name: _tag(value) for name, value in tags.items() if value is not None}


def start_facts(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The event that began a trial's latest attempt; empty before there is one."""
    return next((event for event in reversed(events) if event.get("event") in {"start", "resume"}), {})


def table_tags(artifact: str) -> dict[str, str]:
    """The tag by which MLflow's UI knows an artifact as a table, as `MlflowClient.log_table` sets it."""
    return {"mlflow.loggedArtifacts": json.dumps([{"path": artifact, "type": "table"}])}


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """The resolved config under dotted keys; a value too long for MLflow is cut and says so."""
    return {key: _param(value) for key, value in flatten(config).items()}


_OF_THE_LAST_EPOCH = ("loss/", "sharpness/", "lr", "cost/passes", "cost/seconds")
"""What a final event repeats of the epoch before it, whose point stands in MLflow already."""


def metric_rows(events: Iterable[Mapping[str, Any]]) -> list[MetricRow]:
    """The metrics of some events, with the event's own time and its epoch as step; missing values are left out."""
    rows = []
    for event in events:
        stamp, step = int(event["time"] * 1000), int(event.get("epoch") or 0)
        for name, value in (event.get("metrics") or {}).items():
            repeated = event.get("event") == "final" and name.startswith(_OF_THE_LAST_EPOCH)
            if value is not None and math.isfinite(value) and not repeated:
                rows.append(MetricRow(name, float(value), stamp, step))
        rows += _usage_rows(event, stamp, step)
    return rows


def cell_rows(cells: pd.DataFrame, stamp: int, step: int) -> list[MetricRow]:
    """The accuracy of each cell of a trial's grid, under names that sort by corruption, then side, then severity.

    `test_cell/contrast/3` is one figure; `sev/contrast` has the severity as its step, so that MLflow draws the accuracy
    against it, and stands where a corruption has more than one. Clean images have their own metric.

    Args:
        cells: A trial's `cells.parquet`.
        step: Of the single figures: the trial's last epoch.
    """
    rows = []
    for split in sorted(cells["split"].unique()):
        noisy = main_rows(cells.assign(trial=""), split=split).query("corruption != 'clean'")
        noisy = noisy.sort_values(by=["corruption", "severity"])
        for corruption, own in noisy.groupby("corruption", sort=True):
            points = list(zip(own["severity"].astype(int), own["accuracy"].astype(float), strict=True))
            name = sortable(str(corruption))
            rows += [MetricRow(f"{split}_cell/{name}/{at}", value, stamp, step) for at, value in points]
            if len(points) > 1:
                rows += [MetricRow(f"{CURVES[split]}/{name}", value, stamp, at) for at, value in points]
    return rows


def sortable(corruption: str) -> str:
    """A corruption's name with the side at its end in three digits: `gaussian_noise_8px` as `gaussian_noise_008px`.

    Always three, whatever sides a study has, so that a cell has the same name in all studies.
    """
    return _SIDE.sub(lambda side: side[0].zfill(3), corruption)


def _usage_rows(event: Mapping[str, Any], stamp: int, step: int) -> list[MetricRow]:
    """What the trial had used by then, and its samples under `system/`, which MLflow's page shows apart."""
    rows = [
        MetricRow(f"usage/{name}", float(value), stamp, step)
        for name, value in (event.get("usage") or {}).items()
        if value is not None
    ]
    for when, values in event.get("system") or ():
        rows += [
            MetricRow(f"system/{name}", float(value), int(when * 1000), step)
            for name, value in values.items()
            if value is not None
        ]
    return rows


class Part(NamedTuple):
    """What goes into one call of `log_batch`."""

    metrics: Sequence[Any]
    params: Sequence[Any]
    tags: Sequence[Any]


def batches(metrics: Sequence[Any], params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> Iterator[Part]:
    """Metrics, params and tags in as few parts as MLflow's `log_batch` takes; params and tags go first."""
    entries = max(-(-len(params) // MAX_ENTRIES_PER_BATCH), -(-len(tags) // MAX_ENTRIES_PER_BATCH))
    start, number = 0, 0
    while number < entries or start < len(metrics):
        span = slice(number * MAX_ENTRIES_PER_BATCH, (number + 1) * MAX_ENTRIES_PER_BATCH)
        some_params, some_tags = params[span], tags[span]
        room = min(MAX_METRICS_PER_BATCH, MAX_ITEMS_PER_BATCH - len(some_params) - len(some_tags))
        yield Part(metrics[start : start + room], some_params, some_tags)
        start, number = start + room, number + 1


def progress_text(statuses: Iterable[str]) -> str:
    """Counts of trials by status, such as `6 finished, 2 pruned`."""
    counts = Counter(statuses)
    return ", ".join(f"{counts[status]} {status}" for status in MLFLOW_STATUS if counts[status]) or "no trials"


def trial_mce(records: list[TrialRecord], study: Mapping[str, Any]) -> dict[str, float]:
    """Key -> mean corruption error on the test split against the study's baseline; empty where it has none."""
    if not study.get("baseline"):
        return {}
    try:
        baseline = find_baseline(records, study["baseline"])
    except LookupError:
        return {}
    rows = main_rows(to_frame(records, study), split="test")
    baseline_rows = rows.loc[rows["config_id"] == baseline]
    found = {}
    for key, own in rows.groupby("trial"):
        try:
            error = mean_corruption_error(own, baseline_rows)
        except ValueError:  # other cells than the baseline's: not comparable
            continue
        if math.isfinite(error.value):
            found[str(key)] = error.value
    return found


def _tag(value: Any) -> str:
    text = redact(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= MAX_TAG_CHARACTERS else "[...] " + text[-MAX_TAG_CHARACTERS + 6 :]


def _param(value: Any) -> str:
    """A value as text; a plain list without brackets, as MLflow's pages spread JSON over a line for each item."""
    if isinstance(value, list) and value and all(isinstance(item, (str, int, float)) for item in value):
        value = ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value)
    text = redact(value if isinstance(value, str) else json.dumps(value))
    if len(text) <= MAX_PARAM_CHARACTERS:
        return text
    note = f" [... {len(text)} characters, whole in ledger/trial.json]"
    return text[: MAX_PARAM_CHARACTERS - len(note)] + note
