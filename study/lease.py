"""A lock for places that have none, such as object stores: a small file that its holder renews.

Whoever finds one watches whether it changes; clocks of machines are never compared. A holder that died renews nothing,
so its lease is taken over after a while.
"""

from __future__ import annotations

import logging
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
    """Another process holds the lease."""


@contextmanager
def lease(file: LeaseFile, *, renew_s: float = RENEW_S, dead_s: float = DEAD_S) -> Iterator[None]:
    """Hold the lease for the block.

    Raises:
        Held: It is renewed by another process, or one took it at the same moment.
    """
    _wait_for_the_dead(file, dead_s)
    mine = uuid.uuid4().hex
    file.write(_entry(mine, 0))
    time.sleep(min(_SETTLE_S, renew_s))
    if not _is_mine(file, mine):
        raise Held
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(file, mine, renew_s, ended), name="murk-lease", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        try:
            if _is_mine(file, mine):
                file.remove()
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
            raise Held
        found = now


def _renew(file: LeaseFile, mine: str, renew_s: float, ended: threading.Event) -> None:
    number = 1
    while not ended.wait(renew_s):
        try:
            if not _is_mine(file, mine):
                _log.warning("the study's lease was taken by another process: two drivers may run it")
                return
            file.write(_entry(mine, number))
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            _log.warning("the study's lease cannot be renewed: %s", error)
        number += 1


def _entry(mine: str, number: int) -> bytes:
    return f"{mine} {number}\n".encode()


def _is_mine(file: LeaseFile, mine: str) -> bool:
    return (file.read() or b"").startswith(mine.encode())
