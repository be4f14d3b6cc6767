"""Trials whose process was lost before its retries were used up: they are handed out again, after a while.

Tune retries a trial whose running process ends. It gives up at once on one whose new process cannot be placed, as when
Ray still sends it to a node that has just gone away.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from study.ledger import TrialSpec

_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 60.0
_MAX_PLACEMENTS = 12  # ten minutes in all: time enough for a node to be replaced


@dataclass
class _Handed:
    """A trial under way, and how often it had no place."""

    spec: TrialSpec
    placements: int = 0


class Again:
    """Keeps trials that are to be handed out once more.

    Args:
        begun: How many processes of a trial (by key) have begun in this launch; one in the wrong place never begins.
        retries: Processes that a trial may lose before it counts as failed.
        clock: Seconds.
    """

    def __init__(
        self, begun: Callable[[str], int], retries: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._begun = begun
        self._retries = retries
        self._clock = clock
        self._handed: dict[str, _Handed] = {}
        self._queue: deque[TrialSpec] = deque()
        self._not_before = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no trial waits."""
        return not self._queue

    def hand_out(self, spec: TrialSpec) -> None:
        """A trial of the source goes out for the first time in this launch."""
        self._handed[spec.key] = _Handed(spec)

    def take(self) -> TrialSpec | None:
        """The next trial that has waited long enough."""
        if not self._queue or self._clock() < self._not_before:
            return None
        return self._queue.popleft()

    def lose(self, key: str) -> bool:
        """Tune has given up on a trial's process; whether it goes out again."""
        handed = self._handed[key]
        if self._begun(key) > self._retries or handed.placements >= _MAX_PLACEMENTS:
            return False
        wait_s = min(_FIRST_WAIT_S * 2**handed.placements, _LONGEST_WAIT_S)
        handed.placements += 1
        self._not_before = max(self._not_before, self._clock() + wait_s)
        self._queue.append(handed.spec)
        return True

    def end(self, key: str) -> None:
        """A trial has its end."""
        self._handed.pop(key, None)
