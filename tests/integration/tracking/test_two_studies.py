"""Two studies of one name in one MLflow: each is there once and whole, and nothing of one is the other's."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from analysis.identity import STUDY_TAG, study_id
from analysis.load import load, load_study
from study.ledger import Ledger
from study.pull import pull_study
from study.registry import ALIAS
from study.reporting import report
from study.tracking import Tracker, sync
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
    use_real_weights,
    write_study,
)

pytestmark = pytest.mark.integration

ONE, OTHER = "11111111", "22222222"


def opened(storage: Path, name: str, identity: str, *, created: str = "2026-01-05T09:00:00Z") -> Ledger:
    """An empty study that knows itself by this identity."""
    ledger = write_study(storage, name)
    record = ledger.read_json("study.json") or {}
    ledger.write_json("study.json", {**record, "study_id": identity, "created": created, "fingerprint": "f" * 16})
    return ledger


def one_trial(ledger: Ledger, *, accuracy: float = 0.6, path: str = "/data") -> None:
    """A finished phase of one trial, whose key is the same in every study of these settings."""
    set_phase(ledger, "search", "search", "running")
    tree = config("plain")
    tree["data"]["path"] = path  # where images lie decides nothing, so it is no part of a key
    add_trial(ledger, "t0", "search", tree)
    for epoch in (1, 2):
        add_epoch(ledger, "t0", epoch, accuracy - 0.1)
    finish(ledger, "t0", accuracy=accuracy)
    set_phase(ledger, "search", "search", "finished")


def runs_by_study(client: MlflowClient, name: str) -> dict[str, dict[str, Run]]:
    """Identity -> trial key or phase name -> its one run."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found: dict[str, dict[str, Run]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        own = found.setdefault(run.data.tags.get(STUDY_TAG, ""), {})
        key = run.data.tags.get("murk.trial") or run.data.tags["murk.phase"]
        assert key not in own, f"two runs of {key}"
        own[key] = run
    return found


def forget_identity(client: MlflowClient, name: str) -> None:
    """Leave MLflow as a Murk left it that knew of no identity."""
    for run in runs_of(client, name).values():
        client.delete_tag(run.info.run_id, STUDY_TAG)


def values(client: MlflowClient, run: Run) -> dict[str, list[Any]]:
    return {metric: [(s, v) for s, v, _ in history(client, run, metric)] for metric in run.data.metrics}


def test_a_study_that_was_removed_and_made_again_is_there_beside_the_old_one(ledger, uri, client, storage):
    name = ledger.study
    opened(storage, name, ONE)
    one_trial(ledger)
    sync(ledger, uri)
    before = picture_of(client, name)
    shutil.rmtree(ledger.root)

    again = opened(storage, name, OTHER)
    one_trial(again, accuracy=0.7)
    report = sync(again, uri)
    runs = runs_by_study(client, name)
    assert {identity: sorted(own) for identity, own in runs.items()} == {i: ["search", "t0"] for i in (ONE, OTHER)}
    assert report.runs == 2
    for identity, accuracy in ((ONE, 0.6), (OTHER, 0.7)):
        trial = runs[identity]["t0"]
        assert values(client, trial)["acc/noise"] == [(1, accuracy - 0.1), (2, accuracy - 0.1), (2, accuracy)]
        assert trial.data.tags["mlflow.parentRunId"] == runs[identity]["search"].info.run_id
    assert {key: run.info.run_id for key, run in runs[ONE].items()} == {k: v["info"][0] for k, v in before.items()}
    assert [runs[i]["search"].info.run_name for i in (ONE, OTHER)] == ["search", f"search {OTHER}"]
    assert runs[ONE]["t0"].data.tags["config"] != runs[OTHER]["t0"].data.tags["config"], "means do not mix them"
    assert str(report).splitlines()[1:] == [
        f"MLflow holds 1 other study named {name!r} too; nothing of that is touched, and the runs of this one have the "
        f"tag murk.study_id {OTHER}"
    ]
    assert sync(again, uri).runs == 0


def test_seeds_of_a_configuration_stay_together_when_another_study_appears_between_them(uri, client, tmp_path, request):
    name = f"between-{len(request.node.name)}"
    first, second = opened(tmp_path / "a", name, ONE), opened(tmp_path / "b", name, OTHER)
    one_trial(first)
    sync(first, uri)
    one_trial(second)
    sync(second, uri)
    tree = config("plain")
    tree["data"]["path"] = "/data"
    add_trial(first, "t1", "search", tree)
    add_epoch(first, "t1", 1, 0.5)
    finish(first, "t1", accuracy=0.6)
    sync(first, uri)
    runs = runs_by_study(client, name)
    configs = [{runs[identity][key].data.tags["config"] for key in keys} for identity, keys in
               ((ONE, ("t0", "t1")), (OTHER, ("t0",)))]  # fmt: skip
    assert [len(found) for found in configs] == [1, 1], configs
    assert configs[0] != configs[1]


def test_two_storages_share_one_mlflow_and_nothing_else(uri, client, tmp_path, request):
    name = f"shared-{len(request.node.name)}"
    first, second = opened(tmp_path / "a", name, ONE), opened(tmp_path / "b", name, OTHER)
    one_trial(first, accuracy=0.6, path="/data/a")
    one_trial(second, accuracy=0.7, path="/data/b")
    for ledger in (first, second, first, second):
        assert sync(ledger, uri).problems == {}, "params of one are not refused for those of the other"
    runs = runs_by_study(client, name)
    for ledger, identity, path in ((first, ONE, "/data/a"), (second, OTHER, "/data/b")):
        own = runs[identity]
        assert own["t0"].data.params["data.path"] == path
        assert sorted(values(client, own["t0"])["loss/train"]) == [(1, 2.0), (2, 1.0)]
        study = Path(client.download_artifacts(own["search"].info.run_id, "ledger/study.json")).read_bytes()
        assert study_id(json.loads(study)) == identity
        assert str(sync(ledger, uri)).startswith(f"{name} is up to date")


def test_the_person_is_told_once_by_a_driver(uri, tmp_path, caplog):
    for folder, identity in (("a", ONE), ("b", OTHER)):
        one_trial(opened(tmp_path / folder, "told-once", identity))
    sync(Ledger(str(tmp_path / "a"), "told-once"), uri)
    ledger = Ledger(str(tmp_path / "b"), "told-once")
    with caplog.at_level(logging.WARNING, "murk.tracking"):
        tracker = Tracker(ledger, uri, poll_s=0.05)
        tracker.start()
        assert [tracker.flush(), tracker.flush(), tracker.close()] == [True] * 3
    told = [record.getMessage() for record in caplog.records if "other study" in record.getMessage()]
    assert len(told) == 1


# ----------------------------------------------------------------------------------------------------------- old places
@pytest.mark.parametrize("state", ["kept", "lost"])
def test_runs_of_before_there_were_identities_are_found_by_their_study(ledger, uri, client, storage, state):
    name = ledger.study
    opened(storage, name, ONE)
    record = ledger.read_json("study.json") or {}
    del record["study_id"]
    ledger.write_json("study.json", record)
    one_trial(ledger)
    sync(ledger, uri)
    before = picture_of(client, name)
    forget_identity(client, name)
    if state == "lost":
        for place in Path(ledger.root).rglob("mlflow.json"):
            place.unlink()
    assert sync(ledger, uri).runs == 0
    assert picture_of(client, name) == before
    assert set(runs_by_study(client, name)) == {study_id(record)}


def test_runs_of_before_there_were_identities_are_not_taken_by_another_study(ledger, uri, client, storage, tmp_path):
    name = ledger.study
    opened(storage, name, ONE)
    one_trial(ledger)
    sync(ledger, uri)
    forget_identity(client, name)
    before = picture_of(client, name)
    other = opened(tmp_path, name, OTHER)
    one_trial(other, accuracy=0.7)
    other.write_bytes("t0", "trial.json", ledger.read_bytes("t0", "trial.json"))  # made in the same second
    assert sync(other, uri).runs == 2
    assert set(runs_by_study(client, name)) == {"", OTHER}
    assert sync(ledger, uri).runs == 0
    own = runs_by_study(client, name)[ONE]
    assert {key: run.info.run_id for key, run in own.items()} == {k: v["info"][0] for k, v in before.items()}


# -------------------------------------------------------------------------------------------------------------- readers
def test_who_reads_a_name_gets_the_study_that_was_opened_last_or_the_one_that_is_named(uri, client, tmp_path):
    for folder, identity, accuracy in (("a", ONE, 0.6), ("b", OTHER, 0.7)):
        ledger = opened(tmp_path / folder, "read", identity)
        one_trial(ledger, accuracy=accuracy)
        sync(ledger, uri)
    for name, identity, folder in (("read", OTHER, "b"), (f"read@{ONE}", ONE, "a"), (f"read@{OTHER}", OTHER, "b")):
        assert load_study(name, tracking_uri=uri)["study_id"] == identity
        assert load(name, tracking_uri=uri).equals(load(tmp_path / folder / "read"))
        said = pull_study(name, storage=None, tracking=uri, out=tmp_path / f"pulled-{name}")
        target = Ledger(str(tmp_path / f"pulled-{name}"), "read")
        assert (target.read_json("study.json") or {})["study_id"] == identity
        assert target.metrics("t0")["acc/noise"] == (0.6 if identity == ONE else 0.7)
        assert ("was opened last" in said) == (name == "read"), "the other one is named where none was asked for"
        told: list[str] = []
        report([name], storage=None, tracking=uri, out=tmp_path / "report", formats=["csv"], say=told.append)
        assert [f"read@{ONE} (since" in line for line in told] == [True] * (name == "read")
    with pytest.raises(FileNotFoundError, match=rf"no study '33333333' named 'read'.*read@{OTHER}.*read@{ONE}"):
        load("read@33333333", tracking_uri=uri)


def test_a_pulled_copy_is_the_same_study_and_another_is_not_written_over_it(uri, client, tmp_path):
    one_trial(opened(tmp_path / "a", "pulled", ONE))
    one_trial(opened(tmp_path / "b", "pulled", OTHER))
    sync(Ledger(str(tmp_path / "a"), "pulled"), uri)
    before = picture_of(client, "pulled")
    pull_study("pulled", storage=None, tracking=uri, out=tmp_path / "here")
    assert sync(Ledger(str(tmp_path / "here"), "pulled"), uri).runs == 0
    assert {k: v["info"] for k, v in picture_of(client, "pulled").items()} == {k: v["info"] for k, v in before.items()}
    sync(Ledger(str(tmp_path / "b"), "pulled"), uri)
    for source in ({"storage": str(tmp_path / "b"), "tracking": None}, {"storage": None, "tracking": uri}):
        with pytest.raises(ValueError, match="another study of this name"):
            pull_study("pulled", **source, out=tmp_path / "here")
    assert (Ledger(str(tmp_path / "here"), "pulled").read_json("study.json") or {})["study_id"] == ONE


# ------------------------------------------------------------------------------------------------------------- champion
def test_the_champion_of_one_study_is_not_moved_by_another(uri, client, tmp_path):
    first, second = opened(tmp_path / "a", "models", ONE), opened(tmp_path / "b", "models", OTHER)
    for seed, ledger in enumerate((first, second)):
        one_trial(ledger)
        use_real_weights(ledger, "t0", seed=seed)
    sync(first, uri)
    told = str(sync(second, uri))
    runs = runs_by_study(client, "models")
    aliases = {name: client.get_model_version_by_alias("models", name) for name in (ALIAS, f"{ALIAS}-{OTHER}")}
    assert aliases[ALIAS].run_id == runs[ONE]["t0"].info.run_id
    assert aliases[f"{ALIAS}-{OTHER}"].run_id == runs[OTHER]["t0"].info.run_id
    assert f"models:/models@{ALIAS} stays with another study" in told
    assert f"models:/models@{ALIAS}-{OTHER}" in told
    assert "registered_model/MLmodel" in files_of(client, runs[OTHER]["t0"], "registered_model")


def test_a_champion_of_before_there_were_identities_is_moved_by_its_own_study(ledger, uri, client, storage):
    opened(storage, ledger.study, ONE)
    one_trial(ledger)
    use_real_weights(ledger, "t0")
    sync(ledger, uri)
    forget_identity(client, ledger.study)
    client.delete_model_version_tag(ledger.study, "1", STUDY_TAG)
    use_real_weights(ledger, "t0", seed=5)
    sync(ledger, uri)
    assert str(client.get_model_version_by_alias(ledger.study, ALIAS).version) == "2"
