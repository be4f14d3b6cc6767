"""What the update step keeps: SAM's variants, bf16 and several workers, interrupted within epochs and gone on from."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from study import checkpoint
from study.build import build_method
from study.ledger import TrialSpec
from study.loop import Stopped
from study.ranks import Ranks
from study.trial import prepare_run, run_trial
from study.trialrun import NoReporter
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec
from tests.unit.study.workers import run_workers

LOOKSAM = {"rho": 0.05, "every": 2, "variant": "looksam"}


class StopAfter:
    """Asks to stop at the n-th batch."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(autouse=True)
def kept_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished trial's checkpoints stay, to be compared."""
    monkeypatch.setattr(checkpoint, "remove", lambda *_: None)


@pytest.fixture
def one_builds_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial weights come from the process's own generator, which workers that are threads share."""
    lock = threading.Lock()

    def build(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return build_method(*args, **kwargs)

    monkeypatch.setattr("study.trial.build_method", build)


def state_of(spec: TrialSpec) -> dict[str, Any]:
    """All that a checkpoint holds but the clock's figures."""
    ledger = ledger_of(spec)
    run = prepare_run(spec, ledger, reporter=NoReporter(), ranks=Ranks())
    progress = checkpoint.restore(ledger, spec.key, network=run.method.network, optimizer=run.optimizer)
    assert progress is not None
    history = [{k: v for k, v in metrics.items() if k != "cost/seconds"} for metrics in progress.history]
    kept = {k: v for k, v in vars(progress).items() if k != "seconds"} | {"history": history}
    return {"network": run.method.network.state_dict(), "optimizer": run.optimizer.state_dict(), "progress": kept}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two trees of tensors and numbers differ in any bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        names = sorted({*one, *other}, key=str)
        return [d for n in names for d in differences(one.get(n), other.get(n), f"{path}/{n}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for n, (a, b) in pairs for d in differences(a, b, f"{path}/{n}")]
    return [] if one == other else [path]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "optim", "train"),
    [
        ({"name": "plain"}, {"sam": LOOKSAM, "clip_norm": 0.5}, {"micro_batch": 3}),
        (PMAL, {"sam": LOOKSAM}, {}),
        ({"name": "plain"}, {"sam": {"rho": 0.05, "every": 3}, "name": "adamw", "lr": 0.003}, {}),
        ({"name": "plain"}, {"sam": {"rho": 0.05, "variant": "sam_on"}}, {"precision": "bf16"}),
    ],
    ids=["looksam", "pmal", "every", "bf16"],
)
def test_one_worker_goes_on_to_the_bit(tmp_path: Path, method: dict, optim: dict, train: dict) -> None:
    config = tiny_config(method=method, optim=optim, train=train)
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    run_trial(whole)
    for batches in (1, 1, 2):  # twice within the first epoch, once within the second
        with pytest.raises(Stopped):
            run_trial(broken, should_stop=StopAfter(batches))
    run_trial(broken)
    assert differences(state_of(whole), state_of(broken)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_builds_at_a_time")
@pytest.mark.parametrize("sam", [{"rho": 0.05}, LOOKSAM, {**LOOKSAM, "ascent": "local"}], ids=["sam", "look", "local"])
def test_two_workers_go_on_to_the_bit(tmp_path: Path, sam: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batch norms, whose statistics differ between workers within an epoch, as do the sums of the loss."""
    config = tiny_config(optim={"sam": sam})
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    expected = run_workers(2, lambda ranks: run_trial(whole, ranks=ranks), monkeypatch)

    def stop(ranks: Ranks, batches: int) -> None:
        with pytest.raises(Stopped):
            run_trial(broken, ranks=ranks, should_stop=StopAfter(batches))

    for batches in (1, 1, 2):
        run_workers(2, lambda ranks, batches=batches: stop(ranks, batches), monkeypatch)
    found = run_workers(2, lambda ranks: run_trial(broken, ranks=ranks), monkeypatch)
    assert differences(state_of(whole), state_of(broken)) == []
    for one, other in zip(expected, found, strict=True):
        for name in ("cost/seconds", "cost/latency_ms"):
            one.pop(name), other.pop(name)
        assert one == other


@pytest.mark.slow
@pytest.mark.usefixtures("one_builds_at_a_time")
def test_another_number_of_workers_goes_on_with_the_sums_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(optim={"sam": LOOKSAM})
    whole, broken = tiny_spec(tmp_path, config), tiny_spec(tmp_path, config, study="broken")
    expected = run_trial(whole)

    def stop(ranks: Ranks) -> None:
        with pytest.raises(Stopped):
            run_trial(broken, ranks=ranks, should_stop=StopAfter(1))

    run_workers(2, stop, monkeypatch)
    stop(Ranks())
    run_workers(2, stop, monkeypatch)  # after the last batch of the epoch
    found = run_workers(2, lambda ranks: run_trial(broken, ranks=ranks), monkeypatch)[0]
    assert found["cost/passes"] == expected["cost/passes"]
    assert found["loss/train"] == pytest.approx(expected["loss/train"], rel=0.2)  # batch statistics are each worker's
    counts = [event["epoch"] for event in ledger_of(broken).events(broken.key) if event["event"] == "epoch"]
    assert counts == [1, 2]
