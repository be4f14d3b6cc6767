"""kill -9 of the driver in mid-search, then `murk resume`: every trial and epoch once, in MLflow too."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from study.ledger import Ledger
from tests.e2e.studies import ROOT, SMALL, environment, murk

pytestmark = pytest.mark.e2e


def _epochs(ledger: Ledger) -> list[tuple[str, int]]:
    return [(key, e["epoch"]) for key in ledger.keys() for e in ledger.events(key) if e["event"] == "epoch"]


def _wait_for(ledger: Ledger, *, finished: int, driver: subprocess.Popen, timeout_s: float) -> None:
    """Until so many trials are done and another one is in its middle."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        states = Counter(ledger.status(key) for key in ledger.keys())
        if states["finished"] >= finished and states["running"] >= 1:
            return
        assert driver.poll() is None, "the study ended before it could be killed"
        time.sleep(0.2)
    raise AssertionError(f"no {finished} trials done in time; {states}")


def test_kill_of_the_driver_in_mid_search_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    ledger = Ledger(str(tmp_path / "results"), "small")
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "murk", "run", "small.yaml"], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)),
            stdout=log, stderr=log,
        )  # fmt: skip
        _wait_for(ledger, finished=2, driver=driver, timeout_s=300)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = _epochs(ledger)
    finished_before = {key for key in ledger.keys() if ledger.status(key) == "finished"}

    done = murk("resume", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    assert len(ledger.keys("search")) == 6
    assert len(ledger.keys("confirm")) == 4
    assert {ledger.status(key) for key in ledger.keys()} == {"finished"}
    epochs = _epochs(ledger)
    assert len(epochs) == len(set(epochs)) == 6 * 10
    assert set(before) <= set(epochs)
    for key in finished_before:  # what was done is not done again
        assert [e["event"] for e in ledger.events(key)].count("start") == 1
        assert "resume" not in [e["event"] for e in ledger.events(key)]

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/results/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = [run.data.tags["murk.trial"] for run in runs if "murk.trial" in run.data.tags]
    assert sorted(trials) == sorted(ledger.keys())
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if "murk.trial" in run.data.tags:
            history = client.get_metric_history(run.info.run_id, "loss/train")
            assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6]

    again = murk("resume", "small", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert _epochs(ledger) == epochs


def test_ctrl_c_stops_cleanly_and_the_study_goes_on(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    ledger = Ledger(str(tmp_path / "results"), "small")
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "murk", "run", "small.yaml", "--set", "search.trials=3"], cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT)), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        _wait_for(ledger, finished=1, driver=driver, timeout_s=300)
        driver.send_signal(signal.SIGINT)
        code = driver.wait(timeout=120)
    text = (tmp_path / "log").read_text()
    assert code == 130, text
    assert "murk resume small" in text
    assert "Traceback" not in text
    assert "pruned" not in {ledger.status(key) for key in ledger.keys()}
    done = murk("resume", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    epochs = _epochs(ledger)
    assert len(epochs) == len(set(epochs)) == 6 * (3 + len(ledger.keys("confirm")))
