"""A lock for places that have none, such as object stores: a small file that its holder renews.

Whoever finds one watches whether it changes; clocks of machines are never compared. A holder that died renews nothing,
so its lease is taken over after a while. One that was only frozen learns that it lost it before it writes again.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

RENEW_S = 15.0
DEAD_S = 60.0
"""Without a renewal for so long a holder counts as dead."""
_SETTLE_S = 1.0  # for two that write at once: the later one wins
_LOOK_S = 1.0
_log = logging.getLogger("murk")


class LeaseFile(NamedTuple):
    """How the file is read (None: it is not there), written and removed."""

    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]
    remove: Callable[[], None]


class Held(Exception):
    """Another process holds the lease; the text says which."""


class Lease:
    """A lease that this process holds, until another takes it over.

    Args:
        dead_s: Without a renewal for half as long another may be about to take over, so that each look asks the file.
    """

    def __init__(self, file: LeaseFile, dead_s: float) -> None:
        self._file = file
        self._trusted_s = dead_s / 2
        self._mine = uuid.uuid4().hex
        self._number = 0
        self._lost_to: str | None = None
        self._confirmed = _now()
        self._lock = threading.Lock()

    @property
    def lost_to(self) -> str | None:
        """Who has taken the lease over, as far as it is known; asks nobody."""
        return self._lost_to

    def look(self) -> str | None:
        """Who has taken the lease over; None while it is ours. Asks the file where the last renewal is long ago."""
        with self._lock:
            if self._lost_to is None and _now() - self._confirmed > self._trusted_s:
                self._ask()
            return self._lost_to

    def renew(self) -> bool:
        """Write the next entry; False where another has taken the lease."""
        with self._lock:
            while self._lost_to is None and self._ask():
                if _now() - self._confirmed > self._trusted_s:
                    continue  # frozen since the answer: another may have taken it
                written = _now()
                self._file.write(_entry(self._mine, self._number))
                self._number += 1
                self._confirmed = written
                break
            return self._lost_to is None

    def give_back(self) -> None:
        """Remove the file where it is still ours."""
        with self._lock:
            if self._ask():
                self._file.remove()

    def take(self, settle_s: float) -> None:
        """Write the first entry.

        Raises:
            Held: Another wrote at the same moment, and later.
        """
        self._file.write(_entry(self._mine, 0))
        time.sleep(settle_s)
        if not self._ask():
            raise Held(self._lost_to)
        self._number = 1

    def _ask(self) -> bool:
        asked = _now()  # before the answer: a process may be frozen after it
        found = self._file.read()
        if found is None or not found.startswith(self._mine.encode()):
            self._lost_to = _holder(found)
            return False
        self._confirmed = asked
        return True


@contextmanager
def lease(file: LeaseFile, *, renew_s: float = RENEW_S, dead_s: float = DEAD_S) -> Iterator[Lease]:
    """Hold the lease for the block, or until another process takes it over.

    Raises:
        Held: It is renewed by another process, or one took it at the same moment.
    """
    _wait_for_the_dead(file, dead_s)
    held = Lease(file, dead_s)
    held.take(min(_SETTLE_S, renew_s))
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(held, renew_s, ended), name="murk-lease", daemon=True)
    renewer.start()
    try:
        yield held
    finally:
        ended.set()
        renewer.join()
        try:
            held.give_back()
        except Exception as error:  # noqa: BLE001 - each file system has its own; the lease ends by itself
            _log.warning("the study's lease cannot be given back: %s", error)


def _wait_for_the_dead(file: LeaseFile, dead_s: float) -> None:
    found = file.read()
    end = time.monotonic() + dead_s
    if found is not None:
        _log.warning("another process may run this study; looking for up to %.0f s whether it lives", dead_s)
    while found is not None and time.monotonic() < end:
        time.sleep(min(_LOOK_S, dead_s / 10))
        now = file.read()
        if now is not None and now != found:
            raise Held(_holder(now))
        found = now


def _renew(held: Lease, renew_s: float, ended: threading.Event) -> None:
    while not ended.wait(renew_s):
        try:
            if not held.renew():
                _log.warning("the study's lease was taken over by %s", held.lost_to)
                return
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            _log.warning("the study's lease cannot be renewed: %s", error)


def _entry(mine: str, number: int) -> bytes:
    return f"{mine} {number} process {os.getpid()} on {socket.gethostname()}\n".encode()


def _holder(entry: bytes | None) -> str:
    """Who wrote an entry, in words."""
    named = (entry or b"").decode(errors="replace").split(maxsplit=2)[2:]
    return named[0].strip() if named else "another process"


def _now() -> float:
    """Seconds that go on while this process, or the machine, sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
