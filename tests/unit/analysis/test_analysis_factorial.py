"""Tested configurations that differ in stages and rho alone: four corners make an interaction, less make none."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.factorial import ARM_INTERACTION_COLUMNS, arm_interaction_table
from analysis.load import read_study
from analysis.scores import headline
from analysis.stats import crossed

CORNERS = ((1, 0.0), (1, 0.1), (3, 0.0), (3, 0.1))


def crossed_settings(folder: Path, corners: tuple[tuple[int, float], ...] = CORNERS) -> Path:
    """Make the confirmed trials two seeds of each corner, the ninth one a seed of the first."""
    for number in range(9):
        stages, rho = corners[number // 2 % len(corners)]
        place = folder / "trials" / f"{0xC0000 + number:016x}" / "trial.json"
        info = json.loads(place.read_text())
        info["seed"] = info["config"]["train"]["seed"] = 200 + number
        info["config"]["method"] = {"name": "pmal", "stages": stages, "head_width": 64}
        info["config"]["optim"] = {"name": "sgd", "lr": 0.05, "sam": {"rho": rho, "adaptive": False}}
        info["config"]["noise"]["train"] = None
        place.write_text(json.dumps(info))
    return folder


def _table(folder: Path):
    snapshot = read_study(folder)
    return arm_interaction_table(snapshot, headline(snapshot))


def test_four_corners_have_the_interval_of_their_double_difference(tmp_path, write_ledger) -> None:
    folder = crossed_settings(write_ledger(tmp_path, num_images=40))
    table = _table(folder)
    assert tuple(table.frame.columns) == ARM_INTERACTION_COLUMNS
    assert table.frame["endpoint"].tolist() == ["noise_mean", "clean"]
    arms = {arm.label: arm for arm in headline(read_study(folder)).arms}
    named = [arms[name] for name in ("pmal S=3 rho=0.1", "pmal S=3", "pmal S=1 rho=0.1", "pmal S=1")]
    scores = [arm.mean_scores(arm.noisy()) for arm in named]
    expected = crossed(list(zip((1.0, -1.0, -1.0, 1.0), scores, strict=True)))
    row = table.frame.iloc[0]
    assert row["interaction"] == pytest.approx(expected.estimate)
    assert (row["interaction_low"], row["interaction_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["n_seeds"], row["n_images"], row["population"]) == (2, 40, "method")
    assert table.texts()[0][1:4] == ["pmal S=3 rho=0.1", "1 and 3", "0 and 0.1"]
    assert np.isfinite(row["interaction_low"])
    assert [text[-1] for text in table.texts()] == ["2 seeds, few for a claim"] * 2


@pytest.mark.parametrize(
    ("population", "seeds", "said"),
    [("networks", 1, "these networks only"), ("method", 3, "3 seeds, few for a claim"), ("method", 5, "–")],
)
def test_the_limit_of_an_interaction_is_said_as_that_of_a_difference(
    tmp_path, write_ledger, population, seeds, said
) -> None:
    table = _table(crossed_settings(write_ledger(tmp_path, num_images=20)))
    row = table.frame.iloc[0].copy()
    row["population"], row["n_seeds"] = population, seeds
    assert {column.title: column.text(row) for column in table.columns}["limit"] == said


@pytest.mark.parametrize("corners", [CORNERS[:3], ((1, 0.1), (2, 0.1), (3, 0.1)), ((1, 0.0), (3, 0.1))])
def test_without_all_corners_there_is_none(tmp_path, write_ledger, corners) -> None:
    assert _table(crossed_settings(write_ledger(tmp_path, num_images=20), corners)).frame.empty


def test_corners_that_differ_in_more_are_no_corners(tmp_path, write_ledger) -> None:
    folder = crossed_settings(write_ledger(tmp_path, num_images=20))
    for number in (6, 7):
        place = folder / "trials" / f"{0xC0000 + number:016x}" / "trial.json"
        info = json.loads(place.read_text())
        info["config"]["optim"]["lr"] = 0.01
        place.write_text(json.dumps(info))
    assert _table(folder).frame.empty


def test_validation_figures_and_other_studies_have_none(study_folder, tmp_path, write_ledger) -> None:
    assert _table(study_folder).frame.empty
    assert _table(write_ledger(tmp_path, confirm=False)).frame.empty
