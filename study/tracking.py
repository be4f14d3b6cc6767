"""MLflow as a projection of the ledger: a thread of the driver follows it, and `sync` catches up by hand.

Nothing waits for MLflow and nothing depends on it. A server that is away costs one warning; what it misses is read from
the ledger when it is back. `MlflowClient` only: no active run, no global state but these variables, set before MLflow
is imported where they are not set already: MLFLOW_DISABLE_TELEMETRY, MLFLOW_LOGGING_LEVEL,
MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT, MLFLOW_HTTP_REQUEST_MAX_RETRIES,
MLFLOW_HTTP_REQUEST_TIMEOUT (a pass that fails soon is repeated later, which serves better than one that hangs).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.mlflow_owner import Owner
from study.mlflow_runs import Counts, Runs, TrackingError
from study.places import redact, resolve_tracking, sqlite_path
from study.projection import Projection
from study.storage import StudyLostError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from study.ledger import Ledger

POLL_S = 5.0
RETRY_S, MAX_RETRY_S, WAITED_RETRY_S = 1.0, 60.0, 2.0
FLUSH_S = 30.0
MAX_REASON_CHARACTERS = 300
ARTIFACTS_FOLDER = "mlflow-artifacts"
REPORT = "report.html"

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_log = logging.getLogger("murk.tracking")
_LOUD = "mlflow.store.db.utils"
"""Logs a database's error with its traceback and values before it raises it; it is told by us, in one line."""


@dataclass(frozen=True)
class SyncReport:
    """What a sync wrote; all zeros where MLflow was up to date.

    Attributes:
        problems: trial key -> why it is not shown whole.
        notes: what else a person is to know.
    """

    uri: str
    study: str
    runs: int
    metrics: int
    files: int
    problems: dict[str, str]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        if not (self.runs or self.metrics or self.files or self.problems):
            return "\n".join([f"{self.study} is up to date in MLflow at {self.uri}", *self.notes])
        lines = [f"{self.study} -> MLflow at {self.uri}: {self.runs} new runs, {self.metrics} metric values, "
                 f"{self.files} files"]  # fmt: skip
        lines += [f"trial {key} is not shown whole: {reason}" for key, reason in self.problems.items()]
        return "\n".join([*lines, *self.notes])


def connect(uri: str) -> MlflowClient:
    """A client of an MLflow place; makes the database of a SQLite place."""
    _set_environment()
    from mlflow.tracking import MlflowClient

    logging.getLogger(_LOUD).setLevel(logging.CRITICAL)
    database = sqlite_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def open_projection(ledger: Ledger, uri: str, *, connect: Callable[[str], Any] = connect) -> Projection:
    """The projection of a study into an MLflow place; with SQLite, artifacts lie in a folder beside the database."""
    database = sqlite_path(uri)
    artifacts = None if database is None else (database.parent / ARTIFACTS_FOLDER / ledger.study).as_uri()
    return Projection(ledger, Runs(connect(uri), Owner(ledger), uri, artifact_location=artifacts))


def sync(ledger: Ledger, tracking_uri: str | None) -> SyncReport:
    """Bring MLflow up to date with a study that no driver runs now; a second time it does nothing.

    Trials without an end are shown as interrupted.

    Raises:
        StudyLockedError: A driver runs the study, and projects it itself.
        TrackingError: The server is away or refuses the study.
    """
    uri = resolve_tracking(_named(tracking_uri), Path.cwd())
    with ledger.lock():
        counts, error = _attempt(lambda: open_projection(ledger, uri).advance(reports=[REPORT], ending=True))
    if isinstance(error, (TrackingError, StudyLostError)):
        raise error
    if counts is None:
        raise TrackingError(
            f"MLflow at {redact(uri)} could not be written: {_one_line(error)}; the ledger has everything, so "
            f"try again when it is back: {catch_up(ledger)}"
        )
    return SyncReport(
        redact(uri), ledger.study, counts.runs, counts.metrics, counts.files, counts.problems, counts.notes
    )


def catch_up(ledger: Ledger) -> str:
    """The command that brings MLflow up to date by hand."""
    return f"murk sync {ledger.study} --storage {redact(ledger.storage)}"


class Tracker:
    """Follows a study's ledger and writes it to MLflow, in a thread of its own. The driver holds the study's lock.

    Args:
        ledger: The study's records.
        tracking_uri: MLflow server or database, absolute.
        poll_s: Seconds between two looks at the ledger.
        connect: Makes the client of a URI.

    Raises:
        ValueError: The URI is missing or no MLflow place.
    """

    def __init__(
        self,
        ledger: Ledger,
        tracking_uri: str | None,
        *,
        poll_s: float = POLL_S,
        connect: Callable[[str], Any] = connect,
    ) -> None:
        self._ledger = ledger
        self._uri = resolve_tracking(_named(tracking_uri), Path.cwd())
        self._poll_s = poll_s
        self._connect = connect
        self._projection: Projection | None = None
        self._changed = threading.Condition()
        self._phases: list[str] = []
        self._reports: list[str] = []
        self._wanted = self._tried = self._done = 0
        self._is_following = self._is_ending = self._is_stopping = False
        self._refused: dict[str, str] = {}
        self._noted: set[str] = set()

    def start(self) -> None:
        """Begin to follow the ledger; returns at once, also when the server is away."""
        self._begin(ending=False)

    def phase_started(self, name: str) -> None:
        """Show a phase from its start on, before it has a trial."""
        with self._changed:
            self._phases.append(name)

    def add_report(self, paths: Sequence[str | Path]) -> None:
        """Hand over files of the report, which go to the run of each phase; also after `close`."""
        with self._changed:
            self._reports += [str(path) for path in paths]
            is_closed = self._is_stopping and not self._is_following
        if is_closed:
            self._begin(ending=True)
            self.close()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until MLflow has all that the ledger held when this was called; False where it did not come to that."""
        with self._changed:
            self._wanted += 1
            target = self._wanted
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= target or not self._is_following, timeout_s)
            return self._done >= target and not self._refused

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Bring MLflow up to date and stop; nothing is left RUNNING there. Never waits longer than the timeout.

        Returns:
            Whether MLflow has everything; where not, a warning says how to catch up. A study that another driver has
            taken over is left to that one.
        """
        with self._changed:
            self._is_ending = True
        has_all = self.flush(timeout_s)
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_following, timeout_s if has_all else 0.0)
        if not has_all and not self._ledger.is_lost():
            _log.warning("MLflow at %s is behind; nothing is lost, catch up with: %s", redact(self._uri),
                         catch_up(self._ledger))  # fmt: skip
        return has_all

    # ------------------------------------------------------------------------------------------------------ the thread
    def _begin(self, *, ending: bool) -> None:
        with self._changed:
            if self._is_following:
                return
            self._is_following, self._is_ending, self._is_stopping = True, ending, False
        threading.Thread(target=self._run, name="murk-tracking", daemon=True).start()

    def _run(self) -> None:
        try:
            self._follow()
        finally:  # who waits must also learn of an end that nobody foresaw
            with self._changed:
                self._is_following = False
                self._changed.notify_all()

    def _follow(self) -> None:
        delay_s, was_away = 0.0, False
        while self._sleep(delay_s) and not self._ledger.is_lost():
            counts, error = _attempt(self._advance)
            if isinstance(error, StudyLostError):
                return
            if counts is None:
                self._projection = None  # what MLflow has is asked anew when it is back
                if not was_away:
                    _log.warning("MLflow at %s is away (%s); the study goes on and MLflow catches up later",
                                 redact(self._uri), _one_line(error))  # fmt: skip
                delay_s = min(2 * delay_s, MAX_RETRY_S) if was_away else RETRY_S
            else:
                self._passed(counts)
                delay_s = self._poll_s
            was_away = counts is None

    def _passed(self, counts: Counts) -> None:
        for key, reason in counts.problems.items():
            if self._refused.get(key) != reason:
                _log.warning("trial %s is not shown whole in MLflow: %s", key, _one_line(reason))
        for note in counts.notes:
            if note not in self._noted:
                _log.warning("%s", note)
        self._noted.update(counts.notes)
        with self._changed:
            self._refused = dict(counts.problems)
            self._done = self._tried
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> bool:
        """Sleep until the next pass is due; False when there is to be none. Who waits in `flush` shortens the sleep."""
        with self._changed:
            if self._wanted > self._done:
                seconds = min(seconds, WAITED_RETRY_S)
            self._changed.wait_for(lambda: self._is_stopping or self._wanted > self._tried, seconds)
            self._tried = self._wanted
            return not self._is_stopping

    def _advance(self) -> Counts:
        with self._changed:
            phases, reports, is_ending = list(self._phases), list(self._reports), self._is_ending
        if self._projection is None:
            self._projection = open_projection(self._ledger, self._uri, connect=self._connect)
        return self._projection.advance(started=phases, reports=reports, ending=is_ending)


def _attempt(work: Callable[[], Counts]) -> tuple[Counts | None, Exception | None]:
    """What a pass did, or why MLflow could not be written."""
    _set_environment()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return work(), None
    except (MlflowException, SQLAlchemyError, TrackingError, StudyLostError, OSError) as error:
        return None, error


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _named(uri: str | None) -> str:
    if uri is None:
        raise ValueError("tracking.uri must be named where the storage place is a URL; name an MLflow server")
    return uri


def _one_line(reason: object) -> str:
    line = " ".join(redact(str(reason)).split())
    return line if len(line) <= MAX_REASON_CHARACTERS else line[:MAX_REASON_CHARACTERS] + "..."
