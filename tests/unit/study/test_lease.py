"""A lease where a place has no locks: a living holder is not disturbed, a dead one is followed."""

import logging
import time
import uuid

import pytest

from study.lease import Held, LeaseFile, lease
from study.storage import Storage, StudyLockedError

QUICK = {"renew_s": 0.05, "dead_s": 1.0}


@pytest.fixture
def file() -> LeaseFile:
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    return LeaseFile(
        lambda: storage.read_bytes("lock"), lambda data: storage.write_bytes(data, "lock"),
        lambda: storage.remove("lock"),
    )  # fmt: skip


def test_a_second_one_is_refused_while_the_first_renews(file: LeaseFile, caplog: pytest.LogCaptureFixture) -> None:
    with lease(file, **QUICK):
        with pytest.raises(Held), lease(file, **QUICK):
            pass
        assert file.read() is not None, "it was taken from the first"
    assert file.read() is None
    assert "looking for up to 1 s" in caplog.text
    with lease(file, **QUICK):
        pass


def test_a_dead_ones_lease_is_taken_over(file: LeaseFile) -> None:
    file.write(b"somebody 7\n")
    started = time.monotonic()
    with lease(file, **QUICK):
        assert time.monotonic() - started >= QUICK["dead_s"]
        assert not (file.read() or b"").startswith(b"somebody")


def test_who_is_written_over_at_the_start_is_refused(file: LeaseFile) -> None:
    def write_and_be_written_over(data: bytes) -> None:
        file.write(data)
        file.write(b"somebody 0\n")

    with pytest.raises(Held), lease(file._replace(write=write_and_be_written_over), **QUICK):
        pass
    assert file.read() == b"somebody 0\n"


def test_a_lease_that_was_taken_is_told_and_left_alone(file: LeaseFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with lease(file, **QUICK):
        file.write(b"somebody 1\n")
        time.sleep(0.5)
    assert "two drivers may run it" in caplog.text
    assert file.read() == b"somebody 1\n"


def test_a_study_on_an_object_store_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, **QUICK))
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    with storage.lock("driver.lock"), pytest.raises(StudyLockedError, match="being run by another process"):  # noqa: SIM117
        with storage.lock("driver.lock"):
            pass
    assert not storage.exists("driver.lock")
