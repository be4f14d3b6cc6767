"""The files that a submitted job takes along: few, measured, and none that looks like a secret."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOMS = ("noise", "models", "study", "analysis", "cluster")
MAX_BYTES = 512 * 2**20
"""Ray 2.60 takes no larger package (`GCS_STORAGE_MAX_SIZE`, the greatest message of its gRPC)."""

SECRETS = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", "id_ecdsa*", ".netrc",
    ".pgpass", ".pypirc", ".npmrc", ".git-credentials", "auth_token", "kubeconfig", "*.kubeconfig", "credentials",
    "credentials.json", "service-account*.json", "secrets.y*ml", ".aws", ".ssh", ".kube", ".gnupg", ".docker",
)  # fmt: skip
"""Names of files and folders that are never sent: a package lies readable on the head and on every node."""

_NEVER = ("__pycache__", "*.pyc", ".git")
_RULES = (".gitignore", ".rayignore")
_SHOWN = 5
_SILENT = logging.getLogger("murk.bundle")
_SILENT.setLevel(logging.ERROR)  # Ray tells of every ignore file


@dataclass(frozen=True)
class Bundle:
    """A folder made to be sent.

    Attributes:
        folder: Holds copies of the files and nothing else.
        sizes: Relative path -> bytes.
        left_out: Relative paths of what looked like secrets.
    """

    folder: Path
    sizes: dict[str, int]
    left_out: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())

    def text(self) -> str:
        """What is sent, for a person to read."""
        secrets = f"; left out as they look like secrets: {', '.join(self.left_out[:_SHOWN])}" if self.left_out else ""
        more = f" and {len(self.left_out) - _SHOWN} more" if len(self.left_out) > _SHOWN else ""
        return f"{len(self.sizes)} files, {_mib(self.num_bytes)}{secrets}{more}"


def make_bundle(
    folder: Path, *, working_dir: Path | None, study: tuple[str, bytes] | None = None, max_bytes: int = MAX_BYTES
) -> Bundle:
    """Copy what a job needs into an empty folder.

    Args:
        working_dir: What to send, by its .gitignore and .rayignore; None for Murk's own rooms alone.
        study: Name and content of a study file to lay beside them.

    Raises:
        ValueError: The working directory is none, or all of it is more than Ray takes; nothing is copied then.
    """
    if working_dir is not None and not working_dir.is_dir():
        raise ValueError(f"--working-dir must be a folder, but got {str(working_dir)!r}")
    root = (working_dir or Path(__file__).resolve().parents[1]).resolve()
    found, left_out = _found(root, tops=None if working_dir else (*ROOMS, "murk.py"))
    sizes = {name: (root / name).stat().st_size for name in found}
    if study is not None:
        sizes[study[0]] = len(study[1])
    _refuse_large(sizes, root, max_bytes)
    for name in found:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
    if study is not None:
        (folder / study[0]).write_bytes(study[1])
    return Bundle(folder, dict(sorted(sizes.items())), left_out)


def looks_secret(name: str) -> bool:
    """Whether a file or folder of this name is never sent."""
    return any(fnmatch(name.lower(), pattern) for pattern in SECRETS)


def _found(root: Path, *, tops: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """Relative paths of the files to send, and of what looks like secrets."""
    secrets: list[str] = []
    starts = [root] if tops is None else [root / name for name in tops]
    files = [path for start in starts for path in _walk(start, root, (), secrets)]
    return [path.relative_to(root).as_posix() for path in files], tuple(sorted(secrets))


def _walk(path: Path, root: Path, rules: tuple[Callable[[Path], bool], ...], secrets: list[str]) -> Iterator[Path]:
    """The files at and below a path. Ignore files count for their own folder and below, as Ray reads them."""
    if path != root and any(fnmatch(path.name, pattern) for pattern in (*_NEVER, *_RULES)):
        return
    if path != root and any(rule(path) for rule in rules):
        return
    if path != root and looks_secret(path.name):
        secrets.append(path.relative_to(root).as_posix())
        return
    if path.is_file():
        yield path
    elif path.is_dir() and not path.is_symlink():
        rules = (*rules, *_ignore_rules(path))
        for entry in sorted(path.iterdir()):
            yield from _walk(entry, root, rules, secrets)


def _ignore_rules(folder: Path) -> list[Callable[[Path], bool]]:
    if not any((folder / name).is_file() for name in _RULES):
        return []
    # Ray's own reading of the rules, so that both ways to submit send the same files.
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    is_git_read = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    return list(get_excludes_from_ignore_files(folder, include_gitignore=is_git_read, logger=_SILENT))


def _refuse_large(sizes: dict[str, int], root: Path, max_bytes: int) -> None:
    total = sum(sizes.values())
    if total < max_bytes:
        return
    places: dict[str, int] = {}
    for name, size in sizes.items():
        top = name.split("/")[0]
        places[top] = places.get(top, 0) + size
    largest = sorted(places.items(), key=lambda item: -item[1])[:_SHOWN]
    shown = ", ".join(f"{name} {_mib(size)}" for name, size in largest)
    raise ValueError(
        f"--working-dir must hold less than {_mib(max_bytes)}, which is what Ray takes, but {root} holds "
        f"{_mib(total)}: {shown}; name what is not needed in {root}/.rayignore, and keep images on shared storage"
    )


def _mib(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"
