"""Lost and hung processes, lost memory and lost numbers, one by one: what was done stays, nothing is there twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from study.ledger import Ledger
from study.trial import run_trial
from tests.e2e import faults

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def ray_of_two() -> Iterator[None]:
    with faults.small_ray():
        yield


def calm(tmp_path: Path, spec) -> dict[str, float]:
    """The figures of the same trial without a fault."""
    own = replace(spec, storage=str(tmp_path / "calm"))
    run_trial(own)
    return faults.figures(Ledger(own.storage, own.study), own.key)


def test_kill_of_a_trials_process_in_mid_epoch(tmp_path: Path) -> None:
    specs = faults.specs_of(tmp_path, 3)
    faults.set_fault(specs[1], "wait")
    before: list[faults.Counted] = []
    ledger = Ledger(specs[0].storage, specs[0].study)

    def during() -> None:
        faults.wait_for(lambda: faults.processes_of(specs[1]))
        before.append(_epochs_only(ledger))
        faults.end_waiting(specs[1])

    ledger, summary = faults.run_with(specs, faults.runtime_of(retries=1), during)
    assert summary.failed == []
    found = faults.count(ledger)
    faults.expect_once(found, specs)
    assert set(before[0].epochs) <= set(found.epochs)
    assert faults.names_of(ledger, specs[1].key) == ["start", "epoch", "resume", "epoch", "epoch", "final"]
    resumed = next(event for event in ledger.events(specs[1].key) if event["event"] == "resume")
    assert (resumed["epoch"], resumed["step"]) == (1, 0), "it lost the one batch of the second epoch"
    assert faults.figures(ledger, specs[1].key) == calm(tmp_path, specs[1])


def test_a_hung_trial_is_ended_and_tried_again(tmp_path: Path) -> None:
    once, always = specs = faults.specs_of(tmp_path, 2)
    faults.set_fault(once, "wait")
    faults.set_fault(always, "wait", always=True)
    ledger, summary = faults.run_with(specs, faults.runtime_of(retries=1, hang_timeout_s=15))
    assert (summary.done, summary.failed) == ([once.key], [always.key])
    assert faults.names_of(ledger, once.key) == ["start", "epoch", "hung", "resume", "epoch", "epoch", "final"]
    assert faults.names_of(ledger, always.key) == ["start", "epoch", "hung", "resume", "hung", "failed"]
    error = ledger.events(always.key)[-1]["error"]
    assert error.startswith("the trial made no step for 15 s (resources.hang_timeout_s), in File")
    assert "all retries are used" in error
    found = faults.count(ledger)
    assert found.runs == sorted(found.trials)
    assert len(found.epochs) == len(set(found.epochs)) == faults.EPOCHS + 1
    assert faults.figures(ledger, once.key) == calm(tmp_path, once)


def test_memory_and_numbers_that_run_out_leave_the_process_sane(tmp_path: Path) -> None:
    """One process runs all four, one after the other; the last one has no fault."""
    halved, diverged, fine = faults.specs_of(tmp_path, 3)
    faults.set_fault(halved, "memory", most=4)
    faults.set_fault(diverged, "nan")
    specs = [halved, diverged, fine]
    runtime = faults.runtime_of(max_concurrent=1, on_out_of_memory="halve")
    ledger, summary = faults.run_with(specs, runtime)
    assert (summary.done, summary.failed) == ([halved.key, fine.key], [diverged.key])
    assert faults.names_of(ledger, halved.key) == ["start", "out_of_memory", "start", *["epoch"] * 3, "final"]
    (event,) = [event for event in ledger.events(halved.key) if event["event"] == "out_of_memory"]
    assert (event["before"], event["micro_batch"]) == (8, 4)
    error = ledger.events(diverged.key)[-1]["error"]
    assert error.startswith("Diverged: the training loss is not finite in epoch 2")
    assert faults.names_of(ledger, diverged.key) == ["start", "epoch", "failed"], "it is not tried again"
    assert faults.figures(ledger, fine.key) == calm(tmp_path, fine)
    found = faults.count(ledger)
    assert found.runs == sorted(found.trials)
    assert len(found.epochs) == len(set(found.epochs)) == 3 + 1 + 3

    refused = faults.specs_of(tmp_path / "fail", 1)
    faults.set_fault(refused[0], "memory", most=4)
    ledger, summary = faults.run_with(refused, faults.runtime_of(retries=2))
    assert summary.failed == [refused[0].key]
    assert faults.names_of(ledger, refused[0].key) == ["start", "failed"]
    error = ledger.events(refused[0].key)[-1]["error"]
    assert error.startswith("OutOfMemory: an update must fit into the device's memory, but 8 images")
    assert "resources.on_out_of_memory: halve" in error


def test_kill_of_one_of_two_workers(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "wait", rank=1)
    ledger, summary = faults.run_with(
        specs, faults.runtime_of(workers_per_trial=2, retries=1), lambda: faults.end_waiting(spec, rank=1)
    )
    assert summary.done == [spec.key], ledger.events(spec.key)[-1]
    faults.expect_once(faults.count(ledger), specs)
    assert faults.names_of(ledger, spec.key) == ["start", "epoch", "resume", "epoch", "epoch", "final"]


def test_one_of_two_workers_hangs(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "wait", rank=1)
    ledger, summary = faults.run_with(specs, faults.runtime_of(workers_per_trial=2, retries=1, hang_timeout_s=20))
    assert summary.done == [spec.key], ledger.events(spec.key)[-1]
    faults.expect_once(faults.count(ledger), specs)
    names = faults.names_of(ledger, spec.key)
    assert [name for name in names if name != "hung"] == ["start", "epoch", "resume", "epoch", "epoch", "final"]
    assert "hung" in names


def test_one_of_two_workers_is_out_of_memory(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "memory", rank=1, most=2)
    runtime = faults.runtime_of(workers_per_trial=2, retries=0, on_out_of_memory="halve")
    ledger, summary = faults.run_with(specs, runtime)
    assert summary.done == [spec.key], ledger.events(spec.key)[-1]
    faults.expect_once(faults.count(ledger), specs)
    events = [event for event in ledger.events(spec.key) if event["event"] == "out_of_memory"]
    assert [(event["before"], event["micro_batch"]) for event in events] == [(4, 2)]


def _epochs_only(ledger: Ledger) -> faults.Counted:
    rows = [(key, e["epoch"]) for key in ledger.keys() for e in ledger.events(key) if e["event"] == "epoch"]
    return faults.Counted([], rows, [], [])
