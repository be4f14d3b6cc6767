"""A study handed to a Ray cluster as a job, checked before anything is sent."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.bundle import MAX_BYTES, make_bundle
from cluster.environment import commit_of, runtime_env
from cluster.jobs import Attempt, JobApi, connect, next_attempt, submit

ROOT = Path(__file__).resolve().parents[1]


class RefusedError(ValueError):
    """The study's own check refused it; the message is that check's."""


@dataclass(frozen=True)
class Wish:
    """What a person asked to submit.

    Attributes:
        study: A study file or a preset's name.
        env: Names of variables to pass on.
        requirements: Packages that Ray installs on each node; None where the nodes have them.
        working_dir: What to send in place of Murk's own rooms.
    """

    study: str
    sets: tuple[str, ...] = ()
    name: str | None = None
    storage: str | None = None
    env: tuple[str, ...] = ()
    requirements: Path | None = None
    working_dir: Path | None = None
    again: bool = False
    options: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        options = [part for item in self.sets for part in ("--set", item)]
        options += ["--name", self.name] if self.name else []
        options += ["--storage", self.storage] if self.storage else []
        object.__setattr__(self, "options", tuple(options))


def submit_study(wish: Wish, *, address: str, say: Callable[[str], None]) -> tuple[JobApi, Attempt]:
    """Check a study, send it and start it; it goes on by itself from here.

    Raises:
        RefusedError: The study file or its places are not fit for a job.
        ValueError: Nothing answers, the token is wrong, the study is under way, or there is too much to send.
    """
    facts = check_locally(wish)
    study = facts["name"]
    with tempfile.TemporaryDirectory(prefix="murk-job-") as folder:
        bundle = make_bundle(
            Path(folder), working_dir=wish.working_dir, study=_study_file(wish.study, study), max_bytes=_max_bytes()
        )
        made = runtime_env(
            folder=bundle.folder, environment=os.environ, names=wish.env, requirements=wish.requirements,
            commit=commit_of(wish.working_dir or ROOT),
        )  # fmt: skip
        api = connect(address)
        number = next_attempt(api, study, address=address)
        say(f"{'submitting' if number == 1 else 'going on with'} {study} on {address}: {bundle.text()}")
        attempt = submit(api, study, number, command=command_of(wish, study), runtime_env=made)
    return api, attempt


def command_of(wish: Wish, study: str) -> str:
    """What the job runs: what a person would type on the cluster."""
    file = f"{study}.yaml" if _study_file(wish.study, study) else wish.study
    again = ["--again"] if wish.again else []
    return shlex.join(["python", "-m", "murk", "run", file, "--address", "auto", *wish.options, *again])


def check_locally(wish: Wish) -> dict[str, Any]:
    """Name and places of the study, as `murk check --as-job` gives them: it reads the file, not the images.

    Raises:
        RefusedError: With that command's own message.
    """
    variables = [part for name in wish.env if name.isidentifier() for part in ("--env", name)]
    command = [sys.executable, "-m", "murk", "check", wish.study, "--as-job", *wish.options, *variables]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode != 0:
        raise RefusedError(done.stderr.strip().removeprefix("murk: ") or f"{shlex.join(command)} failed")
    return json.loads(done.stdout)


def _study_file(study: str, name: str) -> tuple[str, bytes] | None:
    """The file to send, under the study's name; None for a preset, which every copy of Murk has."""
    path = Path(study).expanduser()
    return (f"{name}.yaml", path.read_bytes()) if path.is_file() else None


def _max_bytes() -> int:
    """Ray's own setting of the greatest message raises or lowers what it takes."""
    return int(os.environ.get("RAY_max_grpc_message_size", MAX_BYTES))  # noqa: SIM112 - Ray's own spelling
