"""Which code runs: the commit, and whether files were changed since; from the environment or from git."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

COMMIT_VARIABLE = "MURK_COMMIT"
"""`<commit>` or `<commit>-dirty`; set by who ships the code to where its `.git` is not, as a submitted job is."""

UNKNOWN = "unknown"
_ROOT = Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"(?P<commit>[0-9a-f]{7,64})(?P<dirty>-dirty)?")
_GIT_S = 10


class CodeState(NamedTuple):
    """The code of this process.

    Attributes:
        commit: Hexadecimal, or `unknown`.
        dirty: Whether tracked files differ from the commit; None where that is unknown.
    """

    commit: str
    dirty: bool | None

    def as_dict(self) -> dict[str, str | bool | None]:
        """A JSON-able dict, as events hold it."""
        return self._asdict()


def code_state(environment: Mapping[str, str] | None = None, *, root: Path | None = None) -> CodeState:
    """The commit of Murk's code: by `MURK_COMMIT` first, then by git where Murk lies in a checkout of its own.

    Raises:
        ValueError: MURK_COMMIT is no commit.
    """
    environment = os.environ if environment is None else environment
    named = environment.get(COMMIT_VARIABLE)
    if named in (None, "", UNKNOWN):
        return _by_git(root or _ROOT)
    found = _NAMED.fullmatch(named)
    if found is None:
        raise ValueError(
            f"{COMMIT_VARIABLE} must be a commit in hexadecimal, with -dirty behind it where files were changed, but "
            f"got {named[:80]!r}; leave it out where the commit is not known"
        )
    return CodeState(found["commit"], found["dirty"] is not None)


def commit_variable(state: CodeState | None = None) -> dict[str, str]:
    """The environment that tells a job shipped without `.git` which code it is."""
    state = state or code_state()
    return {} if state.commit == UNKNOWN else {COMMIT_VARIABLE: state.commit + ("-dirty" if state.dirty else "")}


@lru_cache(maxsize=8)
def _by_git(root: Path) -> CodeState:
    # A package installed below someone else's checkout is no part of it: its files are not tracked there.
    if _git(root, "ls-files", "--error-unmatch", "--", "study/codestate.py") is None:
        return CodeState(UNKNOWN, None)
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return CodeState(UNKNOWN, None)
    return CodeState(commit.strip(), bool(changed.strip()))


def _git(root: Path, *words: str) -> str | None:
    """What git answers; None where there is no git, no checkout, or it refuses."""
    # No lock is taken, so that trials which start at once do not trouble each other or the person at the keyboard.
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
