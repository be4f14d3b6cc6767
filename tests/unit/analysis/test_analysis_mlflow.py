"""The frame read from MLflow is the frame read from the results folder."""

import pandas as pd
import pytest

from analysis.heads import load_heads
from analysis.load import load, load_history, load_predictions, load_study
from analysis.report import write_report
from tests.unit.analysis.heads import NUM_IMAGES, add_heads

pytestmark = pytest.mark.integration


@pytest.fixture(params=["as earlier versions wrote it", "with all measures"])
def study_folder(request, tmp_path, write_ledger, with_measures):
    """A study of its own, without and with the columns that came later."""
    if request.param == "with all measures":
        folder = write_ledger(tmp_path / "storage", num_images=NUM_IMAGES)
        return with_measures(add_heads(folder), real={"camera": 7})
    return write_ledger(tmp_path / "storage", num_images=30)


@pytest.fixture
def mirrored(study_folder, tmp_path, monkeypatch):
    """The study's files as MLflow holds them: a parent run for each phase, a child run for each trial."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("vehicles", artifact_location=(tmp_path / "artifacts").as_uri())
    for phase in ("search", "confirm"):
        parent = client.create_run(experiment, tags={"murk.phase": phase})
        client.log_artifact(parent.info.run_id, str(study_folder / "study.json"), "ledger")
    for folder in sorted((study_folder / "trials").iterdir()):
        run = client.create_run(experiment, tags={"murk.trial": folder.name, "murk.phase": "any"})
        for name in ("trial.json", "cells.parquet", "events.jsonl", "predictions.parquet", "heads.parquet"):
            if (folder / name).exists():
                client.log_artifact(run.info.run_id, str(folder / name), "ledger")
    return uri


@pytest.mark.slow
def test_the_two_sources_are_identical(study_folder, mirrored, tmp_path):
    pd.testing.assert_frame_equal(load("vehicles", tracking_uri=mirrored), load(study_folder))
    pd.testing.assert_frame_equal(load_history("vehicles", tracking_uri=mirrored), load_history(study_folder))
    pd.testing.assert_frame_equal(load_predictions("vehicles", tracking_uri=mirrored), load_predictions(study_folder))
    pd.testing.assert_frame_equal(load_heads("vehicles", tracking_uri=mirrored), load_heads(study_folder))
    assert load_study("vehicles", tracking_uri=mirrored) == load_study(study_folder)
    paths = write_report("vehicles", out=tmp_path / "report", tracking_uri=mirrored)
    assert paths.summary == write_report(study_folder, out=tmp_path / "other").summary
    with pytest.raises(FileNotFoundError, match="this server has"):
        load("nothing", tracking_uri=mirrored)
