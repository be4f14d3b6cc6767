"""From what a person asks to what Ray is told, without a cluster."""

import json
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster import cli, jobs, submit
from cluster.submit import Wish
from tests.unit.cluster.fakes import FakeApi


@pytest.fixture
def api(monkeypatch):
    """A cluster that keeps what it gets, and a check that takes every file."""
    fake = FakeApi()
    fake.sent = []
    keep = fake.submit_job

    def submit_job(**settings):
        folder = Path(settings["runtime_env"]["working_dir"])
        fake.sent.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
        return keep(**settings)

    fake.submit_job = submit_job
    monkeypatch.setattr(submit, "connect", lambda address: fake)
    monkeypatch.setattr(jobs, "connect", lambda address: fake)
    monkeypatch.setattr(submit, "check_locally", lambda wish: {"name": wish.name or "cars", "storage": "/mnt"})
    return fake


@pytest.fixture
def call():
    app = typer.Typer()
    cli.mount(app)
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "my study.yaml"
    path.write_text("name: cars\n")
    return str(path)


def test_a_study_file_from_anywhere_is_sent_and_run(api, call, study, monkeypatch):
    monkeypatch.setenv("A_PLACE", "planted")
    done = call(
        "submit", study, "--set", "train.epochs=2", "--set", "data.path=/a b", "--storage", "/mnt", "--env", "A_PLACE"
    )
    assert done.exit_code == 0, done.stderr
    sent = api.submitted[0]
    assert sent["entrypoint"] == (
        "python -m murk run cars.yaml --address auto --set train.epochs=2 --set 'data.path=/a b' --storage /mnt"
    )
    assert sent["submission_id"] == "cars-1"
    assert set(api.sent[0]) == {"cars.yaml", "murk.py"}
    assert sent["runtime_env"]["env_vars"]["A_PLACE"] == "planted"
    assert "planted" not in done.output + json.dumps(sent["metadata"]) + sent["entrypoint"]
    assert "submitted as cars-1" in done.stderr


def test_a_preset_is_run_by_its_name(api, call):
    assert call("submit", "quickstart", "--name", "mine").exit_code == 0
    assert api.submitted[0]["entrypoint"] == "python -m murk run quickstart --address auto --name mine"
    assert set(api.sent[0]) == {"murk.py"}


def test_a_study_under_way_is_refused_and_an_ended_one_goes_on(api, call, study):
    assert call("submit", study).exit_code == 0
    refused = call("submit", study)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("murk: study 'cars' is under way")
    assert len(api.submitted) == 1
    assert call("jobs", "stop", "cars").exit_code == 0
    again = call("submit", study)
    assert "going on with cars" in again.stderr
    assert [sent["submission_id"] for sent in api.submitted] == ["cars-1", "cars-2"]
    assert [line.split()[:2] for line in call("jobs", "status", "cars").stdout.splitlines()] == [
        ["cars-1", "STOPPED"], ["cars-2", "PENDING"],
    ]  # fmt: skip
    assert call("jobs", "list").stdout.split()[0] == "cars-2"


def test_following_gives_the_log_and_the_jobs_code(api, call, study):
    api.log = "phase search\nreport  /mnt/cars\n"
    done = call("submit", study, "--follow")
    assert done.exit_code == 0
    assert done.stdout == api.log
    assert call("jobs", "logs", "cars").stdout == api.log
    assert call("jobs", "logs", "cars", "--attempt", "4").exit_code == 2


def test_a_credential_is_not_sent(study, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "planted")
    with pytest.raises(submit.RefusedError, match="--env A_TOKEN must hold no credential") as caught:
        submit.check_locally(Wish(study, ("data.source=synthetic-vehicles",), storage="/mnt", env=("A_TOKEN",)))
    assert "planted" not in str(caught.value)


def test_the_check_is_murks_own_and_its_words_are_passed_on(monkeypatch):
    seen = []

    def run(command, **options):
        seen.append(command)
        return subprocess.CompletedProcess(command, 2, "", "murk: cars.yaml:3: train.epochs: must be positive\n")

    monkeypatch.setattr(submit.subprocess, "run", run)
    with pytest.raises(submit.RefusedError, match=r"^cars\.yaml:3: train\.epochs: must be positive$"):
        submit.check_locally(Wish("cars.yaml", ("a=1",), name="n", storage="/s", env=("A_PLACE", "A=planted")))
    assert seen[0][1:] == [
        "-m",
        "murk",
        "check",
        "cars.yaml",
        "--as-job",
        "--set",
        "a=1",
        "--name",
        "n",
        "--storage",
        "/s",
        "--env",
        "A_PLACE",
    ]
