"""A search without Ray: what Optuna is told, what is fed from the ledger, duplicates, ends, ASHA, signals."""

import dataclasses
import hashlib
import json
import math
import os
import random
import signal
import threading
import traceback
import types

import pytest
from optuna.trial import TrialState
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from study import search
from study.again import Again
from study.bridge import LedgerAsha, TuneSearcher, failure, settle
from study.config_search import Objective, Scheduler, SearchConfig
from study.ledger import Ledger, TrialSpec
from study.loop import Stopped
from study.progress import Board
from study.runtime import StopRequest, catch_signals
from study.searcher import MAX_ASKS, OptunaSource, derived_seed
from study.storage import StudyLostError
from study.trialsource import ListSource
from study.worker import RecordFailure, cause_of, is_loss

EPOCHS = 4


class FloatSpace:
    """One float and, on one of its sides, an int."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        params = {"optim.lr": trial.suggest_float("optim.lr", 0.0, 1.0)}
        if params["optim.lr"] > 0.5:
            params["train.batch_size"] = trial.suggest_int("train.batch_size", 2, 64)
        return params


class SmallSpace:
    """Three configurations."""

    def encode(self, params):
        return params

    def suggest(self, trial):
        return {"optim.name": trial.suggest_categorical("optim.name", ["a", "b", "c"])}


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


def spec_of(params: dict, number: int, *, phase: str = "search") -> TrialSpec:
    key = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
    config = {"train": {"epochs": EPOCHS}}
    return TrialSpec(key, "study", phase, "search", number, 0, config, "f", "unused", "unused", params)


def source_of(ledger: Ledger, space=None, *, spec_of=spec_of, **search) -> OptunaSource:
    source = OptunaSource(space or FloatSpace(), SearchConfig(**search), spec_of=spec_of, ledger=ledger, phase="search")
    source.feed()
    return source


def epoch(ledger: Ledger, key: str, number: int, value: float) -> None:
    ledger.append(key, "epoch", epoch=number, step=0, metrics={"acc/noise": value}, final=False)


def finish(ledger: Ledger, source: OptunaSource, key: str, **metrics: float) -> None:
    """A trial that runs to its end, as the ledger and the source see it."""
    ledger.append(key, "final", epoch=EPOCHS, step=0, metrics=metrics, final=True)
    source.on_end(key, "finished", ledger.metrics(key))


def told(source: OptunaSource) -> list:
    return source._study.get_trials(deepcopy=False)


# ------------------------------------------------------------------------------------------------------ what is told
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


# -------------------------------------------------------------------------------------------------- from the ledger
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


# ------------------------------------------------------------------------------------------------------- duplicates
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


# ----------------------------------------------------------------------------------------------------- Tune's searcher
class Bench:
    """A searcher with its surroundings."""

    def __init__(self, ledger: Ledger, source=None) -> None:
        self.ledger = ledger
        self.source = source or source_of(ledger)
        self.board = Board("search", 8)
        self.stop = StopRequest()
        self.pruned: set[str] = set()
        self.now = 0.0
        self.begun: dict[str, int] = {}
        self.searcher = TuneSearcher(
            self.source, 8, ledger=ledger, board=self.board, stop=self.stop, job={"executor": "inline"},
            pruned=self.pruned, again=Again(lambda key: self.begun.get(key, 0), 1, clock=lambda: self.now),
        )  # fmt: skip

    def suggest(self, trial_id: str = "t0") -> str:
        return self.searcher.suggest(trial_id)["spec"]["key"]


@pytest.fixture
def bench(ledger) -> Bench:
    return Bench(ledger)


def test_finished_trial_is_taken_from_the_ledger(bench):
    key = bench.suggest()
    bench.searcher.on_trial_result("t0", {"epoch": 1, "acc/noise": 0.1, "final": False})
    bench.ledger.append(key, "final", epoch=4, metrics={"acc/noise": 0.5})
    bench.searcher.on_trial_complete("t0", {"epoch": 4, "acc/noise": 0.5, "final": True})
    (trial,) = told(bench.source)
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.1})
    assert bench.board.snapshot().best.value == 0.5


def test_pruned_trial_gets_its_event_from_the_driver(bench):
    key = bench.suggest()
    for number, value in ((1, 0.3), (2, 0.1)):
        epoch(bench.ledger, key, number, value)
    bench.searcher.on_trial_result("t0", {"epoch": 1, "acc/noise": 0.3})
    bench.pruned.add(key)
    bench.searcher.on_trial_complete("t0", {"epoch": 2, "acc/noise": 0.1})
    event = bench.ledger.events(key)[-1]
    assert (event["event"], event["epoch"], event["metrics"]) == ("pruned", 2, {"acc/noise": 0.1})
    (trial,) = told(bench.source)
    assert (trial.state, trial.last_step) == (TrialState.PRUNED, 2)


def test_trial_interrupted_is_not_pruned(bench):
    key = bench.suggest()
    epoch(bench.ledger, key, 1, 0.3)
    bench.stop.request()
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.ledger.status(key) == "running"
    assert [event["event"] for event in bench.ledger.events(key)] == ["epoch"]
    assert told(bench.source)[0].state == TrialState.RUNNING


def test_no_trial_is_handed_out_after_a_request_to_stop(bench):
    bench.stop.request()
    assert bench.searcher.suggest("t0") == Searcher.FINISHED


@pytest.mark.parametrize("is_pruned", [True, False])
def test_a_study_that_another_driver_took_gets_no_event_and_no_trial(bench, monkeypatch, is_pruned):
    key = bench.suggest()
    epoch(bench.ledger, key, 1, 0.3)
    if is_pruned:
        bench.pruned.add(key)
    files, before = bench.ledger.files, bench.ledger.keys()
    bench.begun[key] = 2

    def refuse() -> None:
        raise StudyLostError("taken over")

    monkeypatch.setattr(files, "refuse_if_lost", refuse)
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.searcher.suggest("t1") == Searcher.FINISHED
    assert [event["event"] for event in bench.ledger.events(key)] == ["epoch"]
    assert bench.ledger.keys() == before


def test_a_lost_study_is_a_request_to_stop():
    lost: list[str] = []
    stop = StopRequest(lambda: bool(lost))
    assert not stop.requested
    assert not stop.wait(0.0)
    lost.append("driver")
    assert stop.requested
    assert stop.wait(60.0)


def test_lost_process_is_a_recorded_failure(bench):
    key = bench.suggest()
    bench.begun[key] = 2
    bench.searcher.on_trial_complete("t0", None, error=True)
    assert bench.ledger.status(key) == "failed"
    assert "process was lost" in failure(bench.ledger, key)
    assert told(bench.source)[0].state == TrialState.FAIL
    assert any("process was lost" in note for note in bench.board.take_notes())


def test_trial_without_a_place_goes_out_again(bench):
    """As after the loss of a node: one process started, the next one found no place, retries are left."""
    key = bench.suggest("t0")
    bench.begun[key] = 1
    for event in ("start", "out_of_memory", "resume", "out_of_memory", "resume"):
        bench.ledger.append(key, event)  # a process that halved its micro-batch twice is one process
    bench.searcher.on_trial_complete("t0", None, error=True)
    assert bench.ledger.status(key) == "running"
    assert told(bench.source)[0].state == TrialState.RUNNING
    assert any("goes on elsewhere" in note for note in bench.board.take_notes())
    assert bench.suggest("t1") != key, "it waits while others go out"
    bench.now = 6.0
    assert bench.suggest("t2") == key
    for epochs in range(1, 5):
        epoch(bench.ledger, key, epochs, 0.5)
    bench.ledger.append(key, "final", epoch=4, metrics={"acc/noise": 0.5})
    bench.searcher.on_trial_complete("t2", {"epoch": 4, "acc/noise": 0.5, "final": True})
    assert bench.board.snapshot().finished == 1
    assert len({bench.suggest(f"n{number}") for number in range(6)}) == 6, "8 trials in all"
    assert bench.searcher.suggest("none left, but some under way") is None


def test_trial_that_finds_no_place_fails_at_last(bench):
    key = bench.suggest("t0")
    for number in range(20):
        bench.searcher.on_trial_complete(f"t{number}", None, error=True)
        if bench.ledger.status(key) == "failed":
            break
        bench.now += 60.0
        assert bench.suggest(f"t{number + 1}") == key
    assert bench.ledger.status(key) == "failed"
    assert 600 < bench.now < 900


def test_trial_that_waits_is_left_to_the_next_launch_on_a_request_to_stop(bench):
    key = bench.suggest("t0")
    bench.searcher.on_trial_complete("t0", None, error=True)
    bench.stop.request()
    assert bench.searcher.suggest("t1") == Searcher.FINISHED
    assert bench.ledger.status(key) == "running"


def test_failure_that_the_trial_recorded_is_kept(bench):
    key = bench.suggest()
    bench.ledger.append(key, "failed", error="ValueError: lr must be positive\nmore")
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert len(bench.ledger.events(key)) == 1
    assert failure(bench.ledger, key) == "ValueError: lr must be positive"
    assert told(bench.source)[0].state == TrialState.FAIL


def test_trial_that_just_ends_again_and_again_is_a_failure(bench):
    key = bench.suggest()
    bench.begun[key] = 1
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert bench.ledger.status(key) == "running"
    bench.now = 6.0
    assert bench.suggest() == key
    bench.begun[key] = 2
    bench.searcher.on_trial_complete("t0", {"epoch": 1, "acc/noise": 0.3})
    assert "without its last report" in failure(bench.ledger, key)


@pytest.mark.parametrize("event", ["final", "failed"])
def test_settling_keeps_an_end_that_is_there(ledger, event):
    ledger.append("k", event, epoch=4, metrics={"acc/noise": 0.5})
    before = ledger.events("k")
    settle(ledger, "k", is_lost=True, is_pruned=True, is_stopping=True)
    assert ledger.events("k") == before


def test_searcher_keeps_nothing_in_rays_files(bench, tmp_path):
    place = tmp_path / "searcher.pkl"
    bench.searcher.save(str(place))
    assert not place.exists()
    assert bench.searcher.__getstate__() == {}
    with pytest.raises(NotImplementedError, match="murk resume"):
        bench.searcher.restore(str(place))


def test_list_gives_each_trial_once_and_writes_it(ledger):
    specs = [spec_of({"optim.lr": lr}, number) for number, lr in enumerate((0.1, 0.2))]
    bench = Bench(ledger, ListSource(specs, ledger))
    assert [bench.suggest("t0"), bench.suggest("t1")] == [spec.key for spec in specs] == ledger.keys("search")
    assert bench.searcher.suggest("t2") is None, "one of them may have to go out again"
    for number, spec in enumerate(specs):
        bench.ledger.append(spec.key, "final", epoch=1, metrics={"acc/noise": 0.5})
        bench.searcher.on_trial_complete(f"t{number}", {"epoch": 1, "acc/noise": 0.5, "final": True})
    assert bench.searcher.suggest("t2") == Searcher.FINISHED


# --------------------------------------------------------------------------------------------------------------- ASHA
def asha(pruned: set[str] | None = None, *, maximise: bool = True) -> LedgerAsha:
    settings = Scheduler(name="asha", grace_epochs=1, reduction_factor=2)
    return LedgerAsha(
        settings, metric="acc/noise", maximise=maximise, pruned=set() if pruned is None else pruned
    )  # fmt: skip


def tune_trial_of(key: str, epochs: int = EPOCHS) -> types.SimpleNamespace:
    spec = {"key": key, "config": {"train": {"epochs": epochs}}}
    return types.SimpleNamespace(trial_id=f"tune-{key}", config={"spec": spec})


def judge(scheduler: LedgerAsha, key: str, number: int, value: float | None, **more) -> str:
    trial = tune_trial_of(key)
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": number, "acc/noise": value, **more})


@pytest.mark.parametrize(("maximise", "worse"), [(True, 0.1), (False, 0.9)])
def test_worse_trial_is_stopped_and_noted(maximise, worse):
    pruned: set[str] = set()
    scheduler = asha(pruned, maximise=maximise)
    assert judge(scheduler, "a", 1, 0.5) == TrialScheduler.CONTINUE
    assert judge(scheduler, "b", 1, worse) == TrialScheduler.STOP
    assert pruned == {"b"}


def test_trial_with_all_its_epochs_done_is_never_stopped():
    scheduler = asha()
    judge(scheduler, "a", EPOCHS, 0.9)
    assert judge(scheduler, "b", EPOCHS, 0.1) == TrialScheduler.CONTINUE
    assert judge(scheduler, "b", EPOCHS, 0.1, final=True) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("value", [math.nan, None])
def test_missing_figure_is_not_judged(value):
    scheduler = asha()
    judge(scheduler, "a", 1, 0.5)
    assert judge(scheduler, "b", 1, value) == TrialScheduler.CONTINUE
    assert judge(scheduler, "c", 1, 0.1) == TrialScheduler.STOP


def test_trials_of_earlier_launches_count():
    scheduler = asha()
    scheduler.learn("old", {"epoch": 1, "acc/noise": 0.5})
    assert judge(scheduler, "new", 1, 0.1) == TrialScheduler.STOP


def test_resumed_trial_is_not_judged_again_at_a_rung_it_passed():
    scheduler = asha()
    for key, value in (("a", 0.5), ("b", 0.6)):
        scheduler.learn(key, {"epoch": 1, "acc/noise": value})
    assert judge(scheduler, "a", 1, 0.5) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(("last", "expected"), [((2,), "pruned"), ((2, 3), "running"), ((EPOCHS,), "running")])
def test_trial_that_was_cut_off_between_its_stop_and_its_record_is_pruned(ledger, monkeypatch, last, expected):
    """One that went on after that epoch, or has all its epochs, was not stopped by it."""
    asked = []
    monkeypatch.setattr(search, "_run", lambda source, count, **_: asked.append(count))
    specs = [spec_of({"optim.lr": lr}, number) for number, lr in enumerate((0.1, 0.2, 0.3))]
    for spec in specs:
        ledger.create_trial(spec)
    first, second, third = (spec.key for spec in specs)
    epoch(ledger, first, 2, 0.5)
    epoch(ledger, second, 2, 0.9)
    for number in last:
        epoch(ledger, third, number, 0.1)
    settings = SearchConfig(trials=3, scheduler=Scheduler(name="asha", grace_epochs=2, reduction_factor=2))
    capacity = types.SimpleNamespace(max_concurrent=1)
    search.run_search(
        settings, space=FloatSpace(), spec_of=spec_of, phase="search", ledger=ledger,
        runtime=types.SimpleNamespace(capacity=capacity),
    )  # fmt: skip
    assert [ledger.status(key) for key in (first, second, third)] == ["running", "running", expected]
    assert asked == [2 if expected == "pruned" else 3]


def test_epochs_of_earlier_launches_are_judged_in_the_order_of_their_times(ledger, monkeypatch):
    monkeypatch.setattr(search, "_run", lambda *_, **__: None)
    specs = [spec_of({"optim.lr": lr}, number) for number, lr in enumerate((0.1, 0.2))]
    for spec in specs:
        ledger.create_trial(spec)
    epoch(ledger, specs[1].key, 1, 0.3)  # the first report, so nothing stopped it
    epoch(ledger, specs[0].key, 1, 0.9)
    settings = SearchConfig(trials=3, scheduler=Scheduler(name="asha", grace_epochs=1, reduction_factor=2))
    runtime = types.SimpleNamespace(capacity=types.SimpleNamespace(max_concurrent=1))
    search.run_search(settings, space=FloatSpace(), spec_of=spec_of, phase="search", ledger=ledger, runtime=runtime)
    assert [ledger.status(spec.key) for spec in specs] == ["running", "running"]


@pytest.mark.parametrize("seed", range(5))
def test_a_scheduler_of_a_new_launch_has_judged_what_the_old_one_had(ledger, seed):
    """Among trials of several lengths that finish, are stopped at once or late, or lose a report with their process."""
    settings = SearchConfig(trials=99, scheduler=Scheduler(name="asha", grace_epochs=1, reduction_factor=2))
    dice, pruned, specs = random.Random(seed), set[str](), {}
    live, _ = search._asha(settings, ledger, source_of(ledger), pruned, 1)
    for number in range(16):
        spec = spec_of({"optim.lr": number / 16}, number)
        specs[spec.key] = dataclasses.replace(spec, config={"train": {"epochs": dice.choice([2, 4, 8])}})
        ledger.create_trial(specs[spec.key])
    done, lost = dict.fromkeys(specs, 0), 0
    while done:
        key = dice.choice(list(done))
        epochs, values = specs[key].config["train"]["epochs"], [round(dice.random(), 1) for _ in range(3)]
        if done[key] + 1 < epochs and dice.random() < 0.2:  # saved, but neither recorded nor reported before the loss
            done[key], lost = done[key] + 1, lost + 1
            epoch(ledger, key, done[key], values[0])
        done[key] += 1
        epoch(ledger, key, done[key], values[1])
        trial = types.SimpleNamespace(trial_id=key, config={"spec": specs[key].as_dict()})
        report = {"epoch": done[key], "acc/noise": values[1], "final": False}
        if live.on_trial_result(None, trial, report) == TrialScheduler.STOP:
            if done[key] + 1 < epochs and dice.random() < 0.5:  # one with workers is asked, and goes on meanwhile
                epoch(ledger, key, done.pop(key) + 1, values[2])
            settle(ledger, key, is_lost=False, is_pruned=True, is_stopping=False)
            done.pop(key, None)
        elif done[key] == epochs:
            ledger.append(key, "final", epoch=epochs, step=0, metrics={"acc/noise": values[2]}, final=True)
            del done[key]
    assert lost > 1
    assert len(pruned) > 2
    again, stopped = search._asha(settings, ledger, source_of(ledger), set(), 1)
    assert again._rungs._ladders == live._rungs._ladders
    assert stopped == []


def test_the_last_epoch_of_a_whole_trial_counts_for_longer_ones():
    scheduler = asha()
    judge(scheduler, "a", EPOCHS, 0.9)
    longer = tune_trial_of("b", 4 * EPOCHS)
    report = {"epoch": EPOCHS, "acc/noise": 0.1}
    assert scheduler.on_trial_result(None, longer, report) == TrialScheduler.STOP


def test_an_epoch_that_was_recorded_but_never_reported_is_judged_by_its_own_figure():
    known = {1: {"acc/noise": 0.1}}
    settings, pruned = Scheduler(name="asha", grace_epochs=1, reduction_factor=2), set[str]()
    scheduler = LedgerAsha(
        settings, metric="acc/noise", maximise=True, pruned=pruned, recorded=lambda key: known if key == "b" else {}
    )
    judge(scheduler, "a", 1, 0.5)
    assert judge(scheduler, "b", 2, 0.9) == TrialScheduler.STOP, "it was the worse one at its first rung"
    assert pruned == {"b"}


def test_trial_with_workers_is_asked_to_end_itself_and_asked_once():
    asked: list[str] = []
    pruned: set[str] = set()
    scheduler = asha(pruned)
    scheduler.leave_stopping_to(asked.append)
    judge(scheduler, "a", 1, 0.5)
    assert [judge(scheduler, "b", number, 0.1) for number in (1, 2)] == [TrialScheduler.CONTINUE] * 2
    assert (asked, pruned) == (["b"], {"b"})


def test_scheduler_keeps_nothing_in_rays_files():
    assert asha().__getstate__() == {}


# ------------------------------------------------------------------------------------------------- failures and signals
def test_error_becomes_a_failed_event_and_ends_there(ledger):
    with RecordFailure(ledger, "k"):
        raise ValueError("lr must be positive, but got -1")
    (event,) = ledger.events("k")
    assert event["error"] == "ValueError: lr must be positive, but got -1"
    assert "Traceback" in event["traceback"]
    assert ledger.status("k") == "failed"


def test_stopping_is_no_failure(ledger):
    with RecordFailure(ledger, "k"):
        raise Stopped
    assert ledger.events("k") == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_process_passes(ledger, kind):
    with pytest.raises(kind), RecordFailure(ledger, "k"):
        raise kind
    assert ledger.events("k") == []


class WorkerLost(Exception):
    """As Ray Train says that a worker no longer answers."""

    health_check_failure = RayActorError()


def test_lost_worker_comes_before_the_errors_it_causes():
    broken, lost = RuntimeError("Connection closed by peer"), WorkerLost()
    assert cause_of(WorkerGroupError("", {0: broken, 1: lost})) is lost
    assert is_loss(lost)
    assert not is_loss(ValueError("the worker's own"))


def test_error_of_the_lowest_rank_is_the_cause_and_carries_the_text_of_all():
    errors: dict[int, Exception] = {1: ValueError("second"), 0: ValueError("first")}
    cause = cause_of(WorkerGroupError("in run_trial", errors))
    assert cause is errors[0]
    assert "in run_trial" in "".join(traceback.format_exception(cause))


def test_first_signal_asks_and_the_second_ends(capfd):
    before = signal.getsignal(signal.SIGINT)
    with catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "running trials save" in capfd.readouterr().err


def test_signals_are_left_alone_outside_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def inside() -> None:
        with catch_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_credentials_stay_out_of_what_ray_writes_down(monkeypatch):
    from ray.tune.execution.class_cache import _ActorClassCache

    class Trainable:
        pass

    def passed_on() -> dict[str, str]:
        return _ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"]

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    assert passed_on()["AWS_SECRET_ACCESS_KEY"] == "hidden", "Ray does not do that any more: the guard may go"
    with search._credentials_stay():
        kept = passed_on()
    assert kept["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert "AWS_SECRET_ACCESS_KEY" not in kept
    assert "AWS_SECRET_ACCESS_KEY" in passed_on()
