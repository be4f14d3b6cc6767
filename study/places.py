"""Where records go: absolute places, resolved before anything starts, and never inside a cache that Ray evicts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

from study.credentials import credential_problems, redact

if TYPE_CHECKING:
    from study.config import TrackingConfig

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
CACHE_VARIABLE = "MURK_CACHE"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's job supervisor sets it for the entry point of a submitted job, and nobody else does. (`RAY_JOB_ID` is set in
every worker process, so it tells nothing.)"""

_RAY_SESSION = re.compile(r"session_(latest|\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}_\d+_\d+)")


@dataclass(frozen=True)
class Places:
    """The places of one study; none depends on the working directory any more.

    Attributes:
        storage: absolute folder or fsspec URL that holds the studies' folders.
        tracking_uri: MLflow server or database; None where the storage is a URL and no server is named.
        cache_dir: absolute folder for decoded images, on the machine that runs a trial.
    """

    storage: str
    tracking_uri: str | None
    cache_dir: Path


def resolve_places(
    tracking: TrackingConfig | None = None,
    *,
    cwd: Path,
    storage: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Places:
    """Resolve where records, MLflow and decoded images go.

    Args:
        tracking: The study's `tracking` section; None where only the place of its records is wanted.
        cwd: What relative places count from.
        storage: In place of `tracking.storage`.
        environment: In place of the process's environment.

    Raises:
        ValueError: A submitted job names no storage place, a place lies in a folder that Ray clears, or a place is of
            a kind that cannot hold what it is for.
    """
    environment = os.environ if environment is None else environment
    refuse_credentials(storage, "--storage")
    if tracking is not None:
        refuse_credentials(tracking.storage, "tracking.storage")
        refuse_credentials(tracking.uri, "tracking.uri")
    named = storage or (tracking.storage if tracking else None)
    if named is None and is_submitted_job(environment, cwd):
        raise ValueError(
            f"tracking.storage must be named in a submitted Ray job, whose working directory may vanish (it is {cwd}); "
            "set tracking.storage (or --storage) to a shared folder or a URL such as s3://bucket/murk"
        )
    place = _absolute_storage(named or "results", cwd)
    uri = tracking.uri if tracking else None
    if uri is not None:
        uri = resolve_tracking(uri, cwd)
    elif "://" not in place:
        uri = f"sqlite:///{place}/mlflow.db"
    elif tracking is not None and tracking.enabled:
        raise ValueError(
            f"tracking.uri must be named where the storage place is a URL, but got storage={redact(place)}: SQLite "
            "cannot live there; name an MLflow server, or set tracking.enabled: false"
        )
    return Places(place, uri, _cache_dir(environment, cwd))


def refuse_credentials(place: str | None, key: str) -> None:
    """A study file is kept with the records, and others see a command's options: no secret in either.

    Args:
        key: What named the place, as the message begins with it.

    Raises:
        ValueError: The place holds a user, a password or a token.
    """
    for problem in credential_problems(place):
        raise ValueError(f"{key} {problem.text}")


def is_submitted_job(environment: Mapping[str, str], cwd: Path) -> bool:
    """Whether this process is the entry point of a `ray job submit`, or stands in the folder that Ray unpacked."""
    return JOB_VARIABLE in environment or _in_ray_session(cwd)


def resolve_tracking(uri: str, cwd: Path) -> str:
    """The tracking URI with a relative SQLite path made absolute.

    Raises:
        ValueError: It is no MLflow server or database, or a database inside a folder that Ray clears.
    """
    scheme, separator, _ = uri.partition("://")
    if uri != "databricks" and (not separator or scheme.partition("+")[0] not in TRACKING_SCHEMES):
        raise ValueError(
            f"tracking.uri must be an MLflow server or a database ({', '.join(TRACKING_SCHEMES)}), but got "
            f"{redact(uri)!r}; a file of your own is sqlite:///PATH/mlflow.db"
        )
    database = sqlite_path(uri)
    if database is None:
        return uri
    if database.name in {"", ":memory:"}:
        raise ValueError(f"tracking.uri must name a database file, sqlite:///PATH/mlflow.db, but got {uri!r}")
    path = _absolute_path(str(database), cwd)
    _refuse_ray_session(path, "tracking.uri")
    return f"{scheme}:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for any other."""
    scheme, _, rest = uri.partition("://")
    return Path(rest[1:]) if scheme.partition("+")[0] == "sqlite" else None


def is_place_anywhere(place: str) -> bool:
    """Whether a storage place or tracking URI means the same in any working directory."""
    database = sqlite_path(place)
    if database is not None:
        return database.is_absolute()
    scheme, separator, rest = place.partition("://")
    if separator and scheme not in {"file", "local"}:
        return True
    return (Path(rest) if separator else Path(place).expanduser()).is_absolute()


def _absolute_storage(named: str, cwd: Path) -> str:
    scheme, separator, rest = named.partition("://")
    if separator and scheme not in {"file", "local"}:
        _check_protocol(scheme)
        return named.rstrip("/")
    folder = _absolute_path(rest if separator else named, cwd)
    _refuse_ray_session(folder, "tracking.storage")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"tracking.storage must be a folder, but {folder} is a file")
    return str(folder)


def _check_protocol(scheme: str) -> None:
    known = fsspec.available_protocols()
    if scheme not in known:
        raise ValueError(f"tracking.storage must be a folder or a URL that fsspec knows, but got {scheme}://; "
                         f"such are s3, gs, abfs, hdfs (of {len(known)})")  # fmt: skip
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ValueError(f"tracking.storage: {scheme}:// needs a package that is not here: {error}") from None


def _absolute_path(named: str, cwd: Path) -> Path:
    return Path(os.path.abspath(cwd / Path(named).expanduser()))  # noqa: PTH100 - resolve() would follow links


def _refuse_ray_session(path: Path, key: str) -> None:
    if _in_ray_session(path):
        raise ValueError(f"{key} must lie outside Ray's session folder, which Ray clears, but got {path}; "
                         "name a shared folder or a URL")  # fmt: skip


def _in_ray_session(path: Path) -> bool:
    return any(_RAY_SESSION.fullmatch(part) for part in (*path.parts, *path.resolve().parts))


def default_cache_dir() -> Path:
    """Where this machine keeps decoded images and copies of remote ones."""
    return _cache_dir(os.environ, Path.cwd())


def _cache_dir(environment: Mapping[str, str], cwd: Path) -> Path:
    if environment.get(CACHE_VARIABLE):
        return _absolute_path(environment[CACHE_VARIABLE], cwd)
    if environment.get("XDG_CACHE_HOME"):
        return _absolute_path(environment["XDG_CACHE_HOME"], cwd) / "murk"
    try:
        return Path.home() / ".cache" / "murk"
    except RuntimeError:  # no home, as in some containers
        return Path(tempfile.gettempdir()) / "murk-cache"
