"""The nodes of a cluster: asked of its job API over HTTP, or of Ray by joining; Ray is imported only then."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from study.config_search import ResourcesConfig
from study.places import refuse_credentials
from study.preflight import Node, shown, worker_slots

_TIMEOUT_S = 30


def nodes_at(address: str) -> list[Node]:
    """Resources of each living node of a cluster.

    Args:
        address: URL of the job API (`http://HOST:8265`), or what `ray.init` takes (`auto`, `HOST:6379`).

    Raises:
        ValueError: No cluster answers, it refuses the token, or the address holds credentials.
    """
    refuse_credentials(address, "--address")
    return _asked(address) if address.startswith(("http://", "https://")) else _joined(address)


def _asked(address: str) -> list[Node]:
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is first imported
    from ray.exceptions import AuthenticationError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException
    from requests.exceptions import RequestException

    try:
        found = list_nodes(address=address, filters=[("state", "=", "ALIVE")], timeout=_TIMEOUT_S)
    except AuthenticationError:
        raise ValueError(
            f"the cluster at {address} refuses the token; give the one it was started with, by RAY_AUTH_TOKEN_PATH or "
            "RAY_AUTH_TOKEN"
        ) from None
    except (RayStateApiException, RequestException, ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"no Ray job API answers at {address} ({type(error).__name__}); is the cluster up, and its dashboard's "
            "port forwarded to here?"
        ) from None
    return [dict(vars(node)["resources_total"]) for node in found]


def _joined(address: str) -> list[Node]:
    from study.runtime import cluster_settings, join

    settings = cluster_settings(address)
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        join(settings)
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if is_ours:
            ray.shutdown()


def total(nodes: Sequence[Node]) -> dict[str, float]:
    """CPUs and GPUs of all nodes together."""
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}


def layout(resources: ResourcesConfig, nodes: Sequence[Node]) -> list[str]:
    """How many workers each kind of node holds, in words; the largest kinds first."""
    kinds = Counter((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)
    lines = []
    for (cpus, gpus), count in sorted(kinds.items(), reverse=True):
        has = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        slots = worker_slots(resources, has)
        holds = (
            f"{slots} worker{'s' if slots != 1 else ''}{' each' if count > 1 else ''}" if slots else "no worker, ever"
        )
        lines.append(f"{count} node{'s' if count > 1 else ''} with {shown(has)}: {holds}")
    return lines
