"""The projection into a real `mlflow server` on PostgreSQL; server and database go away in the middle and come back."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from analysis.load import load
from study.ledger import Ledger
from study.registry import ALIAS, load_registered
from study.tracking import Tracker, connect, sync
from tests.e2e import counts
from tests.integration.projected import (
    add_epoch,
    add_trial,
    config,
    files_of,
    finish,
    history,
    meaning_of,
    picture_of,
    runs_of,
    set_phase,
    use_real_weights,
    whole_study,
    write_study,
)
from tests.mlflow_server import mlflow_server
from tests.postgres import Postgres, free_port, postgres_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


def forget_state(root: str) -> None:
    for place in Path(root).rglob("mlflow.json"):
        place.unlink()


@contextmanager
def followed(ledger: Ledger, uri: str) -> Iterator[Tracker]:
    """A study's tracker while its search runs; MLflow has all of two trials with an epoch each."""
    tracker = Tracker(ledger, uri, poll_s=0.5)
    tracker.start()
    tracker.phase_started("search")
    for number, key in enumerate(("early", "other")):
        add_trial(ledger, key, "search", config("plain", rho=0.2 + number), number=9 + number)
        add_epoch(ledger, key, 1)
    yield tracker


def test_what_comes_while_postgresql_is_away_is_there_once(tmp_path, database):
    """It is stopped for a while, then started again at once, under a server that stays."""
    server, port, backend = tmp_path / "server", free_port(), database.database("restarted")
    server.mkdir()
    ledger = write_study(tmp_path / "results", "restarted", tracking_uri=f"http://127.0.0.1:{port}")
    with mlflow_server(server, port, backend=backend) as uri, followed(ledger, uri) as tracker:
        before = counts.look(ledger, uri, tracker=tracker)
        counts.expect_shown_once(before)
        assert before.epochs == [("early", 1), ("other", 1)]
        database.stop()
        add_epoch(ledger, "early", 2)
        add_trial(ledger, "third", "search", config("plain", rho=0.4), number=11)
        add_epoch(ledger, "third", 1)
        assert not tracker.flush(timeout_s=1)
        database.start()
        between = counts.look(ledger, uri, tracker=tracker)
        counts.expect_shown_once(between)
        counts.expect_kept(before, between)
        assert len(between.runs) == 3
        assert sorted(between.logged) == [("early", 1), ("early", 2), ("other", 1), ("third", 1)]
        database.restart()
        for key in ("other", "third"):
            add_epoch(ledger, key, 2)
        for key in ledger.keys():
            finish(ledger, key)
        set_phase(ledger, "search", "search", "finished")
        assert tracker.close(timeout_s=120), "the server finds its database again"
        found = counts.settled(ledger, uri)
        counts.expect_once(found, [before, between], epochs=dict.fromkeys(("early", "other", "third"), 2))
        client = connect(uri)
        for key, run in runs_of(client, "restarted").items():
            if key != "search":
                cells = ledger.read_bytes(key, "cells.parquet")
                assert_metrics_once(client, run, ledger.events(key), cells)


def test_what_comes_while_the_server_is_away_is_there_once(tmp_path, database):
    server, port, backend = tmp_path / "server", free_port(), database.database("mlflow")
    server.mkdir()
    ledger = write_study(tmp_path / "results", "remote", tracking_uri=f"http://127.0.0.1:{port}")
    with mlflow_server(server, port, backend=backend) as uri, followed(ledger, uri) as tracker:
        before = counts.look(ledger, uri, tracker=tracker)
        counts.expect_shown_once(before)
        assert before.epochs == [("early", 1), ("other", 1)]
    whole_study(ledger)
    finish(ledger, "early")
    finish(ledger, "other")
    assert not tracker.flush(timeout_s=1)
    with mlflow_server(server, port, backend=backend) as uri:
        assert tracker.close(timeout_s=120)
        found = counts.settled(ledger, uri)
        counts.expect_shown_once(found)
        counts.expect_kept(before, found)
        client = connect(uri)
        runs = runs_of(client, "remote")
        assert len(runs) == 11
        assert "RUNNING" not in {run.info.status for run in runs.values()}
        for key in ledger.keys():
            cells = ledger.read_bytes(key, "cells.parquet") if ledger.status(key) == "finished" else None
            assert_metrics_once(client, runs[key], ledger.events(key), cells)
        for key in ("early", "other"):
            assert [step for step, *_ in history(client, runs[key], "acc/noise")] == [1, 2]
        assert {"grid.json", "model/model.safetensors"} <= set(files_of(client, runs["confirm0"]))
        stored = {place.name for place in (server / "artifacts").rglob("*") if place.is_file()}
        assert {"model.safetensors", "cells.parquet", "events.jsonl", "study.yaml"} <= stored
        pd.testing.assert_frame_equal(load(ledger.root), load("remote", tracking_uri=uri))
        picture = picture_of(client, "remote")
        forget_state(ledger.root)
        assert sync(ledger, uri).runs == 0
        assert picture_of(client, "remote") == picture


def test_a_lost_database_is_built_again_from_the_ledger(tmp_path, database):
    server, port, backend = tmp_path / "server", free_port(), database.database("lost")
    server.mkdir()
    ledger = write_study(tmp_path / "results", "lost")
    whole_study(ledger)
    use_real_weights(ledger, "confirm0")
    with mlflow_server(server, port, backend=backend) as uri:
        assert sync(ledger, uri).problems == {}
        before = meaning_of(connect(uri), "lost")
        predicted = check_champion(uri, ledger.study)
    database.drop("lost")
    shutil.rmtree(server / "artifacts")
    database.database("lost")
    with mlflow_server(server, port, backend=backend) as uri:
        assert sync(ledger, uri).runs == 9
        assert meaning_of(connect(uri), "lost") == before
        assert check_champion(uri, ledger.study) == predicted
        assert str(sync(ledger, uri)).startswith("lost is up to date")


def check_champion(uri: str, name: str) -> list[float]:
    """The confidences of the registered network on its example; it is registered once and of the confirm phase."""
    versions = connect(uri).search_model_versions(f"name='{name}'")
    assert [version.tags["murk.trial"] for version in versions] == ["confirm0"]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{name}@{ALIAS}")
    finally:
        mlflow.set_tracking_uri(before)
    assert load_registered(name, tracking_uri=uri).class_names == ("bus", "car", "van")
    return list(loaded.predict(loaded.input_example)["confidence"])


def assert_metrics_once(client, run, events, cells) -> None:
    """Each metric value of each event and each cell stands in the run once; `mce` is computed of several trials."""
    from study.mlflow_rows import cell_rows, metric_rows

    rows = metric_rows(events)
    if cells is not None:
        end = events[-1]
        rows += cell_rows(pd.read_parquet(io.BytesIO(cells)), int(end["time"] * 1000), int(end["epoch"]))
    wanted: dict[str, list[tuple[int, float, int]]] = {}
    for row in rows:
        wanted.setdefault(row.key, []).append((row.step, row.value, row.timestamp_ms))
    found = {name: history(client, run, name) for name in run.data.metrics if name != "mce"}
    assert found == {name: sorted(rows) for name, rows in wanted.items()}
