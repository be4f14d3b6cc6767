"""Whose a run of an MLflow experiment is: this study's, or another's of its name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.identity import STUDY_TAG, study_id
from analysis.recordfile import RecordError, parse_study
from analysis.studyruns import RunReader

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from study.ledger import Ledger

STATE_FILE = "mlflow.json"
"""How far a trial, or the study itself, has been projected."""


class Owner:
    """A study that knows its runs by their tag.

    A run of before there was the tag is the study's where the ledger says that it wrote it, or where the run's files
    are the ledger's and its parent is not another's; it gets the tag then. Else it is another's, and is left alone.

    Args:
        ledger: The study's records.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.study = ledger.study
        self.study_id = study_id(ledger.read_json("study.json") or {})
        self.num_others = 0
        self.is_apart = False
        self._ledger = ledger
        self._strange: set[str] = set()

    def own_runs(self, client: MlflowClient, runs: Iterable[Run]) -> list[Run]:
        """Those of an experiment's runs that are this study's; counts the other studies there."""
        own: list[Run] = []
        others: set[str] = set()
        strangers: set[str] = set()
        trials = set(self._ledger.files.folders("trials"))
        for run in sorted(runs, key=lambda run: "murk.trial" in run.data.tags):  # a phase says whose its trials are
            told = run.data.tags.get(STUDY_TAG)
            if told is None and self._wrote(client, run, trials, strangers):
                client.set_tag(run.info.run_id, STUDY_TAG, self.study_id)
                told = self.study_id
            if told == self.study_id:
                own.append(run)
                continue
            strangers.add(run.info.run_id)
            if told is not None or "murk.trial" not in run.data.tags:  # trials alone may be what a study left behind
                others.add(told or "")
        self.num_others = len(others)
        self.is_apart = bool(others) and not any(self._is_plain(run) for run in own)
        return own

    def _is_plain(self, run: Run) -> bool:
        """Whether a run of this study's is called as if it were alone: then all are, or a mean would be torn apart."""
        return not (run.data.tags.get("config") or run.info.run_name or "").endswith(self.study_id)

    def note(self) -> str:
        """What a person is told where the experiment holds another study; empty where it does not."""
        if not self.num_others:
            return ""
        many = "1 other study" if self.num_others == 1 else f"{self.num_others} other studies"
        return (f"MLflow holds {many} named {self.study!r} too; nothing of that is touched, and the runs of this one "
                f"have the tag {STUDY_TAG} {self.study_id}")  # fmt: skip

    def _wrote(self, client: MlflowClient, run: Run, trials: set[str], strangers: set[str]) -> bool:
        """Whether this study wrote a run without a tag."""
        run_id, key = run.info.run_id, run.data.tags.get("murk.trial")
        if run_id in self._strange or (key is not None and key not in trials):
            return False
        if key is None:
            is_own = self._is_own_phase(client, run)
        else:
            is_own = self._is_own_trial(client, run, key, strangers)
        if not is_own:
            self._strange.add(run_id)
        return is_own

    def _is_own_trial(self, client: MlflowClient, run: Run, key: str, strangers: set[str]) -> bool:
        state = json.loads(self._ledger.read_bytes(key, STATE_FILE) or b"{}")
        if state.get("run_id") == run.info.run_id:
            return True
        if run.data.tags.get("mlflow.parentRunId") in strangers:
            return False
        content = RunReader(client, run)("trial.json")  # has the second in which the trial was made
        return content is not None and content == self._ledger.read_bytes(key, "trial.json")

    def _is_own_phase(self, client: MlflowClient, run: Run) -> bool:
        state = (self._ledger.read_json(STATE_FILE) or {}).get("phases", {}).get(run.data.tags["murk.phase"], {})
        if state.get("run_id") == run.info.run_id:
            return True
        content = RunReader(client, run)("study.json")
        try:
            return content is not None and study_id(parse_study(content, "study.json")) == self.study_id
        except RecordError:
            return False
