"""The flag by which trials on any machine learn that they are to stop.

It imports nothing but Ray: the flag's process starts with each phase and is to be up at once.
"""

from __future__ import annotations

import time

import ray
from ray.exceptions import RayError

_POLL_INTERVAL_S = 0.5


@ray.remote(num_cpus=0)
class StopFlag:
    """Says to all trials of a launch, wherever they run, whether to stop."""

    def __init__(self) -> None:
        self._is_up = False
        self._keys: set[str] = set()

    def up(self) -> None:
        """Ask all trials to stop."""
        self._is_up = True

    def stop(self, key: str) -> None:
        """Ask one trial to stop."""
        self._keys.add(key)

    def is_up(self, key: str) -> bool:
        """Whether this trial is to stop."""
        return self._is_up or key in self._keys


class StopPoll:
    """A trial's view of the stop flag, asked for at most twice a second.

    A flag that cannot be reached means that the driver is gone, so the trial is to stop as well.
    """

    def __init__(self, name: str, key: str) -> None:
        self._name = name
        self._key = key
        self._asked = float("-inf")
        self._answer = False

    def __call__(self) -> bool:
        """Whether to stop."""
        if not self._answer and time.monotonic() - self._asked >= _POLL_INTERVAL_S:
            self._answer = self._ask()
            self._asked = time.monotonic()
        return self._answer

    def _ask(self) -> bool:
        try:
            return bool(ray.get(ray.get_actor(self._name).is_up.remote(self._key)))
        except (RayError, ValueError):  # get_actor knows a dead actor's name no more: ValueError
            return True
