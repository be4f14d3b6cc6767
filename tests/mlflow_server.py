"""A real `mlflow server` of the tests' own, on this machine only, ended with all its workers when the block ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_S, _STOP_S = 180, 20


@contextmanager
def mlflow_server(folder: Path, port: int, *, backend: str | None = None) -> Iterator[str]:
    """A server; gives its URL.

    Args:
        folder: Its log, its artifacts (`artifacts/`) and, without a `backend`, its SQLite file.
        port: Of 127.0.0.1; the same again after a stop is the same server.
        backend: Database of its records, as SQLAlchemy's URL.
    """
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": backend or f"sqlite:///{folder}/server.db",  # here, since a URL holds a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_STOP_S)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no MLflow server after {_START_S} s:\n{log.read_text(encoding='utf-8')[-2000:]}")
