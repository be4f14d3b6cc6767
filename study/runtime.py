"""Starting and leaving Ray, and stopping cleanly when someone asks for it. Ray is imported only when it is started."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from study.config_search import ResourcesConfig
from study.preflight import Capacity, check_fit

_OBJECT_STORE_BYTES = 256 * 2**20
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Ray's switch for "this machine only", whatever its name says; it is read when Ray is first imported.
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_STOPPING = b"\nmurk: stopping; running trials save where they stand (Ctrl-C again ends at once)\n"


class Interrupted(Exception):
    """Someone asked to stop; running trials have saved where they stand."""


@dataclass(frozen=True)
class Runtime:
    """A Ray that is up, and how trials are placed on it.

    Args:
        is_ours: Whether it was started here and is to be ended here.
    """

    resources: ResourcesConfig
    capacity: Capacity
    is_ours: bool
    verbose: bool = False


def start_ray(resources: ResourcesConfig, *, address: str | None = None, verbose: bool = False) -> Runtime:
    """Join the cluster at `address` or `RAY_ADDRESS`, or start a local Ray that only this machine can reach.

    A Ray that is already up in this process is used as it is.

    Raises:
        ValueError: Not one trial fits the cluster, or there is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    settings = cluster_settings(address, verbose=verbose) if address else local_settings(verbose=verbose)
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        join(settings)
    nodes: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    try:
        return Runtime(resources, check_fit(resources, nodes), is_ours, verbose)
    except ValueError:
        if is_ours:
            ray.shutdown()
        raise


def stop_ray(runtime: Runtime) -> None:
    """Leave the cluster; a Ray started by `start_ray` ends with all its processes."""
    if runtime.is_ours:
        import ray

        ray.shutdown()


def local_settings(*, verbose: bool = False) -> dict[str, Any]:
    """Arguments of `ray.init` for a Ray of our own; sets the environment that Ray reads when it is first imported."""
    for name, value in (_QUIET | _LOOPBACK_ONLY).items():
        os.environ.setdefault(name, value)
    # Without an address Ray would join a head that someone started on this machine.
    return {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        **_log_settings(verbose),
    }


def cluster_settings(address: str, *, verbose: bool = False) -> dict[str, Any]:
    """Arguments of `ray.init` for a cluster that is up."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    return {"address": address, **_log_settings(verbose)}


def _log_settings(verbose: bool) -> dict[str, Any]:
    return {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}


def join(settings: dict[str, Any]) -> None:
    """Start or join Ray.

    Raises:
        ValueError: There is no cluster at the address, it refuses the token, or Ray did not come up in time.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(**settings)
    except AuthenticationError:
        raise ValueError(
            f"the Ray cluster at {settings.get('address')!r} refuses the token; give the one it was started with, by "
            "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        ) from None
    except ConnectionError as error:
        raise ValueError(
            f"no Ray cluster answers at {settings.get('address')!r} ({error}); start one, or leave the address out"
        ) from error
    except Exception as error:
        if type(error) is not Exception:  # Ray's own processes that do not come up are its bare base class
            raise
        raise ValueError(
            f"Ray did not start ({str(error).splitlines()[0]}); on a machine that is busy with other work its "
            "processes miss their time: try again when there is less to do, or join a cluster by --address"
        ) from error


def _nothing_lost() -> bool:
    return False


class StopRequest:
    """Whether someone asked to stop.

    Args:
        is_lost: A reason to stop besides being asked: that the study is another driver's now. It is asked often.
    """

    def __init__(self, is_lost: Callable[[], bool] = _nothing_lost) -> None:
        self._event = threading.Event()
        self._is_lost = is_lost

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._event.is_set() or self._is_lost()

    def request(self) -> None:
        """Ask to stop."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until asked to stop, or for so long; says whether to stop."""
        return self._event.wait(0.0 if self.requested else timeout_s) or self.requested


@contextmanager
def catch_signals(is_lost: Callable[[], bool] = _nothing_lost) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request to stop; the second raises KeyboardInterrupt at once.

    Outside the main thread, where Python takes no handlers, nothing is caught.

    Args:
        is_lost: As of `StopRequest`.
    """
    stop = StopRequest(is_lost)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.request()
        os.write(2, _STOPPING)  # print could be under way where the signal struck

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
