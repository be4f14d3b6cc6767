"""What a projection into MLflow remembers of trials that it is done with."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from study.ledger import Ledger
from study.mlflow_runs import Runs
from study.projection import Projection
from study.registry import Candidate


class Registry:
    """Runs that keep what is registered and nothing else."""

    def __init__(self) -> None:
        self.uri = "here"
        self.counts = SimpleNamespace(problems={})
        self.registered: list[Candidate] = []

    def record(self, _kind: str, name: str, _state: Any) -> SimpleNamespace:
        return SimpleNamespace(run_id=f"run-{name}")

    def register(self, _study: str, candidate: Candidate) -> str:
        self.registered.append(candidate)
        return str(len(self.registered))


def settled(tmp_path: Path) -> tuple[Ledger, Registry, Projection]:
    """Two finished trials, the first of them better, with which the projection is done."""
    ledger, registry = Ledger(str(tmp_path), "tiny"), Registry()
    projection = Projection(ledger, cast(Runs, registry))
    for number, key in enumerate(("a", "b")):
        info = {"key": key, "study": "tiny", "phase": "search", "role": "search", "number": number, "config": {}}
        ledger.write_bytes(key, "trial.json", json.dumps(info).encode())
        for name in ("model.safetensors", "model.json"):
            ledger.write_bytes(key, name, key.encode())
        ledger.append(key, "start", epoch=0, step=0, metrics={})
        ledger.append(key, "final", epoch=2, step=0, metrics={"acc/noise": 0.9 - number / 2}, final=True)
    return ledger, registry, projection


def test_a_finalist_is_registered_by_its_figures_on_the_whole_grid(tmp_path: Path) -> None:
    ledger, registry, projection = settled(tmp_path)
    early = projection._trials(ending=False)
    for trial in early:
        projection._settle(trial)
    for key, value in (("a", 0.6), ("b", 0.7)):
        ledger.append(key, "full", epoch=2, step=0, metrics={"full/acc/noise": value})
    phase = {"name": "search", "kind": "search", "status": "finished", "trials": ["a", "b"], "finalists": ["a", "b"]}
    projection._study = {"phases": [phase], "config": {"phases": [{"name": "search"}]}}
    projection._register(projection._trials(ending=False))
    assert [(found.key, found.facts["murk.value"]) for found in registry.registered] == [("b", "acc/noise 0.7000")]


def test_a_settled_trial_keeps_its_end_though_more_followed(tmp_path: Path) -> None:
    ledger, registry, projection = settled(tmp_path)
    for key, value in (("a", 0.6), ("b", 0.7)):
        ledger.append(key, "full", epoch=2, step=0, metrics={"full/acc/noise": value})
    for trial in projection._trials(ending=False):
        projection._settle(trial)
    phase = {"name": "search", "kind": "search", "status": "finished", "trials": ["a", "b"]}
    projection._study = {"phases": [phase], "config": {"phases": [{"name": "search"}]}}
    projection._register(projection._trials(ending=False))
    assert [found.key for found in registry.registered] == ["a"]
