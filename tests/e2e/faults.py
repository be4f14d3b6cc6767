"""Trials that meet faults on a real Ray.

A fault is a file beside the records that the trial's process reads, so that it finds trials wherever they run. The
process says when it has come to it and waits, so that what there is by then can be counted. Only processes that trials
themselves named are ever ended.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from ray import cloudpickle

from study.ledger import Ledger, TrialSpec, trial_key
from study.override import apply
from tests.unit.study.trials import tiny_config, tiny_spec

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import test modules

PLACE = (1, 1)
"""Epoch and step, from 0, at which a fault strikes: in the middle of the second of three epochs."""
EPOCHS = 3
CALM = tiny_config(optim={"sam": {"rho": 0.0}}, train={"epochs": EPOCHS})


def specs_of(tmp_path: Path, count: int, config: Any = CALM, **keys: Any) -> list[TrialSpec]:
    """Trials that differ by their seed."""
    first = tiny_spec(tmp_path, config, study="faults", cache=tmp_path / "cache")
    found = []
    for number in range(count):
        own = apply(config, {"train.seed": number, **keys})
        key = trial_key(own, fingerprint=first.fingerprint, role="search")
        found.append(replace(first, key=key, number=number, seed=number, config=own.model_dump(mode="json")))
    return found


def set_fault(spec: TrialSpec, way: str, *, place: tuple[int, int] = PLACE, **facts: Any) -> None:
    """Have a trial meet a fault: `wait` once for whatever comes, `nan`, or `memory` for at most `most` images.

    Before the last two it waits for `let_come`.

    Args:
        place: Epoch and step, from 0.
    """
    (_folder(spec) / f"{spec.key}.fault").write_text(json.dumps({"way": way, "place": place, **facts}))


def let_come(spec: TrialSpec) -> None:
    """Let a trial that waits for its fault have it."""
    _go(spec).touch()


def move_fault(spec: TrialSpec, place: tuple[int, int]) -> None:
    """Have a trial that waits come to its fault at another place next time, and say so anew."""
    set_fault(spec, "wait", place=place)
    for path in _folder(spec).glob(f"{spec.key}-*.waits"):
        path.unlink()


def processes_of(spec: TrialSpec) -> dict[str, dict[str, Any]]:
    """Name -> what a process of a trial said of itself where it waits for its end."""
    return {path.stem: json.loads(path.read_text()) for path in _folder(spec).glob(f"{spec.key}-*.waits")}


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 240.0) -> Any:
    """The condition's first answer that is true."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not come to that in time")


def faulty_trial(config: dict[str, Any]) -> None:
    """In place of `tune_trial`: the same, with its faults."""
    import study.worker

    spec = TrialSpec(**config["spec"])
    with mock.patch.object(study.worker, "train_worker", faulty_worker), announced(spec, "trial"):
        if config["executor"] == "inline":
            with fault_of(spec, rank=0):
                study.worker.tune_trial(config)
        else:
            study.worker.tune_trial(config)


def faulty_worker(config: dict[str, Any]) -> None:
    """In place of `train_worker`."""
    import ray.train

    import study.worker

    spec, rank = TrialSpec(**config["spec"]), ray.train.get_context().get_world_rank()
    with fault_of(spec, rank=rank):
        study.worker.train_worker(config)


@contextmanager
def announced(spec: TrialSpec, name: str) -> Iterator[None]:
    """Name this process as the trial's while it runs it."""
    place = _folder(spec) / f"{spec.key}-{name}.pid"
    temporary = place.with_suffix(f".{os.getpid()}")
    temporary.write_text(str(os.getpid()))
    temporary.replace(place)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


@contextmanager
def fault_of(spec: TrialSpec, *, rank: int) -> Iterator[None]:
    """The fault that a trial is to meet, on the worker of that rank."""
    place = _folder(spec) / f"{spec.key}.fault"
    fault: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {"way": "none"}
    if fault["way"] == "none" or fault.get("rank", 0) != rank:
        yield
        return
    import study.loop

    train_batch = study.loop._train_batch

    def broken(method: Any, optimizer: Any, raw: Any, settings: Any, at: Any, *more: Any) -> float:
        here, place = [at.epoch, at.step], fault["place"]
        if fault["way"] == "memory":
            import torch

            if here >= place and min(len(raw.labels), settings.micro_batch or len(raw.labels)) > fault["most"]:
                _wait_for_go(spec, rank)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        elif here == place:
            if fault["way"] == "nan":
                _wait_for_go(spec, rank)
                next(iter(method.parameter_groups()["heads"])).data.fill_(float("nan"))
            elif _came_first(spec, rank) or fault.get("always"):
                time.sleep(3600)
        return train_batch(method, optimizer, raw, settings, at, *more)

    with mock.patch.object(study.loop, "_train_batch", broken):
        yield


def _wait_for_go(spec: TrialSpec, rank: int) -> None:
    _came_first(spec, rank)
    while not _go(spec).exists():
        time.sleep(0.05)


def _came_first(spec: TrialSpec, rank: int) -> bool:
    """Say that the trial has come to its fault, unless it was said; whether it was said now."""
    place = _folder(spec) / f"{spec.key}-{rank}.waits"
    if place.exists():
        return False
    import ray

    facts = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
    temporary = place.with_suffix(".being-written")
    temporary.write_text(json.dumps(facts))
    temporary.replace(place)
    return True


def _go(spec: TrialSpec) -> Path:
    return _folder(spec) / f"{spec.key}.go"


def _folder(spec: TrialSpec) -> Path:
    folder = Path(spec.storage) / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def end_waiting(spec: TrialSpec, *, rank: int = 0) -> None:
    """kill -9 of the process of a trial that waits for it."""
    facts = wait_for(lambda: processes_of(spec).get(f"{spec.key}-{rank}"))
    end(facts["pid"])


def end(pid: int) -> None:
    """kill -9."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def names_of(ledger: Ledger, key: str) -> list[str]:
    """A trial's events, in order."""
    return [event["event"] for event in ledger.events(key)]


def figures(ledger: Ledger, key: str) -> dict[str, float]:
    """A trial's last figures that do not depend on the clock."""
    return {
        name: value for name, value in ledger.metrics(key).items() if name not in ("cost/seconds", "cost/latency_ms")
    }
