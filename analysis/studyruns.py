"""The runs in MLflow of one study, where several of its name may be."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.identity import STUDY_TAG, split_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


class StudyRuns(NamedTuple):
    """The runs of one study.

    Attributes:
        name: the study's, without an identity.
        parents: of its phases, the latest first.
        trials: trial key -> its run.
        notes: what else the name stands for, in words.
    """

    name: str
    parents: Sequence[Run]
    trials: Mapping[str, Run]
    notes: Sequence[str]


@dataclass(frozen=True)
class RunReader:
    """The ledger's files among a run's artifacts."""

    client: Any
    run_id: str

    def __call__(self, name: str) -> bytes | None:
        listed = {item.path for item in self.client.list_artifacts(self.run_id, "ledger")}
        if f"ledger/{name}" not in listed:
            return None
        with tempfile.TemporaryDirectory(prefix="murk-") as folder:
            return Path(self.client.download_artifacts(self.run_id, f"ledger/{name}", folder)).read_bytes()


def find_study_runs(client: MlflowClient, named: str) -> StudyRuns:
    """The runs of a study; of several of one name, of the one that was opened last.

    Args:
        named: the study's name, or `NAME@IDENTITY`.

    Raises:
        FileNotFoundError: there is no such study.
        ValueError: a trial has two runs.
    """
    name, wanted = split_name(named)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = sorted(e.name for e in client.search_experiments())
        raise FileNotFoundError(f"a study is an experiment of its name, but {name!r} is none; this server has {known}")
    studies = _by_study(all_runs(client, experiment.experiment_id))
    order = sorted(studies, key=lambda identity: _opened_ms(studies[identity]), reverse=True)
    if wanted and wanted not in studies:
        raise FileNotFoundError(
            f"there is no study {wanted!r} named {name!r}; this server has {_listed(name, studies)}"
        )
    chosen = wanted or next(iter(order), "")
    own = sorted(studies.get(chosen, []), key=lambda run: run.info.start_time or 0)
    parents = [run for run in reversed(own) if _is_parent(run)]
    notes = []
    if len(studies) > 1 and not wanted:
        others = {identity: studies[identity] for identity in order if identity != chosen}
        notes = [f"{len(studies)} studies named {name!r} are in this MLflow; this is the one that was opened last, "
                 f"{_said(name, chosen, own)}, beside {_listed(name, others)}"]  # fmt: skip
    return StudyRuns(name, parents, _trials(own), notes)


def all_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Every run of an experiment."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _by_study(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Identity -> runs; those of before there were identities count as one study.

    Beside other studies they need a phase's run: trials alone are what a study left whose record lacks them by now.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if _is_parent(run) or "murk.trial" in run.data.tags:
            found.setdefault(run.data.tags.get(STUDY_TAG, ""), []).append(run)
    if len(found) > 1 and not any(map(_is_parent, found.get("", ()))):
        found.pop("", None)
    return found


def _trials(runs: Sequence[Run]) -> dict[str, Run]:
    by_key: dict[str, Run] = {}
    for run in runs:
        key = run.data.tags.get("murk.trial")
        if key is not None and by_key.setdefault(key, run) is not run:
            raise ValueError(
                f"a trial must be one run, but trial {key} is {by_key[key].info.run_id} and "
                f"{run.info.run_id}; delete one of them"
            )
    return by_key


def _is_parent(run: Run) -> bool:
    return "murk.phase" in run.data.tags and "murk.trial" not in run.data.tags


def _opened_ms(runs: Sequence[Run]) -> int:
    """When a study began: a phase's run has the time of its first trial."""
    return min((run.info.start_time or 0 for run in runs if _is_parent(run)), default=0)


def _listed(name: str, studies: Mapping[str, Sequence[Run]]) -> str:
    order = sorted(studies, key=lambda identity: _opened_ms(studies[identity]), reverse=True)
    return ", ".join(_said(name, identity, studies[identity]) for identity in order)


def _said(name: str, identity: str, runs: Sequence[Run]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(_opened_ms(runs) / 1000))
    called = f"{name}@{identity}" if identity else "one of an earlier Murk, without an identity"
    return f"{called} (since {since} UTC)"
