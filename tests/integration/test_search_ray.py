"""Searches and lists on a real local Ray, with trials that only play at training."""

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from ray import cloudpickle

from study.config_search import Scheduler, SearchConfig
from study.lease import lease
from study.ledger import Ledger, TrialSpec
from study.loop import Stopped
from study.runtime import Interrupted, StopRequest
from study.search import run_list, run_search
from study.stopflag import StopPoll
from study.storage import StudyLostError
from study.worker import RecordFailure, TuneReporter

pytestmark = pytest.mark.integration

# Ray's workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 3


class Space:
    """A float."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {"value": trial.suggest_float("value", 0.0, 1.0)}


class SmallSpace:
    """Three values."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {"value": trial.suggest_categorical("value", [0.25, 0.5, 0.75])}


def play(config: dict) -> None:
    """In place of `tune_trial`: a trial that takes no time, whose score is the value it was given.

    Its ways: `fail` raises, `die once` and `die always` end the process, `slow` waits until it is asked to stop.
    """
    spec = TrialSpec(**config["spec"])
    poll = StopPoll(config["stop_flag"], spec.key)
    if poll.begin():
        return
    ledger = Ledger(spec.storage, spec.study)
    with RecordFailure(ledger, spec.key):
        _play(spec, ledger, poll)


def _play(spec: TrialSpec, ledger: Ledger, poll: StopPoll) -> None:
    way = spec.config.get("way")
    done = int(ledger.metrics(spec.key).get("epoch", 0))
    ledger.append(spec.key, "resume" if done else "start", process=os.getpid())
    metrics = {"acc/noise": spec.params["value"]}
    for epoch in range(done + 1, EPOCHS + 1):
        if way == "fail":
            raise ValueError("value must not be played with, but it was")
        if way == "die always" or (way == "die once" and epoch == 2 and done == 0):
            os._exit(1)
        deadline = time.monotonic() + 60.0
        while way == "slow" and epoch == 2 and time.monotonic() < deadline:
            if poll():
                ledger.write_bytes(spec.key, "saved", b"")
                raise Stopped
            time.sleep(0.05)
        ledger.append(spec.key, "epoch", epoch=epoch, step=0, metrics=metrics, final=False)
        TuneReporter().report(metrics, epoch=epoch, final=False)
    ledger.append(spec.key, "final", epoch=EPOCHS, step=0, metrics=metrics, final=True)
    TuneReporter().report(metrics, epoch=EPOCHS, final=True)


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


def maker(ledger: Ledger, way_of=lambda number: None, phase: str = "search"):
    def spec_of(params: dict, number: int) -> TrialSpec:
        key = hashlib.sha256(json.dumps([params, phase]).encode()).hexdigest()[:16]
        config = {"train": {"epochs": EPOCHS}, "way": way_of(number)}
        return TrialSpec(
            key, ledger.study, phase, "search", number, 0, config, "f", ledger.storage, str(Path.cwd()), params
        )  # fmt: skip

    return spec_of


def names_of(ledger: Ledger, key: str) -> list[str]:
    return [event["event"] for event in ledger.events(key)]


def search_of(ledger: Ledger, runtime, way_of=lambda number: None, space=None, **search):
    return run_search(
        SearchConfig(**search), space=space or Space(), spec_of=maker(ledger, way_of), phase="search", ledger=ledger,
        runtime=runtime, trainable=play,
    )  # fmt: skip


def test_search_runs_its_trials_and_a_relaunch_runs_none_again(ledger, runtime_of, capfd):
    runtime = runtime_of()
    summary = search_of(ledger, runtime, trials=6)
    assert len(summary.done) == 6 == len(set(summary.keys))
    assert [ledger.trial(key)["number"] for key in summary.keys] == list(range(6))
    assert {tuple(names_of(ledger, key)) for key in summary.keys} == {("start", *["epoch"] * EPOCHS, "final")}
    processes = {ledger.events(key)[0]["process"] for key in summary.keys}
    assert len(processes) <= 2, "a process serves trial after trial"
    assert search_of(ledger, runtime, trials=6) == summary
    printed = capfd.readouterr()
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if not line.startswith("search  ")] == []


def test_asha_prunes_and_the_driver_records_it(ledger, runtime_of):
    scheduler = Scheduler(name="asha", grace_epochs=1, reduction_factor=2)
    summary = search_of(ledger, runtime_of(max_concurrent=1), trials=6, scheduler=scheduler, seed=1)
    assert summary.pruned
    assert summary.done
    assert len(summary.keys) == 6
    for key in summary.pruned:
        assert names_of(ledger, key)[-1] == "pruned"
        assert ledger.events(key)[-1]["metrics"] == ledger.events(key)[-2]["metrics"]


def test_no_failure_goes_unrecorded(ledger, runtime_of, capfd):
    ways = {0: "fail", 1: "die once", 2: "die always"}
    summary = search_of(ledger, runtime_of(retries=1), ways.get, trials=4)
    raised, once, always, fine = summary.keys
    assert (summary.failed, summary.done) == ([raised, always], [once, fine])
    assert names_of(ledger, raised) == ["start", "failed"], "an error is not tried again"
    assert ledger.events(raised)[-1]["error"] == "ValueError: value must not be played with, but it was"
    assert names_of(ledger, once) == ["start", "epoch", "resume", "epoch", "epoch", "final"]
    assert names_of(ledger, always) == ["start", "start", "failed"]
    assert "process was lost" in ledger.events(always)[-1]["error"]
    lines = capfd.readouterr().err.splitlines()
    assert f"trial 0 ({raised}) failed: ValueError: value must not be played with, but it was" in lines
    assert [line for line in lines if not line.startswith(("search  ", "trial "))] == []


def test_small_space_ends_early_and_says_so(ledger, runtime_of):
    runtime = runtime_of()
    first = search_of(ledger, runtime, space=SmallSpace(), trials=2, algorithm="random")
    assert (len(first.done), first.exhausted) == (2, False)
    summary = search_of(ledger, runtime, space=SmallSpace(), trials=8, algorithm="random")
    assert summary.exhausted
    assert summary.keys[:2] == first.keys
    assert len(summary.done) == 3


def test_stop_lets_trials_save_and_a_relaunch_goes_on(ledger, runtime_of, monkeypatch):
    runtime = runtime_of(max_concurrent=2)

    def stop_soon(stop: StopRequest) -> None:
        deadline = time.monotonic() + 400.0
        while time.monotonic() < deadline and len(_with_epochs(ledger)) < 2:
            time.sleep(0.05)
        stop.request()

    _on_start(monkeypatch, stop_soon)
    with pytest.raises(Interrupted):
        search_of(ledger, runtime, lambda number: "slow", trials=4)
    keys = ledger.keys("search")
    assert {ledger.status(key) for key in keys} == {"running"}
    assert "pruned" not in {name for key in keys for name in names_of(ledger, key)}
    monkeypatch.undo()
    summary = search_of(ledger, runtime, trials=4)
    assert summary.keys[: len(keys)] == keys
    assert len(summary.done) == 4
    assert "resume" in names_of(ledger, keys[0])


def test_trials_of_a_study_that_another_driver_took_over_save(ledger, runtime_of, monkeypatch):
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, renew_s=0.2))
    monkeypatch.setattr(ledger.files, "_is_local", False)  # as on an object store, which has no locks
    files = Ledger(ledger.storage, ledger.study).files

    def take_over(stop: StopRequest) -> None:
        deadline = time.monotonic() + 400.0
        while time.monotonic() < deadline and len(_with_epochs(ledger)) < 2:
            time.sleep(0.05)
        files.write_bytes(b"other 1 process 7 on elsewhere", "driver.lock")
        assert stop.wait(60.0)

    _on_start(monkeypatch, take_over)
    with ledger.lock():
        with pytest.raises(Interrupted):
            search_of(ledger, runtime_of(max_concurrent=2), lambda number: "slow", trials=4)
        with pytest.raises(StudyLostError, match="process 7 on elsewhere"):
            ledger.write_json("study.json", {})
    keys = ledger.keys("search")
    assert len(keys) == 2, "no trial was handed out after the loss"
    assert all(files.exists("trials", key, "saved") for key in keys)
    assert {tuple(names_of(ledger, key)) for key in keys} == {("start", "epoch")}


def test_list_skips_the_finished_and_tries_the_failed_again(ledger, runtime_of):
    specs = [maker(ledger, phase="confirm")({"value": value}, number) for number, value in enumerate((0.1, 0.2, 0.3))]
    for spec, event in zip(specs, ("final", "failed"), strict=False):
        ledger.create_trial(spec)
        ledger.append(spec.key, event, epoch=EPOCHS, metrics={"acc/noise": 0.5})
    summary = run_list(specs, phase="confirm", ledger=ledger, runtime=runtime_of(), trainable=play)
    assert summary.done == [spec.key for spec in specs] == summary.keys
    assert names_of(ledger, specs[0].key) == ["final"]


def _with_epochs(ledger: Ledger) -> list[str]:
    return [key for key in ledger.keys("search") if "epoch" in names_of(ledger, key)]


def _on_start(monkeypatch, action) -> None:
    """Run `action(stop)` in a thread of its own while a phase runs."""
    from contextlib import contextmanager

    import study.search

    signals = study.search.catch_signals

    @contextmanager
    def with_action(*args):
        with signals(*args) as stop:
            threading.Thread(target=action, args=(stop,), daemon=True).start()
            yield stop

    monkeypatch.setattr(study.search, "catch_signals", with_action)
