"""Early stopping: the same decisions as Ray's ASHA by epochs; by gradient passes a ladder for each method."""

import random
from typing import NamedTuple

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from study.bridge import LedgerAsha
from study.config_search import Scheduler, SearchConfig
from study.rungs import Rungs


class Named(NamedTuple):
    trial_id: str


@pytest.mark.parametrize(("grace", "factor", "maximise"), [(1, 2, True), (2, 3, True), (1, 4, False), (3, 2, False)])
def test_decisions_are_those_of_ray(grace, factor, maximise):
    dice = random.Random(grace * 10 + factor)
    theirs = AsyncHyperBandScheduler(
        time_attr="epoch", metric="value", mode="max" if maximise else "min", max_t=100_000, grace_period=grace,
        reduction_factor=factor,
    )  # fmt: skip
    ours = Rungs(Scheduler(name="asha", grace_epochs=grace, reduction_factor=factor), maximise=maximise)
    epochs = {str(key): 0 for key in range(30)}
    for key in epochs:
        theirs.on_trial_add(None, Named(key))
    stops = 0
    while epochs:
        key = dice.choice(list(epochs))
        epochs[key] += dice.choice([1, 1, 1, 4])
        metrics = {"epoch": epochs[key], "value": round(dice.random(), 1)}
        decision = theirs.on_trial_result(None, Named(key), metrics) == TrialScheduler.STOP
        assert ours.judge(key, metrics, metrics["value"], method="any") == decision
        stops += decision
        if decision or epochs[key] > 40:
            del epochs[key]
    assert 5 < stops < 30


def in_passes(num_images: int = 10) -> Rungs:
    return Rungs(Scheduler(name="asha", grace_passes_per_image=2.0, reduction_factor=2), maximise=True,
                 num_images=num_images)  # fmt: skip


def test_passes_are_counted_for_each_image():
    rungs = in_passes()
    assert not rungs.judge("a", {"epoch": 1, "cost/passes": 20.0}, 0.5, method="plain")
    assert not rungs.judge("b", {"epoch": 7, "cost/passes": 19.0}, 0.1, method="plain"), "still in its grace"
    assert rungs.judge("b", {"epoch": 8, "cost/passes": 20.0}, 0.1, method="plain")


def test_methods_are_compared_with_their_own():
    rungs = in_passes()
    assert not rungs.judge("fast", {"cost/passes": 20.0}, 0.9, method="plain")
    assert not rungs.judge("slow", {"cost/passes": 20.0}, 0.1, method="pmal")
    assert rungs.judge("other", {"cost/passes": 20.0}, 0.5, method="plain")


def test_without_passes_nothing_is_judged():
    assert not in_passes().judge("a", {"epoch": 9}, 0.1, method="plain")


def test_a_trial_whose_budget_is_spent_is_not_stopped():
    settings = Scheduler(name="asha", grace_passes_per_image=1.0, reduction_factor=2)
    pruned: set[str] = set()
    scheduler = LedgerAsha(settings, metric="acc/noise", maximise=True, pruned=pruned, num_images=10)

    class Trial(NamedTuple):
        config: dict

    def judge(key: str, epoch: int, value: float) -> str:
        config = {"train": {"epochs": 10, "budget": {"passes_per_image": 2.5}}, "method": {"name": "plain"}}
        result = {"epoch": epoch, "acc/noise": value, "cost/passes": 10.0 * epoch, "train/epochs": 2.5}
        return scheduler.on_trial_result(None, Trial({"spec": {"key": key, "config": config}}), result)

    assert judge("a", 1, 0.5) == TrialScheduler.CONTINUE
    assert judge("late", 3, 0.1) == TrialScheduler.CONTINUE
    assert judge("b", 1, 0.1) == TrialScheduler.STOP
    assert pruned == {"b"}


def test_one_grace_is_written():
    with pytest.raises(ValueError, match="grace_epochs has no effect beside grace_passes_per_image, but got 4"):
        Scheduler(name="asha", grace_epochs=4, grace_passes_per_image=2.0)
    again = Scheduler.model_validate(Scheduler(name="asha", grace_passes_per_image=2.0).model_dump())
    assert again.grace_passes_per_image == 2.0
    with pytest.raises(ValueError, match="measured at the end"):
        SearchConfig(objectives=({"metric": "cost/params"},), scheduler={"name": "asha"})
