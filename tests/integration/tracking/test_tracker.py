"""The thread that follows a ledger: servers that are away, hang or lose an answer, and studies that stop and go on."""

import logging
import threading

import pytest

from study.tracking import Tracker, sync
from tests.integration.projected import (
    add_epoch,
    add_trial,
    config,
    files_of,
    finish,
    history,
    runs_of,
    set_phase,
    whole_study,
)
from tests.integration.tracking.flaky import Flaky, away

pytestmark = pytest.mark.integration


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


@pytest.mark.parametrize("call", ["create_run", "log_inputs", "log_batch", "log_artifacts", "set_terminated"])
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
