"""Files of a run in MLflow: read where they lie, or fetched by MLflow without asking twice and without threads left."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from analysis.studyruns import RunReader

CLIENT = SimpleNamespace(tracking_uri="http://127.0.0.1:9")


FILES = {"ledger/trial.json": b"{}", "ledger/cells.parquet": b"cells", "model/model.json": b"[]"}


class Far(ArtifactRepository):
    """Files that are not on this machine."""

    asked: list[str | None]
    made: list[ArtifactRepository]

    def __init__(self, artifact_uri, tracking_uri=None, registry_uri=None):
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self.made.append(self)

    def log_artifact(self, local_file, artifact_path=None):
        raise NotImplementedError

    def log_artifacts(self, local_dir, artifact_path=None):
        raise NotImplementedError

    def list_artifacts(self, path=None):
        self.asked.append(path)
        return [FileInfo(name, False, len(data)) for name, data in FILES.items() if name.startswith(f"{path}/")]

    def _download_file(self, remote_file_path, local_path):
        Path(local_path).write_bytes(FILES[remote_file_path])


@pytest.fixture
def far(monkeypatch) -> type[Far]:
    """What stands for the artifacts of every run whose place is `far:`."""
    made = type("OwnFar", (Far,), {"asked": [], "made": []})
    monkeypatch.setitem(artifact_repository_registry._artifact_repository_registry._registry, "far", made)
    return made


def _reader(uri) -> RunReader:
    return RunReader(CLIENT, SimpleNamespace(info=SimpleNamespace(artifact_uri=uri)))  # pyright: ignore[reportArgumentType]


def test_far_files_are_fetched_and_what_is_not_there_is_asked_for_once(far):
    read = _reader("far://place/run")
    assert read("trial.json") == b"{}"
    assert read("cells.parquet") == b"cells"
    assert read.read("model/model.json") == b"[]"
    asked = len(far.asked)
    assert [read(name) for name in ("heads.parquet", "examples.npz")] == [None, None]
    assert len(far.asked) == asked
    assert read.listed("ledger") == {"ledger/trial.json", "ledger/cells.parquet"}


def test_the_threads_of_each_repository_end_with_its_use(far):
    readers = [_reader(f"far://place/{number}") for number in range(3)]
    assert {read("trial.json") for read in readers} == {b"{}"}
    assert len(far.made) >= 3
    for repository in far.made:
        with pytest.raises(RuntimeError, match="shutdown"):
            repository.thread_pool.submit(int)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_near_files_are_read_where_they_lie(tmp_path, form):
    folder = tmp_path / "with a space" / "artifacts"
    (folder / "ledger").mkdir(parents=True)
    (folder / "ledger" / "trial.json").write_bytes(b"near")
    read = _reader(form.format(folder))
    assert read("trial.json") == b"near"
    assert read("cells.parquet") is None
    assert read.listed("ledger") == {"ledger/trial.json"}
    assert read.listed("nowhere") == frozenset()


def test_a_link_out_of_the_runs_folder_is_not_followed(tmp_path):
    (tmp_path / "private").write_bytes(b"private")
    folder = tmp_path / "artifacts"
    (folder / "ledger").mkdir(parents=True)
    (folder / "ledger" / "trial.json").symlink_to(tmp_path / "private")
    with pytest.raises(MlflowException):
        _reader(str(folder))("trial.json")


@pytest.mark.parametrize("uri", [None, ""])
def test_a_run_without_artifacts_has_none(uri, tmp_path, monkeypatch):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "trial.json").write_bytes(b"of another")
    monkeypatch.chdir(tmp_path)
    assert _reader(uri)("trial.json") is None
    assert _reader(uri).listed("ledger") == frozenset()
