"""A node that goes away, and the head with it: the trial goes on elsewhere, the study on a fresh cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from study.ledger import Ledger
from study.runtime import local_settings
from tests.e2e import counts, drive, faults
from tests.e2e.heads import Head, whole_head
from tests.e2e.studies import ROOT, SMALL, murk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
RECONNECT_S = "20"  # Ray's own minute is long for a test


def test_loss_of_a_node(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    settings = {name: value for name, value in local_settings().items() if name in {"log_to_driver", "logging_level"}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
        ray.init(address=cluster.address, **settings)
        home = ray.get_runtime_context().get_node_id()
        specs = faults.specs_of(tmp_path, 2)
        for spec in specs:
            faults.set_fault(spec, "wait")

        def during(watch: drive.Watch) -> None:
            """Both wait, each on a node of its own; one node goes, then the other trial's process."""
            watch.count_at(*specs)
            places = {faults.processes_of(spec)[f"{spec.key}-0"]["node"]: spec for spec in specs}
            assert len(places) == 2
            # Ray joins this process to any node of this machine; a study ends with its driver's node.
            lost = next(node for node in nodes if node.node_id in places.keys() - {home})
            cluster.remove_node(lost, allow_graceful=False)
            faults.end_waiting(next(spec for node, spec in places.items() if node != lost.node_id))

        ran = drive.run_with(specs, drive.runtime_of(retries=2), during)
        assert ran.summary.failed == [], [ran.ledger.events(key)[-1] for key in ran.summary.failed]
        drive.expect_once(ran, specs)
        for spec in specs:
            assert (spec.key, 1) in ran.before[0].logged
            assert faults.names_of(ran.ledger, spec.key).count("resume") >= 1
            assert set(counts.trained_again(ran.ledger, spec.key)) == {0}
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_range_of_workers_follows_the_cluster(tmp_path: Path) -> None:
    """One worker trains until a node joins, then two until it leaves, then one again."""
    import ray
    from ray.cluster_utils import Cluster

    settings = {name: value for name, value in local_settings().items() if name in {"log_to_driver", "logging_level"}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, **settings)
        (spec,) = specs = faults.specs_of(tmp_path, 1)
        faults.set_fault(spec, "wait")

        def during(watch: drive.Watch) -> None:
            watch.count_at(spec)
            # With it a node takes signals, which a thread cannot; the block's end ends it too.
            cluster._shutdown_at_exit = False
            joined = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
            faults.move_fault(spec, (2, 1))
            watch.count_at(spec)
            cluster.remove_node(joined, allow_graceful=False)

        ran = drive.run_with(specs, drive.runtime_of(1, workers_per_trial=(1, 4), retries=1), during)
        assert ran.summary.done == [spec.key], ran.ledger.events(spec.key)[-1]
        drive.expect_once(ran, specs)
        names = ["start", "epoch", "resume", "epoch", "resume", "epoch", "final"]
        assert faults.names_of(ran.ledger, spec.key) == names
        attempts = [event for event in ran.ledger.events(spec.key) if event["event"] in {"start", "resume"}]
        assert [event["workers"] for event in attempts] == [1, 2, 1]
        assert [(event["epoch"], event["step"]) for event in attempts[1:]] == [(1, 0), (2, 0)]
    finally:
        ray.shutdown()
        cluster.shutdown()


class Family:
    """A process that we started, and all that it started in turn."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def pids(self) -> list[int]:
        """Those that live now, parents first; none once the first one is gone."""
        parents: dict[int, int] = {}
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents[int(place.parent.name)] = int(fields[1])
        found = [self._pid] if self._pid in parents else []
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def names(self) -> set[str]:
        """Their names."""
        return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in self.pids()}

    def end(self) -> None:
        """kill -9, children first looked up, so that none is left behind."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def _head(tmp_path: Path, name: str) -> Iterator[tuple[Head, Family]]:
    """A Ray head of our own and all processes that it started, which the block's end ends."""
    (tmp_path / name).mkdir()
    # Whatever the last one's name says: 127.0.0.1 stays 127.0.0.1.
    quick = {"RAY_gcs_rpc_server_reconnect_timeout_s": RECONNECT_S, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with whole_head(tmp_path / name, **quick) as head:
        family = Family(head.pid)
        try:
            yield head, family
        finally:
            family.end()


def test_loss_of_the_head_and_a_fresh_one(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    ledger = Ledger(str(tmp_path / "results"), "small")
    sets = ["--set", "search.trials=4"]
    with _head(tmp_path, "first") as (head, family), (tmp_path / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "murk", "run", "small.yaml", *sets, "--address", head.cluster], cwd=tmp_path,
            env={**head.env, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            faults.wait_for(lambda: driver.poll() is not None or counts.is_under_way(ledger, finished=1), timeout_s=400)
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()
            family.end()
            code = driver.wait(timeout=180)
        finally:
            if driver.poll() is None:
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait(30)
    assert code != 0, "a study whose cluster died is not done"
    before = counts.look(ledger)
    counts.expect_shown(before)
    finished_before = {key for key, end in before.ends if end == "final"}
    assert finished_before
    assert "failed" not in {ledger.status(key) for key in ledger.keys()}, "a lost cluster is no trial's failure"

    with _head(tmp_path, "second") as (head, _):
        done = murk("resume", "small", "--address", head.cluster, cwd=tmp_path, timeout=600, **head.env)
    assert done.returncode == 0, done.stderr
    found = counts.settled(ledger)
    counts.expect_once(found, [before], epochs=dict.fromkeys(ledger.keys(), 6))
    for key in finished_before:
        assert faults.names_of(ledger, key).count("start") == 1
    again = {key: counts.trained_again(ledger, key) for key in ledger.keys()}
    print("epochs trained again", again)
    assert any(again.values()), "no trial went on"
    assert counts.states(ledger) == {"FINISHED"}
