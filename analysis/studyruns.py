"""The runs in MLflow of one study, where several of its name may be."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from analysis.identity import STUDY_TAG, split_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
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


class RunReader:
    """The artifacts of one run, and the ledger's files among them when called with a name.

    MLflow's client asks for the run again with each file; here it is known, and a folder of it is listed once, so that
    artifacts that come later are not seen. A database's artifacts are read where they lie.

    Args:
        client: of the server or database that holds the run.
        run: whose artifacts they are.
    """

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self._uri, self._tracking_uri = run.info.artifact_uri, client.tracking_uri
        self._listed: dict[str, frozenset[str]] = {}

    def __call__(self, name: str) -> bytes | None:
        """The bytes of a file of the ledger; None where the run has no such file."""
        return self.read(f"ledger/{name}")

    def listed(self, folder: str) -> frozenset[str]:
        """Paths of what lies in one folder of the artifacts; "" is the folder of all."""
        if folder not in self._listed:
            with self._repository() as repository:
                found = () if repository is None else repository.list_artifacts(folder or None)
                self._listed[folder] = frozenset(item.path for item in found)
        return self._listed[folder]

    def read(self, path: str) -> bytes | None:
        """The bytes of an artifact; None where there is none.

        Raises:
            MlflowException: the server refuses it, or it is a link out of the run's folder.
        """
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        with self._repository() as repository:
            if repository is None:
                return None
            if isinstance(repository, LocalArtifactRepository):
                is_there = Path(repository.artifact_dir, path).is_file()
                return Path(repository.get_local_path(path)).read_bytes() if is_there else None
            if path not in self.listed(path.rpartition("/")[0]):
                return None
            with tempfile.TemporaryDirectory(prefix="murk-") as folder:
                return Path(repository.download_artifacts(path, folder)).read_bytes()

    @contextmanager
    def _repository(self) -> Iterator[ArtifactRepository | None]:
        """MLflow's access to the artifacts; its threads, a pool for each repository, end with the block."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        if not self._uri:
            yield None
            return
        uri = str(add_databricks_profile_info_to_artifact_uri(self._uri, self._tracking_uri))
        repository = get_artifact_repository(uri, tracking_uri=self._tracking_uri)
        try:
            yield repository
        finally:
            for pool in vars(repository).values():
                if isinstance(pool, ThreadPoolExecutor):
                    pool.shutdown(wait=False)


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
