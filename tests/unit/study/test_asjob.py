"""What is refused before a study is sent to a cluster: places that mean nothing on its nodes."""

import json

import pytest
from typer.testing import CliRunner

from study.asjob import job_facts
from study.cli import app
from study.credentials import scrub
from study.studyfile import PRESETS, load_study, relative_paths

STORAGE = "tracking: {storage: /mnt/shared/murk}\n"
HERE = "name: cars\ndata: {source: synthetic-vehicles}\n"


def facts(tmp_path, text, *sets, storage=None, **variables):
    path = tmp_path / "cars.yaml"
    path.write_text(text)
    return job_facts(load_study(path, sets), sets=sets, storage=storage, cwd=tmp_path, variables=variables)


def test_a_study_fit_for_a_job(tmp_path):
    assert facts(tmp_path, HERE + STORAGE) == {"name": "cars", "storage": "/mnt/shared/murk"}
    url = facts(tmp_path, HERE, "tracking.uri=http://mlflow:5000", storage="memory://bucket/murk")
    assert url["storage"] == "memory://bucket/murk"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "planted"),
        ("RAY_AUTH_TOKEN", "planted"),
        ("AWS_SECRET_ACCESS_KEY", "/planted"),
        ("my_api_key", "planted"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "planted"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=planted"),
        ("MYSQL_PWD", "planted"),
        ("DB_PASS", "planted"),
        ("MLFLOW_TRACKING_URI", "http://me:planted@mlflow:5000"),
        ("MLFLOW_TRACKING_URI", "http://me:pl/anted@mlflow:5000"),
        ("DATA_URL", "s3://planted@bucket/cars.parquet"),
        ("DATA_URL", "https://host/cars.parquet?token=planted"),
        ("DATA_URL", "https://host/cars.parquet?sig=planted"),
    ],
)
def test_a_credential_does_not_travel(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--env {name} must hold no credential.*the nodes instead") as caught:
        facts(tmp_path, HERE + STORAGE, **{name: value})
    assert "planted" not in str(caught.value)
    assert "planted" not in scrub(f"it said {value} and no", {name: value}), "records mask it too"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_AUTH_TOKEN_PATH", "/mnt/ray/token"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/var/secrets/key.json"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.2/v1"),
        ("TOKENIZERS_PARALLELISM", "parallel"),
        ("MLFLOW_TRACKING_URI", "http://mlflow:5000"),
        ("OMP_NUM_THREADS", "4"),
        ("PWD", "/home/somebody/study"),
    ],
)
def test_what_is_no_credential_travels(tmp_path, name, value):
    assert facts(tmp_path, HERE + STORAGE, **{name: value})["name"] == "cars"
    assert scrub(f"it said {value} and no", {name: value}) == f"it said {value} and no"


@pytest.mark.parametrize(
    ("text", "sets", "storage", "words"),
    [
        (HERE, (), None, "tracking.storage must be named in a submitted Ray job"),
        (HERE, (), "records", "tracking.storage must be absolute or a URL in a submitted study"),
        (HERE + STORAGE, ("tracking.uri=sqlite:///mlflow.db",), None, "tracking.uri must be absolute"),
        (HERE + STORAGE, ("noise.real={camera: photos}",), None, "noise.real.camera must be absolute"),
        (HERE, (), "s3://key:planted@bucket/x", r"--storage must hold no user.*but got s3://\*\*\*@bucket/x"),
    ],
)
def test_places_that_the_nodes_do_not_have(tmp_path, text, sets, storage, words):
    with pytest.raises(ValueError, match=words) as caught:
        facts(tmp_path, text, *sets, storage=storage)
    assert "planted" not in str(caught.value)


def test_a_set_may_put_a_relative_path_right():
    text = (PRESETS / "gpu-cluster.yaml").read_text()
    assert relative_paths(text) == ["data.path"]
    assert relative_paths(text, ["data.path=/mnt/cars.parquet"]) == []
    assert relative_paths(text, ["data.path=s3://bucket/cars.parquet"]) == []
    assert relative_paths(text, ["data.path=cars"]) == ["data.path"]
    assert relative_paths(text, ["data={source: synthetic-vehicles}"]) == []


def test_paths_in_spaces_and_phases_count_too():
    space = "search: {space: {model.pretrained: {choice: [a.safetensors, /b.safetensors]}}}"
    text = f"{space}\nphases: [{{set: {{data.path: x}}}}]"
    assert relative_paths(text) == ["phases.0.set.data.path", "search.space.model.pretrained.choice.0"]


def test_the_command_prints_one_line_of_json():
    done = CliRunner().invoke(app, ["check", "quickstart", "--as-job", "--storage", "/mnt/murk", "--name", "mine"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"name": "mine", "storage": "/mnt/murk"}
    refused = CliRunner().invoke(app, ["check", "gpu-cluster", "--as-job", "--storage", "/mnt/murk"])
    assert refused.exit_code == 2
    assert "data.path must be absolute or a URL" in refused.stderr
