"""Two studies side by side: a difference only on the same images under the same noise, and never a planned one."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.comparison import compare_studies
from analysis.comparisonpage import write_comparison
from analysis.embeddings import task_settings
from analysis.load import read_study
from analysis.scores import headline
from analysis.stats import crossed_difference


@pytest.fixture
def two(tmp_path, write_ledger):
    return [write_ledger(tmp_path / name, name=name, num_images=40) for name in ("one", "two")]


def _compared(folders):
    return compare_studies(*(read_study(folder) for folder in folders))


def _change(folder: Path, **fields) -> None:
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(record | fields))


def test_the_same_images_are_paired(two, monkeypatch):
    read = []
    monkeypatch.setattr("analysis.comparison.headline", lambda snapshot: read.append(snapshot) or headline(snapshot))
    made = _compared(two)
    assert len(read) == 2, "each study's predictions are read once"
    assert made.reasons == []
    frame = made.contrasts.frame
    assert set(frame["endpoint"]) == {"clean", "noise_mean"}
    first, second = (found.arms[1] for found in made.found)
    row = frame[(frame["endpoint"] == "noise_mean") & (frame["config_id"] == second.config_id)].iloc[0]
    by_hand = crossed_difference(second.mean_scores(second.noisy()), first.mean_scores(first.noisy()))
    assert row["difference"] == pytest.approx(by_hand.estimate)
    assert row["label"].startswith("two: ")
    assert row["baseline"].startswith("one: ")
    assert any("not stated beforehand" in note for note in made.notes)
    assert made.joined is not None
    assert len(made.joined.arms) == 6


@pytest.mark.slow
def test_other_data_give_no_difference_and_the_page_says_why(two, tmp_path):
    _change(two[1], fingerprint="abcd" * 16)
    made = _compared(two)
    assert made.contrasts.frame.empty
    assert made.joined is None
    assert made.reasons == [
        "they read different data (fingerprints 5f0c5f0c5f0c and abcdabcdabcd), "
        "so their figures are of different images"
    ]
    paths = write_comparison(*two, out=tmp_path / "out", formats=("html", "csv"))
    html = Path(paths.html or "").read_text()
    assert "No difference is stated between these studies: they read different data" in html
    assert "better" not in html.split("<main>")[1].split("</main>")[0]
    assert [Path(path).name for path in paths.tables] == ["studies.csv"]


@pytest.mark.slow
def test_notes_of_the_differences_are_in_page_text_and_facts(two, tmp_path):
    record = json.loads((two[0] / "study.json").read_text())
    leader = record["phases"][1]["selected"][0]
    record["phases"][1]["looks"] = [{"look": look, "leader": leader, "seeds": {}} for look in (0, 1)]
    (two[0] / "study.json").write_text(json.dumps(record))
    paths = write_comparison(*two, out=tmp_path / "out", formats=("html",))
    page = Path(paths.html or "").read_text().split("<main>")[1].split("</main>")[0]
    for text in (page, paths.summary, " ".join(paths.facts["notes"])):
        assert "simultaneous intervals are drawn at 97% to hold" in text


@pytest.mark.slow
def test_studies_of_lower_sides_alone_are_not_told_as_noise(two, tmp_path, with_sides):
    for folder in two:
        with_sides(folder, only=True)
    paths = write_comparison(*two, out=tmp_path / "out", formats=("html",))
    page = Path(paths.html or "").read_text().split("<main>")[1].split("</main>")[0]
    assert "mean lower sides: two: " in paths.summary
    assert "<p>At lower sides, two: " in page or '<p class="first">At lower sides, two: ' in page
    for text in (page, paths.summary):
        assert "under noise" not in text.lower()
        assert "mean noise" not in text.lower()


def test_other_tasks_give_no_difference(two):
    record = json.loads((two[1] / "study.json").read_text())
    record["config"]["task"] = {"name": "retrieval", "at": [1, 5], "reference": "same"}
    (two[1] / "study.json").write_text(json.dumps(record))
    made = _compared(two)
    assert made.contrasts.frame.empty
    assert made.reasons == ["their tasks are different (classification; retrieval, reference same), "
                            "so what is right in one need not be in the other"]  # fmt: skip
    assert task_settings({}) == task_settings({"task": {"name": "classification"}})


@pytest.mark.parametrize(("second", "is_paired"), [("a", True), ("b", False), ("", False)])
def test_verifications_of_other_pairs_are_not_paired(two, second, is_paired):
    for folder, mark in zip(two, ("a", second), strict=True):
        config = json.loads((folder / "study.json").read_text())["config"]
        _change(folder, pairs=mark * 64, config=config | {"task": {"name": "verification"}})
    made = _compared(two)
    assert bool(len(made.contrasts.frame)) is is_paired
    expected = f"they are tested on different lists of pairs (fingerprints aaaaaaaaaaaa and {second * 12 or 'none'})"
    assert made.reasons == ([] if is_paired else [expected])


def test_studies_that_have_not_finished_get_figures_and_no_verdict(two):
    record = json.loads((two[1] / "study.json").read_text())
    record["phases"][1] |= {"status": "running", "trials": []}
    (two[1] / "study.json").write_text(json.dumps(record))
    made = _compared(two)
    assert set(made.contrasts.frame["verdict"]) == {"not finished"}
    assert made.contrasts.frame["difference"].notna().all()
    assert made.notes[0].startswith("two: Phase confirm has not finished: ")
    for word in ("better", "worse", "distinguishable"):
        assert word not in made.text(), word
    record["phases"][1]["status"] = "finished"
    record["phases"][0]["status"] = "running"
    (two[1] / "study.json").write_text(json.dumps(record))
    made = _compared(two)
    assert "not finished" not in set(made.contrasts.frame["verdict"]), "its tested phases are over"
    assert made.notes[0].startswith("two: Phase search has not finished: ")


def test_other_noise_seeds_or_numerics_give_no_difference(two):
    path = next(two[1].glob("trials/00000000000c0000/trial.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numerics": 2}))
    made = _compared(two)
    assert made.contrasts.frame.empty
    assert "noise is of different versions or seeds" in made.reasons[0]


def test_numerics_of_trials_that_are_not_shown_do_not_count(two):
    for number in (1, 2):
        path = two[1] / "trials" / f"{number:016x}" / "trial.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"numerics": 0}))
    earlier = two[1] / "trials" / "00000000000e0000"  # tested before `--again`, so that the phase names it no more
    shutil.copytree(two[1] / "trials" / "00000000000c0000", earlier)
    info = json.loads((earlier / "trial.json").read_text())
    (earlier / "trial.json").write_text(json.dumps(info | {"key": earlier.name, "numerics": 0}))
    made = _compared(two)
    assert made.reasons == []
    assert not made.contrasts.frame.empty


def test_strengths_that_differ_leave_their_cells_out(two):
    for path in two[1].glob("trials/*/cells.parquet"):
        cells = pd.read_parquet(path)
        cells.loc[cells["corruption"] == "contrast", "table"] = "small"
        cells.to_parquet(path, index=False)
    made = _compared(two)
    assert "contrast has other strengths in each study and is left out" in made.notes
    assert made.joined is not None
    assert "contrast" not in made.joined.corruptions
    assert not made.contrasts.frame.empty


def test_other_test_images_are_not_paired(two):
    for path in two[1].glob("trials/*/predictions.parquet"):
        pd.read_parquet(path).assign(image_id=lambda frame: frame["image_id"] + 1).to_parquet(path, index=False)
    assert _compared(two).reasons == ["they tested different images (40 and 40)"]


def test_validation_figures_give_no_difference(two, tmp_path, write_ledger):
    young = write_ledger(tmp_path / "young", name="young", confirm=False)
    made = _compared([two[0], young])
    assert made.contrasts.frame.empty
    assert "validation figures were chosen by" in made.reasons[0]
