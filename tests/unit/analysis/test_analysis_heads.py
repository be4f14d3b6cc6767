"""Each head by itself: read as written, its means and intervals by hand, shown only where there is one."""

import shutil

import numpy as np
import pandas as pd
import pytest

from analysis.heads import HEAD_COLUMNS, head_table, load_heads
from analysis.load import read_study
from analysis.report import write_report
from analysis.scores import headline
from analysis.stats import crossed_mean, from_counts
from analysis.tables import accuracy_table
from tests.unit.analysis.heads import CLEAN_RIGHT, COSTS, NUM_IMAGES, add_heads


@pytest.fixture
def folder(tmp_path, write_ledger):
    return add_heads(write_ledger(tmp_path, num_images=NUM_IMAGES))


def test_rows_are_read_with_what_their_trial_was(folder, write_ledger, tmp_path):
    frame = load_heads(folder)
    assert frame.dtypes.astype(str).to_dict() == HEAD_COLUMNS
    assert frame["trial"].nunique() == 6
    assert set(frame["method"]) == {"pmal"}
    assert set(frame["role"]) == {"confirm"}
    own = frame[(frame["head"] == "stage1") & (frame["corruption"] == "clean") & (frame["split"] == "test")]
    assert dict(zip(own["seed"], own["correct"], strict=True)) == CLEAN_RIGHT
    assert set(zip(own["parameters"], own["macs"], strict=True)) == {COSTS["stage1"]}
    none = load_heads(write_ledger(tmp_path / "without", num_images=4))
    assert none.empty
    assert none.dtypes.astype(str).to_dict() == HEAD_COLUMNS


def test_the_table_by_hand(folder):
    snapshot = read_study(folder)
    found = headline(snapshot)
    table = head_table(snapshot, found)
    assert table.frame.groupby("label")["head"].apply(list).tolist() == [list(COSTS)] * 2
    first = table.frame[table.frame["head"] == "stage1"].iloc[0]
    clean_SI = np.array([[1.0] * count + [0.0] * (NUM_IMAGES - count) for count in CLEAN_RIGHT.values()])
    interval = crossed_mean(clean_SI)
    assert first["clean"] == pytest.approx(0.6)  # (10 + 12 + 14) / 60
    assert (first["clean_low"], first["clean_high"]) == pytest.approx((interval.low, interval.high))
    assert first["noise_mean"] == pytest.approx(0.4)  # 8 / 20 in every cell
    assert first["noise_mean_low"] < 0.4 < first["noise_mean_high"]
    assert (first["n_seeds"], first["n_images"], first["population"]) == (3, NUM_IMAGES, "method")
    assert first["validation_noise"] == pytest.approx(0.52)  # (51 + 52 + 53) / 300
    shown = dict(zip((column.title for column in table.columns), table.texts()[0], strict=True))
    assert (shown["head"], shown["validation noise"], shown["parameters"], shown["MACs"]) == (
        "stage1", "52.0", "900", "40k"
    )  # fmt: skip
    accuracy = accuracy_table(found).frame.set_index("config_id")
    for _, row in table.frame[table.frame["head"] == "sum"].iterrows():
        for name in ("clean", "noise_mean", "noise_mean_low", "noise_mean_high"):
            assert row[name] == pytest.approx(accuracy.loc[row["config_id"], name], abs=1e-6), name


def test_without_the_images_the_intervals_come_from_counts(folder):
    for place in folder.glob("trials/*/predictions.parquet"):
        rows = pd.read_parquet(place)
        rows.drop(columns=[name for name in rows if name.startswith("correct_")]).to_parquet(place, index=False)
    snapshot = read_study(folder)
    row = head_table(snapshot, headline(snapshot)).frame.iloc[0]
    expected = from_counts([count / NUM_IMAGES for count in CLEAN_RIGHT.values()], NUM_IMAGES)
    assert (row["clean"], row["clean_low"], row["clean_high"]) == pytest.approx((0.6, expected.low, expected.high))


@pytest.mark.slow
def test_files_that_contradict_each_other_are_an_error(folder):
    place = next(path for path in sorted(folder.glob("trials/*/heads.parquet")))
    rows = pd.read_parquet(place)
    for head, said in (("sum", "heads and cells must agree"), ("stage1", "predictions and heads must agree")):
        wrong = (rows["head"] == head) & (rows["split"] == "test") & (rows["corruption"] == "contrast")
        changed = rows.assign(correct=rows["correct"] + wrong)
        changed.assign(accuracy=changed["correct"] / changed["n"]).to_parquet(place, index=False)
        snapshot = read_study(folder)
        with pytest.raises(ValueError, match=said):
            head_table(snapshot, headline(snapshot))


@pytest.mark.slow
def test_the_report_shows_the_table_where_there_is_one(folder, tmp_path, write_ledger, monkeypatch):
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])
    paths = write_report(folder)
    html = paths.html.read_text()
    assert "Each head by itself" in html
    for text in ("stage1", "60.0", "11.2M", "1.82G", "To choose a head, use the validation figures"):
        assert text in html, text
    names = {path.name for path in paths.tables}
    assert {"heads.csv", "heads.md", "heads.parquet"} <= names
    frame = pd.read_csv(folder / "tables" / "heads.csv")
    assert frame["macs"].tolist()[:3] == [macs for _, macs in COSTS.values()]
    shutil.rmtree(folder / "tables")
    for place in folder.glob("trials/*/heads.parquet"):
        place.unlink()
    without = write_report(folder)
    assert "Each head by itself" not in without.html.read_text()
    assert not [path for path in without.tables if path.name.startswith("heads")]
