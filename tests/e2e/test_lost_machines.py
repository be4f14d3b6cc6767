"""A node that goes away, and the head with it: the trial goes on elsewhere, the study on a fresh cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from study.ledger import Ledger
from study.runtime import local_settings
from tests.e2e import faults
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

        def during() -> None:
            """Both wait, each on a node of its own; one node goes, then the other trial's process."""
            for spec in specs:
                faults.wait_for(lambda spec=spec: faults.processes_of(spec))
            places = {faults.processes_of(spec)[f"{spec.key}-0"]["node"]: spec for spec in specs}
            assert len(places) == 2
            # Ray joins this process to any node of this machine; a study ends with its driver's node.
            lost = next(node for node in nodes if node.node_id in places.keys() - {home})
            cluster.remove_node(lost, allow_graceful=False)
            faults.end_waiting(next(spec for node, spec in places.items() if node != lost.node_id))

        ledger, summary = faults.run_with(specs, faults.runtime_of(retries=2), during)
        assert summary.failed == [], [ledger.events(key)[-1] for key in summary.failed]
        faults.expect_once(faults.count(ledger), specs)
        for spec in specs:
            assert faults.names_of(ledger, spec.key).count("resume") >= 1
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


def _epochs(ledger: Ledger) -> list[tuple[str, int]]:
    return [(key, e["epoch"]) for key in ledger.keys() for e in ledger.events(key) if e["event"] == "epoch"]


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
            states = lambda: [ledger.status(key) for key in ledger.keys()]  # noqa: E731
            faults.wait_for(
                lambda: (driver.poll() is not None) or ("finished" in states() and "running" in states()),
                timeout_s=400,
            )
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()
            family.end()
            code = driver.wait(timeout=180)
        finally:
            if driver.poll() is None:
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait(30)
    assert code != 0, "a study whose cluster died is not done"
    before = _epochs(ledger)
    finished_before = {key for key in ledger.keys() if ledger.status(key) == "finished"}
    assert "failed" not in {ledger.status(key) for key in ledger.keys()}, "a lost cluster is no trial's failure"

    with _head(tmp_path, "second") as (head, _):
        done = murk("resume", "small", "--address", head.cluster, cwd=tmp_path, timeout=600, **head.env)
    assert done.returncode == 0, done.stderr
    assert {ledger.status(key) for key in ledger.keys()} == {"finished"}
    epochs = _epochs(ledger)
    assert len(epochs) == len(set(epochs)) == 6 * len(ledger.keys())
    assert set(before) <= set(epochs)
    for key in finished_before:
        assert [e["event"] for e in ledger.events(key)].count("final") == 1
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/results/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = [run.data.tags["murk.trial"] for run in runs if "murk.trial" in run.data.tags]
    assert sorted(trials) == sorted(ledger.keys())
    assert {run.info.status for run in runs} == {"FINISHED"}
