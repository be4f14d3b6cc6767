"""Lost and hung processes, lost memory and lost numbers, damaged checkpoints, one by one.

Each trial stops at its fault until ledger and MLflow, which a driver's own thread writes meanwhile, are counted; what
there was stays, the rest comes to it, nothing is there twice.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from study.ledger import Ledger, TrialSpec
from study.trial import run_trial
from tests.e2e import counts, drive, faults
from tests.unit.study.test_checkpoint_faults import damage

pytestmark = pytest.mark.e2e
RESUMED = ["start", "epoch", "resume", "epoch", "epoch", "final"]


@pytest.fixture(scope="module", autouse=True)
def ray_of_two() -> Iterator[None]:
    with drive.small_ray():
        yield


def calm(tmp_path: Path, spec: TrialSpec) -> dict[str, float]:
    """The figures of the same trial without a fault."""
    own = replace(spec, storage=str(tmp_path / "calm"))
    run_trial(own)
    return faults.figures(Ledger(own.storage, own.study), own.key)


def come_to(*specs: TrialSpec, rank: int = 0) -> drive.During:
    """Count when these trials have come to their faults, then let them have them, one after the other."""

    def during(watch: drive.Watch) -> None:
        for spec in specs:
            watch.count_at(spec, rank=rank)
            faults.let_come(spec)

    return during


def lost_batches(ledger: Ledger, key: str, place: tuple[int, int]) -> list[int]:
    """For each time that a trial went on in the epoch of its fault: the batches that it trained again of it."""
    found = [event for event in ledger.events(key) if event["event"] == "resume"]
    assert {event["epoch"] for event in found} == {place[0]}, "it trained no whole epoch again"
    return [place[1] - event["step"] for event in found]


def test_kill_of_a_trials_process_in_mid_epoch(tmp_path: Path) -> None:
    specs = faults.specs_of(tmp_path, 3)
    faults.set_fault(specs[1], "wait")

    def during(watch: drive.Watch) -> None:
        watch.count_at(specs[1])
        faults.end_waiting(specs[1])

    ran = drive.run_with(specs, drive.runtime_of(retries=1), during)
    assert ran.summary.failed == []
    drive.expect_once(ran, specs)
    assert (specs[1].key, 1) in ran.before[0].logged
    assert faults.names_of(ran.ledger, specs[1].key) == RESUMED
    assert lost_batches(ran.ledger, specs[1].key, faults.PLACE) == [1]
    assert counts.trained_again(ran.ledger, specs[1].key) == [0]
    assert faults.figures(ran.ledger, specs[1].key) == calm(tmp_path, specs[1])


def test_a_checkpoint_that_is_damaged_when_the_trials_process_is_killed(tmp_path: Path) -> None:
    """In the third epoch, when there are two; the newer one is cut short, or one of its bits is flipped."""
    place = (2, 1)
    specs = dict(zip(("cut", "bit", "none"), faults.specs_of(tmp_path, 3), strict=True))
    for spec in specs.values():
        faults.set_fault(spec, "wait", place=place)

    def during(watch: drive.Watch) -> None:
        for way, spec in specs.items():
            watch.count_at(spec)
            assert (spec.key, 2) in watch.before[-1].logged
            if way != "none":
                damage(watch.ledger, spec.key, "checkpoint.pt", way=way)
            faults.end_waiting(spec)

    ran = drive.run_with(list(specs.values()), drive.runtime_of(retries=1), during)
    assert ran.summary.failed == []
    drive.expect_once(ran, list(specs.values()))
    said = drive.said_by_workers()
    for way, spec in specs.items():
        line = f"checkpoint.pt of trial {spec.key} is damaged (its checksum does not fit) and passed over"
        assert (line in said) == (way != "none")
        (resumed,) = [event for event in ran.ledger.events(spec.key) if event["event"] == "resume"]
        assert (resumed["epoch"], resumed["step"]) == ((2, 0) if way == "none" else (1, 0))
        assert counts.trained_again(ran.ledger, spec.key) == ([0] if way == "none" else [1])
        assert faults.names_of(ran.ledger, spec.key) == ["start", "epoch", "epoch", "resume", "epoch", "final"]
        assert faults.figures(ran.ledger, spec.key) == calm(tmp_path, spec)


def test_a_hung_trial_is_ended_and_tried_again(tmp_path: Path) -> None:
    once, always = specs = faults.specs_of(tmp_path, 2)
    faults.set_fault(once, "wait")
    faults.set_fault(always, "wait", always=True)
    ran = drive.run_with(
        specs, drive.runtime_of(retries=1, hang_timeout_s=20), lambda watch: watch.count_at(once, always)
    )
    assert (ran.summary.done, ran.summary.failed) == ([once.key], [always.key])
    assert faults.names_of(ran.ledger, once.key) == ["start", "epoch", "hung", "resume", "epoch", "epoch", "final"]
    assert faults.names_of(ran.ledger, always.key) == ["start", "epoch", "hung", "resume", "hung", "failed"]
    assert lost_batches(ran.ledger, once.key, faults.PLACE) == [1]
    error = ran.ledger.events(always.key)[-1]["error"]
    assert error.startswith("the trial made no step for 20 s (resources.hang_timeout_s), in File")
    assert "all retries are used" in error
    epochs = {once.key: faults.EPOCHS, always.key: 1}
    counts.expect_once(ran.after, ran.before, epochs=epochs, failed=[always.key])
    assert faults.figures(ran.ledger, once.key) == calm(tmp_path, once)


def test_memory_and_numbers_that_run_out_leave_the_process_sane(tmp_path: Path) -> None:
    """One process runs all three, one after the other; the last one has no fault."""
    halved, diverged, fine = specs = faults.specs_of(tmp_path, 3)
    faults.set_fault(halved, "memory", most=4)
    faults.set_fault(diverged, "nan")
    runtime = drive.runtime_of(max_concurrent=1, on_out_of_memory="halve")
    ran = drive.run_with(specs, runtime, come_to(halved, diverged))
    assert (ran.summary.done, ran.summary.failed) == ([halved.key, fine.key], [diverged.key])
    names = ["start", "epoch", "out_of_memory", "resume", "epoch", "epoch", "final"]
    assert faults.names_of(ran.ledger, halved.key) == names
    assert lost_batches(ran.ledger, halved.key, faults.PLACE) == [1]
    (event,) = [event for event in ran.ledger.events(halved.key) if event["event"] == "out_of_memory"]
    assert (event["before"], event["micro_batch"]) == (8, 4)
    error = ran.ledger.events(diverged.key)[-1]["error"]
    assert error.startswith("Diverged: the training loss is not finite in epoch 2")
    assert faults.names_of(ran.ledger, diverged.key) == ["start", "epoch", "failed"], "it is not tried again"
    assert faults.figures(ran.ledger, fine.key) == calm(tmp_path, fine)
    epochs = {halved.key: faults.EPOCHS, diverged.key: 1, fine.key: faults.EPOCHS}
    counts.expect_once(ran.after, ran.before, epochs=epochs, failed=[diverged.key])


def test_memory_that_runs_out_fails_the_trial_where_it_is_not_to_be_halved(tmp_path: Path) -> None:
    refused, fine = specs = faults.specs_of(tmp_path, 2)
    faults.set_fault(refused, "memory", most=4)
    ran = drive.run_with(specs, drive.runtime_of(retries=2), come_to(refused))
    assert (ran.summary.done, ran.summary.failed) == ([fine.key], [refused.key])
    assert faults.names_of(ran.ledger, refused.key) == ["start", "epoch", "failed"]
    error = ran.ledger.events(refused.key)[-1]["error"]
    assert error.startswith("OutOfMemory: an update must fit into the device's memory, but 8 images")
    assert "resources.on_out_of_memory: halve" in error
    epochs = {refused.key: 1, fine.key: faults.EPOCHS}
    counts.expect_once(ran.after, ran.before, epochs=epochs, failed=[refused.key])


def test_kill_of_one_of_two_workers(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "wait", rank=1)

    def during(watch: drive.Watch) -> None:
        watch.count_at(spec, rank=1)
        faults.end_waiting(spec, rank=1)

    ran = drive.run_with(specs, drive.runtime_of(workers_per_trial=2, retries=1), during)
    assert ran.summary.done == [spec.key], ran.ledger.events(spec.key)[-1]
    drive.expect_once(ran, specs)
    assert (spec.key, 1) in ran.before[0].logged
    assert faults.names_of(ran.ledger, spec.key) == RESUMED
    assert lost_batches(ran.ledger, spec.key, faults.PLACE) == [1]


def test_one_of_two_workers_hangs(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "wait", rank=1)
    runtime = drive.runtime_of(workers_per_trial=2, retries=1, hang_timeout_s=20)
    ran = drive.run_with(specs, runtime, lambda watch: watch.count_at(spec, rank=1))
    assert ran.summary.done == [spec.key], ran.ledger.events(spec.key)[-1]
    drive.expect_once(ran, specs)
    names = faults.names_of(ran.ledger, spec.key)
    assert [name for name in names if name != "hung"] == RESUMED
    assert "hung" in names
    assert lost_batches(ran.ledger, spec.key, faults.PLACE) == [1]


def test_one_of_two_workers_is_out_of_memory(tmp_path: Path) -> None:
    (spec,) = specs = faults.specs_of(tmp_path, 1)
    faults.set_fault(spec, "memory", rank=1, most=2)
    runtime = drive.runtime_of(workers_per_trial=2, retries=0, on_out_of_memory="halve")
    ran = drive.run_with(specs, runtime, come_to(spec, rank=1))
    assert ran.summary.done == [spec.key], ran.ledger.events(spec.key)[-1]
    drive.expect_once(ran, specs)
    events = [event for event in ran.ledger.events(spec.key) if event["event"] == "out_of_memory"]
    assert [(event["before"], event["micro_batch"]) for event in events] == [(4, 2)]
    assert lost_batches(ran.ledger, spec.key, faults.PLACE) == [1]
