"""The cluster's path: `ray job submit` with a token, Ray Train, an MLflow server, storage elsewhere; `murk pull`."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from tests.e2e.heads import BIN, free_port, head, process, wait_for
from tests.e2e.studies import ROOT, SMALL, environment, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@contextmanager
def _mlflow(tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "mlflow.log"
    command = [
        str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    with process(command, log, environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")) as server:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"


def _submit(address: str, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", ".", "--",
        "python", "-m", "murk", "run", *args,
    ]  # fmt: skip
    for _ in range(10):  # the head answers before the agent that starts jobs is up
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=580, check=False)
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)
    return done


def test_a_submitted_study_leaves_whole_records_that_another_folder_can_pull(tmp_path: Path) -> None:
    study, storage, elsewhere = tmp_path / "small.yaml", tmp_path / "storage", tmp_path / "elsewhere"
    study.write_text(SMALL)
    elsewhere.mkdir()
    few = ["--set", "search.trials=2", "--set", "train.epochs=2", "--set", "phases.confirm.seeds=[101]",
           "--set", "phases.confirm.per=null", "--set", "resources.executor=ray_train"]  # fmt: skip
    with _mlflow(tmp_path) as tracking, head(tmp_path) as (address, env):
        refused = _submit(address, env, str(study), *few)
        assert refused.returncode != 0
        assert "tracking.storage must be named in a submitted Ray job" in refused.stdout + refused.stderr

        done = _submit(address, env, str(study), *few, "--set", f"tracking.storage={storage}",
                       "--set", f"tracking.uri={tracking}")  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "succeeded" in done.stdout + done.stderr

        from_server = load("small", tracking_uri=tracking)
        pulled = murk("pull", "small", "--tracking", tracking, "--out", "from-server", cwd=elsewhere)
        assert pulled.returncode == 0, pulled.stderr
    pulled = murk("pull", "small", "--storage", str(storage), cwd=elsewhere)
    assert pulled.returncode == 0, pulled.stderr

    frame = load(elsewhere / "results" / "small")
    assert frame["trial"].nunique() == 3
    assert set(frame["status"]) == {"finished"}
    assert set(frame["split"]) == {"validation", "test"}
    pd.testing.assert_frame_equal(frame, load(storage / "small"))
    pd.testing.assert_frame_equal(frame, from_server)
    pd.testing.assert_frame_equal(frame, load(elsewhere / "from-server" / "small"))
    for place in ("results", "from-server"):
        assert "<html" in (elsewhere / place / "small" / "report.html").read_text()[:500].lower()
