"""Explanations in the report: of searches with trials enough, and of the chosen configuration's test images."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.explained import explanations, importance_charts
from analysis.load import read_study
from analysis.report import write_report
from analysis.scores import headline
from analysis.tables import Table


def _grown(folder: Path, count: int) -> Path:
    """Copies of a search's finished trial with other learning rates, of which the larger ones are better."""
    study = json.loads((folder / "study.json").read_text())
    source = folder / "trials" / "0000000000000001"
    study["config"]["search"]["space"] = {
        "optim.lr": {"log_uniform": [0.001, 1.0]},
        "method.name": {"choice": ["plain", "pmal"]},
    }
    for number in range(count):
        key = f"{0xD0000 + number:016x}"
        shutil.copytree(source, folder / "trials" / key)
        info = json.loads((source / "trial.json").read_text())
        info |= {
            "key": key,
            "number": 100 + number,
            "params": {"method.name": "plain", "optim.lr": 0.002 * 1.3**number},
        }
        (folder / "trials" / key / "trial.json").write_text(json.dumps(info))
        lines = [json.loads(line) for line in (source / "events.jsonl").read_text().splitlines()]
        lines[-1]["metrics"] |= {"acc/noise": 0.3 + 0.02 * number, "sharpness/m": 0.5 - 0.01 * number}
        (folder / "trials" / key / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        study["phases"][0]["trials"].append(key)
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def test_a_short_search_explains_nothing_but_the_chosen_one_has_its_failures(study_folder):
    snapshot = read_study(study_folder)
    found = headline(snapshot)
    made = explanations(snapshot, found)
    assert [(one.table.name, one.place, one.is_folded) for one in made] == [
        ("rules-search", "search", True), ("calibration", "fails", False), ("flips", "fails", False),
        ("image_flips", "fails", True), ("confusions", "fails", False), ("severities", "accuracy", True),
    ]  # fmt: skip
    chosen, confused = found.arms[1], made[4].table
    assert all(chosen.label in one.title for one in made if one.place == "fails")
    assert set(confused.frame["kind"]) == {"clean", "blur", "digital", "noise", "resolution"}
    assert confused.texts()[0][1] in {"bus", "estate", "hatchback", "lorry", "pickup", "saloon", "tractor", "van"}


@pytest.mark.slow
def test_a_long_search_has_importance_as_table_and_chart(tmp_path, write_ledger, monkeypatch):
    folder = _grown(write_ledger(tmp_path, confirm=False), 20)
    snapshot = read_study(folder)
    made = explanations(snapshot, headline(snapshot))
    assert [one.table.name for one in made][:1] == ["importance-search"]
    assert {one.place for one in made} == {"search", "accuracy"}
    (sharpness,) = (one.table for one in made if one.table.name == "sharpness-search")
    assert sharpness.texts()[0][0] == "all trials"
    assert sharpness.frame["rho"].iloc[0] == pytest.approx(-1.0)
    chart = importance_charts(made)[0]
    assert chart.rows["parameter"].iloc[0] == "optim.lr"
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    paths = write_report(folder, formats=("html", "md"))
    html = Path(paths.html or "").read_text()
    assert 'id="figure-importance-search"' in html
    assert "Phase search: importance of each key" in html
    assert (folder / "tables" / "importance-search.md").exists()


def test_a_page_shows_the_first_rows_and_the_files_have_all(study_folder, monkeypatch):
    monkeypatch.setattr("analysis.explained.MOST_CLASSES", 5)
    snapshot = read_study(study_folder)
    made = {one.table.name: one for one in explanations(snapshot, headline(snapshot))}
    flips, confused, curves = (made[name] for name in ("flips", "confusions", "severities"))
    assert curves.shown.notes[-1] == "Shown: 18 of 126 rows, the means over corruptions."
    assert set(curves.shown.frame["corruption"]) == {"noise_mean"}
    assert (len(flips.table.frame), len(flips.shown.frame)) == (8, 5)
    assert flips.shown.notes[-1] == "Shown: 5 of 8 classes."
    assert not [note for note in flips.table.notes if note.startswith("Shown")]
    rows = confused.shown.frame
    assert rows.groupby("kind").size().tolist() == [3] * 5
    assert confused.shown.notes[-1] == f"Shown: 15 of {len(confused.table.frame)} confusions, the first 3 of each kind."
    first = confused.table.frame.groupby("kind", sort=False).head(3)
    pd.testing.assert_frame_equal(rows, first)
    monkeypatch.setattr("analysis.explained.MOST_KEPT", 4)
    (fewer,) = (one for one in explanations(snapshot, headline(snapshot)) if one.table.name == "confusions")
    assert len(fewer.table.frame) == 20
    left = len(confused.table.frame) - 20
    assert fewer.table.notes[-1] == f"The files have the first 4 of each kind, {left:,} are left out."


def test_validation_figures_have_no_failures_of_test_images(tmp_path, write_ledger):
    snapshot = read_study(write_ledger(tmp_path, confirm=False))
    made = explanations(snapshot, headline(snapshot))
    assert [one.table.name for one in made] == ["rules-search", "severities"]
    assert made[1].table.notes[-1].endswith("Of validation images.")


@pytest.mark.slow
def test_likeness_of_features_stands_beside_each_tested_configuration(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    for path in sorted(folder.glob("trials/*/predictions.parquet")):
        rows = [{"stage": stage, "corruption": "fog", "severity": 3, "n": 20, "cosine": 0.9, "cka": 0.1 * stage}
                for stage in (1, 2)]  # fmt: skip
        pd.DataFrame(rows).to_parquet(path.with_name("similarity.parquet"))
    snapshot = read_study(folder)
    found = headline(snapshot)
    (table,) = (one.table for one in explanations(snapshot, found) if one.table.name == "similarity")
    assert set(table.frame["label"]) == {arm.label for arm in found.arms}
    assert table.frame.groupby("label")["cka"].agg(list).map(lambda cka: cka == pytest.approx([0.1, 0.2])).all()
    assert table.columns[0].title == "configuration"


@pytest.mark.parametrize("files", ["predictions.parquet", "examples.npz"])
def test_what_was_not_kept_is_left_out(tmp_path, write_ledger, files):
    folder = write_ledger(tmp_path, num_images=20)
    for path in folder.glob(f"trials/*/{files}"):
        path.unlink()
    snapshot = read_study(folder)
    made = explanations(snapshot, headline(snapshot))
    made = {one.table.name: one.table for one in made}
    names = ["rules-search", "severities"] if files == "predictions.parquet" else [
        "rules-search", "calibration", "flips", "image_flips", "confusions", "severities"]  # fmt: skip
    assert list(made) == names
    assert all(text[0].isdigit() for name in ("flips",) if name in made for text in made[name].texts())


def _confidences(folder: Path, value: float) -> None:
    """Give one noisy row of every tested trial another confidence."""
    for path in folder.glob("trials/*/predictions.parquet"):
        rows = pd.read_parquet(path)
        rows.loc[len(rows) - 1, "confidence"] = value
        rows.to_parquet(path, index=False)


@pytest.mark.slow
def test_rows_without_a_confidence_are_left_out_and_counted(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    before = _calibration(folder)
    _confidences(folder, float("nan"))
    after = _calibration(folder)
    assert after.notes[0].endswith(" Left out: 3 of 1,860 rows that have no confidence.")
    lost = (before.frame.set_index("kind")["n_rows"] - after.frame.set_index("kind")["n_rows"]).to_dict()
    assert lost == {"clean": 0, "blur": 0, "digital": 0, "noise": 0, "resolution": 3}
    assert after.frame["ece"].notna().all()


@pytest.mark.slow
def test_a_further_table_that_fails_says_why_and_the_others_stand(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    _confidences(folder, 1.5)
    snapshot = read_study(folder)
    made = {one.table.name: one.table for one in explanations(snapshot, headline(snapshot))}
    ((reason,),) = made["calibration"].texts()
    assert reason.startswith("confidence must be in [0, 1], but lies in [")
    assert len(made["flips"].frame) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("retrieval", ["flips", "image_flips", "confusions"]),
        ("verification", ["flips"]),
        ("classification", ["calibration", "flips", "image_flips", "confusions"]),
    ],
)
def test_a_similarity_is_no_confidence(tmp_path, write_ledger, task, names):
    folder = write_ledger(tmp_path, num_images=20)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["task"] = {"name": task}
    (folder / "study.json").write_text(json.dumps(study))
    snapshot = read_study(folder)
    made = explanations(snapshot, headline(snapshot))
    assert [one.table.name for one in made if one.place == "fails"] == names
    (flips,) = (one for one in made if one.table.name == "flips")
    classes = {text[0] for text in flips.table.texts()}
    if task == "verification":
        assert flips.title.startswith("Pairs that flip")
        assert {"different", "same"} <= classes
        assert [column.title for column in flips.table.columns][2] == "pairs"
        assert "images" not in " ".join(flips.table.notes)
    else:
        assert flips.title.startswith("Classes that flip")
        assert not {"different", "same"} & classes


def _calibration(folder: Path) -> Table:
    snapshot = read_study(folder)
    (table,) = (one.table for one in explanations(snapshot, headline(snapshot)) if one.table.name == "calibration")
    return table
