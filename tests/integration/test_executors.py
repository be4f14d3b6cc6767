"""Real trials by both executors: in the trial's own process, and by Ray Train workers with gloo."""

from dataclasses import replace
from pathlib import Path

import pytest

from study.config_search import Objective, Scheduler, SearchConfig
from study.ledger import Ledger, TrialSpec, trial_key
from study.override import apply
from study.search import PhaseSummary, run_list, run_search
from study.trial import run_trial
from tests.unit.study.trials import tiny_config, tiny_spec

TIMES = ("cost/seconds", "cost/latency_ms")


@pytest.fixture
def spec(tmp_path) -> TrialSpec:
    return tiny_spec(tmp_path / "plain", tiny_config(optim={"sam": {"rho": 0.0}}))


def run_at(place: Path, specs: list[TrialSpec], runtime) -> tuple[Ledger, PhaseSummary]:
    """The same trials with records of their own."""
    moved = [replace(spec, storage=str(place)) for spec in specs]
    ledger = Ledger(str(place), specs[0].study)
    return ledger, run_list(moved, phase="search", ledger=ledger, runtime=runtime)


def figures(ledger: Ledger, key: str) -> dict[str, float]:
    return {name: value for name, value in ledger.metrics(key).items() if name not in TIMES}


def names_of(ledger: Ledger, key: str) -> list[str]:
    return [event["event"] for event in ledger.events(key)]


@pytest.mark.slow
@pytest.mark.integration
def test_trial_in_tunes_process_equals_the_plain_function(spec, tmp_path, runtime_of):
    run_trial(spec)
    ledger, summary = run_at(tmp_path / "inline", [spec], runtime_of(max_concurrent=1))
    assert summary.done == [spec.key]
    assert figures(ledger, spec.key) == figures(Ledger(spec.storage, spec.study), spec.key)


@pytest.mark.integration
def test_two_workers_train_one_trial(spec, tmp_path, runtime_of, capfd):
    """Every CPU of the machine goes to the workers, and a trial that cannot run is recorded, not tried again."""
    broken = replace(spec, key="0" * 16, number=1, fingerprint="0" * 16)
    ledger, summary = run_at(tmp_path / "workers", [spec, broken], runtime_of(workers_per_trial=2, retries=2))
    assert summary.done == [spec.key]
    assert names_of(ledger, spec.key) == ["start", "epoch", "epoch", "final"]
    assert ledger.events(spec.key)[0]["workers"] == 2
    assert figures(ledger, spec.key)["cost/passes"] > 0
    assert summary.failed == [broken.key]
    (event,) = [event for event in ledger.events(broken.key) if event["event"] == "failed"]
    assert event["error"].startswith("ValueError: data: the images are not those that the study was planned with")
    assert "in prepare_run" in event["traceback"], event["traceback"]
    assert capfd.readouterr().out == ""


class RhoSpace:
    """SAM off or on."""

    def suggest(self, trial):
        return {"optim.sam.rho": trial.suggest_categorical("optim.sam.rho", [0.0, 0.05])}

    def encode(self, params):
        return params


@pytest.mark.e2e
def test_pruned_trial_gives_its_workers_places_back(spec, tmp_path, runtime_of):
    """Tune would kill the process that started the workers, and the next trial would wait for their places for ever."""
    base = tiny_config(train={"epochs": 60})

    def spec_of(params: dict, number: int) -> TrialSpec:
        """SAM costs twice the passes, so trials after the first are worse at the first epoch."""
        rho, epochs = (0.0, 2) if number == 0 else (0.05 + 0.01 * number, 60)
        config = apply(base, {"optim.sam.rho": rho, "train.epochs": epochs})
        key = trial_key(config, fingerprint=spec.fingerprint, role="search")
        return replace(spec, key=key, number=number, params=params, config=config.model_dump(mode="json"),
                       storage=str(tmp_path / "search"))  # fmt: skip

    search = SearchConfig(
        trials=3,
        objectives=(Objective(metric="cost/passes", goal="minimise"),),
        scheduler=Scheduler(name="asha", grace_epochs=1, reduction_factor=2),
    )
    ledger = Ledger(str(tmp_path / "search"), spec.study)
    summary = run_search(search, space=RhoSpace(), spec_of=spec_of, phase="search", ledger=ledger,
                         runtime=runtime_of(workers_per_trial=2))  # fmt: skip
    assert (len(summary.done), len(summary.pruned)) == (1, 2)
    assert [names_of(ledger, key)[-1] for key in summary.keys] == ["final", "pruned", "pruned"]
