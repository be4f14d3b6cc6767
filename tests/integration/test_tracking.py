"""The projection into a real SQLite MLflow, with crashes, absences and second tries."""

import hashlib
import logging
import threading
from pathlib import Path

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.load import load
from study.ledger import Ledger
from study.storage import StudyLockedError
from study.tracking import Tracker, TrackingError, connect, sync
from tests.integration.projected import (
    add_epoch,
    add_trial,
    config,
    files_of,
    finish,
    history,
    picture_of,
    runs_of,
    set_phase,
    whole_study,
    write_study,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    """One storage place with one database for this file: making a database takes seconds."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def uri(storage) -> str:
    return f"sqlite:///{storage}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri) -> MlflowClient:
    return connect(uri)


@pytest.fixture(scope="module")
def projected(storage, uri, client) -> Ledger:
    """The whole study, synced once."""
    ledger = write_study(storage, "whole", tracking_uri="http://me:hidden@mlflow:5000")
    whole_study(ledger)
    report = sync(ledger, uri)
    assert (report.runs, report.problems) == (9, {})
    return ledger


@pytest.fixture
def ledger(storage, request) -> Ledger:
    """An empty study of the test's own."""
    return write_study(storage, "s" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


class Flaky:
    """A client whose named calls fail for a while: before (nothing is done) or after (the answer is lost)."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.calls: dict[str, int] = {}
        self.fail: dict[str, tuple[str, Exception]] = {}

    def __getattr__(self, name):
        real = getattr(self._client, name)

        def call(*args, **kwargs):
            self.calls[name] = self.calls.get(name, 0) + 1
            when, error = self.fail.get(name) or self.fail.get("*") or ("", None)
            if when == "before" and error is not None:
                raise error
            answer = real(*args, **kwargs)
            if when == "after" and error is not None:
                raise error
            return answer

        return call


def away() -> MlflowException:
    return MlflowException("API request to http://me:hidden@host failed: connection refused")


# -------------------------------------------------------------------------------------------------------- what it shows
def test_states_and_parents(projected, client):
    runs = runs_of(client, "whole")
    states = {name: (run.info.status, run.data.tags["murk.status"]) for name, run in runs.items()}
    assert states == {
        "search": ("FINISHED", "finished"),
        "confirm": ("FINISHED", "finished"),
        "search0": ("FINISHED", "finished"),
        "search1": ("KILLED", "pruned"),
        "search2": ("FAILED", "failed"),
        **{f"confirm{i}": ("FINISHED", "finished") for i in range(4)},
    }
    assert "ValueError: the loss is not finite" in runs["search2"].data.tags["murk.error"]
    for name, run in runs.items():
        parent = run.data.tags.get("mlflow.parentRunId")
        assert parent == (runs[run.data.tags["phase"]].info.run_id if "murk.trial" in run.data.tags else None), name
    assert runs["search"].data.tags["murk.progress"] == "1 finished, 1 pruned, 1 failed"


def test_names_and_tags_group_the_seeds(projected, client):
    runs = runs_of(client, "whole")
    assert runs["confirm2"].info.run_name == "pmal S2 rho0.05 seed101"
    assert runs["search1"].info.run_name == "001 pmal S2 rho0.05"
    tags = runs["confirm2"].data.tags
    shown = {name: tags[name] for name in ("method", "backbone", "stages", "rho", "seed", "phase", "train_noise")}
    assert shown == {"method": "pmal", "backbone": "test_resnet", "stages": "2", "rho": "0.05", "seed": "101",
                     "phase": "confirm", "train_noise": "pmal_pair"}  # fmt: skip
    groups = {name: run.data.tags.get("config") for name, run in runs.items()}
    assert groups["confirm2"] == groups["confirm3"] != groups["confirm0"]
    assert groups["search1"] != groups["confirm2"], "a search is not averaged with what confirms it"


def test_metrics_carry_the_events_times_and_epochs(projected, client):
    run = runs_of(client, "whole")["confirm1"]
    events = [event for event in projected.events("confirm1") if event.get("metrics")]
    expected = [(e["epoch"], e["metrics"]["acc/noise"], int(e["time"] * 1000)) for e in events]
    assert history(client, run, "acc/noise") == sorted(expected)
    assert run.data.metrics["acc/noise"] == events[-1]["metrics"]["acc/noise"]
    assert run.info.end_time == int(events[-1]["time"] * 1000)
    assert run.data.metrics["mce"] == pytest.approx((0.47 + 0.49) / (0.495 + 0.515)), "against both seeds of plain"
    assert set(run.data.metrics) >= {"acc/clean", "acc/noise", "acc/worst_family", "mce", "cost/passes", "cost/seconds"}
    assert len(run.data.metrics) < 12, "the grid is a table, not columns"


def test_artifacts(projected, client):
    runs = runs_of(client, "whole")
    ledger_files = [f"ledger/{name}" for name in
                    ("cells.parquet", "events.jsonl", "examples.npz", "predictions.parquet", "trial.json")]  # fmt: skip
    model_files = ["model/model.json", "model/model.safetensors"]
    assert files_of(client, runs["confirm0"]) == ["grid.json", *ledger_files, *model_files]
    assert files_of(client, runs["search2"]) == ["ledger/events.jsonl", "ledger/trial.json"]
    assert files_of(client, runs["search"]) == ["ledger/study.json", "study.yaml"]
    experiment = client.get_experiment_by_name("whole")
    run = runs["confirm0"]
    table = pd.read_json(client.download_artifacts(run.info.run_id, "grid.json"), orient="split")
    assert run.data.tags["mlflow.loggedArtifacts"] == '[{"path": "grid.json", "type": "table"}]'
    cells = pd.read_parquet(projected.path("confirm0", "cells.parquet"))
    pd.testing.assert_frame_equal(table, cells, check_dtype=False)
    assert experiment.artifact_location.startswith("file:///")


def test_credentials_are_not_recorded(projected, client):
    run = runs_of(client, "whole")["search"]
    for name in ("ledger/study.json", "study.yaml"):
        text = Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")
        assert "hidden" not in text
        assert "http://***@mlflow:5000" in text


def test_folder_and_mlflow_give_the_same_frame(projected, uri):
    pd.testing.assert_frame_equal(load(projected.root), load("whole", tracking_uri=uri))


# ---------------------------------------------------------------------------------------------------------- idempotence
def test_a_second_sync_changes_nothing(projected, uri, client):
    before = picture_of(client, "whole")
    report = sync(projected, uri)
    assert str(report).startswith("whole is up to date in MLflow at sqlite:///")
    assert picture_of(client, "whole") == before


def test_a_lost_state_changes_nothing(projected, uri, client):
    before = picture_of(client, "whole")
    for place in Path(projected.root).rglob("mlflow.json"):
        place.unlink()
    assert sync(projected, uri).runs == 0
    assert picture_of(client, "whole") == before


def test_a_run_deleted_by_hand_is_made_again(storage, uri, client, ledger):
    add_trial(ledger, "t0", "p", config("plain"))
    finish(ledger, "t0")
    sync(ledger, uri)
    client.delete_run(runs_of(client, ledger.study)["t0"].info.run_id)
    assert sync(ledger, uri).runs == 1
    assert runs_of(client, ledger.study)["t0"].info.status == "FINISHED"


def test_a_crash_between_creating_a_run_and_writing_it_down(ledger, uri, client, monkeypatch):
    add_trial(ledger, "t0", "p", config("plain"))
    finish(ledger, "t0")

    class Killed(Exception):
        pass

    def dies(key, name, data):
        raise Killed

    monkeypatch.setattr(ledger, "write_bytes", dies)
    with pytest.raises(Killed):
        sync(ledger, uri)
    assert runs_of(client, ledger.study)["t0"].info.status == "RUNNING"
    monkeypatch.undo()
    assert sync(ledger, uri).runs == 0
    run = runs_of(client, ledger.study)["t0"]
    assert run.info.status == "FINISHED"
    assert len(history(client, run, "acc/noise")) == 1


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_call_that_fails_loses_or_doubles_anything(ledger, uri, client, call, when):
    add_trial(ledger, "t0", "p", config("plain"))
    add_epoch(ledger, "t0", 1)
    finish(ledger, "t0")
    flaky = Flaky(client)
    flaky.fail = {call: (when, away())}
    tracker = Tracker(ledger, uri, connect=lambda _: flaky)
    tracker.start()
    assert not tracker.flush(timeout_s=0.5)
    flaky.fail = {}
    assert tracker.close()
    run = runs_of(client, ledger.study)["t0"]
    assert run.info.status == "FINISHED"
    assert [step for step, *_ in history(client, run, "acc/noise")] == [1, 2]
    assert "model/model.safetensors" in files_of(client, run)


# --------------------------------------------------------------------------------------------------------- the follower
def test_follows_a_study_and_leaves_nothing_running(ledger, uri, client):
    tracker = Tracker(ledger, uri)
    tracker.start()
    set_phase(ledger, "p", "search", "running")
    tracker.phase_started("p")
    assert tracker.flush()
    assert runs_of(client, ledger.study)["p"].info.status == "RUNNING"
    add_trial(ledger, "t0", "p", config("plain"))
    add_epoch(ledger, "t0", 1)
    assert tracker.flush()
    run = runs_of(client, ledger.study)["t0"]
    assert run.info.status == "RUNNING"
    assert run.data.metrics["acc/noise"] == 0.5
    assert files_of(client, run) == ["ledger/trial.json"]
    assert tracker.close(), "the trial has no end: interrupted"
    runs = runs_of(client, ledger.study)
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert {run.data.tags["murk.status"] for run in runs.values()} == {"interrupted"}


def test_an_interrupted_study_goes_on_in_the_same_runs(ledger, uri, client):
    set_phase(ledger, "p", "search", "running")
    add_trial(ledger, "t0", "p", config("plain"))
    add_trial(ledger, "t1", "p", config("plain", rho=0.1), number=1)
    add_epoch(ledger, "t0", 1)
    ledger.append("t1", "failed", error="OSError: no space left")
    sync(ledger, uri)
    before = {name: run.info.run_id for name, run in runs_of(client, ledger.study).items()}
    tracker = Tracker(ledger, uri)
    tracker.start()
    ledger.append("t1", "resume", epoch=0, step=0)
    assert tracker.flush()
    assert {run.info.status for run in runs_of(client, ledger.study).values()} == {"RUNNING"}
    for key in ("t0", "t1"):
        finish(ledger, key)
    set_phase(ledger, "p", "search", "finished")
    assert tracker.close()
    runs = runs_of(client, ledger.study)
    assert {name: run.info.run_id for name, run in runs.items()} == before
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["t1"].data.tags["murk.error"] == "", "an error that was overcome is no error"
    assert [step for step, *_ in history(client, runs["t0"], "acc/noise")] == [1, 2]


def test_catches_up_with_one_warning_when_the_server_was_away(ledger, uri, client, caplog):
    flaky = Flaky(client)
    flaky.fail = {"*": ("before", away())}
    tracker = Tracker(ledger, uri, poll_s=0.05, connect=lambda _: flaky)
    with caplog.at_level(logging.WARNING):
        tracker.start()
        whole_study(ledger)
        assert not tracker.flush(timeout_s=0.2)
        assert not tracker.flush(timeout_s=0.2)
        flaky.fail = {}
        assert tracker.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is away" in caplog.text
    assert "hidden" not in caplog.text
    assert tracker.close()
    assert len(runs_of(client, ledger.study)) == 9


def test_close_gives_up_and_says_how_to_catch_up(ledger, uri, client, caplog):
    flaky = Flaky(client)
    flaky.fail = {"*": ("before", away())}
    tracker = Tracker(ledger, uri, connect=lambda _: flaky)
    tracker.start()
    whole_study(ledger)
    assert not tracker.close(timeout_s=0.3)
    assert f"murk sync {ledger.study} --storage {ledger.storage}" in caplog.text
    assert sync(ledger, uri).runs == 9


def test_a_server_that_hangs_holds_nobody_up(ledger, uri, client):
    release = threading.Event()

    def hang(_uri):
        release.wait()
        raise away()

    tracker = Tracker(ledger, uri, connect=hang)
    tracker.start()
    assert not tracker.close(timeout_s=0.2), "returns although the thread hangs"
    release.set()


def test_report_goes_to_each_phase_even_after_close(ledger, uri, client):
    whole_study(ledger)
    tracker = Tracker(ledger, uri)
    tracker.start()
    assert tracker.close()
    ledger.files.write_bytes(b"<html></html>", "report", "report.html")
    ledger.files.write_bytes(b"png", "report", "figures", "curve.png")
    tracker.add_report(
        [ledger.files.path("report", "report.html"), ledger.files.path("report", "figures", "curve.png")]
    )
    runs = runs_of(client, ledger.study)
    for name in ("search", "confirm"):
        assert {"report/report.html", "report/figures/curve.png"} <= set(files_of(client, runs[name]))
        assert runs[name].info.status == "FINISHED"


def test_a_refused_trial_does_not_hold_up_the_others(ledger, uri, client, caplog):
    for number in range(2):
        add_trial(ledger, f"t{number}", "p", config("plain"), number=number)
        finish(ledger, f"t{number}")
    ledger.append("t0", "final", epoch=2, metrics={"no good: [name]": 1.0}, final=True)
    report = sync(ledger, uri)
    assert list(report.problems) == ["t0"]
    assert "trial t0 refused" in str(report)
    assert runs_of(client, ledger.study)["t1"].info.status == "FINISHED"


def test_a_deleted_experiment_is_named_with_the_way_out(ledger, uri, client):
    add_trial(ledger, "t0", "p", config("plain"))
    sync(ledger, uri)
    client.delete_experiment(client.get_experiment_by_name(ledger.study).experiment_id)
    with pytest.raises(TrackingError, match=r"must not be deleted.*mlflow experiments restore"):
        sync(ledger, uri)


def test_sync_of_a_study_that_runs_is_refused(ledger, uri):
    with ledger.lock(), pytest.raises(StudyLockedError):
        sync(Ledger(ledger.storage, ledger.study), uri)


# --------------------------------------------------------------------------------------------------------------- limits
def test_batches_keep_mlflows_limits(ledger, uri, client):
    tree = config("plain", many={f"k{i}": i for i in range(150)}, long="x" * 7000)
    add_trial(ledger, "t0", "p", tree)
    many = {f"m{i}": float(i) for i in range(1100)}
    ledger.append("t0", "epoch", epoch=1, metrics=many | {"nothing": None, "nan": float("nan")})
    ledger.append("t0", "failed", error="y" * 9000)
    flaky = Flaky(client)
    tracker = Tracker(ledger, uri, connect=lambda _: flaky)
    tracker.start()
    assert tracker.close()
    run = runs_of(client, ledger.study)["t0"]
    assert len(run.data.metrics) == 1100
    assert len(run.data.params["noise.long"]) == 6000
    assert run.data.params["noise.long"].endswith("[... 7000 characters, whole in ledger/trial.json]")
    assert run.data.params["noise.many.k149"] == "149"
    assert len(run.data.tags["murk.error"]) <= 5000
    assert flaky.calls["log_batch"] <= 8
