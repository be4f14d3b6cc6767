"""Images at a URL, copied once to each machine: whole or not at all, by one process while the others wait.

A server is asked at each use, as other images may lie there. One that is away for a moment is asked again; one that
stays away does not matter to who has a whole copy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import posixpath
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import fsspec

from study.data.cache import locked
from study.data.hashing import digest
from study.places import default_cache_dir, redact

_log = logging.getLogger("murk")
_MANIFEST = "manifest.json"
_SUMS = "SHA256SUMS"
_TAGS = ("ETag", "etag", "md5Hash", "md5", "checksum", "mtime", "LastModified", "last_modified", "updated", "created")
"""By what file systems tell that a file is another than before."""

_OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_CHUNK_BYTES = 8 * 2**20
_TRIES = 3
_WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Between two tries to reach a server."""
_PASSING = (408, 429)
"""Web servers' answers that another try may change, besides those from 500 on."""


class _AwayError(ValueError):
    """A server does not answer, or not now."""


class _Remote(NamedTuple):
    """What lies at a URL: (relative name -> size in bytes, None where the server does not say), and its identity."""

    files: Any
    root: str
    sizes: dict[str, int | None]
    name: str
    is_file: bool


def is_remote(place: str) -> bool:
    """Whether a place is a URL of another machine."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and scheme not in {"file", "local"}


def staged(place: str, cache_dir: Path | None = None) -> str:
    """The local path of a place: of a URL its copy, made where it is missing; a local path stays as it is.

    The copy is named by the URL, the files' names and sizes, and what the server says of their age or content, so other
    files at the same URL are copied anew. A file's SHA-256 is compared where the place has one: `SHA256SUMS` in a
    folder, `FILE.sha256` beside a file. Where the server stays away, the last copy that was seen to be the place's is
    taken, and the log says so; whether its images are a study's own is told by their fingerprint.

    Args:
        place: A path, or a URL that fsspec knows.
        cache_dir: Folder for copies, on this machine; left out: Murk's own cache.

    Raises:
        ValueError: Nothing is there or answers, the URL holds credentials, or the copy is not what the place holds.
    """
    if not is_remote(place):
        return place.partition("://")[2] if "://" in place else place
    if redact(place) != place:
        raise ValueError(f"must hold no user, password or token, but got {redact(place)}; give them by the environment")
    cache_dir = Path(cache_dir or default_cache_dir()).expanduser().resolve()
    last = cache_dir / "staged" / f"{digest('staged', place)}.last"
    try:
        remote = _look(place)
    except _AwayError as error:
        copy = _last_copy(last)
        if copy is None:
            raise
        _log.warning("%s; its images are read from the copy that was made of it, %s", error, copy)
        return str(copy)
    folder = cache_dir / "staged" / remote.name
    if not _is_whole(folder):
        with locked(cache_dir / "locks" / f"staged-{remote.name}"):  # the kernel frees it when its holder dies
            if not _is_whole(folder):
                _stage(remote, folder, place)
    copy = folder / "files" / _base(remote.root) if remote.is_file else folder / "files"
    _remember(last, copy)
    return str(copy)


def _remember(last: Path, copy: Path) -> None:
    """Keep which copy of a place is its last; a cache that cannot be written to serves without it."""
    text = str(copy.relative_to(last.parent))
    try:
        if not last.is_file() or last.read_text() != text:
            temporary = last.with_name(f".{last.name}-{uuid4().hex}")
            temporary.write_text(text)
            temporary.replace(last)
    except OSError as error:
        _log.info("which copy is the last of its place cannot be kept: %s", error)


def _last_copy(last: Path) -> Path | None:
    """The copy that was last seen to be a place's, where it is whole."""
    if not last.is_file():
        return None
    name = Path(last.read_text())
    return last.parent / name if name.parts and _is_whole(last.parent / name.parts[0]) else None


def _look(place: str) -> _Remote:
    """What lies at a URL, without reading it; a server that is away is asked again, some seconds long.

    Raises:
        ValueError: Nothing is there, or it is refused; `_AwayError` where the server did not answer to the end.
    """
    for wait_s in _WAITS_S:
        try:
            return _look_once(place)
        except _AwayError as error:
            _log.info("%s; asking again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    return _look_once(place)


def _look_once(place: str) -> _Remote:
    try:
        files, root = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{place} must be a URL that fsspec can open here, but {error}") from None
    try:
        # A web server has no folders, and fsspec would follow the links of a page.
        is_file = place.startswith(("http://", "https://")) or files.isfile(root)
        found = {root: files.info(root)} if is_file else files.find(root, detail=True)
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec says the same of a web server that does not answer
        status = getattr(cause, "status", 404)
        if status >= 500 or status in _PASSING:
            raise _AwayError(f"{place} cannot be reached (its server answers with status {status})") from None
        if status != 404:
            raise ValueError(f"{place} is refused by its server (status {status})") from None
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise _AwayError(f"{place} cannot be reached ({type(cause).__name__}: {cause})") from None
        raise ValueError(f"{place} must be a file or folder, but there is none") from None
    except PermissionError as error:
        raise ValueError(f"{place} is refused by its server ({error})") from None
    except Exception as error:  # each file system has errors of its own
        raise _AwayError(f"{place} cannot be reached ({type(error).__name__}: {error})") from error
    if not found:
        raise ValueError(f"{place} must be a file or folder, but there is none")
    prefix = posixpath.dirname(root.rstrip("/")) if is_file else root.rstrip("/")
    infos = {
        name.removeprefix(prefix).lstrip("/") if not is_file else _base(root): item for name, item in found.items()
    }
    for name in infos:
        if ".." in name.split("/") or name.startswith("/"):
            raise ValueError(f"{place} must hold files of plain names, but one is {name!r}")
    facts = {name: [item.get("size"), *_tags(item)] for name, item in sorted(infos.items())}
    sizes = {name: values[0] for name, values in facts.items()}
    return _Remote(files, root, sizes, digest("staged", place, json.dumps(facts)), is_file)


def _tags(info: Mapping[str, Any]) -> list[str]:
    return [str(info[tag]) for tag in _TAGS if info.get(tag) is not None]


def _base(root: str) -> str:
    return posixpath.basename(root.rstrip("/").partition("?")[0]) or "file"


def _is_whole(folder: Path) -> bool:
    """Whether a copy is there as it was made; its files' sizes tell."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return all((folder / "files" / name).stat().st_size == item["size"] for name, item in manifest.items())
    except FileNotFoundError:
        return False


def _stage(remote: _Remote, folder: Path, place: str) -> None:
    """Copy beside the folder and put it in place when it is whole; only the holder of the lock comes here."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{remote.name}-*"):  # of one that was killed
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists():
        _log.warning("the copy of %s in %s was damaged; it is made anew", place, folder)
        shutil.rmtree(folder)
    temporary = folder.parent / f".{remote.name}-{uuid4().hex}"
    try:
        manifest = {name: _copy(remote, name, temporary / "files" / name, place) for name in remote.sizes}
        _check_sums(remote, manifest, place)
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(remote: _Remote, name: str, target: Path, place: str) -> dict[str, Any]:
    """Copy one file; gives its size and SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = remote.root if remote.is_file else posixpath.join(remote.root, name)
    for left in reversed(range(_TRIES)):
        if left < _TRIES - 1:
            time.sleep(_WAITS_S[left])
        try:
            fact = _copy_once(remote.files, source, target)
        except FileNotFoundError:
            raise ValueError(f"{place} changed while it was copied: {name} is no longer there; start again") from None
        except OSError as error:
            if error.errno in _OWN_DISK:
                raise
            if not left:
                raise ValueError(f"{place} broke off at {name} ({type(error).__name__}: {error})") from error
        except Exception as error:
            if not left:
                raise ValueError(f"{place} broke off at {name} ({type(error).__name__}: {error})") from error
        else:
            if remote.sizes[name] in (None, fact["size"]):
                return fact
            if not left:
                raise ValueError(
                    f"{place} must be copied whole, but {name} has {remote.sizes[name]:,} bytes there and "
                    f"{fact['size']:,} came; look at the server, or wait until the file is no longer written"
                )
    raise AssertionError


def _copy_once(files: Any, source: str, target: Path) -> dict[str, Any]:
    state, size = hashlib.sha256(), 0
    with files.open(source, "rb") as stream, target.open("wb") as file:
        while chunk := stream.read(_CHUNK_BYTES):
            state.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return {"size": size, "sha256": state.hexdigest()}


def _check_sums(remote: _Remote, manifest: Mapping[str, Mapping[str, Any]], place: str) -> None:
    """Compare with the sums that lie at the place, if any."""
    sums = f"{remote.root}.sha256" if remote.is_file else posixpath.join(remote.root, _SUMS)
    try:
        lines = remote.files.cat_file(sums).decode().splitlines()
    except (OSError, UnicodeDecodeError):  # none is there
        return
    for line in lines:
        wanted, _, name = line.strip().partition(" ")
        name = next(iter(manifest)) if remote.is_file else name.strip().removeprefix("*").removeprefix("./")
        found = manifest.get(name)
        if found is None or (wanted.lower() != found["sha256"]):
            got = "there is no such file" if found is None else f"its SHA-256 is {found['sha256'][:12]}..."
            raise ValueError(
                f"{place} must hold what {posixpath.basename(sums)} says, {name} with SHA-256 {wanted[:12]}..., but "
                f"{got}; upload it again"
            )
