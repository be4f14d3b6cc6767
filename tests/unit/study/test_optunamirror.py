"""What follows a search into its database: what it reads and opens while nothing is new, and what it makes good."""

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from study import optunastore
from study.optunamirror import Mirror
from study.optunastore import study_name
from study.storage import Storage
from study.studyrun import StudyRun
from tests.unit.study.test_warmstart import add, run_of

NUM_TRIALS = 4


@pytest.fixture
def run(tmp_path: Path) -> StudyRun:
    """A search under way: four trials ended, one runs."""
    run = run_of(tmp_path, "live", f"search.optuna_storage=sqlite:///{tmp_path}/live.db")
    for number in range(NUM_TRIALS):
        add(run, 0.1 + number / 100, number=number, accuracy=0.5)
    add(run, 0.2, number=NUM_TRIALS, accuracy=0.5, end="running")
    return run


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a database was opened, and each file of the ledger read, by its name."""
    found: Counter[str] = Counter()
    storage, read, changed = optunastore.RDBStorage, Storage.read_bytes, Storage.read_changed

    def opened(*args: Any, **kwargs: Any) -> Any:
        found["opened"] += 1
        return storage(*args, **kwargs)

    def read_bytes(self: Storage, *names: str) -> Any:
        found[names[-1]] += 1
        return read(self, *names)

    def read_changed(self: Storage, known: Any, *names: str) -> Any:
        found[names[-1]] += 1
        return changed(self, known, *names)

    monkeypatch.setattr(optunastore, "RDBStorage", opened)
    monkeypatch.setattr(Storage, "read_bytes", read_bytes)
    monkeypatch.setattr(Storage, "read_changed", read_changed)
    return found


def numbers(run: StudyRun, tmp_path: Path) -> list[int]:
    name = study_name(run.ledger.read_json("study.json") or {}, "search")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/live.db")
    return [trial.user_attrs["murk.number"] for trial in study.trials]


def test_a_look_with_nothing_new_opens_no_database_and_reads_no_ended_trial(
    run: StudyRun, tmp_path: Path, counts: Counter[str]
) -> None:
    mirror = Mirror(run.ledger, run.config)
    mirror.look()
    assert counts["opened"] == 1
    assert numbers(run, tmp_path) == [0, 1, 2, 3]
    counts.clear()
    for _ in range(10):
        mirror.look()
    assert counts["opened"] == 0
    assert counts["events.jsonl"] <= 10, "the one that runs"
    assert counts["trial.json"] <= 10
    run.ledger.append(run.ledger.keys()[-1], "final", epoch=2, step=0, metrics={"acc/noise": 0.6}, final=True)
    counts.clear()
    for _ in range(10):
        mirror.look()
    assert counts["opened"] == 1
    assert numbers(run, tmp_path) == [0, 1, 2, 3, 4]


def test_a_lost_database_is_written_whole_when_the_next_trial_has_ended(run: StudyRun, tmp_path: Path) -> None:
    mirror = Mirror(run.ledger, run.config)
    mirror.look()
    (tmp_path / "live.db").unlink()
    add(run, 0.3, number=5, accuracy=0.5)
    mirror.look()
    assert numbers(run, tmp_path) == [0, 1, 2, 3, 5]


def test_a_lost_database_is_written_whole_at_the_end(run: StudyRun, tmp_path: Path) -> None:
    mirror = Mirror(run.ledger, run.config, poll_s=60)
    mirror.look()
    (tmp_path / "live.db").unlink()
    mirror.start()
    mirror.close()
    assert numbers(run, tmp_path) == [0, 1, 2, 3]


def test_after_an_error_nothing_is_taken_for_written(
    run: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(run.ledger, run.config)
    mirror.look()
    real = optunastore.RDBStorage

    def refuses(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError("the server is away")

    monkeypatch.setattr(optunastore, "RDBStorage", refuses)
    add(run, 0.3, number=5, accuracy=0.5)
    mirror.look()
    (tmp_path / "live.db").unlink()
    monkeypatch.setattr(optunastore, "RDBStorage", real)
    mirror.look()
    assert numbers(run, tmp_path) == [0, 1, 2, 3, 5]
    assert mirror._behind == {}


def test_a_finished_phase_has_the_trials_that_it_counts(run: StudyRun, tmp_path: Path) -> None:
    """Some were made before the study was opened again, and are its own by its record."""
    mirror = Mirror(run.ledger, run.config)
    record = run.ledger.read_json("study.json") or {}
    keys = run.ledger.keys("search")
    phase = {"name": "search", "kind": "search", "status": "running", "trials": [], "selected": []}
    run.ledger.write_json("study.json", {**record, "created": "2100-01-01T00:00:00Z", "phases": [phase]})
    mirror.look()
    assert numbers(run, tmp_path) == []
    ended = {**phase, "status": "finished", "trials": [keys[2], keys[3], keys[4]]}
    run.ledger.write_json("study.json", {**record, "created": "2100-01-01T00:00:00Z", "phases": [ended]})
    mirror.look()
    assert numbers(run, tmp_path) == [2, 3]


def test_a_damaged_trial_is_named_once_and_holds_up_no_other(
    run: StudyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = run.ledger.keys()[0]
    run.ledger.write_bytes(damaged, "trial.json", b"{torn")
    mirror = Mirror(run.ledger, run.config)
    for _ in range(3):
        mirror.look()
    whole = sorted(set(range(NUM_TRIALS)) - {0})
    assert numbers(run, tmp_path) == whole
    assert caplog.text.count(f"trial.json of {damaged}") == 1
