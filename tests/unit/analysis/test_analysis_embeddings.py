"""Recall@K and verification tables: read as written, their means by hand, shown only for the study's own task."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.embeddings import COLUMNS, LEGENDS, embedding_table, load_embeddings
from analysis.load import read_study
from analysis.report import write_report
from analysis.scores import headline

RECALL_4 = 0.9
CURVES = {"folds": 10, "mean": 0.5, "standard_error": 0.02, "threshold": 0.3, "auc": 0.75, "far": 0.01, "tar": 0.25}


def _add(folder: Path, task: str) -> Path:
    """What trials of a task write beside their cells; the study says that it is theirs."""
    study = json.loads((folder / "study.json").read_text())
    study["config"]["task"] = {"name": task}
    (folder / "study.json").write_text(json.dumps(study))
    for place in sorted(folder.glob("trials/*/cells.parquet")):
        cells = pd.read_parquet(place).assign(family="any", nll=float("nan"), ece=float("nan"))
        cells.to_parquet(place, index=False)
        if task == "retrieval":
            own = cells.assign(left_out=2)
            at_4 = own.assign(k=4, recall=RECALL_4, correct=0)
            rows = pd.concat([own.assign(k=1, recall=own["accuracy"]), at_4])
        else:
            rows = cells.assign(**CURVES)
        columns = [name for name in COLUMNS[task] if name in rows]
        rows[columns].to_parquet(place.with_name(f"{task}.parquet"), index=False)
    return folder


@pytest.fixture(params=["retrieval", "verification"])
def judged(request, tmp_path, write_ledger):
    return _add(write_ledger(tmp_path, num_images=20), request.param), request.param


def test_rows_are_read_with_what_their_trial_was(judged):
    folder, task = judged
    frame = load_embeddings(folder, task=task)
    assert frame.dtypes.astype(str).to_dict() == COLUMNS[task]
    assert {"search", "confirm"} == set(frame["role"])
    other = "verification" if task == "retrieval" else "retrieval"
    assert load_embeddings(folder, task=other).empty


def test_the_table_by_hand(judged):
    folder, task = judged
    snapshot = read_study(folder)
    found = headline(snapshot)
    table = embedding_table(snapshot, found)
    assert table.name == task
    assert list(table.frame["label"]) == [arm.label for arm in found.arms]
    arm, row = found.arms[0], table.frame.iloc[0]
    clean = arm.rows[arm.rows["corruption"] == "clean"]["accuracy"].mean()
    noise = arm.rows[arm.rows["corruption"] != "clean"]["accuracy"].mean()
    shown = dict(zip((column.title for column in table.columns), table.texts()[0], strict=True))
    assert (row["n_seeds"], row["n"]) == (3, 20)
    if task == "retrieval":
        assert (row["clean_at_1"], row["noise_mean_at_1"]) == pytest.approx((clean, noise))
        assert (shown["clean @4"], shown["mean noise @4"], shown["left out"]) == ("90.0", "90.0", "2")
    else:
        assert (row["clean"], row["noise_mean"]) == pytest.approx((clean, noise))
        assert row["clean_low"] < row["clean"] < row["clean_high"]
        assert (shown["clean SE"], shown["mean noise AUC"], shown["mean noise TAR"]) == ("2.0", "75.0", "25.0")


def test_files_that_contradict_each_other_are_an_error(judged):
    folder, task = judged
    for place in folder.glob(f"trials/*/{task}.parquet"):
        rows = pd.read_parquet(place)
        rows.assign(correct=rows["correct"] + 1).to_parquet(place, index=False)
    snapshot = read_study(folder)
    with pytest.raises(ValueError, match=rf"{task}\.parquet and cells must agree"):
        embedding_table(snapshot, headline(snapshot))


@pytest.mark.slow
def test_the_report_says_what_accuracy_is(judged, monkeypatch):
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    folder, task = judged
    paths = write_report(folder)
    assert LEGENDS[task].split(";")[0] in paths.html.read_text()
    assert {f"{task}.csv", f"{task}.md", f"{task}.parquet"} <= {path.name for path in paths.tables}
    assert "ECE" not in pd.read_csv(folder / "tables" / "accuracy.csv").columns


@pytest.mark.slow
def test_a_study_of_classes_has_no_such_table(tmp_path, write_ledger, monkeypatch):
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    folder = write_ledger(tmp_path, num_images=20)
    paths = write_report(folder)
    assert not {path.stem for path in paths.tables} & {"retrieval", "verification", "embeddings"}
    assert "Recall@K" not in paths.html.read_text()
