"""The cluster's path: `ray job submit` with a token, Ray Train, an MLflow server, storage elsewhere; `murk pull`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from tests.e2e.heads import BIN, free_port, head, process, submit_plainly, wait_for
from tests.e2e.studies import SMALL, environment, murk

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


def test_a_submitted_study_leaves_whole_records_that_another_folder_can_pull(tmp_path: Path) -> None:
    study, storage, elsewhere = tmp_path / "small.yaml", tmp_path / "storage", tmp_path / "elsewhere"
    study.write_text(SMALL)
    elsewhere.mkdir()
    few = ["--set", "search.trials=2", "--set", "train.epochs=2", "--set", "phases.confirm.seeds=[101]",
           "--set", "phases.confirm.per=null", "--set", "resources.executor=ray_train"]  # fmt: skip
    with _mlflow(tmp_path) as tracking, head(tmp_path) as (address, env):
        refused = submit_plainly(address, env, str(study), *few)
        assert refused.returncode != 0
        assert "tracking.storage must be named in a submitted Ray job" in refused.stdout + refused.stderr

        done = submit_plainly(address, env, str(study), *few, "--set", f"tracking.storage={storage}",
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
