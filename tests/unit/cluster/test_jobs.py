"""Attempts at a study, what is refused, and what is said when a cluster cannot be reached."""

import pytest

from cluster import jobs
from tests.unit.cluster.fakes import FakeApi

ADDRESS = "http://127.0.0.1:8265"


def test_the_first_attempt_is_number_one():
    assert jobs.next_attempt(FakeApi(), "cars", address=ADDRESS) == 1


@pytest.mark.parametrize("status", ["STOPPED", "FAILED", "SUCCEEDED"])
def test_an_ended_study_goes_on_as_the_next_attempt(status):
    api = FakeApi(("cars-1", "FAILED"), ("cars-2", status))
    assert jobs.next_attempt(api, "cars", address=ADDRESS) == 3


def test_more_than_nine_attempts_are_counted_by_number():
    api = FakeApi(*((f"cars-{number}", "FAILED") for number in (10, 9, 1)))
    assert jobs.next_attempt(api, "cars", address=ADDRESS) == 11


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_study_under_way_is_refused(status):
    with pytest.raises(ValueError, match=r"study 'cars' is under way on this cluster as cars-2 \(") as caught:
        jobs.next_attempt(FakeApi(("cars-1", "STOPPED"), ("cars-2", status)), "cars", address=ADDRESS)
    assert "murk jobs stop cars --address http://127.0.0.1:8265" in str(caught.value)


def test_studies_of_like_names_are_not_mixed_up():
    api = FakeApi(("cars-1-1", "RUNNING"), ("carsx-3", "RUNNING"), ("raysubmit_abc", "RUNNING"), ("cars-4", "STOPPED"))
    assert jobs.next_attempt(api, "cars", address=ADDRESS) == 5
    assert [attempt.id for attempt in jobs.attempts(api, "cars-1")] == ["cars-1-1"]


def test_submitting_waits_for_the_agent(monkeypatch):
    waited = []
    monkeypatch.setattr(jobs.time, "sleep", waited.append)
    api = FakeApi()
    api.refusals = ["500: No available agent to submit job"] * 2
    attempt = jobs.submit(api, "cars", 3, command="python -m murk run cars", runtime_env={"env_vars": {"A": "b"}})
    assert attempt.id == "cars-3"
    assert waited == [1.0, 2.0]
    assert api.submitted[0]["metadata"] == {"murk_study": "cars", "murk_attempt": "3"}


def test_two_people_at_once():
    api = FakeApi()
    api.refusals = ["Job with submission_id cars-1 already exists. Please use a different submission_id."]
    with pytest.raises(ValueError, match="was submitted by someone else at this moment as cars-1"):
        jobs.submit(api, "cars", 1, command="x", runtime_env={})


@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_following_writes_each_line_once_over_broken_connections(breaks, monkeypatch):
    monkeypatch.setattr(jobs.time, "sleep", lambda _: None)
    api = FakeApi(("cars-1", "RUNNING"), log="one\ntwo\nthree\nfour\n")
    api.breaks = breaks
    written: list[str] = []
    ended = jobs.follow(api, "cars-1", written.append)
    assert "".join(written) == api.log
    assert jobs.exit_code(ended) == 0


@pytest.mark.parametrize(("status", "own", "code"), [("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130)])
def test_exit_codes(status, own, code):
    assert jobs.exit_code(jobs.Attempt("cars", 1, status, exit_code=own)) == code


def test_stopping():
    api = FakeApi(("cars-1", "RUNNING"))
    assert jobs.stop(api, jobs.last_attempt(api, "cars"), timeout_s=5).status == "STOPPED"
    with pytest.raises(ValueError, match="study 'cars' is not under way: cars-1 has stopped"):
        jobs.stop(api, jobs.last_attempt(api, "cars"), timeout_s=5)


def test_an_unknown_study_names_those_there():
    with pytest.raises(ValueError, match="no study 'trucks' was submitted to this cluster; there are cars"):
        jobs.last_attempt(FakeApi(("cars-1", "RUNNING")), "trucks")


def test_a_line_says_how_long_and_why():
    failed = jobs.Attempt("cars", 1, "FAILED", "exit code\n 2", seconds=3725.0)
    assert failed.text().split() == ["cars-1", "FAILED", "1", "h", "02", "min", "exit", "code", "2"]


class AuthenticationError(Exception):
    """As Ray's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Failed to connect to Ray"), "no Ray job API answers at http://127.0.0.1:8265"),
        (AuthenticationError("Authentication failed: Forbidden"), "refuses the token"),
    ],
)
def test_a_cluster_out_of_reach_is_one_clear_error(error, words):
    with pytest.raises(ValueError, match=words) as caught, jobs.plain_errors(ADDRESS):
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_stay():
    with pytest.raises(KeyError), jobs.plain_errors(ADDRESS):
        raise KeyError("a mistake of ours")


def test_an_address_of_another_kind():
    with pytest.raises(
        ValueError, match=r"--address must be that of the cluster's job API.*but got '10\.0\.0\.1:6379'"
    ):
        jobs.connect("10.0.0.1:6379")


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not jobs.has_token({})
    assert jobs.has_token({"RAY_AUTH_TOKEN": "abc"})
    (tmp_path / "token").write_text(" \n")
    assert not jobs.has_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    assert jobs.has_token({})
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(ValueError, match="a token is needed to reach the cluster, but there is none"):
        jobs.connect(ADDRESS)
