"""A budget of gradient passes in place of epochs: what it buys, what is stepped by it, and that a run resumes in it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.sam import SamSettings
from study import checkpoint
from study.build import build_method, loop_settings
from study.config import StudyConfig, TrialConfig
from study.estimate import Cost, Sizes, check_budget, epochs_of, trial_seconds
from study.loop import Stopped, lr_at, plan_course
from study.plan import make_plan
from study.studycheck import check_study
from study.studyfile import load_study_text
from study.trial import run_trial
from tests.unit.study.test_trial import StopAfter, _same, _state
from tests.unit.study.trials import PMAL, TINY, ledger_of, tiny_config, tiny_spec

NUM_TRAIN = 21  # of the tiny trial: three classes of ten, three in ten of each to choose by
STEPS = 3


def budgeted(
    *, method: dict[str, Any] | None = None, rho: float = 0.05, warmup: int = 0, **budget: float
) -> TrialConfig:
    train = {name: value for name, value in TINY["train"].items() if name != "epochs"} | {"budget": budget}
    optim = {**TINY["optim"], "sam": {"rho": rho}, "warmup_epochs": warmup}
    return TrialConfig.model_validate({**TINY, "method": method or {"name": "plain"}, "optim": optim, "train": train})


def course(config: TrialConfig) -> Any:
    method = build_method(config, num_classes=3)
    settings = loop_settings(config, torch.device("cpu"))
    return plan_course(settings, num_images=NUM_TRAIN, passes_per_image=method.passes_per_image())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rho", "passes"),
    [({"name": "plain"}, 0.0, 2.5), (PMAL, 0.05, 20.0), ({**PMAL, "order": "joint_repeated", "stages": 1}, 0.0, 15.0)],
)
def test_a_run_spends_its_budget_and_no_more(tmp_path: Path, method: dict, rho: float, passes: float) -> None:
    config = budgeted(method=method, rho=rho, passes_per_image=passes)
    spec = tiny_spec(tmp_path, config)
    metrics = run_trial(spec)
    planned, budget = course(config), passes * NUM_TRAIN
    batch = metrics["cost/passes"] / planned.steps
    assert budget - 2 * batch <= metrics["cost/passes"] <= budget + batch
    events = [event for event in ledger_of(spec).events(spec.key) if event["event"] == "epoch"]
    assert len(events) == math.ceil(planned.epochs)
    assert events[0]["metrics"]["train/epochs"] == pytest.approx(planned.steps / STEPS)


def test_arms_of_one_budget_differ_in_epochs_by_what_a_batch_costs() -> None:
    dear, cheap = (course(budgeted(rho=rho, passes=4000)) for rho in (0.05, 0.0))
    assert cheap.epochs == pytest.approx(2 * dear.epochs, abs=2 / STEPS)
    assert dear.epochs == pytest.approx(4000 / (2 * NUM_TRAIN), abs=1 / STEPS)
    settings = loop_settings(budgeted(passes=4000), torch.device("cpu"))
    settings = dataclasses.replace(settings, sam=SamSettings(rho=0.05, every=4))
    sparse = plan_course(settings, num_images=NUM_TRAIN, passes_per_image=1.0)
    assert sparse.epochs == pytest.approx(4000 / (1.25 * NUM_TRAIN), abs=1 / STEPS)


def test_without_a_budget_the_course_is_the_epochs() -> None:
    planned = course(tiny_config())
    assert (planned.epochs, planned.steps, planned.by_step) == (2, 2 * STEPS, False)
    assert planned.position(1, 2) == 1


def test_the_rate_falls_with_each_batch_to_the_end_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    stepped = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(group["lr"] for group in self.param_groups))  # type: ignore[arg-type]
        return stepped(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    config = budgeted(rho=0.0, passes_per_image=2.4, warmup=1)
    run_trial(tiny_spec(tmp_path, config))
    assert course(config).steps == len(seen) == 7
    settings = loop_settings(config, torch.device("cpu"))
    assert [rates[0] for rates in seen] == pytest.approx(
        [lr_at(n / STEPS, settings, epochs=7 / STEPS) for n in range(7)]
    )
    tail = [0.02 * 0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)]
    assert [rates[0] for rates in seen[3:]] == pytest.approx(tail)


@pytest.mark.slow
def test_interrupted_within_a_short_last_epoch_equals_uninterrupted_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "remove", lambda *_: None)
    config = budgeted(method=PMAL, passes_per_image=30)
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    planned = course(config)
    assert planned.steps % STEPS, "the last epoch is to end early"
    expected = run_trial(whole)
    for batches in (1, planned.steps - 2):
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
    found = run_trial(broken)
    for name in ("cost/seconds", "cost/latency_ms"):
        expected.pop(name), found.pop(name)
    assert found == expected
    assert all(_same(one, other) for one, other in zip(_state(whole)[:2], _state(broken)[:2], strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: budgeted(passes=10), "train.budget must buy at least a batch, which costs 14 passes, but has 10"),
        (
            lambda: budgeted(passes=100, warmup=3),
            r"must be below the 2\.3 epochs that train\.budget buys",
        ),
    ],
)
def test_a_budget_that_buys_too_little_is_explained(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        course(config())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"budget": {}}, "must have one of passes and passes_per_image"),
        ({"budget": {"passes": 5, "passes_per_image": 1}}, "must have one of passes and passes_per_image"),
        ({"budget": {"passes": 5}, "epochs": 3}, "epochs has no effect beside budget, but got 3"),
    ],
)
def test_what_contradicts_itself_is_refused(train: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate({**TINY, "train": train})


def test_early_stopping_by_epochs_is_refused() -> None:
    study = StudyConfig.model_validate(
        {"name": "a", "train": {"budget": {"passes": 1000}}, "search": {"scheduler": {"name": "asha"}}}
    )
    assert [".".join(map(str, problem.path)) for problem in check_study(study)] == ["search.scheduler"]


def test_a_curriculum_by_epochs_is_refused() -> None:
    noise = {"train": ["speckle_noise"], "curriculum": {"epochs": 3}}
    study = StudyConfig.model_validate(
        {"name": "a", "train": {"budget": {"passes": 1000}}, "noise": noise, "phases": [{"kind": "train", "name": "b"}]}
    )
    assert [".".join(map(str, problem.path)) for problem in check_study(study)] == ["noise.curriculum"]


@pytest.mark.parametrize(("passes", "message"), [(3, "must buy at least a batch"), (None, "")])
def test_a_budget_that_buys_nothing_is_told_before_the_start(passes: float | None, message: str) -> None:
    config = budgeted(method=PMAL, passes=passes or 5000)
    if not message:
        check_budget(config, num_classes=3, num_images=NUM_TRAIN)
        return
    with pytest.raises(ValueError, match=message):
        check_budget(config, num_classes=3, num_images=NUM_TRAIN)
    study = config.model_dump(mode="json") | {"name": "a", "phases": [{"kind": "train", "name": "one"}]}
    with pytest.raises(ValueError, match=message):
        make_plan(load_study_text(study))


def test_an_estimate_counts_the_epochs_that_a_budget_buys() -> None:
    cost = Cost(passes=8, train_s=0.1, evaluate_s=0.01, parameters=1, deployed=1)
    sizes = Sizes(num_classes=2, train=100, validation=50, test=40)
    config = budgeted(passes=2000)
    assert epochs_of(config, cost, num_train=100) == pytest.approx(2.5)
    cells = 2
    expected = 100 * 2.5 * 0.1 + 50 * cells * (3 + 1) * 0.01
    assert trial_seconds(config, cost, sizes, tested=False) == pytest.approx(expected)


def test_a_rate_that_falls_in_steps_is_the_benchmarks() -> None:
    """CIFAR's recipe: 0.05, times 0.1 after 150, 180 and 210 of 240 epochs."""
    config = tiny_config(optim={"lr": 0.05, "schedule": "step"}, train={"epochs": 240})
    settings = loop_settings(config, torch.device("cpu"))
    rates = {epoch: lr_at(epoch, settings) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)}
    expected = [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5]
    assert list(rates.values()) == pytest.approx(expected)
    with pytest.raises(ValueError, match="step_factor has no effect without schedule: step"):
        tiny_config(optim={"step_factor": 0.5})
    with pytest.raises(ValueError, match="step_at must be shares that grow"):
        tiny_config(optim={"schedule": "step", "step_at": [0.5, 0.25]})
