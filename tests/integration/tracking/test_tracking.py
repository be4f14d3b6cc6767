"""The projection into a real SQLite MLflow: what it shows, and that nothing is ever there twice."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load
from study.ledger import Ledger
from study.storage import StudyLockedError
from study.tracking import TrackingError, connect, open_projection, sync
from tests.integration.projected import (
    add_epoch,
    add_trial,
    config,
    datasets_of,
    files_of,
    finish,
    history,
    meaning_of,
    picture_of,
    runs_of,
    set_phase,
    whole_study,
    write_study,
)
from tests.integration.tracking.flaky import Flaky

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def projected(storage, uri, client) -> Ledger:
    """The whole study, synced once."""
    ledger = write_study(storage, "whole", tracking_uri="http://me:hidden@mlflow:5000")
    whole_study(ledger)
    report = sync(ledger, uri)
    assert (report.runs, report.problems) == (9, {})
    return ledger


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
    own = [name for name in run.data.metrics if not name.startswith(("usage/", "system/"))]
    cells = {name for name in own if "_cell/" in name or name.startswith(("sev/", "val_sev/"))}
    assert len(own) - len(cells) < 12
    grid = pd.read_parquet(io.BytesIO(projected.read_bytes("confirm1", "cells.parquet") or b""))
    noisy = grid[grid["corruption"] != "clean"]
    assert len(noisy)
    for split, corruption, severity, accuracy in noisy[["split", "corruption", "severity", "accuracy"]].itertuples(
        index=False
    ):
        assert run.data.metrics[f"{split}_cell/{corruption}/{severity}"] == pytest.approx(accuracy)
        curve = {"test": "sev", "validation": "val_sev"}[split] + f"/{corruption}"
        same = noisy[(noisy["split"] == split) & (noisy["corruption"] == corruption)]
        assert (curve in cells) == (same["severity"].nunique() > 1)
        if curve in cells:
            points = [(step, value) for step, value, _ in history(client, run, curve)]
            assert (severity, pytest.approx(accuracy)) in points


def test_what_a_trial_used_and_on_what_it_ran(projected, client):
    runs = runs_of(client, "whole")
    run, events = runs["confirm1"], projected.events("confirm1")
    assert [value for _, value, _ in history(client, run, "usage/device_seconds")] == [2.0, 4.0, 6.0]
    samples = [sample for event in events for sample in event.get("system", ())]
    stamps = [(values["cpu_utilization_percentage"], int(when * 1000)) for when, values in samples]
    found = history(client, run, "system/cpu_utilization_percentage")
    assert [(value, stamp) for _, value, stamp in found] == stamps
    shown = {name: run.data.tags[name] for name in ("hardware", "workers", "murk.versions", "mlflow.source.git.commit")}
    assert shown == {"hardware": "CPU", "workers": "1", "murk.versions": "python=3.11 torch=2.13",
                     "mlflow.source.git.commit": "c" * 40}  # fmt: skip
    assert runs["confirm"].data.tags["mlflow.source.git.dirty"] == "false"


def test_datasets_of_a_trial_are_the_splits_that_it_read(projected, client):
    runs = runs_of(client, "whole")
    contexts = {name: [item["tags"]["mlflow.data.context"] for item in datasets_of(runs[name])] for name in
                ("search0", "confirm0", "confirm")}  # fmt: skip
    assert contexts == {"search0": ["train", "validation"], "confirm0": ["test", "train", "validation"], "confirm": []}
    test = datasets_of(runs["confirm0"])[0]["dataset"]
    assert (test["name"], test["digest"]) == ("synthetic-vehicles/test", "f" * 16)
    assert json.loads(test["profile"])["num_rows"] == 10


def test_artifacts(projected, client):
    runs = runs_of(client, "whole")
    ledger_files = [f"ledger/{name}" for name in
                    ("cells.parquet", "events.jsonl", "examples.npz", "heads.parquet", "predictions.parquet",
                     "trial.json")]  # fmt: skip
    model_files = ["model/model.json", "model/model.safetensors"]
    assert files_of(client, runs["confirm0"]) == ["grid.json", *ledger_files, *model_files]
    assert files_of(client, runs["search2"]) == ["ledger/events.jsonl", "ledger/trial.json"]
    assert files_of(client, runs["search"]) == ["ledger/study.json", "study.yaml"]
    experiment = client.get_experiment_by_name("whole")
    run = runs["confirm0"]
    table = pd.read_json(client.download_artifacts(run.info.run_id, "grid.json"), orient="split")
    assert run.data.tags["mlflow.loggedArtifacts"] == '[{"path": "grid.json", "type": "table"}]'
    cells = pd.read_parquet(projected.path("confirm0", "cells.parquet"))
    assert list(table.columns[:5]) == ["split", "corruption", "severity", "accuracy", "n"]
    pd.testing.assert_frame_equal(table[list(cells.columns)], cells, check_dtype=False)
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


def test_a_refused_trial_does_not_hold_up_the_others(ledger, uri, client, caplog):
    for number in range(2):
        add_trial(ledger, f"t{number}", "p", config("plain"), number=number)
        finish(ledger, f"t{number}")
    ledger.append("t0", "final", epoch=2, metrics={"no good: [name]": 1.0}, final=True)
    report = sync(ledger, uri)
    assert list(report.problems) == ["t0"]
    assert "trial t0 is not shown whole" in str(report)
    assert runs_of(client, ledger.study)["t1"].info.status == "FINISHED"


@pytest.mark.parametrize("trial", [b'{"key": ', b"[]", b"{}", b"5"])
def test_damaged_records_of_a_trial_are_told_until_they_are_restored(ledger, uri, client, trial):
    for number in range(3):
        add_trial(ledger, f"t{number}", "p", config("plain"), number=number)
        finish(ledger, f"t{number}")
    whole = {name: ledger.read_bytes(*name) or b"" for name in (("t0", "cells.parquet"), ("t1", "trial.json"))}
    ledger.write_bytes("t0", "cells.parquet", whole["t0", "cells.parquet"][:99])
    ledger.write_bytes("t1", "trial.json", trial)
    for _ in range(2):
        problems = sync(ledger, uri).problems
        assert sorted(problems) == ["t0", "t1"]
        assert "cells.parquet of trial t0 cannot be read" in problems["t0"]
        assert "trial.json of t1" in problems["t1"]
    assert runs_of(client, ledger.study)["t2"].info.status == "FINISHED"
    for name, content in whole.items():
        ledger.write_bytes(*name, content)
    assert sync(ledger, uri).problems == {}
    runs = runs_of(client, ledger.study)
    assert {run.info.status for name, run in runs.items() if name.startswith("t")} == {"FINISHED"}
    assert "grid.json" in files_of(client, runs["t0"])


def test_a_deleted_experiment_is_named_with_the_way_out(ledger, uri, client):
    add_trial(ledger, "t0", "p", config("plain"))
    sync(ledger, uri)
    client.delete_experiment(client.get_experiment_by_name(ledger.study).experiment_id)
    with pytest.raises(TrackingError, match=r"must not be deleted.*mlflow experiments restore"):
        sync(ledger, uri)


def test_sync_of_a_study_that_runs_is_refused(ledger, uri):
    with ledger.lock(), pytest.raises(StudyLockedError):
        sync(Ledger(ledger.storage, ledger.study), uri)


def test_another_database_gets_the_same_study_from_the_ledger_alone(projected, uri, client, tmp_path):
    before = meaning_of(client, "whole")
    other = f"sqlite:///{tmp_path}/other.db"
    assert sync(projected, other).runs == 9
    assert meaning_of(connect(other), "whole") == before
    assert sync(projected, uri).runs == 0, "and the first is not disturbed"
    assert meaning_of(client, "whole") == before


def test_a_run_that_was_made_twice_is_kept_once(ledger, uri, client):
    """As when a request times out, or is sent again on its way, after the server has done it."""

    class Twice(Flaky):
        def create_run(self, *args, **kwargs):
            self._client.create_run(*args, **kwargs)
            return self._client.create_run(*args, **kwargs)

    add_trial(ledger, "t0", "p", config("plain"))
    projection = open_projection(ledger, uri, connect=lambda _: Twice(client))
    projection.advance()
    finish(ledger, "t0")
    set_phase(ledger, "p", "search", "finished")
    projection.advance(ending=True)
    runs = runs_of(client, ledger.study)  # refuses two of one
    assert {name: run.info.status for name, run in runs.items()} == {"p": "FINISHED", "t0": "FINISHED"}
    assert len(history(client, runs["t0"], "acc/noise")) == 1


# ---------------------------------------------------------------------------------------------------------------- calls
CALLS_OF_A_TRIAL = {"create_run": 1, "log_inputs": 1, "log_batch": 2, "log_artifacts": 1, "set_terminated": 1}


def test_a_trial_that_is_caught_up_with_costs_six_calls(ledger, uri, client):
    counting = Flaky(client)
    projection = open_projection(ledger, uri, connect=lambda _: counting)
    for numbers in (range(1), range(1, 5)):
        counting.calls.clear()
        for number in numbers:
            add_trial(ledger, f"t{number}", "p", config("plain", rho=number / 10), number=number)
            for epoch in range(1, 9):
                add_epoch(ledger, f"t{number}", epoch)
            finish(ledger, f"t{number}", epoch=8)
        projection.advance()
    expected = {name: 4 * count for name, count in CALLS_OF_A_TRIAL.items()}
    assert counting.calls == {**expected, "log_batch": expected["log_batch"] + 1}, "one more for the phase's counts"
    counting.calls.clear()
    projection.advance()
    assert counting.calls == {}, "a pass with nothing new asks nothing"


def test_a_trial_that_is_followed_costs_nine_calls_and_one_for_each_report(ledger, uri, client):
    counting = Flaky(client)
    set_phase(ledger, "p", "search", "running")
    projection = open_projection(ledger, uri, connect=lambda _: counting)
    projection.advance(started=["p"])
    counting.calls.clear()
    add_trial(ledger, "t0", "p", config("plain"))
    projection.advance()
    for epoch in (1, 2, 3):
        add_epoch(ledger, "t0", epoch)
        projection.advance()
    finish(ledger, "t0", epoch=3)
    projection.advance()
    of_the_phase = 2  # its counts changed twice
    assert sum(counting.calls.values()) - of_the_phase == 9 + 4, counting.calls
