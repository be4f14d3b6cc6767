"""A study's jobs on a Ray cluster, by Ray's job API: attempts, where they stand, their logs, and how one is ended."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
ENDED = (SUCCEEDED, FAILED, STOPPED)
EXIT_CODES = {SUCCEEDED: 0, FAILED: 1, STOPPED: 130}
STUDY_LABEL = "murk_study"
_AGENT_WAITS_S = (1.0, 2.0, 3.0, 5.0, 5.0, 10.0, 10.0)
_POLL_S = 0.5
_UNANSWERED = 60


class Job(Protocol):
    """What Ray tells of a job."""

    submission_id: str | None
    status: Any
    message: str | None
    start_time: int | None
    end_time: int | None
    driver_exit_code: int | None


class JobApi(Protocol):
    """The part of Ray's `JobSubmissionClient` that is used here."""

    def list_jobs(self) -> list[Any]: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def get_job_logs(self, job_id: str) -> str: ...
    def stop_job(self, job_id: str) -> bool: ...
    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str: ...
    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...


@dataclass(frozen=True)
class Attempt:
    """One submission of a study; Ray takes no id twice, so each has a number of its own.

    Attributes:
        exit_code: Of the job's command, where it has ended by itself.
        seconds: From start to end or until now; None where it has not started.
    """

    study: str
    number: int
    status: str
    message: str = ""
    exit_code: int | None = None
    seconds: float | None = None

    @property
    def id(self) -> str:
        """Its submission id."""
        return f"{self.study}-{self.number}"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def text(self) -> str:
        """Where it stands, in a line."""
        lasted = "" if self.seconds is None else f"  {_duration(self.seconds)}"
        why = f"  {' '.join(self.message.split())[:200]}" if self.status == FAILED and self.message else ""
        return f"{self.id:<28} {self.status}{lasted}{why}"


def connect(address: str) -> JobApi:
    """The job API at an address.

    Raises:
        ValueError: Nothing answers there, or the token is missing or wrong.
    """
    if "@" in address or "?" in address or "#" in address:
        raise ValueError(
            "--address must hold no user or password, which would be shown and kept; set RAY_AUTH_TOKEN_PATH to the "
            "file of the cluster's token"
        )
    if not address.startswith(("http://", "https://")):
        raise ValueError(
            f"--address must be that of the cluster's job API, such as http://127.0.0.1:8265, but got {address!r}"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is first imported
    if os.environ["RAY_AUTH_MODE"] == "token" and not has_token(os.environ):
        raise ValueError(
            "a token is needed to reach the cluster, but there is none; set RAY_AUTH_TOKEN_PATH to its file (or "
            "RAY_AUTH_TOKEN to the token itself), or RAY_AUTH_MODE=disabled for a cluster without"
        )
    with plain_errors(address):
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
        client.list_jobs()  # the client looks for the cluster, but a wrong token shows here
    return client


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether Ray will find a token: in the variable, else in the named file, else in `~/.ray/auth_token`."""
    if environment.get("RAY_AUTH_TOKEN", "").strip():
        return True
    path = environment.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")  # noqa: PTH111
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return bool(file.read().strip())
    except OSError:
        return False


@contextmanager
def plain_errors(address: str) -> Iterator[None]:
    """Ray's errors about reaching a cluster, each as one clear ValueError."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        if kind == "AuthenticationError":
            raise ValueError(
                f"the cluster at {address} refuses the token; give the one it was started with, by RAY_AUTH_TOKEN_PATH "
                "or RAY_AUTH_TOKEN"
            ) from None
        if isinstance(error, ConnectionError) or kind in {"ConnectionError", "ConnectTimeout", "ReadTimeout"}:
            raise ValueError(
                f"no Ray job API answers at {address}; is the cluster up, and its dashboard's port forwarded to here?"
            ) from None
        raise


def attempts(api: JobApi, study: str) -> list[Attempt]:
    """All submissions of a study that the cluster remembers, the oldest first."""
    pattern = re.compile(re.escape(study) + r"-(\d+)")
    found = []
    for job in api.list_jobs():
        match = pattern.fullmatch(job.submission_id or "")
        if match:
            found.append(_attempt(job, study, int(match.group(1))))
    return sorted(found, key=lambda attempt: attempt.number)


def studies(api: JobApi) -> list[Attempt]:
    """The last attempt at each study that was submitted by `murk submit`."""
    names = {(job.metadata or {}).get(STUDY_LABEL) for job in api.list_jobs()} - {None}
    return [attempts(api, name)[-1] for name in sorted(map(str, names))]


def _attempt(job: Job, study: str, number: int) -> Attempt:
    status = str(getattr(job.status, "value", job.status))
    end_ms = job.end_time or time.time() * 1000
    seconds = None if not job.start_time else max(0.0, (end_ms - job.start_time) / 1000)
    return Attempt(study, number, status, job.message or "", getattr(job, "driver_exit_code", None), seconds)


def last_attempt(api: JobApi, study: str) -> Attempt:
    """The newest submission of a study.

    Raises:
        ValueError: The cluster knows none.
    """
    found = attempts(api, study)
    if not found:
        known = [attempt.study for attempt in studies(api)]
        there = f"; there are {', '.join(known)}" if known else ""
        raise ValueError(f"no study {study!r} was submitted to this cluster{there}")
    return found[-1]


def next_attempt(api: JobApi, study: str, *, address: str) -> int:
    """The number of the next submission.

    Raises:
        ValueError: The study is under way.
    """
    found = attempts(api, study)
    for attempt in found:
        if not attempt.has_ended:
            raise ValueError(
                f"study {study!r} is under way on this cluster as {attempt.id} ({attempt.status.lower()}); wait for "
                f"it, stop it by `murk jobs stop {study} --address {address}`, or give this one another --name"
            )
    return found[-1].number + 1 if found else 1


def submit(api: JobApi, study: str, number: int, *, command: str, runtime_env: dict[str, Any]) -> Attempt:
    """Hand a study's command to the cluster; waits for the agent that starts jobs, which comes up after the head.

    Raises:
        ValueError: Someone else submitted this attempt at the same moment.
    """
    attempt = Attempt(study, number, "PENDING")
    for wait_s in (*_AGENT_WAITS_S, None):
        try:
            api.submit_job(
                entrypoint=command, submission_id=attempt.id, runtime_env=runtime_env,
                metadata={STUDY_LABEL: study, "murk_attempt": str(number)},
            )  # fmt: skip
        except RuntimeError as error:
            text = str(error)
            if "already exists" in text:
                raise ValueError(
                    f"study {study!r} was submitted by someone else at this moment as {attempt.id}"
                ) from None
            if "No available agent" not in text or wait_s is None:
                raise
            time.sleep(wait_s)
        else:
            break
    return attempt


def follow(api: JobApi, job_id: str, write: Callable[[str], None]) -> Attempt:
    """Write a job's log as it grows until the job ends; a broken connection is taken up again."""
    from aiohttp import ClientError

    shown = 0

    async def tail() -> None:
        nonlocal shown
        position = 0
        async for text in api.tail_job_logs(job_id):
            write(text[max(0, shown - position) :])
            position += len(text)
            shown = max(shown, position)

    study, _, number = job_id.rpartition("-")
    unanswered = 0
    while True:
        found = None
        with suppress(RuntimeError, OSError, ClientError):  # a connection that closed early
            asyncio.run(tail())
        with suppress(OSError):
            found = _attempt(api.get_job_info(job_id), study, int(number))
        if found is None:
            unanswered += 1
            if unanswered == _UNANSWERED:
                raise ValueError(f"the cluster answers no more; the job goes on: murk jobs logs {study} --follow")
            time.sleep(_POLL_S)
            continue
        unanswered = 0
        if found.has_ended:
            rest = api.get_job_logs(job_id)[shown:]
            if rest:
                write(rest)
            return found
        time.sleep(_POLL_S)


def stop(api: JobApi, attempt: Attempt, *, timeout_s: float) -> Attempt:
    """Ask a job to stop and wait until it has: Ray sends SIGTERM, at which running trials save where they stand."""
    if attempt.has_ended:
        raise ValueError(f"study {attempt.study!r} is not under way: {attempt.id} has {attempt.status.lower()}")
    api.stop_job(attempt.id)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = _attempt(api.get_job_info(attempt.id), attempt.study, attempt.number)
        if found.has_ended:
            return found
        time.sleep(_POLL_S)
    raise ValueError(f"{attempt.id} has not stopped within {timeout_s:g} s; look at its log by `murk jobs logs`")


def exit_code(attempt: Attempt) -> int:
    """What a command that followed a job to its end gives back: the job's own code where it has one."""
    if attempt.status == FAILED and attempt.exit_code:
        return attempt.exit_code
    return EXIT_CODES[attempt.status]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
