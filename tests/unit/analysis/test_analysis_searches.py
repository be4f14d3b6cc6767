"""What may be chosen of a study's searches: by which figures, and of which trials."""

import json

import pytest

from analysis import facts
from analysis.fronts import fronts
from analysis.load import read_study
from analysis.records import final_metrics
from analysis.scores import headline
from analysis.searches import searched

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
    record, _ = facts.chosen_record(read_study(folder), found)
    assert record is not None
    assert record.key == second


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
    assert {item.key for item in searched(snapshot.trials, snapshot.study, metric="acc/noise")} == {last, best}
    record, _ = facts.chosen_record(snapshot, headline(snapshot))
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
    first, second, _ = study["phases"][1]["selected"]
    study["phases"][1]["looks"] = [{"leader": first}, {"leader": second}]
    (folder / "study.json").write_text(json.dumps(study))
    record, _ = facts.chosen_record(read_study(folder), headline(read_study(folder)))
    assert record is not None
    assert record.key == second
