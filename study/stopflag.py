"""The flag by which trials on any machine learn that they are to stop.

It imports nothing but Ray: the flag's process starts with each phase and is to be up at once.
"""

from __future__ import annotations

import time
from collections import Counter

import ray
from ray.exceptions import RayError

_POLL_INTERVAL_S = 0.5


@ray.remote(num_cpus=0)
class StopFlag:
    """Says to all trials of a launch, wherever they run, whether to stop."""

    def __init__(self) -> None:
        self._is_up = False
        self._keys: set[str] = set()
        self._begun: Counter[str] = Counter()

    def up(self) -> None:
        """Ask all trials to stop."""
        self._is_up = True

    def stop(self, key: str) -> None:
        """Ask one trial to stop."""
        self._keys.add(key)

    def begin(self, key: str) -> bool:
        """A process of a trial has begun; whether it is to stop at once."""
        self._begun[key] += 1
        return self.is_up(key)

    def begun(self, key: str) -> int:
        """How many processes of a trial have begun in this launch."""
        return self._begun[key]

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

    def begin(self) -> bool:
        """Say that a process of the trial has begun, which counts when processes are lost; whether to stop at once."""
        self._answer = self._ask("begin")
        self._asked = time.monotonic()
        return self._answer

    def __call__(self) -> bool:
        """Whether to stop."""
        if not self._answer and time.monotonic() - self._asked >= _POLL_INTERVAL_S:
            self._answer = self._ask("is_up")
            self._asked = time.monotonic()
        return self._answer

    def _ask(self, question: str) -> bool:
        try:
            return bool(ray.get(getattr(ray.get_actor(self._name), question).remote(self._key)))
        except (RayError, ValueError):  # get_actor knows a dead actor's name no more: ValueError
            return True
