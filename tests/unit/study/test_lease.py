"""A lease where a place has no locks: a living holder is not disturbed, a dead one is followed."""

import logging
import time
import uuid
from collections.abc import Callable

import pytest

from study.lease import Held, LeaseFile, lease
from study.storage import Storage, StudyLockedError, StudyLostError

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

    with pytest.raises(Held, match="another process"), lease(file._replace(write=write_and_be_written_over), **QUICK):
        pass
    assert file.read() == b"somebody 0\n"


def test_a_lease_that_was_taken_is_told_and_left_alone(file: LeaseFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with lease(file, **QUICK) as held:
        assert held.lost_to is None
        file.write(b"somebody 1 process 7 on elsewhere\n")
        _wait_for(lambda: held.lost_to is not None)
        assert held.lost_to == "process 7 on elsewhere"
    assert "taken over by process 7 on elsewhere" in caplog.text
    assert file.read() == b"somebody 1 process 7 on elsewhere\n"


def test_a_lease_whose_file_is_gone_is_lost(file: LeaseFile) -> None:
    with lease(file, **QUICK) as held:
        file.remove()
        _wait_for(lambda: held.lost_to is not None)
        assert held.lost_to == "another process"


def test_one_that_was_frozen_asks_before_it_writes(file: LeaseFile, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("study.lease._now", lambda: now[0])
    with lease(file, renew_s=1000.0, dead_s=60.0) as held:
        file.write(b"somebody 1 process 7 on elsewhere\n")
        now[0] += 20.0
        assert held.look() is None, "nobody takes over so soon: the file is not asked"
        now[0] += 20.0
        assert held.look() == "process 7 on elsewhere"


def test_one_that_was_frozen_after_the_answer_asks_again(file: LeaseFile, monkeypatch: pytest.MonkeyPatch) -> None:
    now, frozen_s, asked = [100.0], [0.0], [0]
    monkeypatch.setattr("study.lease._now", lambda: now[0])

    def read_and_freeze() -> bytes | None:
        found = file.read()
        if frozen_s[0]:
            asked[0] += 1
            now[0] += frozen_s.pop()
            frozen_s.append(0.0)
            file.write(b"somebody 1 process 7 on elsewhere\n")
        return found

    with lease(file._replace(read=read_and_freeze), renew_s=1000.0, dead_s=60.0) as held:
        frozen_s[0] = 40.0
        assert not held.renew()
        assert asked == [1]
        assert held.lost_to == "process 7 on elsewhere"
    assert file.read() == b"somebody 1 process 7 on elsewhere\n", "it was written over"


def _wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_study_on_an_object_store_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, **QUICK))
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    with storage.lock("driver.lock"), pytest.raises(StudyLockedError, match=r"being run by process \d+ on "):  # noqa: SIM117
        with storage.lock("driver.lock"):
            pass
    assert not storage.exists("driver.lock")


def test_a_lock_that_was_given_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, **QUICK))
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(KeyError), storage.lock("driver.lock"):
        raise KeyError
    monkeypatch.setattr("study.lease._now", lambda: time.monotonic() + 1e6)
    storage.write_bytes(b"on it goes", "study.json")


def test_nothing_is_written_to_a_study_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.storage.lease", lambda file: lease(file, **QUICK))
    root = f"memory://{uuid.uuid4().hex}"
    storage, other = Storage(root), Storage(root)
    with storage.lock("driver.lock"):
        storage.append_line("mine", "events.jsonl")
        other.write_bytes(b"theirs 3 process 7 on elsewhere\n", "driver.lock")
        _wait_for(lambda: storage.is_lost)
        for write in (
            lambda: storage.append_line("late", "events.jsonl"),
            lambda: storage.write_bytes(b"late", "study.json"),
            lambda: storage.remove("events.jsonl"),
        ):
            with pytest.raises(StudyLostError, match=r"taken over by process 7 on elsewhere.*`murk resume`"):
                write()
    assert storage.read_bytes("events.jsonl") == b"mine\n"
    assert not storage.exists("study.json")
    assert storage.read_bytes("driver.lock") == b"theirs 3 process 7 on elsewhere\n"
    other.append_line("of theirs", "events.jsonl")
