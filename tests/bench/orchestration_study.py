"""A search whose trials only play at training: its space, its trainables, and a ledger of thousands of past trials."""

from __future__ import annotations

import hashlib
import io
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import StudyConfig
from study.ledger import Ledger, TrialSpec, trial_key
from study.override import apply
from study.space import Space, parse
from study.stopflag import StopPoll
from study.worker import RecordFailure, TuneReporter

NUM_REPORTS = 20
SHORT_S = 1.0
PACE_S = 0.2
PHASE = "search"
SPACE = {
    "optim.lr": {"log_uniform": [1e-4, 1e-1]},
    "optim.sam.rho": {"log_uniform": [0.01, 0.5]},
    "optim.sam.adaptive": {"choice": [True, False]},
    "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.sam.adaptive": True}},
    "train.batch_size": {"int": [8, 64]},
}
_METRICS = ("loss/train", "lr", "acc/clean", "acc/noise", "acc/worst_family", "ece/clean", "ece/noise", "cost/passes",
            "cost/seconds")  # fmt: skip
_MODEL_BYTES = 20_000

Report = Callable[[dict[str, float], int, bool], None]


@dataclass(frozen=True)
class SimulatedStudy:
    """A study of one search phase in a storage folder; `spec_of` makes its trials as a study's driver does."""

    config: StudyConfig
    space: Space
    ledger: Ledger

    def spec_of(self, params: dict[str, Any], number: int) -> TrialSpec:
        config = apply(self.config.trial(), params)
        return TrialSpec(
            key=trial_key(config, fingerprint="f", role="search", phase=PHASE), study=self.config.name, phase=PHASE,
            role="search", number=number, seed=0, config=config.model_dump(mode="json"), fingerprint="f",
            storage=self.ledger.storage, cache_dir="/nowhere", params=params,
        )  # fmt: skip


def simulated_study(storage: Path, *, trials: int, algorithm: str = "tpe") -> SimulatedStudy:
    """A study without trials, its `study.json` written."""
    tree = {
        "name": "cost",
        "search": {"space": SPACE, "trials": trials, "algorithm": algorithm},
        "phases": [{"kind": "search", "name": PHASE}],
    }
    config = StudyConfig.model_validate(tree)
    ledger = Ledger(str(storage), config.name)
    ledger.write_json("study.json", {"study": config.name, "config": config.model_dump(mode="json"), "phases": []})
    return SimulatedStudy(config, parse(config.search.space, config), ledger)


def add_past(study: SimulatedStudy, count: int) -> None:
    """Write finished trials straight into files, without the flushes to disk that make real ones slow."""
    for number, params in enumerate(study.space.draws(count)):
        spec = study.spec_of(params, number)
        folder = Path(study.ledger.path(spec.key))
        folder.mkdir(parents=True)
        record = {**spec.as_dict(), "created": "2026-01-01T00:00:00Z"}
        (folder / "trial.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        lines = [json.dumps(event) + "\n" for event in _past_events(spec)]
        (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")


def _past_events(spec: TrialSpec) -> list[dict[str, Any]]:
    score = figures(spec)
    start = {"event": "start", "time": 1e9, "hardware": "none", "versions": {"python": "3.11"}, "workers": 1}
    epochs = [
        {"event": "epoch", "time": 1e9 + i, "epoch": i, "step": 0, "metrics": score, "final": False}
        for i in range(1, NUM_REPORTS + 1)
    ]
    end = {"event": "final", "time": 1e9 + 99, "epoch": NUM_REPORTS, "step": 0, "metrics": score, "final": True}
    return [start, *epochs, end]


def figures(spec: TrialSpec) -> dict[str, float]:
    """A trial's metrics, the same at each epoch: a smooth function of its settings and some noise by its key."""
    dice = random.Random(spec.key)
    score = 0.9 - abs(spec.params["optim.sam.rho"] - 0.1) + 0.02 * dice.random()
    return {name: round(score + 0.01 * place, 6) for place, name in enumerate(_METRICS)}


def play(spec: TrialSpec, ledger: Ledger, report: Report, *, wait_s: float) -> None:
    """Write what a trial of a search writes, with a report after each of its epochs, and wait in place of training."""
    metrics = figures(spec)
    ledger.append(spec.key, "start", hardware="none", versions={"python": "3.11"}, workers=1)
    for epoch in range(1, NUM_REPORTS + 1):
        time.sleep(wait_s)
        ledger.append(spec.key, "epoch", epoch=epoch, step=0, metrics=metrics, final=False)
        report(metrics, epoch, False)
    ledger.write_bytes(spec.key, "model.safetensors", hashlib.sha256(spec.key.encode()).digest() * (_MODEL_BYTES // 32))
    ledger.write_bytes(spec.key, "model.json", b"{}")
    ledger.write_bytes(spec.key, "cells.parquet", _cells())
    ledger.append(spec.key, "final", epoch=NUM_REPORTS, step=0, metrics=metrics, final=True)
    report(metrics, NUM_REPORTS, True)


_CORRUPTIONS = {"clean": "clean", "gaussian_noise": "noise", "contrast": "weather", "pixelate": "digital"}


def _cells() -> bytes:
    rows = [
        {"split": "validation", "corruption": name, "group": group, "severity": severity, "table": "murk-32px",
         "n": 100, "correct": 50, "accuracy": 0.5, "nll": 1.0, "bn": "trained"}
        for name, group in _CORRUPTIONS.items()
        for severity in ((0,) if name == "clean" else (1, 3))
    ]  # fmt: skip
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    return buffer.getvalue()


def at_once(config: dict[str, Any]) -> None:
    """A trial that reports at once."""
    _run(config, wait_s=0.0)


def short(config: dict[str, Any]) -> None:
    """A trial of a second."""
    _run(config, wait_s=SHORT_S / NUM_REPORTS)


def paced(config: dict[str, Any]) -> None:
    """Five reports a second."""
    _run(config, wait_s=PACE_S)


def _run(config: dict[str, Any], *, wait_s: float) -> None:
    spec = TrialSpec(**config["spec"])
    poll = StopPoll(config["stop_flag"], spec.key)
    if poll.begin():
        return
    ledger, reporter = Ledger(spec.storage, spec.study), TuneReporter()
    with RecordFailure(ledger, spec.key):
        play(spec, ledger, lambda metrics, epoch, final: reporter.report(metrics, epoch=epoch, final=final),
             wait_s=wait_s)  # fmt: skip
