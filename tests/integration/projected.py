"""A small study written straight into a ledger, as a driver and its trials would leave it; nothing is trained."""

import io
import time
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from study.artifacts import export_files
from study.build import build_method
from study.ledger import Ledger, TrialSpec
from tests.unit.study.trials import tiny_config

CLASSES = ("bus", "car", "van")

MACHINE = {"versions": {"python": "3.11", "torch": "2.13"}, "code": {"commit": "c" * 40, "dirty": False}}
CORRUPTIONS = {"clean": "clean", "contrast": "digital", "shot_noise": "noise"}


def config(method: str, *, seed: int = 0, rho: float = 0.05, **noise: Any) -> dict[str, Any]:
    """A trial's resolved config, with what MLflow shows of it."""
    settings = {"name": "pmal", "stages": 2} if method == "pmal" else {"name": "plain"}
    return {
        "data": {"source": "synthetic-vehicles", "image_size": 32},
        "model": {"backbone": "test_resnet", "pretrained": False},
        "method": settings,
        "noise": {"train": None, "test": ["contrast", "shot_noise"], "held_out": [], **noise},
        "optim": {"lr": 0.05, "sam": {"rho": rho, "adaptive": False}},
        "train": {"epochs": 2, "seed": seed},
    }


def write_study(storage: Path, name: str, *, tracking_uri: str | None = None) -> Ledger:
    """An empty study: `study.json` and `study.yaml`."""
    ledger = Ledger(str(storage), name)
    settings = {"name": name, "tracking": {"uri": tracking_uri, "register_best": False}}  # its weights are none
    ledger.write_json(
        "study.json",
        {
            "study": name, "config": settings, "phases": [], "baseline": {"method.name": "plain"}, **MACHINE,
            "data": {"num_classes": 6, "num_train": 70, "num_validation": 20, "num_test": 10},
        },
    )  # fmt: skip
    ledger.files.write_bytes(f"name: {name}\ntracking: {{uri: {tracking_uri or 'null'}}}\n".encode(), "study.yaml")
    return ledger


def set_phase(ledger: Ledger, name: str, kind: str, status: str) -> None:
    """Write a phase into `study.json`, as the driver does."""
    record = ledger.read_json("study.json") or {}
    phases = {item["name"]: item for item in record["phases"]}
    phases[name] = {"name": name, "kind": kind, "status": status, "trials": ledger.keys(name), "selected": []}
    ledger.write_json("study.json", {**record, "phases": list(phases.values())})


def add_trial(
    ledger: Ledger, key: str, phase: str, tree: dict[str, Any], *, role: Any = "search", number: int = 0
) -> None:
    """A trial that has begun."""
    seed = tree["train"]["seed"]
    spec = TrialSpec(key, ledger.study, phase, role, number, seed, tree, "f" * 16, ledger.storage, "/nowhere")
    ledger.create_trial(spec)
    ledger.append(key, "start", hardware="CPU", workers=1, **MACHINE)


def add_epoch(ledger: Ledger, key: str, epoch: int, accuracy: float = 0.5) -> None:
    """One epoch's figures."""
    metrics = {"loss/train": 2.0 / epoch, "lr": 0.05, "acc/clean": accuracy + 0.1, "acc/noise": accuracy,
               "cost/passes": 100.0 * epoch, "cost/seconds": 1.5 * epoch}  # fmt: skip
    system = [[time.time(), {"cpu_utilization_percentage": 90.0 + epoch}]]
    ledger.append(key, "epoch", epoch=epoch, step=0, metrics=metrics, final=False, usage=_usage(epoch), system=system)


def finish(ledger: Ledger, key: str, *, epoch: int = 2, accuracy: float = 0.6, tested: bool = False) -> None:
    """Files first, then the final event."""
    ledger.write_bytes(key, "cells.parquet", _parquet(_cells(accuracy, tested=tested)))
    ledger.write_bytes(key, "model.safetensors", b"weights of " + key.encode())
    ledger.write_bytes(key, "model.json", b"{}")
    if tested:
        ledger.write_bytes(key, "predictions.parquet", _parquet(pd.DataFrame({"image_id": [1], "label": [0]})))
        ledger.write_bytes(key, "heads.parquet", _parquet(pd.DataFrame({"head": ["sum"], "n": [1]})))
        ledger.write_bytes(key, "examples.npz", b"npz")
    metrics = {"loss/train": 0.9, "acc/clean": accuracy + 0.1, "acc/noise": accuracy,
               "acc/worst_family": accuracy - 0.1, "cost/passes": 200.0, "cost/seconds": 3.0}  # fmt: skip
    ledger.append(key, "final", epoch=epoch, step=0, metrics=metrics, final=True, usage=_usage(epoch + 1))


def whole_study(ledger: Ledger) -> None:
    """A search with one trial of each end, then a finished confirmation of two methods with two seeds."""
    set_phase(ledger, "search", "search", "running")
    for number, (method, rho) in enumerate([("plain", 0.0), ("pmal", 0.05), ("pmal", 0.1)]):
        key = f"search{number}"
        add_trial(ledger, key, "search", config(method, rho=rho), number=number)
        add_epoch(ledger, key, 1, 0.4 + 0.1 * number)
    finish(ledger, "search0", accuracy=0.5)
    ledger.append("search1", "pruned", epoch=1)
    ledger.append("search2", "failed", error="Traceback ...\nValueError: the loss is not finite")
    set_phase(ledger, "search", "search", "finished")
    set_phase(ledger, "confirm", "confirm", "running")
    for number, (method, seed) in enumerate([("plain", 101), ("plain", 102), ("pmal", 101), ("pmal", 102)]):
        key = f"confirm{number}"
        rho = 0.0 if method == "plain" else 0.05
        add_trial(ledger, key, "confirm", config(method, seed=seed, rho=rho), role="confirm", number=number)
        for epoch in (1, 2):
            add_epoch(ledger, key, epoch, 0.4 + 0.05 * number)
        finish(ledger, key, accuracy=0.5 + 0.05 * number, tested=True)
    set_phase(ledger, "confirm", "confirm", "finished")


def use_real_weights(ledger: Ledger, key: str, *, seed: int = 0) -> None:
    """Give a finished trial a network, with random weights, and let the study register its best."""
    tiny = tiny_config(train={"seed": seed})
    method = build_method(tiny, num_classes=len(CLASSES))
    for name, content in export_files(method, tiny, class_names=CLASSES, fingerprint="f" * 32).items():
        ledger.write_bytes(key, name, content)
    record = ledger.read_json("study.json") or {}
    record["config"]["tracking"]["register_best"] = True
    ledger.write_json("study.json", record)


def runs_of(client: MlflowClient, study: str) -> dict[str, Run]:
    """Trial key or phase name -> its one run."""
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    found: dict[str, Run] = {}
    for run in client.search_runs([experiment.experiment_id]):
        name = run.data.tags.get("murk.trial") or run.data.tags["murk.phase"]
        assert name not in found, f"two runs of {name}"
        found[name] = run
    return found


def picture_of(client: MlflowClient, study: str) -> dict[str, Any]:
    """All that a study is in MLflow, to compare two moments."""
    return {
        name: {
            "info": (run.info.run_id, run.info.status, run.info.start_time, run.info.end_time, run.info.run_name),
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": {metric: history(client, run, metric) for metric in run.data.metrics},
            "files": files_of(client, run),
            "datasets": datasets_of(run),
        }
        for name, run in runs_of(client, study).items()
    }


def meaning_of(client: MlflowClient, study: str) -> dict[str, Any]:
    """The picture of a study with runs called by what they are, to compare two MLflow places."""
    picture = picture_of(client, study)
    names = {entry["info"][0]: name for name, entry in picture.items()}
    for entry in picture.values():
        entry["info"] = entry["info"][1:]
        tags = {name: value for name, value in entry["tags"].items() if name != "mlflow.user"}
        entry["tags"] = {name: names.get(value, value) for name, value in tags.items()}
    return picture


def datasets_of(run: Run) -> list[dict[str, Any]]:
    """The dataset inputs of a run, in the order of their names."""
    found = [item.to_dictionary() for item in run.inputs.dataset_inputs]
    return sorted(found, key=lambda item: item["dataset"]["name"])


def history(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float, int]]:
    """(step, value, time) of each value of a metric."""
    return sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, metric))


def files_of(client: MlflowClient, run: Run, folder: str | None = None) -> list[str]:
    """Paths of all artifacts of a run."""
    found = []
    for item in client.list_artifacts(run.info.run_id, folder):
        found += files_of(client, run, item.path) if item.is_dir else [item.path]
    return sorted(found)


def _usage(epoch: int) -> dict[str, float]:
    return {"device_seconds": 2.0 * epoch, "peak_memory_bytes": 1e9}


def _cells(accuracy: float, *, tested: bool) -> pd.DataFrame:
    rows = []
    for split in ("validation", "test") if tested else ("validation",):
        for corruption, group in CORRUPTIONS.items():
            for severity in (2, 4) if corruption != "clean" else (0,):
                right = accuracy - 0.01 * severity
                rows.append((split, corruption, group, severity, "tiny", 100, round(100 * right), right, 1.0,
                             "reestimated"))  # fmt: skip
    names = ("split", "corruption", "group", "severity", "table", "n", "correct", "accuracy", "nll", "bn")
    return pd.DataFrame(rows, columns=list(names))


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
