"""Batch norms adapted to the test images: in a table of their own, by seeds, and in no other figure."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from analysis.adapted import adapted_table
from analysis.contrasts import contrast_table
from analysis.load import read_study
from analysis.meantables import mean_table
from analysis.metrics import main_rows
from analysis.report import write_report
from analysis.scores import headline
from analysis.tables import accuracy_table

KEYS = [f"{0xC0000 + number:016x}" for number in range(9)]


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of a report's time; what a test reads in the page needs none."""
    monkeypatch.setattr("analysis.report.draw", lambda *_: [])


def rows_of(kinds, accuracy):
    return pd.DataFrame(
        {"trial": "t", "split": "test", "corruption": "fog", "severity": 1, "bn": kind, "accuracy": value}
        for kind, value in zip(kinds, accuracy, strict=True)
    )


def test_adapted_rows_never_win_and_are_there_when_asked_for():
    for kinds in (("adapted", "trained"), ("trained", "adapted"), ("adapted", "reestimated"), ("adapted", None)):
        frame = rows_of(kinds, (0.1, 0.2))
        kept = main_rows(frame, split="test")
        assert kept["accuracy"].tolist() == [0.1 if kinds[1] == "adapted" else 0.2]
        assert main_rows(frame, split="test", adapted=True)["bn"].tolist() == ["adapted"]
    assert main_rows(rows_of(["adapted"], [0.1]), split="test").empty
    assert main_rows(rows_of(["trained"], [0.1]), split="test", adapted=True).empty


@pytest.mark.slow
def test_other_tables_are_the_same_with_and_without(tmp_path, write_ledger, with_adapted):
    folder = write_ledger(tmp_path, num_images=60)
    plain = headline(read_study(folder))
    more = headline(read_study(with_adapted(folder, dict.fromkeys(KEYS, 9), clean_loss=4)))
    for table in (accuracy_table, mean_table, contrast_table):
        pd.testing.assert_frame_equal(table(more).frame, table(plain).frame)
    assert more.notes == plain.notes


@pytest.mark.slow
def test_differences_are_over_seeds_with_students_interval(tmp_path, write_ledger, with_adapted):
    gains = (3, 1, 2)
    folder = with_adapted(
        write_ledger(tmp_path, num_images=200), dict(zip(KEYS[3:6], gains, strict=True)), clean_loss=4
    )
    snapshot = read_study(folder)
    found = headline(snapshot)
    table = adapted_table(snapshot, found)
    assert len(table.frame) == 1
    row, arm = table.frame.iloc[0], next(a for a in found.arms if KEYS[3] in set(a.rows["trial"]))
    assert (row["config_id"], row["n_seeds"], row["n_images"]) == (arm.config_id, 3, 200)
    noisy = arm.rows[arm.rows["corruption"] != "clean"]
    assert row["noise_mean"] == pytest.approx(noisy["accuracy"].mean())
    assert row["noise_mean_adapted"] == pytest.approx(noisy["accuracy"].mean() + np.mean(gains) / 200)
    half = sps.t.ppf(0.975, 2) * np.std(gains, ddof=1) / 200 / math.sqrt(3)
    assert row["noise_mean_difference"] == pytest.approx(0.01)
    assert row["noise_mean_difference_high"] - row["noise_mean_difference"] == pytest.approx(half)
    assert row["noise_mean_difference"] - row["noise_mean_difference_low"] == pytest.approx(half)
    assert row["clean_difference"] == pytest.approx(-0.02)
    assert table.texts()[0][-1] == f"+1.0 [{(0.01 - half) * 100:+.1f} to {(0.01 + half) * 100:+.1f}]"
    assert "depends on the other images of the test" in table.markdown()


@pytest.mark.slow
def test_one_seed_has_means_and_no_interval(tmp_path, write_ledger, with_adapted):
    folder = with_adapted(write_ledger(tmp_path, num_images=100), {KEYS[0]: 2})
    snapshot = read_study(folder)
    found = headline(snapshot)
    row = adapted_table(snapshot, found).frame.iloc[0]
    assert row["n_seeds"] == 1
    arm = next(arm for arm in found.arms if KEYS[0] in set(arm.rows["trial"]))
    own = arm.rows.query(f"trial == '{KEYS[0]}' and corruption != 'clean'")
    assert row["noise_mean"] == pytest.approx(own["accuracy"].mean())  # of the same trial, not of the other seeds
    assert row["noise_mean_difference"] == pytest.approx(0.02)
    assert math.isnan(row["noise_mean_difference_low"])
    assert adapted_table(snapshot, found).texts()[0][-1] == "+2.0"


def test_cells_measured_one_way_only_are_left_out(tmp_path, write_ledger, with_adapted):
    folder = with_adapted(write_ledger(tmp_path, num_images=100), {KEYS[0]: 2})
    path = folder / "trials" / KEYS[0] / "cells.parquet"
    cells = pd.read_parquet(path)
    kept = cells[(cells["bn"] != "adapted") | (cells["corruption"] == "contrast")]
    kept.to_parquet(path, index=False)
    snapshot = read_study(folder)
    table = adapted_table(snapshot, headline(snapshot))
    own = cells.query("split == 'test' and bn != 'adapted' and corruption == 'contrast'")
    assert table.frame["noise_mean"][0] == pytest.approx(own["accuracy"].mean())
    assert math.isnan(table.frame["clean"][0])
    assert table.texts()[0][3:6] == ["–", "–", "–"]


@pytest.mark.slow
def test_the_report_has_the_table_only_where_there_are_such_rows(
    tmp_path, write_ledger, with_adapted, without_pictures
):
    folder = write_ledger(tmp_path, num_images=40)
    paths = write_report(folder)
    assert "Batch norms adapted" not in paths.html.read_text()
    assert "adapted" not in paths.summary
    assert not [path for path in paths.tables if path.stem == "adapted"]
    paths = write_report(with_adapted(folder, dict.fromkeys(KEYS[:3], 1)))
    html = paths.html.read_text()
    assert '<h2 id="adapted">Batch norms adapted to the test images</h2>' in html
    assert "depends on the other images of the test" in html
    assert sorted(path.suffix for path in paths.tables if path.stem == "adapted") == [".csv", ".md", ".parquet"]
    lines = paths.summary.splitlines()
    assert "batch norms adapted to the test images, without labels; in no other figure:" in lines
    assert "(n=40, seeds=3): clean" in lines[-1]
    assert "+2.5 [+2.5 to +2.5] points" in lines[-1]
