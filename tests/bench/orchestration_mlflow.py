"""MLflow beside the bench of orchestration: its calls counted, a stand-in that takes all, and Ray's own callback."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from mlflow.tracking import MlflowClient
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from study.mlflow_runs import Counts, Kind, RunRecord
from study.search import trial_name
from tests.bench.orchestration_study import SimulatedStudy, figures, play

_depth = threading.local()


class NoRuns:
    """In place of `study.mlflow_runs.Runs`: takes everything and keeps nothing, so that our own part is measured."""

    uri = "nowhere"

    def __init__(self) -> None:
        self.counts = Counts()

    def record(self, kind: Kind, name: str, state: Mapping[str, Any] | None) -> RunRecord:
        return RunRecord.parse(state or {"uri": self.uri})

    def open(self, kind: Kind, name: str, **_: Any) -> str:
        return f"{kind}-{name}"

    def forget(self, kind: Kind, name: str) -> None:
        """Nothing to forget."""

    def log(self, run_id: str, **_: Any) -> None:
        """Nothing to log."""

    def log_datasets(self, record: RunRecord, rows: Sequence[Any]) -> bool:
        return False

    def upload(self, record: RunRecord, contents: Mapping[str, bytes | None]) -> None:
        record.files |= {name: "kept" for name, content in contents.items() if content is not None}

    def set_status(self, record: RunRecord, status: str, end_ms: int | None) -> None:
        record.status = status


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of every `MlflowClient`, those that it makes of itself left out."""
    calls: Counter[str] = Counter()
    names = [name for name in vars(MlflowClient) if not name.startswith("_") and callable(getattr(MlflowClient, name))]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(MlflowClient, name, _counting(getattr(MlflowClient, name), calls)))
        yield calls


def _counting(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if getattr(_depth, "is_inside", False):
            return function(*args, **named)
        calls[function.__name__] += 1
        _depth.is_inside = True
        try:
            return function(*args, **named)
        finally:
            _depth.is_inside = False

    return call


def run_with_rays_callback(study: SimulatedStudy, number: int, *, uri: str) -> None:
    """The same trials by plain Tune, logged by Ray's callback into an MLflow place."""
    specs = [study.spec_of(params, place) for place, params in enumerate(study.space.draws(number))]
    for spec in specs:
        study.ledger.create_trial(spec)
    tune.Tuner(
        tune.with_resources(bare, {"CPU": 1}),
        param_space={"spec": tune.grid_search([spec.as_dict() for spec in specs])},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_name_creator=trial_name, trial_dirname_creator=trial_name),
        run_config=tune.RunConfig(
            name="bare", storage_path=study.ledger.root, verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="bare")],
        ),
    ).fit()  # fmt: skip


def bare(config: dict[str, Any]) -> None:
    """A trial that reports at once, without Murk's flag to stop."""
    from study.ledger import Ledger, TrialSpec
    from study.worker import TuneReporter

    spec, reporter = TrialSpec(**config["spec"]), TuneReporter()
    assert figures(spec)
    play(spec, Ledger(spec.storage, spec.study), lambda metrics, epoch, final: reporter.report(
        metrics, epoch=epoch, final=final), wait_s=0.0)  # fmt: skip
