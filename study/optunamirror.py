"""A running study's searches followed into their databases, by a thread of the driver; a trial is read once."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from analysis.recordfile import RecordError
from study.config import StudyConfig
from study.ledger import Ledger
from study.optunastore import AWAY, EndedTrials, Target, one_line, targets_of, write_trials
from study.places import redact

POLL_S, CLOSE_S = 5.0, 30.0
_log = logging.getLogger("murk.optuna")


class Mirror:
    """Follows a study's searches into their databases, in a thread of its own; does nothing where none is named.

    Args:
        ledger: The study's records, whose lock the driver holds.
        poll_s: Seconds between two looks.

    Raises:
        ValueError: A URL is no database.
    """

    def __init__(self, ledger: Ledger, config: StudyConfig, *, poll_s: float = POLL_S) -> None:
        self._ledger = ledger
        self._targets = targets_of(config, cwd=Path.cwd())
        self._poll_s = poll_s
        self._ended = threading.Event()
        self._behind: dict[str, str] = {}
        self._trials = {target.phase: EndedTrials(ledger, target.phase) for target in self._targets}
        self._written: dict[str, set[str]] = {}
        self._thread = threading.Thread(target=self._follow, name="murk-optuna", daemon=True)

    def start(self) -> None:
        """Begin to follow; returns at once."""
        if self._targets:
            self._thread.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is left and stop; never waits longer than the timeout."""
        self._ended.set()
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if (self._thread.is_alive() or self._behind) and not self._ledger.is_lost():
            url = redact(self._targets[0].url)
            _log.warning("the Optuna database is behind; nothing is lost, catch up with: murk optuna %s --storage %s "
                         "--storage-url %s", self._ledger.study, redact(self._ledger.storage), url)  # fmt: skip

    def _follow(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._poll_s)
            self.look(anew=is_last)

    def look(self, *, anew: bool = False) -> None:
        """Write what has ended since the last look; a database is opened only where something has.

        Args:
            anew: Trust nothing that is known, as a database may have been lost meanwhile.
        """
        for target in self._targets:
            if self._ledger.is_lost():  # the driver that has the study now writes it
                return
            if anew:
                self._trials[target.phase] = EndedTrials(self._ledger, target.phase)
                self._written.pop(target.phase, None)
            self._try(target)

    def _try(self, target: Target) -> None:
        try:
            self._write(target)
        except (*AWAY, RecordError) as error:
            self._written.pop(target.phase, None)  # of an answer that was lost nobody knows what it did
            if target.phase not in self._behind:
                _log.warning("Optuna's database %s cannot be written (%s); the search goes on without it",
                             redact(target.url), one_line(error))  # fmt: skip
            self._behind[target.phase] = one_line(error)
        else:
            self._behind.pop(target.phase, None)

    def _write(self, target: Target) -> None:
        record = self._ledger.read_json("study.json")
        if record is None:
            return
        keys = self._trials[target.phase].keys(record)
        if target.phase not in self._written or not self._written[target.phase].issuperset(keys):
            write_trials(self._ledger, record, target, keys)
            self._written[target.phase] = set(keys)
