"""kill -9 of the driver in mid-search, then `murk resume`: every trial and epoch once, in MLflow too."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.ledger import Ledger
from tests.e2e import counts, faults
from tests.e2e.studies import ROOT, SMALL, environment, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2000)]
RESUME_S = 900  # a busy machine takes minutes for the start of a Ray


def _wait_for(ledger: Ledger, *, finished: int, driver: subprocess.Popen) -> None:
    """Until so many trials are done and another one is in its middle."""
    faults.wait_for(lambda: driver.poll() is not None or counts.is_under_way(ledger, finished=finished), timeout_s=600)
    assert driver.poll() is None, "the study ended before it could be stopped"


def test_kill_of_the_driver_in_mid_search_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    ledger = Ledger(str(tmp_path / "results"), "small")
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "murk", "run", "small.yaml"], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)),
            stdout=log, stderr=log,
        )  # fmt: skip
        _wait_for(ledger, finished=2, driver=driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = counts.look(ledger)
    finished_before = {key for key, end in before.ends if end == "final"}
    assert finished_before

    done = murk("resume", "small", cwd=tmp_path, timeout=RESUME_S)
    assert done.returncode == 0, done.stderr

    assert len(ledger.keys("search")) == 6
    assert len(ledger.keys("confirm")) == 4
    found = counts.settled(ledger)
    counts.expect_once(found, [before], epochs=dict.fromkeys(ledger.keys(), 6))
    for key in finished_before:  # what was done is not done again
        assert faults.names_of(ledger, key).count("start") == 1
        assert "resume" not in faults.names_of(ledger, key)
    assert counts.states(ledger) == {"FINISHED"}
    print("epochs trained again", {key: counts.trained_again(ledger, key) for key in ledger.keys()})

    again = murk("resume", "small", cwd=tmp_path, timeout=RESUME_S)
    assert again.returncode == 0, again.stderr
    assert counts.look(ledger) == found


def test_ctrl_c_stops_cleanly_and_the_study_goes_on(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    ledger = Ledger(str(tmp_path / "results"), "small")
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "murk", "run", "small.yaml", "--set", "search.trials=3"], cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT)), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        _wait_for(ledger, finished=1, driver=driver)
        driver.send_signal(signal.SIGINT)
        code = driver.wait(timeout=120)
    text = (tmp_path / "log").read_text()
    assert code == 130, text
    assert "murk resume small" in text
    assert "Traceback" not in text
    before = counts.look(ledger)
    counts.expect_shown(before)
    assert "pruned" not in {ledger.status(key) for key in ledger.keys()}
    done = murk("resume", "small", cwd=tmp_path, timeout=RESUME_S)
    assert done.returncode == 0, done.stderr
    assert len(ledger.keys("search")) == 3
    counts.expect_once(counts.settled(ledger), [before], epochs=dict.fromkeys(ledger.keys(), 6))
    assert counts.states(ledger) == {"FINISHED"}
    again = {key: counts.trained_again(ledger, key) for key in ledger.keys()}
    assert not any(map(any, again.values())), "a stopped trial saves where it stands"
