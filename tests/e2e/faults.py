"""Trials that meet faults on a real Ray, and the count of what a study has: trials, epochs, MLflow runs.

A fault is a file beside the records that the trial's process reads, so that it finds trials wherever they run. Only
processes that trials themselves named are ever ended.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from ray import cloudpickle

from study.config_search import ResourcesConfig
from study.ledger import Ledger, TrialSpec, trial_key
from study.override import apply
from study.preflight import check_fit
from study.runtime import Runtime
from study.search import PhaseSummary, run_list
from tests.integration import projected
from tests.unit.study.trials import tiny_config, tiny_spec

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import test modules

PLACE = (1, 1)
"""Epoch and step, from 0, at which a fault strikes: in the middle of the second of three epochs."""
EPOCHS = 3
CALM = tiny_config(optim={"sam": {"rho": 0.0}}, train={"epochs": EPOCHS})


class Counted(NamedTuple):
    """What a study has."""

    trials: list[str]
    epochs: list[tuple[str, int]]
    ends: list[tuple[str, str]]
    runs: list[str]


def specs_of(tmp_path: Path, count: int, config: Any = CALM, **keys: Any) -> list[TrialSpec]:
    """Trials that differ by their seed."""
    first = tiny_spec(tmp_path, config, study="faults", cache=tmp_path / "cache")
    found = []
    for number in range(count):
        own = apply(config, {"train.seed": number, **keys})
        key = trial_key(own, fingerprint=first.fingerprint, role="search")
        found.append(replace(first, key=key, number=number, seed=number, config=own.model_dump(mode="json")))
    return found


def set_fault(spec: TrialSpec, way: str, **facts: Any) -> None:
    """Have a trial meet a fault: `wait` once for whatever comes, `nan`, or `memory` for at most `most` images."""
    place = _folder(spec) / f"{spec.key}.fault"
    place.write_text(json.dumps({"way": way, **facts}))


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
    fault = json.loads(place.read_text()) if place.exists() else {"way": "none"}
    if fault["way"] == "none" or fault.get("rank", 0) != rank:
        yield
        return
    import study.loop

    train_batch = study.loop._train_batch

    def broken(method: Any, optimizer: Any, raw: Any, settings: Any, at: Any, *more: Any) -> float:
        if fault["way"] == "memory":
            import torch

            if min(len(raw.labels), settings.micro_batch or len(raw.labels)) > fault["most"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        elif (at.epoch, at.step) == PLACE:
            if fault["way"] == "nan":
                next(iter(method.parameter_groups()["heads"])).data.fill_(float("nan"))
            elif not fault.get("always"):
                _wait_once(spec, rank)
            else:
                time.sleep(3600)
        return train_batch(method, optimizer, raw, settings, at, *more)

    with mock.patch.object(study.loop, "_train_batch", broken):
        yield


def _wait_once(spec: TrialSpec, rank: int) -> None:
    """The first time: say so and wait for ever."""
    place = _folder(spec) / f"{spec.key}-{rank}.waits"
    if place.exists():
        return
    import ray

    facts = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
    temporary = place.with_suffix(".being-written")
    temporary.write_text(json.dumps(facts))
    temporary.replace(place)
    time.sleep(3600)


def _folder(spec: TrialSpec) -> Path:
    folder = Path(spec.storage) / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def small_ray(num_cpus: int = 2) -> Iterator[None]:
    """A Ray of this process that only this machine can reach."""
    import ray

    from study.runtime import local_settings

    assert not ray.is_initialized(), "another test left its Ray running"
    ray.init(num_cpus=num_cpus, **local_settings())
    try:
        yield
    finally:
        ray.shutdown()


def runtime_of(num_cpus: int = 2, **resources: Any) -> Runtime:
    """How trials are placed on it."""
    config = ResourcesConfig(**resources)
    return Runtime(config, check_fit(config, [{"CPU": float(num_cpus)}]), is_ours=False)


def run_with(
    specs: Sequence[TrialSpec], runtime: Runtime, during: Callable[[], None] | None = None
) -> tuple[Ledger, PhaseSummary]:
    """Run trials with their faults; `during` runs beside them in a thread and may fail the test."""
    ledger = Ledger(specs[0].storage, specs[0].study)
    if ledger.read_json("study.json") is None:
        projected.write_study(Path(specs[0].storage), specs[0].study)
    problems: list[BaseException] = []

    def beside() -> None:
        try:
            if during:
                during()
        except BaseException as error:  # noqa: BLE001 - raised again below
            problems.append(error)
            for spec in specs:
                for facts in processes_of(spec).values():
                    _end(facts["pid"])

    thread = threading.Thread(target=beside)
    thread.start()
    summary = run_list(specs, phase="search", ledger=ledger, runtime=runtime, trainable=faulty_trial)
    thread.join()
    if problems:
        raise problems[0]
    return ledger, summary


def end_waiting(spec: TrialSpec, *, rank: int = 0) -> None:
    """kill -9 of the process of a trial that waits for it."""
    facts = wait_for(lambda: processes_of(spec).get(f"{spec.key}-{rank}"))
    _end(facts["pid"])


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def count(ledger: Ledger, uri: str | None = None) -> Counted:
    """What a study has, after its records were written to an MLflow, by default beside it, and then once more."""
    from study.tracking import sync

    projected.set_phase(ledger, "search", "search", "finished")
    uri = uri or f"sqlite:///{Path(ledger.storage)}/mlflow.db"
    sync(ledger, uri)
    again = sync(ledger, uri)
    assert (again.runs, again.metrics) == (0, 0), again
    events = [(key, event) for key in ledger.keys() for event in ledger.events(key)]
    return Counted(
        trials=ledger.keys(),
        epochs=[(key, event["epoch"]) for key, event in events if event["event"] == "epoch"],
        ends=[(key, event["event"]) for key, event in events if event["event"] in {"final", "failed", "pruned"}],
        runs=trial_runs(uri, ledger.study),
    )


def trial_runs(uri: str, study: str) -> list[str]:
    """The trial of each of a study's trial runs in MLflow, sorted; none where it has no such study."""
    from study.tracking import connect

    client = connect(uri)
    experiment = client.get_experiment_by_name(study)
    runs, token = [], None
    if experiment is None:
        return runs
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        runs += [run.data.tags["murk.trial"] for run in page if "murk.trial" in run.data.tags]
        token = page.token
        if not token:
            return sorted(runs)


def names_of(ledger: Ledger, key: str) -> list[str]:
    """A trial's events, in order."""
    return [event["event"] for event in ledger.events(key)]


def expect_once(found: Counted, specs: Sequence[TrialSpec], *, epochs: int = EPOCHS) -> None:
    """Every trial is there, finished, with each epoch and one MLflow run, and nothing is there twice."""
    keys = [spec.key for spec in specs]
    assert sorted(found.trials) == sorted(keys) == found.runs
    assert sorted(found.epochs) == sorted((key, epoch) for key in keys for epoch in range(1, epochs + 1))
    assert sorted(found.ends) == sorted((key, "final") for key in keys)


def figures(ledger: Ledger, key: str) -> dict[str, float]:
    """A trial's last figures that do not depend on the clock."""
    return {
        name: value for name, value in ledger.metrics(key).items() if name not in ("cost/seconds", "cost/latency_ms")
    }
