"""The same trial in its own process, by Ray Train, and on two CPU workers (gloo): one loss curve."""

from dataclasses import replace

import pytest

from study.ledger import Ledger, TrialSpec
from study.search import run_list
from study.trial import run_trial
from tests.unit.study.trials import tiny_config, tiny_spec

pytestmark = pytest.mark.integration


def _curve(ledger: Ledger, key: str) -> list[float]:
    return [event["metrics"]["loss/train"] for event in ledger.events(key) if event["event"] == "epoch"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> TrialSpec:
    """A network without BatchNorm, whose batch statistics would differ between one batch and its halves."""
    config = tiny_config(model={"backbone": "test_convnext"}, noise={"train": ["speckle_noise"]})
    return tiny_spec(tmp_path_factory.mktemp("curve"), config)


@pytest.fixture(scope="module")
def expected(spec) -> list[float]:
    run_trial(spec)
    return _curve(Ledger(spec.storage, spec.study), spec.key)


@pytest.mark.parametrize(("executor", "workers"), [("inline", 1), ("ray_train", 1), ("ray_train", 2)])
def test_the_loss_curve_is_the_same_by_every_way(spec, expected, tmp_path, runtime_of, executor, workers):
    ledger = Ledger(str(tmp_path), spec.study)
    moved = replace(spec, storage=str(tmp_path))
    runtime = runtime_of(executor=executor, workers_per_trial=workers, max_concurrent=1)
    summary = run_list([moved], phase="search", ledger=ledger, runtime=runtime)
    assert summary.done == [spec.key], ledger.events(spec.key)
    assert len(expected) == 2
    assert _curve(ledger, spec.key) == pytest.approx(expected, rel=1e-4)
    mine, plain = ledger.metrics(spec.key), Ledger(spec.storage, spec.study).metrics(spec.key)
    assert mine["cost/passes"] == plain["cost/passes"]
    if workers == 1:
        assert mine["acc/noise"] == plain["acc/noise"]
