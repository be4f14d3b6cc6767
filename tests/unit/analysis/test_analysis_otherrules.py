"""What other rules would have chosen of a search: on validation rows alone, and the study's own choice marked."""

import json

import pandas as pd
import pytest

from analysis.choices import choose
from analysis.load import load, read_study
from analysis.otherrules import RULE_COLUMNS, rule_table


def _weaken(folder, key: str, corruption: str, accuracy: float) -> None:
    """Give a trial's validation cells of one corruption another accuracy."""
    path = folder / "trials" / key / "cells.parquet"
    cells = pd.read_parquet(path)
    mine = (cells["corruption"] == corruption) & (cells["split"] == "validation")
    cells.loc[mine, "correct"] = round(accuracy * int(cells["n"].iloc[0]))
    cells.loc[mine, "accuracy"] = accuracy
    cells.to_parquet(path, index=False)


def test_each_rule_has_a_row_and_the_chosen_one_is_marked(study_folder) -> None:
    table = rule_table(read_study(study_folder), "search")
    assert tuple(table.frame.columns) == RULE_COLUMNS
    assert table.frame["rule"].tolist()[:3] == ["best_validation_mean", "best_worst_family", "pareto_under_cost"]
    frame = load(study_folder)
    mine = frame[(frame["role"] == "search") & (frame["split"] == "validation")]
    for rule in ("best_validation_mean", "best_worst_family"):
        expected = choose(mine, rule).iloc[0]
        row = table.frame[table.frame["rule"] == rule].iloc[0]
        assert (row["config_id"], row["noise_mean"]) == (expected["config_id"], pytest.approx(expected["noise_mean"]))
    chosen = table.frame[table.frame["is_chosen"]]
    assert chosen["label"].unique().tolist() == ["pmal S=3 rho=0.1 lr=0.03"]
    assert (table.frame["cost"] <= chosen["cost"].iloc[0]).all(), "the front's bound is what the chosen one cost"
    assert "Chosen: the first choice of phase confirm" in table.notes[0]
    assert table.texts()[0][2] == "yes"


def test_a_rule_that_disagrees_is_seen_to(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20)
    _weaken(folder, f"{6:016x}", "motion_blur", 0.05)
    texts = rule_table(read_study(folder), "search").texts()
    worst = next(text for text in texts if text[0] == "best worst corruption")
    assert worst[2] == "no"
    assert "5.0" not in worst[4]


def test_test_figures_have_no_part_in_it(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20)
    before = rule_table(read_study(folder), "search")
    for path in folder.glob("trials/00000000000c*/cells.parquet"):
        cells = pd.read_parquet(path)
        cells.assign(correct=cells["n"], accuracy=1.0).to_parquet(path, index=False)
    pd.testing.assert_frame_equal(rule_table(read_study(folder), "search").frame, before.frame)


def test_trials_that_may_not_be_chosen_are_left_out(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20, confirm=False)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["search"]["constraints"] = ["passes <= 10000"]
    (folder / "study.json").write_text(json.dumps(study))
    labels = rule_table(read_study(folder), "search").frame["label"]
    assert len(labels)
    assert labels.str.startswith("plain").all(), "every pmal costs more"


def test_one_configuration_leaves_nothing_to_choose(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20, confirm=False)
    study = json.loads((folder / "study.json").read_text())
    study["phases"][0]["trials"] = study["phases"][0]["trials"][:1]
    (folder / "study.json").write_text(json.dumps(study))
    assert rule_table(read_study(folder), "search").frame.empty
    assert rule_table(read_study(folder), "none").frame.empty


def test_figures_of_the_small_grid_are_said_to_be(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20, confirm=False)
    assert len(rule_table(read_study(folder), "search").notes) == 1
    part = {"images": 10, "corruptions": ["fog"], "severities": [3]}
    for path in folder.glob("trials/*/trial.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fidelity": part}))
    small = rule_table(read_study(folder), "search").notes[0]
    assert small.startswith("Figures are those of the small validation grid")


def test_where_nothing_was_chosen_it_is_not_introduced_as_chosen(tmp_path, write_ledger) -> None:
    folder = write_ledger(tmp_path, num_images=20, confirm=False)
    study = json.loads((folder / "study.json").read_text())
    study["config"]["search"]["objectives"].append({"metric": "cost/never", "goal": "minimise"})
    (folder / "study.json").write_text(json.dumps(study))
    (note,) = rule_table(read_study(folder), "search").notes
    assert "Chosen" not in note
    assert note.endswith("among them. Nothing was chosen: no finished trial of phase search has a figure to choose by.")
