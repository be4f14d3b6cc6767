"""The best model of a study: by validation, by the last phase that chose, and only when all is done."""

from typing import Any

import pytest

from analysis.choice import choice_of
from analysis.load import Snapshot
from analysis.records import TrialRecord
from study.champion import Finished, champion_of, metrics_of


def phase(name: str, kind: str, *trials: str, status: str = "finished") -> dict[str, Any]:
    return {"name": name, "kind": kind, "status": status, "trials": list(trials)}


def study(*phases: dict[str, Any], objectives: list[dict[str, str]] | None = None) -> dict[str, Any]:
    config = {"phases": [{"name": item["name"]} for item in phases], "search": {"objectives": objectives or []}}
    return {"phases": list(phases), "config": config}


def trial(key: str, phase: str, number: int, value: float | None, **metrics: float) -> Finished:
    return Finished(key, phase, number, {"acc/noise": value, **metrics})


SEARCH = [trial("s0", "search", 0, 0.5), trial("s1", "search", 1, 0.7), trial("s2", "search", 2, None)]


def test_of_a_search_it_is_the_best_by_the_objective():
    found = champion_of(study(phase("search", "search", "s0", "s1", "s2")), SEARCH)
    assert found is not None
    assert (found.key, found.metric, found.value) == ("s1", "acc/noise", 0.7)


COST_FIRST = [{"metric": "cost/passes", "goal": "minimise"}, {"metric": "acc/noise", "goal": "maximise"}]
ACCURACY_FIRST = COST_FIRST[::-1]


def searched_record(key: str, phase: str, number: int, **metrics: float) -> TrialRecord:
    """A finished search trial; `acc_noise` stands for `acc/noise`, `full_acc_noise` for the whole grid's."""
    config = {"method": {"name": "plain"}, "optim": {"lr": 0.1 + number}, "train": {"seed": 0}}
    info = {"key": key, "phase": phase, "role": "search", "number": number, "config": config}
    named = {name.replace("full_", "full/").replace("_", "/"): value for name, value in metrics.items()}
    full = {name: value for name, value in named.items() if name.startswith("full/")}
    small = {name: value for name, value in named.items() if name not in full}
    return TrialRecord(info, [{"event": "final", "metrics": small}, {"event": "full", "metrics": full}])


EARLIER = [searched_record("s0", "search", 0, acc_noise=0.9, cost_passes=9.0),
           searched_record("s1", "search", 1, acc_noise=0.2, cost_passes=1.0),
           searched_record("s2", "search", 2, acc_noise=0.3, cost_passes=1.0)]  # fmt: skip
LATER = [searched_record("t0", "later", 0, acc_noise=0.5, cost_passes=9.0)]
MEASURED = [searched_record("s0", "search", 0, acc_noise=0.9, full_acc_noise=0.4),
            searched_record("s1", "search", 1, acc_noise=0.2, full_acc_noise=0.6),
            searched_record("s2", "search", 2, acc_noise=0.95)]  # fmt: skip


@pytest.mark.parametrize(
    ("records", "objectives", "later", "finalists", "expected"),
    [
        (EARLIER, ACCURACY_FIRST, None, [], ("s0", 0.9)),
        (EARLIER, COST_FIRST, None, [], ("s2", 1.0)),  # s1 costs as much and is worse, so it is not on the front
        ([*EARLIER, *LATER], ACCURACY_FIRST, {}, [], ("t0", 0.5)),
        ([*EARLIER, *LATER], ACCURACY_FIRST, {"constraints": ["passes <= 1"]}, [], None),
        ([*EARLIER, *LATER], ACCURACY_FIRST, {"objectives": [{"metric": "acc/clean", "goal": "maximise"}]}, [], None),
        (EARLIER, ACCURACY_FIRST, {}, [], ("s0", 0.9)),  # no trial of the later search finished
        (MEASURED, [{"metric": "acc/noise", "goal": "maximise"}], None, ["s0", "s1"], ("s1", 0.6)),
    ],
)  # fmt: skip
def test_the_champion_of_what_nobody_confirmed_is_the_reports_choice(
    records: list[TrialRecord], objectives: list[dict[str, str]], later: dict[str, Any] | None, finalists: list[str],
    expected: tuple[str, float] | None,
) -> None:  # fmt: skip
    phases = [phase("search", "search", "s0", "s1", "s2") | {"finalists": finalists}]
    phases += [] if later is None else [phase("later", "search", "t0")]
    whole = study(*phases, objectives=objectives)
    whole["config"]["phases"][-1] |= {"search": {"objectives": objectives} | later} if later is not None else {}
    finished = [Finished(r.key, r.info["phase"], r.info["number"], metrics_of(r.events), r.info) for r in records]
    found = champion_of(whole, finished)
    choice = choice_of(Snapshot("s", whole, records, []))
    assert (None if found is None else (found.key, found.value)) == expected
    assert (None if choice.record is None else choice.record.key) == (None if expected is None else expected[0])
    if found is not None:
        assert choice.words.endswith(f"by {found.metric} on validation")
    if expected is None:
        assert choice.words.startswith("nothing was chosen: no finished trial of phase later ")


def test_confirming_has_chosen_and_its_own_figures_change_nothing():
    confirmed = [trial("c2", "confirm", 2, 0.99, **{"test/noise": 0.99}), trial("c1", "confirm", 1, 0.1)]
    whole = study(phase("search", "search", "s0", "s1"), phase("confirm", "confirm", "c0", "c1", "c2"))
    found = champion_of(whole, [*SEARCH, *confirmed])
    assert found is not None
    assert found.key == "c1", "c0 failed; c1 is the first choice's next seed"


def test_test_figures_decide_nothing():
    trials = [trial("t0", "a", 0, 0.6, **{"test/noise": 0.1}), trial("t1", "b", 0, 0.5, **{"test/noise": 0.9})]
    found = champion_of(study(phase("a", "train", "t0"), phase("b", "train", "t1")), trials)
    assert found is not None
    assert found.key == "t0"


def test_without_validation_noise_clean_accuracy_orders():
    trials = [Finished("t0", "a", 0, {"acc/clean": 0.4}), Finished("t1", "a", 1, {"acc/clean": 0.6})]
    found = champion_of(study(phase("a", "train", "t0", "t1")), trials)
    assert found is not None
    assert (found.key, found.metric) == ("t1", "acc/clean")


def test_there_is_none_before_the_end_nor_of_trials_that_no_phase_counts():
    running = study(phase("search", "search", "s0"), phase("confirm", "confirm", status="running"))
    assert champion_of(running, SEARCH) is None
    unbegun = {**study(phase("search", "search", "s0")), "config": {"phases": [{"name": "search"}, {"name": "more"}]}}
    assert champion_of(unbegun, SEARCH) is None
    assert champion_of(study(phase("search", "search")), SEARCH) is None
    assert champion_of({}, []) is None


def searched(finalists: list[str] | None = None, **search: Any) -> dict[str, Any]:
    found = study(phase("search", "search", "s0", "s1"))
    found["phases"][0] |= {"finalists": finalists} if finalists else {}
    found["config"]["search"] |= search
    return found


def test_finalists_alone_count_and_by_their_figures_on_the_whole_grid():
    trials = [trial("s0", "search", 0, 0.6, **{"full/acc/noise": 0.8}), trial("s1", "search", 1, 0.9)]
    found = champion_of(searched(["s0"]), trials)
    assert found is not None
    assert (found.key, found.value) == ("s0", 0.8)
    measured = [trials[0], trial("s1", "search", 1, 0.9, **{"full/acc/noise": 0.7})]
    found = champion_of(searched(["s1", "s0"]), measured)
    assert found is not None
    assert (found.key, found.value) == ("s0", 0.8)
    found = champion_of(searched(["s1", "s0"]), trials)
    assert found is not None
    assert found.key == "s0", "s1 could not be measured"


def test_a_trial_that_breaks_a_constraint_is_never_it():
    trials = [trial("s0", "search", 0, 0.6, **{"cost/passes": 2.0}),
              trial("s1", "search", 1, 0.9, **{"cost/passes": 9.0})]  # fmt: skip
    found = champion_of(searched(constraints=["passes <= 3"]), trials)
    assert found is not None
    assert found.key == "s0"
    whole = searched(constraints=["passes <= 1"])
    whole["phases"].append(phase("train", "train", "t0"))
    assert champion_of(whole, [*trials, trial("t0", "train", 0, 0.5)]) is None


def test_constraints_are_judged_by_the_whole_grid():
    trials = [trial("s0", "search", 0, 0.9, **{"full/acc/noise": 0.4}),
              trial("s1", "search", 1, 0.3, **{"full/acc/noise": 0.6})]  # fmt: skip
    found = champion_of(searched(["s0", "s1"], constraints=["noise_accuracy >= 0.5"]), trials)
    assert found is not None
    assert found.key == "s1"


def test_metrics_are_the_last_ends_and_the_whole_grids():
    events = [{"event": "final", "metrics": {"acc/noise": 0.1, "test/noise": 0.2}}, {"event": "resume"},
              {"event": "final", "metrics": {"acc/noise": 0.5}},
              {"event": "full", "metrics": {"full/acc/noise": 0.6}}]  # fmt: skip
    assert metrics_of(events) == {"acc/noise": 0.5, "full/acc/noise": 0.6}


def test_with_adaptive_seeds_it_is_the_last_looks_leader():
    whole = study(phase("search", "search", "s0", "s1"), phase("confirm", "confirm", "c0", "c1", "c2", "c3", "c4"))
    whole["config"]["phases"][1]["seeds"] = [101, 102]
    whole["phases"][1] |= {"selected": ["s1", "s0"], "looks": [{"leader": "s1"}, {"leader": "s0"}]}
    confirmed = [trial(f"c{number}", "confirm", number, 0.5) for number in range(6)]
    found = champion_of(whole, [*SEARCH, *confirmed])
    assert found is not None
    assert found.key == "c2", "the second contender's first seed"


def confirmed() -> tuple[dict[str, Any], list[Finished]]:
    """s1 is put first, its seeds are c0 and c1; then s0's."""
    whole = study(phase("search", "search", "s0", "s1"), phase("confirm", "confirm", "c0", "c1", "c2", "c3"))
    whole["config"]["phases"][1] |= {"seeds": [101, 102]}
    whole["phases"][1] |= {"selected": ["s1", "s0"]}
    return whole, [trial(f"c{number}", "confirm", number, 0.5) for number in range(4)]


def test_another_choice_never_stands_for_the_first():
    whole, trials = confirmed()
    found = champion_of(whole, [*SEARCH, *trials[1:]])
    assert found is not None
    assert found.key == "c1", "the first choice's other seed"
    found = champion_of(whole, [*SEARCH, *trials[2:]])
    assert found is not None
    assert (found.key, found.value) == ("s1", 0.7)
    assert "none of its seeds finished there" in found.reason


def test_a_choice_that_cannot_be_read_and_whose_seeds_failed_leaves_no_champion():
    whole, trials = confirmed()
    assert champion_of(whole, [SEARCH[0], *trials[2:]]) is None
    found = champion_of(whole, [SEARCH[0], *trials[1:]])
    assert found is not None
    assert found.key == "c1", "its own seed is there"


def test_the_search_trial_of_a_choice_has_its_figure_of_the_whole_grid():
    whole, trials = confirmed()
    whole["phases"][0]["finalists"] = ["s1", "s0"]
    measured = [item._replace(metrics={**item.metrics, "full/acc/noise": 0.4}) for item in SEARCH[:2]]
    found = champion_of(whole, [*measured, *trials[2:]])
    assert found is not None
    assert (found.key, found.value) == ("s1", 0.4)


def test_settings_and_not_numbers_tell_whose_a_confirmed_trial_is():
    whole, trials = confirmed()
    whole["config"]["phases"][1]["set"] = {"train.epochs": 12}

    def with_info(item: Finished, rate: float, epochs: int) -> Finished:
        return item._replace(info={"config": {"optim": {"lr": rate}, "train": {"epochs": epochs, "seed": item.number}}})

    search = [with_info(SEARCH[0], 0.1, 6), with_info(SEARCH[1], 0.2, 6)]
    tested = [with_info(item, rate, 12) for item, rate in zip(trials, (0.1, 0.1, 0.2, 0.2), strict=True)]
    found = champion_of(whole, [*search, *tested])
    assert found is not None
    assert found.key == "c2", "numbers are those of an earlier order (--again)"
