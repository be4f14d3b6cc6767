"""A watchdog for a trial's process: where training makes no step for too long, the process ends itself.

Ray sees a process that died, but not one that waits for ever: for a file system, another worker, a driver of a GPU.
The watchdog is a thread of the trial's process. It says in the ledger where the trial hangs and ends the process, so
that the trial is tried again like any other that lost its process.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from torch import nn

from study.ledger import Ledger

EVENT = "hung"
_EXIT_CODE = 70
_LOOKS = 20  # of the time-out
_MAX_LOOK_S = 5.0
_WRITING_S = 10.0  # for the record: the storage may be what hangs
_FROZEN_S = 6 * 3600.0
_WHERE_CHARACTERS = 4000
_log = logging.getLogger("murk")

OnHang = Callable[[float, str], None]


class Watchdog:
    """Calls `on_hang` once no beat came for too long. It begins to watch with the first beat.

    Time is counted by the watchdog's own looks, so a process that was itself frozen for hours (a laptop asleep, a
    paused container) is not taken for hung when it goes on.

    Args:
        timeout_s: Seconds without a beat; None watches nothing.
        on_hang: Takes the seconds and the stack of the thread that entered the `with` block.
        frozen_s: How much longer than the time-out the process may be frozen. A call that holds Python's lock is ended
            after both together, by a timer of C that cannot tell it from that.
    """

    def __init__(self, timeout_s: float | None, on_hang: OnHang, *, frozen_s: float = _FROZEN_S) -> None:
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._frozen_s = frozen_s
        self._beats = 0
        self._ended = threading.Event()
        self._watched = 0

    def beat(self) -> None:
        """Say that a step was made."""
        self._beats += 1

    def __enter__(self) -> Watchdog:
        """Start the thread."""
        self._watched = threading.get_ident()
        if self._timeout_s is not None:
            threading.Thread(target=self._watch, args=(self._timeout_s,), name="murk-watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self, timeout_s: float) -> None:
        look_s = min(_MAX_LOOK_S, timeout_s / _LOOKS)
        beats, still_s, before = 0, 0.0, time.monotonic()
        try:
            while not self._ended.wait(look_s):
                # For a call that hangs with Python's lock held: this needs no lock. Each look puts it off.
                faulthandler.dump_traceback_later(
                    timeout_s + self._frozen_s, exit=True, file=sys.__stderr__ or sys.stderr
                )
                now = time.monotonic()
                still_s = still_s + min(now - before, 2 * look_s) if beats == self._beats else 0.0
                beats, before = self._beats, now
                if beats and still_s >= timeout_s:
                    self._on_hang(still_s, self._where())
                    return
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched)
        return "".join(traceback.format_stack(frame))[-_WHERE_CHARACTERS:] if frame else ""


def end_process(ledger: Ledger, key: str, *, rank: int = 0) -> OnHang:
    """What a hung trial does: it records where it hangs and ends its process."""

    def on_hang(seconds: float, where: str) -> None:
        _log.error("trial %s made no step for %.0f s and ends its process (%d); it hung here:\n%s", key, seconds,
                   os.getpid(), where)  # fmt: skip
        writer = threading.Thread(
            target=ledger.append, args=(key, EVENT), kwargs={"seconds": seconds, "where": where, "rank": rank},
            daemon=True,
        )  # fmt: skip
        writer.start()
        writer.join(_WRITING_S)
        os._exit(_EXIT_CODE)

    return on_hang


def beat_with(network: nn.Module, beat: Callable[[], None]) -> None:
    """Have a beat with each forward pass of a network, in training and evaluation alike."""
    first = next((m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), network)

    def hook(_module: nn.Module, _inputs: object) -> None:
        beat()

    first.register_forward_pre_hook(hook)


def hang_of(ledger: Ledger, key: str) -> str | None:
    """What made a trial's last attempt end, in a sentence, where it hung; else None."""
    for event in reversed(ledger.events(key)):
        if event["event"] == EVENT:
            place = [line.strip() for line in event.get("where", "").splitlines() if line.lstrip().startswith("File")]
            at = f", in {place[-1]}" if place else ""
            return f"the trial made no step for {event['seconds']:.0f} s (resources.hang_timeout_s){at}"
        if event["event"] in {"start", "resume", "epoch"}:
            return None
    return None
