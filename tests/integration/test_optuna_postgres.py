"""A search written to an Optuna storage on PostgreSQL: every trial once, over launches and a restart of the server."""

import logging
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from study.ledger import Ledger
from study.optunamirror import Mirror
from study.optunastore import project, study_name, targets_of
from study.studyrecord import record_phase
from study.studyrun import StudyRun
from tests.postgres import USER, postgres_server
from tests.unit.study.test_warmstart import add, earlier

pytestmark = pytest.mark.integration


def launch(run: StudyRun) -> Mirror:
    """What a driver does of it, with a ledger that it has read nothing of."""
    mirror = Mirror(Ledger(run.ledger.storage, run.ledger.study), run.config, poll_s=0.05)
    mirror.start()
    return mirror


def add_one(run: StudyRun, rho: float, number: int) -> None:
    key = add(run, rho, number=number, accuracy=0.6)
    record = run.ledger.read_json("study.json") or {}
    record_phase(run.ledger, run.config.phases[0], status="finished", trials=[*record["phases"][0]["trials"], key])


def test_a_search_is_written_once_over_launches_and_a_restart_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres_server() as server:
        own = server.database("optuna")
        monkeypatch.setenv("PGUSER", USER)
        monkeypatch.setenv("PGPASSWORD", server.password)
        run = earlier(tmp_path, f"search.optuna_storage=postgresql://127.0.0.1:{server.port}/optuna")
        name = study_name(run.ledger.read_json("study.json") or {}, "search")

        def trials() -> list[optuna.trial.FrozenTrial]:
            storage = RDBStorage(own)
            try:
                return optuna.load_study(study_name=name, storage=storage).trials
            finally:
                storage.remove_session()
                storage.engine.dispose()

        launch(run).close()
        first = trials()
        assert [trial.state.name for trial in first] == ["COMPLETE"] * 3 + ["PRUNED", "FAIL"]
        assert [trial.params["optim.sam.rho"] for trial in first] == [0.02, 0.05, 0.4, 0.3, 0.31]
        add_one(run, 0.2, 5)
        launch(run).close()
        second = trials()
        assert [trial._trial_id for trial in second[:5]] == [trial._trial_id for trial in first]
        assert [trial.user_attrs["murk.number"] for trial in second] == list(range(6))

        mirror = launch(run)
        server.stop()
        add_one(run, 0.25, 6)
        with caplog.at_level(logging.WARNING, "murk.optuna"):
            _wait_for_text(caplog, "the search goes on without it")
        server.start()
        mirror.close()
        assert [trial.user_attrs["murk.number"] for trial in trials()] == list(range(7))
        assert len({trial.user_attrs["murk.trial"] for trial in trials()}) == 7
        (target,) = targets_of(run.config, cwd=tmp_path)
        assert project(run.ledger, target) == 0
        assert server.password not in caplog.text


def _wait_for_text(caplog: pytest.LogCaptureFixture, text: str) -> None:
    end = time.monotonic() + 120
    while text not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.05)
