"""Out of memory in training: told apart, and half the micro-batch from the last checkpoint on."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from study import loop
from study.build import build_method
from study.halving import halve, micro_batch_of
from study.ledger import TrialSpec
from study.loop import Stopped
from study.memory import OutOfMemory, half, is_out_of_memory
from study.trial import run_trial
from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (MemoryError(), True),
        (RuntimeError("Expected all tensors to be on the same device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_is_too_large_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_halves_end_at_two_images() -> None:
    sizes: list[int | None] = [64]
    while sizes[-1] is not None:
        sizes.append(half(sizes[-1]))
    assert sizes == [64, 32, 16, 8, 4, 2, None]
    assert half(3) == 2


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes a device of which a training pass of more than so many images takes too much memory."""
    seen: list[int] = []

    def set_limit(most: int) -> list[int]:
        def built(config: Any, **given: Any) -> Any:
            method = build_method(config, **given)
            method.passes_per_image()

            def hook(module: Any, args: tuple[Tensor, ...]) -> None:
                if module.training:
                    seen.append(len(args[0]))
                    if len(args[0]) > most:
                        raise torch.OutOfMemoryError(CUDA)

            backbone = getattr(method.network, "backbone", method.network)
            backbone.model.conv1.register_forward_pre_hook(hook)
            return method

        monkeypatch.setattr("study.trial.build_method", built)
        return seen

    return set_limit


def run_halving(spec: TrialSpec) -> dict[str, float]:
    """As a worker does."""
    while True:
        try:
            return run_trial(spec)
        except OutOfMemory as error:
            halve(ledger_of(spec), spec, error)


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"name": "plain"}, PMAL], ids=["plain", "pmal"])
def test_a_halved_trial_is_that_of_the_micro_batch_to_the_bit(
    tmp_path: Path, limit: Callable[[int], list[int]], method: dict[str, Any]
) -> None:
    noise = {"train": ["speckle_noise"]}
    asked = tiny_spec(tmp_path, tiny_config(method=method, noise=noise, train={"micro_batch": 2}), study="asked")
    spec = tiny_spec(tmp_path, tiny_config(method=method, noise=noise))
    expected = run_trial(asked)
    seen = limit(3)
    found = run_halving(spec)
    ledger = ledger_of(spec)
    events = [event for event in ledger.events(spec.key) if event["event"] == "out_of_memory"]
    assert [(event["before"], event["micro_batch"]) for event in events] == [(8, 4), (4, 2)]
    assert "4 images in a forward pass of epoch 1" in events[1]["error"]
    assert {8, 4} <= set(seen)
    assert found.pop("train/micro_batch") == 2
    for timed in ("cost/seconds", "cost/latency_ms"):
        found.pop(timed), expected.pop(timed)
    assert found == expected
    weights = load(ledger.read_bytes(spec.key, "model.safetensors") or b"")
    wanted = load(ledger_of(asked).read_bytes(asked.key, "model.safetensors") or b"")
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert [e["epoch"] for e in ledger.events(spec.key) if e["event"] == "epoch"] == [1, 2]


def test_a_short_last_batch_that_does_not_fit_halves_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 images in batches of 8: the memory of a GPU that others use too may end at the last 5."""
    spec = tiny_spec(tmp_path)
    train = loop._train_batch

    def narrow(method: Any, optimizer: Any, raw: Any, *more: Any) -> float:
        if len(raw.labels) == 5:
            raise torch.OutOfMemoryError(CUDA)
        return train(method, optimizer, raw, *more)

    monkeypatch.setattr(loop, "_train_batch", narrow)
    with pytest.raises(OutOfMemory, match="5 images in a forward pass") as caught:
        run_trial(spec)
    assert halve(ledger_of(spec), spec, caught.value) == 4


def test_a_resumed_trial_keeps_its_micro_batch(tmp_path: Path, limit: Callable[[int], list[int]]) -> None:
    spec = tiny_spec(tmp_path)
    seen = limit(4)
    with pytest.raises(OutOfMemory) as caught:
        run_trial(spec)
    assert halve(ledger_of(spec), spec, caught.value) == 4
    calls = iter([False, True])
    with pytest.raises(Stopped):
        run_trial(spec, should_stop=lambda: next(calls))
    seen.clear()
    run_trial(spec)
    assert max(seen) == 4 == micro_batch_of(ledger_of(spec), spec.key)


@pytest.mark.parametrize(("micro_batch", "expected"), [(4, 2), (8, 4)])
def test_what_a_worker_had_is_what_is_halved(tmp_path: Path, micro_batch: int, expected: int) -> None:
    """An elastic group may have fewer workers than its most, so that each has more of the 8 images."""
    spec = tiny_spec(tmp_path)
    error = pickle.loads(pickle.dumps(OutOfMemory("too many", micro_batch=micro_batch)))  # as it comes from a worker
    assert halve(ledger_of(spec), spec, error) == expected
    assert [event["before"] for event in ledger_of(spec).events(spec.key)] == [micro_batch]


def test_what_cannot_be_halved_says_why(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    ledger = ledger_of(spec)
    with pytest.raises(OutOfMemory, match="too many; 2 images on a worker cannot be halved"):
        halve(ledger, spec, OutOfMemory("too many", micro_batch=2))
    frozen = spec.config | {"model": spec.config["model"] | {"batch_norm": "sync"}}
    with pytest.raises(OutOfMemory, match=r"not halved: with model\.batch_norm: sync"):
        halve(ledger, TrialSpec(**{**spec.as_dict(), "config": frozen}), OutOfMemory("too many", micro_batch=8))


def test_another_error_of_training_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("study.loop._train_batch", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        run_trial(tiny_spec(tmp_path))
    assert not isinstance(caught.value, OutOfMemory)
