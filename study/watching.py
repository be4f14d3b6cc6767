"""A report that is written again and again while its study runs, and a last time when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from analysis.load import Snapshot, read_study
from analysis.report import ReportPaths

EVERY_S = 30
LEAST_S = 5
QUIET_S = 600.0
"""Without anything new for so long, a person is told once that nobody may run the study."""
FAILURES = 5
"""After so many failed looks in a row the watch ends with the reason."""


def has_ended(snapshot: Snapshot) -> bool:
    """Whether every phase of the study has finished, by its record."""
    config = snapshot.study.get("config") or {}
    wanted = [phase.get("name") for phase in config.get("phases") or []]
    status = {phase["name"]: phase.get("status") for phase in snapshot.study.get("phases") or []}
    return bool(status) and all(status.get(name) == "finished" for name in wanted or status)


def state_of(snapshot: Snapshot) -> tuple[Any, ...]:
    """What changes whenever a trial or the study goes on."""
    trials = tuple((record.key, len(record.events), record.cells is not None) for record in snapshot.trials)
    return trials, str(snapshot.study.get("phases")), str(snapshot.study.get("test_reads"))


def watch(
    write: Callable[[int], ReportPaths], place: str, *, tracking_uri: str | None, every_s: int,
    say: Callable[[str], None], wait: Callable[[float], None] = time.sleep,
    passing: tuple[type[Exception], ...] = (ValueError, OSError),
) -> ReportPaths:  # fmt: skip
    """Write a report whenever something was added, until its study has ended or the person stops it (Ctrl-C).

    A page that is left behind by Ctrl-C does not load itself again.

    Args:
        write: writes it; gets the seconds after which an open page loads itself again, 0 at the end.
        place: the study's folder or URL, or its name where it is read from MLflow.
        every_s: seconds between two looks.
        say: tells the person what was done.
        passing: what a moment may raise: a file half there, a server that is away.

    Raises:
        ValueError: the time between two looks is too short, or the study cannot be read.
    """
    if every_s < LEAST_S:
        raise ValueError(f"--every must be at least {LEAST_S} seconds, but got {every_s}")
    last: tuple[Any, ...] | None = None
    quiet_s, failures = 0.0, 0
    try:
        while True:
            try:
                snapshot = read_study(place, tracking_uri=tracking_uri)
                if has_ended(snapshot):
                    return write(0)
                if (state := state_of(snapshot)) != last:
                    paths, last, quiet_s = write(every_s), state, 0.0
                    say(f"{time.strftime('%H:%M:%S')}  {_progress(snapshot)}; wrote {_where(paths)}")
                elif quiet_s < QUIET_S <= quiet_s + every_s:
                    say(f"{time.strftime('%H:%M:%S')}  nothing new for {QUIET_S / 60:.0f} minutes. If nobody runs the "
                        "study any more, `murk resume` goes on with it; Ctrl-C ends this")  # fmt: skip
                quiet_s += every_s
                failures = 0
            except passing as error:
                failures += 1
                if last is None or failures >= FAILURES:
                    raise
                say(f"{time.strftime('%H:%M:%S')}  could not be read or written, trying again: {error}")
            wait(every_s)
    except KeyboardInterrupt:
        if last is not None:
            write(0)
        raise


def _progress(snapshot: Snapshot) -> str:
    done = sum(record.status == "finished" for record in snapshot.trials)
    return f"{done} of {len(snapshot.trials)} trials finished"


def _where(paths: ReportPaths) -> str:
    return str(paths.html or f"{len(paths.tables)} table{'s' * (len(paths.tables) != 1)}")
