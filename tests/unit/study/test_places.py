import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.config_search import TrackingConfig
from study.places import is_submitted_job, redact, resolve_places, resolve_tracking, sqlite_path

SESSION = "session_2026-01-02_03-04-05_678901_234"
UNPACKED = f"runtime_resources/working_dir_files/_ray_pkg_{'0' * 16}"
IN_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "raysubmit_1"}}', "HOME": "/home/someone"}


def test_default_is_a_results_folder_with_sqlite_beside_you(tmp_path):
    places = resolve_places(TrackingConfig(), cwd=tmp_path, environment={})
    assert places.storage == f"{tmp_path}/results"
    assert places.tracking_uri == f"sqlite:///{tmp_path}/results/mlflow.db"
    assert sqlite_path(places.tracking_uri) == tmp_path / "results" / "mlflow.db"
    assert places.cache_dir.is_absolute()
    assert not list(tmp_path.iterdir()), "resolving makes nothing"


@pytest.mark.parametrize("named", ["runs", "./runs", "a/../runs", "file://runs"])
def test_relative_storage_counts_from_cwd(tmp_path, named):
    config = TrackingConfig(storage=named)
    assert resolve_places(config, cwd=tmp_path, environment={}).storage == f"{tmp_path}/runs"


def test_storage_argument_goes_before_the_file(tmp_path):
    config = TrackingConfig(storage="/elsewhere")
    assert resolve_places(config, cwd=tmp_path, storage="mine", environment={}).storage == f"{tmp_path}/mine"


def test_places_do_not_depend_on_the_process(tmp_path, monkeypatch):
    before = resolve_places(TrackingConfig(storage="runs"), cwd=tmp_path, environment={})
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert resolve_places(TrackingConfig(storage="runs"), cwd=tmp_path, environment={}) == before


def test_url_storage_is_left_alone_and_needs_a_server(tmp_path):
    config = TrackingConfig(storage="memory://murk/", uri="http://mlflow:5000")
    places = resolve_places(config, cwd=tmp_path, environment={})
    assert (places.storage, places.tracking_uri) == ("memory://murk", "http://mlflow:5000")
    with pytest.raises(ValueError, match=r"tracking\.uri must be named .* storage=memory://murk.*enabled: false"):
        resolve_places(TrackingConfig(storage="memory://murk"), cwd=tmp_path, environment={})
    off = TrackingConfig(storage="memory://murk", enabled=False)
    assert resolve_places(off, cwd=tmp_path, environment={}).tracking_uri is None
    assert resolve_places(None, cwd=tmp_path, storage="memory://murk", environment={}).tracking_uri is None


def test_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"fsspec knows, but got nowhere://"):
        resolve_places(None, cwd=tmp_path, storage="nowhere://bucket", environment={})


def test_storage_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(ValueError, match=r"must be a folder, but .*results is a file"):
        resolve_places(None, cwd=tmp_path, environment={})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"uri": "https://me:pa55word@mlflow.example.org"}, r"tracking\.uri"),
        ({"uri": "postgresql://me:pa55word@db/mlflow"}, r"tracking\.uri"),
        ({"storage": "s3://key:pa55word@bucket/murk", "uri": "http://mlflow:5000"}, r"tracking\.storage"),
    ],
)
def test_a_secret_in_the_study_file_is_refused_and_not_shown(tmp_path, section, key):
    with pytest.raises(ValueError, match=rf"{key} must hold no user.*environment") as caught:
        resolve_places(TrackingConfig(**section), cwd=tmp_path, environment={})
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlflow.db", "ftp://host"])
def test_tracking_that_is_no_mlflow_place_is_refused(tmp_path, uri):
    with pytest.raises(ValueError, match=r"must be an MLflow server or a database .*sqlite:///PATH"):
        resolve_places(TrackingConfig(uri=uri), cwd=tmp_path, environment={})


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_sqlite_needs_a_file(tmp_path, uri):
    with pytest.raises(ValueError, match="must name a database file"):
        resolve_tracking(uri, tmp_path)


def test_relative_sqlite_becomes_absolute(tmp_path):
    assert resolve_tracking("sqlite:///m.db", tmp_path) == f"sqlite:///{tmp_path}/m.db"
    assert resolve_tracking("sqlite:////data/m.db", tmp_path) == "sqlite:////data/m.db"
    assert resolve_tracking("postgresql+psycopg://db/m", tmp_path) == "postgresql+psycopg://db/m"


# ------------------------------------------------------------------------------------------------------ submitted jobs
@pytest.mark.parametrize("environment", [IN_JOB, {}])
def test_submitted_job_without_storage_is_refused_with_the_way_out(tmp_path, environment):
    cwd = tmp_path / SESSION / UNPACKED if not environment else tmp_path
    with pytest.raises(ValueError, match=r"tracking\.storage must be named in a submitted Ray job.*s3://"):
        resolve_places(TrackingConfig(), cwd=cwd, environment=environment)


def test_submitted_job_with_a_storage_place_goes_on(tmp_path):
    cwd = tmp_path / SESSION / UNPACKED
    config = TrackingConfig(storage=str(tmp_path / "shared"), uri="http://mlflow:5000")
    assert resolve_places(config, cwd=cwd, environment=IN_JOB).storage == f"{tmp_path}/shared"
    assert resolve_places(TrackingConfig(), cwd=cwd, storage=str(tmp_path), environment=IN_JOB).storage == str(tmp_path)


def test_relative_storage_inside_rays_cache_is_refused(tmp_path):
    cwd = tmp_path / SESSION / UNPACKED
    for config in (TrackingConfig(storage="results"), TrackingConfig(storage="/ok", uri="sqlite:///m.db")):
        with pytest.raises(ValueError, match="must lie outside Ray's session folder"):
            resolve_places(config, cwd=cwd, environment=IN_JOB)


def test_link_into_rays_session_is_refused(tmp_path):
    (tmp_path / SESSION).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / SESSION)
    (tmp_path / "session_latest").symlink_to(tmp_path / SESSION)
    for named in ("link/results", "session_latest/results"):
        with pytest.raises(ValueError, match="must lie outside Ray's session folder"):
            resolve_places(None, cwd=tmp_path, storage=named, environment={})


def test_a_ray_job_id_alone_is_no_submitted_job(tmp_path):
    assert not is_submitted_job({"RAY_JOB_ID": "01000000", "RAY_ADDRESS": "127.0.0.1:6379"}, tmp_path)
    assert not is_submitted_job({}, tmp_path / "session_notes")
    assert is_submitted_job(IN_JOB, tmp_path)


# --------------------------------------------------------------------------------------------------------------- cache
def test_cache_follows_the_environment(tmp_path):
    def cache(**environment: str) -> Path:
        return resolve_places(None, cwd=tmp_path, environment=environment).cache_dir

    assert cache(MURK_CACHE="decoded", XDG_CACHE_HOME="/x") == tmp_path / "decoded"
    assert cache(XDG_CACHE_HOME="/x") == Path("/x/murk")
    assert cache().parts[-2:] == (".cache", "murk")


# ----------------------------------------------------------------------------------------------------------- redaction
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pa55@host:5000/x", "https://***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg://u:p@ss@db/m", "postgresql+psycopg://***@db/m"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("https://host/x?api_key=abc&n=1", "https://host/x?api_key=***&n=1"),
        ("az://c/x?sig=1&X-Amz-Signature=abc&sign=1", "az://c/x?sig=***&X-Amz-Signature=***&sign=1"),
        ("cannot reach 'http://u:p@h/a' or http://v:q@h", "cannot reach 'http://***@h/a' or http://***@h"),
        ("/plain/path", "/plain/path"),
    ],
)
def test_redact(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown


def test_errors_are_redacted(tmp_path):
    with pytest.raises(ValueError, match="ftp://") as caught:
        resolve_places(TrackingConfig(uri="ftp://me:hidden@host"), cwd=tmp_path, environment={})
    assert "hidden" not in str(caught.value)


@pytest.mark.slow
def test_neither_places_nor_tracking_imports_ray_torch_or_mlflow():
    code = (
        "import sys, study.places, study.tracking; print([m for m in ('ray', 'torch', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
