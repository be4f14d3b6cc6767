"""The projection into a real `mlflow server` that goes away in the middle of a study and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from study.tracking import Tracker, connect, sync
from tests.integration.projected import files_of, history, picture_of, runs_of, whole_study, write_study

pytestmark = pytest.mark.e2e

START_S = 180


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A server of our own on this machine only, ended with all its workers."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no MLflow server after {START_S} s:\n{log.read_text(encoding='utf-8')[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_goes_away_and_comes_back_has_everything_once(tmp_path):
    server, port = tmp_path / "server", free_port()
    server.mkdir()
    ledger = write_study(tmp_path / "results", "remote", tracking_uri=f"http://127.0.0.1:{port}")
    tracker = Tracker(ledger, f"http://127.0.0.1:{port}", poll_s=0.5)
    with mlflow_server(server, port):
        tracker.start()
        tracker.phase_started("search")
        assert tracker.flush(timeout_s=120)
    whole_study(ledger)
    assert not tracker.flush(timeout_s=1)
    with mlflow_server(server, port) as uri:
        assert tracker.close(timeout_s=120)
        client = connect(uri)
        runs = runs_of(client, "remote")
        assert len(runs) == 9
        assert "RUNNING" not in {run.info.status for run in runs.values()}
        assert [step for step, *_ in history(client, runs["confirm0"], "acc/noise")] == [1, 2, 2]
        assert {"grid.json", "model/model.safetensors"} <= set(files_of(client, runs["confirm0"]))
        pd.testing.assert_frame_equal(load(ledger.root), load("remote", tracking_uri=uri))
        before = picture_of(client, "remote")
        for place in Path(ledger.root).rglob("mlflow.json"):
            place.unlink()
        assert sync(ledger, uri).runs == 0
        assert picture_of(client, "remote") == before
