"""Trials with faults run as a driver runs them, MLflow's thread beside them; counted before a fault and at the end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from study.config_search import ResourcesConfig
from study.ledger import Ledger, TrialSpec
from study.preflight import check_fit
from study.runtime import Runtime
from study.search import PhaseSummary, run_list
from study.tracking import Tracker
from tests.e2e import counts, faults
from tests.e2e.counts import MLFLOW_S, Counted
from tests.integration import projected


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


def said_by_workers() -> str:
    """What the processes of this Ray's trials have written on standard error so far."""
    from ray._private import worker

    node = worker._global_node
    assert node is not None
    logs = Path(node.get_logs_dir_path()).glob("worker-*.err")
    return "".join(path.read_text(errors="replace") for path in logs)


def runtime_of(num_cpus: int = 2, **resources: Any) -> Runtime:
    """How trials are placed on it."""
    config = ResourcesConfig(**resources)
    return Runtime(config, check_fit(config, [{"CPU": float(num_cpus)}]), is_ours=False)


class Ran(NamedTuple):
    """What came of trials with faults.

    Attributes:
        before: Counted while they ran, in order.
        after: Counted at the end.
    """

    ledger: Ledger
    summary: PhaseSummary
    before: list[Counted]
    after: Counted


class Watch:
    """What a thread beside the trials has of them; it counts in the midst of them.

    Attributes:
        ended: Set once the trials have run.
        before: What was counted so far.
    """

    def __init__(self, specs: Sequence[TrialSpec], ledger: Ledger, tracker: Tracker) -> None:
        self.ledger = ledger
        self.ended = threading.Event()
        self.before: list[Counted] = []
        self.problem: BaseException | None = None
        self._specs = specs
        self._tracker = tracker

    def count(self) -> None:
        """Count what the ledger has by now and, once it is written there, MLflow."""
        found = counts.look(self.ledger, tracker=self._tracker)
        counts.expect_shown(found)
        self.before.append(found)

    def count_at(self, *specs: TrialSpec, rank: int = 0) -> None:
        """Count once each of these trials waits at its fault."""
        for spec in specs:
            faults.wait_for(lambda spec=spec: faults.processes_of(spec).get(f"{spec.key}-{rank}"))
        self.count()

    def run(self, during: "During") -> None:
        """Keep what goes wrong; the trials are not to wait for ever then."""
        try:
            during(self)
        except BaseException as error:  # noqa: BLE001 - raised again by `run_with`
            self.problem = error
            for spec in self._specs:
                faults.let_come(spec)
                for facts in faults.processes_of(spec).values():
                    faults.end(facts["pid"])


During = Callable[[Watch], None]


def run_with(specs: Sequence[TrialSpec], runtime: Runtime, during: During, *, poll_s: float = 0.5) -> Ran:
    """Run trials with their faults, followed by a driver's MLflow thread.

    Args:
        during: Runs beside them in a thread, is to count before a fault comes, and may fail the test.
    """
    ledger = projected.write_study(Path(specs[0].storage), specs[0].study)
    tracker = Tracker(ledger, counts.beside(ledger), poll_s=poll_s)
    watch = Watch(specs, ledger, tracker)
    with ledger.lock():
        projected.set_phase(ledger, "search", "search", "running")
        tracker.start()
        assert tracker.flush(MLFLOW_S), "MLflow's database was not made"
        thread = threading.Thread(target=watch.run, args=(during,))
        thread.start()
        try:
            summary = run_list(specs, phase="search", ledger=ledger, runtime=runtime, trainable=faults.faulty_trial)
        finally:
            watch.ended.set()
            thread.join()
            projected.set_phase(ledger, "search", "search", "finished")
            has_all = tracker.close(MLFLOW_S)
    if watch.problem:
        raise watch.problem
    assert has_all, "MLflow did not come up to the ledger"
    return Ran(ledger, summary, watch.before, counts.settled(ledger))


def expect_once(ran: Ran, specs: Sequence[TrialSpec], *, epochs: int = faults.EPOCHS) -> None:
    """Every trial is there, finished, with each epoch and one MLflow run, as it was before; nothing is there twice."""
    counts.expect_once(ran.after, ran.before, epochs={spec.key: epochs for spec in specs})
