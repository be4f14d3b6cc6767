"""What a trial uses: time and peaks add up over attempts and workers, samples are handed over once."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from study import trial as trial_module
from study.ledger import TrialSpec
from study.loop import Stopped
from study.ranks import Ranks
from study.trial import run_trial
from study.usage import Sampler, SystemLoad, Usage
from tests.unit.study.trials import ledger_of, tiny_spec

CPU = torch.device("cpu")


class Two(Ranks):
    """Two workers, the other of which says the same and twice as much."""

    def gather(self, value: Any) -> list[Any]:
        return [value, {name: 2 * number for name, number in value.items()}]


def test_a_large_array_shows_in_the_peak_and_is_forgotten_by_the_next_trial():
    first = Usage(Ranks(device="cpu"))
    before = first.measure()["usage"]["peak_memory_bytes"]
    array = np.ones(64 * 2**20, dtype=np.uint8)
    after = first.measure()["usage"]["peak_memory_bytes"]
    del array
    assert after - before > 50 * 2**20
    again = Usage(Ranks(device="cpu")).measure()["usage"]["peak_memory_bytes"]
    assert again < after, "the process's peak is of this trial, not of those before it"


def test_time_is_summed_and_memory_is_the_largest_over_workers_and_attempts():
    alone = Usage(Ranks(device="cpu"), earlier={"device_seconds": 100.0, "peak_memory_bytes": 1e15}).measure()["usage"]
    assert 100.0 < alone["device_seconds"] < 101.0
    assert alone["peak_memory_bytes"] == 1e15
    both = Usage(Two(world=2, device="cpu")).measure()["usage"]
    assert both["device_seconds"] > 0
    one = Usage(Ranks(device="cpu")).measure()["usage"]
    assert both["peak_memory_bytes"] == pytest.approx(2 * one["peak_memory_bytes"], rel=0.2)


def test_samples_are_handed_over_once_and_only_by_the_first_worker():
    seen = threading.Event()

    def look() -> dict[str, float]:
        seen.set()
        return {"a": 1.0}

    sampler = Sampler(CPU, 0.001, look=look)
    assert seen.wait(10)
    sampler.close()
    taken = sampler.take()
    assert taken[0][1] == {"a": 1.0}
    assert sampler.take() == []
    other = Usage(Ranks(rank=1, world=1, device="cpu"), sample_s=0.001)
    assert "system" not in other.measure()


def test_the_systems_load_has_mlflows_names_and_bounds():
    load = SystemLoad(CPU)
    sum(range(10**6))
    found = load.look()
    assert {"cpu_utilization_percentage", "process_cpu_percentage", "process_memory_megabytes",
            "system_memory_usage_megabytes", "system_memory_usage_percentage"} >= set(found)  # fmt: skip
    assert found["process_cpu_percentage"] > 0
    assert 0 < found["system_memory_usage_percentage"] <= 100
    assert found["process_memory_megabytes"] < found["system_memory_usage_megabytes"]


def stop_after(steps: int) -> Callable[[], bool]:
    """Asks to stop at the given question."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps


def test_a_trial_writes_what_it_used_and_goes_on_counting_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "SAMPLE_S", 0.01)
    spec = tiny_spec(tmp_path)
    spec = TrialSpec(**{**spec.as_dict(), "system_metrics": True})
    ledger = ledger_of(spec)
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=stop_after(4))  # in the second epoch of three batches
    run_trial(spec)
    events = ledger.events(spec.key)
    used = [event["usage"] for event in events if event["event"] in {"epoch", "final"}]
    assert len(used) == 3
    seconds = [one["device_seconds"] for one in used]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert all(one["peak_memory_bytes"] > 50 * 2**20 for one in used)
    assert "peak_device_memory_bytes" not in used[0] or torch.cuda.is_available()
    samples = [sample for event in events for sample in event.get("system", ())]
    assert samples
    times = [when for when, _ in samples]
    assert times == sorted(set(times)), "no sample stands twice"
    assert "system_metrics" not in ledger.trial(spec.key), "how it runs is no part of what it is"
    start = next(event for event in events if event["event"] == "start")
    assert set(start["code"]) == {"commit", "dirty"}
    assert "torch" in start["versions"]
    assert not [thread.name for thread in threading.enumerate() if thread.name == "murk-usage"]


def test_a_trial_takes_no_samples_unless_asked(tmp_path):
    spec = tiny_spec(tmp_path)
    run_trial(spec)
    assert not any("system" in event for event in ledger_of(spec).events(spec.key))
