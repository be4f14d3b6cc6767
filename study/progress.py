"""A live line for the person who watches: how far a phase is, what is best so far, how long it still takes.

`Board` is the phase's state in memory; `ProgressLine` is the thread that shows it. Neither needs Ray.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self, TextIO

from study.credentials import printable, scrub
from study.ledger import Status

_TTY_INTERVAL_S = 0.5
_PLAIN_INTERVAL_S = 5.0


class Best(NamedTuple):
    """The best finished trial so far."""

    value: float
    number: int


@dataclass(frozen=True)
class Snapshot:
    """A phase at one moment.

    Args:
        seconds_left: Estimate from the epochs seen so far; None before the first.
    """

    phase: str
    total: int
    finished: int
    pruned: int
    failed: int
    running: int
    metric: str
    best: Best | None
    seconds_left: float | None


@dataclass
class _Course:
    """One trial of this launch."""

    number: int
    epochs: int
    epoch: int
    first_epoch: int
    started: float
    last: float


@dataclass
class _Ended:
    """The sums over the trials of this launch that ended, so that showing a phase costs the same however long it is."""

    epochs_seen: int = 0
    busy_s: float = 0.0
    num_reached: int = 0
    epochs_reached: int = 0

    def add(self, course: _Course) -> None:
        if course.epoch > course.first_epoch:
            self.epochs_seen += course.epoch - course.first_epoch
            self.busy_s += course.last - course.started
        self.num_reached += course.epoch > 0
        self.epochs_reached += course.epoch


@dataclass
class Board:
    """The state of a phase under way, kept by Tune's side and read by the progress line.

    Args:
        total: Trials that the phase is to have, those of earlier launches included.
        metric: Name of the headline figure.
        maximise: Whether more of it is better.
        max_concurrent: Trials at once.
    """

    phase: str
    total: int
    metric: str = "acc/noise"
    maximise: bool = True
    max_concurrent: int = 1
    clock: Callable[[], float] = time.monotonic
    _counts: dict[Status, int] = field(default_factory=lambda: {"finished": 0, "pruned": 0, "failed": 0})
    _courses: dict[str, _Course] = field(default_factory=dict)
    _ended: _Ended = field(default_factory=_Ended)
    _best: Best | None = None
    _notes: list[str] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, key: str, *, number: int, epochs: int, epoch: int = 0) -> None:
        """A trial was handed out; `epoch` of its `epochs` are done already."""
        now = self.clock()
        with self._lock:
            self._courses[key] = _Course(number, epochs, epoch, epoch, now, now)

    def reach(self, key: str, epoch: int, *, epochs: int | None = None) -> None:
        """A trial reported the end of an epoch, and where its budget decides it, how many it has."""
        with self._lock:
            course = self._courses.get(key)
            if course is not None:
                course.epoch, course.last = max(course.epoch, epoch), self.clock()
                course.epochs = course.epochs if epochs is None else epochs

    def end(self, key: str, status: Status, *, number: int, value: float | None = None) -> None:
        """A trial ended, in this launch or in an earlier one."""
        with self._lock:
            course = self._courses.pop(key, None)
            if course is not None:
                course.last = self.clock()
                self._ended.add(course)
            if status in self._counts:
                self._counts[status] += 1
            if status == "finished" and value is not None and self._beats(value):
                self._best = Best(value, number)

    def note(self, text: str) -> None:
        """A line to show once, such as a trial's error."""
        with self._lock:
            self._notes.append(printable(scrub(text)))

    def take_notes(self) -> list[str]:
        """The lines not shown yet; they are forgotten here."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def snapshot(self) -> Snapshot:
        """The phase as it stands."""
        with self._lock:
            return Snapshot(
                self.phase, self.total, self._counts["finished"], self._counts["pruned"], self._counts["failed"],
                len(self._courses), self.metric, self._best, self._seconds_left(),
            )  # fmt: skip

    def _beats(self, value: float) -> bool:
        if self._best is None:
            return True
        return value > self._best.value if self.maximise else value < self._best.value

    def _seconds_left(self) -> float | None:
        under_way, ended = self._courses.values(), self._ended
        epochs_seen = ended.epochs_seen + sum(course.epoch - course.first_epoch for course in under_way)
        if not epochs_seen:
            return None
        busy_s = sum(course.last - course.started for course in under_way if course.epoch > course.first_epoch)
        epoch_s = (ended.busy_s + busy_s) / epochs_seen
        # A pruned trial is short: those to come are taken to be as long as those that ended.
        if ended.num_reached:
            epochs_each = ended.epochs_reached / ended.num_reached
        else:
            epochs_each = sum(course.epochs for course in under_way) / len(under_way)
        to_come = max(0, self.total - sum(self._counts.values()) - len(under_way))
        epochs_left = to_come * epochs_each + sum(max(0, c.epochs - c.epoch) for c in under_way)
        return epochs_left * epoch_s / max(1, min(self.max_concurrent, to_come + len(under_way)))


def describe(snapshot: Snapshot) -> str:
    """A snapshot as one line."""
    parts = [f"{snapshot.finished} finished"]
    parts += [f"{count} {name}" for name, count in (("pruned", snapshot.pruned), ("failed", snapshot.failed)) if count]
    ended = snapshot.finished + snapshot.pruned + snapshot.failed
    text = f"{snapshot.phase}  {ended}/{snapshot.total} trials ({', '.join(parts)}), {snapshot.running} running"
    if snapshot.best is not None:
        text += f" | best {snapshot.metric} {snapshot.best.value:.4g} (trial {snapshot.best.number})"
    return text


def time_left(snapshot: Snapshot) -> str:
    """The estimate in words for people; empty where there is none."""
    seconds = snapshot.seconds_left
    if seconds is None or snapshot.finished + snapshot.pruned + snapshot.failed >= snapshot.total:
        return ""
    if seconds < 90:
        return f" | about {max(1, round(seconds))} s left"
    return f" | about {round(seconds / 60)} min left" if seconds < 5400 else f" | about {seconds / 3600:.1f} h left"


class ProgressLine:
    """Shows a board from a thread of its own while the `with` block runs.

    On a terminal one line is rewritten; elsewhere a line is added only when something changed, seconds apart at least.
    A stream that is closed or broken ends the showing and nothing else.

    Args:
        stream: Where to write; standard error if left out.
    """

    def __init__(self, board: Board, stream: TextIO | None = None) -> None:
        self._board = board
        self._stream = stream or sys.stderr
        self._is_tty = self._stream.isatty()
        self._interval_s = _TTY_INTERVAL_S if self._is_tty else _PLAIN_INTERVAL_S
        self._shown = ""
        self._is_broken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="murk-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.paint(is_last=True)

    def paint(self, *, is_last: bool = False) -> None:
        """Show the board as it stands."""
        snapshot = self._board.snapshot()
        state = describe(snapshot)
        notes = self._board.take_notes()
        if self._is_tty:
            width = shutil.get_terminal_size().columns - 1
            text = "".join(f"\r\x1b[K{note}\n" for note in notes)
            text += f"\r\x1b[K{(state + time_left(snapshot))[:width]}" + ("\n" if is_last else "")
        else:
            text = "".join(f"{note}\n" for note in notes)
            text += "" if state == self._shown else f"{state}{time_left(snapshot)}\n"
        self._shown = state
        self._write(text)

    def _loop(self) -> None:
        self.paint()
        while not self._ended.wait(self._interval_s):
            self.paint()

    def _write(self, text: str) -> None:
        if self._is_broken or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._is_broken = True
