"""What may be chosen of a study's searches: by which figures, and of which trials."""

import json

import pandas as pd
import pytest

from analysis import facts, load
from analysis.fronts import fronts
from analysis.load import read_study
from analysis.pictures import draw
from analysis.records import final_metrics
from analysis.scores import Headline, headline
from analysis.searches import current, searched
from analysis.tables import accuracy_table
from analysis.trialtable import trial_table

GOALS = [{"metric": "acc/noise", "goal": "maximise"}, {"metric": "cost/passes", "goal": "minimise"}]


def finish(folder, finalists: dict[str, float], **settings) -> None:
    """Make these trials the search's finalists, with these figures on the whole grid."""
    for key, value in finalists.items():
        event = {"event": "full", "epoch": 6, "step": 0, "time": 2e9, "metrics": {"full/acc/noise": value}}
        with (folder / "trials" / key / "events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")
    study = json.loads((folder / "study.json").read_text())
    study["phases"][0]["finalists"] = list(finalists)
    study["config"]["search"] |= settings
    (folder / "study.json").write_text(json.dumps(study))


def by_accuracy(folder, method: str | None = None) -> list[str]:
    """Keys of the finished search trials, best first by their own figures."""
    found = {r.key: final_metrics(r.events)["acc/noise"] for r in read_study(folder).trials
             if r.status == "finished" and r.info["role"] == "search"
             and method in (None, r.info["config"]["method"]["name"])}  # fmt: skip
    return sorted(found, key=lambda key: -found[key])


def test_the_whole_grid_decides_the_headline_and_the_choice_alike(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    best, second, *_ = by_accuracy(folder, "pmal")
    finish(folder, {best: 0.3, second: 0.6})
    found = headline(read_study(folder))
    assert [set(arm.rows["trial"]) for arm in found.arms] == [{second}]
    record, _ = facts.chosen_record(read_study(folder))
    assert record is not None
    assert record.key == second


PART = {"corruptions": ["gaussian_noise"], "severities": [4], "images": 16}


def by_small_grid(folder, keys, *, measured=()) -> None:
    """Have these trials scored by a part of the grid, and those of `measured` looked at on all of it: 3 in 4 right."""
    for key in keys:
        path = folder / "trials" / key / "trial.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fidelity": PART}))
        place = path.with_name("cells.parquet")
        whole = pd.read_parquet(place)
        if key in measured:
            full = whole.assign(correct=90, n=120, accuracy=0.75, grid="full").drop(columns="bn", errors="ignore")
            full.to_parquet(place.with_name("cells-full.parquet"))
        is_kept = (whole["severity"] == 0) | ((whole["corruption"] == "gaussian_noise") & (whole["severity"] == 4))
        whole[is_kept].assign(correct=4, n=16, accuracy=0.25, grid="small").to_parquet(place)


def test_the_headline_shows_finalists_on_the_whole_grid(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    keys = by_accuracy(folder)
    cells = read_study(folder).frame().query("trial == @keys[0]")["corruption"].nunique()
    chosen = [by_accuracy(folder, method)[0] for method in ("plain", "pmal")]
    by_small_grid(folder, keys, measured=chosen)
    finish(folder, dict.fromkeys(chosen, 0.75))
    found = headline(read_study(folder))
    assert {trial for arm in found.arms for trial in arm.rows["trial"]} == set(chosen)
    for arm in found.arms:
        assert arm.rows["accuracy"].unique().tolist() == [0.75]
        assert arm.rows["corruption"].nunique() == cells
    assert not found.small_grid
    assert "small" not in accuracy_table(found).markdown()


def test_figures_of_a_small_grid_are_said_to_be_that(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    by_small_grid(folder, by_accuracy(folder))  # the search goes on, or no finalist could be measured
    snapshot = read_study(folder)
    found = headline(snapshot)
    assert {accuracy for arm in found.arms for accuracy in arm.rows["accuracy"]} == {0.25}
    words = (
        "Figures are those of the small validation grid that the search is scored by (up to 16 images, gaussian_noise, "
        "severity 4), not of the whole one."
    )
    assert accuracy_table(found).notes[0] == words
    assert words in found.notes
    assert words in facts.reading(snapshot, found, pd.DataFrame())


def test_of_two_searches_the_one_by_a_small_grid_is_named(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    by_small_grid(folder, by_accuracy(folder, "pmal"))
    assert headline(read_study(folder)).small_grid.startswith("Figures of pmal")
    by_small_grid(folder, by_accuracy(folder, "pmal"), measured=by_accuracy(folder))
    finish(folder, dict.fromkeys(by_accuracy(folder, "pmal"), 0.75))
    assert not headline(read_study(folder)).small_grid


def test_the_whole_grids_cells_are_asked_of_finalists_alone(tmp_path, write_ledger, monkeypatch):
    folder = write_ledger(tmp_path, confirm=False)
    keys, asked = by_accuracy(folder), []
    by_small_grid(folder, keys, measured=keys[:1])
    finish(folder, {keys[0]: 0.75})
    read = load._cells
    monkeypatch.setattr(load, "_cells", lambda place, name: asked.append((place.key, name)) or read(place, name))
    found = {record.key for record in read_study(folder).trials if record.whole_cells is not None}
    assert found == {keys[0]}
    assert [key for key, name in asked if name == "cells-full.parquet"] == [keys[0]]


def test_a_search_without_finalists_counts_beside_one_with_them(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    best, *_, last = by_accuracy(folder)
    finish(folder, {last: 0.1})
    study = json.loads((folder / "study.json").read_text())
    study["phases"][0]["trials"].remove(best)
    study["phases"].append({"name": "more", "kind": "search", "status": "finished", "trials": [best]})
    (folder / "study.json").write_text(json.dumps(study))
    path = folder / "trials" / best / "trial.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"phase": "more"}))
    snapshot = read_study(folder)
    found = searched(snapshot.trials, snapshot.study)
    assert {phase: [item.key for item in pool] for phase, pool in found.items()} == {"search": [last], "more": [best]}
    record, _ = facts.chosen_record(snapshot)
    assert record is not None
    assert record.key == best


def test_the_front_is_of_finalists_by_their_whole_figures(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    best, *_, last = by_accuracy(folder)
    finish(folder, {best: 0.3, last: 0.99}, objectives=GOALS, constraints=["noise_accuracy >= 0.5"])
    frame = fronts(read_study(folder))["search"].set_index("trial")
    assert frame["acc/noise"].to_dict() == {best: pytest.approx(0.3), last: pytest.approx(0.99)}
    assert frame["front"].to_dict() == {best: False, last: True}, "the whole grid's figure broke the constraint"


def test_the_front_leaves_out_trials_of_settings_replaced_since(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    finish(folder, {}, objectives=GOALS)
    study = json.loads((folder / "study.json").read_text())
    gone = by_accuracy(folder)[0]
    study["phases"][0]["trials"].remove(gone)
    (folder / "study.json").write_text(json.dumps(study))
    assert gone not in set(fronts(read_study(folder))["search"]["trial"])


def test_with_adaptive_seeds_the_last_looks_leader_is_chosen(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    study = json.loads((folder / "study.json").read_text())
    first, second, _ = study["phases"][1]["selected"]  # their seeds are trials 0 to 2 and 3 to 5 of the phase
    study["phases"][1]["looks"] = [{"leader": first}, {"leader": second}]
    (folder / "study.json").write_text(json.dumps(study))
    record, _ = facts.chosen_record(read_study(folder))
    assert record is not None
    assert record.key == f"{0xC0003:016x}"


def begin_again(folder, phases: list[dict]) -> dict:
    """Make the study one that `--again` has just begun anew, its test split read before."""
    study = json.loads((folder / "study.json").read_text())
    study |= {"generation": 1, "created": "2026-02-01T00:00:00Z", "phases": phases}
    (folder / "study.json").write_text(json.dumps(study))
    return study


RUNNING = {"name": "search", "kind": "search", "status": "running", "trials": [], "selected": []}


@pytest.mark.parametrize("phases", [[], [RUNNING]])
def test_trials_of_earlier_settings_are_not_current_from_the_start(tmp_path, write_ledger, phases):
    folder = write_ledger(tmp_path, num_images=20)
    begin_again(folder, phases)
    snapshot = read_study(folder)
    assert current(snapshot.trials, snapshot.study) == []
    assert headline(snapshot).arms == []


def test_a_running_phase_has_its_new_trials_and_the_older_ones_it_names(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    study = begin_again(folder, [RUNNING])
    new = folder / "trials" / f"{3:016x}" / "trial.json"
    new.write_text(json.dumps(json.loads(new.read_text()) | {"created": "2026-02-01T00:00:00Z"}))
    assert [record.key for record in current(read_study(folder).trials, study)] == [f"{3:016x}"]
    named = study | {"phases": [RUNNING | {"status": "finished", "trials": [f"{1:016x}"]}]}
    assert [record.key for record in current(read_study(folder).trials, named)] == [f"{1:016x}"]


def test_records_without_generations_count_all_trials(tmp_path, write_ledger):
    snapshot = read_study(write_ledger(tmp_path, num_images=20))
    older = {name: value for name, value in snapshot.study.items() if name != "created"} | {"phases": []}
    assert len(current(snapshot.trials, older)) == len(snapshot.trials)


def test_trials_show_their_own_phases_objective(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    same = trial_table(read_study(folder))
    assert "acc/noise (validation)" in [column.title for column in same.columns]
    study = json.loads((folder / "study.json").read_text())
    own = {"objectives": [{"metric": "cost/passes", "goal": "minimise"}]}
    study["config"]["phases"] = [{"name": "search", "kind": "search", "search": own}]
    (folder / "study.json").write_text(json.dumps(study))
    snapshot = read_study(folder)
    table = trial_table(snapshot)
    frame = table.frame[table.frame["phase"] == "search"]
    assert set(frame["metric"]) == {"cost/passes"}
    assert frame["value"].tolist() == frame["cost_passes"].tolist()
    assert set(table.frame["metric"][table.frame["phase"] == "confirm"]) == {"acc/noise"}
    column = next(column for column in table.columns if column.title == "objective (validation)")
    assert column.text(frame.iloc[0]).endswith(" cost/passes")
    (picture,) = draw(snapshot, Headline("test", [], None, []), {"trials": table})
    assert "cost/passes" in picture.figure.axes[0].get_ylabel()


def test_validation_shows_the_best_of_each_method_by_the_searchs_own_objective(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, confirm=False)
    study = json.loads((folder / "study.json").read_text())
    own = {"objectives": [{"metric": "cost/passes", "goal": "minimise"}]}
    study["config"]["phases"] = [{"name": "search", "kind": "search", "search": own}]
    (folder / "study.json").write_text(json.dumps(study))
    snapshot = read_study(folder)
    found = headline(snapshot)
    cheapest = {arm.rows["method"].iloc[0]: arm.rows["cost_passes"].iloc[0] for arm in found.arms}
    costs = trial_table(snapshot).frame.query("status == 'finished'")["cost_passes"]
    assert cheapest["plain"] == costs.min()
    assert cheapest["pmal"] == costs[costs > costs.min()].min()
    chosen = facts.chosen_arm(snapshot, found)
    assert chosen is not None
    assert chosen.rows["method"].iloc[0] == "plain"
