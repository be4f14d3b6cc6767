"""Fetching records: a clear answer where there is nothing to fetch, and nothing of another study written over."""

from pathlib import Path

import pytest

from study.ledger import Ledger
from study.pull import pull_study
from study.reporting import report_study


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    place = tmp_path / "typo.db"
    with pytest.raises(ValueError, match="there is no MLflow database"):
        report_study("any", storage=None, tracking=f"sqlite:///{place}", out=tmp_path / "out")
    with pytest.raises(ValueError, match="there is no MLflow database"):
        pull_study("any", storage=None, tracking=f"sqlite:///{place}", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_mlflow_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be an MLflow server or a database"):
        pull_study("any", storage=None, tracking="garbage", out=tmp_path / "out")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not be read"):
        pull_study("any", storage=None, tracking="http://127.0.0.1:9", out=tmp_path / "out")


def test_another_study_of_the_same_name_is_not_written_over(tmp_path: Path) -> None:
    theirs, ours = Ledger(str(tmp_path / "cluster"), "s"), Ledger(str(tmp_path / "here"), "s")
    theirs.write_json("study.json", {"fingerprint": "a"})
    ours.write_json("study.json", {"fingerprint": "b"})
    with pytest.raises(ValueError, match="study of other images by this name"):
        pull_study("s", storage=theirs.storage, tracking=None, out=tmp_path / "here")
    assert ours.read_json("study.json") == {"fingerprint": "b"}
