"""A job's runtime environment: variables asked for by name, packages by a requirements file, and the code's commit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMIT_VARIABLE = "MURK_COMMIT"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STOP_WAIT_S = 120
_PASSED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Ray kills a job 3 s after it asked it to stop; running trials need longer to save where they stand.
    "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S),
}
_ON_THE_NODES = ("ray",)
"""Packages that a node has from its image: Ray refuses another version of itself."""


def runtime_env(
    *,
    folder: Path,
    environment: Mapping[str, str],
    names: Sequence[str] = (),
    requirements: Path | None = None,
    commit: str | None = None,
) -> dict[str, Any]:
    """What Ray is told about a job's surroundings.

    Args:
        folder: The working directory to send.
        environment: Where the variables' values are taken from.
        names: Variables to pass on; no other is.
        requirements: Packages that Ray installs on each node; None where its image has them.

    Raises:
        ValueError: A variable is not set or badly named, or the requirements cannot be read.
    """
    made: dict[str, Any] = {"working_dir": str(folder)}
    variables = dict(_PASSED) | ({COMMIT_VARIABLE: commit} if commit else {})
    made["env_vars"] = variables | _variables(names, environment)
    if requirements is not None:
        made["pip"] = {"packages": packages_of(requirements), "pip_check": False}
    return made


def _variables(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    for name in names:
        if not _NAME.fullmatch(name):
            shown = name.partition("=")[0]
            raise ValueError(
                f"--env must be the name of a variable, whose value is taken from here, but got {shown!r}"
                f"{' with a value' if '=' in name else ''}; set it first, then: --env {shown}"
            )
        if name not in environment:
            raise ValueError(f"--env {name} must be set here, but there is no such variable; set it, or leave it out")
    return {name: environment[name] for name in names}


def packages_of(path: Path) -> list[str]:
    """The lines of a requirements file, each with its hashes, without comments and what the nodes have.

    Raises:
        ValueError: There is no such file, or it names other files.
    """
    if not path.is_file():
        raise ValueError(f"--requirements must be a file such as requirements.lock, but got {str(path)!r}")
    joined = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()]
    for line in lines:
        if line.startswith("-"):
            raise ValueError(f"--requirements must name packages only, but {path} has the line {line!r}; take it out")
    return [line for line in lines if line and _package(line) not in _ON_THE_NODES]


def _package(line: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return found.group().lower().replace("_", "-") if found else line


def commit_of(folder: Path) -> str | None:
    """The commit of a working tree, with `-dirty` where files differ from it; None where there is no git."""
    found = _git(folder, "rev-parse", "HEAD")
    if found is None or _git(folder, "ls-files", "--error-unmatch", "murk.py") is None:
        return None  # nobody's repository, or one that merely lies around an installed Murk
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{found}-dirty" if changed else found


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
