"""ASHA over the ledger: what it stops, and that a relaunch judges as the launch before."""

import dataclasses
import math
import random
import types

import pytest
from ray.tune.schedulers import TrialScheduler

from study import search
from study.bridge import LedgerAsha, settle
from study.config_search import Scheduler, SearchConfig
from study.ledger import Ledger
from tests.unit.study.searches import EPOCHS, FloatSpace, epoch, source_of, spec_of


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path), "study")


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
