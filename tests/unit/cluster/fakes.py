"""A job API without a cluster."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any


class FakeApi:
    """Keeps what is submitted; `log` is what each job writes."""

    def __init__(self, *jobs: tuple[str, str], log: str = "") -> None:
        self.jobs = {name: self._job(name, status) for name, status in jobs}
        self.log = log
        self.submitted: list[dict[str, Any]] = []
        self.refusals: list[str] = []
        self.breaks = 0

    @staticmethod
    def _job(name: str, status: str, **more: Any) -> SimpleNamespace:
        facts = {"message": "", "start_time": 1000, "end_time": 63_000, "driver_exit_code": None}
        metadata = {"murk_study": name.rpartition("-")[0]}
        return SimpleNamespace(submission_id=name, status=status, metadata=metadata, **{**facts, **more})

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> Any:
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return self.log

    def stop_job(self, job_id: str) -> bool:
        self.jobs[job_id].status = "STOPPED"
        return True

    def submit_job(self, **settings: Any) -> str:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        self.submitted.append(settings)
        self.jobs[settings["submission_id"]] = self._job(settings["submission_id"], "PENDING")
        return settings["submission_id"]

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        half = len(self.log) // 2
        yield self.log[:half]
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("the connection closed")
        yield self.log[half:]
        self.jobs[job_id].status = "SUCCEEDED"
