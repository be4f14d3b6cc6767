"""Two nodes on this machine: a trial with a worker on each, a range of workers, and what check says of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration

# In a process of its own: the session's shared Ray is another cluster.
CODE = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from study.runtime import cluster_settings

cluster_settings("")  # sets what Ray reads when it is first imported
import ray

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
cluster.wait_for_nodes()
try:
    from study.nodes import layout, nodes_at
    from study.phases import run_study
    from study.studyfile import load_study

    nodes = nodes_at(cluster.address)
    loaded = load_study("small.yaml", sys.argv[1:])
    code = run_study(loaded, storage=str(Path("storage").resolve()), address=cluster.address)
    print("FOUND", json.dumps({"code": code, "layout": layout(loaded.config.resources, nodes)}))
finally:
    cluster.shutdown()
"""
STUDY = """
name: small
data: {source: synthetic-vehicles, num_classes: 3, train_per_class: 8, test_per_class: 4, image_size: 32}
model: {backbone: test_resnet}
noise: {validation: [gaussian_noise], validation_severities: [3], test: [contrast], test_severities: [1]}
train: {epochs: 2, batch_size: 8}
tracking: {enabled: false}
phases: [{kind: train, name: train, seeds: [1, 2]}]
"""


def _run(folder: Path, *sets: str) -> tuple[dict, list[list[dict]]]:
    (folder / "small.yaml").write_text(STUDY)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MURK_CACHE": str(folder / "cache")}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", CODE, *sets], cwd=folder, env=env, capture_output=True, text=True,
                          timeout=550, check=False)  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stdout[-2000:] + done.stderr[-4000:]
    paths = sorted((folder / "storage" / "small" / "trials").glob("*/events.jsonl"))
    events = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
    return json.loads(found[0].removeprefix("FOUND ")), events


@pytest.mark.timeout(600)
def test_a_trial_spreads_over_two_nodes(tmp_path):
    found, trials = _run(tmp_path, "resources.workers_per_trial=2")
    assert found == {"code": 0, "layout": ["2 nodes with 1 CPU: 1 worker each"]}
    assert [[event["event"] for event in events] for events in trials] == [["start", "epoch", "epoch", "final"]] * 2
    assert [events[0]["workers"] for events in trials] == [2, 2]


@pytest.mark.timeout(600)
def test_a_range_of_workers_takes_what_is_there(tmp_path):
    """Of one to four workers two find a place; the records say how many they were."""
    found, trials = _run(tmp_path, "resources.workers_per_trial=[1, 4]", "phases.train.seeds=[1]")
    assert found["code"] == 0
    assert [event["event"] for event in trials[0]] == ["start", "epoch", "epoch", "final"]
    assert trials[0][0]["workers"] == 2
