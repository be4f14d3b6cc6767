"""A trial's event log as it stood when it was read: each line is parsed once, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from analysis.recordfile import parse_event

_KEPT = 8


class Stamp(NamedTuple):
    """What changes whenever a file does that is only ever appended to, or put in its place whole."""

    inode: int
    size: int
    mtime_ns: int


class EventLog:
    """The lines of an `events.jsonl`; one torn by a crash is passed over, and so is what is no event."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.splitlines()
        self._parsed: dict[int, dict[str, Any] | None] = {}

    def events(self) -> list[dict[str, Any]]:
        """All events in the order written; not to be changed."""
        return [event for i in range(len(self._lines)) if (event := self._event(i)) is not None]

    def backwards(self) -> Iterator[dict[str, Any]]:
        """The events from the last to the first."""
        return (event for i in reversed(range(len(self._lines))) if (event := self._event(i)) is not None)

    def _event(self, index: int) -> dict[str, Any] | None:
        if index not in self._parsed:
            self._parsed[index] = parse_event(self._lines[index])
        return self._parsed[index]


class RecentLogs:
    """The few logs that were read last: who asks several things of one trial has its lines parsed once.

    Never stale: the file is looked at each time, and a log counts only under the stamp that the file has then. Holds no
    lock, so that a ledger can be pickled; threads may share it, at worst a log is read twice.
    """

    def __init__(self) -> None:
        self._logs: dict[str, tuple[Stamp, EventLog]] = {}

    def read(self, key: str, read: Callable[[Stamp | None], tuple[Stamp | None, bytes | None]]) -> EventLog:
        """A trial's log as it stands.

        Args:
            read: `Storage.read_changed` of the trial's file.
        """
        known = self._logs.get(key)
        stamp, data = read(known[0] if known else None)
        if known and stamp is not None and data is None:
            return known[1]
        log = EventLog(data or b"")
        if stamp is not None:
            if len(self._logs) >= _KEPT:
                self._logs.clear()
            self._logs[key] = (stamp, log)
        return log
