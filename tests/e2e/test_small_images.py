"""Small images as a person studies them: the preset with its teacher, assistant and students; retrieval; faces."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from tests.e2e.studies import murk

pytestmark = pytest.mark.e2e

RETRIEVAL = """
name: unseen
data: {source: synthetic-vehicles, num_classes: 8, train_per_class: 16, test_per_class: 8, image_size: 32,
       unseen_classes: 0.5}
model: {backbone: cifar_wrn16_1}
task: {name: retrieval, reference: clean}
resolution: {train: [16, 32], validation: [16], test: [8, 16]}
noise: {validation: [], test: [gaussian_noise], test_severities: [3]}
optim: {lr: 0.02, sam: {rho: 0}}
train: {epochs: 2, batch_size: 16}
phases: [{kind: train, name: train, seeds: [1, 2]}]
"""
FACES = """
name: faces
data: {source: parquet, path: DATA/lfw-identities62-gray64.parquet, image_size: 32, max_classes: 10}
model: {backbone: test_resnet}
task: {name: verification, pairs: DATA/lfw-pairs.csv, images: DATA/lfw-pairs-gray64.parquet, validation_pairs: 60}
resolution: {validation: [16], test: [16]}
noise: {validation: [], test: []}
optim: {lr: 0.02, sam: {rho: 0}}
train: {epochs: 1, batch_size: 32}
phases: [{kind: train, name: train}]
"""


def test_the_preset_trains_teacher_assistant_and_students_at_one_cost(tmp_path: Path) -> None:
    halves = [f"phases.{name}.set.train.budget.passes_per_image=6" for name in ("assistant", "horkd")]
    changes = ["data.train_per_class=24", "data.test_per_class=8", "train.budget.passes_per_image=12", *halves]
    sets = [part for change in changes for part in ("--set", change)]
    run = murk("run", "cross-resolution", *sets, cwd=tmp_path, timeout=900)
    assert run.returncode == 0, run.stderr
    frame = load(tmp_path / "results" / "cross-resolution")
    test = frame[frame.split == "test"]
    assert set(test.corruption) == {"clean", "gaussian_noise", "motion_blur", "8px", "12px", "16px"}
    assert set(test.group[test.corruption == "12px"]) == {"resolution"}
    costs = test.groupby("phase").cost_passes.first()
    together = costs["horkd"] + costs["assistant"]
    assert max(costs["alone"], costs["kd"], together) / min(costs["alone"], costs["kd"], together) < 1.25
    assert "horkd against kd" in run.stdout
    page = (tmp_path / "results" / "cross-resolution" / "report.html").read_text()
    assert "12px" in page


def test_retrieval_on_classes_that_training_has_not_seen(tmp_path: Path) -> None:
    (tmp_path / "unseen.yaml").write_text(RETRIEVAL)
    run = murk("run", "unseen.yaml", cwd=tmp_path, timeout=900)
    assert run.returncode == 0, run.stderr
    frame = load(tmp_path / "results" / "unseen")
    clean = frame[(frame.split == "test") & (frame.corruption == "clean")]
    assert len(clean) == 2
    (place, *_) = sorted((tmp_path / "results" / "unseen" / "trials").iterdir())
    table = pd.read_parquet(place / "retrieval.parquet")
    recall = table[(table.split == "test") & (table.corruption == "8px")].sort_values("k")
    assert recall.k.tolist() == [1, 2, 4, 8]
    assert (np.diff(recall.recall) >= 0).all()
    assert "Recall" in (tmp_path / "results" / "unseen" / "report.html").read_text()


@pytest.mark.skipif("MURK_TEST_DATA" not in os.environ, reason="needs the real image sets: set MURK_TEST_DATA")
def test_faces_are_verified_by_ten_folds_and_known_persons_refused(tmp_path: Path) -> None:
    text = FACES.replace("DATA", os.environ["MURK_TEST_DATA"])
    (tmp_path / "faces.yaml").write_text(text)
    refused = murk("run", "faces.yaml", cwd=tmp_path, timeout=900)
    assert refused.returncode != 0
    assert "allow_overlap" in refused.stderr + refused.stdout
    run = murk("run", "faces.yaml", "--set", "task.allow_overlap=true", "--name", "known", cwd=tmp_path, timeout=900)
    assert run.returncode == 0, run.stderr
    frame = load(tmp_path / "results" / "known")
    clean = frame[(frame.split == "test") & (frame.corruption == "clean")]
    assert clean.n.tolist() == [6000]
    assert 0.5 < float(clean.accuracy.iloc[0]) < 0.95
