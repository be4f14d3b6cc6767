"""Proof before the start that a trial with all its workers fits the cluster; else what is missing and the way out.

Without it a trial that can never be placed waits for ever, and trials whose driver functions take the CPUs that their
workers need wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from study.config_search import ResourcesConfig

Executor = Literal["inline", "ray_train"]
Node = Mapping[str, float]

# The function that starts a trial's workers only waits for them. Ray takes no empty request, and any share of a CPU
# would keep the last worker out: a byte of memory is what it asks for.
DRIVER_SHARE = {"memory": 1.0}


@dataclass(frozen=True)
class Capacity:
    """How trials are run on a cluster.

    Args:
        max_concurrent: Trials at once.
        per_trial: What Tune reserves for a trial's own function (workers of Ray Train reserve theirs).
    """

    executor: Executor
    max_concurrent: int
    per_trial: dict[str, float]


def resolve_executor(resources: ResourcesConfig) -> Executor:
    """The executor, `auto` resolved: one worker without a GPU runs in the trial's own process.

    Starting a Ray Train run takes tens of seconds, a call in the trial's process none.
    """
    if resources.executor != "auto":
        return resources.executor
    return "inline" if resources.max_workers == 1 and not resources.gpus_per_worker else "ray_train"


def worker_needs(resources: ResourcesConfig) -> dict[str, float]:
    """What one worker reserves."""
    needs = {"CPU": resources.cpus_per_worker}
    return needs | {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else needs


def check_fit(resources: ResourcesConfig, nodes: Sequence[Node]) -> Capacity:
    """How many trials fit at once.

    Args:
        nodes: Resources of each living node, as `ray.nodes()` names them (`CPU`, `GPU`).

    Raises:
        ValueError: Not one trial fits; the message says what is missing.
    """
    executor = resolve_executor(resources)
    needs = worker_needs(resources)
    slots = sum(worker_slots(resources, node) for node in nodes)
    fitting, rest = divmod(slots, resources.max_workers)
    fitting += rest >= resources.min_workers  # a trial of fewer workers takes what the others leave
    if fitting < 1:
        raise ValueError(_refusal(resources, nodes, needs, slots))
    wanted = resources.max_concurrent or fitting
    # An inline trial that finds no place waits in Tune's queue, also for a cluster to grow; a worker group times out.
    concurrent = wanted if executor == "inline" else min(wanted, fitting)
    return Capacity(executor, concurrent, needs if executor == "inline" else dict(DRIVER_SHARE))


def worker_slots(resources: ResourcesConfig, node: Node) -> int:
    """How many workers a node holds when it is empty.

    A share of a GPU lies on one of them: two GPUs hold two workers of 0.6, not three.
    """
    slots = []
    for name, amount in worker_needs(resources).items():
        has = node.get(name, 0.0) + 1e-9
        is_shared = name == "GPU" and amount < 1
        slots.append(int(has) * int((1 + 1e-9) // amount) if is_shared else int(has // amount))
    return min(slots)


def _refusal(resources: ResourcesConfig, nodes: Sequence[Node], needs: Mapping[str, float], slots: int) -> str:
    workers = resources.min_workers
    each = shown(needs)
    have = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with " + "; ".join(
        shown({name: node.get(name, 0.0) for name in needs}) for node in nodes
    )
    lacking = [name for name, amount in needs.items() if all(node.get(name, 0.0) < amount for node in nodes)]
    if lacking:
        why = f"no node has {shown({name: needs[name] for name in lacking})}"
        ways = [f"lower resources.{_SETTING[name]}" for name in lacking]
    else:
        why = f"only {slots} of {workers} workers find a place"
        key = "resources.workers_per_trial.min" if resources.is_elastic else "resources.workers_per_trial"
        ways = [f"set {key} to {slots} at most" if slots else "lower resources.cpus_per_worker"]
    return (
        f"resources: a trial needs {workers} worker{'s' if workers != 1 else ''} with {each} each, but {why} "
        f"(the cluster has {have if nodes else 'no living node'}); {' and '.join(ways)}, or use a larger cluster"
    )


_SETTING = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker"}


def shown(needs: Mapping[str, float]) -> str:
    """CPUs and GPUs in words."""
    return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in needs.items())
