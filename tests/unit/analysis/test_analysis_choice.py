"""Which configuration is called the chosen one: by validation, by the last phase that chose, and none in its place."""

from typing import Any

import pandas as pd
import pytest

from analysis import facts
from analysis.choice import NOTHING_TO_CHOOSE, choice_of
from analysis.load import Snapshot
from analysis.records import TrialRecord, config_id
from analysis.scores import Arm, Headline


def record(
    key: str, phase: str, role: str, *, number: int = 0, rate: float = 0.1, epochs: int = 6, seed: int = 0,
    end: str = "final", value: float = 0.5, passes: float = 1.0,
) -> TrialRecord:  # fmt: skip
    config = {"method": {"name": "plain"}, "optim": {"lr": rate}, "train": {"epochs": epochs, "seed": seed}}
    info = {"key": key, "study": "s", "phase": phase, "role": role, "number": number, "seed": seed, "config": config,
            "params": {"optim.lr": rate}}  # fmt: skip
    return TrialRecord(info, [{"event": end, "time": 2.0, "metrics": {"acc/noise": value, "cost/passes": passes}}])


def arms_of(snapshot: Snapshot) -> Headline:
    """An arm for each tested configuration, the first as baseline."""
    tested = [one for one in snapshot.trials if one.info["role"] != "search" and one.status == "finished"]
    names = list(dict.fromkeys(config_id(one.info["config"]) for one in tested))
    arms = [Arm(name, f"arm {place}", pd.DataFrame()) for place, name in enumerate(names)]
    return Headline("test", arms, names[0] if names else None, [])


SEARCHED = [record("s0", "search", "search", rate=0.1, value=0.6),
            record("s1", "search", "search", number=1, rate=0.2, value=0.9)]  # fmt: skip


def phase(name: str, kind: str, trials: list[TrialRecord], **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "status": "finished", "trials": [one.key for one in trials]} | fields


def confirmed(rates: tuple[float, ...], *, epochs: int = 6, name: str = "confirm", **ends: str) -> list[TrialRecord]:
    """Two seeds of each learning rate; `ends` by key."""
    pairs = [(rate, seed) for rate in rates for seed in (101, 102)]
    return [
        record(f"{name}{place}", name, "confirm", number=place, rate=rate, epochs=epochs, seed=seed,
               end=ends.get(f"{name}{place}", "final"))
        for place, (rate, seed) in enumerate(pairs)
    ]  # fmt: skip


def study(
    trials: list[TrialRecord], phases: list[dict[str, Any]], settings: list[dict[str, Any]] | None = None
) -> Snapshot:
    return Snapshot("s", {"phases": phases, "config": {"phases": settings or []}}, trials, [])


@pytest.mark.parametrize("knows_set", [True, False])
def test_a_confirm_phase_that_sets_something_still_marks_its_first_choice(knows_set):
    trials = confirmed((0.1, 0.2), epochs=12)  # numbers are of another order, as after --again
    settings = [{"name": "confirm", "kind": "confirm", "seeds": [101, 102]}
                | ({"set": {"train.epochs": 12}} if knows_set else {})]  # fmt: skip
    phases = [phase("search", "search", SEARCHED), phase("confirm", "confirm", trials, selected=["s1", "s0"])]
    snapshot = study([*SEARCHED, *trials], phases, settings)
    found, words = facts.chosen_record(snapshot)
    assert found is not None
    assert (found.key, found.info["config"]["train"]["epochs"]) == ("confirm2", 12)
    assert words == "the first choice of phase confirm, by validation figures"
    arm = facts.chosen_arm(snapshot, arms_of(snapshot))
    assert arm is not None
    assert arm.config_id == config_id(found.info["config"])


def test_no_other_configuration_is_chosen_where_the_first_choice_failed():
    trials = confirmed((0.2, 0.1), confirm0="failed", confirm1="failed")
    phases = [phase("search", "search", SEARCHED), phase("confirm", "confirm", trials, selected=["s1", "s0"])]
    snapshot = study([*SEARCHED, *trials], phases)
    found = arms_of(snapshot)
    assert len(found.arms) == 1
    assert facts.chosen_arm(snapshot, found) is None
    assert choice_of(snapshot).missing == "the first choice of phase confirm was not tested: all its seeds failed"
    best, words = facts.chosen_record(snapshot)
    assert best is not None
    assert best.info["config"]["optim"]["lr"] == 0.2
    assert words.endswith("it was not tested: all its seeds failed")


def test_a_first_choice_that_is_yet_to_be_tested_is_said_to_be_so():
    phases = [phase("search", "search", SEARCHED),
              phase("confirm", "confirm", [], status="running", selected=["s1", "s0"])]  # fmt: skip
    choice = choice_of(study(SEARCHED, phases))
    assert choice.record is SEARCHED[1]
    assert choice.missing == "the first choice of phase confirm has not been tested yet"


def test_of_train_phases_none_is_chosen():
    trials = [record("a", "base", "train"), record("b", "other", "train", rate=0.2)]
    snapshot = study(trials, [phase("base", "train", trials[:1]), phase("other", "train", trials[1:])])
    found = arms_of(snapshot)
    assert facts.chosen_arm(snapshot, found) is None
    assert facts.chosen_record(snapshot) == (None, NOTHING_TO_CHOOSE)
    example = facts.example_arm(snapshot, found)
    assert example is not None
    assert example.label == "arm 1"


def test_a_search_beside_train_phases_chooses_none_of_them_but_its_own_best():
    trials = [record("a", "base", "train", rate=0.7), record("b", "other", "train", rate=0.8)]
    phases = [phase("search", "search", SEARCHED), phase("base", "train", trials[:1])]
    snapshot = study([*SEARCHED, *trials], phases)
    assert facts.chosen_arm(snapshot, arms_of(snapshot)) is None
    assert choice_of(snapshot).record is SEARCHED[1]
    assert choice_of(snapshot).missing == (
        "the best finished trial of phase search by acc/noise on validation was not tested"
    )


def test_of_two_confirm_phases_the_last_has_chosen():
    first, last = confirmed((0.2,)), confirmed((0.1,), name="again")
    phases = [phase("search", "search", SEARCHED), phase("confirm", "confirm", first, selected=["s1"]),
              phase("again", "confirm", last, selected=["s0"])]  # fmt: skip
    found, words = facts.chosen_record(study([*SEARCHED, *first, *last], phases))
    assert found is last[0]
    assert "phase again" in words


def test_each_search_is_ranked_by_its_own_objective_and_the_last_decides():
    other = [record("t0", "cheap", "search", rate=0.3, passes=9.0),
             record("t1", "cheap", "search", number=1, rate=0.4, passes=3.0)]  # fmt: skip
    settings = [{"name": "cheap", "search": {"objectives": [{"metric": "cost/passes", "goal": "minimise"}]}}]
    phases = [phase("search", "search", SEARCHED), phase("cheap", "search", other)]
    choice = choice_of(study([*SEARCHED, *other], phases, settings))
    assert choice.record is other[1]
    assert choice.words == "the best finished trial of phase cheap by cost/passes on validation"
