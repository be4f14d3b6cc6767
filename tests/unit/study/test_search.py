"""A search without Ray: what Optuna is told, what is fed from the ledger, duplicates."""

import math

import pytest
from optuna.trial import TrialState

from study.config_search import Objective
from study.ledger import Ledger
from study.searcher import MAX_ASKS, derived_seed
from tests.unit.study.searches import SmallSpace, epoch, finish, source_of, spec_of, told


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


def test_finished_trial_is_complete_with_its_value(ledger):
    source = source_of(ledger)
    key = source.next_spec().key
    finish(ledger, source, key, **{"acc/noise": 0.5})
    assert [(trial.state, trial.value) for trial in told(source)] == [(TrialState.COMPLETE, 0.5)]


def test_pruned_trial_is_pruned_with_its_last_step(ledger):
    source = source_of(ledger)
    key = source.next_spec().key
    for number, value in ((1, 0.1), (2, 0.2)):
        source.on_epoch(key, number, {"acc/noise": value})
    source.on_end(key, "pruned", {"acc/noise": 0.2})
    (trial,) = told(source)
    assert trial.state == TrialState.PRUNED
    assert trial.last_step == 2


@pytest.mark.parametrize("metrics", [{"acc/noise": math.nan}, {"acc/noise": None}, {"acc/clean": 0.5}, {}])
def test_end_without_a_number_is_a_failure(ledger, metrics):
    source = source_of(ledger)
    key = source.next_spec().key
    source.on_end(key, "finished", metrics)
    assert told(source)[0].state == TrialState.FAIL


def test_failed_trial_is_a_failure(ledger):
    source = source_of(ledger)
    source.on_end(source.next_spec().key, "failed", {"acc/noise": 0.5})
    assert told(source)[0].state == TrialState.FAIL


def test_interrupted_trial_is_told_nothing(ledger):
    source = source_of(ledger)
    source.on_end(source.next_spec().key, "running", {})
    assert told(source)[0].state == TrialState.RUNNING


def test_nan_in_an_epoch_is_passed_over(ledger):
    source = source_of(ledger)
    key = source.next_spec().key
    source.on_epoch(key, 1, {"acc/noise": math.nan})
    source.on_epoch(key, 2, {"acc/noise": 0.5})
    source.on_epoch(key, 2, {"acc/noise": 0.6})
    source.on_end(key, "pruned", {})
    assert told(source)[0].intermediate_values == {2: 0.5}


def test_several_objectives_take_lists(ledger):
    objectives = (Objective(), Objective(metric="cost/passes", goal="minimise"))
    source = source_of(ledger, objectives=objectives)
    key = source.next_spec().key
    source.on_epoch(key, 1, {"acc/noise": 0.1})
    finish(ledger, source, key, **{"acc/noise": 0.5, "cost/passes": 9.0})
    other = source.next_spec().key
    finish(ledger, source, other, **{"acc/noise": 0.5})
    assert [trial.state for trial in told(source)] == [TrialState.COMPLETE, TrialState.FAIL]
    assert told(source)[0].values == [0.5, 9.0]


def test_direction_follows_the_goal(ledger):
    source = source_of(ledger, objectives=(Objective(metric="cost/seconds", goal="minimise"),))
    assert [item.name for item in source._study.directions] == ["MINIMIZE"]
    assert (source.metric, source.maximise) == ("cost/seconds", False)


def test_relaunch_tells_every_end(ledger):
    source = source_of(ledger)
    keys = [source.next_spec().key for _ in range(4)]
    epoch(ledger, keys[1], 1, 0.25)
    ledger.append(keys[0], "final", epoch=4, metrics={"acc/noise": 0.5})
    ledger.append(keys[1], "pruned", epoch=1, metrics={"acc/noise": 0.25})
    ledger.append(keys[2], "failed", error="ValueError: lr")
    again = source_of(ledger)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in told(again)] == states
    assert told(again)[0].params == source._study.trials[0].params
    assert told(again)[1].intermediate_values == {1: 0.25}
    assert again.known == dict(zip(keys, ["finished", "pruned", "failed", "running"], strict=True))


def test_interrupted_trial_comes_first_with_its_own_number(ledger):
    source = source_of(ledger)
    first, second = source.next_spec(), source.next_spec()
    finish(ledger, source, first.key, **{"acc/noise": 0.5})
    epoch(ledger, second.key, 1, 0.125)
    again = source_of(ledger)
    assert again.next_spec() == second
    again.on_epoch(second.key, 1, {"acc/noise": 0.125})
    assert again.next_spec().number == 2
    finish(ledger, again, second.key, **{"acc/noise": 0.75})
    assert told(again)[1].params == source._study.trials[1].params
    assert told(again)[1].value == 0.75


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_search_cut_off_anywhere_goes_on_as_if_it_were_not(tmp_path, algorithm):
    def params_of(cuts: set[int], name: str) -> list[dict]:
        ledger = Ledger(str(tmp_path), name)
        source = source_of(ledger, algorithm=algorithm, seed=3)
        drawn = []
        for number in range(14):
            if number in cuts:
                source = source_of(ledger, algorithm=algorithm, seed=3)
            spec = source.next_spec()
            drawn.append(spec.params)
            finish(ledger, source, spec.key, **{"acc/noise": spec.params["optim.lr"]})
        return drawn

    assert params_of({1, 5, 12}, "cut") == params_of(set(), "whole")


def test_seed_changes_the_search(tmp_path):
    first = [source_of(Ledger(str(tmp_path), f"s{seed}"), seed=seed).next_spec().params for seed in (0, 1)]
    assert first[0] != first[1]
    assert derived_seed(0, 1, 0) != derived_seed(0, 0, 1)


def test_trials_of_other_settings_are_left_aside(ledger):
    """A study that was changed under its name must not learn from trials of other settings."""
    source = source_of(ledger)
    old = source.next_spec()
    finish(ledger, source, old.key, **{"acc/noise": 0.5})

    def changed(params, number):
        return spec_of({**params, "train.epochs": 9}, number)

    again = source_of(ledger, spec_of=changed)
    assert told(again) == []
    assert again.known == {}
    assert again.next_spec().number == 1, "numbers are not given twice"


def test_trials_that_the_space_would_not_give_today_are_known_but_not_told(ledger):
    for number, params in enumerate(({"optim.name": "gone"}, {"optim.name": "a"})):
        spec = spec_of(params, number)
        ledger.create_trial(spec)
        ledger.append(spec.key, "final", epoch=4, metrics={"acc/noise": 0.5})
    source = source_of(ledger, SmallSpace(), algorithm="random")
    assert [trial.params for trial in told(source)] == [{"optim.name": "a"}]
    assert len(source.known) == 2


def test_interrupted_trial_outside_the_space_is_run_without_optuna(ledger):
    spec = spec_of({"optim.name": "gone"}, 0)
    ledger.create_trial(spec)
    source = source_of(ledger, SmallSpace())
    assert source.next_spec() == spec
    finish(ledger, source, spec.key, **{"acc/noise": 0.5})
    assert told(source) == []


def test_trials_of_another_phase_are_not_told(ledger):
    ledger.create_trial(spec_of({"optim.lr": 0.1}, 0, phase="warm-up"))
    source = source_of(ledger)
    assert told(source) == []
    assert source.next_spec().number == 0


def test_known_suggestion_is_answered_and_another_one_asked(ledger):
    source = source_of(ledger, SmallSpace(), algorithm="random")
    seen = set()
    for value in (0.1, 0.2, 0.3):
        spec = source.next_spec()
        seen.add(spec.params["optim.name"])
        finish(ledger, source, spec.key, **{"acc/noise": value})
    assert seen == {"a", "b", "c"}
    values = {(trial.params["optim.name"], trial.value) for trial in told(source)}
    assert len(values) == 3, "a duplicate is told the value of the trial it repeats"
    assert list(range(3)) == [ledger.trial(key)["number"] for key in ledger.keys("search")]


def test_exhausted_space_ends_the_search(ledger):
    source = source_of(ledger, SmallSpace(), algorithm="random")
    for value in (0.1, 0.2, 0.3):
        finish(ledger, source, source.next_spec().key, **{"acc/noise": value})
    assert not source.exhausted
    assert source.next_spec() is None
    assert source.exhausted


def test_suggestion_under_way_is_not_run_twice(ledger):
    source = source_of(ledger, SmallSpace(), algorithm="random")
    keys = {source.next_spec().key for _ in range(3)}
    assert len(keys) == 3
    assert source.next_spec() is None
    assert {trial.state for trial in told(source)} == {TrialState.RUNNING, TrialState.FAIL}


def test_duplicate_of_a_pruned_trial_is_told_pruned(ledger):
    source = source_of(ledger, SmallSpace(), algorithm="random")
    for _ in range(3):
        key = source.next_spec().key
        epoch(ledger, key, 1, 0.5)
        source.on_epoch(key, 1, {"acc/noise": 0.5})
        ledger.append(key, "pruned", epoch=1, metrics={"acc/noise": 0.5})
        source.on_end(key, "pruned", {})
    assert source.next_spec() is None
    assert {(trial.state, trial.last_step) for trial in told(source)} == {(TrialState.PRUNED, 1)}


def test_keys_that_do_not_go_together_are_passed_over(ledger):
    def picky(params, number):
        if params["optim.name"] == "b":
            raise ValueError("b does not go with a")
        return spec_of(params, number)

    source = source_of(ledger, SmallSpace(), spec_of=picky, algorithm="random")
    assert {source.next_spec().params["optim.name"] for _ in range(2)} == {"a", "c"}
    assert source.next_spec() is None
    assert "b does not go with a" in source.refusals


def test_space_without_any_valid_trial_is_an_error(ledger):
    def never_valid(params, number):
        raise ValueError("optim.name must be sgd")

    source = source_of(ledger, SmallSpace(), spec_of=never_valid)
    with pytest.raises(ValueError, match=r"no suggestion gives a valid trial.*must be sgd"):
        source.next_spec()
    assert len(source.refusals) == MAX_ASKS
