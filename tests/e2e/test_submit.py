"""`murk submit` against a real head: refused while it runs, stopped with its trials saved, gone on with to its end."""

import time
from pathlib import Path

import pytest

from analysis.load import load
from study.ledger import Ledger
from tests.e2e.heads import head
from tests.e2e.studies import SMALL, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SETS = ["--set", "search.trials=2", "--set", "train.epochs=80", "--set", "phases=[{kind: search, name: search}]",
        "--set", "resources.max_concurrent=1"]  # fmt: skip


def _wait_for_epochs(ledger: Ledger, count: int, timeout_s: float = 120) -> list[str]:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for key in ledger.keys():
            if sum(event["event"] == "epoch" for event in ledger.events(key)) >= count:
                return ledger.keys()
        time.sleep(0.2)
    raise AssertionError(f"no trial came to {count} epochs")


def test_a_submitted_study_is_refused_twice_stopped_and_gone_on_with(tmp_path: Path) -> None:
    study, storage, elsewhere = tmp_path / "mine.yaml", tmp_path / "storage", tmp_path / "elsewhere"
    study.write_text(SMALL)
    elsewhere.mkdir()
    with head(tmp_path) as (address, env):

        def call(*args: str, **extra: str):
            return murk(*args, "--address", address, cwd=elsewhere, **{**_only_new(env), **extra})

        (tmp_path / "wrong").write_text("w" * 64)
        wrong = call("jobs", "list", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
        assert wrong.returncode == 2
        assert wrong.stderr.strip().count("\n") == 0, wrong.stderr
        assert "refuses the token" in wrong.stderr

        submit = ["submit", str(study), *SETS, "--storage", str(storage), "--env", "A_PLACE"]
        first = call(*submit, A_PLACE="planted-value")
        assert first.returncode == 0, first.stderr
        assert "submitted as small-1" in first.stderr
        assert "planted-value" not in first.stdout + first.stderr

        ledger = Ledger(str(storage), "small")
        _wait_for_epochs(ledger, 2)
        again = call(*submit, A_PLACE="planted-value")
        assert again.returncode == 2
        assert "study 'small' is under way on this cluster as small-1 (running)" in again.stderr

        stopped = call("jobs", "stop", "small")
        assert stopped.returncode == 0, stopped.stderr
        assert "STOPPED" in stopped.stdout
        assert "what was done is kept" in call("jobs", "logs", "small").stdout
        done_before = {key: _epochs(ledger, key) for key in ledger.keys()}

        followed = call(*submit, "--follow", A_PLACE="planted-value")
        assert followed.returncode == 0, followed.stdout + followed.stderr
        assert "going on with small" in followed.stderr
        assert "report" in followed.stdout
        status = call("jobs", "status", "small").stdout
        assert [line.split()[:2] for line in status.splitlines()] == [["small-1", "STOPPED"], ["small-2", "SUCCEEDED"]]

        lacking = call("check", str(study), *SETS, "--set", "resources.gpus_per_worker=1")
        assert lacking.returncode == 2
        assert "1 node with 2 CPUs: no worker, ever" in lacking.stdout
        assert "It cannot run there" in lacking.stdout

    pulled = murk("pull", "small", "--storage", str(storage), cwd=elsewhere)
    assert pulled.returncode == 0, pulled.stderr
    frame = load(elsewhere / "results" / "small")
    assert frame["trial"].nunique() == 2
    assert set(frame["status"]) == {"finished"}
    for key, epochs in done_before.items():
        assert _epochs(ledger, key) == list(range(1, 81))
        assert any(event["event"] == "resume" for event in ledger.events(key)) or len(epochs) == 80
    for path in (path for path in storage.rglob("*") if path.is_file()):
        assert b"planted-value" not in path.read_bytes(), path


def _epochs(ledger: Ledger, key: str) -> list[int]:
    return [event["epoch"] for event in ledger.events(key) if event["event"] == "epoch"]


def _only_new(env: dict[str, str]) -> dict[str, str]:
    return {name: env[name] for name in ("PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
